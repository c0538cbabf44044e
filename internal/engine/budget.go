package engine

import (
	"slices"
	"time"
)

// maxInterval is the longest that the budget stretches an interval: a host that
// is read less often than that is not watched any more.
const maxInterval = time.Minute

// budget stretches the interval so that the agent's CPU time stays within a
// share of one core. A tick costs what it costs; only how often it comes can be
// chosen, so the interval that fits is cost / share. Intervals are multiples of
// the one asked for, so that series stay aligned.
type budget struct {
	share   float64       // of one core; 0: no budget
	base    time.Duration // the interval asked for
	costs   [9]time.Duration
	n       int
	current time.Duration
}

func newBudget(share float64, base time.Duration) *budget {
	return &budget{share: share, base: base, current: base}
}

// spent takes the CPU time of one tick, and the share of a core that the hooks
// take whether or not there are ticks. It returns the interval to keep now, and
// whether that is another than before.
//
// The median of the last ticks counts, so that one slow tick (a page cache that
// was dropped, a machine that was stolen from) moves nothing. Lengthening is
// immediate, shortening waits for a fifth of slack, so that nothing flaps.
func (b *budget) spent(cost time.Duration, hooks float64) (time.Duration, bool) {
	b.costs[b.n%len(b.costs)] = cost
	b.n++
	if b.share == 0 || b.n < len(b.costs) {
		return b.current, false
	}
	sorted := b.costs
	slices.Sort(sorted[:])
	median := sorted[len(sorted)/2]

	next := b.fit(median, hooks)
	if next < b.current {
		next = min(b.fit(median+median/5, hooks), b.current)
	}
	changed := next != b.current
	b.current = next
	return next, changed
}

// fit returns the shortest multiple of the base interval at which ticks of this
// cost stay within what the hooks leave of the share.
func (b *budget) fit(cost time.Duration, hooks float64) time.Duration {
	left := b.share - hooks
	if left <= 0 {
		return max(b.base, maxInterval)
	}
	need := float64(cost) / left
	if need >= float64(maxInterval) {
		return max(b.base, maxInterval)
	}
	steps := (time.Duration(need) + b.base - 1) / b.base
	return min(max(steps, 1)*b.base, max(b.base, maxInterval))
}
