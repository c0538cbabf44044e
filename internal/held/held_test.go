package held

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

func self(t testing.TB) sample.ID {
	t.Helper()
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	return sample.ID{PID: int32(os.Getpid()), StartTicks: startOf(stat)}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// What this process opens itself is listed as what it is, by procfs.
func TestListKnowsKindsAndTargets(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a file")
	file := must(os.Create(path))
	defer file.Close()
	gone := must(os.Create(filepath.Join(dir, "gone")))
	defer gone.Close()
	if err := os.Remove(gone.Name()); err != nil {
		t.Fatal(err)
	}
	d := must(os.Open(dir))
	defer d.Close()
	ln := must(net.Listen("tcp4", "127.0.0.1:0"))
	defer ln.Close()
	c := must(net.Dial("tcp4", ln.Addr().String()))
	defer c.Close()
	ul := must(net.Listen("unix", filepath.Join(dir, "sock")))
	defer ul.Close()
	u6 := must(net.ListenPacket("udp6", "[::1]:0"))
	defer u6.Close()
	fd := func(c interface{ File() (*os.File, error) }) *os.File {
		f := must(c.File())
		t.Cleanup(func() { f.Close() })
		return f
	}
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	type want struct {
		kind   sample.FDKind
		target string
	}
	wants := map[int32]want{
		int32(file.Fd()):                                              {sample.FDFile, path},
		int32(gone.Fd()):                                              {sample.FDFile, gone.Name() + " (deleted)"},
		int32(d.Fd()):                                                 {sample.FDDirectory, dir},
		int32(fd(ln.(*net.TCPListener)).Fd()):                         {sample.FDTCP4, "listening on " + ln.Addr().String()},
		int32(fd(c.(*net.TCPConn)).Fd()):                              {sample.FDTCP4, c.RemoteAddr().String()},
		int32(fd(ul.(*net.UnixListener)).Fd()):                        {sample.FDUnix, filepath.Join(dir, "sock")},
		int32(fd(u6.(*net.UDPConn)).Fd()):                             {sample.FDUDP6, u6.LocalAddr().String()},
		int32(pipe[0]):                                                {sample.FDPipe, ""},
		int32(must(unix.Eventfd(0, 0))):                               {sample.FDEventfd, ""},
		int32(must(unix.EpollCreate1(0))):                             {sample.FDEpoll, ""},
		int32(must(unix.InotifyInit1(0))):                             {sample.FDInotify, ""},
		int32(must(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0))):      {sample.FDTimerfd, ""},
		int32(must(unix.MemfdCreate("m", 0))):                         {sample.FDMemfd, "/memfd:m (deleted)"},
		int32(must(unix.Open("/dev/null", unix.O_RDONLY, 0))):         {sample.FDCharDevice, "/dev/null"},
		int32(must(unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0))): {sample.FDNamespace, must(os.Readlink("/proc/self/ns/net"))},
	}
	p := OpenProc("/proc")
	var list sample.FDList
	if err := p.List(self(t), &list); err != nil {
		t.Fatal(err)
	}
	fds := p.Targets(&list, p, 1<<20)
	got := map[int32]want{}
	for i := range fds {
		f := &fds[i]
		if _, asked := wants[f.Number]; asked {
			got[f.Number] = want{f.Kind, sockets(fds, []int32{int32(i)})[0]}
		}
	}
	if diff := cmp.Diff(wants, got, cmp.AllowUnexported(want{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnotherProcessOfThePIDIsGone(t *testing.T) {
	id := self(t)
	id.StartTicks++
	var list sample.FDList
	if err := OpenProc("/proc").List(id, &list); err == nil || !strings.Contains(err.Error(), "no such process") {
		t.Errorf("%v", err)
	}
}

// later is a list in which some descriptors are others.
type later struct{ sample.FDList }

func (l *later) List(_ sample.ID, dst *sample.FDList) error { *dst = l.FDList; return nil }

// A path whose descriptor is another one by now is not told.
func TestTargetsAreVerified(t *testing.T) {
	p := OpenProc("/proc")
	null, zero := must(unix.Open("/dev/null", 0, 0)), must(unix.Open("/dev/zero", 0, 0))
	var list sample.FDList
	if err := p.List(self(t), &list); err != nil {
		t.Fatal(err)
	}
	again := later{sample.FDList{FDs: append([]sample.FD(nil), list.FDs...)}}
	for i := range again.FDs {
		if again.FDs[i].Number == int32(null) {
			again.FDs[i].File++
		}
	}
	for _, f := range p.Targets(&list, &again, 1<<20) {
		if f.Number == int32(null) && f.Target != "" || f.Number == int32(zero) && f.Target != "/dev/zero" {
			t.Errorf("descriptor %d: target %q", f.Number, f.Target)
		}
	}
}

// A file system in user space that never answers keeps nobody who lists descriptors.
func TestListDoesNotWaitForAFileSystem(t *testing.T) {
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no file systems in user space: %v", err)
	}
	at := t.TempDir()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse)
	if err := unix.Mount("silent", at, "fuse", 0, options); err != nil {
		unix.Close(fuse)
		t.Skipf("no mount: %v", err)
	}
	defer func() {
		unix.Close(fuse) // whoever waits is told so
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	fd := must(unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0))
	defer unix.Close(fd)
	kind := make(chan sample.FDKind)
	go func() {
		var list sample.FDList
		if err := OpenProc("/proc").List(self(t), &list); err != nil {
			t.Error(err)
		}
		for i := range list.FDs {
			if list.FDs[i].Number == int32(fd) {
				kind <- list.FDs[i].Kind
			}
		}
		close(kind)
	}()
	select {
	case got := <-kind:
		if got != sample.FDDirectory {
			t.Errorf("kind %v", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("it still waits")
	}
}

func TestGroups(t *testing.T) {
	var fds []FD
	add := func(n int, kind sample.FDKind, target func(i int) string) {
		for i := range n {
			fds = append(fds, FD{FD: sample.FD{Kind: kind}, Target: target(i)})
		}
	}
	add(100, sample.FDFile, func(i int) string { return fmt.Sprintf("/tmp/upload-%04d (deleted)", i) })
	add(40, sample.FDFile, func(int) string { return "/var/log/app.log" })
	add(2, sample.FDEventfd, func(int) string { return "" })
	for i := range 5 {
		fds = append(fds, FD{FD: sample.FD{Kind: sample.FDTCP4,
			Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort(fmt.Sprintf("10.0.0.9:%d", 5000+i))}})
	}
	for i := range 3 { // over, and the kernel has taken the port
		fds = append(fds, FD{FD: sample.FD{Kind: sample.FDTCP4,
			Local: netip.MustParseAddrPort("10.0.0.1:0"), Remote: netip.MustParseAddrPort(fmt.Sprintf("10.0.0.9:%d", 6000+i))}})
	}
	for i := range 6 {
		fds = append(fds, FD{FD: sample.FD{Kind: sample.FDTCP6,
			Local: netip.MustParseAddrPort(fmt.Sprintf("[::1]:%d", 4000+i)), Remote: netip.MustParseAddrPort("[::1]:443")}})
	}
	var got []string
	for _, g := range Groups(fds, func(*FD) int32 { return 0 }) {
		got = append(got, fmt.Sprintf("%d %s %s", len(g.FDs), g.Kind, g.Target))
	}
	want := []string{
		"100 file /tmp/upload-00*",
		"40 file /var/log/app.log",
		"6 tcp6 [::1]:443",
		"5 tcp4 10.0.0.1:80 from 10.0.0.9",
		"3 tcp4 10.0.0.1 from 10.0.0.9",
		"2 eventfd ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A name in the abstract namespace that holds a line of the table makes no socket another
// one's.
func TestForgedUnixSockets(t *testing.T) {
	dir := t.TempDir()
	open := func(domain int, a unix.Sockaddr) (fd int, inode uint64) {
		t.Helper()
		fd = must(unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, a); err != nil {
			t.Fatal(err)
		}
		if err := unix.Listen(fd, 1); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		return fd, st.Ino
	}
	forge := func(inode uint64) {
		open(unix.AF_UNIX, &unix.SockaddrUnix{Name: fmt.Sprintf("@%d\n0: 0 0 0 1 1 %d /etc/shadow", os.Getpid(), inode)})
	}
	tcp, inode := open(unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	forge(inode)
	local, inode := open(unix.AF_UNIX, &unix.SockaddrUnix{Name: filepath.Join(dir, "a  b")})
	forge(inode)
	honest, _ := open(unix.AF_UNIX, &unix.SockaddrUnix{Name: filepath.Join(dir, "c  d ")})
	p := OpenProc("/proc")
	var list sample.FDList
	if err := p.List(self(t), &list); err != nil {
		t.Fatal(err)
	}
	fds := p.Targets(&list, p, 1<<20)
	for i := range fds {
		f := &fds[i]
		target := sockets(fds, []int32{int32(i)})[0]
		switch int(f.Number) {
		case tcp:
			if f.Kind != sample.FDTCP4 || !strings.HasPrefix(target, "listening on 127.0.0.1:") {
				t.Errorf("the TCP socket is %v %q", f.Kind, target)
			}
		case local:
			if f.Kind != sample.FDUnix || target != "" {
				t.Errorf("the socket with two names is %v %q", f.Kind, target)
			}
		case honest:
			if f.Kind != sample.FDUnix || target != filepath.Join(dir, "c  d ") {
				t.Errorf("the other socket is %v %q", f.Kind, target)
			}
		}
	}
}

func FuzzSockets(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000 100 0 0 10 0")
	f.Add("0000: 00000002 00000000 00010000 0001 01 4711 /run/a b")
	f.Fuzz(func(t *testing.T, line string) {
		s := socketTable{}
		s.inet(strings.Fields(line), sample.FDTCP4)
		s.unix(line)
		s.plain(strings.Fields(line), 3, sample.FDNetlink)
	})
}
