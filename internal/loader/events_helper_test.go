package loader

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The processes that the tests watch are this test binary, told by the
// environment to be somebody else, so that a guest needs no other file. They say
// what they did on stdout, a line at a time, and wait for a line on stdin.

const helperVariable = "RMAGENT_EVENT_HELPER"

var helpers = map[string]func(args []string){
	"net":       helpNet,
	"first":     helpFirst,
	"exec":      helpExecFromThread,
	"again":     helpAgain,
	"threads":   helpThreads,
	"storm":     helpStorm,
	"fds":       helpFDs,
	"sum":       helpSum,
	"eat":       helpEat,
	"hold":      helpHold,
	"births":    helpBirths,
	"churn":     helpChurn,
	"family":    helpFamily,
	"tracer":    helpTracer,
	"reborn":    helpReborn,
	"pace":      helpPace,
	"files":     helpFiles,
	"rivals":    helpRivals,
	"reopening": helpReopening,
	"trace":     helpTrace,
	"pass":      func([]string) { step("ready") },
}

func init() {
	name := os.Getenv(helperVariable)
	if name == "" {
		return
	}
	// The main goroutine on the main thread, which leads the thread group.
	runtime.LockOSThread()
	os.Unsetenv(helperVariable)
	helpers[name](os.Args[1:])
	os.Exit(0)
}

var stdin = bufio.NewReader(os.Stdin)

// step says something and waits until it was heard.
func step(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	if _, err := stdin.ReadString('\n'); err != nil {
		os.Exit(9)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(8)
	}
}

// helper is a running helper.
type helper struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	pid    int
}

func startHelper(t *testing.T, name string, args ...string) *helper {
	t.Helper()
	h := &helper{t: t, cmd: exec.Command(os.Args[0], args...)}
	h.cmd.Env = append(os.Environ(), helperVariable+"="+name, "TMPDIR="+t.TempDir()) // it may be killed, and leaves what it made
	h.cmd.Stderr = os.Stderr
	var err error
	if h.stdin, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.stdout = bufio.NewReader(out)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.pid = h.cmd.Process.Pid
	t.Cleanup(func() {
		if h.cmd.ProcessState == nil {
			h.cmd.Process.Kill()
			h.cmd.Wait()
		}
	})
	return h
}

// line returns the next thing that the helper says; ok is false at its end.
func (h *helper) line() (line string, ok bool) {
	h.t.Helper()
	line, err := h.stdout.ReadString('\n')
	if err == io.EOF {
		return "", false
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSuffix(line, "\n"), true
}

func (h *helper) next() {
	h.t.Helper()
	if _, err := io.WriteString(h.stdin, "\n"); err != nil {
		h.t.Fatal(err)
	}
}

func (h *helper) wait() *os.ProcessState {
	h.t.Helper()
	h.stdin.Close()
	h.cmd.Wait()
	return h.cmd.ProcessState
}

// helpExecFromThread moves bytes, and becomes another program from a thread that
// does not lead; with "late", after the leader has gone, and bytes later.
func helpExecFromThread(args []string) {
	a, b := tcpPair(unix.AF_INET)
	moveBytes(a, b, 10000)
	exe, err := os.Executable() // /proc/self/exe has no target once the leader is gone
	check(err)
	ready := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		<-ready
		if args[0] == "late" {
			for leaderRuns() {
				runtime.Gosched()
			}
			moveBytes(a, b, 7000)
		}
		check(syscall.Exec(exe, os.Args[:1], append(os.Environ(), helperVariable+"=again")))
	}()
	close(ready)
	if args[0] == "late" {
		unix.Syscall(unix.SYS_EXIT, 0, 0, 0) // not raw: nothing would run goroutines on one CPU then
	}
	select {}
}

func leaderRuns() bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(os.Getpid()) + "/stat")
	check(err)
	return !strings.Contains(string(b), ") Z ")
}

// helpAgain is what helpExecFromThread becomes.
func helpAgain([]string) {
	a, b := tcpPair(unix.AF_INET)
	moveBytes(a, b, 300)
	step("again")
}

// helpThreads burns CPU time in threads that end.
func helpThreads(args []string) {
	n, err := strconv.Atoi(args[0])
	check(err)
	step("ready")
	done := make(chan int)
	for range n {
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
			x := 1
			for i := range 100000 {
				x = x*3 + i
			}
			done <- x
		}()
		<-done
	}
	step("done")
}

// helpStorm forks processes that do nothing, as fast as it can.
func helpStorm(args []string) {
	n, err := strconv.Atoi(args[0])
	check(err)
	step("ready")
	for range n {
		pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			check(errno)
		}
		if pid == 0 {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(int(pid), &status, 0, nil); err != nil {
			check(err)
		}
	}
	step("done")
}

