package sampletest

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

var helpers map[string]func(args []string)

func init() {
	helpers = map[string]func([]string){
		"still":        func([]string) { ready(); wait() },
		"burn":         func([]string) { burn(burnNanos); fmt.Println(cpuTime()); ready(); wait() },
		"touch":        touch,
		"io":           doIO,
		"threads":      func([]string) { holdThreads(manyThreads); ready(); wait() },
		"dyingthreads": dyingThreads,
		"churn":        churn,
		"deadleader":   deadLeader,
		"unshared":     unshared,
		"shared":       shared,
		"table":        table,
		"dense":        dense,
		"hostile":      func([]string) { must(os.WriteFile("/proc/self/comm", []byte(hostileName), 0)); ready(); wait() },
		"uid":          uid,
		"exec":         execSelf,
		"execs":        execs,
		"vfork":        vfork,
		"storm":        storm,
		"crowd":        crowd,
	}
}

// What the helpers do, where a test needs to know it.
const (
	hostileName    = "a) R 1 (\n\x1b\xff"
	manyThreads    = 300
	dyingThreadsN  = 1000
	burnNanos      = 200e6
	touchedBytes   = 48 << 20
	writtenBytes   = 3 << 20
	readBytes      = 2 << 20
	unsharedExtra  = 7
	deadLeaderOpen = 21
	realUID        = 54321
)

func ready() { fmt.Println("ready") }

func wait() {
	var b [1]byte
	for {
		n, err := unix.Read(0, b[:])
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			os.Exit(0)
		}
		return
	}
}

func must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func number(args []string, i int) int {
	n, err := strconv.Atoi(args[i])
	must(err)
	return n
}

func cpuTime() int64 {
	var t unix.Timespec
	must(unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t))
	return t.Nano()
}

func burn(nanos int64) {
	var x uint64
	for end := cpuTime() + nanos; cpuTime() < end; {
		for range 1 << 12 {
			x += x<<1 + 1
		}
	}
	runtime.KeepAlive(x)
}

func touch([]string) {
	m := mapTouched(touchedBytes, unix.MAP_PRIVATE)
	s := mapTouched(touchedBytes/2, unix.MAP_SHARED)
	ready()
	wait()
	must(unix.Munmap(m)) // the peak stays
	ready()
	wait()
	runtime.KeepAlive(s)
}

func mapTouched(size, flags int) []byte {
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_ANON)
	must(err)
	must(unix.Madvise(m, unix.MADV_NOHUGEPAGE))
	for i := 0; i < len(m); i += os.Getpagesize() {
		m[i] = 1
	}
	return m
}

// doIO prints the bytes it wrote and read until the last moment.
func doIO([]string) {
	ready()
	wait()
	file, err := os.CreateTemp("", "sampletest")
	must(err)
	must(os.Remove(file.Name()))
	b := make([]byte, 1<<20)
	for range writtenBytes >> 20 {
		_, err := file.Write(b)
		must(err)
	}
	for i := range readBytes >> 20 {
		_, err := file.ReadAt(b, int64(i)<<20)
		must(err)
	}
	ready()
	wait()
}

// holdThreads leaves n further threads blocked in a read.
func holdThreads(n int) {
	var p [2]int
	must(unix.Pipe(p[:]))
	started := make(chan bool)
	for range n {
		go func() {
			runtime.LockOSThread()
			started <- true
			unix.Read(p[0], make([]byte, 1))
		}()
		<-started
	}
}

// dyingThreads has many threads that work and end: each burns CPU, writes a byte
// and touches a page of its own. It prints what they did in all.
func dyingThreads([]string) {
	page := os.Getpagesize()
	m, err := unix.Mmap(-1, 0, dyingThreadsN*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	must(err)
	must(unix.Madvise(m, unix.MADV_NOHUGEPAGE))
	null, err := unix.Open("/dev/null", unix.O_WRONLY, 0)
	must(err)
	ready()
	wait()
	for i := range dyingThreadsN {
		onDyingThread(func() {
			m[i*page] = 1
			burn(50e3)
			unix.Write(null, []byte{1})
		})
	}
	fmt.Println(cpuTime())
	ready()
	wait()
}

// onDyingThread runs f on a thread that ends before it returns.
func onDyingThread(f func()) {
	ended := make(chan int)
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread ends with it
		f()
		ended <- unix.Gettid()
	}()
	tid := <-ended
	for unix.Tgkill(os.Getpid(), tid, 0) == nil {
		runtime.Gosched()
	}
}

// churn starts and ends threads until it is killed.
func churn([]string) {
	ready()
	for {
		var g sync.WaitGroup
		for range 8 {
			g.Add(1)
			go func() {
				defer g.Done()
				runtime.LockOSThread()
				burn(20e3)
			}()
		}
		g.Wait()
	}
}

func openMany(n int) {
	for range n {
		_, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
		must(err)
	}
}

