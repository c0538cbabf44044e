package sampletest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// truth is what /proc says of a process: fields that are known there, by name.
type truth struct {
	start  uint64
	comm   string
	state  byte
	kernel bool
	value  map[sample.Field]uint64
	// cpu is in ticks, as the sum of two numbers that were each rounded down.
	cpuTicks uint64
	// ran is for how many nanoseconds its threads were on a CPU; 0 where the kernel does
	// not say (CONFIG_SCHED_INFO).
	ran uint64
}

// stood tells whether a process did nothing between two readings.
func stood(before, after truth) bool {
	return before.cpuTicks == after.cpuTicks && before.ran == after.ran
}

// readTruth reads /proc/PID with another parser than the fallback's. It is false
// where the process ended meanwhile.
func readTruth(pid int32) (truth, bool) {
	proc, err := procfs.NewProc(int(pid))
	if err != nil {
		return truth{}, false
	}
	stat, err := proc.Stat()
	if err != nil {
		return truth{}, false
	}
	status, err := proc.NewStatus()
	if err != nil {
		return truth{}, false
	}
	limits, err := proc.Limits()
	if err != nil {
		return truth{}, false
	}
	t := truth{
		start:    stat.Starttime,
		comm:     stat.Comm,
		state:    stat.State[0],
		kernel:   stat.Flags&0x00200000 != 0, // PF_KTHREAD
		cpuTicks: uint64(stat.UTime + stat.STime),
		ran:      sumTasks(pid, 0),
		value: map[sample.Field]uint64{
			sample.PPID:        uint64(stat.PPID),
			sample.UID:         status.UIDs[0],
			sample.NSPID:       status.NSpids[len(status.NSpids)-1],
			sample.Threads:     uint64(stat.NumThreads),
			sample.FDLimit:     limits.OpenFiles,
			sample.RSSAnon:     status.RssAnon,
			sample.RSSFile:     status.RssFile,
			sample.RSSShmem:    status.RssShmem,
			sample.RSSPeak:     status.VmHWM,
			sample.Swap:        status.VmSwap,
			sample.Virtual:     uint64(stat.VSize),
			sample.MinorFaults: uint64(stat.MinFlt),
			sample.MajorFaults: uint64(stat.MajFlt),
		},
	}
	if n, err := proc.FileDescriptorsLen(); err == nil {
		t.value[sample.FDOpen] = uint64(n)
	}
	if io, err := proc.IO(); err == nil {
		t.value[sample.IORead] = io.RChar
		t.value[sample.IOWritten] = io.WChar
		t.value[sample.DiskRead] = io.ReadBytes
		t.value[sample.DiskWritten] = io.WriteBytes
	}
	return t, true
}

// fieldOf returns a process's value of a field that truth may have.
func fieldOf(p *sample.Process, f sample.Field) uint64 {
	switch f {
	case sample.PPID:
		return uint64(p.PPID)
	case sample.UID:
		return uint64(p.UID)
	case sample.NSPID:
		return uint64(p.NSPID)
	}
	return *f.Info().At(p)
}

// kernelHas reports whether this kernel is at least of a version.
func kernelHas(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var a, b int
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b)
	return a > major || a == major && b >= minor
}

// procPIDs lists /proc.
func procPIDs(t testing.TB) (pids []int32) {
	t.Helper()
	dir, err := os.Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if n, err := strconv.ParseInt(name, 10, 32); err == nil {
			pids = append(pids, int32(n))
		}
	}
	return pids
}

// smaps returns what the page tables of a process map: the truth of its RSS. It is
// false where the process is gone, or one that may not be looked into.
func smaps(pid int32) (rss, anon uint64, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, false
	}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		var kib uint64
		fmt.Sscan(rest, &kib)
		switch name {
		case "Rss":
			rss = kib << 10
		case "Anonymous":
			anon = kib << 10
		}
	}
	return rss, anon, true
}

// sumTasks sums one number of every thread's schedstat: 0 is the time it ran, 1
// the time it waited to.
func sumTasks(pid int32, column int) (sum uint64) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid)) // the pattern is well-formed
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // that thread ended
		}
		var v [3]uint64
		fmt.Sscan(string(b), &v[0], &v[1], &v[2])
		sum += v[column]
	}
	return sum
}

// awaitZombie waits until a child has ended, and leaves it unreaped.
func awaitZombie(t testing.TB, pid int32) {
	t.Helper()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, int(pid), &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
}

// awaitChild waits until a process's first thread has a child.
func awaitChild(t testing.TB, pid int32) {
	t.Helper()
	for {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if err != nil {
			t.Fatal(err)
		}
		if len(children) > 0 {
			return
		}
		runtime.Gosched()
	}
}

// awaitState waits until /proc says that a process is in a state.
func awaitState(t testing.TB, pid int32, want byte) {
	t.Helper()
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		if _, after, ok := bytes.Cut(b[bytes.LastIndexByte(b, ')'):], []byte(") ")); ok && after[0] == want {
			return
		}
		runtime.Gosched()
	}
}
