package history

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rmagent/record"
)

var begin = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// reading is a host record, so many seconds after the beginning.
func hostAt(seconds float64, cpu float64) *record.Host {
	h := &record.Host{
		CPURatio: record.Some(cpu), MemoryTotalBytes: record.Some[uint64](1000), MemoryUsedBytes: record.Some(uint64(1000 * cpu)),
		Filesystems: []record.Filesystem{
			{Path: "/", TotalBytes: record.Some[uint64](100), FreeBytes: record.Some[uint64](80), AvailableBytes: record.Some[uint64](80)},
			{Path: "/full", TotalBytes: record.Some[uint64](10), FreeBytes: record.Some[uint64](1), AvailableBytes: record.Some[uint64](1)},
			{Path: "/hung"},
		},
	}
	h.Time, h.Host = begin.Add(time.Duration(seconds*float64(time.Second))), "web-1"
	return h
}

func values(h record.History) (list []float64) {
	for _, p := range h.Points {
		list = append(list, p.Value)
	}
	return list
}

func TestHistory(t *testing.T) {
	s := New(Options{Keep: 10 * time.Second, Points: 10})
	if _, ok := s.History("cpu", "", 0); ok {
		t.Error("something is known of nothing")
	}
	for i := range 25 {
		s.Observe(hostAt(float64(i), float64(i)/100))
	}
	h, ok := s.History("cpu", "", 0)
	if want := []float64{15, 16, 17, 18, 19, 20, 21, 22, 23, 24}; !ok || h.Unit != "percent" || h.Target != "host" || !slices.Equal(values(h), want) {
		t.Errorf("%+v", h)
	}
	if p := h.Points[9]; p.Time != begin.Add(24*time.Second) || p.Ratio.Or(0) < 0.2399 || p.Ratio.Or(0) > 0.2401 {
		t.Errorf("%+v", p)
	}
	if h, _ := s.History("cpu", "host", 3); !slices.Equal(values(h), []float64{22, 23, 24}) {
		t.Errorf("%+v", h)
	}
	if h, _ := s.History("cpu", "", 1000); len(h.Points) != 10 {
		t.Errorf("%d points", len(h.Points))
	}
	if h, ok := s.History("disk", "mount:/full", 1); !ok || h.Points[0].Value != 9 || h.Points[0].Ratio.Or(0) < 0.89 {
		t.Errorf("%+v", h)
	}
	if h, ok := s.History("disk", "", 1); !ok || h.Points[0].Value != 9 { // the fullest
		t.Errorf("%+v", h)
	}
	if _, ok := s.History("disk", "mount:/hung", 1); ok {
		t.Error("what does not answer has a history")
	}
	if _, ok := s.History("network", "", 1); ok {
		t.Error("what is unknown has a history")
	}
	// After a gap what is older than is kept is not told.
	s.Observe(hostAt(100, 0.5))
	if h, _ := s.History("cpu", "", 0); !slices.Equal(values(h), []float64{50}) {
		t.Errorf("after a gap: %v", values(h))
	}
}

// TestSpacing: readings that come faster than points count for peaks, not as points.
func TestSpacing(t *testing.T) {
	s := New(Options{Keep: 10 * time.Second, Points: 10})
	for i := range 40 {
		cpu := 0.1
		if i == 17 {
			cpu = 0.9
		}
		s.Observe(hostAt(float64(i)/10, cpu))
	}
	if h, _ := s.History("cpu", "", 0); len(h.Points) < 4 || len(h.Points) > 5 {
		t.Errorf("%d points of 4 s", len(h.Points))
	}
	for _, x := range s.Stats().Resources {
		if x.Resource == "cpu" && (x.Peak != 90 || x.PeakTime != begin.Add(1700*time.Millisecond) || x.Readings != 40 || x.Average < 11.9 || x.Average > 12.1) {
			t.Errorf("%+v", x)
		}
	}
}

func TestStats(t *testing.T) {
	s := New(Options{})
	cross := func(seconds float64, resource, target string, state, previous record.State) {
		c := &record.StateChange{Resource: resource, Target: target, State: state, Previous: previous}
		c.Time = begin.Add(time.Duration(seconds) * time.Second)
		s.Observe(c)
	}
	s.Observe(hostAt(0, 0.2))
	cross(1, "memory", "host", "warning", "normal")
	cross(2, "memory", "host", "critical", "warning")
	cross(3, "memory", "host", "warning", "critical") // on the way down
	cross(4, "memory", "host", "normal", "warning")
	cross(5, "fd", "pid:1@1", "critical", "normal")
	cross(6, "fd", "pid:1@1", "info", "normal")
	got := s.Stats()
	if diff := cmp.Diff(map[string]uint64{"memory": 1}, got.WarningEvents); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]uint64{"memory": 1, "fd": 1}, got.CriticalEvents); diff != "" {
		t.Error(diff)
	}
	if got.Since != begin {
		t.Errorf("since %v", got.Since)
	}
	i := slices.IndexFunc(got.Resources, func(x record.ResourceStats) bool { return x.Resource == "memory" })
	if x := got.Resources[i]; x.WarningEvents != 1 || x.CriticalEvents != 1 || x.Peak != 200 || x.PeakRatio.Or(0) < 0.19 {
		t.Errorf("%+v", x)
	}
	s.Reset(begin.Add(time.Minute))
	got = s.Stats()
	if len(got.Resources) != 0 || len(got.WarningEvents)+len(got.CriticalEvents) != 0 || got.Since != begin.Add(time.Minute) {
		t.Errorf("after a reset: %+v", got)
	}
	if h, ok := s.History("memory", "", 0); !ok || len(h.Points) != 1 {
		t.Error("a reset took the points")
	}
	s.Observe(hostAt(61, 0.1))
	if got = s.Stats(); got.Resources[0].Readings != 1 || got.Resources[0].Peak != 10 {
		t.Errorf("%+v", got.Resources[0])
	}
}