// deadLeader ends the leader's thread; others go on.
func deadLeader([]string) {
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

// unshared has one thread with a descriptor table of its own, and more in it. It
// prints how many descriptors each table has.
func unshared([]string) {
	done := make(chan int)
	go func() {
		runtime.LockOSThread()
		must(unix.Unshare(unix.CLONE_FILES))
		openMany(unsharedExtra)
		var p [2]int
		must(unix.Pipe(p[:]))
		done <- openHere()
		unix.Read(p[0], make([]byte, 1))
	}()
	thread := <-done
	fmt.Println(thread, openHere())
	ready()
	wait()
}

// openHere counts the descriptors of this thread, without the one it takes.
func openHere() int {
	entries, err := os.ReadDir("/proc/thread-self/fd")
	must(err)
	return len(entries) - 1
}

// shared has a child with which it shares its descriptor table, and one with a
// copy. It prints their PIDs.
func shared([]string) {
	fmt.Println(pausedChild(unix.CLONE_FILES))
	fmt.Println(pausedChild(0))
	ready()
	wait()
}

// pausedChild forks a child that sleeps until its parent dies.
func pausedChild(flags uintptr) int {
	pid, errno := ForkPaused(flags)
	if errno != 0 {
		must(errno)
	}
	return int(pid)
}

// ForkPaused runs nothing in the child that Go's runtime would have to know of.
//
//go:nosplit
//go:norace
func ForkPaused(flags uintptr) (uintptr, syscall.Errno) {
	parent, _, _ := syscall.RawSyscall6(syscall.SYS_GETPID, 0, 0, 0, 0, 0, 0)
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		PauseUnder(parent)
	}
	return pid, errno
}

// PauseUnder is for a child that was forked by a raw call: it waits until the parent
// ends, and ends then.
//
//go:nosplit
//go:norace
func PauseUnder(parent uintptr) {
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	// A parent that died before that sends no signal: prctl(2).
	for {
		now, _, _ := syscall.RawSyscall6(syscall.SYS_GETPPID, 0, 0, 0, 0, 0, 0)
		if now != parent {
			syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
		}
		syscall.RawSyscall6(syscall.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// forkBrief forks a child that ends after so many nanoseconds.
//
//go:nosplit
//go:norace
func forkBrief(life *unix.Timespec) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	syscall.RawSyscall6(syscall.SYS_PPOLL, 0, 0, uintptr(unsafe.Pointer(life)), 0, 0, 0)
	for {
		syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
	}
}

// table opens the descriptors that its arguments name, raising its limit to them.
func table(args []string) {
	highest := number(args, len(args)-1)
	limit := unix.Rlimit{Cur: uint64(highest) + 1, Max: uint64(highest) + 1}
	must(unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil))
	for i := range args {
		must(unix.Dup3(2, number(args, i), 0))
	}
	ready()
	wait()
}

// dense opens its argument's number of descriptors.
func dense(args []string) {
	n := uint64(number(args, 0))
	var limit unix.Rlimit
	must(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	limit = unix.Rlimit{Cur: max(limit.Cur, n+100), Max: max(limit.Max, n+100)}
	must(unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil))
	openMany(int(n))
	ready()
	wait()
}

// uid is root by effect, and another user in truth.
func uid([]string) {
	must(syscall.Setresuid(realUID, 0, 0))
	ready()
	wait()
}

// execSelf becomes another program twice: called by the leader, then by another
// thread, which takes the leader's PID.
func execSelf(args []string) {
	ready()
	wait()
	step := 0
	if len(args) > 0 {
		step = number(args, 0)
	}
	must(os.Setenv(helperVariable, fmt.Sprintf("exec %d", step+1)))
	switch step {
	case 0:
		must(syscall.Exec("/proc/self/exe", []string{"exec"}, os.Environ()))
	case 1:
		go func() {
			runtime.LockOSThread()
			must(syscall.Exec("/proc/self/exe", []string{"exec"}, os.Environ()))
		}()
		select {}
	}
	wait()
}

// execs calls exec from one thread after another, until it is killed: each time the
// process has another leader.
func execs(args []string) {
	if len(args) == 0 {
		ready()
		must(os.Setenv(helperVariable, "execs again"))
	}
	go func() {
		runtime.LockOSThread()
		must(syscall.Exec("/proc/self/exe", []string{"execs"}, os.Environ()))
	}()
	select {}
}

// vfork is in an uninterruptible sleep until its child ends.
func vfork([]string) {
	ready()
	pid, errno := ForkPaused(unix.CLONE_VFORK)
	fmt.Println("unexpected end", pid, errno)
}

// storm keeps its argument's number of children alive, each for up to 2 ms.
func storm(args []string) {
	width := number(args, 0)
	ready()
	lives := make([]unix.Timespec, 64)
	for i := range lives {
		lives[i].Nsec = int64(i) * 2e6 / 64
	}
	for n := 0; ; n++ {
		if n >= width {
			unix.Wait4(-1, nil, 0, nil)
		}
		if _, errno := forkBrief(&lives[n%len(lives)]); errno != 0 {
			must(errno)
		}
	}
}

// crowd prints the PIDs of its argument's number of sleeping children.
func crowd(args []string) {
	for range number(args, 0) {
		fmt.Println(pausedChild(0))
	}
	ready()
	wait()
}
