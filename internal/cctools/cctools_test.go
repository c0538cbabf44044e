package cctools

import (
	"math"
	"testing"
)

func TestMeasuresAreRoundedAsTheyAreWritten(t *testing.T) {
	for _, c := range []struct {
		m    Measure
		v    float64
		want string
	}{
		{WallTime, 2.1571274, "2.157127 s"},
		{Cores, 0.0115, "0.012 cores"},
		{Bandwidth, 33.55449, "33.554 Mbps"},
		{Memory, 302.9, "302 MB"},
		{Disk, 0.001, "1 MB"},
		{TotalProcesses, 501, "501 procs"},
	} {
		if got := c.m.TextWithUnit(c.v); got != c.want {
			t.Errorf("%s %v: %s, not %s", c.m, c.v, got, c.want)
		}
	}
}

func TestEveryMeasureHasANameAndAUnit(t *testing.T) {
	for id := range Measure(NumMeasures) {
		if found, ok := MeasureOf(id.String()); !ok || found != id || id.Unit() == "" {
			t.Errorf("measure %d: name %q, unit %q", id, id, id.Unit())
		}
	}
	if _, ok := MeasureOf("resident_memory"); ok {
		t.Error("there is a measure resident_memory")
	}
}

func TestUnknownIsNoValue(t *testing.T) {
	var m Measures
	m.SetBytes(Memory, 3<<19)
	if v, ok := m.Get(Memory); v != 1.5 || !ok {
		t.Errorf("1.5 MB: %v, %v", v, ok)
	}
	for _, v := range []float64{-1, math.NaN(), math.Inf(1)} {
		m.Set(Memory, v)
		if v, ok := m.Get(Memory); ok || v != 0 || !m.Empty() {
			t.Errorf("%v is known", v)
		}
	}
}

func TestRaiseKeepsTheTimeOfThePeak(t *testing.T) {
	var peak, times Measures
	for i, mb := range []float64{0, 5, 9, 9, 3} {
		var now Measures
		now.Set(Memory, mb)
		peak.Raise(&now, &times, float64(i))
	}
	if v, _ := peak.Get(Memory); v != 9 {
		t.Errorf("peak %v", v)
	}
	if at, _ := times.Get(Memory); at != 2 {
		t.Errorf("reached at %v, not 2", at)
	}
	if times.Known(Disk) {
		t.Error("what was never measured has a peak")
	}
}

func TestLimitsAreBrokenByMoreThanThey(t *testing.T) {
	var l Limits
	var now Measures
	l.Set(Memory, 200)
	l.Set(Cores, 1)
	l.Set(Disk, 0)
	now.Set(Memory, 200)
	now.Set(Cores, 1.25)
	now.Set(Disk, 0)
	now.Set(TotalProcesses, 1e6)
	if broken := l.Broken(&now); broken != nil {
		t.Errorf("broken: %v", broken)
	}
	now.Set(Memory, 200.0001)
	now.Set(Cores, 1.26)
	now.SetBytes(Disk, 1)
	broken := l.Broken(&now)
	if len(broken) != 3 || broken[0].Measure != Memory || broken[1].Measure != Disk || broken[2].Measure != Cores {
		t.Fatalf("broken: %v", broken)
	}
	broken[0].Seconds = 0.4125
	if got := broken[0].String(); got != "memory: 200.0001 MB > 200 MB after 0.412 s" {
		t.Error(got)
	}
	if got := LimitsText(broken[:2]); got != "Limits broken: memory: 200,disk: 0" {
		t.Error(got)
	}
}

func TestCoresAreTakenOverThreeMinutes(t *testing.T) {
	var w CoresWindow
	if got := w.Add(1, 4); got != 4.0/180 {
		t.Errorf("a burst of the first second: %v cores", got)
	}
	for s := 2; s <= 600; s++ {
		w.Add(float64(s), 4+2*float64(s))
	}
	if got := w.Add(601, 4+2*601); got != 2 {
		t.Errorf("two cores all the time: %v", got)
	}
	if len(w.points) > 185 {
		t.Errorf("%d points are kept", len(w.points))
	}
}

func TestBandwidthIsTakenOverAMinute(t *testing.T) {
	var w BandwidthWindow
	if got := w.Add(1, 10e6); got != 8 {
		t.Errorf("10 MB in a second count as in ten: %v Mbps", got)
	}
	var sent uint64 = 10e6
	for s := 2; s <= 300; s++ {
		sent += 1e6
		w.Add(float64(s), sent)
	}
	if got := w.Add(301, sent+1e6); got != 8 {
		t.Errorf("8 Mbps all the time: %v", got)
	}
	if got := w.Add(1000, sent+1e6); got != 8*1/699.0 && got > 0.012 {
		t.Errorf("after a long silence: %v", got)
	}
}

func TestAJobShorterThanTheWindowHasItsAverageOfCores(t *testing.T) {
	var s Summary
	s.Measures.Set(WallTime, 1.5)
	s.Measures.Set(CPUTime, 3)
	s.Measures.Set(Cores, 3.0/180)
	s.Exactness[CPUTime] = Exact
	s.Finish()
	for _, id := range []Measure{Cores, CoresAvg} {
		if v, _ := s.Measures.Get(id); v != 2 || s.Exactness[id] != Exact {
			t.Errorf("%s: %v (%v)", id, v, s.Exactness[id])
		}
	}
}
