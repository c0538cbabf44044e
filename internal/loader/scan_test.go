package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
	"rmagent/internal/sampletest"
)

// What makes the test binary another program.
const (
	unprivilegedVariable = "LOADER_TEST_UNPRIVILEGED" // tries to open a reader
	waitVariable         = "LOADER_TEST_WAIT"         // waits for the end of its input
)

func TestMain(m *testing.M) {
	if os.Getenv(unprivilegedVariable) != "" {
		_, err := Open(Options{})
		fmt.Println(errors.Is(err, ErrUnsupported), err)
		os.Exit(0)
	}
	if os.Getenv(waitVariable) != "" {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	sampletest.Main(m)
}

// openScan opens a reader that the caller closes. It skips the syscall scan on
// kernels before 6.10, where syscall programs may not call bpf_task_from_pid
// (a8e03b6bbb2c, "bpf: Allow invoking kfuncs from BPF_PROG_TYPE_SYSCALL progs").
func openScan(t testing.TB, opts Options) *Reader {
	t.Helper()
	if opts.Scan == ScanSyscall && kernelBefore(6, 10) {
		t.Skip("the kernel lacks kfuncs for syscall programs (6.10)")
	}
	r, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func kernelBefore(major, minor int) bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false
	}
	var a, b int
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b)
	return a < major || a == major && b < minor
}

// each runs a test with every scan.
func each(t *testing.T, test func(*testing.T, *Reader)) {
	for _, scan := range []Scan{ScanSyscall, ScanIter} {
		t.Run(string(scan), func(t *testing.T) {
			r := openScan(t, Options{Scan: scan})
			defer r.Close()
			test(t, r)
		})
	}
}

// Every scan passes the suite; the syscall scan also in chunks so small that it has
// to find its place again all the time.
func TestScans(t *testing.T) {
	for name, opts := range map[string]Options{
		"Syscall": {Scan: ScanSyscall},
		"Chunks":  {Scan: ScanSyscall, ChunkProcesses: 3},
		"Iter":    {Scan: ScanIter},
	} {
		t.Run(name, func(t *testing.T) {
			openScan(t, opts).Close() // or skip
			open := func(t testing.TB) sample.Reader { return openScan(t, opts) }
			sampletest.TestReader(t, open, hiddenFrom(t, opts.Scan)...)
		})
	}
}

// hiddenFrom returns PID 1 where the kernel was built to hide it from BPF's look-ups
// (the walk of the syscall scan meets it all the same).
func hiddenFrom(t *testing.T, scan Scan) []int32 {
	if scan != ScanIter || kernelBefore(6, 10) {
		return nil
	}
	r := openScan(t, Options{Scan: ScanSyscall})
	defer r.Close()
	if !r.hidden {
		return nil
	}
	return []int32{1}
}

func TestAutoTakesTheBestScan(t *testing.T) {
	r := openScan(t, Options{})
	defer r.Close()
	want := ScanSyscall
	if kernelBefore(6, 10) {
		want = ScanIter
	}
	if r.Scan() != want {
		t.Errorf("took the %s scan", r.Scan())
	}
	if _, err := Open(Options{Scan: "none"}); err == nil {
		t.Error("opened a scan that there is not")
	}
}

// startWaiter starts a process that sleeps until it is ended, or the test ends.
func startWaiter(t *testing.T) (pid int32, end func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), waitVariable+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		in.Close()
		cmd.Wait()
	})
	t.Cleanup(end)
	return int32(cmd.Process.Pid), end
}

// A place is lost when its process is gone, and when another has its PID.
func TestPlaceIsLostWithItsProcess(t *testing.T) {
	r := openScan(t, Options{Scan: ScanSyscall})
	defer r.Close()
	s := r.scanner.(*syscallScan)
	pid, end := startWaiter(t)
	var p place
	if err := s.one(pid, func(r *scanProcessRecord, _ int) { p = place{r.Tgid, r.Task, r.StartBoottimeNs} }); err != nil {
		t.Fatal(err)
	}
	at := scanScanArgs{After: p.pid, AfterTask: p.task, AfterStart: p.start, Max: 1}
	lost := func(args scanScanArgs) bool {
		if err := s.call(args); err != nil {
			t.Fatal(err)
		}
		return s.args.LostPlace != 0
	}
	if lost(at) {
		t.Error("lost a place whose process is there")
	}
	for name, change := range map[string]func(*scanScanArgs){
		"task":  func(a *scanScanArgs) { a.AfterTask += 64 },
		"start": func(a *scanScanArgs) { a.AfterStart++ },
	} {
		other := at
		if change(&other); !lost(other) {
			t.Errorf("found the place of a process with another %s", name)
		}
	}
	end()
	if !lost(at) {
		t.Error("found a place whose process is gone")
	}
}

