package loader

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/clock"
	"rmagent/internal/sample"
	"rmagent/internal/sampletest"
	"rmagent/internal/uringtest"
)

// truth is what a process knows of a descriptor that it holds: which of its own
// calls made it.
type truth struct {
	Step     string
	FD       int
	TID      int
	Call     int // native number of the system call, or -1 minus the opcode of a request
	From, To int64
}

// birthWay is one way to get descriptors. It returns them, in the order of their
// making, with the calls that made them.
type birthWay struct {
	name string
	run  func(w *worker) []truth
}

// worker is a thread that makes and closes descriptors of its own.
type worker struct {
	tid  int
	high int // its own range of numbers begins there
	rng  *rand.Rand
	held map[int]truth
	ring *uringtest.Ring
	step string
}

// missing tells errors that mean that the kernel, or this place, lacks a call.
func missing(err error) bool {
	return err == unix.ENOSYS || err == unix.EPERM || err == unix.EINVAL || err == unix.ENODEV || err == unix.EOPNOTSUPP || err == unix.EACCES || err == unix.ENOENT
}

// call makes a system call that returns a descriptor.
func (w *worker) call(nr uintptr, args ...uintptr) []truth {
	var a [6]uintptr
	copy(a[:], args)
	from := now()
	fd, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		if missing(errno) {
			return nil
		}
		check(fmt.Errorf("%s: call %d: %w", w.step, nr, errno))
	}
	return w.made(from, int(nr), int(fd))
}

func (w *worker) made(from int64, nr int, fds ...int) (made []truth) {
	to := now()
	for _, fd := range fds {
		made = append(made, truth{Step: w.step, FD: fd, TID: w.tid, Call: nr, From: from, To: to})
	}
	return made
}

func now() int64 { return int64(clock.Monotonic()) }

func cstring(s string) uintptr {
	b, err := unix.BytePtrFromString(s)
	check(err)
	pinned = append(pinned, b)
	return uintptr(unsafe.Pointer(b))
}

// What system calls are given must not move or go; the collector is off.
var (
	pinned   []*byte
	devNull  uintptr
	theDir   uintptr
	theName  uintptr
	creatAt  uintptr
	rootPath uintptr

	openHow    unix.OpenHow
	signalMask unix.Sigset_t
	perfAttr   = unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK, Size: unix.PERF_ATTR_SIZE_VER0}
	ruleset    = [1]uint64{1}
	mapAttr    = [16]uint32{1, 4, 4, 1} // BPF_MAP_TYPE_HASH
)

func addressOf[T any](v *T) uintptr { return uintptr(unsafe.Pointer(v)) }

func one(nr uintptr, args ...uintptr) func(w *worker) []truth {
	return func(w *worker) []truth { return w.call(nr, args...) }
}