// TestBounds: neither series nor points grow without end.
func TestBounds(t *testing.T) {
	s := New(Options{Keep: time.Minute, Points: 60, Series: 20})
	h := hostAt(0, 0.1)
	for i := range 1000 {
		h.Filesystems = []record.Filesystem{{Path: fmt.Sprint("/", i), TotalBytes: record.Some[uint64](100), FreeBytes: record.Some[uint64](1), AvailableBytes: record.Some[uint64](1)}}
		h.Time = begin.Add(time.Duration(i) * time.Second)
		s.Observe(h)
	}
	if n := len(s.Resources()); n > 20 || s.Refused() == 0 {
		t.Errorf("%d series, %d refused", n, s.Refused())
	}
	if h, _ := s.History("cpu", "", 0); len(h.Points) != 60 {
		t.Errorf("%d points", len(h.Points))
	}
	if !slices.ContainsFunc(s.Resources(), func(h record.History) bool { return strings.HasPrefix(h.Target, "mount:/9") }) {
		t.Error("series of what is long gone leave no room for what is new")
	}
}

// TestClockSetBack: what lies in the future is forgotten, and all goes on.
func TestClockSetBack(t *testing.T) {
	s := New(Options{})
	for i := range 10 {
		s.Observe(hostAt(float64(3600+i), 0.5))
	}
	for i := range 5 {
		s.Observe(hostAt(float64(i), 0.25))
	}
	if h, _ := s.History("cpu", "", 0); len(h.Points) != 5 || h.Points[0].Value != 25 {
		t.Errorf("%v", values(h))
	}
}

