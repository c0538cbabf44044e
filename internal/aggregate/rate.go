package aggregate

import (
	"math"
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

// Delta is the difference of a counter between two readings: not a counter.
type Delta struct {
	n     uint64
	known bool
}

// Sub returns now - before. A counter that went back is no difference: it was
// reset, or is another's.
func Sub(now, before uint64) Delta {
	if now < before {
		return Delta{}
	}
	return Delta{now - before, true}
}

// Per returns the rate in units a second, unknown where no time went by.
func (d Delta) Per(elapsed time.Duration) sample.Opt[float64] {
	if !d.known || elapsed <= 0 {
		return sample.Opt[float64]{}
	}
	return record.Some(Round(float64(d.n) / elapsed.Seconds()))
}

// Round rounds to a millionth, so that a number is the same after it was written.
func Round(x float64) float64 { return math.Round(x*1e6) / 1e6 }

// rateOf is the rate of a counter that either reading may lack.
func rateOf(now, before sample.Opt[uint64], elapsed time.Duration) sample.Opt[float64] {
	n, ok := now.Get()
	b, okBefore := before.Get()
	if !ok || !okBefore {
		return sample.Opt[float64]{}
	}
	return Sub(n, b).Per(elapsed)
}
