package aggregate

import (
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

// What a Window remembers unless it was made otherwise: so long, in so many pieces.
const (
	WindowPeriod  = 10 * time.Second
	WindowSamples = 20
)

// Window is the mean of a value over the last period, weighted by time: each value
// holds for the interval that it was measured over. Intervals shorter than the
// period's share of a sample are summed up, so that a Window's size depends neither on
// how often something is read nor for how long. Time is monotonic, so neither
// suspend nor a step of the clock counts. The zero value is an empty window of
// WindowPeriod and WindowSamples.
type Window struct {
	period  time.Duration
	samples int
	spans   []span        // a ring, with room for a whole period: see Add
	n       int           // spans written so far
	start   time.Duration // of the first interval
}

// NewWindow returns an empty window of another length, or of more or fewer pieces.
// Neither may be 0.
func NewWindow(period time.Duration, samples int) Window {
	return Window{period: period, samples: samples}
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
	if w.spans == nil {
		if w.period == 0 {
			w.period, w.samples = WindowPeriod, WindowSamples
		}
		// Two spans in a row are together longer than the share of a sample, else they
		// would be one; and the oldest counts in part.
		w.spans = make([]span, 2*w.samples+1)
	}
	s := span{end: at, length: elapsed, integral: v * elapsed.Seconds()}
	if w.n > 0 {
		last := &w.spans[(w.n-1)%len(w.spans)]
		if last.end > at-elapsed { // time went back: what was before is of another clock
			w.Clear()
		} else if last.end == at-elapsed && last.length+elapsed <= w.period/time.Duration(w.samples) {
			last.end, last.length, last.integral = at, last.length+elapsed, last.integral+s.integral
			return
		}
	}
	if w.n == 0 {
		w.start = at - elapsed
	}
	w.spans[w.n%len(w.spans)] = s
	w.n++
}

// Clear empties the window.
func (w *Window) Clear() { w.n = 0 }

// Covers tells whether the window began at least a period before at: what it says
// of the mean is said of the whole period.
func (w *Window) Covers(at time.Duration) bool { return w.n > 0 && at-w.start >= w.period }

// Mean is the mean over the period before at, unknown unless the value was known for
// at least half of it.
func (w *Window) Mean(at time.Duration) sample.Opt[float64] {
	var integral float64
	var known time.Duration
	for i := max(0, w.n-len(w.spans)); i < w.n; i++ {
		s := &w.spans[i%len(w.spans)]
		part := min(s.end, at) - max(s.end-s.length, at-w.period)
		if part <= 0 {
			continue
		}
		known += part
		integral += s.integral * (float64(part) / float64(s.length))
	}
	return record.SomeIf(Round(integral/max(known, 1).Seconds()), w.n > 0 && known >= w.period/2)
}