// helpFDs opens and closes descriptors in every way that is counted.
func helpFDs([]string) {
	step("0 0")
	opened, closed := 0, 0
	open := func(fds ...int) []int { opened += len(fds); return fds }
	shut := func(fds []int) {
		for _, fd := range fds {
			check(unix.Close(fd))
			closed++
		}
	}
	for range 100 {
		shut(open(must(unix.Open("/", unix.O_RDONLY, 0))))
	}
	unix.Open("/nonexistent", unix.O_RDONLY, 0)
	unix.Close(1000)
	var pair [2]int
	check(unix.Pipe2(pair[:], unix.O_CLOEXEC))
	shut(open(pair[:]...))
	socks, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	check(err)
	open(socks[:]...)
	kept := open(must(unix.Dup(0)), must(unix.FcntlInt(0, unix.F_DUPFD, 0)), must(unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)),
		must(unix.Eventfd(0, 0)), must(unix.EpollCreate1(0)), must(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0)),
		must(unix.MemfdCreate("x", 0)), must(unix.InotifyInit1(0)), must(unix.PidfdOpen(os.Getpid(), 0)),
		must(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)), must(unix.Signalfd(-1, &unix.Sigset_t{}, 0)))
	must(unix.FcntlInt(0, unix.F_GETFD, 0))
	check(unix.Sendmsg(socks[0], []byte{1}, unix.UnixRights(0, 1, 2), nil, 0))
	oob := make([]byte, 128)
	_, n, _, _, err := unix.Recvmsg(socks[1], make([]byte, 1), oob, 0)
	check(err)
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	check(err)
	came, err := unix.ParseUnixRights(&messages[0])
	check(err)
	shut(open(came...))
	child := -1
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD)|unix.CLONE_PIDFD, 0, uintptr(unsafe.Pointer(&child)), 0, 0, 0)
	if errno != 0 {
		check(errno)
	}
	if pid == 0 {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
	shut(open(child))
	step("%d %d", opened, closed)
	shut(kept)
	shut(socks[:])
	step("%d %d", opened, closed)
	// From here on, what a call returns does not tell.
	check(unix.Dup3(0, 300, 0))
	opened++
	step("%d %d", opened, closed)
	check(unix.Dup3(1, 300, unix.O_CLOEXEC))
	opened, closed = opened+1, closed+1
	if err := unix.Dup3(999, 300, 0); err != unix.EBADF {
		check(fmt.Errorf("dup3 of nothing: %v", err))
	}
	check(unix.Dup3(1, 301, 0))
	check(unix.CloseRange(300, 400, unix.CLOSE_RANGE_CLOEXEC))
	opened++
	step("%d %d", opened, closed)
	check(unix.CloseRange(300, 400, 0))
	closed += 2
	step("%d %d", opened, closed)
}

// helpSum opens and closes in several threads and in every way at once, and
// becomes another program, from a thread that does not lead, which does it again.
func helpSum(args []string) {
	step("ready")
	var threads sync.WaitGroup
	for n := range 4 {
		threads.Go(func() {
			runtime.LockOSThread()
			churn(1000+100*n, 300)
		})
	}
	threads.Wait()
	step("churned")
	if len(args) > 0 {
		return
	}
	for range 5 {
		must(unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0))
		must(unix.Open("/", unix.O_PATH, 0))
	}
	exe, err := os.Executable()
	check(err)
	go func() {
		runtime.LockOSThread()
		check(syscall.Exec(exe, append(os.Args[:1:1], "again"), append(os.Environ(), helperVariable+"=sum")))
	}()
	select {}
}

// churn leaves some descriptors open. Those from base to base+99 are its own.
func churn(base, rounds int) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	check(err)
	for i := range rounds {
		fd := must(unix.Open("/", unix.O_PATH, 0))
		own := base + i%100
		check(unix.Dup3(fd, own, unix.O_CLOEXEC))
		if i%7 == 0 {
			check(unix.CloseRange(uint(own)-min(uint(i%100), 4), uint(own), 0))
		}
		came := must(pass(pair, fd))
		var pipe [2]int
		check(unix.Pipe2(pipe[:], 0))
		for _, fd := range []int{fd, came, pipe[0], pipe[1]} {
			check(unix.Close(fd))
		}
	}
}

// cldTrapped is waitid(2)'s CLD_TRAPPED: a traced child has stopped.
const cldTrapped = 4

// helpTrace traces a process that is not its child, kills it if there is a signal,
// and lets go of it when it has long ended.
func helpTrace(args []string) {
	pid, err := strconv.Atoi(args[0])
	check(err)
	signal, err := strconv.Atoi(args[1])
	check(err)
	check(unix.PtraceSeize(pid))
	step("ready")
	if signal != 0 { // in a stop of its own
		check(unix.PtraceInterrupt(pid))
		var status unix.WaitStatus
		must(unix.Wait4(pid, &status, unix.WALL, nil))
		check(unix.Kill(pid, unix.Signal(signal)))
	}
	// Ended, and left as it is. A tracer is told of stops, too, whatever it waits
	// for: a signal of Go's scheduler is one.
	for {
		var info unix.Siginfo
		check(unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WALL, nil))
		if info.Code != cldTrapped {
			break
		}
		var status unix.WaitStatus
		must(unix.Wait4(pid, &status, unix.WALL, nil))
		check(unix.PtraceCont(pid, int(status.StopSignal())))
	}
	step("zombie")
}

// helpEat takes more memory than it may have.
func helpEat([]string) {
	step("ready")
	for {
		b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		check(err)
		for i := range b {
			b[i] = 1
		}
	}
}

// helpHold opens events and says which programs it holds.
func helpHold([]string) {
	e, err := OpenEvents(EventOptions{})
	check(err)
	var ids []string
	for _, h := range e.hooks {
		for _, p := range h.programs.Programs {
			info, err := p.Info()
			check(err)
			id, _ := info.ID()
			ids = append(ids, strconv.Itoa(int(id)))
		}
	}
	step("%s", strings.Join(ids, " "))
}
