package loader

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
	"rmagent/internal/uringtest"
)

// netTotal is how many bytes each way of sending moves. A multiple of every
// chunk below.
const netTotal = 12_800_000

var netBuffer = make([]byte, 64000)

func address(family int, port int) unix.Sockaddr {
	if family == unix.AF_INET6 {
		return &unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}}
	}
	return &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
}

func port(sa unix.Sockaddr) int {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return sa.Port
	case *unix.SockaddrInet6:
		return sa.Port
	}
	return 0
}

func tcpPair(family int) (a, b int) {
	l, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	check(err)
	check(unix.Bind(l, address(family, 0)))
	check(unix.Listen(l, 1))
	sa, err := unix.Getsockname(l)
	check(err)
	a, err = unix.Socket(family, unix.SOCK_STREAM, 0)
	check(err)
	check(unix.Connect(a, address(family, port(sa))))
	check(unix.SetsockoptInt(a, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	b, _, err = unix.Accept(l)
	check(err)
	check(unix.Close(l))
	return a, b
}

func udpPair(family int) (a, b int) {
	b, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	check(err)
	check(unix.Bind(b, address(family, 0)))
	sa, err := unix.Getsockname(b)
	check(err)
	a, err = unix.Socket(family, unix.SOCK_DGRAM, 0)
	check(err)
	check(unix.Connect(a, address(family, port(sa))))
	return a, b
}

// drain reads n bytes with read.
func drain(b, n int, read func(fd int, p []byte) (int, error)) {
	for n > 0 {
		got, err := read(b, netBuffer[:min(n, len(netBuffer))])
		check(err)
		if got == 0 {
			check(fmt.Errorf("%d bytes are missing", n))
		}
		n -= got
	}
}

func recv(fd int, p []byte) (int, error) {
	n, _, err := unix.Recvfrom(fd, p, 0)
	return n, err
}

func moveBytes(a, b, n int) {
	for n > 0 {
		k := min(n, 10000)
		check(unix.Send(a, netBuffer[:k], 0))
		drain(b, k, recv)
		n -= k
	}
}

// netWay sends one chunk and returns how long it was.
type netWay struct {
	name   string
	stream bool // only there
	send   func(fd int) int
	recv   func(fd int, p []byte) (int, error)
}

var netWays = []netWay{
	{"send", false, func(fd int) int { check(unix.Send(fd, netBuffer[:8000], 0)); return 8000 }, recv},
	{"write", false, func(fd int) int { return must(unix.Write(fd, netBuffer[:8000])) }, unix.Read},
	{"writev", false, func(fd int) int { return must(unix.Writev(fd, [][]byte{netBuffer[:3000], netBuffer[:5000]})) }, readv},
	{"sendmmsg", false, sendmmsg, recv},
	{"sendfile", true, sendfile, recv},
	{"io_uring", false, func(fd int) int { return done(ring().Do(unixIORingSend, fd, netBuffer[:8000])) }, func(fd int, p []byte) (int, error) {
		return ring().Do(unixIORingRecv, fd, p)
	}},
	{"io_uring worker", false, func(fd int) int { return done(ring().Async(unixIORingSend, fd, netBuffer[:8000])) }, recv},
	{"MSG_ZEROCOPY", true, sendZerocopy, recv},
	{"peek first", false, func(fd int) int { check(unix.Send(fd, netBuffer[:8000], 0)); return 8000 }, func(fd int, p []byte) (int, error) {
		if _, _, err := unix.Recvfrom(fd, p, unix.MSG_PEEK); err != nil {
			return 0, err
		}
		return recv(fd, p)
	}},
}

func must(n int, err error) int {
	check(err)
	return n
}

func readv(fd int, p []byte) (int, error) { return unix.Readv(fd, [][]byte{p[:1], p[1:]}) }

type mmsghdr struct {
	hdr unix.Msghdr
	_   [8]byte // what the kernel says of each
}

func sendmmsg(fd int) int {
	iov := unix.Iovec{Base: &netBuffer[0]}
	iov.SetLen(2000)
	var m [4]mmsghdr
	for i := range m {
		m[i].hdr.Iov = &iov
		m[i].hdr.SetIovlen(1)
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), uintptr(len(m)), 0, 0, 0)
	if errno != 0 || int(n) != len(m) {
		check(fmt.Errorf("sendmmsg: %d, %v", n, errno))
	}
	return 8000
}

var sentFile = -1

func sendfile(fd int) int {
	if sentFile < 0 {
		sentFile = must(unix.MemfdCreate("sent", 0))
		check(unix.Ftruncate(sentFile, 8000))
	}
	for off := int64(0); off < 8000; {
		must(unix.Sendfile(fd, sentFile, &off, int(8000-off)))
	}
	return 8000
}

func sendZerocopy(fd int) int {
	check(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1))
	check(unix.Send(fd, netBuffer[:8000], unix.MSG_ZEROCOPY))
	// The kernel's notice of completion is read like a message: no byte of it came
	// over the network.
	oob := make([]byte, 128)
	unix.Recvmsg(fd, nil, oob, unix.MSG_ERRQUEUE)
	return 8000
}

// helpNet moves netTotal bytes to itself in each way.
func helpNet([]string) {
	step("start|0")
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, w := range netWays {
			a, b := tcpPair(family)
			step("tcp%d %s|%d", version(family), w.name, pump(w, a, b, true))
			unix.Close(a)
			unix.Close(b)
			if w.stream {
				continue
			}
			a, b = udpPair(family)
			step("udp%d %s|%d", version(family), w.name, pump(w, a, b, false))
			unix.Close(a)
			unix.Close(b)
		}
	}
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		s, err := unix.Socketpair(unix.AF_UNIX, kind, 0)
		check(err)
		check(unix.Send(s[0], netBuffer[:1234], 0))
		drain(s[1], 1234, recv)
		step("unix %d|0", kind)
	}
}

