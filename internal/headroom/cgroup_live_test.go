package headroom

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/cgrouptest"
	"rmagent/record"
)

// newMemoryCgroup makes a cgroup with a memory limit.
func newMemoryCgroup(t *testing.T, limit uint64) *cgrouptest.Cgroup {
	t.Helper()
	needRoot(t)
	g := cgrouptest.New(t)
	if !g.Has("memory.max") {
		t.Skip("no memory controller")
	}
	g.Limit("memory.max", limit)
	return g
}

// TestDrivenIntoMemoryMax names the cgroup that kills, a grandparent, before it
// does.
func TestDrivenIntoMemoryMax(t *testing.T) {
	const limit = 96 << 20
	g := newMemoryCgroup(t, limit)
	inner := g.Child("inner").Child("innermost")
	inner.Limit("memory.max", 1<<30)
	r := openReader(t)
	c := start(t, "touch")
	inner.Add(c.Process.Pid)
	c.take(80 << 20)
	h := c.read(r)
	l := h.FirstInSpace
	if l == nil || l.Name != "memory.max" || l.Scope != "cgroup "+g.Path() || l.Limit.Or(0) != limit {
		t.Fatalf("first in space: %+v", l)
	}
	if !strings.HasPrefix(l.Consequence, "OOM kill") || !strings.Contains(l.Consequence, g.Path()) {
		t.Errorf("consequence %q", l.Consequence)
	}
	c.Say("end")
	c.diesOf(unix.SIGKILL) // by the OOM killer
}

// TestPageCacheIsNotUsed: what the kernel can drop is available.
func TestPageCacheIsNotUsed(t *testing.T) {
	const limit = 128 << 20
	g := newMemoryCgroup(t, limit)
	r := openReader(t)
	// A file on the root filesystem, which must not be memory itself.
	var fs unix.Statfs_t
	dir := t.TempDir()
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC || fs.Type == 0x858458f6 { // RAMFS_MAGIC
		t.Skip("all filesystems here are memory")
	}
	c := start(t, "write "+filepath.Join(dir, "file"))
	g.Add(c.Process.Pid)
	c.take(200 << 20) // more than the limit goes through the cache
	l := find(t, c.read(r), "memory.max", "cgroup "+g.Path())
	if used := l.Used.Or(1e18); used > 24<<20 {
		t.Errorf("%v bytes are used, after writing a file", used)
	}
}

// TestDrivenIntoMemoryHigh: throttled before memory.max, and not killed.
func TestDrivenIntoMemoryHigh(t *testing.T) {
	g := newMemoryCgroup(t, 256<<20)
	if !g.Has("memory.high") {
		t.Skip("version 1 has no memory.high")
	}
	g.Limit("memory.high", 64<<20)
	r := openReader(t)
	c := start(t, "touch")
	g.Add(c.Process.Pid)
	c.take(56 << 20)
	l := c.read(r).FirstInSpace
	if l == nil || l.Name != "memory.high" || !strings.HasPrefix(l.Consequence, "throttling") {
		t.Fatalf("first in space: %+v", l)
	}
	before := highEvents(t, g)
	c.take(66 << 20)
	if after := highEvents(t, g); after <= before {
		t.Errorf("memory.events: high %d, then %d", before, after)
	}
	if l := c.read(r).FirstInSpace; l.Name != "memory.high" || l.Available.Or(1) != 0 || l.UsedRatio.Or(0) != 1 {
		t.Errorf("above it: %+v", l)
	}
}

func highEvents(t *testing.T, g *cgrouptest.Cgroup) uint64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(g.Dir("memory"), "memory.events"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "high "); ok {
			n, _ := strconv.ParseUint(v, 10, 64)
			return n
		}
	}
	t.Fatalf("memory.events: %q", b)
	return 0
}

// burnBetween reads a helper before and after it took CPU time.
func burnBetween(t *testing.T, r *Reader, c *child, milliseconds uint64) record.Headroom {
	t.Helper()
	before := c.facts(r)
	c.take(milliseconds)
	return Evaluate(before, c.facts(r))
}

func TestDrivenIntoCPUMax(t *testing.T) {
	needRoot(t)
	g := cgrouptest.New(t)
	if !g.Has("cpu.max") {
		t.Skip("no cpu controller with quotas")
	}
	g.Limit("cpu.max", 10000) // a tenth of a core
	r := openReader(t)
	c := start(t, "burn")
	g.Add(c.Process.Pid)
	l := burnBetween(t, r, c, 100).FirstInSpace
	if l == nil || l.Name != "cpu.max" || l.Scope != "cgroup "+g.Path() || l.Limit.Or(0) != 0.1 ||
		!strings.HasPrefix(l.Consequence, "throttling") || l.UsedRatio.Or(0) < 0.5 {
		t.Errorf("first in space: %+v", l)
	}
	b, err := os.ReadFile(filepath.Join(g.Dir("cpu"), "cpu.stat"))
	if err != nil || strings.Contains(string(b), "nr_throttled 0\n") {
		t.Errorf("it was not throttled: %s %v", b, err)
	}
}

func TestDrivenIntoCPUSet(t *testing.T) {
	needRoot(t)
	g := cgrouptest.New(t)
	r := openReader(t)
	if cpus, _ := r.ReadMachine().Machine.CPUs.Get(); cpus < 2 || !g.Has("cpuset.cpus") {
		t.Skip("one CPU, or no cpuset controller")
	}
	inner := g.Child("inner")
	if !g.V2 { // a parent's set must hold its children's
		inner.SetCPUs("0")
	}
	g.SetCPUs("0")
	c := start(t, "burn")
	inner.Add(c.Process.Pid)
	l := burnBetween(t, r, c, 300).FirstInSpace
	if l == nil || l.Name != "cpuset.cpus" || l.Scope != "cgroup "+g.Path() || l.Limit.Or(0) != 1 || !strings.HasPrefix(l.Consequence, "waiting") {
		t.Errorf("first in space: %+v", l)
	}
}

