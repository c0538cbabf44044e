package sampletest

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// testComplete looks for every process that was there before and after.
func testComplete(t *testing.T, s *suite) {
	before := procPIDs(t)
	s.read()
	after := procPIDs(t)
	seen := map[int32]int{}
	for i := range s.s.Processes {
		seen[s.s.Processes[i].ID.PID]++
	}
	for _, pid := range before {
		if slices.Contains(after, pid) && seen[pid] != 1 && !slices.Contains(s.hidden, pid) {
			t.Errorf("PID %d is there %d times", pid, seen[pid])
		}
	}
	if s.s.Missed != uint64(len(s.hidden)) {
		t.Errorf("missed %d, hidden are %v", s.s.Missed, s.hidden)
	}
	if age := time.Since(s.s.Time); age < 0 || age > time.Hour || s.s.Took <= 0 || s.s.Took > age {
		t.Errorf("began %v ago, took %v", age, s.s.Took)
	}
	if s.s.Monotonic <= 0 || s.s.Boottime < s.s.Monotonic {
		t.Errorf("monotonic %v, boottime %v", s.s.Monotonic, s.s.Boottime)
	}
}

// testIdentity compares what always holds of every process.
func testIdentity(t *testing.T, s *suite) {
	before := map[int32]truth{}
	for _, pid := range procPIDs(t) {
		before[pid], _ = readTruth(pid)
	}
	s.read()
	compared := 0
	for i := range s.s.Processes {
		p := &s.s.Processes[i]
		want, ok := readTruth(p.ID.PID)
		if !ok {
			continue // it ended
		}
		compared++
		if p.ID.StartTicks != want.start {
			t.Errorf("%v began at %d", p.ID, want.start)
		}
		if p.KernelThread != want.kernel {
			t.Errorf("%v: kernel thread %v", p.ID, p.KernelThread)
		}
		if was := before[p.ID.PID]; was.start != want.start || was.comm != want.comm || !stood(was, want) {
			continue // it became another program meanwhile, and may have become the first again
		}
		if comm := string(p.Comm.Bytes()); comm != want.comm && !want.kernel { // a kworker's tells its work there
			t.Errorf("%v: comm %q, want %q", p.ID, comm, want.comm)
		}
	}
	if compared == 0 {
		t.Error("there was no process to compare")
	}
}

// labels and gauges that /proc knows as exactly as the kernel itself.
var plain = []sample.Field{
	sample.PPID, sample.UID, sample.NSPID, sample.Threads, sample.FDOpen, sample.FDLimit, sample.Virtual,
}

// counters that /proc knows as exactly as the kernel itself.
var counters = []sample.Field{
	sample.MinorFaults, sample.MajorFaults, sample.IORead, sample.IOWritten, sample.DiskRead, sample.DiskWritten,
}

// testStill compares every number of a process while /proc's stay the same.
func testStill(t *testing.T, s *suite) {
	helper := start(t, "still")
	helper.Ready()
	awaitState(t, helper.pid, 'S')
	fields := slices.Concat(plain, counters)
	if kernelHas(6, 17) || s.caps[sample.ExecID].Level == sample.Absent { // or it reads the same text
		// Between 6.2 and 82241a83cd15 ("mm: fix the inaccurate memory statistics
		// issue for users") /proc itself is approximate, and before 6.2 too.
		fields = append(fields, sample.RSSAnon, sample.RSSFile, sample.RSSShmem, sample.Swap)
	}
	one := s.while(helper.pid, func() sample.Process { return s.one(helper.pid) })
	all := s.while(helper.pid, func() sample.Process { s.read(); return *s.find(helper.pid) })
	for _, r := range []still{one, all} {
		s.known(&r.p, fields...)
		for _, f := range fields {
			if got := fieldOf(&r.p, f); r.p.Known.Has(f) && got != r.truth.value[f] {
				t.Errorf("%v: %d, want %d", f, got, r.truth.value[f])
			}
		}
		if ticks := r.p.CPUNanos / 1e7; r.p.Known.Has(sample.CPU) && (ticks < r.truth.cpuTicks || ticks > r.truth.cpuTicks+2) {
			t.Errorf("cpu: %d ns, want %d ticks", r.p.CPUNanos, r.truth.cpuTicks)
		}
	}
}

