package worker

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
	"rmagent/internal/sample"
)

// The tests' child is the test binary itself, run with these arguments.
const childArgument, hangArgument, crashArgument, signalArgument = "stack-worker", "hang", "crash", "signal"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 {
		socket := os.NewFile(SocketFD, "socket")
		switch os.Args[1] {
		case childArgument:
			if canConfine {
				if err := Confine(); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
			}
			if err := Serve(socket); err != nil {
				os.Exit(1)
			}
			os.Exit(0)
		case signalArgument: // its parent
			parent := os.Getppid()
			err := Confine()
			if err == nil {
				if err = unix.Tgkill(parent, parent, 0); err == unix.EPERM {
					os.Exit(0)
				}
			}
			fmt.Fprintln(os.Stderr, "tgkill:", err)
			os.Exit(1)
		case hangArgument:
			time.Sleep(time.Minute)
		case crashArgument:
			_, _ = socket.Read(make([]byte, maxMessage))
			panic("a crash")
		}
	}
	os.Exit(m.Run())
}

func newClient(t testing.TB) *Client {
	c := New(Itself, childArgument)
	t.Cleanup(c.Close)
	return c
}

// program is a process that sleeps in the system call that its main thread made.
type program struct {
	id  sample.ID
	raw sample.RawStack
	*childtest.Child
}

// start runs a program that says ready and then waits in read(2), in a function inner()
// that outer() called if nothing else is said, and copies the stack of the thread.
func start(t testing.TB, path string) *program {
	t.Helper()
	c := childtest.Start(t, exec.Command(path))
	c.Line()
	p := &program{Child: c}
	p.id.PID = c.PID()
	var err error
	if p.id.StartTicks, err = startTicks(p.id.PID); err != nil {
		t.Fatal(err)
	}
	p.raw = attach(t, readingThread(t, c.Process.Pid))
	return p
}

// readingThread waits for a thread that is in read(0).
func readingThread(t testing.TB, pid int) int {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			call, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/syscall", pid, thread.Name()))
			if strings.HasPrefix(string(call), "0 0x0 ") {
				tid, _ := strconv.Atoi(thread.Name())
				return tid
			}
		}
	}
	t.Fatal("no thread reads")
	return 0
}

// attach copies the stack of a thread by ptrace.
func attach(t testing.TB, pid int) (raw sample.RawStack) {
	t.Helper()
	lock(t)
	var regs unix.PtraceRegs
	for { // until it is in read(2)
		if err := unix.PtraceAttach(pid); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
			t.Fatal(err)
		}
		if err := unix.PtraceGetRegs(pid, &regs); err != nil {
			t.Fatal(err)
		}
		raw, _ = rawOf(pid, &regs)
		if err := unix.PtraceDetach(pid); err != nil {
			t.Fatal(err)
		}
		if regs.Orig_rax == unix.SYS_READ {
			return raw
		}
	}
}

const source = `
#include <stdio.h>
#include <unistd.h>
static volatile int sink;
__attribute__((noinline)) int inner(void) { char c; int r = read(0, &c, 1); sink = r; return r + 1; }
__attribute__((noinline)) int outer(void) { int r = inner(); sink = r; return r + 1; }
int main(void) { puts("ready"); fflush(stdout); for (;;) sink = outer(); }
`

func compile(t testing.TB, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "program")
	cmd := exec.Command("gcc", append([]string{"-O2", "-o", path, "-x", "c", "-"}, flags...)...)
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return path
}

// walk asks a client and waits for its answer.
func walk(t testing.TB, c *Client, image Image, raw *sample.RawStack) *Site {
	t.Helper()
	site, ok := c.Site(image, 1, raw)
	if !ok {
		t.Fatal("refused")
	}
	if site != nil {
		return site
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if a := c.Answers(nil); len(a) > 0 {
			return a[0].Site
		}
	}
	t.Fatal("no answer")
	return nil
}

