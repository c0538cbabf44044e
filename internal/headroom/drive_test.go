package headroom

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/cgrouptest"
)

// drive is a process that is driven into a limit: near it, the limit must be named
// first, with its consequence; then the process gets as much more as was said to
// be available, and what was said happens.
type drive struct {
	helper   string
	ordinary bool // it is no limit for root
	limit    func(t *testing.T, c *child)
	take     uint64 // brings it near
	name     string
	scope    string // begins so
	outcome  string // what the helper sees
	says     string // how the consequence begins
	slack    float64
}

func rlimitIs(resource int, v uint64) func(*testing.T, *child) {
	return func(_ *testing.T, c *child) { c.lower(resource, v) }
}

// above sets an rlimit to what the process uses already and more.
func above(resource, kind int, more uint64) func(*testing.T, *child) {
	return func(t *testing.T, c *child) {
		used, ok := rlimitUse(c.facts(openReader(t)), kind).Get()
		if !ok {
			t.Fatal("use unknown")
		}
		c.lower(resource, uint64(used)+more)
	}
}

// softCPU leaves a second, and the hard limit, which kills, far away.
func softCPU(t *testing.T, c *child) {
	used, _ := c.facts(openReader(t)).CPUNanos.Get()
	limit := &unix.Rlimit{Cur: used/1e9 + 2, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(c.Process.Pid, unix.RLIMIT_CPU, limit, nil); err != nil {
		t.Fatal(err)
	}
}

func TestDrivenIntoRlimits(t *testing.T) {
	needRoot(t)
	// The kernel counts ticks towards RLIMIT_CPU (thread_group_sample_cputime in
	// kernel/time/posix-cpu-timers.c), and a virtual CPU that waits loses some.
	const lostTicks = 1000
	const runtimes = 4 << 20 // what the helper's Go runtime may map meanwhile
	file := t.TempDir() + "/file"
	for _, d := range []drive{
		{helper: "files", limit: rlimitIs(unix.RLIMIT_NOFILE, 100), take: 85,
			name: "RLIMIT_NOFILE", scope: "process", outcome: "too many open files", says: "EMFILE"},
		{helper: "tasks", ordinary: true, limit: rlimitIs(unix.RLIMIT_NPROC, 60), take: 45,
			name: "RLIMIT_NPROC", scope: fmt.Sprint("uid ", ordinary), outcome: "resource temporarily unavailable", says: "EAGAIN"},
		{helper: "reserve", limit: above(unix.RLIMIT_AS, addressSpace, 64<<20), take: 48 << 20,
			name: "RLIMIT_AS", scope: "process", outcome: "cannot allocate memory", says: "ENOMEM", slack: 1<<20 + runtimes},
		{helper: "promise", limit: above(unix.RLIMIT_DATA, data, 64<<20), take: 48 << 20,
			name: "RLIMIT_DATA", scope: "process", outcome: "cannot allocate memory", says: "ENOMEM", slack: 1<<20 + runtimes},
		{helper: "stack", limit: rlimitIs(unix.RLIMIT_STACK, 1<<20), take: 832 << 10,
			name: "RLIMIT_STACK", scope: "process", outcome: "SIGSEGV", says: "SIGSEGV"},
		{helper: "write " + file, limit: rlimitIs(unix.RLIMIT_FSIZE, 1<<20), take: 900 << 10,
			name: "RLIMIT_FSIZE", scope: "process", outcome: "SIGXFSZ", says: "SIGXFSZ"},
		{helper: "lock", ordinary: true, limit: rlimitIs(unix.RLIMIT_MEMLOCK, 256<<10), take: 240 << 10,
			name: "RLIMIT_MEMLOCK", scope: "process", outcome: "cannot allocate memory", says: "ENOMEM"},
		{helper: "burn", limit: softCPU, take: 900,
			name: "RLIMIT_CPU", scope: "process", outcome: "SIGXCPU", says: "SIGXCPU", slack: lostTicks},
		{helper: "timers", ordinary: true, limit: rlimitIs(unix.RLIMIT_SIGPENDING, 50), take: 45,
			name: "RLIMIT_SIGPENDING", scope: fmt.Sprint("uid ", ordinary), outcome: "resource temporarily unavailable", says: "EAGAIN"},
	} {
		t.Run(d.name, func(t *testing.T) { d.run(t) })
	}
}

func (d *drive) run(t *testing.T) {
	t.Helper()
	r := openReader(t)
	c := start(t, d.helper)
	// The limit comes last: Go's setresuid(2) queues a signal to each thread, and waits
	// for ever for one that root's RLIMIT_SIGPENDING refuses.
	if d.ordinary {
		c.becomeOrdinary()
	}
	d.limit(t, c)
	d.check(t, r, c)
}

func (d *drive) check(t *testing.T, r *Reader, c *child) {
	t.Helper()
	c.take(d.take)
	h := c.read(r)
	l := h.FirstInSpace
	if l == nil || l.Name != d.name || !strings.HasPrefix(l.Scope, d.scope) {
		t.Fatalf("first in space: %+v", l)
	}
	if !strings.HasPrefix(l.Consequence, d.says) {
		t.Errorf("consequence %q", l.Consequence)
	}
	if l.Raise == "" || !l.Known || l.Why != "" {
		t.Errorf("%+v", l)
	}
	available, ok := l.Available.Get()
	if !ok {
		t.Fatal("available is unknown")
	}
	if l.Unit == "seconds" { // the helper counts in milliseconds
		available *= 1000
	}
	more, why := c.end()
	if math.Abs(more-available) > d.slack {
		t.Errorf("it got %v more, %v were available", more, available)
	}
	if !strings.HasSuffix(why, d.outcome) {
		t.Errorf("it ended by %q, not by %q", why, d.outcome)
	}
}

// TestDrivenIntoMapCount: the kernel refuses when there is one more than the limit.
func TestDrivenIntoMapCount(t *testing.T) {
	limit, _ := openReader(t).ReadMachine().Machine.MaxMapCount.Get()
	d := drive{helper: "mappings", limit: func(*testing.T, *child) {}, take: limit * 9 / 10,
		name: "vm.max_map_count", scope: "process", outcome: "cannot allocate memory", says: "ENOMEM", slack: 2}
	d.run(t)
}

func TestDrivenIntoInotifyInstances(t *testing.T) {
	needRoot(t)
	limit, _ := openReader(t).ReadMachine().Machine.InotifyInstances.Get()
	d := drive{helper: "instances", ordinary: true, limit: func(*testing.T, *child) {}, take: limit - limit/10,
		name: "fs.inotify.max_user_instances", scope: fmt.Sprint("uid ", ordinary), outcome: "too many open files", says: "EMFILE"}
	d.run(t)
}

func TestDrivenIntoDisk(t *testing.T) {
	needRoot(t)
	for _, d := range []drive{
		{helper: "write %s/file", take: 7 << 20, name: "disk_bytes", outcome: "no space left on device", says: "ENOSPC"},
		{helper: "create %s", take: 90, name: "disk_inodes", outcome: "no space left on device", says: "ENOSPC"},
	} {
		t.Run(d.name, func(t *testing.T) {
			point := t.TempDir()
			if err := unix.Mount("tmpfs", point, "tmpfs", 0, "size=8m,nr_inodes=100"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(point, unix.MNT_DETACH) })
			d.helper = fmt.Sprintf(d.helper, point)
			d.limit, d.scope = func(*testing.T, *child) {}, "mount "+point
			d.run(t)
		})
	}
}

func TestDrivenIntoPIDsMax(t *testing.T) {
	needRoot(t)
	g := cgrouptest.New(t)
	inner := g.Child("inner").Child("innermost") // a grandparent is the tightest
	if !g.Has("pids.max") {
		t.Skip("no pids controller")
	}
	r := openReader(t)
	c := start(t, "tasks")
	inner.Add(c.Process.Pid)
	g.Limit("pids.max", 100)
	inner.Limit("pids.max", 1000)
	d := drive{helper: "tasks", take: 85, name: "pids.max", scope: "cgroup " + g.Path(),
		outcome: "resource temporarily unavailable", says: "EAGAIN"}
	d.check(t, r, c)
}
