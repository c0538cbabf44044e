package sampletest

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// testDescriptors compares the descriptors of every process that stays still, and
// of one that has very many.
func testDescriptors(t *testing.T, s *suite) {
	s.want(sample.FDOpen)
	dense := start(t, "dense "+strconv.Itoa(allowed(t, 70000)))
	dense.Ready()
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
		n, readable := b.value[sample.FDOpen]
		if p.ID.PID == int32(os.Getpid()) {
			continue // it may hold one to read with
		}
		if !old || !ok || !readable || n != a.value[sample.FDOpen] || !stood(b, a) || p.FDTable == 0 && s.caps[sample.FDTable].Level != sample.Absent {
			continue
		}
		compared++
		if p.FDOpen != n {
			t.Errorf("%v (%s): %d descriptors, want %d", p.ID, b.comm, p.FDOpen, n)
		}
	}
	if compared < 2 {
		t.Errorf("compared %d processes", compared)
	}
	if p := s.find(dense.pid); p == nil || p.FDOpen != before[dense.pid].value[sample.FDOpen] {
		t.Errorf("dense: %+v, want %d descriptors", p, before[dense.pid].value[sample.FDOpen])
	}
}

// allowed is n, or how many descriptors a process may have here where that is less.
func allowed(t *testing.T, n int) int {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	want := unix.Rlimit{Cur: limit.Cur, Max: max(limit.Max, uint64(n)+100)}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &want, nil); err != nil {
		return min(n, int(limit.Max)-100)
	}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	return n
}

// testSparseTable looks at a table of a million descriptors that is nearly empty.
func testSparseTable(t *testing.T, s *suite) {
	s.want(sample.FDOpen)
	highest := allowed(t, 1<<20-101) // below the usual fs.nr_open
	helper := start(t, "table 500 2048 "+strconv.Itoa(highest))
	helper.Ready()
	want, _ := readTruth(helper.pid)
	s.both(helper.pid, func(p *sample.Process) {
		if p.FDOpen != want.value[sample.FDOpen] || p.FDLimit != uint64(highest)+1 {
			t.Errorf("%d descriptors, limit %d; want %d, %d", p.FDOpen, p.FDLimit, want.value[sample.FDOpen], highest+1)
		}
	})
}

func testThreadTables(t *testing.T, s *suite) {
	if !s.exact(sample.FDOpen) {
		t.Skipf("%v: %s", sample.FDOpen, s.caps[sample.FDOpen].Why)
	}
	helper := start(t, "unshared")
	n := helper.numbers(2)
	if n[0] < unsharedExtra {
		t.Fatalf("the thread has %d descriptors", n[0])
	}
	s.both(helper.pid, func(p *sample.Process) {
		if p.FDOpen != n[0]+n[1] {
			t.Errorf("%d descriptors, want %d + %d", p.FDOpen, n[0], n[1])
		}
	})
}

func testSharedTables(t *testing.T, s *suite) {
	helper := start(t, "shared")
	children := helper.numbers(2)
	s.read()
	parent, sharer, copier := s.find(helper.pid), s.find(int32(children[0])), s.find(int32(children[1]))
	if parent == nil || sharer == nil || copier == nil {
		t.Fatalf("processes are missing: %v %v %v", parent, sharer, copier)
	}
	want, _ := readTruth(helper.pid)
	if n := want.value[sample.FDOpen]; parent.FDOpen != n || sharer.FDOpen != n || copier.FDOpen != n {
		t.Errorf("%d, %d, %d descriptors, want %d", parent.FDOpen, sharer.FDOpen, copier.FDOpen, n)
	}
	s.want(sample.FDTable)
	if parent.FDTable == 0 || parent.FDTable != sharer.FDTable || parent.FDTable == copier.FDTable {
		t.Errorf("tables %x, shared %x, copied %x", parent.FDTable, sharer.FDTable, copier.FDTable)
	}
}