// offsets are the addresses that nm gives for functions of a program.
func contains(t testing.TB, path, function string, offset uint64) bool {
	t.Helper()
	out, err := exec.Command("nm", "-S", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		var from, size uint64
		var kind, name string
		if n, _ := fmt.Sscanf(lines.Text(), "%x %x %s %s", &from, &size, &kind, &name); n == 4 && name == function {
			return offset >= from && offset < from+size
		}
	}
	t.Fatalf("%s has no %s", path, function)
	return false
}

func checkSite(t *testing.T, site *Site, path string) {
	t.Helper()
	if site.End != "" || len(site.Frames) < 4 {
		t.Fatalf("end %q, %d frames", site.End, len(site.Frames))
	}
	for i, function := range []string{"inner", "outer", "main"} {
		f := site.Frames[1+i]
		offset, _ := f.Offset.Get()
		if !contains(t, path, function, offset) {
			t.Errorf("frame %d is at %#x, not in %s", 1+i, offset, function)
		}
		if id, ok := f.BuildID.Get(); !ok || len(id) != 40 {
			t.Errorf("build id %q", id)
		}
	}
}

func TestWalksInTheChild(t *testing.T) {
	path := compile(t)
	p := start(t, path)
	c := newClient(t)
	image := Image{ID: p.id}
	site := walk(t, c, image, &p.raw)
	checkSite(t, site, path)
	if again, ok := c.Site(image, 2, &p.raw); !ok || again != site {
		t.Errorf("the same stack again = %v %v", again, ok)
	}
	if n := testing.AllocsPerRun(100, func() { c.Site(image, 3, &p.raw) }); n != 0 {
		t.Errorf("%v allocations for a stack that is known", n)
	}
	s := c.Stats()
	if s.Walked != 1 || s.Started != 1 || s.Killed != 0 || s.Failed != 0 || s.Sites != 1 {
		t.Errorf("stats = %+v", s)
	}
	c.Forget(p.id)
	if s := c.Stats(); s.Images != 0 || s.Sites != 0 {
		t.Errorf("after Forget: %+v", s)
	}
}

// What the child takes of the CPU is known while it runs and when it has ended.
func TestCPUOfTheChild(t *testing.T) {
	p := start(t, compile(t))
	c := New(Itself, childArgument)
	if n := c.CPU(); n != 0 {
		t.Errorf("%v before there is a child", n)
	}
	walk(t, c, Image{ID: p.id}, &p.raw)
	before := c.CPU()
	pid := c.child.cmd.Process.Pid
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid)) // of its first thread
	if err != nil {
		t.Fatal(err)
	}
	var first time.Duration
	if _, err := fmt.Sscan(string(stat), &first); err != nil {
		t.Fatal(err)
	}
	after := c.CPU()
	if before <= 0 || after < before || after < first {
		t.Errorf("%v, then %v; its first thread took %v between", before, after, first)
	}
	c.Close()
	if n := c.CPU(); n < after {
		t.Errorf("%v once it has ended, %v before", n, after)
	}
}

// A program that was deleted, and one whose path has another file now, are read as
// they run.
func TestDeletedAndReplaced(t *testing.T) {
	path := compile(t)
	kept := path + ".kept"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, b, 0o700); err != nil {
		t.Fatal(err)
	}
	deleted, replaced := start(t, path), start(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c := newClient(t)
	checkSite(t, walk(t, c, Image{ID: deleted.id}, &deleted.raw), kept)
	if err := os.WriteFile(path, []byte("\x7fELF nonsense"), 0o700); err != nil {
		t.Fatal(err)
	}
	checkSite(t, walk(t, c, Image{ID: replaced.id}, &replaced.raw), kept)
}

