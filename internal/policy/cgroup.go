package policy

import (
	"math"

	"rmagent/internal/aggregate"
	"rmagent/record"
)

// cgroupMeasures are judged of each cgroup: the first three where it has a limit.
var cgroupMeasures = [...]measure{mMemory, mPIDs, mCPU, mPressureCPU, mPressureMemory, mPressureIO}

// Cgroup takes the record of a cgroup that was read in this reading.
func (e *Engine) Cgroup(c *record.Cgroup) {
	t := target{kind: kindCgroup, name: c.Path}
	for _, m := range cgroupMeasures {
		e.met(t, m)
	}
	e.limited(t, mMemory, c.MemoryBytes, c.MemoryLimitBytes)
	e.limited(t, mPIDs, c.PIDs, c.PIDsLimit)
	cores, known := e.cgroupCores(c)
	if limit, limited := c.CPULimitCores.Get(); known && limited && limit > 0 && !math.IsInf(limit, 0) {
		r := reading{value: aggregate.Round(cores * 100), limit: limit * 100, ratio: aggregate.Round(cores / limit)}
		e.observe(t, mCPU, r, subject{})
	} else if known && !limited {
		e.unlimited(t, mCPU, aggregate.Round(cores*100))
	}
	if c.Path == "/" {
		return // its pressure is the host's
	}
	e.pressure(t, mPressureCPU, c.PressureCPUSomeRatio, cores)
	e.pressure(t, mPressureMemory, c.PressureMemorySomeRatio, float64(c.MemoryBytes.Or(0)))
	e.pressure(t, mPressureIO, c.PressureIOSomeRatio, 0)
}

// limited judges what a cgroup has of something under its limit.
func (e *Engine) limited(t target, m measure, value, limit record.Opt[uint64]) {
	if r, ok := of(value, limit); ok {
		e.observe(t, m, r, subject{})
	} else if v, known := value.Get(); known && !limit.Known() {
		e.unlimited(t, m, float64(v))
	}
}

// unlimited judges what has no limit: nothing, unless it had one before. A limit is read
// where the value is, so one that is null beside a value that is known is none; should it
// be unknown once, the hold time bridges that.
func (e *Engine) unlimited(t target, m measure, value float64) {
	if e.gauges[gaugeKey{target: t, measure: m}] != nil {
		e.observe(t, m, reading{value: value, unlimited: true}, subject{})
	}
}

// pressure judges how long the tasks of a cgroup wait. whole is what the shares of its
// processes are of. Of a cgroup that is far from every threshold nothing is remembered:
// there are many, and few wait.
func (e *Engine) pressure(t target, m measure, ratio record.Opt[float64], whole float64) {
	r, known := share(ratio)
	if !known {
		return
	}
	key := gaugeKey{target: t, measure: m}
	threshold, judged := e.config.Thresholds[Pressure]
	maximum := e.maximum(key)
	g := e.gauges[key]
	if g == nil && !(judged && r.ratio >= threshold.Info || maximum > 0 && r.value >= maximum/2) {
		return
	}
	e.observe(t, m, r, subject{})
	e.gauges[key].whole = whole
}

// WatchedCgroups marks in paths the cgroups that should be read although nothing moves in
// them: they are not as they should be, and what was decided of them may be over.
func (e *Engine) WatchedCgroups(paths map[string]bool) {
	for key, g := range e.gauges {
		if key.target.kind == kindCgroup && (g.pressed || !g.idle()) {
			paths[key.target.name] = true
		}
	}
}

// cgroupCores is how many CPUs a cgroup used since the reading of it before.
func (e *Engine) cgroupCores(c *record.Cgroup) (cores float64, known bool) {
	now, ok := c.CPUSecondsTotal.Get()
	if !ok {
		return 0, false
	}
	before, known := e.cgroupCPU[c.Path]
	e.cgroupCPU[c.Path] = total{now, e.now}
	elapsed := (e.now - before.at).Seconds()
	if !known || elapsed <= 0 || now < before.value {
		return 0, false
	}
	return (now - before.value) / elapsed, true
}
