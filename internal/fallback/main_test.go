package fallback

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
	"rmagent/internal/sampletest"
)

// helperVariable makes this test binary a process to be measured: it becomes
// what the variable says, writes "ready" and waits for its input to end.
const helperVariable = "FALLBACK_TEST_HELPER"

func init() {
	if os.Getenv(helperVariable) != "" {
		runtime.LockOSThread() // main stays on the leader
	}
}

func TestMain(m *testing.M) {
	if kind := os.Getenv(helperVariable); kind != "" {
		helpers[kind]()
		os.Exit(0)
	}
	sampletest.Main(m)
}

var helpers = map[string]func(){
	"still":          func() { ready(); wait() },
	"burn":           func() { burn(); ready(); wait() },
	"hostile":        func() { rename(hostileName); ready(); wait() },
	"dead leader":    deadLeader,
	"unshared":       unshared,
	"touch":          touch,
	"write":          func() { writeFile(); ready(); wait() },
	"threads":        func() { threads(); ready(); wait() },
	"read as nobody": becomeNobody,
}

// The helper's state where the test needs to know it.
const (
	hostileName    = "a) R 1 (\n\x1b\xff"
	helperThreads  = 40
	touchedBytes   = 48 << 20
	unsharedExtra  = 7
	deadLeaderOpen = 21
	writtenBytes   = 3 << 20
)

func ready() { fmt.Println("ready") }
func wait()  { io.Copy(io.Discard, os.Stdin) }

func must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func rename(name string) { must(os.WriteFile("/proc/self/comm", []byte(name), 0)) }

func burn() {
	var x uint64
	for cpuTime() < 300e6 {
		for range 1 << 16 {
			x += x<<1 + 1
		}
	}
	runtime.KeepAlive(x)
}

func cpuTime() int64 {
	var t unix.Timespec
	must(unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t))
	return t.Nano()
}

func openMany(n int) {
	for range n {
		_, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
		must(err)
	}
}

// deadLeader ends the leader's thread; another one goes on.
func deadLeader() {
	openMany(deadLeaderOpen)
	go func() {
		runtime.LockOSThread()
		for leaderState() != 'Z' {
			runtime.Gosched()
		}
		ready()
		wait()
		os.Exit(0)
	}()
	unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
}

func leaderState() byte {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", os.Getpid()))
	must(err)
	return b[strings.LastIndexByte(string(b), ')')+2]
}

// unshared has one thread with a descriptor table of its own, and more in it.
func unshared() {
	done := make(chan int)
	go func() {
		runtime.LockOSThread()
		must(unix.Unshare(unix.CLONE_FILES))
		openMany(unsharedExtra)
		entries, err := os.ReadDir("/proc/thread-self/fd")
		must(err)
		done <- len(entries) - 1
		select {}
	}()
	own := <-done
	entries, err := os.ReadDir("/proc/self/fd")
	must(err)
	fmt.Println(own, len(entries)-1)
	ready()
	wait()
}

func touch() {
	m, err := unix.Mmap(-1, 0, touchedBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	must(err)
	for i := 0; i < len(m); i += 4096 {
		m[i] = 1
	}
	shared, err := unix.Mmap(-1, 0, touchedBytes/2, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON)
	must(err)
	for i := 0; i < len(shared); i += 4096 {
		shared[i] = 1
	}
	ready()
	wait()
	runtime.KeepAlive(m)
	runtime.KeepAlive(shared)
}

func writeFile() {
	f, err := os.CreateTemp("", "written")
	must(err)
	os.Remove(f.Name())
	b := make([]byte, 1<<20)
	for range writtenBytes >> 20 {
		_, err := f.Write(b)
		must(err)
	}
}

func threads() {
	started := make(chan bool)
	for range helperThreads {
		go func() {
			runtime.LockOSThread()
			started <- true
			var p [2]int
			must(unix.Pipe(p[:]))
			unix.Read(p[0], make([]byte, 1)) // holds its thread
		}()
		<-started
	}
}

// start runs a helper until the test ends and returns it and what it wrote before
// "ready".
func start(t *testing.T, kind string) (c *childtest.Child, said []string) {
	t.Helper()
	c = childtest.Start(t, childtest.Itself(helperVariable, kind))
	return c, c.Ready()
}
