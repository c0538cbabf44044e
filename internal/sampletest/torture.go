package sampletest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	path := []byte("/dev/null\x00")
	entries[0] = 18 // IORING_OP_OPENAT
	atCwd := int32(unix.AT_FDCWD)
	*word(entries, 4) = uint32(atCwd)
	*(*uint64)(unsafe.Pointer(&entries[16])) = uint64(uintptr(unsafe.Pointer(&path[0])))
	*word(rings, *word(p, 40+24)) = 0 // sq_off.array: entry 0
	*word(rings, *word(p, 40+4))++    // sq_off.tail
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, fd, 1, 1, 1 /* IORING_ENTER_GETEVENTS */, 0, 0); errno != 0 {
		return errno
	}
	result := int32(*word(rings, *word(p, 80+20)+8)) // cq_off.cqes, res
	if result < 0 {
		return unix.Errno(-result)
	}
	return nil
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
	for range steps {
		said := strings.Join(helper.ready(), " ")
		var own uint64
		if _, err := fmt.Sscan(said, &own); err != nil {
			t.Fatalf("the helper said %q", said)
		}
		t.Log(said)
		if listed := procFDs(t, helper.pid); listed != own {
			t.Fatalf("%s: /proc has %d", said, listed)
		}
		s.both(helper.pid, func(p *sample.Process) {
			s.known(p, sample.FDOpen)
			if p.FDOpen != own {
				t.Errorf("%s: read %d", said, p.FDOpen)
			}
		})
		helper.proceed()
	}
}

func testCloexec(t *testing.T, s *suite) {
	s.want(sample.FDOpen)
	helper := start(t, "cloexec")
	for range 2 {
		helper.ready()
		want := procFDs(t, helper.pid)
		s.both(helper.pid, func(p *sample.Process) {
			if p.FDOpen != want {
				t.Errorf("read %d, want %d", p.FDOpen, want)
			}
		})
		helper.proceed()
	}
}