func TestChildHasNothing(t *testing.T) {
	if !canConfine {
		t.Skip("with cgo, as the race detector needs it, Go has no system call on all threads")
	}
	p := start(t, compile(t))
	c := newClient(t)
	walk(t, c, Image{ID: p.id}, &p.raw)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.child.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"NoNewPrivs:\t1", "CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000",
	}
	if os.Geteuid() == 0 {
		want = append(want, "Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "Groups:\t ")
	}
	if bytes.Contains(status, []byte("Seccomp:")) {
		want = append(want, "Seccomp:\t2")
	}
	for _, w := range want {
		if !bytes.Contains(status, []byte("\n"+w+"\n")) {
			t.Errorf("status lacks %q:\n%s", w, status)
		}
	}
	// Of those who are near the limit of their descriptors it is not the first.
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.child.cmd.Process.Pid))
	limits, errLimits := os.ReadFile(fmt.Sprintf("/proc/%d/limits", c.child.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(limits), "Max open files")
	var limit int
	if _, errScan := fmt.Sscan(rest, &limit); errors.Join(err, errLimits, errScan) != nil || len(entries)*10 > limit {
		t.Errorf("%d of %d descriptors are open (%v, %v, %v)", len(entries), limit, err, errLimits, errScan)
	}
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", c.child.cmd.Process.Pid))
	if err == nil && len(environment) > 0 {
		t.Errorf("environment %q", environment)
	}
}

// Root that may not become nobody, as in a container with few capabilities, may signal
// nobody else of root.
func TestChildThatStaysRoot(t *testing.T) {
	if os.Geteuid() != 0 || !canConfine {
		t.Skip("needs root")
	}
	out, err := exec.Command("setpriv", "--bounding-set", "-all", os.Args[0], signalArgument).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestHangingChildIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a request may")
	}
	p := start(t, compile(t))
	c := New(Itself, hangArgument)
	defer c.Close()
	site := walk(t, c, Image{ID: p.id}, &p.raw)
	if !strings.Contains(site.End, "no answer in 5s") || len(site.Frames) != 0 {
		t.Errorf("site = %+v", site)
	}
	if s := c.Stats(); s.Killed != 1 || s.Failed != 1 {
		t.Errorf("stats = %+v", s)
	}
	if c.child != nil {
		t.Error("the child is still there")
	}
}

// An agent that may end nobody, as under the unit that only observes, can't kill a child
// that hangs, and goes on all the same.
func TestHangingChildThatCannotBeKilled(t *testing.T) {
	if os.Geteuid() != 0 || !canConfine {
		t.Skip("the child is another user only where root starts it")
	}
	c, err := startChild(Itself, []string{childArgument})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.call(&request{Forget: &forgetRequest{}}, nil, &answer{}); err != nil { // it is confined
		t.Fatal(err)
	}
	pid := c.cmd.Process.Pid
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := withoutKill(); err != nil {
			ended <- err
			return
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != unix.EPERM {
			ended <- fmt.Errorf("kill: %v, want EPERM", err)
			return
		}
		c.end()
		ended <- nil
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("its end is waited for without end")
	}
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); unix.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not end although the socket is closed, or is not reaped")
		}
	}
}

// withoutKill takes CAP_KILL from the calling thread.
func withoutKill() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return err
	}
	sets[0].Effective &^= 1 << unix.CAP_KILL
	return unix.Capset(&head, &sets[0])
}

// An agent that is to end does not wait for the answer of a child that hangs.
func TestCloseWaitsForNoAnswer(t *testing.T) {
	p := start(t, compile(t))
	c := New(Itself, hangArgument)
	if _, ok := c.Site(Image{ID: p.id}, 1, &p.raw); !ok {
		t.Fatal("refused")
	}
	for c.Stats().Started == 0 {
		time.Sleep(time.Millisecond)
	}
	c.Close()
	answers := c.Answers(nil)
	if len(answers) != 1 || strings.Contains(answers[0].Site.End, "no answer in") {
		t.Errorf("%+v", answers)
	}
}