// allBirths is every way that is traced.
func allBirths() []birthWay {
	births := []birthWay{
		{"openat", one(unix.SYS_OPENAT, ^uintptr(99), devNull, unix.O_RDONLY)},
		{"openat2", one(unix.SYS_OPENAT2, ^uintptr(99), devNull, addressOf(&openHow), unsafe.Sizeof(openHow))},
		{"open directory", one(unix.SYS_OPENAT, ^uintptr(99), theDir, unix.O_DIRECTORY)},
		{"open path", one(unix.SYS_OPENAT, ^uintptr(99), theDir, unix.O_PATH)},
		{"socket", one(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0)},
		{"socket6", one(unix.SYS_SOCKET, unix.AF_INET6, unix.SOCK_DGRAM, 0)},
		{"accept4", birthByAccept},
		{"socketpair", birthBySocketpair},
		{"pipe2", birthByPipe2},
		{"dup", one(unix.SYS_DUP, 2)},
		{"dup3", func(w *worker) []truth {
			return w.call(unix.SYS_DUP3, 2, uintptr(w.high+w.rng.IntN(50)), unix.O_CLOEXEC)
		}},
		{"F_DUPFD", func(w *worker) []truth {
			return w.call(unix.SYS_FCNTL, 2, unix.F_DUPFD, uintptr(w.high+50))
		}},
		{"F_DUPFD_CLOEXEC", one(unix.SYS_FCNTL, 2, unix.F_DUPFD_CLOEXEC, 0)},
		{"eventfd2", one(unix.SYS_EVENTFD2, 0, 0)},
		{"epoll_create1", one(unix.SYS_EPOLL_CREATE1, 0)},
		{"timerfd_create", one(unix.SYS_TIMERFD_CREATE, unix.CLOCK_MONOTONIC, 0)},
		{"signalfd4", one(unix.SYS_SIGNALFD4, ^uintptr(0), addressOf(&signalMask), 8, 0)},
		{"memfd_create", one(unix.SYS_MEMFD_CREATE, theName, 0)},
		{"memfd_secret", one(unix.SYS_MEMFD_SECRET, 0)},
		{"inotify_init1", one(unix.SYS_INOTIFY_INIT1, 0)},
		{"fanotify_init", one(unix.SYS_FANOTIFY_INIT, unix.FAN_CLASS_NOTIF, unix.O_RDONLY)},
		{"userfaultfd", one(unix.SYS_USERFAULTFD, 1)},
		{"perf_event_open", one(unix.SYS_PERF_EVENT_OPEN, addressOf(&perfAttr), 0, ^uintptr(0), ^uintptr(0), 0)},
		{"pidfd_open", one(unix.SYS_PIDFD_OPEN, uintptr(os.Getpid()), 0)},
		{"pidfd_getfd", birthByPidfd},
		{"io_uring_setup", func(w *worker) []truth {
			var p uringtest.Params
			return w.call(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&p)))
		}},
		{"open_tree", one(unix.SYS_OPEN_TREE, ^uintptr(99), rootPath, 0)},
		{"fsopen", one(unix.SYS_FSOPEN, cstring("tmpfs"), 0)},
		{"fspick", one(unix.SYS_FSPICK, ^uintptr(99), rootPath, 0)},
		{"landlock_create_ruleset", one(unix.SYS_LANDLOCK_CREATE_RULESET, addressOf(&ruleset), 8, 0)},
		{"bpf", one(unix.SYS_BPF, 0, addressOf(&mapAttr), unsafe.Sizeof(mapAttr))},
		{"SCM_RIGHTS", birthByMessage},
		{"SCM_RIGHTS in two headers", birthByTwoHeaders},
		{"recvmmsg", birthByMessages},
		{"clone", birthByClone},
		{"clone3", birthByClone3},
		{"io_uring openat", birthByRing},
		{"io_uring socket", birthByRingSocket},
		{"io_uring pipe", birthByRingPipe},
		{"io_uring worker", birthByRingWorker},
	}
	for name, b := range oldBirths() {
		births = append(births, birthWay{name, b})
	}
	return births
}

func birthBySocketpair(w *worker) []truth {
	var fds [2]int32
	from := now()
	if _, _, errno := unix.RawSyscall6(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_DGRAM, 0, uintptr(unsafe.Pointer(&fds)), 0, 0); errno != 0 {
		check(errno)
	}
	return w.made(from, unix.SYS_SOCKETPAIR, int(fds[0]), int(fds[1]))
}

func birthByPipe2(w *worker) []truth {
	var fds [2]int32
	from := now()
	if _, _, errno := unix.RawSyscall(unix.SYS_PIPE2, uintptr(unsafe.Pointer(&fds)), 0, 0); errno != 0 {
		check(errno)
	}
	return w.made(from, unix.SYS_PIPE2, int(fds[0]), int(fds[1]))
}

