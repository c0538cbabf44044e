package aggregate

import (
	"math"
	"testing"
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

func known(v float64) sample.Opt[float64] { return record.Some(v) }

func TestWindow(t *testing.T) {
	const second = time.Second
	type step struct {
		at, elapsed time.Duration
		value       sample.Opt[float64]
	}
	every := func(interval, until time.Duration, value func(at time.Duration) float64) (steps []step) {
		for at := interval; at <= until; at += interval {
			steps = append(steps, step{at, interval, known(value(at))})
		}
		return steps
	}
	one := func(time.Duration) float64 { return 1 }
	half := func(at time.Duration) float64 { // 0 until 20 s, then 2
		if at <= 20*second {
			return 0
		}
		return 2
	}
	late := func(at time.Duration) float64 { // 0 until 18 s, then 1
		if at <= 18*second {
			return 0
		}
		return 1
	}
	for name, tt := range map[string]struct {
		steps []step
		at    time.Duration
		want  sample.Opt[float64]
	}{
		"empty":                          {nil, 5 * second, sample.Opt[float64]{}},
		"too little":                     {every(second, 4*second, one), 4 * second, sample.Opt[float64]{}},
		"half is enough":                 {every(second, 5*second, one), 5 * second, known(1)},
		"only the period counts":         {every(second, 25*second, half), 25 * second, known(1)},
		"ten times as often":             {every(second/10, 25*second, half), 25 * second, known(1)},
		"a hundred times as often":       {every(second/100, 25*second, half), 25 * second, known(1)},
		"each half a sample and more":    {every(300*time.Millisecond, 24*second, late), 24 * second, known(0.6)},
		"rarely":                         {every(5*second, 25*second, half), 25 * second, known(1)},
		"longer than the period":         {[]step{{30 * second, 30 * second, known(3)}}, 30 * second, known(3)},
		"a skipped tick weighs more":     {[]step{{second, second, known(0)}, {9 * second, 8 * second, known(9)}}, 9 * second, known(8)},
		"the oldest in part":             {[]step{{4 * second, 4 * second, known(10)}, {12 * second, 8 * second, known(0)}}, 12 * second, known(2)},
		"an unknown value is no zero":    {[]step{{4 * second, 4 * second, known(6)}, {6 * second, 2 * second, sample.Opt[float64]{}}, {10 * second, 4 * second, known(2)}}, 10 * second, known(4)},
		"what is known grows old":        {every(second, 10*second, one), 16 * second, sample.Opt[float64]{}},
		"time that goes back begins new": {append(every(second, 10*second, one), every(second, 5*second, func(time.Duration) float64 { return 7 })...), 5 * second, known(7)},
		"no time":                        {[]step{{second, 0, known(5)}}, second, sample.Opt[float64]{}},
	} {
		t.Run(name, func(t *testing.T) {
			var w Window
			for _, s := range tt.steps {
				w.Add(s.at, s.elapsed, s.value)
			}
			if got := w.Mean(tt.at); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// FuzzWindow compares with a model that keeps everything. A window sums short
// intervals up, so their oldest may be off by how much one such sum spreads.
func FuzzWindow(f *testing.F) {
	f.Add([]byte{100, 1, 100, 2, 100, 3, 100, 0, 100, 9})
	f.Add([]byte{1, 7, 1, 8, 1, 9, 2, 0, 255, 4, 3, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		var w Window
		type piece struct{ from, to, value float64 } // seconds
		var all []piece
		at := time.Minute
		for ; len(b) >= 2; b = b[2:] {
			elapsed := time.Duration(b[0]) * 20 * time.Millisecond
			at += elapsed
			if b[1] == 0 || elapsed == 0 {
				w.Add(at, elapsed, sample.Opt[float64]{})
				continue
			}
			w.Add(at, elapsed, known(float64(b[1])))
			all = append(all, piece{(at - elapsed).Seconds(), at.Seconds(), float64(b[1])})
		}
		var integral, seconds float64
		begin := (at - WindowPeriod).Seconds()
		for _, p := range all {
			if part := p.to - max(p.from, begin); part > 0 {
				integral += part * p.value
				seconds += part
			}
		}
		got, ok := w.Mean(at).Get()
		if margin := math.Abs(seconds - (WindowPeriod / 2).Seconds()); margin < 0.001 {
			return // just half: either is right
		}
		if want := seconds >= (WindowPeriod / 2).Seconds(); ok != want {
			t.Fatalf("known: %v, want %v: %v s", ok, want, seconds)
		}
		if !ok {
			return
		}
		// One sum of short intervals, half a second at most, may be cut.
		slack := 0.5*255/seconds + 1e-5
		if want := integral / seconds; math.Abs(got-want) > slack {
			t.Errorf("mean %v, want %v", got, want)
		}
	})
}

func TestWindowAllocatesNothing(t *testing.T) {
	var w Window
	at := time.Duration(0)
	if n := testing.AllocsPerRun(1000, func() {
		at += time.Second
		w.Add(at, time.Second, known(1))
		w.Mean(at)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