// helpFirst has two threads move their first bytes at the same time.
func helpFirst([]string) {
	var ready atomic.Int32
	var wg sync.WaitGroup
	for range 2 {
		a, b := udpPair(unix.AF_INET)
		wg.Go(func() {
			runtime.LockOSThread()
			for ready.Add(1); ready.Load() < 2; { // no wake-up is as quick
			}
			moveBytes(a, b, 1000)
		})
	}
	wg.Wait()
	step("moved|2000")
}

func version(family int) int {
	if family == unix.AF_INET6 {
		return 6
	}
	return 4
}

func pump(w netWay, a, b int, stream bool) int {
	total := netTotal
	if os.Getenv("RMAGENT_EVENT_SMALL") != "" {
		total /= 100
	}
	for sent := 0; sent < total; {
		n := w.send(a)
		sent += n
		if stream {
			drain(b, n, w.recv)
			continue
		}
		for n > 0 { // a datagram at a time
			got, err := w.recv(b, netBuffer)
			check(err)
			n -= got
		}
	}
	return total
}

// The operations of io_uring that are used here (include/uapi/linux/io_uring.h).
const (
	unixIORingSend = 26
	unixIORingRecv = 27
)

var theRing *uringtest.Ring

func ring() *uringtest.Ring {
	if theRing == nil {
		theRing = newRing()
	}
	return theRing
}

func newRing() *uringtest.Ring {
	r, err := uringtest.New()
	check(err)
	return r
}

// done is a number of bytes that were moved.
func done(n int, err error) int {
	check(err)
	return n
}

// counters reads what a living process has counted.
func counters(t *testing.T, e *Events, pid int) (n eventsTaskCounters) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var st eventsTaskState // none: nothing was counted
	if err := e.base.Maps[eventsMapTaskStates].Lookup(uint32(fd), &st); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatalf("look the state of %d up: %v", pid, err)
	}
	return st.N
}

func TestNetworkBytesAreExactForEveryWayOfSending(t *testing.T) {
	e := openEvents(t, EventOptions{})
	h := startHelper(t, "net")
	var want, before uint64
	for {
		line, ok := h.line()
		if !ok {
			break
		}
		var name string
		var moved uint64
		name, moved = parseStep(t, line)
		want += moved
		n := counters(t, e, h.pid)
		if n.NetSent != want || n.NetReceived != want {
			t.Errorf("%s moved %d bytes each way; counted: sent %d, received %d",
				name, moved, n.NetSent-before, n.NetReceived-before)
			want = n.NetSent
		}
		before = want
		h.next()
	}
	state := h.wait()
	if !state.Success() {
		t.Fatal(state)
	}
	if want == 0 {
		t.Fatal("the helper moved nothing")
	}
	x := awaitExit(t, e, h.pid)
	if x.P.NetSentBytes != want || x.P.NetReceivedBytes != want || !x.P.Known.HasAll(sample.SetOf(sample.NetSent, sample.NetReceived)) {
		t.Errorf("after its end: sent %d, received %d, known %b; want %d", x.P.NetSentBytes, x.P.NetReceivedBytes, x.P.Known, want)
	}
}

// Whose threads begin at the same time loses nothing of what either moved.
func TestNetworkBytesOfThreadsThatBeginTogether(t *testing.T) {
	e := openEvents(t, EventOptions{Hooks: []string{"net"}})
	for range many(100) {
		h := startHelper(t, "first")
		line, _ := h.line()
		_, want := parseStep(t, line)
		if n := counters(t, e, h.pid); n.NetSent != want || n.NetReceived != want {
			t.Errorf("sent %d, received %d, want %d", n.NetSent, n.NetReceived, want)
		}
		h.next()
		h.wait()
	}
	balanced(t, e)
}

func parseStep(t *testing.T, line string) (name string, n uint64) {
	t.Helper()
	for i := range line {
		if line[i] == '|' {
			if _, err := fmt.Sscan(line[i+1:], &n); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			return line[:i], n
		}
	}
	t.Fatalf("%q says no number", line)
	return "", 0
}

func TestNetworkBytesSurviveAnExecFromAnotherThread(t *testing.T) {
	for _, c := range []struct {
		when string
		want uint64
	}{
		{"early", 10000 + 300},
		{"late", 10000 + 7000 + 300}, // the leader ends first, and its threads go on
	} {
		t.Run(c.when, func(t *testing.T) {
			e := openEvents(t, EventOptions{})
			h := startHelper(t, "exec", c.when)
			if line, ok := h.line(); !ok || line != "again" {
				t.Fatalf("the helper says %q", line)
			}
			if n := counters(t, e, h.pid); n.NetSent != c.want || n.NetReceived != c.want {
				t.Errorf("alive: sent %d, received %d, want %d", n.NetSent, n.NetReceived, c.want)
			}
			h.next()
			h.wait()
			x := awaitExit(t, e, h.pid)
			if x.P.NetSentBytes != c.want || x.P.NetReceivedBytes != c.want {
				t.Errorf("after its end: sent %d, received %d, want %d", x.P.NetSentBytes, x.P.NetReceivedBytes, c.want)
			}
			b, err := e.Balance()
			if err != nil {
				t.Fatal(err)
			}
			if b.SpillEntries != 0 || b.Stranded != 0 || b.SpillFailed != 0 {
				t.Errorf("left behind: %+v", b)
			}
		})
	}
}