func TestCrashingChildIsReplaced(t *testing.T) {
	p := start(t, compile(t))
	c := New(Itself, crashArgument)
	defer c.Close()
	for range maxFailures {
		for c.Stats().Started == c.Stats().Killed { // wait out the backoff
			site := walk(t, c, Image{ID: p.id}, &p.raw)
			if site.End == "" {
				t.Fatalf("site = %+v", site)
			}
			if c.Stats().Killed == maxFailures {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if s := c.Stats(); s.Killed != maxFailures || !strings.Contains(s.LastFail, "a crash") {
		t.Errorf("stats = %+v", s)
	}
	site := walk(t, c, Image{ID: p.id}, &p.raw)
	if !strings.Contains(site.End, "failed too often") {
		t.Errorf("end = %q", site.End)
	}
}

// What waits while a child fails waits for the next one.
func TestOthersWaitForTheNextChild(t *testing.T) {
	path := compile(t)
	c := New(Itself, crashArgument)
	defer c.Close()
	const processes = 4
	for range processes {
		p := start(t, path)
		if _, ok := c.Site(Image{ID: p.id}, 1, &p.raw); !ok {
			t.Fatal("refused")
		}
	}
	var answers []Answer
	for deadline := time.Now().Add(30 * time.Second); len(answers) < processes && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		answers = c.Answers(answers)
	}
	for _, a := range answers {
		if strings.Contains(a.Site.End, errNoChild.Error()) {
			t.Errorf("end = %q", a.Site.End)
		}
	}
	if s := c.Stats(); len(answers) != processes || s.Started != processes || s.Killed != processes {
		t.Errorf("%d answers; stats = %+v", len(answers), s)
	}
}

func TestProcessIsGone(t *testing.T) {
	path := compile(t)
	p := start(t, path)
	_ = p.Process.Kill()
	_, _ = p.Process.Wait()
	c := newClient(t)
	if site := walk(t, c, Image{ID: p.id}, &p.raw); !strings.Contains(site.End, "it ended before") {
		t.Errorf("site = %+v", site)
	}
	own := p.id
	own.PID = int32(os.Getpid()) // another process has the PID
	if site := walk(t, c, Image{ID: own}, &p.raw); !strings.Contains(site.End, "it ended before") {
		t.Errorf("site = %+v", site)
	}
}

// A process that ends after its mappings were read, and before its files are, costs
// frames and nothing else.
func TestProcessEndsInTheMiddle(t *testing.T) {
	path := compile(t)
	p, other := start(t, path), start(t, path)
	c := newClient(t)
	whole := c.start
	c.start = func() (*child, error) { // between the two
		p.Kill()
		return whole()
	}
	site := walk(t, c, Image{ID: p.id}, &p.raw)
	if names := strings.Join(functions(site), " "); !strings.HasSuffix(site.End, "can't be read: it ended before") || strings.Trim(names, " ?") != "" {
		t.Errorf("frames %s, end %q", names, site.End)
	}
	checkSite(t, walk(t, c, Image{ID: other.id}, &other.raw), path)
	if s := c.Stats(); s.Killed != 0 || s.Started != 1 {
		t.Errorf("stats = %+v", s)
	}
}

func TestNeverOpensWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(fifo, link); err != nil {
		t.Fatal(err)
	}
	o := newOpener()
	for _, path := range []string{fifo, link, dir, "/dev/null"} {
		if f, err := o.inside(int32(os.Getpid()), path, 0, nil); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v %v", path, f, err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := o.inside(int32(os.Getpid()), file, 0, nil); err != nil {
		t.Error(err)
	} else {
		defer f.file.Close()
	}
	if f, err := o.inside(int32(os.Getpid()), file, 0, mappedAt(1, 2)); err == nil {
		t.Errorf("another file than asked for was opened: %v", f)
	}
}

// Opens that do not come back are given up, and there is an end to them.
func TestStuckOpens(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as an open may")
	}
	o := newOpener()
	release := make(chan struct{})
	defer close(release)
	errs := make(chan error, maxStuck)
	for range maxStuck {
		go func() {
			_, err := o.inTime(func() (opened, error) { <-release; return opened{}, io.EOF })
			errs <- err
		}()
	}
	for range maxStuck {
		if err := <-errs; err == nil || !strings.Contains(err.Error(), "not open after") {
			t.Errorf("error = %v", err)
		}
	}
	if _, err := o.inside(int32(os.Getpid()), "/etc/passwd", 0, nil); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("error = %v", err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"frames":[{"function":"f","offset":1}],"deps":[{"p":-1,"c":0,"v":5},{"p":8,"c":1}],"key":"AAE=","end":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		checkForeign(t, b)
	})
}

