package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// residentBytes sums VmRSS and Pss over the processes. Pages that they share
// count once for each in the first, and by share in the second.
func residentBytes(pids []int) (rss, pss int64) {
	for _, pid := range pids {
		rss += kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
		pss += kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
	}
	return rss, pss
}

// kilobytes finds a line "KEY N kB" of a file in /proc, and gives bytes.
func kilobytes(file, key string) int64 {
	b, _ := os.ReadFile(file)
	for line := range bytes.Lines(b) {
		fields := bytes.Fields(line)
		if len(fields) >= 2 && string(fields[0]) == key {
			n, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			return n << 10
		}
	}
	return 0
}

// A memoryGroup is a memory cgroup for one watcher. What the kernel holds for
// the watcher is charged to it too, BPF maps among it (since Linux 5.11).
type memoryGroup struct {
	dir   string
	usage string // the file that says how much is charged
}

const (
	usageV1 = "memory.usage_in_bytes"
	usageV2 = "memory.current"
)

var errNoMemoryCgroup = errors.New("no memory cgroup hierarchy")

// memoryHierarchy finds where groups can be made, and the name of the file that
// holds what is charged to one.
func memoryHierarchy() (dir, usage string, err error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", "", fmt.Errorf("list mounts: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		switch {
		case len(f) < 4:
		case f[2] == "cgroup" && hasOption(f[3], "memory"):
			return f[1], usageV1, nil
		case f[2] == "cgroup2" && delegates(f[1], "memory"):
			return f[1], usageV2, nil
		}
	}
	return "", "", errNoMemoryCgroup
}

func hasOption(options, name string) bool {
	for o := range strings.SplitSeq(options, ",") {
		if o == name {
			return true
		}
	}
	return false
}

// delegates says whether the children of a v2 cgroup have the controller.
func delegates(dir, controller string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	return err == nil && bytes.Contains(b, []byte(controller))
}

func newMemoryGroup() (*memoryGroup, error) {
	root, usage, err := memoryHierarchy()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(root, "rmagent-bench-")
	if err != nil {
		return nil, fmt.Errorf("make memory cgroup: %w", err)
	}
	return &memoryGroup{dir: dir, usage: usage}, nil
}

func (g *memoryGroup) procs() string { return filepath.Join(g.dir, "cgroup.procs") }

// current is the number of bytes charged to the group.
func (g *memoryGroup) current() (int64, error) {
	b, err := os.ReadFile(filepath.Join(g.dir, g.usage))
	if err != nil {
		return 0, fmt.Errorf("read charged memory: %w", err)
	}
	return strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
}

// remove kills what is left in the group, and removes it. A group stays busy for
// a moment after its last process has been reaped.
func (g *memoryGroup) remove() error {
	for range 50 {
		b, _ := os.ReadFile(g.procs())
		for _, field := range bytes.Fields(b) {
			if pid, err := strconv.Atoi(string(field)); err == nil {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		err := os.Remove(g.dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("remove memory cgroup %s: still busy", g.dir)
}
