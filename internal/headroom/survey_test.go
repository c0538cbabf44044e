package headroom_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/headroom"
	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
	"rmagent/internal/source"
	"rmagent/record"
)

// surveyed is what a survey is taken with.
type surveyed struct {
	t        testing.TB
	source   *source.Source
	reader   *headroom.Reader
	cgroups  *hostfs.CgroupReader
	who      *hostfs.Identifier
	snapshot sample.Snapshot
	gpus     *sample.GPUs
	known    map[sample.ID]string
}

func openSurvey(t testing.TB) *surveyed {
	t.Helper()
	s := &surveyed{t: t, known: map[sample.ID]string{}}
	var err error
	if s.source, err = source.Open(source.Auto, nil); err != nil {
		t.Fatal(err)
	}
	if s.reader, err = headroom.Open(); err != nil {
		t.Fatal(err)
	}
	if s.cgroups, err = hostfs.OpenCgroups(hostfs.Options{}); err != nil {
		t.Fatal(err)
	}
	if s.who, err = hostfs.NewIdentifier(hostfs.Options{}, s.cgroups, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.who.Close(), s.cgroups.Close(), s.reader.Close(), s.source.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *surveyed) take(want func(*sample.Process) bool) *headroom.Survey {
	s.t.Helper()
	if err := s.source.Read(context.Background(), sample.Scope{}, &s.snapshot); err != nil {
		s.t.Fatal(err)
	}
	v, err := s.reader.Survey(context.Background(), &s.snapshot, s.gpus, want, s.cgroupOf)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *surveyed) cgroupOf(p *sample.Process) string {
	c, ok := s.known[p.ID]
	if !ok {
		c = s.who.Identify(p).Cgroup
		s.known[p.ID] = c
	}
	return c
}

// TestSurveyAgreesWithOneProcess: the list says of a process what a look at it
// alone says.
func TestSurveyAgreesWithOneProcess(t *testing.T) {
	s := openSurvey(t)
	me := int32(os.Getpid())
	only := func(p *sample.Process) bool { return p.ID.PID == me }
	before := s.take(only)
	var held []*os.File
	for range 50 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, f)
	}
	defer func() {
		for _, f := range held {
			f.Close()
		}
	}()
	list := headroom.Nearest(before, s.take(only), 0)
	if list.Evaluated != 1 || len(list.Processes) != 1 || len(list.Machine) < 4 {
		t.Fatalf("%+v", list)
	}
	got := list.Processes[0]
	if got.PID != me || got.FirstInSpace == nil || got.FirstInTime == nil {
		t.Fatalf("%+v", got)
	}
	f, err := s.reader.Read(context.Background(), me, headroom.Full)
	if err != nil {
		t.Fatal(err)
	}
	h := headroom.Evaluate(nil, f)
	if !h.StartTime.Known() || h.StartTime.Or(time.Time{}).Sub(got.StartTime.Or(time.Time{})).Abs() > 20*time.Millisecond || h.Comm != got.Comm || h.Cgroup != got.Cgroup {
		t.Errorf("%+v, alone %+v", got, h)
	}
	var alone *record.HeadroomLimit
	for i := range h.Limits {
		if l := &h.Limits[i]; l.Name == got.FirstInSpace.Name && l.Scope == got.FirstInSpace.Scope {
			alone = l
		}
	}
	l := got.FirstInSpace
	if alone == nil || alone.Limit != l.Limit || alone.Consequence != l.Consequence || alone.Raise != l.Raise || alone.Unit != l.Unit || !l.Known {
		t.Errorf("%+v, alone %+v", l, alone)
	}
}

// A card that is nearly full is the first limit of those that use it, and of nobody
// else.
func TestSurveyHasCards(t *testing.T) {
	s := openSurvey(t)
	me, other := int32(os.Getpid()), int32(os.Getppid())
	only := func(p *sample.Process) bool { return p.ID.PID == me || p.ID.PID == other }
	reading := func(used uint64) *sample.GPUs {
		return &sample.GPUs{ListedTicks: 1 << 62, Devices: []sample.GPU{
			{Index: 0, Name: "A100", MemoryTotalBytes: record.Some[uint64](1000), MemoryUsedBytes: record.Some(used),
				Processes: []sample.GPUProcess{{PID: me}}, Complete: true},
			{Index: 1, Name: "A100", MemoryTotalBytes: record.Some[uint64](1000), MemoryUsedBytes: record.Some[uint64](1000), Complete: true},
		}}
	}
	s.gpus = reading(989)
	before := s.take(only)
	s.gpus = reading(999)
	list := headroom.Nearest(before, s.take(only), 0)
	if len(list.Processes) != 2 || list.Processes[0].PID != me {
		t.Fatalf("%+v", list.Processes)
	}
	mine := list.Processes[0]
	for _, l := range []*record.HeadroomLimit{mine.FirstInSpace, mine.FirstInTime} {
		if l == nil || l.Name != "GPU memory" || l.Scope != "GPU 0 (A100)" || l.Available.Or(0) != 1 || l.SecondsToLimit.Or(0) <= 0 {
			t.Errorf("%+v", l)
		}
	}
	if l := list.Processes[1].FirstInSpace; l != nil && l.Resource == "gpu_memory" {
		t.Errorf("who uses no card: %+v", l)
	}
	s.gpus = nil
	if l := headroom.Nearest(before, s.take(only), 0).Processes[0].FirstInSpace; l != nil && l.Resource == "gpu_memory" {
		t.Errorf("without a reading: %+v", l)
	}
}

// BenchmarkFirstLimitOf10000 surveys 10,000 processes, which are there, and judges
// all of them. Processes that were identified before cost what they cost each
// tick; the first reading also finds out their cgroups.
func BenchmarkFirstLimitOf10000(b *testing.B) {
	const processes = 10000
	c := headroom.StartTasks(b, processes)
	defer c()
	s := openSurvey(b)
	began := time.Now()
	before := s.take(nil)
	b.Logf("the first reading took %v", time.Since(began))
	var list record.HeadroomList
	cpu, evaluated := cpuTime(b), 0
	for b.Loop() {
		list = headroom.Nearest(before, s.take(nil), 20)
		evaluated += list.Evaluated
	}
	if list.Evaluated < processes {
		b.Fatalf("%d processes", list.Evaluated)
	}
	// There may be more processes than those, and others at work.
	each := (cpuTime(b) - cpu) / time.Duration(evaluated)
	b.ReportMetric(float64(each.Nanoseconds()), "cpu-ns/process")
	if processes*each > time.Second {
		b.Errorf("%v of CPU for %d processes", processes*each, processes)
	}
}

func cpuTime(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}
