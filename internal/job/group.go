package job

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/record"
)

// group is a cgroup (version 2) of a job's own, below this process's. It counts the
// CPU time of all that was in it, and ends it whole; it limits nothing.
type group struct {
	dir string
	fd  int
}

// errNoGroup means that no cgroup can be made here.
var errNoGroup = errors.New("no cgroup of version 2 to make one in")

// newGroup makes a cgroup, where this user may: as root, or in what a service manager
// left to a user.
func newGroup() (*group, error) {
	parent, err := ownGroup()
	if err != nil {
		return nil, err
	}
	return newGroupIn(parent)
}

func newGroupIn(parent string) (*group, error) {
	dir := filepath.Join(parent, "rmagent-job-"+rand.Text())
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	g := &group{dir: dir}
	var err error
	if g.fd, err = unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_PATH, 0); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	// Who may make a cgroup may not yet move processes there (cgroups(7), delegation),
	// and without cgroup.kill (5.14) it is worth less than a walk over the children.
	for _, need := range []string{filepath.Join(parent, "cgroup.procs"), filepath.Join(dir, "cgroup.kill")} {
		if unix.Access(need, unix.W_OK) != nil {
			return nil, errors.Join(errNoGroup, g.remove())
		}
	}
	return g, nil
}

// ownGroup is the directory of this process's cgroup of version 2.
func ownGroup() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			dir := filepath.Join(mount, path)
			if unix.Access(filepath.Join(dir, "cgroup.controllers"), unix.R_OK) == nil {
				return dir, nil
			}
		}
	}
	return "", errNoGroup
}

// take has a command begin in the group.
func (g *group) take(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = g.fd
}

// pids returns who is in the group, or in one that was made below it.
func (g *group) pids() (list []int32, err error) {
	err = filepath.WalkDir(g.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			return nil
		}
		var b []byte
		if err == nil {
			b, err = os.ReadFile(filepath.Join(path, "cgroup.procs"))
		}
		switch {
		case ended(err) || errors.Is(err, unix.ENODEV): // the group below was removed meanwhile
			return nil
		case errors.Is(err, unix.EOPNOTSUPP): // a threaded one, whose processes the one above has
			return nil
		case err != nil:
			return err
		}
		for word := range bytes.FieldsSeq(b) {
			if n, err := strconv.ParseInt(string(word), 10, 32); err == nil && n > 0 {
				list = append(list, int32(n))
			}
		}
		return nil
	})
	return list, err
}

// read adds what the kernel tells of the group.
func (g *group) read(dst *Reading) {
	if b, err := os.ReadFile(filepath.Join(g.dir, "cpu.stat")); err == nil {
		t := &dst.Totals
		for name, to := range map[string]*time.Duration{"usage_usec": &t.CPU, "user_usec": &t.User, "system_usec": &t.System} {
			if n, ok := statField(b, name); ok {
				*to = time.Duration(n) * time.Microsecond
			}
		}
	}
	number := func(name string) (uint64, bool) {
		b, err := os.ReadFile(filepath.Join(g.dir, name))
		if err != nil {
			return 0, false
		}
		n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
		return n, err == nil
	}
	dst.Group.MemoryPeak = record.SomeIf(number("memory.peak"))
	dst.Group.SwapPeak = record.SomeIf(number("memory.swap.peak"))
	if b, err := os.ReadFile(filepath.Join(g.dir, "memory.events")); err == nil {
		dst.Totals.OOMKills, _ = statField(b, "oom_kill")
	}
}

// statField returns a number of a flat keyed file (Documentation/admin-guide/cgroup-v2.rst).
func statField(b []byte, name string) (uint64, bool) {
	for line := range bytes.Lines(b) {
		key, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte{' '})
		if string(key) == name {
			n, err := strconv.ParseUint(string(value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// kill ends every process of the group; those that fork meanwhile can't escape
// (cgroup.kill, since 5.14).
func (g *group) kill() error {
	return os.WriteFile(filepath.Join(g.dir, "cgroup.kill"), []byte("1"), 0)
}

// emptyTime is how long a group that has just been left is waited for: who died is in it
// until its last thread has been taken off its CPU (cgroups(7), EBUSY of rmdir).
const emptyTime = time.Second

// remove removes the group, and those that were made below it, once they are empty.
func (g *group) remove() error {
	unix.Close(g.fd)
	g.fd = -1
	var dirs []string
	filepath.WalkDir(g.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	deadline := time.Now().Add(emptyTime)
	var err error
	for i := len(dirs) - 1; i >= 0; i-- {
		for err = os.Remove(dirs[i]); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); err = os.Remove(dirs[i]) {
			time.Sleep(time.Millisecond)
		}
	}
	return err
}
