package htmlreport

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSeriesKeepsEverything holds the buckets against all values that were added.
func TestSeriesKeepsEverything(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		s := newSeries(2 + rng.IntN(50))
		type value struct {
			ms int64
			v  float64
		}
		var all []value
		span := int64(1) << rng.IntN(45)
		for range 1 + rng.IntN(400) {
			x := value{rng.Int64N(span) - span/2, rng.NormFloat64()}
			all = append(all, x)
			s.add(x.ms, x.v)
		}
		if len(s.buckets) > s.limit {
			t.Fatalf("%d buckets, allowed are %d", len(s.buckets), s.limit)
		}
		want := make([]bucket, len(s.buckets))
		for _, x := range all {
			want[floorDiv(x.ms, s.width)-s.first].add(x.v)
		}
		for i, w := range want {
			got := s.buckets[i]
			if got.n != w.n || got.min != w.min || got.max != w.max || math.Abs(got.sum-w.sum) > 1e-9 {
				t.Fatalf("bucket %d: got %+v, want %+v", i, got, w)
			}
		}
		most := slices.MaxFunc(all, func(a, b value) int { return cmp.Compare(a.v, b.v) })
		if s.peak != most.v || s.peakAt != most.ms {
			t.Fatalf("peak %v at %d, want %v", s.peak, s.peakAt, most)
		}
	}
}

func TestSeriesIsNotWiderThanNeeded(t *testing.T) {
	s := newSeries(100)
	for i := range int64(1000) {
		s.add(i*1000, 1)
	}
	if len(s.buckets) <= s.limit/2-2 {
		t.Errorf("%d buckets of %d in use", len(s.buckets), s.limit)
	}
}

func TestSeriesIgnoresWhatIsNoNumber(t *testing.T) {
	s := newSeries(10)
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		s.add(0, v)
	}
	if !s.empty() {
		t.Error("something was added")
	}
}

func TestRunsBreakAtHoles(t *testing.T) {
	for _, c := range []struct {
		name  string
		times []int64 // in seconds
		want  int
	}{
		{"nothing", nil, 0},
		{"one value", []int64{5}, 1},
		{"each second", []int64{1, 2, 3, 4, 5, 6, 7, 8}, 1},
		{"each minute", []int64{0, 60, 120, 180, 240}, 1},
		{"one missing", []int64{1, 2, 3, 5, 6, 7}, 1},
		{"a hole", []int64{1, 2, 3, 4, 30, 31, 32, 33}, 2},
	} {
		s := newSeries(10000)
		for _, at := range c.times {
			s.add(at*1000, 1)
		}
		runs := s.runs()
		if len(runs) != c.want {
			t.Errorf("%s: runs %v, want %d", c.name, runs, c.want)
		}
		n := uint32(0)
		for _, r := range runs {
			for i := r[0]; i < r[1]; i++ {
				n += s.buckets[i].n
			}
		}
		if int(n) != len(c.times) {
			t.Errorf("%s: %d values in the runs", c.name, n)
		}
	}
}

func TestTopIsExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		top := newTop(1+rng.IntN(12), func(v float64) float64 { return v })
		var all []float64
		for range rng.IntN(300) {
			v := float64(rng.IntN(100) - 10)
			all = append(all, v)
			top.offer(v)
		}
		all = slices.DeleteFunc(all, func(v float64) bool { return v <= 0 })
		slices.SortFunc(all, func(a, b float64) int { return cmp.Compare(b, a) })
		if want := all[:min(len(all), top.limit)]; !slices.Equal(top.list, want) {
			t.Fatalf("got %v, want %v", top.list, want)
		}
	}
}

func TestValueTicks(t *testing.T) {
	for _, u := range []unit{unitRatio, unitBytes, unitRate, unitCount} {
		for _, top := range []float64{0, 0.003, 0.4, 1, 3, 17, 1023, 1024, 1e5, 3e9, 24e9, 1e15, 1e19} {
			list, edge := valueTicks(u, top)
			if edge < top || top >= 4 && edge > 3*top {
				t.Errorf("%s to %g: the edge is %g", u, top, edge)
			}
			if len(list) < 2 || len(list) > 6 {
				t.Errorf("%s to %g: %d ticks", u, top, len(list))
			}
			if last := list[len(list)-1].At; last != 0 || list[0].At != 100 {
				t.Errorf("%s to %g: ticks from %g to %g", u, top, list[0].At, last)
			}
		}
	}
}

func TestTimeTicks(t *testing.T) {
	const begin = 1_764_000_000_000
	for _, span := range []int64{1000, 5000, 60_000, 3_600_000, 86_400_000, 30 * 86_400_000, 400 * 86_400_000, 9000 * 365 * 86_400_000} {
		list := timeTicks(begin, begin+span)
		if len(list) > 12 || span >= 5000 && len(list) < 2 {
			t.Errorf("%d ms: %v", span, list)
		}
	}
}
