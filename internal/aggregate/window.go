package aggregate

import (
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

// What a Window remembers: so long, in so many pieces.
const (
	WindowPeriod  = 10 * time.Second
	windowSamples = 20
)

// Window is the mean of a value over the last WindowPeriod, weighted by time: each
// value holds for the interval that it was measured over. Intervals shorter than a
// WindowPeriod's twentieth are summed up, so that a Window's size depends neither on
// how often something is read nor for how long. Time is monotonic, so neither
// suspend nor a step of the clock counts. The zero value is an empty window.
type Window struct {
	spans [windowSamples + 1]span // a ring; one more, for the oldest counts in part
	n     int                     // spans written so far
}

// span is an interval in which the value is known.
type span struct {
	end, length time.Duration
	integral    float64 // the value times seconds
}

// Add takes a value that held for elapsed until at. An unknown value, and no or
// negative time, add nothing: the window knows less then.
func (w *Window) Add(at, elapsed time.Duration, value sample.Opt[float64]) {
	v, ok := value.Get()
	if !ok || elapsed <= 0 {
		return
	}
	s := span{end: at, length: elapsed, integral: v * elapsed.Seconds()}
	if w.n > 0 {
		last := &w.spans[(w.n-1)%len(w.spans)]
		if last.end > at-elapsed { // time went back: what was before is of another clock
			*w = Window{}
		} else if last.end == at-elapsed && last.length+elapsed <= WindowPeriod/windowSamples {
			last.end, last.length, last.integral = at, last.length+elapsed, last.integral+s.integral
			return
		}
	}
	w.spans[w.n%len(w.spans)] = s
	w.n++
}

// Mean is the mean over the WindowPeriod before at, unknown unless the value was
// known for at least half of it.
func (w *Window) Mean(at time.Duration) sample.Opt[float64] {
	var integral float64
	var known time.Duration
	for i := max(0, w.n-len(w.spans)); i < w.n; i++ {
		s := &w.spans[i%len(w.spans)]
		part := min(s.end, at) - max(s.end-s.length, at-WindowPeriod)
		if part <= 0 {
			continue
		}
		known += part
		integral += s.integral * (float64(part) / float64(s.length))
	}
	return record.SomeIf(Round(integral/max(known, 1).Seconds()), known >= WindowPeriod/2)
}
