package job

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rmagent/internal/uringtest"

	"golang.org/x/sys/unix"
)

// The jobs of these tests are this test binary, told by the environment what to do, so
// that a guest needs no other program.
const helperVariable = "RMAGENT_JOB_HELPER"

func TestMain(m *testing.M) {
	if words := strings.Fields(os.Getenv(helperVariable)); len(words) > 0 {
		helpers[words[0]](words[1:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helper is a command that does what its words say.
func helper(words ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVariable+"="+strings.Join(words, " "))
	cmd.Stderr = os.Stderr
	return cmd
}

var helpers map[string]func(args []string)

func init() { // they name each other
	helpers = map[string]func(args []string){
		"nothing": func([]string) {},
		"busy":    helpBusy,
		"tree":    helpTree,
		"threads": helpThreads,
		"tcp":     helpTCP,
		"workers": helpWorkers,
		"exec":    helpExec,
		"daemon":  helpDaemon,
		"hop":     helpHop,
		"stay":    helpStay,
		"memory":  helpMemory,
		"files":   helpFiles,
		"write":   helpWrite,
		"user":    helpUser,

		"headless": helpHeadless,
		"chain":    helpChain,
		"few":      helpFew,
		"root":     helpRoot,
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	check(err)
	return n
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(3)
	}
}

// busy MS: takes so much CPU time of the process.
func helpBusy(args []string) {
	end := time.Duration(number(args[0])) * time.Millisecond
	for cpu := time.Duration(0); cpu < end; {
		var ts unix.Timespec
		check(unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts))
		cpu = time.Duration(ts.Nano())
	}
}

// tree ROUNDS N [MS]: in each round N children live at the same time, for so long.
func helpTree(args []string) {
	for range number(args[0]) {
		var children []*exec.Cmd
		var gates []io.Closer
		for range number(args[1]) {
			c := helper("stay")
			gate, err := c.StdinPipe()
			check(err)
			check(c.Start())
			children, gates = append(children, c), append(gates, gate)
		}
		if len(args) > 2 {
			time.Sleep(time.Duration(number(args[2])) * time.Millisecond)
		}
		for i, c := range children {
			gates[i].Close()
			check(c.Wait())
		}
	}
}

// stay: until its input ends.
func helpStay([]string) { io.Copy(io.Discard, os.Stdin) }

// threads N: so many threads that end before the process does.
func helpThreads(args []string) {
	var wg sync.WaitGroup
	for range number(args[0]) {
		wg.Go(func() {
			runtime.LockOSThread() // and ends with it
			helpBusy([]string{"1"})
		})
	}
	wg.Wait()
}

// tcp ADDRESS BYTES: so much there and back.
func helpTCP(args []string) {
	c, err := net.Dial("tcp", args[0])
	check(err)
	n := int64(number(args[1]))
	go func() {
		_, err := io.CopyN(c, zeros{}, n)
		check(err)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.Copy(io.Discard, c)
	check(err)
	if got != n {
		check(fmt.Errorf("%d bytes came back of %d", got, n))
	}
}

// workers ADDRESS BYTES: a thread that the kernel made for io_uring sends so many.
func helpWorkers(args []string) {
	c, err := net.Dial("tcp", args[0])
	check(err)
	f, err := c.(*net.TCPConn).File() // it blocks
	check(err)
	ring, err := uringtest.New()
	check(err)
	b := make([]byte, 1<<16)
	for left := number(args[1]); left > 0; {
		const send = 26 // IORING_OP_SEND
		n, err := ring.Async(send, int(f.Fd()), b[:min(left, len(b))])
		check(err)
		left -= n
	}
	names, err := filepath.Glob("/proc/self/task/*/comm")
	check(err)
	for _, name := range names {
		if comm, _ := os.ReadFile(name); strings.HasPrefix(string(comm), "iou-wrk-") {
			return
		}
	}
	check(errors.New("no worker of io_uring is among the threads"))
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// exec: another thread than the leader calls exec.
func helpExec([]string) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() { // the leader: another goroutine gets another thread
			helpExec(nil)
			return
		}
		helpBusy([]string{"20"})
		os.Setenv(helperVariable, "busy 20")
		check(syscall.Exec("/proc/self/exe", []string{"again"}, os.Environ()))
	}()
	select {}
}

// daemon MS: a process of a session of its own that outlives its parent.
func helpDaemon(args []string) {
	c := helper("busy", args[0])
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	check(c.Start())
}

// hop MS: for so long, a process starts its successor and ends.
func helpHop(args []string) {
	left := number(args[0])
	begin := time.Now()
	if left <= 0 {
		return
	}
	c := helper("hop", strconv.Itoa(left-max(1, int(time.Since(begin).Milliseconds()))-20))
	check(c.Start())
}

func init() {
	if strings.HasPrefix(os.Getenv(helperVariable), "headless") {
		runtime.LockOSThread() // main stays on the first thread
	}
}

// headless MS: the first thread ends, and three others that long after.
func helpHeadless(args []string) {
	for range 3 {
		go func() {
			runtime.LockOSThread()
			time.Sleep(time.Duration(number(args[0])) * time.Millisecond)
			os.Exit(0)
		}()
	}
	unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
}

// chain N MS: a process that starts one, N times, and the last lives that long.
func helpChain(args []string) {
	left := number(args[0])
	if left == 0 {
		time.Sleep(time.Duration(number(args[1])) * time.Millisecond)
		return
	}
	c := helper("chain", strconv.Itoa(left-1), args[1])
	check(c.Start())
	check(c.Wait())
}

// few N WORDS: may have so few descriptors.
func helpFew(args []string) {
	n := uint64(number(args[0]))
	check(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}))
	helpers[args[1]](args[2:])
}

// root MIB MS: becomes root, takes so much and lives that long. Its program is set-user-ID.
func helpRoot(args []string) {
	check(syscall.Setresuid(0, 0, 0))
	touch(number(args[0]))
	args = args[1:]
	time.Sleep(time.Duration(number(args[0])) * time.Millisecond)
}

// memory MIB: touches so much, and waits for the end of its input.
func helpMemory(args []string) {
	touch(number(args[0]))
	fmt.Println("ready")
	helpStay(nil)
}

func touch(mib int) {
	b, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	check(err)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
}

// files N: opens so many more, and ends.
func helpFiles(args []string) {
	for range number(args[0]) {
		_, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		check(err)
	}
}

// write FILE BYTES, and reads them again.
func helpWrite(args []string) {
	f, err := os.Create(args[0])
	check(err)
	n := int64(number(args[1]))
	b := make([]byte, 1<<16)
	for at := int64(0); at < n; at += int64(len(b)) {
		_, err := f.WriteAt(b, at)
		check(err)
	}
	for at := int64(0); at < n; at += int64(len(b)) {
		_, err := f.ReadAt(b, at)
		check(err)
	}
}
