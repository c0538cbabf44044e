package headroom

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
	"rmagent/internal/sampletest"
	"rmagent/record"
)

// helperVariable makes this test binary a process that takes something until it
// gets no more.
const helperVariable = "HEADROOM_TEST_HELPER"

func TestMain(m *testing.M) {
	words := strings.Fields(os.Getenv(helperVariable))
	if len(words) == 0 {
		os.Exit(m.Run())
	}
	if f := Helpers[words[0]]; f != nil {
		f()
		return
	}
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	if err := help(words[0], words[1:]); err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
}

// Helpers are helpers of other test packages.
var Helpers = map[string]func(){}

// ordinary is a user that nobody else is.
const ordinary = 54321

// taker takes size more of something, or fails with an errno.
type taker struct {
	size uint64
	take func() error
}

// help says ready, and then does as it is told, a line at a time: "take N" takes
// until it has N in all, "end" takes until it gets no more; "user" becomes an
// ordinary user first, "limit R N" sets both limits of rlimit R.
func help(what string, args []string) error {
	t, err := newTaker(what, args)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	taken := uint64(0)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		word, number, _ := strings.Cut(in.Text(), " ")
		switch word {
		case "user":
			if err := syscall.Setresuid(ordinary, ordinary, ordinary); err != nil {
				return err
			}
			fmt.Println("ready")
		case "limit":
			var resource int
			var l unix.Rlimit
			if _, err := fmt.Sscan(number, &resource, &l.Cur); err != nil {
				return err
			}
			l.Max = l.Cur
			if err := unix.Prlimit(0, resource, &l, nil); err != nil {
				return err
			}
			fmt.Println("ready")
		case "take":
			n, _ := strconv.ParseUint(number, 10, 64)
			for ; taken < n; taken += t.size {
				if err := t.take(); err != nil {
					return fmt.Errorf("after %d: %w", taken, err)
				}
			}
			fmt.Println("at", taken)
		case "end":
			more := uint64(0)
			for err = t.take(); err == nil; err = t.take() {
				more += t.size
			}
			fmt.Println("end", more, err)
		}
	}
	return nil
}

func newTaker(what string, args []string) (taker, error) {
	switch what {
	case "files":
		return taker{1, func() error {
			_, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			return err
		}}, nil
	case "tasks":
		return taker{1, func() error {
			pid, errno := sampletest.ForkPaused(0)
			return errnoOf(pid, 0, errno)
		}}, nil
	case "reserve":
		return mapper(1<<20, unix.PROT_NONE, false), nil
	case "promise": // private writable, not touched
		return mapper(1<<20, unix.PROT_READ|unix.PROT_WRITE, false), nil
	case "touch":
		return mapper(1<<20, unix.PROT_READ|unix.PROT_WRITE, true), nil
	case "lock":
		return taker{4096, lockPage}, nil
	case "stack":
		return stackTaker()
	case "write":
		return writer(args[0])
	case "create":
		n := 0
		return taker{1, func() error {
			n++
			fd, err := unix.Open(fmt.Sprintf("%s/%d", args[0], n), unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err == nil && n > 1 {
				unix.Close(fd)
			}
			return err
		}}, nil
	case "burn":
		return burner(), nil
	case "timers":
		return taker{1, func() error {
			var id int32
			return errnoOf(unix.RawSyscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&id))))
		}}, nil
	case "mappings":
		n := 0
		return taker{1, func() error { // neighbours that differ can't be joined
			n++
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ*(n%2), unix.MAP_PRIVATE|unix.MAP_ANON)
			return err
		}}, nil
	case "instances":
		return taker{1, func() error { _, err := unix.InotifyInit1(unix.IN_CLOEXEC); return err }}, nil
	case "watches":
		return watcher()
	}
	return taker{}, fmt.Errorf("no helper %q", what)
}

func errnoOf(_, _ uintptr, errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// mapper maps memory. It asks the kernel itself, because the runtime may have no room
// to note what it mapped; and when there is no more it gives the last back, so that
// there is room to say so.
func mapper(size uintptr, protection uintptr, touch bool) taker {
	last := uintptr(0)
	return taker{uint64(size), func() error {
		at, _, errno := unix.RawSyscall6(unix.SYS_MMAP, 0, size, protection, unix.MAP_PRIVATE|unix.MAP_ANON, ^uintptr(0), 0)
		if errno != 0 {
			unix.RawSyscall(unix.SYS_MUNMAP, last, size, 0)
			return errno
		}
		last = at
		for i := uintptr(0); touch && i < size; i += 4096 {
			page := at + i
			**(**byte)(unsafe.Pointer(&page)) = 1
		}
		return nil
	}}
}

func lockPage() error {
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	return unix.Mlock(b)
}

// stackTaker makes the main thread's stack grow by touching what is below it.
func stackTaker() (taker, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return taker{}, err
	}
	var low uint64
	for line := range strings.SplitSeq(string(maps), "\n") {
		if strings.HasSuffix(line, "[stack]") {
			first, _, _ := strings.Cut(line, "-")
			low, err = strconv.ParseUint(first, 16, 64)
		}
	}
	return taker{4096, func() (err error) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() {
			if recover() != nil {
				err = errors.New("SIGSEGV")
			}
		}()
		low -= 4096
		at := uintptr(low)
		**(**byte)(unsafe.Pointer(&at)) = 1
		return nil
	}}, err
}