func birthByAccept(w *worker) []truth {
	listener := w.call(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	l := listener[0].FD
	check(unix.Bind(l, &unix.SockaddrUnix{Name: ""})) // autobind
	check(unix.Listen(l, 1))
	sa, err := unix.Getsockname(l)
	check(err)
	client := w.call(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	check(unix.Connect(client[0].FD, sa))
	return append(append(listener, client...), w.call(unix.SYS_ACCEPT4, uintptr(l), 0, 0, 0)...)
}

func birthByPidfd(w *worker) []truth {
	p := w.call(unix.SYS_PIDFD_OPEN, uintptr(os.Getpid()), 0)
	return append(p, w.call(unix.SYS_PIDFD_GETFD, uintptr(p[0].FD), 2, 0)...)
}

// receive gets what was sent, and returns the descriptors in it.
func receive(w *worker, nr int, fd int, messages int) []truth {
	var hdrs [4]struct {
		unix.Msghdr
		n uint32
		_ uint32
	}
	var control [4][256]byte
	var data [4]byte
	var iovs [4]unix.Iovec
	for i := range hdrs {
		iovs[i].Base = &data[i]
		iovs[i].SetLen(1)
		hdrs[i].Iov, hdrs[i].Iovlen = &iovs[i], 1
		hdrs[i].Control = &control[i][0]
		hdrs[i].SetControllen(len(control[i]))
	}
	from := now()
	var errno unix.Errno
	if nr == unix.SYS_RECVMSG {
		_, _, errno = unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&hdrs[0])), 0)
	} else {
		_, _, errno = unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&hdrs[0])), uintptr(messages), 0, 0, 0)
	}
	if errno != 0 {
		check(errno)
	}
	var fds []int
	for i := range messages {
		parsed, err := unix.ParseSocketControlMessage(control[i][:hdrs[i].Controllen])
		check(err)
		for _, m := range parsed {
			came, err := unix.ParseUnixRights(&m)
			if err == nil {
				fds = append(fds, came...)
			}
		}
	}
	return w.made(from, nr, fds...)
}

func birthByMessage(w *worker) []truth {
	pair := birthBySocketpair(w)
	check(unix.Sendmsg(pair[0].FD, []byte{1}, unix.UnixRights(0, 1, 2), nil, 0))
	return append(pair, receive(w, unix.SYS_RECVMSG, pair[1].FD, 1)...)
}