// lines writes records as an agent does.
func lines(t *testing.T, records ...record.Record) []byte {
	t.Helper()
	var b []byte
	for i, r := range records {
		h := r.Head()
		h.Seq, h.Schema, h.Host = uint64(i)+1, record.Schema, "web-1"
		var err error
		if b, err = record.Append(b, r); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// TestFill: after a restart a store knows what the one before did.
func TestFill(t *testing.T) {
	before := New(Options{})
	var all []record.Record
	for i := range 5000 { // longer than an hour, over two files, with much that is skipped
		h := hostAt(float64(i), float64(i%100)/100)
		all = append(all, h)
		if i%50 == 0 {
			all = append(all, &record.StateChange{
				Header: record.Header{Time: h.Time}, Resource: "cpu", Target: "host", State: record.StateCritical, Previous: record.StateNormal,
			})
		}
		p := &record.Process{ProcessFacts: record.ProcessFacts{PID: 7, Comm: strings.Repeat("x", 500)}}
		p.Time = h.Time
		all = append(all, p)
	}
	now := begin.Add(4999*time.Second + time.Millisecond)
	for _, r := range all {
		if !r.Head().Time.Before(now.Add(-time.Hour)) {
			before.Observe(r)
		}
	}
	dir := t.TempDir()
	older, newer := filepath.Join(dir, "r.jsonl.1"), filepath.Join(dir, "r.jsonl")
	cut := len(all) / 2
	torn := append(lines(t, all[cut:]...), `{"time":"2026-11-25T13:23:19.5Z","kind":"host","host":"web-1","boot`...)
	for path, content := range map[string][]byte{older: lines(t, all[:cut]...), newer: torn} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	after := New(Options{})
	filled, err := after.Fill(FillOptions{Paths: []string{newer, older, filepath.Join(dir, "none")}, Host: "web-1", Now: now, Time: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if !filled.Whole || filled.Skipped != 0 || filled.Taken != 3600+72 {
		t.Errorf("%+v", filled)
	}
	for _, resource := range []string{"cpu", "memory", "disk"} {
		want, _ := before.History(resource, "", 0)
		got, _ := after.History(resource, "", 0)
		if diff := cmp.Diff(want.Points, got.Points, cmp.Comparer(func(a, b record.Opt[float64]) bool { return a == b })); diff != "" {
			t.Errorf("%s (-before +after):\n%.2000s", resource, diff)
		}
	}
	if diff := cmp.Diff(before.Stats(), after.Stats(), cmp.Comparer(func(a, b record.Opt[float64]) bool { return a == b })); diff != "" {
		t.Errorf("(-before +after):\n%.2000s", diff)
	}
}

// TestFillHostile: foreign lines, other hosts, the future, what is no file, and bounds.
func TestFillHostile(t *testing.T) {
	dir := t.TempDir()
	other, future, good := hostAt(1, 0.1), hostAt(1e6, 0.2), hostAt(2, 0.3)
	text := bytes.Join([][]byte{
		[]byte(strings.Repeat("z", 3<<20) + "\n"), lines(t, good), []byte(`{"time":"x","kind":"host","cpu_ratio":"no"}` + "\n"), []byte("\n\x00\xff\n[]\n"),
		bytes.Replace(lines(t, other), []byte("web-1"), []byte("web-2"), 1), lines(t, future), []byte(strings.Repeat("y", 2<<20)),
	}, nil)
	path := filepath.Join(dir, "r.jsonl")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	s := New(Options{})
	filled, err := s.Fill(FillOptions{Paths: []string{path, "/dev/null", dir}, Host: "web-1", Now: begin.Add(time.Minute), Time: time.Hour})
	if err != nil || filled.Taken != 1 || filled.Skipped != 3 || !filled.Whole {
		t.Errorf("%+v, %v", filled, err)
	}
	if h, _ := s.History("cpu", "", 0); !slices.Equal(values(h), []float64{30}) {
		t.Errorf("%v", values(h))
	}
	filled, err = New(Options{}).Fill(FillOptions{Paths: []string{path}, Host: "web-1", Now: begin.Add(time.Minute), Bytes: 1 << 20})
	if err != nil || filled.Taken != 0 || filled.Whole {
		t.Errorf("with a bound: %+v, %v", filled, err)
	}
}

func FuzzBackward(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"))
	f.Add(bytes.Repeat([]byte("x\n"), fillBlock))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got [][]byte
		if err := backward(bytes.NewReader(b), int64(len(b)), func(line []byte, _ int64) bool {
			got = append(got, slices.Clone(line))
			return true
		}); err != nil {
			t.Fatal(err)
		}
		slices.Reverse(got)
		var want [][]byte
		for line := range bytes.Lines(b) {
			if line, whole := bytes.CutSuffix(line, []byte("\n")); whole && len(line) > 0 && len(line) < longestLine {
				want = append(want, line)
			}
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// TestByMany is for the race detector.
func TestByMany(t *testing.T) {
	s := New(Options{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for i := range 200 {
				s.Observe(hostAt(float64(i), 0.5))
				s.History("cpu", "", 5)
				s.Stats()
				s.Reset(begin)
			}
		})
	}
	group.Wait()
}

// BenchmarkObserve is what the tick pays for a record of the host, and of a process, which
// has no history.
func BenchmarkObserve(b *testing.B) {
	for what, r := range map[string]record.Record{"host": hostAt(0, 0.5), "process": &record.Process{}} {
		b.Run(what, func(b *testing.B) {
			s := New(Options{})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Head().Time = begin.Add(time.Duration(i) * time.Second)
				s.Observe(r)
			}
		})
	}
}

// BenchmarkFill is a restart of an agent that has written an hour of a thousand
// processes, of which a tenth moved at each reading.
func BenchmarkFill(b *testing.B) {
	path := filepath.Join(b.TempDir(), "r.jsonl")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	var line []byte
	for i := range 1000 {
		h := hostAt(float64(i), 0.5)
		h.Schema = record.Schema
		line, _ = record.Append(line[:0], h)
		p := &record.Process{ProcessFacts: record.ProcessFacts{PID: 7, Comm: "a process"}}
		p.Schema, p.Time = record.Schema, h.Time
		for range 100 {
			line, _ = record.Append(line, p)
		}
		if _, err := f.Write(line); err != nil {
			b.Fatal(err)
		}
	}
	st, _ := f.Stat()
	f.Close()
	b.SetBytes(st.Size())
	for b.Loop() {
		filled, err := New(Options{}).Fill(FillOptions{Paths: []string{path}, Host: "web-1", Now: begin.Add(1000 * time.Second)})
		if err != nil || filled.Taken == 0 {
			b.Fatalf("%+v, %v", filled, err)
		}
	}
}

// What was there before the clock was set back is forgotten, too, when there is no room.
func TestBoundAfterAClockStep(t *testing.T) {
	s := New(Options{Keep: time.Minute, Points: 60, Series: 6}) // cpu, memory, disk, and three filesystems
	at := func(seconds float64, paths ...string) {
		h := hostAt(seconds, 0.5)
		h.Filesystems = nil
		for _, path := range paths {
			h.Filesystems = append(h.Filesystems, record.Filesystem{
				Path: path, TotalBytes: record.Some[uint64](10), FreeBytes: record.Some[uint64](1), AvailableBytes: record.Some[uint64](1),
			})
		}
		s.Observe(h)
	}
	at(7200, "/", "/a", "/b")
	for second := range 100 {
		at(float64(second), "/") // an hour and more earlier
	}
	at(100, "/", "/c", "/d")
	if _, ok := s.History("disk", "mount:/d", 0); !ok || s.Refused() != 0 {
		t.Errorf("%d refused: %v", s.Refused(), s.Resources())
	}
}
