package fallback

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

func open(t testing.TB) *Reader {
	t.Helper()
	r, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func readOne(t testing.TB, r *Reader, pid int) sample.Process {
	t.Helper()
	var s sample.Snapshot
	if err := r.Read(context.Background(), sample.Scope{PIDs: []int32{int32(pid)}}, &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Processes) != 1 {
		t.Fatalf("read %d processes of PID %d, missed %d", len(s.Processes), pid, s.Missed)
	}
	return s.Processes[0]
}

// TestStillProcess compares every number with another reader of /proc, before
// and after: even a program that waits may take a page fault.
func TestStillProcess(t *testing.T) {
	cmd := startStill(t)
	r := open(t)
	before := readByLibrary(t, cmd.Process.Pid)
	p := readOne(t, r, cmd.Process.Pid)
	after := readByLibrary(t, cmd.Process.Pid)
	for f, want := range before {
		got := numberOf(&p, f)
		if !p.Known.Has(f) || got != want && (got < min(want, after[f]) || got > max(want, after[f])) {
			t.Errorf("%v: %d, want %d or %d", f, got, want, after[f])
		}
	}
	c := r.Capabilities()
	if p.Known != c.Set() {
		t.Errorf("known %b, capable of %b", p.Known, c.Set())
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if p.KernelThread || string(p.Comm.Bytes()) != strings.TrimSuffix(string(comm), "\n") || p.ID.StartTicks == 0 {
		t.Errorf("%+v, want the name %q", p, comm)
	}
}

func numberOf(p *sample.Process, f sample.Field) uint64 {
	switch f {
	case sample.PPID:
		return uint64(p.PPID)
	case sample.NSPID:
		return uint64(p.NSPID)
	case sample.UID:
		return uint64(p.UID)
	}
	return *f.Info().At(p)
}

func readByLibrary(t *testing.T, pid int) map[sample.Field]uint64 {
	t.Helper()
	proc, err := procfs.NewProc(pid)
	if err != nil {
		t.Fatal(err)
	}
	stat, err := proc.Stat()
	if err != nil {
		t.Fatal(err)
	}
	status, err := proc.NewStatus()
	if err != nil {
		t.Fatal(err)
	}
	limits, err := proc.Limits()
	if err != nil {
		t.Fatal(err)
	}
	io, err := proc.IO()
	if err != nil {
		t.Fatal(err)
	}
	fds, err := proc.FileDescriptorsLen()
	if err != nil {
		t.Fatal(err)
	}
	return map[sample.Field]uint64{
		sample.PPID: uint64(os.Getpid()), sample.NSPID: status.NSpids[len(status.NSpids)-1], sample.UID: status.UIDs[0],
		sample.Threads: uint64(stat.NumThreads), sample.FDOpen: uint64(fds), sample.FDLimit: limits.OpenFiles,
		sample.RSSAnon: status.RssAnon, sample.RSSFile: status.RssFile, sample.RSSShmem: status.RssShmem,
		sample.RSSPeak: status.VmHWM, sample.Swap: status.VmSwap, sample.Virtual: uint64(stat.VSize),
		sample.MinorFaults: uint64(stat.MinFlt), sample.MajorFaults: uint64(stat.MajFlt),
		sample.IORead: io.RChar, sample.IOWritten: io.WChar, sample.DiskRead: io.ReadBytes, sample.DiskWritten: io.WriteBytes,
	}
}

func TestEveryProcessIsThere(t *testing.T) {
	cmd := startStill(t)
	var s sample.Snapshot
	if err := open(t).Read(context.Background(), sample.Scope{}, &s); err != nil {
		t.Fatal(err)
	}
	if s.Missed != 0 && os.Getuid() == 0 {
		t.Errorf("missed %d", s.Missed)
	}
	seen := map[int32]sample.Process{}
	for _, p := range s.Processes {
		if _, twice := seen[p.ID.PID]; twice {
			t.Errorf("%v twice", p.ID)
		}
		seen[p.ID.PID] = p
	}
	for _, pid := range []int{1, os.Getpid(), cmd.Process.Pid} {
		if _, ok := seen[int32(pid)]; !ok {
			t.Errorf("PID %d is missing", pid)
		}
	}
	if k, ok := seen[2]; ok && string(k.Comm.Bytes()) == "kthreadd" && !k.KernelThread {
		t.Error("kthreadd is no kernel thread")
	}
	if s.Time.IsZero() || s.Monotonic == 0 || s.Boottime < s.Monotonic || s.Took <= 0 {
		t.Errorf("times: %v %v %v %v", s.Time, s.Monotonic, s.Boottime, s.Took)
	}
}

func TestKernelNames(t *testing.T) {
	var s sample.Snapshot
	if err := open(t).Read(context.Background(), sample.Scope{Fields: sample.SetOf(sample.State)}, &s); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Processes {
		name := string(p.Comm.Bytes())
		if strings.HasPrefix(name, "kworker/") && !strings.HasPrefix(name, "kworker/R-") && strings.ContainsAny(name, "+-") {
			t.Errorf("%v is named %q, with its work", p.ID, name)
		}
	}
}

// TestVanishing reads while processes come and go.
func TestVanishing(t *testing.T) {
	stop := make(chan bool)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				exec.Command("/bin/true").Run()
			}
		}
	}()
	r := open(t)
	var s sample.Snapshot
	for range 50 {
		if err := r.Read(context.Background(), sample.Scope{}, &s); err != nil {
			t.Error(err)
		}
		if s.Missed != 0 && os.Getuid() == 0 {
			t.Errorf("missed %d", s.Missed)
		}
		for _, p := range s.Processes {
			if p.ID.StartTicks == 0 && p.ID.PID > 200 || !p.Known.HasAll(statFields) {
				t.Errorf("half a process: %+v", p)
			}
		}
	}
	close(stop)
	<-ended
}