// birthByTwoHeaders gets credentials in front of the descriptors.
func birthByTwoHeaders(w *worker) []truth {
	pair := birthBySocketpair(w)
	check(unix.SetsockoptInt(pair[1].FD, unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
	check(unix.Sendmsg(pair[0].FD, []byte{1}, unix.UnixRights(1, 2), nil, 0))
	return append(pair, receive(w, unix.SYS_RECVMSG, pair[1].FD, 1)...)
}

func birthByMessages(w *worker) []truth {
	pair := birthBySocketpair(w)
	for range 3 {
		check(unix.Sendmsg(pair[0].FD, []byte{1}, unix.UnixRights(0, 2), nil, 0))
	}
	return append(pair, receive(w, unix.SYS_RECVMMSG, pair[1].FD, 3)...)
}

//go:nosplit
//go:norace
func cloneBriefly(nr, a, b, c uintptr) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(nr, a, b, c, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

func birthByClone(w *worker) []truth {
	var fd int32
	from := now()
	pid, errno := cloneBriefly(unix.SYS_CLONE, uintptr(unix.SIGCHLD)|unix.CLONE_PIDFD, 0, uintptr(unsafe.Pointer(&fd)))
	if errno != 0 {
		check(errno)
	}
	made := w.made(from, unix.SYS_CLONE, int(fd))
	must(unix.Wait4(int(pid), nil, 0, nil))
	return made
}

func birthByClone3(w *worker) []truth {
	fd := int32(-1)
	args := [11]uint64{unix.CLONE_PIDFD, uint64(uintptr(unsafe.Pointer(&fd))), 0, 0, uint64(unix.SIGCHLD)}
	from := now()
	pid, errno := cloneBriefly(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), 64, 0)
	if errno != 0 {
		if missing(errno) {
			return nil
		}
		check(errno)
	}
	made := w.made(from, unix.SYS_CLONE3, int(fd))
	must(unix.Wait4(int(pid), nil, 0, nil))
	return made
}

// Opcodes of io_uring (include/uapi/linux/io_uring.h).
const (
	ringAccept = 13
	ringOpenat = 18
	ringClose  = 19
	ringSocket = 45
	ringPipe   = 62
	ringAsync  = 1 << 4 // IOSQE_ASYNC
)

func (w *worker) theRing() *uringtest.Ring {
	if w.ring == nil {
		w.ring = newRing()
	}
	return w.ring
}

func (w *worker) ringOpen(flags byte) []truth {
	r := w.theRing()
	from := now()
	fd := r.Run(func(sqe []byte) {
		sqe[0], sqe[1] = ringOpenat, flags
		*(*int32)(unsafe.Pointer(&sqe[4])) = unix.AT_FDCWD
		*(*uint64)(unsafe.Pointer(&sqe[16])) = uint64(devNull)
	})
	if fd < 0 {
		check(unix.Errno(-fd))
	}
	return w.made(from, -1-ringOpenat, fd)
}

func birthByRing(w *worker) []truth       { return w.ringOpen(0) }
func birthByRingWorker(w *worker) []truth { return w.ringOpen(ringAsync) }

func birthByRingSocket(w *worker) []truth {
	r := w.theRing()
	from := now()
	fd := r.Run(func(sqe []byte) {
		sqe[0] = ringSocket
		*(*int32)(unsafe.Pointer(&sqe[4])) = unix.AF_INET
		*(*uint64)(unsafe.Pointer(&sqe[8])) = unix.SOCK_STREAM
	})
	if fd == -int(unix.EINVAL) { // since 5.19
		return nil
	}
	if fd < 0 {
		check(unix.Errno(-fd))
	}
	return w.made(from, -1-ringSocket, fd)
}

func birthByRingPipe(w *worker) []truth {
	var fds [2]int32
	from := now()
	res := w.runRingPipe(&fds)
	if res == -int(unix.EINVAL) { // since 6.16
		return nil
	}
	if res < 0 {
		check(unix.Errno(-res))
	}
	return w.made(from, -1-ringPipe, int(fds[0]), int(fds[1]))
}

func (w *worker) runRingPipe(fds *[2]int32) int {
	defer runtime.KeepAlive(fds)
	return w.theRing().Run(func(sqe []byte) {
		sqe[0] = ringPipe
		*(*uint64)(unsafe.Pointer(&sqe[16])) = uint64(addressOf(fds))
	})
}

// keep notes what was made.
func (w *worker) keep(made []truth) {
	for _, m := range made {
		w.held[m.FD] = m
	}
}

// lose closes one of those held, in one of several ways.
func (w *worker) lose(fd int) {
	delete(w.held, fd)
	switch w.rng.IntN(4) {
	case 0:
		check(unix.CloseRange(uint(fd), uint(fd), 0))
	case 1:
		if w.ring != nil {
			res := w.ring.Run(func(sqe []byte) {
				sqe[0] = ringClose
				*(*int32)(unsafe.Pointer(&sqe[4])) = int32(fd)
			})
			if res == 0 {
				return
			} // it closes no ring
		}
		fallthrough
	default:
		check(unix.Close(fd))
	}
}

func newWorker(i int) *worker {
	return &worker{
		tid: unix.Gettid(), high: 2000 + 200*i,
		rng: rand.New(rand.NewPCG(uint64(i), 7)), held: map[int]truth{},
	}
}

func prepareBirths() {
	devNull, theName, rootPath = cstring("/dev/null"), cstring("torture"), cstring("/")
	dir, err := os.MkdirTemp("", "births")
	check(err)
	theDir, creatAt = cstring(dir), cstring(dir+"/created")
}

// sayHeld prints what is held, as JSON, on one line.
func sayHeld(held ...map[int]truth) {
	all := []truth{}
	for _, h := range held {
		for _, m := range h {
			all = append(all, m)
		}
	}
	b, err := json.Marshal(all)
	check(err)
	step("%s", b)
}

// helpBirths gets a descriptor in every way, once.
func helpBirths([]string) {
	prepareBirths()
	w := newWorker(0)
	births := allBirths()
	w.theRing()
	step("ready")
	for _, b := range births {
		w.step = b.name
		w.keep(b.run(w))
	}
	sayHeld(w.held)
}

// helpChurn makes and closes descriptors at random in several threads, and says what
// is left.
func helpChurn(args []string) {
	threads, err := strconv.Atoi(args[0])
	check(err)
	rounds, err := strconv.Atoi(args[1])
	check(err)
	prepareBirths()
	births := allBirths()
	var wg sync.WaitGroup
	held := make([]map[int]truth, threads)
	workers := make([]*worker, threads)
	ready := make(chan bool)
	start := make(chan bool)
	for i := range threads {
		wg.Go(func() {
			runtime.LockOSThread()
			w := newWorker(i)
			w.theRing()
			workers[i], held[i] = w, w.held
			ready <- true
			<-start
			for range rounds {
				b := &births[w.rng.IntN(len(births))]
				w.step = b.name
				w.keep(b.run(w))
				for len(w.held) > 60 {
					for fd := range w.held {
						w.lose(fd)
						break
					}
				}
			}
			ready <- true
			<-start // the thread stays, so that its TID is nobody else's
		})
	}
	for range threads {
		<-ready
	}
	step("ready")
	for range threads {
		start <- true
	}
	for range threads {
		<-ready
	}
	sayHeld(held...)
	close(start)
	wg.Wait()
}

// helpFamily shows what a child sees of its parent's descriptors, and a process that
// shares its table.
func helpFamily(args []string) {
	prepareBirths()
	w := newWorker(0)
	step("ready")
	for range 5 {
		w.step = "before the fork"
		w.keep(w.call(unix.SYS_OPENAT, ^uintptr(99), devNull, unix.O_RDONLY))
	}
	flags := uintptr(unix.SIGCHLD)
	if args[0] == "shared" {
		flags |= unix.CLONE_FILES
	}
	pid, errno := forkAndWait(flags, devNull)
	if errno != 0 {
		check(errno)
	}
	b, err := json.Marshal(w.held)
	check(err)
	step("%d %s", pid, b)
	for fd := range w.held {
		check(unix.Close(fd))
	}
	step("closed")
}

// forkAndWait forks a child that opens a file and waits to be killed.
//
//go:nosplit
//go:norace
func forkAndWait(flags, path uintptr) (uintptr, syscall.Errno) {
	parent, _, _ := syscall.RawSyscall6(syscall.SYS_GETPID, 0, 0, 0, 0, 0, 0)
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	syscall.RawSyscall6(syscall.SYS_OPENAT, ^uintptr(99), path, 0, 0, 0, 0)
	sampletest.PauseUnder(parent)
	return 0, 0
}

// helpReopening forks a child that closes what it has of its parent once that has closed its own,
// and opens as many again. On one CPU, these get the memory of those.
func helpReopening([]string) {
	var cpus unix.CPUSet
	check(unix.SchedGetaffinity(0, &cpus))
	for cpu := 0; cpus.Count() > 1; cpu++ {
		cpus.Clear(cpu)
	}
	runtime.LockOSThread()
	check(unix.SchedSetaffinity(0, &cpus))
	prepareBirths()
	var closed, reopened [2]int
	var buffer byte
	check(unix.Pipe(closed[:]))
	check(unix.Pipe(reopened[:]))
	step("ready")
	first := must(unix.Open("/dev/null", unix.O_RDONLY, 0))
	last := first
	for range 4 {
		last = must(unix.Open("/dev/null", unix.O_RDONLY, 0))
	}
	pid, errno := forkAndReopen(devNull, addressOf(&buffer), uintptr(closed[0]), uintptr(reopened[1]), uintptr(first), uintptr(last))
	if errno != 0 {
		check(errno)
	}
	for fd := first; fd <= last; fd++ {
		check(unix.Close(fd))
	}
	must(unix.Write(closed[1], []byte{0}))
	must(unix.Read(reopened[0], make([]byte, 1)))
	runtime.KeepAlive(&buffer)
	step("%d %d %d", pid, first, last)
}

// forkAndReopen forks a child that reads a byte of one descriptor, reopens others and writes a
// byte to a third.
//
//go:nosplit
//go:norace
func forkAndReopen(path, buffer, wait, tell, first, last uintptr) (uintptr, syscall.Errno) {
	parent, _, _ := syscall.RawSyscall6(syscall.SYS_GETPID, 0, 0, 0, 0, 0, 0)
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	syscall.RawSyscall6(syscall.SYS_READ, wait, buffer, 1, 0, 0, 0)
	for fd := last; fd >= first; fd-- {
		syscall.RawSyscall6(syscall.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
	}
	for fd := first; fd <= last; fd++ {
		syscall.RawSyscall6(syscall.SYS_OPENAT, ^uintptr(99), path, 0, 0, 0, 0)
	}
	syscall.RawSyscall6(syscall.SYS_WRITE, tell, buffer, 1, 0, 0, 0)
	sampletest.PauseUnder(parent)
	return 0, 0
}

// helpTracer traces its parent and says which programs it holds.
func helpTracer([]string) {
	t, err := OpenFDTracer(FDTraceOptions{})
	check(err)
	id, err := t.self()
	check(err)
	check(t.Start([]sample.ID{id}))
	for _, c := range t.programs {
		for _, p := range c.Programs {
			info, err := p.Info()
			check(err)
			programID, _ := info.ID()
			fmt.Print(programID, " ")
		}
	}
	step("")
}

// helpReborn calls exec with some descriptors that stay and some that do not, whose
// numbers others get then.
func helpReborn(args []string) {
	prepareBirths()
	w := newWorker(0)
	if len(args) > 0 {
		check(json.Unmarshal([]byte(args[0]), &w.held))
		for range 3 {
			w.step = "after the exec"
			w.keep(w.call(unix.SYS_OPENAT, ^uintptr(99), devNull, unix.O_RDONLY))
		}
		sayHeld(w.held)
		return
	}
	step("ready")
	for range 3 {
		w.step = "before the exec"
		w.keep(w.call(unix.SYS_OPENAT, ^uintptr(99), devNull, unix.O_RDONLY))
		w.call(unix.SYS_OPENAT, ^uintptr(99), devNull, unix.O_RDONLY|unix.O_CLOEXEC)
	}
	b, err := json.Marshal(w.held)
	check(err)
	exe, err := os.Executable()
	check(err)
	check(syscall.Exec(exe, []string{exe, string(b)}, append(os.Environ(), helperVariable+"=reborn")))
}

// helpFiles opens and closes files as it is told: lines of "open N" (and says their
// descriptors), "other N" (opens elsewhere in its code), "cloexec N" (until exec), "pipes N" (by a ring, as long as
// none fails, and says how the last N failed), "high N" (with
// large numbers), "churn N" (that number, over and over; it has it in the end), "close N" (the last that it opened), "limit N" (opens until it
// has failed N times) and "exec 0" (becomes the same program again).
func helpFiles([]string) {
	prepareBirths()
	runtime.LockOSThread()
	top := raiseFileLimit(300_000)
	var fds []int
	for {
		step("ready")
		var what string
		var n int
		line, err := stdin.ReadString('\n')
		check(err)
		if _, err := fmt.Sscan(line, &what, &n); err != nil {
			check(err)
		}
		switch what {
		case "open":
			for range n {
				fds = append(fds, must(unix.Open("/dev/null", unix.O_RDONLY, 0)))
			}
			sayLast(fds, n)
		case "other":
			for range n {
				fds = append(fds, openElsewhere())
			}
			sayLast(fds, n)
		case "cloexec":
			for range n {
				fds = append(fds, must(unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)))
			}
			sayLast(fds, n)
		case "high":
			for range n {
				fds = append(fds, must(unix.FcntlInt(0, unix.F_DUPFD, top-n)))
			}
			sayLast(fds, n)
		case "churn":
			rounds := 100_000
			if emulated() {
				rounds = 5000
			}
			for range rounds {
				check(unix.Close(must(unix.FcntlInt(0, unix.F_DUPFD, n))))
			}
			fds = append(fds, must(unix.FcntlInt(0, unix.F_DUPFD, n)))
		case "pipes":
			check(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: uint64(top)}))
			w := newWorker(0)
			var pipe [2]int32
			for failed := 0; failed < n; {
				if res := w.runRingPipe(&pipe); res < 0 {
					failed++
					fmt.Println(-res)
				}
			}
		case "exec":
			exe, err := os.Executable()
			check(err)
			check(syscall.Exec(exe, []string{exe}, append(os.Environ(), helperVariable+"=files")))
		case "close":
			for range n {
				check(unix.Close(fds[len(fds)-1]))
				fds = fds[:len(fds)-1]
			}
		case "limit":
			check(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64}))
			for n > 0 {
				fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
				if err == unix.EMFILE {
					n--
					continue
				}
				check(err)
				fds = append(fds, fd)
			}
		case "namespace":
			ns := must(unix.Open("/proc/self/ns/mnt", unix.O_RDONLY, 0))
			const NS_GET_USERNS = 0xb701 // ioctl_nsfs(2): returns a descriptor
			fmt.Println(must(unix.IoctlRetInt(ns, NS_GET_USERNS)))
		}
	}
}