// still is a reading during which /proc said the same.
type still struct {
	p     sample.Process
	truth truth
}

// while reads until /proc says the same before and after: even a process that only
// waits has a runtime that works now and then.
func (s *suite) while(pid int32, read func() sample.Process) still {
	s.t.Helper()
	for range 100 {
		before, _ := readTruth(pid)
		p := read()
		after, ok := readTruth(pid)
		if ok && before.cpuTicks == after.cpuTicks && maps.Equal(before.value, after.value) {
			return still{p, after}
		}
	}
	s.t.Fatalf("PID %d never was still", pid)
	return still{}
}

// testBracketed reads every process's counters between two readings of /proc.
func testBracketed(t *testing.T, s *suite) {
	before := map[int32]truth{}
	for _, pid := range procPIDs(t) {
		if b, ok := readTruth(pid); ok {
			before[pid] = b
		}
	}
	s.read()
	compared := 0
	for i := range s.s.Processes {
		p := &s.s.Processes[i]
		b, old := before[p.ID.PID]
		a, ok := readTruth(p.ID.PID)
		if !old || !ok || b.start != a.start || a.start != p.ID.StartTicks || a.state == 'Z' {
			continue
		}
		compared++
		if s.bracket(p, b, a) && p.ID.PID != int32(os.Getpid()) {
			s.same(p, b, a)
		}
	}
	if compared < 2 {
		t.Errorf("compared %d processes", compared)
	}
}

// bracket checks that the counters are between those of two readings of /proc, and
// reports whether none moved.
func (s *suite) bracket(p *sample.Process, b, a truth) (still bool) {
	s.t.Helper()
	still = stood(b, a)
	for _, f := range counters {
		low, readable := b.value[f]
		got, high := fieldOf(p, f), a.value[f]
		if p.Known.Has(f) && readable && (got < low || got > high) {
			s.t.Errorf("%v (%s): %v is %d, /proc says %d before and %d after", p.ID, b.comm, f, got, low, high)
		}
		still = still && low == high
	}
	if p.Known.Has(sample.CPU) && (p.CPUNanos < b.cpuTicks*1e7 || p.CPUNanos > (a.cpuTicks+2)*1e7) {
		s.t.Errorf("%v (%s): cpu is %d ns, /proc says %d ticks before and %d after", p.ID, b.comm, p.CPUNanos, b.cpuTicks, a.cpuTicks)
	}
	return still
}

// same checks what /proc says alike before and after.
func (s *suite) same(p *sample.Process, b, a truth) {
	s.t.Helper()
	for _, f := range plain {
		want, readable := b.value[f]
		if got := fieldOf(p, f); p.Known.Has(f) && readable && want == a.value[f] && got != want {
			s.t.Errorf("%v (%s): %v is %d, want %d", p.ID, b.comm, f, got, want)
		}
	}
}

func testLimits(t *testing.T, s *suite) {
	s.want(sample.FDLimit, sample.FDHardLimit)
	helper := start(t, "still")
	helper.Ready()
	if err := unix.Prlimit(int(helper.pid), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 333, Max: 444}, nil); err != nil {
		t.Fatal(err)
	}
	s.both(helper.pid, func(p *sample.Process) {
		if p.FDLimit != 333 || p.FDHardLimit != 444 {
			t.Errorf("limits %d and %d, want 333 and 444", p.FDLimit, p.FDHardLimit)
		}
	})
}