func writer(path string) (taker, error) {
	f, err := os.Create(path)
	if err != nil {
		return taker{}, err
	}
	tooLarge := make(chan os.Signal, 1)
	signal.Notify(tooLarge, unix.SIGXFSZ)
	block := make([]byte, 4096)
	return taker{4096, func() error {
		n, err := f.Write(block)
		if err == nil {
			return nil
		}
		if errors.Is(err, unix.EFBIG) {
			<-tooLarge
			return errors.New("SIGXFSZ")
		}
		return fmt.Errorf("%d bytes: %w", n, errors.Unwrap(err))
	}}, nil
}

// burner takes CPU time, in milliseconds.
func burner() taker {
	over := make(chan os.Signal, 1)
	signal.Notify(over, unix.SIGXCPU)
	used := func() time.Duration {
		var u unix.Rusage
		unix.Getrusage(unix.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return taker{1, func() error {
		for until := used() + time.Millisecond; used() < until; {
			select {
			case <-over:
				return errors.New("SIGXCPU")
			default:
			}
		}
		return nil
	}}
}

func watcher() (taker, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return taker{}, err
	}
	dir, err := os.MkdirTemp("", "watches")
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	n := 0
	return taker{1, func() error {
		n++
		path := fmt.Sprintf("%s/%d", dir, n)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		_, err := unix.InotifyAddWatch(fd, path, unix.IN_CREATE)
		return err
	}}, err
}

// start runs a helper and waits until it is ready.
func start(t testing.TB, helper string, change ...func(*exec.Cmd)) *child {
	t.Helper()
	cmd := childtest.Itself(helperVariable, helper)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	for _, f := range change {
		f(cmd)
	}
	c := &child{childtest.Start(t, cmd), t}
	c.Hear("ready")
	return c
}

// child is a running helper.
type child struct {
	*childtest.Child
	t testing.TB
}

// diesOf waits for the end of a helper that is to be killed by a signal.
func (c *child) diesOf(signal unix.Signal) {
	c.t.Helper()
	if line, ok := c.Line(); ok {
		c.t.Fatalf("it said %q", line)
	}
	c.Wait()
	if s := c.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != signal {
		c.t.Errorf("it ended by %v, not by %v", c.ProcessState, signal)
	}
}

// take lets the helper take n in all.
func (c *child) take(n uint64) {
	c.t.Helper()
	c.Say("take %d", n)
	c.Hear("at")
}

// end lets the helper take until it gets no more; it got more, and then why.
func (c *child) end() (more float64, why string) {
	c.t.Helper()
	c.Say("end")
	number, why, _ := strings.Cut(c.Hear("end"), " ")
	more, err := strconv.ParseFloat(number, 64)
	if err != nil {
		c.t.Fatal(err)
	}
	return more, why
}

// becomeOrdinary drops root.
func (c *child) becomeOrdinary() {
	c.t.Helper()
	c.Say("user")
	c.Hear("ready")
}

// limit sets both limits of an rlimit.
func (c *child) limit(resource int, v uint64) {
	c.t.Helper()
	if err := unix.Prlimit(int(c.PID()), resource, &unix.Rlimit{Cur: v, Max: v}, nil); err != nil {
		c.t.Fatal(err)
	}
}

// lower has the helper lower both limits of an rlimit itself, which nobody may forbid.
func (c *child) lower(resource int, v uint64) {
	c.t.Helper()
	c.Say("limit %d %d", resource, v)
	c.Hear("ready")
}

// read reads the helper's headroom.
func (c *child) read(r *Reader) record.Headroom {
	c.t.Helper()
	return Evaluate(nil, c.facts(r))
}

func (c *child) facts(r *Reader) *Facts {
	c.t.Helper()
	f, err := r.Read(context.Background(), c.PID(), Full)
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

func openReader(t testing.TB) *Reader {
	t.Helper()
	r, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func find(t testing.TB, h record.Headroom, name, scope string) *record.HeadroomLimit {
	t.Helper()
	for i := range h.Limits {
		if l := &h.Limits[i]; l.Name == name && l.Scope == scope {
			return l
		}
	}
	for _, l := range h.Limits {
		t.Logf("%s of %s", l.Name, l.Scope)
	}
	t.Fatalf("no limit %s of %s", name, scope)
	return nil
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// StartTasks starts n processes, until the function that it returns is called.
func StartTasks(t testing.TB, n uint64) (stop func()) {
	t.Helper()
	c := start(t, "tasks")
	c.take(n)
	return func() { c.Kill() }
}
