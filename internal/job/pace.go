package job

import (
	"time"

	"rmagent/internal/cctools"
)

// Readings are taken ten times a second, and whenever the kernel says that one is
// worth it. One is taken sooner if a limit is reached sooner at the rate of the last two;
// but not before the one before it is paid for.
const (
	readEvery  = 100 * time.Millisecond
	readSoon   = 10 * time.Millisecond
	readBudget = 20 // from one reading to the next passes so many times as long as one takes
)

// pacer says when the next reading is worth it.
type pacer struct {
	seconds float64 // at the last reading
	values  cctools.Measures
	rates   [cctools.NumMeasures]float64 // a second
}

// next takes a reading that took some time, and returns how long to wait for another.
func (p *pacer) next(limits *cctools.Limits, now *cctools.Measures, took time.Duration) time.Duration {
	seconds, _ := now.Get(cctools.WallTime)
	passed := seconds - p.seconds
	left := readEvery.Seconds()
	for id := range cctools.Measure(cctools.NumMeasures) {
		limit, limited := limits.Get(id)
		v, known := now.Get(id)
		if !limited || !known {
			continue
		}
		if before, known := p.values.Get(id); passed > 0 && known {
			p.rates[id] = (v - before) / passed
		}
		if rate := p.rates[id]; rate > 0 && v <= limit {
			left = min(left, (limit-v)/rate)
		}
	}
	if passed > 0 {
		p.seconds, p.values = seconds, *now
	}
	wait := max(time.Duration(left*float64(time.Second)), readSoon, readBudget*took)
	return min(wait, readEvery)
}