// After opening, no privilege is needed.
func TestReadsWithoutCapabilities(t *testing.T) {
	each(t, func(t *testing.T, r *Reader) {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // and ends with the thread, which has lost its capabilities
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var none [2]unix.CapUserData
			if err := unix.Capset(&header, &none[0]); err != nil {
				done <- err
				return
			}
			var s sample.Snapshot
			err := r.Read(context.Background(), sample.Scope{}, &s)
			if err == nil && len(s.Processes) < 2 {
				err = fmt.Errorf("read %d processes", len(s.Processes))
			}
			if err == nil {
				err = r.Read(context.Background(), sample.Scope{PIDs: []int32{int32(os.Getpid())}}, &s)
			}
			done <- err
		}()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Without privileges, the error names them, and nothing that they have no part in.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	dir, err := os.MkdirTemp("/tmp", "loader")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/test", binary, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dir + "/test")
	cmd.Env = append(os.Environ(), unprivilegedVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	said := string(out)
	if !strings.HasPrefix(said, "true ") || !strings.Contains(said, "CAP_BPF") || !strings.Contains(said, "CAP_PERFMON") || strings.Contains(said, "MEMLOCK") {
		t.Errorf("said %q", said)
	}
}

// Root of a user namespace has every capability there, and none that bpf(2) asks for.
func TestInAUserNamespace(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), unprivilegedVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skip("user namespaces may not be made here")
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if said := string(out); !strings.HasPrefix(said, "true ") || !strings.Contains(said, "user namespace") {
		t.Errorf("said %q", said)
	}
}

// What the net hook counts reaches the readings.
func TestNetBytes(t *testing.T) {
	events, err := OpenEvents(EventOptions{Hooks: []string{"net"}})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if !events.Attached("net") {
		t.Fatalf("the net hook: %v", events.Refused())
	}
	for _, scan := range []Scan{ScanSyscall, ScanIter} {
		t.Run(string(scan), func(t *testing.T) {
			r := openScan(t, Options{Scan: scan, Events: events})
			defer r.Close()
			self := sample.Scope{PIDs: []int32{int32(os.Getpid())}}
			var before, after sample.Snapshot
			if err := r.Read(t.Context(), self, &before); err != nil {
				t.Fatal(err)
			}
			const bytes = 3 << 20
			transfer(t, bytes)
			if err := r.Read(t.Context(), self, &after); err != nil {
				t.Fatal(err)
			}
			b, a := before.Processes[0], after.Processes[0]
			if !a.Known.HasAll(sample.SetOf(sample.NetReceived, sample.NetSent)) || a.Known.Has(sample.FDOpened) {
				t.Errorf("known %b", a.Known)
			}
			if sent, received := a.NetSentBytes-b.NetSentBytes, a.NetReceivedBytes-b.NetReceivedBytes; sent != bytes || received != bytes {
				t.Errorf("sent %d, received %d, want %d", sent, received, bytes)
			}
		})
	}
}

// transfer sends so many bytes to this process itself over TCP.
func transfer(t *testing.T, n int) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		c.Write(make([]byte, n))
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}); err != nil || got != int64(n) {
		t.Fatalf("received %d: %v", got, err)
	}
}

// The maps are made for as many tasks as there are at the start.
func TestMapBytes(t *testing.T) {
	each(t, func(t *testing.T, r *Reader) {
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			t.Fatal(err)
		}
		n, err := r.MapBytes()
		if err != nil || n < 64<<10 || n > 2<<20+uint64(info.Procs)<<11 {
			t.Errorf("%d bytes for %d tasks, %v", n, info.Procs, err)
		}
	})
}

// The records in the maps have the size that Go takes them to have.
func TestRecordSize(t *testing.T) {
	spec, err := loadScan()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := spec.Maps[scanMapRecords].ValueSize, uint32(unsafe.Sizeof(scanProcessRecord{})); got != want {
		t.Errorf("a record has %d bytes there, %d here", got, want)
	}
	if spec, err = loadScanIter(); err != nil {
		t.Fatal(err)
	}
	if got, want := spec.Maps[scanIterMapScratch].ValueSize, uint32(unsafe.Sizeof(scanProcessRecord{})); got != want {
		t.Errorf("a record has %d bytes there, %d here", got, want)
	}
}

func TestProbe(t *testing.T) {
	for _, f := range Probe() {
		if f.OK != (f.Why == "") {
			t.Errorf("%s: %v because %q", f.Name, f.OK, f.Why)
		}
		may := f.Name == "initial PID namespace" || f.Name == "syscall scan" && kernelBefore(6, 10)
		if !f.OK && !may && os.Geteuid() == 0 {
			t.Errorf("%s: %s", f.Name, f.Why)
		}
	}
}

func TestObjectHash(t *testing.T) {
	if h := ObjectHash(); len(h) != 64 || h != ObjectHash() {
		t.Errorf("hash %q", h)
	}
}
