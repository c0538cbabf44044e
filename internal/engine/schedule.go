package engine

import "time"

// schedule counts the ticks that a ticker drops while nobody waits for it.
type schedule struct {
	start    time.Time // with a monotonic reading, so that clock steps don't count
	interval time.Duration
	turns    uint64 // due until now, whether they came or not
}

// newSchedule begins one interval before the first tick of a ticker that is made
// just after it.
func newSchedule(interval time.Duration) schedule {
	return schedule{start: time.Now(), interval: interval}
}

// missed returns how many ticks are due by now and will not come.
func (s *schedule) missed(now time.Time) uint64 {
	return uint64(max(now.Sub(s.start), 0)/s.interval) - s.turns
}

// turn tells that a turn begins, and returns how many were due before it and did
// not come. A late turn is none the less one.
func (s *schedule) turn(now time.Time) (dropped uint64) {
	due := s.missed(now)
	s.turns += due
	if due == 0 {
		return 0
	}
	return due - 1
}
