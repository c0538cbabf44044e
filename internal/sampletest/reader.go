package sampletest

import (
	"context"
	"os"
	"testing"

	"rmagent/internal/sample"
)

// Open opens the reader under test. It is closed when the test ends.
type Open func(testing.TB) sample.Reader

// TestReader runs the suite. Processes that the kernel is known to hide from this
// reader must be counted as missed.
func TestReader(t *testing.T, open Open, hidden ...int32) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"Complete", testComplete},
		{"Identity", testIdentity},
		{"Still", testStill},
		{"Bracketed", testBracketed},
		{"Descriptors", testDescriptors},
		{"Torture", testTorture},
		{"Cloexec", testCloexec},
		{"CloseRangeUnshare", testCloseRangeUnshare},
		{"DescriptorChurn", testDescriptorChurn},
		{"SparseTable", testSparseTable},
		{"ThreadTables", testThreadTables},
		{"SharedTables", testSharedTables},
		{"Sleepers", testSleepers},
		{"Limits", testLimits},
		{"Memory", testMemory},
		{"RSSOfStill", testRSSOfStill},
		{"CPU", testCPU},
		{"IO", testIO},
		{"RunDelay", testRunDelay},
		{"Threads", testThreads},
		{"DyingThreads", testDyingThreads},
		{"ThreadChurn", testThreadChurn},
		{"DeadLeader", testDeadLeader},
		{"Exec", testExec},
		{"Zombie", testZombie},
		{"States", testStates},
		{"UID", testUID},
		{"HostileName", testHostileName},
		{"Cgroup", testCgroup},
		{"NSPID", testNSPID},
		{"OwnNamespace", testOwnNamespace},
		{"Scope", testScope},
		{"Storm", testStorm},
		{"Capabilities", testCapabilities},
		{"Cancelled", testCancelled},
		{"Allocations", testAllocations},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := open(t)
			t.Cleanup(func() {
				if err := r.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			test.run(t, &suite{t, r, r.Capabilities(), new(sample.Snapshot), hidden})
		})
	}
}

// suite is a reader under test and its one snapshot.
type suite struct {
	t    *testing.T
	r    sample.Reader
	caps sample.Capabilities
	s    *sample.Snapshot

	hidden []int32
}

// read reads a scope into the snapshot.
func (s *suite) read(pids ...int32) {
	s.t.Helper()
	if err := s.r.Read(context.Background(), sample.Scope{PIDs: pids}, s.s); err != nil {
		s.t.Fatal(err)
	}
}

// one reads one process alone.
func (s *suite) one(pid int32) sample.Process {
	s.t.Helper()
	s.read(pid)
	if len(s.s.Processes) != 1 {
		s.t.Fatalf("read %d processes of PID %d", len(s.s.Processes), pid)
	}
	if p := s.s.Processes[0]; p.ID.PID != pid {
		s.t.Fatalf("asked for PID %d, got %v", pid, p.ID)
	}
	return s.s.Processes[0]
}

// both reads a process alone and then in a reading of everything, which must
// agree in what the predicate looks at.
func (s *suite) both(pid int32, check func(p *sample.Process)) {
	s.t.Helper()
	p := s.one(pid)
	check(&p)
	s.read()
	if q := s.find(pid); q == nil {
		s.t.Errorf("PID %d is missing from a full reading", pid)
	} else {
		check(q)
	}
}

// find returns a process of the last reading, or nil.
func (s *suite) find(pid int32) *sample.Process {
	for i := range s.s.Processes {
		if s.s.Processes[i].ID.PID == pid {
			return &s.s.Processes[i]
		}
	}
	return nil
}

// want skips where the reader says, and why, that it cannot know a field here.
func (s *suite) want(fields ...sample.Field) {
	s.t.Helper()
	for _, f := range fields {
		if s.caps[f].Level == sample.Absent {
			s.t.Skipf("%v: %s", f, s.caps[f].Why)
		}
	}
}

// exact reports whether the reader claims to know the fields exactly.
func (s *suite) exact(fields ...sample.Field) bool {
	for _, f := range fields {
		if s.caps[f].Level != sample.Exact {
			return false
		}
	}
	return true
}

// known fails unless the process has these fields.
func (s *suite) known(p *sample.Process, fields ...sample.Field) {
	s.t.Helper()
	for _, f := range fields {
		if s.caps[f].Level != sample.Absent && !p.Known.Has(f) {
			s.t.Errorf("%v: %v is unknown", p.ID, f)
		}
	}
}

func testCapabilities(t *testing.T, s *suite) {
	for f := range sample.NumFields {
		if c := s.caps[f]; (c.Why == "") != (c.Level == sample.Exact) {
			t.Errorf("%v is %v because %q", f, c.Level, c.Why)
		}
	}
	if again := s.r.Capabilities(); again != s.caps {
		t.Error("capabilities changed")
	}
	s.read()
	absent := sample.AllFields &^ s.caps.Set()
	for i := range s.s.Processes {
		if p := &s.s.Processes[i]; p.Known&absent != 0 {
			t.Errorf("%v knows %b, of which %b is absent", p.ID, p.Known, p.Known&absent)
		}
	}
}

func testCancelled(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.r.Read(ctx, sample.Scope{}, s.s); err != context.Canceled {
		t.Errorf("read with a cancelled context: %v", err)
	}
	s.read(int32(os.Getpid())) // and it still works
}

func testAllocations(t *testing.T, s *suite) {
	helper := start(t, "threads")
	helper.Ready()
	s.read()
	s.s.Processes = append(s.s.Processes, make([]sample.Process, 2*len(s.s.Processes))...) // others may start
	for name, pids := range map[string][]int32{"all": nil, "one": {helper.pid}} {
		s.read(pids...)
		if n := testing.AllocsPerRun(20, func() { s.read(pids...) }); n != 0 {
			t.Errorf("%s: %v allocations a reading", name, n)
		}
	}
}