// TestHybridPaths: each controller has a cgroup of its own, as this host's version
// 1 hierarchies allow.
func TestHybridPaths(t *testing.T) {
	needRoot(t)
	g := cgrouptest.New(t)
	if g.V2 {
		t.Skip("version 2 has one path for all controllers")
	}
	a, b := g.Child("a"), g.Child("b")
	a.Limit("memory.max", 1<<30)
	b.Limit("pids.max", 500)
	c := start(t, "files")
	a.Add(c.Process.Pid, "memory")
	b.Add(c.Process.Pid, "pids")
	h := c.read(openReader(t))
	if l := find(t, h, "memory.max", "cgroup "+a.Path()); l.Limit.Or(0) != 1<<30 {
		t.Errorf("%+v", l)
	}
	if l := find(t, h, "pids.max", "cgroup "+b.Path()); l.Limit.Or(0) != 500 || l.Used.Or(0) < 1 {
		t.Errorf("%+v", l)
	}
	if h.Cgroup.Or("") != a.Path() {
		t.Errorf("cgroup %q", h.Cgroup.Or(""))
	}
}

// TestCgroupNamespace reads from inside a cgroup namespace: what is above its root
// can't be seen, and the reading says so instead of calling it unlimited.
func TestCgroupNamespace(t *testing.T) {
	const inside = "HEADROOM_TEST_NAMESPACE"
	if os.Getenv(inside) != "" {
		r := openReader(t)
		f, err := r.Read(context.Background(), int32(os.Getpid()), Full)
		if err != nil {
			t.Fatal(err)
		}
		h := Evaluate(nil, f)
		for _, l := range h.Limits {
			if l.Name == "memory.max" && strings.HasPrefix(l.Scope, "above ") && !l.Known && l.Why != "" {
				return
			}
		}
		t.Errorf("no row for what is above: %+v", f.Cgroups)
		return
	}
	needRoot(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestCgroupNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	// The namespace's root is the cgroup of who makes it: the child's own.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWCGROUP | unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestCgroupRemovedMeanwhile: a chain that names a cgroup which is gone says so.
func TestCgroupRemovedMeanwhile(t *testing.T) {
	needRoot(t)
	r := openReader(t)
	text := "0::/rmagent-was-removed\n"
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		text = "4:memory:/rmagent-was-removed\n"
	} else if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("no cgroups are mounted")
	}
	f := Facts{Cgroups: r.cgroup.Chain([]byte(text))}
	rows := judge(nil, cgroupRows(&f), 0)
	if len(rows) == 0 {
		t.Fatal("no row")
	}
	for _, l := range rows {
		if l.Known || l.Why == "" {
			t.Errorf("%+v", l)
		}
	}
}

func TestGoneProcess(t *testing.T) {
	c := start(t, "files")
	r := openReader(t)
	c.read(r)
	c.Kill()
	if _, err := r.Read(context.Background(), int32(c.Process.Pid), Full); !errors.Is(err, ErrNoProcess) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Read(ctx, int32(os.Getpid()), Full); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestLoweredWhileRunning: a soft limit below what is open leaves the places below
// it, and later opens fail as said.
func TestLoweredWhileRunning(t *testing.T) {
	r := openReader(t)
	c := start(t, "files")
	c.limit(unix.RLIMIT_NOFILE, 300)
	c.take(100)
	if l := find(t, c.read(r), "RLIMIT_NOFILE", "process"); l.Limit.Or(0) != 300 {
		t.Fatalf("%+v", l)
	}
	if err := unix.Prlimit(c.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 300}, nil); err != nil {
		t.Fatal(err)
	}
	l := c.read(r).FirstInSpace
	if l == nil || l.Name != "RLIMIT_NOFILE" || l.Limit.Or(0) != 64 || l.Available.Or(1) != 0 || l.UsedRatio.Or(0) != 1 || l.Used.Or(0) < 100 {
		t.Fatalf("%+v", l)
	}
	if !strings.Contains(l.Raise, "prlimit --pid "+strconv.Itoa(c.Process.Pid)+" --nofile=300:") {
		t.Errorf("raise: %q", l.Raise)
	}
	if more, why := c.end(); more != 0 || why != "too many open files" {
		t.Errorf("it got %v more, then %s", more, why)
	}
}

// TestOtherUsersProcess reads a process of root as an ordinary user: what may not
// be known is unknown, and says why.
func TestOtherUsersProcess(t *testing.T) {
	const target = "HEADROOM_TEST_TARGET"
	if pid, err := strconv.Atoi(os.Getenv(target)); err == nil {
		f, err := openReader(t).Read(context.Background(), int32(pid), Full)
		if err != nil {
			t.Fatal(err)
		}
		h := Evaluate(nil, f)
		for _, name := range []string{"vm.max_map_count", "RLIMIT_FSIZE"} {
			if l := find(t, h, name, "process"); l.Known || l.Used.Known() || !strings.Contains(l.Why, "CAP_SYS_PTRACE") {
				t.Errorf("%+v", l)
			}
		}
		for _, name := range []string{"RLIMIT_NOFILE", "RLIMIT_STACK"} { // anybody may know these
			if l := find(t, h, name, "process"); !l.Known && f.FDOpen.Known() || !l.Limit.Known() {
				t.Errorf("%+v", l)
			}
		}
		return
	}
	needRoot(t)
	c := start(t, "files")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "headroom") // where that user may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(dir+"/test", self, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dir+"/test", "-test.run=^TestOtherUsersProcess$")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), target+"="+strconv.Itoa(c.Process.Pid))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