// testMemory compares before and after with what a process touched.
func testMemory(t *testing.T, s *suite) {
	s.want(sample.RSSAnon, sample.RSSShmem, sample.RSSPeak)
	slack := uint64(1 << 20) // Go's own runtime
	if !s.exact(sample.RSSAnon, sample.RSSShmem) {
		slack = 6 << 20
	}
	near := func(what string, got, want uint64) {
		t.Helper()
		if got > want+slack || got+slack < want {
			t.Errorf("%s: %d bytes, want %d", what, got, want)
		}
	}
	helper := start(t, "touch")
	helper.Ready()
	full := s.one(helper.pid)
	near("shared", full.RSSShmemBytes, touchedBytes/2)
	if full.RSSPeakBytes < full.RSSBytes() {
		t.Errorf("peak %d below %d", full.RSSPeakBytes, full.RSSBytes())
	}
	helper.Say("")
	helper.Ready()
	less := s.one(helper.pid)
	near("given back", full.RSSAnonBytes-less.RSSAnonBytes, touchedBytes)
	near("peak", less.RSSPeakBytes, full.RSSPeakBytes)
	// That they are right to the byte, processes that stay still show: Go's runtime maps memory.
	near("virtual given back", full.VirtualBytes-less.VirtualBytes, touchedBytes)
}

// testRSSOfStill compares with the page tables of every process that stays still, and
// faults no page in that it gives back again: the kernel's own counters in /proc are
// approximate on many kernels.
func testRSSOfStill(t *testing.T, s *suite) {
	if !s.exact(sample.RSSAnon, sample.RSSFile, sample.RSSShmem) {
		t.Skipf("%v: %s", sample.RSSAnon, s.caps[sample.RSSAnon].Why)
	}
	helpers := []*process{start(t, "threads"), start(t, "touch"), start(t, "crowd 20")}
	for _, h := range helpers {
		h.Ready()
		awaitState(t, h.pid, 'S')
	}
	s.read()
	type rss struct{ all, anon, faults uint64 }
	look := func(pid int32) (rss, bool) {
		all, anon, mapped := smaps(pid)
		want, there := readTruth(pid)
		return rss{all, anon, want.value[sample.MinorFaults]}, mapped && there
	}
	before := map[int32]rss{}
	for i := range s.s.Processes {
		if p := &s.s.Processes[i]; !p.KernelThread && p.State == 'S' {
			if want, ok := readTruth(p.ID.PID); ok && want.value[sample.RSSAnon]+want.value[sample.RSSFile] > 0 && p.ID.PID != int32(os.Getpid()) {
				if b, ok := look(p.ID.PID); ok {
					before[p.ID.PID] = b
				}
			}
		}
	}
	s.read()
	compared := 0
	for pid, b := range before {
		p := s.find(pid)
		if p == nil {
			continue
		}
		if again, ok := look(pid); !ok || again != b {
			continue
		}
		compared++
		if got := p.RSSBytes(); got != b.all {
			t.Errorf("%v (%s): RSS %d, the page tables have %d", p.ID, p.Comm.Bytes(), got, b.all)
		}
	}
	if compared < 20 {
		t.Errorf("compared %d processes", compared)
	}
}

// testCPU compares with the process's own clock and with what wait4 says.
func testCPU(t *testing.T, s *suite) {
	s.want(sample.CPU)
	helper := start(t, "burn")
	own := helper.numbers(1)[0]
	p := s.one(helper.pid)
	ended := helper.Kill()
	total := uint64(ended.UserTime()+ended.SystemTime()) + 2000 // each cut to microseconds
	low := own
	if !s.exact(sample.CPU) {
		low -= 20e6
	}
	if p.CPUNanos < low || p.CPUNanos > total {
		t.Errorf("CPU %d ns; its own clock said %d before, wait4 %d after", p.CPUNanos, own, total)
	}
	if !p.Known.HasAll(sample.SetOf(sample.CPUUser, sample.CPUSystem)) {
		return
	}
	// The split is sampled by a tick of up to 10 ms, and the end adds to both.
	const slack = 40e6
	user, system := uint64(ended.UserTime()), uint64(ended.SystemTime())
	if p.CPUUserNanos > user+slack || p.CPUUserNanos+slack < user || p.CPUSystemNanos > system+slack || p.CPUSystemNanos+slack < system {
		t.Errorf("user %d, system %d ns; wait4 says %d and %d", p.CPUUserNanos, p.CPUSystemNanos, user, system)
	}
	if split := p.CPUUserNanos + p.CPUSystemNanos; split > p.CPUNanos || split+20e6 < p.CPUNanos {
		t.Errorf("user %d, system %d ns of %d", p.CPUUserNanos, p.CPUSystemNanos, p.CPUNanos)
	}
}