func TestNames(t *testing.T) {
	path := compile(t, "-g")
	p := start(t, path)
	site := walk(t, newClient(t), Image{ID: p.id}, &p.raw)
	for i, want := range []string{"inner", "outer", "main"} {
		f := site.Frames[1+i]
		line, _ := f.Line.Get()
		if f.Function.Or("") != want || line == 0 {
			t.Errorf("frame %d = %+v, want %s and a line", 1+i, f, want)
		}
	}
}

// The names of a program that was stripped come from its separate file, which is
// where distributions put it.
func TestSeparateDebugFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: /usr/lib/debug is root's")
	}
	path := compile(t, "-g", "-Wl,--build-id")
	whole := path + ".debug"
	run(t, "objcopy", "--only-keep-debug", path, whole)
	run(t, "strip", path)
	p := start(t, path)
	c := newClient(t)
	site := walk(t, c, Image{ID: p.id}, &p.raw)
	if name, ok := site.Frames[1].Function.Get(); ok {
		t.Fatalf("a stripped program's function has a name: %q", name)
	}
	build := site.Frames[1].BuildID.Or("")
	dir := "/usr/lib/debug/.build-id/" + build[:2]
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	target := dir + "/" + build[2:] + ".debug"
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target, b, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.Remove(target)
		_ = os.Remove(dir)
	})
	site = walk(t, newClient(t), Image{ID: p.id}, &p.raw)
	if name := site.Frames[1].Function.Or(""); name != "inner" {
		t.Errorf("function = %q, want inner; %+v", name, site.Frames[1])
	}
}

func run(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// unanswered returns an address whose page never comes: whoever reads it waits for who
// handles its faults, and that is nobody.
func unanswered(t *testing.T) uintptr {
	const api, register, missing = 0xc018aa3f, 0xc020aa00, 1 // linux/userfaultfd.h
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		t.Skipf("no userfaultfd: %v", errno)
	}
	t.Cleanup(func() { unix.Close(int(fd)) })
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(page)))
	hello := [3]uint64{0xaa}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, api, uintptr(unsafe.Pointer(&hello))); errno != 0 {
		t.Fatalf("UFFDIO_API: %v", errno)
	}
	wanted := [4]uint64{uint64(at), uint64(os.Getpagesize()), missing}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, register, uintptr(unsafe.Pointer(&wanted))); errno != 0 {
		t.Fatalf("UFFDIO_REGISTER: %v", errno)
	}
	return at
}

// A process may point where a goroutine is kept to memory that keeps every reader: it
// delays who asks for its stacks once, briefly, and nobody who asks for others'.
func TestMemoryThatNeverComesDelaysOnce(t *testing.T) {
	p := start(t, compile(t, "-O2"))
	c := newClient(t)
	hostile := sample.ID{PID: int32(os.Getpid()), StartTicks: 1}
	raw := p.raw
	raw.R14 = uint64(unanswered(t))
	asked := make(chan int)
	go func() {
		for n := range 100 {
			c.Site(Image{ID: hostile}, uint64(1000+n), &raw)
			asked <- n
		}
		close(asked)
	}()
	deadline := time.After(20 * time.Second)
	for n := range 100 {
		select {
		case <-asked:
		case <-deadline:
			t.Fatalf("asked %d of 100 times", n)
		}
	}
	c.Site(Image{ID: p.id}, 1, &p.raw)
	for others := time.Now().Add(30 * time.Second); time.Now().Before(others); time.Sleep(time.Millisecond) {
		for _, a := range c.Answers(nil) {
			if a.Image.ID == p.id && len(a.Site.Frames) > 0 {
				return
			}
		}
	}
	t.Error("no frames of another process")
}