// testExec lets the leader call exec, then another thread, which takes its PID.
func testExec(t *testing.T, s *suite) {
	helper := start(t, "exec")
	helper.Ready()
	before := s.one(helper.pid)
	for _, who := range []string{"the leader", "a thread"} {
		helper.Say("")
		helper.Ready()
		awaitState(t, helper.pid, 'S')
		want, _ := readTruth(helper.pid)
		s.both(helper.pid, func(p *sample.Process) {
			if p.ID != before.ID {
				t.Errorf("exec by %s made %v of %v", who, p.ID, before.ID)
			}
			if p.Known.Has(sample.ExecID) && p.ExecID == before.ExecID {
				t.Errorf("exec by %s left the exec id", who)
			}
			if p.CPUNanos <= before.CPUNanos || p.MinorFaults <= before.MinorFaults {
				t.Errorf("exec by %s: CPU from %d to %d, faults from %d to %d", who,
					before.CPUNanos, p.CPUNanos, before.MinorFaults, p.MinorFaults)
			}
			if p.FDOpen != want.value[sample.FDOpen] {
				t.Errorf("exec by %s: %d descriptors, want %d", who, p.FDOpen, want.value[sample.FDOpen])
			}
		})
		before = s.one(helper.pid)
	}
}

func testZombie(t *testing.T, s *suite) {
	helper := start(t, "burn")
	helper.Ready()
	before := s.one(helper.pid)
	helper.zombie()
	s.both(helper.pid, func(p *sample.Process) {
		if p.ID != before.ID || p.State != 'Z' || p.CPUNanos < before.CPUNanos {
			t.Errorf("zombie: %+v", p)
		}
		if p.Known.Has(sample.FDOpen) && p.FDOpen != 0 || p.Known.HasAll(sample.RSS) && p.RSSBytes() != 0 {
			t.Errorf("zombie has %d descriptors, %d bytes", p.FDOpen, p.RSSBytes())
		}
	})
	helper.Kill()
	s.read(helper.pid)
	if len(s.s.Processes) != 0 {
		t.Errorf("reaped: %+v", s.s.Processes)
	}
}

