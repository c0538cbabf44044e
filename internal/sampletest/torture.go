package sampletest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// errSkip says that the kernel lacks what a step needs.
type errSkip string

func (e errSkip) Error() string { return string(e) }

// step makes or closes descriptors in one way.
type step struct {
	name string
	run  func(d *descriptors) error
}

// descriptors are what the torture has to work with.
type descriptors struct {
	dir      string
	unix     [2]int // a socket pair
	listener int
	address  unix.Sockaddr
}

// steps is every way in which a system call of a process makes or closes
// descriptors of its own.
var steps = []step{
	{"open", func(d *descriptors) error { return one(unix.Open(d.dir+"/a", unix.O_RDWR|unix.O_CREAT, 0o600)) }},
	{"openat2", func(d *descriptors) error {
		return one(unix.Openat2(unix.AT_FDCWD, d.dir+"/a", &unix.OpenHow{Flags: unix.O_RDONLY}))
	}},
	{"creat", func(d *descriptors) error { return one(unix.Creat(d.dir+"/b", 0o600)) }},
	{"opendir", func(d *descriptors) error { return one(unix.Open(d.dir, unix.O_DIRECTORY, 0)) }},
	{"path", func(d *descriptors) error { return one(unix.Open(d.dir, unix.O_PATH, 0)) }},
	{"fifo", func(d *descriptors) error {
		if err := unix.Mkfifo(d.dir+"/f", 0o600); err != nil {
			return err
		}
		return one(unix.Open(d.dir+"/f", unix.O_RDWR, 0))
	}},
	{"socket", func(*descriptors) error { return one(unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)) }},
	{"netlink", func(*descriptors) error { return one(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)) }},
	{"accept4", accept},
	{"socketpair", func(*descriptors) error {
		_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
		return err
	}},
	{"pipe2", func(*descriptors) error { return unix.Pipe2(make([]int, 2), unix.O_NONBLOCK) }},
	{"dup", func(*descriptors) error { return one(unix.Dup(2)) }},
	{"dup2 onto nothing", func(*descriptors) error { return unix.Dup3(2, 700, 0) }},
	{"dup2 onto another", func(d *descriptors) error { return unix.Dup3(d.listener, 700, 0) }},
	{"dup3", func(*descriptors) error { return unix.Dup3(2, 701, unix.O_CLOEXEC) }},
	{"F_DUPFD", func(*descriptors) error { return one(unix.FcntlInt(2, unix.F_DUPFD, 720)) }},
	{"F_DUPFD_CLOEXEC", func(*descriptors) error { return one(unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 720)) }},
	{"eventfd", func(*descriptors) error { return one(unix.Eventfd(0, 0)) }},
	{"epoll", func(*descriptors) error { return one(unix.EpollCreate1(0)) }},
	{"timerfd", func(*descriptors) error { return one(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0)) }},
	{"signalfd", func(*descriptors) error { return one(unix.Signalfd(-1, &unix.Sigset_t{}, 0)) }},
	{"memfd", func(*descriptors) error { return one(unix.MemfdCreate("torture", 0)) }},
	{"inotify", func(*descriptors) error { return one(unix.InotifyInit1(0)) }},
	{"fanotify", func(*descriptors) error { return one(unix.FanotifyInit(unix.FAN_CLASS_NOTIF, unix.O_RDONLY)) }},
	{"userfaultfd", func(*descriptors) error {
		fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, 1 /* UFFD_USER_MODE_ONLY */, 0, 0)
		if errno == unix.EINVAL { // before 5.11
			fd, _, errno = unix.Syscall(unix.SYS_USERFAULTFD, 0, 0, 0)
		}
		return raw(fd, errno)
	}},
	{"perf_event", func(*descriptors) error {
		return one(unix.PerfEventOpen(&unix.PerfEventAttr{
			Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK, Size: unix.PERF_ATTR_SIZE_VER0,
		}, 0, -1, -1, 0))
	}},
	{"pidfd_open", func(*descriptors) error { return one(unix.PidfdOpen(os.Getpid(), 0)) }},
	{"pidfd_getfd", func(*descriptors) error {
		pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
		if err != nil {
			return err
		}
		return one(unix.PidfdGetfd(pidfd, 2, 0))
	}},
	{"SCM_RIGHTS", passRights},
	{"io_uring", openByRing},
	{"io_uring accept", acceptByRing},
	{"close", func(*descriptors) error { return unix.Close(700) }},
	{"CLOSE_RANGE_CLOEXEC closes nothing", func(*descriptors) error {
		return unix.CloseRange(720, 730, unix.CLOSE_RANGE_CLOEXEC)
	}},
	{"close_range", func(*descriptors) error { return unix.CloseRange(701, 800, 0) }},
	{"a failing open", func(d *descriptors) error {
		if _, err := unix.Open(d.dir+"/none", unix.O_RDONLY, 0); err != unix.ENOENT {
			return fmt.Errorf("open what is not there: %v", err)
		}
		return nil
	}},
	{"a limit below what is open", func(*descriptors) error {
		return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 8, Max: 4096})
	}},
}

