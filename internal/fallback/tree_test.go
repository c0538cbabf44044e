package fallback

import (
	"context"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"rmagent/internal/sample"
)

// openTree opens a copy of /proc; see testdata/proc/README.md.
func openTree(t *testing.T, tree string) *Reader {
	t.Helper()
	root := "../../testdata/proc/" + tree + "/proc"
	if _, err := os.Stat(root); err != nil {
		t.Skip("the copies of /proc are not here: this is no source tree")
	}
	r, err := Open(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// readTree reads every process of a copy.
func readTree(t *testing.T, tree string) map[string]sample.Process {
	t.Helper()
	r := openTree(t, tree)
	var s sample.Snapshot
	if err := r.Read(context.Background(), sample.Scope{}, &s); err != nil {
		t.Fatal(err)
	}
	all := map[string]sample.Process{}
	for _, p := range s.Processes {
		all[string(p.Comm.Bytes())] = p
	}
	return all
}

func TestCapturedTree(t *testing.T) {
	all := readTree(t, "vm-6.18-hybrid")
	if len(all) != 4 {
		t.Fatalf("%d processes", len(all))
	}
	sleep := all["sleep"]
	if sleep.KernelThread || sleep.Threads != 1 || sleep.FDLimit == 0 || sleep.FDOpen == 0 || sleep.RSSBytes() == 0 {
		t.Errorf("%+v", sleep)
	}
	if want := statFields | statusFields | ioFields | limitFields | threadFields; !sleep.Known.HasAll(want) {
		t.Errorf("of sleep lacks %b", want&^sleep.Known)
	}
	python := all["python3"]
	if python.Threads != 4 || !python.Known.Has(sample.RunDelay) || python.CPUNanos == 0 {
		t.Errorf("%+v", python)
	}
	kthreadd := all["kthreadd"]
	if !kthreadd.KernelThread || kthreadd.ID.PID != 2 || kthreadd.RSSBytes() != 0 || !kthreadd.Known.HasAll(sample.RSS) || kthreadd.Known.Has(sample.RSSPeak) {
		t.Errorf("%+v", kthreadd)
	}
	// Its stat says kworker/0:0H-events_highpri.
	if worker, ok := all["kworker/0:0H"]; !ok || !worker.KernelThread {
		t.Errorf("%+v", worker)
	}
}

// TestHostileTree reads names that look like other fields, and lines cut short.
// The copy has neither io nor limits nor fd: those stay unknown.
func TestHostileTree(t *testing.T) {
	all := readTree(t, "written-hostile")
	base := sample.Process{
		State: 'S', PPID: 1, Threads: 1, VirtualBytes: 4096, MinorFaults: 1, MajorFaults: 2,
		CPUNanos: 7 * nanosPerTick, CPUUserNanos: 3 * nanosPerTick, CPUSystemNanos: 4 * nanosPerTick,
		UID: 1000, RSSAnonBytes: 1 << 10, RSSFileBytes: 2 << 10, RSSShmemBytes: 3 << 10, RSSPeakBytes: 9 << 10, SwapBytes: 4 << 10,
		Known: statFields | statusFields,
	}
	want := map[string]sample.Process{}
	for comm, pid := range map[string]int32{"foo) Z ": 301, "a\nb) R 1 (": 302, "": 303, "\xff\xfe\x80": 304, "deep": 306} {
		p := base
		p.ID, p.NSPID = sample.ID{PID: pid, StartTicks: uint64(pid) * 10}, pid
		p.Comm = sample.MakeComm([]byte(comm))
		want[comm] = p
	}
	if d := cmp.Diff(want, all, cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

func TestMissedAreCounted(t *testing.T) {
	r := openTree(t, "written-hostile")
	var s sample.Snapshot
	if err := r.Read(context.Background(), sample.Scope{PIDs: []int32{305, 999, 301}}, &s); err != nil {
		t.Fatal(err)
	}
	// 305's stat is cut short, 999 is not there.
	if len(s.Processes) != 1 || s.Missed != 1 {
		t.Errorf("%d processes, missed %d", len(s.Processes), s.Missed)
	}
}
