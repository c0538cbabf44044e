package policy

import (
	"math"
	"time"

	"rmagent/record"
)

// level is the position of a state: higher is worse.
type level uint8

const (
	normal level = iota
	info
	warning
	critical
)

func (l level) state() record.State {
	return [...]record.State{record.StateNormal, record.StateInfo, record.StateWarning, record.StateCritical}[l]
}

func rank(s record.State) level {
	for l := normal; l < critical; l++ {
		if l.state() == s {
			return l
		}
	}
	return critical
}

// at returns the threshold of a level above normal.
func (t *Threshold) at(l level) float64 {
	return [...]float64{0, t.Info, t.Warning, t.Critical}[l]
}

// reached returns the level that a ratio reaches.
func (t *Threshold) reached(ratio float64) level {
	switch {
	case ratio >= t.Critical:
		return critical
	case ratio >= t.Warning:
		return warning
	case ratio >= t.Info:
		return info
	}
	return normal
}

// standing is where a target stands.
type standing struct {
	level level
	// since is from when on the ratio would have it at another level throughout; the
	// one nearest to its level is to.
	moving direction
	since  time.Duration
	to     level
}

type direction uint8

const (
	still direction = iota
	rising
	falling
)

// judge moves the standing and says from where, if it moved.
func (s *standing) judge(t *Threshold, ratio float64, now time.Duration) (previous level, changed bool) {
	previous = s.level
	if up := t.reached(ratio); up > s.level {
		if s.moving != rising {
			s.moving, s.since, s.to = rising, now, up
		}
		s.to = min(s.to, up)
		return previous, s.settle(now, t.After)
	}
	// The lowest level that the ratio allows with hysteresis.
	allowed := s.level
	for allowed > normal && ratio < t.at(allowed)-t.Hysteresis {
		allowed--
	}
	if allowed == s.level {
		s.moving = still
		return previous, false
	}
	if s.moving != falling {
		s.moving, s.since, s.to = falling, now, allowed
	}
	s.to = max(s.to, allowed)
	return previous, s.settle(now, t.Hold)
}

// settle moves to where it has been heading for long enough.
func (s *standing) settle(now, long time.Duration) bool {
	if now-s.since < long {
		return false
	}
	s.level, s.moving = s.to, still
	return true
}

// idle tells whether there is nothing to remember.
func (s *standing) idle() bool { return s.level == normal && s.moving == still }

// slope is how fast a value grows, smoothed.
type slope struct {
	at        time.Duration // of the last value
	value     float64
	perSecond float64
	known     time.Duration // for how long it was watched
}

// What a slope remembers, and for how long it must have been watched to mean
// something.
const (
	slopeMemory = 10 * time.Second
	slopeEnough = 8 * time.Second
)

func (s *slope) add(at time.Duration, value float64) {
	elapsed := at - s.at
	if s.at != 0 && elapsed > 0 {
		now := (value - s.value) / elapsed.Seconds()
		weight := 1 - math.Exp(-elapsed.Seconds()/slopeMemory.Seconds())
		if s.known == 0 {
			weight = 1
		}
		s.perSecond += weight * (now - s.perSecond)
		s.known += elapsed
	}
	s.at, s.value = at, value
}

// left is how long the rest lasts at the present rate, false where nothing grows or
// it was not watched for long enough.
func (s *slope) left(limit float64) (seconds float64, known bool) {
	if s.known < slopeEnough || s.perSecond <= 0 {
		return 0, false
	}
	return max(limit-s.value, 0) / s.perSecond, true
}