func TestFieldsLimitTheReading(t *testing.T) {
	cmd := startStill(t)
	r := open(t)
	var s sample.Snapshot
	scope := sample.Scope{PIDs: []int32{int32(cmd.Process.Pid)}, Fields: sample.SetOf(sample.FDOpen)}
	if err := r.Read(context.Background(), scope, &s); err != nil {
		t.Fatal(err)
	}
	p := s.Processes[0]
	if !p.Known.Has(sample.FDOpen) || p.Known&(statusFields|ioFields|limitFields) != 0 {
		t.Errorf("known %b", p.Known)
	}
}

func TestNoProcfs(t *testing.T) {
	if _, err := Open(Options{Root: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("opened what is not there")
	}
}

// TestOtherUser reads as nobody: what is not allowed is unknown, and the
// capabilities say so.
func TestOtherUser(t *testing.T) {
	got := readAsNobody(t, "")
	if got.Init&ioFields != 0 {
		t.Errorf("knows another user's I/O")
	}
	if want := statFields | statusFields | limitFields; !got.Init.HasAll(want) {
		t.Errorf("of PID 1 lacks %b", want&^got.Init)
	}
	if !got.Self.HasAll(ioFields | 1<<sample.FDOpen) {
		t.Errorf("knows too little of itself: %b", got.Self)
	}
	if got.Missed != 0 {
		t.Errorf("missed %d", got.Missed)
	}
	io := got.Capabilities[sample.IORead]
	if io.Level != sample.Approximate || !strings.Contains(io.Why, "CAP_SYS_PTRACE") {
		t.Errorf("capability %v", io)
	}
	if threads := got.Capabilities[sample.Threads]; threads.Level != sample.Exact {
		t.Errorf("capability %v", threads)
	}
}

// TestHidePID reads as nobody where other users' processes can't be entered (1),
// or seen (2).
func TestHidePID(t *testing.T) {
	for _, hidepid := range []string{"1", "2"} {
		got := readAsNobody(t, hidepid)
		if got.Init != 0 || got.Self == 0 {
			t.Errorf("hidepid=%s: of PID 1 %b, of itself %b", hidepid, got.Init, got.Self)
		}
		if missed := got.Missed > 0; missed != (hidepid == "1") {
			t.Errorf("hidepid=%s: missed %d", hidepid, got.Missed)
		}
		if hidden := hidepid == "2"; got.Hidden != hidden {
			t.Errorf("hidepid=%s: hidden %t", hidepid, got.Hidden)
		}
		if c := got.Capabilities[sample.Threads]; c.Level != sample.Approximate || !strings.Contains(c.Why, "hidepid") {
			t.Errorf("hidepid=%s: capability %v", hidepid, c)
		}
	}
}

const hidePIDVariable = "FALLBACK_TEST_HIDEPID"

// asNobody is what the reader found as another user.
type asNobody struct {
	Missed       uint64
	Hidden       bool
	Init, Self   sample.FieldSet
	Capabilities sample.Capabilities
}

// readAsNobody runs a reader as user nobody, over a procfs mounted with that
// hidepid if any.
func readAsNobody(t *testing.T, hidepid string) (got asNobody) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{helperVariable + "=read as nobody", hidePIDVariable + "=" + hidepid}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return got
}

func becomeNobody() {
	if hidepid := os.Getenv(hidePIDVariable); hidepid != "" {
		must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(unix.Mount("proc", "/proc", "proc", 0, "hidepid="+hidepid))
	}
	const nobody = 65534
	must(syscall.Setgroups(nil))
	must(syscall.Setresgid(nobody, nobody, nobody))
	must(syscall.Setresuid(nobody, nobody, nobody))
	must(unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)) // else its own files are root's
	r, err := Open(Options{})
	must(err)
	var s sample.Snapshot
	must(r.Read(context.Background(), sample.Scope{}, &s))
	o := asNobody{Missed: s.Missed, Hidden: s.Hidden, Capabilities: r.Capabilities()}
	for _, p := range s.Processes {
		switch int(p.ID.PID) {
		case 1:
			o.Init = p.Known
		case os.Getpid():
			o.Self = p.Known
		}
	}
	must(json.NewEncoder(os.Stdout).Encode(o))
}

func BenchmarkRead(b *testing.B) {
	r := open(b)
	var s sample.Snapshot
	for _, scope := range []struct {
		name   string
		fields sample.FieldSet
	}{
		{"all", 0},
		{"fd", sample.SetOf(sample.FDOpen)},
		{"stat", statFields &^ (1 << sample.CPU)},
		{"status", statusFields},
		{"limits", limitFields},
		{"io", ioFields},
		{"cpu", schedstatFields},
	} {
		b.Run(scope.name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if err := r.Read(context.Background(), sample.Scope{Fields: scope.fields}, &s); err != nil {
					b.Fatal(err)
				}
				n += len(s.Processes)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/process")
		})
	}
}

// BenchmarkLibrary reads the same facts by prometheus/procfs, to compare.
func BenchmarkLibrary(b *testing.B) {
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		all, err := procfs.AllProcs()
		if err != nil {
			b.Fatal(err)
		}
		for _, p := range all { // one that ends meanwhile costs less
			p.Stat()
			p.NewStatus()
			p.Schedstat()
			p.IO()
			p.Limits()
			p.FileDescriptorsLen()
		}
		n += len(all)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/process")
}