// opens is how many descriptors more are open after a step, where it is not one.
var opens = map[string]int{
	"accept4":                            2, // and the client's
	"socketpair":                         2,
	"pipe2":                              2,
	"dup2 onto another":                  0,
	"pidfd_getfd":                        2, // and the pidfd
	"SCM_RIGHTS":                         3,
	"io_uring":                           2, // and the ring
	"io_uring accept":                    3, // and the client's
	"close":                              -1,
	"close_range":                        -3, // 701, 720, 721
	"a failing open":                     0,
	"CLOSE_RANGE_CLOEXEC closes nothing": 0,
	"a limit below what is open":         0,
}

// one drops the descriptor: it stays open.
func one(_ int, err error) error { return err }

func raw(_ uintptr, errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

func accept(d *descriptors) error {
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(client, d.address); err != nil {
		return err
	}
	_, _, err = unix.Accept4(d.listener, unix.SOCK_NONBLOCK)
	return err
}

// passRights sends itself three descriptors.
func passRights(d *descriptors) error {
	rights := unix.UnixRights(0, 1, 2)
	if err := unix.Sendmsg(d.unix[0], []byte{1}, rights, nil, 0); err != nil {
		return err
	}
	_, _, _, _, err := unix.Recvmsg(d.unix[1], make([]byte, 1), make([]byte, 256), 0)
	return err
}

// openByRing opens /dev/null by io_uring, which installs the descriptor without an
// open system call. The offsets are those of struct io_uring_params, io_uring_sqe
// and io_uring_cqe (include/uapi/linux/io_uring.h).
func openByRing(*descriptors) error {
	path := []byte("/dev/null\x00")
	defer runtime.KeepAlive(path)
	atCwd := int32(unix.AT_FDCWD)
	return byRing(18 /* IORING_OP_OPENAT */, uint32(atCwd), uintptr(unsafe.Pointer(&path[0])))
}

// acceptByRing accepts a connection by io_uring.
func acceptByRing(d *descriptors) error {
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(client, d.address); err != nil {
		return err
	}
	err = byRing(13 /* IORING_OP_ACCEPT */, uint32(d.listener), 0)
	if _, skipped := err.(errSkip); skipped {
		unix.Close(client)
	}
	return err
}

// byRing has a new ring, which stays open, carry out one operation on a descriptor.
func byRing(operation byte, on uint32, address uintptr) error {
	var params [120]byte
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno == unix.ENOSYS || errno == unix.EPERM {
		return errSkip("io_uring_setup: " + errno.Error())
	}
	if errno != 0 {
		return errno
	}
	word := func(b []byte, at uint32) *uint32 { return (*uint32)(unsafe.Pointer(&b[at])) }
	p := params[:]
	rings, err := unix.Mmap(int(fd), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(rings)
	entries, err := unix.Mmap(int(fd), 0x10000000, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(entries)
	entries[0] = operation
	*word(entries, 4) = on
	*(*uint64)(unsafe.Pointer(&entries[16])) = uint64(address)
	*word(rings, *word(p, 40+24)) = 0                                                                        // sq_off.array: entry 0
	head, tail, mask := word(rings, *word(p, 80)), word(rings, *word(p, 80+4)), *word(rings, *word(p, 80+8)) // cq_off
	for {
		*word(rings, *word(p, 40+4))++ // sq_off.tail
		for *head == *tail {           // a signal ends the wait
			_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, fd, 1, 1, 1 /* IORING_ENTER_GETEVENTS */, 0, 0)
			if errno != 0 && errno != unix.EINTR {
				return errno
			}
		}
		at := *word(p, 80+20) + 16*(*head&mask) // cq_off.cqes
		*head++
		result := int32(*word(rings, at+8)) // res
		switch {
		case result >= 0:
			return nil
		case unix.Errno(-result) != unix.ECANCELED: // that is: signals kept the kernel from starting a worker
			return unix.Errno(-result)
		}
	}
}

// torture takes the steps one by one, and says before each how many descriptors it
// has open by its own count.
func torture(args []string) {
	d := &descriptors{dir: args[0]}
	var err error
	d.unix, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(err)
	d.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	must(err)
	must(unix.Bind(d.listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(unix.Listen(d.listener, 8))
	d.address, err = unix.Getsockname(d.listener)
	must(err)
	count, err := unix.Open("/proc/self/fd", unix.O_DIRECTORY, 0) // while the limit allows
	must(err)
	for _, s := range steps {
		outcome := "done"
		if err := s.run(d); err != nil {
			if _, skipped := err.(errSkip); !skipped {
				must(fmt.Errorf("%s: %w", s.name, err))
			}
			outcome = "skipped: " + err.Error()
		}
		fmt.Println(entriesIn(count), s.name+":", outcome)
		ready()
		wait()
	}
}

// entriesIn counts the entries of an open directory but for . and ...
func entriesIn(dir int) int {
	_, err := unix.Seek(dir, 0, 0)
	must(err)
	n := 0
	buf := make([]byte, 64<<10)
	for {
		used, err := unix.Getdents(dir, buf)
		must(err)
		if used <= 0 {
			return n
		}
		_, seen, _ := unix.ParseDirent(buf[:used], -1, nil)
		n += seen
	}
}

// cloexec opens some descriptors that an exec closes and some that it keeps, and
// then calls exec.
func cloexec(args []string) {
	if len(args) == 0 {
		openMany(3)
		for range 5 {
			must(one(unix.Open("/dev/null", unix.O_CLOEXEC, 0)))
		}
		ready()
		wait()
		must(os.Setenv(helperVariable, "cloexec again"))
		must(unix.Exec("/proc/self/exe", []string{"cloexec"}, os.Environ()))
	}
	ready()
	wait()
}

func init() {
	helpers["torture"] = torture
	helpers["cloexec"] = cloexec
	helpers["unsharer"] = unsharer
	helpers["opener"] = opener
}

// unsharer has a child of one thread that takes a table of its own by close_range
// and closes all but 0 to 2. It prints its PID.
func unsharer([]string) {
	openMany(4)
	pid, errno := forkUnsharing()
	if errno != 0 {
		must(errno)
	}
	fmt.Println(pid)
	ready()
	wait()
}

//go:nosplit
//go:norace
func forkUnsharing() (uintptr, syscall.Errno) {
	parent, _, _ := syscall.RawSyscall6(syscall.SYS_GETPID, 0, 0, 0, 0, 0, 0)
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, unix.CLONE_FILES|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, 3, 1<<20, unix.CLOSE_RANGE_UNSHARE, 0, 0, 0)
		PauseUnder(parent)
	}
	return pid, errno
}

func testCloseRangeUnshare(t *testing.T, s *suite) {
	s.want(sample.FDOpen)
	helper := start(t, "unsharer")
	child := int32(helper.numbers(1)[0])
	awaitState(t, child, 'S')
	s.both(child, func(p *sample.Process) {
		if p.FDOpen != 3 {
			t.Errorf("read %d descriptors of the one that closed all but 3", p.FDOpen)
		}
	})
	want := procFDs(t, helper.pid)
	s.both(helper.pid, func(p *sample.Process) {
		if p.FDOpen != want || want < 7 {
			t.Errorf("read %d descriptors of the other, /proc has %d", p.FDOpen, want)
		}
	})
}

// Of an opener's published word: how many descriptors it made or closed, and below
// how many it has of those.
const publishedBits = 20

// opener opens and closes descriptors until it is killed, and says after each in
// the file that its argument names how often it did and how many there are.
func opener(args []string) {
	fd, err := unix.Open(args[0], unix.O_RDWR, 0)
	must(err)
	area, err := unix.Mmap(fd, 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	must(unix.Close(fd))
	published := (*atomic.Uint64)(unsafe.Pointer(&area[0]))
	const most = 300
	var open []int
	ready()
	grow := true
	for did := uint64(1); ; did++ {
		// Up and down in waves, so that no count is right for long.
		grow = len(open) == 0 || grow && len(open) < most
		if grow {
			fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
			must(err)
			open = append(open, fd)
		} else {
			must(unix.Close(open[len(open)-1]))
			open = open[:len(open)-1]
		}
		published.Store(did<<publishedBits | uint64(len(open)))
	}
}

// testDescriptorChurn reads a table while it changes: the count was true at some
// moment between what the process itself said before and after.
func testDescriptorChurn(t *testing.T, s *suite) {
	s.want(sample.FDOpen)
	file := filepath.Join(t.TempDir(), "published")
	if err := os.WriteFile(file, make([]byte, 8), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	area, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(area)
	published := (*atomic.Uint64)(unsafe.Pointer(&area[0]))
	helper := start(t, "opener "+file)
	helper.Ready()
	said := func() (did, open uint64) {
		word := published.Load()
		return word >> publishedBits, word & (1<<publishedBits - 1)
	}
	unix.Kill(int(helper.pid), unix.SIGSTOP)
	awaitState(t, helper.pid, 'T')
	_, open := said()
	base := procFDs(t, helper.pid) - open // what it has beside those, but for one call that is done and not said
	unix.Kill(int(helper.pid), unix.SIGCONT)
	const slack = 2 // a call that is done and not said, here and at the stop
	moved := 0
	for end := time.Now().Add(30 * time.Second); moved < 50 && time.Now().Before(end); {
		did, open := said()
		p := s.one(helper.pid)
		didThen, openThen := said()
		if !p.Known.Has(sample.FDOpen) {
			continue
		}
		// From open to openThen by so many steps of one, no count is further off.
		far := didThen - did + slack
		low, high := base+min(open, openThen), base+max(open, openThen)
		if p.FDOpen+far < low || p.FDOpen > high+far {
			t.Errorf("read %d descriptors between %d and %d, %d steps apart", p.FDOpen, base+open, base+openThen, didThen-did)
		}
		if didThen != did {
			moved++
		}
	}
	if moved < 10 {
		t.Errorf("the table moved during %d readings in half a minute", moved)
	}
}

// hasRing tells whether the kernel has io_uring and lets this user have it.
func hasRing() bool {
	disabled, err := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
	if err == nil {
		return strings.TrimSpace(string(disabled)) == "0"
	}
	symbols, err := os.ReadFile("/proc/kallsyms") // the sysctl is since 6.6
	return err == nil && strings.Contains(string(symbols), "_sys_io_uring_setup")
}

// procFDs counts the descriptors of a process by listing them.
func procFDs(t testing.TB, pid int32) uint64 {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join("/proc", fmt.Sprint(pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return uint64(len(entries))
}

// testTorture compares the count after every way to make or close a descriptor
// with the process's own count and with /proc.
func testTorture(t *testing.T, s *suite) {
	s.want(sample.FDOpen)
	helper := start(t, "torture "+t.TempDir())
	before := -1
	for _, step := range steps {
		said := strings.Join(helper.Ready(), " ")
		var own uint64
		if _, err := fmt.Sscan(said, &own); err != nil {
			t.Fatalf("the helper said %q", said)
		}
		t.Log(said)
		want, other := opens[step.name]
		if !other {
			want = 1
		}
		if strings.Contains(said, ": skipped") {
			if want = 0; hasRing() {
				t.Errorf("%s, although the kernel has io_uring", said)
			}
		}
		if difference := int(own) - before; before >= 0 && difference != want {
			t.Errorf("%s: %d more are open, want %d", said, difference, want)
		}
		before = int(own)
		if listed := procFDs(t, helper.pid); listed != own {
			t.Fatalf("%s: /proc has %d", said, listed)
		}
		s.both(helper.pid, func(p *sample.Process) {
			s.known(p, sample.FDOpen)
			if p.FDOpen != own {
				t.Errorf("%s: read %d", said, p.FDOpen)
			}
		})
		helper.Say("")
	}
}

func testCloexec(t *testing.T, s *suite) {
	s.want(sample.FDOpen)
	helper := start(t, "cloexec")
	for range 2 {
		helper.Ready()
		want := procFDs(t, helper.pid)
		s.both(helper.pid, func(p *sample.Process) {
			if p.FDOpen != want {
				t.Errorf("read %d, want %d", p.FDOpen, want)
			}
		})
		helper.Say("")
	}
}