func testStates(t *testing.T, s *suite) {
	s.want(sample.State)
	check := func(helper *process, want byte) {
		t.Helper()
		awaitState(t, helper.pid, want)
		s.both(helper.pid, func(p *sample.Process) {
			if p.State != want {
				t.Errorf("state %c, want %c", p.State, want)
			}
		})
	}
	still := start(t, "still")
	still.Ready()
	check(still, 'S')
	if err := unix.Kill(int(still.pid), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	check(still, 'T')
	vfork := start(t, "vfork")
	vfork.Ready()
	awaitChild(t, vfork.pid) // a D before it may be any short wait, as for a lock of its memory
	check(vfork, 'D')

	// And whatever the kernel's own threads are in: idle ones are I.
	idle := 0
	s.read()
	for i := range s.s.Processes {
		p := &s.s.Processes[i]
		if want, ok := readTruth(p.ID.PID); ok && p.KernelThread && want.state == 'I' && p.State == 'I' {
			idle++
		}
	}
	if _, kthreadd := readTruth(2); kthreadd && s.find(2) != nil && s.find(2).KernelThread && idle == 0 {
		t.Error("no idle kernel thread was seen as such")
	}
}

func testUID(t *testing.T, s *suite) {
	s.want(sample.UID)
	needRoot(t)
	helper := start(t, "uid")
	helper.Ready()
	s.both(helper.pid, func(p *sample.Process) {
		if p.UID != realUID {
			t.Errorf("uid %d, want %d", p.UID, realUID)
		}
	})
}

func testHostileName(t *testing.T, s *suite) {
	helper := start(t, "hostile")
	helper.Ready()
	s.both(helper.pid, func(p *sample.Process) {
		if got := string(p.Comm.Bytes()); got != hostileName || p.PPID != int32(os.Getpid()) {
			t.Errorf("comm %q, parent %d", got, p.PPID)
		}
	})
}

func testScope(t *testing.T, s *suite) {
	a, b := start(t, "still"), start(t, "still")
	a.Ready()
	b.Ready()
	gone := start(t, "still")
	gone.Ready()
	gone.Kill()
	s.read(b.pid, gone.pid, a.pid)
	var got []int32
	for i := range s.s.Processes {
		got = append(got, s.s.Processes[i].ID.PID)
	}
	want := []int32{a.pid, b.pid}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || s.s.Missed != 0 {
		t.Errorf("got %v, missed %d, want %v", got, s.s.Missed, want)
	}
	s.read([]int32{}...) // nil: all
	all := len(s.s.Processes)
	if err := s.r.Read(t.Context(), sample.Scope{PIDs: []int32{}}, s.s); err != nil || len(s.s.Processes) != 0 {
		t.Errorf("no PIDs: %d processes of %d, %v", len(s.s.Processes), all, err)
	}
	many := make([]int32, 3000)
	for i := range many {
		many[i] = a.pid + int32(i)
	}
	s.read(many...)
	if s.find(a.pid) == nil {
		t.Errorf("of %d PIDs the first is missing", len(many))
	}
}

// testNSPID looks at a process that is the first of its own PID namespace.
func testNSPID(t *testing.T, s *suite) {
	s.want(sample.NSPID)
	needRoot(t)
	helper := start(t, "still", func(c *exec.Cmd) { c.SysProcAttr.Cloneflags = unix.CLONE_NEWPID })
	helper.Ready()
	s.both(helper.pid, func(p *sample.Process) {
		if p.NSPID != 1 {
			t.Errorf("ns pid %d, want 1", p.NSPID)
		}
	})
}

// namespaceVariable says that the test binary runs in a PID namespace of its own.
const namespaceVariable = "SAMPLETEST_NAMESPACE"

// testOwnNamespace runs itself in a PID namespace with its own /proc, where the
// reader must see that namespace and nothing else.
func testOwnNamespace(t *testing.T, s *suite) {
	if os.Getenv(namespaceVariable) != "" {
		insideNamespace(t, s)
		return
	}
	needRoot(t)
	words := strings.Split(t.Name(), "/")
	for i := range words {
		words[i] = "^" + words[i] + "$"
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run="+strings.Join(words, "/"))
	cmd.Env = append(os.Environ(), namespaceVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("in a namespace: %v\n%s", err, out)
	}
}

// enterNamespace gives the namespace its own /proc.
func enterNamespace() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("proc", "/proc", "proc", 0, "")
}

func insideNamespace(t *testing.T, s *suite) {
	outer := start(t, "crowd 3")
	outer.Ready()
	inner := start(t, "still", func(c *exec.Cmd) { c.SysProcAttr.Cloneflags = unix.CLONE_NEWPID })
	inner.Ready()
	want := procPIDs(t)
	s.read()
	var got []int32
	for i := range s.s.Processes {
		p := &s.s.Processes[i]
		got = append(got, p.ID.PID)
		truth, ok := readTruth(p.ID.PID)
		if !ok {
			continue
		}
		for _, f := range []sample.Field{sample.PPID, sample.NSPID, sample.FDLimit} {
			if v := fieldOf(p, f); p.Known.Has(f) && v != truth.value[f] {
				t.Errorf("%v: %v is %d, want %d", p.ID, f, v, truth.value[f])
			}
		}
		if p.ID.StartTicks != truth.start {
			t.Errorf("%v began at %d", p.ID, truth.start)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || len(got) < 6 {
		t.Errorf("got %v, want %v", got, want)
	}
	if p := s.one(inner.pid); p.NSPID != 1 {
		t.Errorf("ns pid %d, want 1", p.NSPID)
	}
	s.read(int32(os.Getpid()), outer.pid)
	if len(s.s.Processes) != 2 {
		t.Errorf("of two PIDs of the namespace, read %d", len(s.s.Processes))
	}
}

// testStorm reads while thousands of processes come and go, and one calls exec all
// the time. Those that live through it are there once, each time, and their counters
// only grow.
func testStorm(t *testing.T, s *suite) {
	old, storm := start(t, "crowd 40"), start(t, "storm 200")
	oldPIDs := old.numbers(40)
	storm.Ready()
	execs := start(t, "execs")
	execs.Ready()
	young := start(t, "crowd 40")
	pids := append(oldPIDs, young.numbers(40)...)
	pids = append(pids, uint64(execs.pid))
	last := map[int32]sample.Process{}
	brief := map[sample.ID]bool{}
	const enough, tooMany = 200, 20000 // readings; how fast the storm goes is not this test's matter
	for n := 0; n < enough || len(brief) < enough && n < tooMany; n++ {
		s.read()
		seen := map[int32]int{}
		for i := range s.s.Processes {
			p := &s.s.Processes[i]
			seen[p.ID.PID]++
			if p.PPID == storm.pid {
				brief[p.ID] = true
			}
			s.grown(last, p)
		}
		for _, pid := range pids {
			if n := seen[int32(pid)]; n != 1 {
				t.Fatalf("PID %d is there %d times", pid, n)
			}
		}
		for pid, n := range seen {
			if n > 1 {
				t.Errorf("PID %d is there %d times", pid, n)
			}
		}
		if s.s.Missed != uint64(len(s.hidden)) {
			t.Errorf("missed %d, hidden are %v", s.s.Missed, s.hidden)
		}
	}
	if len(brief) < enough {
		t.Errorf("saw %d of the storm", len(brief))
	}
}

// grown checks that a process's counters did not go back, and remembers them.
func (s *suite) grown(last map[int32]sample.Process, p *sample.Process) {
	s.t.Helper()
	was, ok := last[p.ID.PID]
	if ok && was.ID == p.ID {
		for f := range sample.NumFields {
			info := f.Info()
			// The time that a thread waited goes with it: run delay may fall.
			if info.Kind != sample.Counter || f == sample.RunDelay || !p.Known.Has(f) || !was.Known.Has(f) {
				continue
			}
			if a, b := *info.At(&was), *info.At(p); b < a {
				s.t.Errorf("%v: %v went back from %d to %d", p.ID, f, a, b)
			}
		}
	}
	last[p.ID.PID] = *p
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// testCgroup moves a process into a cgroup of its own.
func testCgroup(t *testing.T, s *suite) {
	s.want(sample.CgroupID)
	needRoot(t)
	helper := start(t, "still")
	helper.Ready()
	before := s.one(helper.pid)
	root := cgroupRoot(t)
	id := moveToOwn(t, root, helper.pid)
	defer moveTo(t, root, helper.pid)
	s.both(helper.pid, func(p *sample.Process) {
		if p.CgroupID != id || before.CgroupID == id {
			t.Errorf("cgroup id %d, before %d, want %d", p.CgroupID, before.CgroupID, id)
		}
	})
}

// moveToOwn makes a cgroup below root, which goes with the test, moves a process into
// it and returns its id. The process must be elsewhere by the end of the test.
func moveToOwn(t *testing.T, root string, pid int32) (id uint64) {
	t.Helper()
	dir := fmt.Sprintf("%s/sampletest-%d", root, pid)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	moveTo(t, dir, pid)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func moveTo(t *testing.T, dir string, pid int32) {
	t.Helper()
	if err := os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(int(pid))), 0); err != nil {
		t.Fatal(err)
	}
}

// cgroupRoot returns where the hierarchy is mounted that has the memory
// controller, or mounts it.
func cgroupRoot(t *testing.T) string {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	fstype, option := "cgroup2", ""
	for line := range strings.Lines(string(own)) {
		if parts := strings.SplitN(line, ":", 3); slices.Contains(strings.Split(parts[1], ","), "memory") {
			fstype, option = "cgroup", "memory"
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		head, tail, _ := strings.Cut(line, " - ")
		at, kind := strings.Fields(head), strings.Fields(tail)
		if kind[0] == fstype && (option == "" || slices.Contains(strings.Split(kind[2], ","), option)) {
			return at[4]
		}
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, fstype, 0, option); err != nil {
		t.Fatalf("mount %s: %v", fstype, err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}
