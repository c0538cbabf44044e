package policy

import (
	"time"

	"rmagent/internal/aggregate"
	"rmagent/record"
)

// gauge is what is remembered of one measure of one target.
type gauge struct {
	key gaugeKey
	standing
	slope
	seen time.Duration // when its target was last met
	from time.Duration // since when its last value holds; 0: unknown
	last float64       // that value
	rule *Rule         // whose limit it judges; nil: thresholds

	// Of the prune rule. The window is made where there is a maximum.
	window    aggregate.Window
	windowed  bool
	pressed   bool          // there is too much
	unmet     time.Duration // for how long the rule is known not to have been met
	value     float64       // in the maximum's unit
	weighed   time.Duration // when that was known last
	max, mean float64
	whole     float64 // of a cgroup's pressure: what the shares of its processes are of
}

// newWindow makes a window of the length that the configuration asks for.
func (e *Engine) newWindow() aggregate.Window {
	return aggregate.NewWindow(e.config.Prune.ObservationPeriod, e.config.Prune.Samples)
}

// press judges a gauge by the prune rule: value > maximum, and the mean over the
// observation period / maximum > target. What is too much stays so until the rule is
// known not to have been met for an observation period, so that noise doesn't flap. A
// lazy gauge has a window only while its value is more than half of the maximum: what is
// less would cost memory for everybody, and costs a decision at most one observation
// period.
func (e *Engine) press(g *gauge, value, maximum float64, elapsed time.Duration, lazy bool) {
	if maximum == 0 {
		e.release(g)
		return
	}
	low := value < maximum/2
	if lazy && low && !g.pressed && (!g.windowed || g.mean < maximum/2) {
		g.window, g.windowed = aggregate.Window{}, false
		return
	}
	if !g.windowed {
		g.window, g.windowed = e.newWindow(), true
	}
	g.window.Add(e.now, elapsed, record.Some(value))
	g.value, g.max, g.weighed = value, maximum, e.now
	g.unmet += elapsed
	if !e.checking {
		return
	}
	mean, known := g.window.Mean(e.now).Get()
	known = known && g.window.Covers(e.now)
	if known {
		g.mean = mean
	}
	switch {
	case value > maximum && !known: // nobody can tell
		g.unmet = 0
	case value > maximum && mean/maximum > e.config.Prune.Target:
		g.unmet = 0
		if !g.pressed {
			g.pressed = true
			e.pressed = append(e.pressed, g)
		}
	case g.unmet >= e.config.Prune.ObservationPeriod:
		e.release(g)
	}
}

// release takes a gauge off the list of those that press.
func (e *Engine) release(g *gauge) {
	if !g.pressed {
		return
	}
	g.pressed = false
	for i, p := range e.pressed {
		if p == g {
			e.pressed = append(e.pressed[:i], e.pressed[i+1:]...)
			return
		}
	}
}

// interrupt forgets what was going on: nobody knows what happened meanwhile.
func (g *gauge) interrupt() {
	g.moving = still
	g.slope = slope{}
	g.from = 0
	g.window.Clear()
}