// helpRivals has descriptors come with a message, over and over, and another thread close them
// as soon as it can, from the last one on, and give their numbers to another file: while the
// hook of the call that made them goes through them from the first one on. Each time it says
// which these are, and which thread the other is.
func helpRivals(args []string) {
	rounds, err := strconv.Atoi(args[0])
	check(err)
	const many = 100
	runtime.LockOSThread()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	check(err)
	zero := must(unix.Open("/dev/zero", unix.O_RDONLY, 0))
	first := must(unix.FcntlInt(0, unix.F_DUPFD, 0))
	check(unix.Close(first))
	last := first + many - 1
	take, taken := make(chan bool), make(chan int)
	go func() {
		runtime.LockOSThread()
		taken <- unix.Gettid()
		for range take {
			taken <- 0
			for fd := last; fd >= first; fd-- {
				for unix.Close(fd) != nil {
				}
				if must(unix.FcntlInt(uintptr(zero), unix.F_DUPFD, fd)) != fd {
					check(unix.EBUSY)
				}
			}
			taken <- 0
		}
	}()
	other := <-taken
	control := make([]byte, unix.CmsgSpace(4*many))
	step("ready")
	for range rounds {
		check(unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(make([]int, many)...), nil, 0))
		take <- true
		<-taken
		_, _, _, _, err := unix.Recvmsg(pair[1], make([]byte, 1), control, 0)
		check(err)
		<-taken
		step("%d %d %d", first, last, other)
		check(unix.CloseRange(uint(first), uint(last), 0))
	}
}

// raiseFileLimit says what the limit is then: without CAP_SYS_RESOURCE, what it was at most.
func raiseFileLimit(to uint64) int {
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: to, Max: to}) == nil {
		return int(to)
	}
	var now unix.Rlimit
	check(unix.Getrlimit(unix.RLIMIT_NOFILE, &now))
	check(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: now.Max, Max: now.Max}))
	return int(now.Max)
}

//go:noinline
func openElsewhere() int { return must(unix.Open("/dev/null", unix.O_RDONLY, 0)) }

func sayLast(fds []int, n int) {
	for _, fd := range fds[len(fds)-n:] {
		fmt.Println(fd)
	}
}