func testIO(t *testing.T, s *suite) {
	s.want(sample.IORead, sample.IOWritten)
	helper := start(t, "io")
	helper.Ready()
	before := s.one(helper.pid)
	helper.Say("")
	helper.Ready()
	after := s.one(helper.pid)
	// Go's runtime writes a few bytes to wake its threads.
	if n := after.IOWrittenBytes - before.IOWrittenBytes; n < writtenBytes || n > writtenBytes+1024 {
		t.Errorf("written %d, want %d", n, writtenBytes)
	}
	if n := after.IOReadBytes - before.IOReadBytes; n < readBytes || n > readBytes+1024 {
		t.Errorf("read %d, want %d", n, readBytes)
	}
}

// testRunDelay brackets the sum over the threads between two of /proc's.
func testRunDelay(t *testing.T, s *suite) {
	s.want(sample.RunDelay)
	helper := start(t, "threads")
	helper.Ready()
	before := sumTasks(helper.pid, 1)
	p := s.one(helper.pid)
	after := sumTasks(helper.pid, 1)
	if !p.Known.Has(sample.RunDelay) || p.RunDelayNanos < before || p.RunDelayNanos > after || before == 0 {
		t.Errorf("run delay %d (known %v), not within %d to %d", p.RunDelayNanos, p.Known.Has(sample.RunDelay), before, after)
	}
}

func testThreads(t *testing.T, s *suite) {
	s.want(sample.Threads)
	helper := start(t, "threads")
	helper.Ready()
	listed := func() uint64 {
		tasks, err := os.ReadDir("/proc/" + strconv.Itoa(int(helper.pid)) + "/task")
		if err != nil {
			t.Fatal(err)
		}
		return uint64(len(tasks))
	}
	before := listed() // Go's runtime may start one more
	s.both(helper.pid, func(p *sample.Process) {
		if after := listed(); p.Threads < before || p.Threads > after || p.Threads < manyThreads {
			t.Errorf("%d threads, between %d and %d are listed", p.Threads, before, after)
		}
	})
}

// testDyingThreads looks for what a thousand threads did that are gone.
func testDyingThreads(t *testing.T, s *suite) {
	helper := start(t, "dyingthreads")
	helper.Ready()
	before := s.one(helper.pid)
	helper.Say("")
	own := helper.numbers(1)[0]
	b, _ := readTruth(helper.pid)
	after := s.one(helper.pid)
	a, _ := readTruth(helper.pid)
	s.bracket(&after, b, a)
	s.known(&after, sample.CPU, sample.IOWritten, sample.MinorFaults)
	if n := after.IOWrittenBytes - before.IOWrittenBytes; after.Known.Has(sample.IOWritten) && n < dyingThreadsN {
		t.Errorf("%d bytes written, want %d", n, dyingThreadsN)
	}
	if n := after.MinorFaults - before.MinorFaults; n < dyingThreadsN {
		t.Errorf("%d faults, want %d", n, dyingThreadsN)
	}
	ended := helper.Kill()
	total := uint64(ended.UserTime()+ended.SystemTime()) + 2000
	if s.exact(sample.CPU) && (after.CPUNanos < own || after.CPUNanos > total) {
		t.Errorf("CPU %d ns; its own clock said %d before, wait4 %d after", after.CPUNanos, own, total)
	}
}

// testThreadChurn reads a process whose threads end at every moment: nothing is
// counted twice, then once.
func testThreadChurn(t *testing.T, s *suite) {
	helper := start(t, "churn")
	helper.Ready()
	last := map[int32]sample.Process{}
	known := 0
	for range 300 {
		b, _ := readTruth(helper.pid)
		p := s.one(helper.pid)
		a, _ := readTruth(helper.pid)
		s.grown(last, &p)
		s.bracket(&p, b, a)
		if p.Known.Has(sample.CPU) {
			known++
		}
	}
	if known < 200 {
		t.Errorf("CPU was known in %d of 300 readings", known)
	}
}

// testDeadLeader looks at a process whose first thread has ended: its memory and
// descriptors are the others'.
func testDeadLeader(t *testing.T, s *suite) {
	helper := start(t, "deadleader")
	helper.Ready()
	s.both(helper.pid, func(p *sample.Process) {
		if p.State != 'Z' || p.Threads < 2 || p.NSPID != helper.pid {
			t.Errorf("state %c, %d threads, ns pid %d", p.State, p.Threads, p.NSPID)
		}
		if p.FDOpen < deadLeaderOpen+3 || p.RSSAnonBytes == 0 || p.RSSPeakBytes < p.RSSBytes() || p.VirtualBytes == 0 {
			t.Errorf("%d descriptors, %d anonymous bytes of %d virtual, peak %d", p.FDOpen, p.RSSAnonBytes, p.VirtualBytes, p.RSSPeakBytes)
		}
	})
}
