package policy

import (
	"math"
	"slices"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Engine keeps the states of all targets and what presses. One goroutine uses it at a
// time. A reading is handed in as its records, so that what is judged is what is
// written: [Engine.Begin] with the host's, then those of cgroups and GPUs, then those
// of processes, in any order, then [Engine.End].
type Engine struct {
	config Config

	tick     uint64
	epoch    time.Time     // where there is no monotonic clock: what now counts from
	now      time.Duration // of the reading
	elapsed  time.Duration // since the one before; 0: unknown
	host     *record.Host
	complete bool // the reading has every process
	whole    bool // no record of it was lost
	checking bool // a prune decision is due
	checked  time.Duration
	swept    time.Duration

	gauges    map[gaugeKey]*gauge // of all but processes
	cgroupCPU map[string]total
	jobs      map[string]*job
	processes map[sample.ID]*process // only those of which something is remembered
	rules     rules

	pressed []*gauge
	prune   pruning

	crossings uint64
	states    []record.StateChange
	changes   []Change
	over      []over // since the reading before
}

// total is a counter, and when it was read.
type total struct {
	value float64
	at    time.Duration
}

// New returns an engine in which everything is normal.
func New(c Config) *Engine {
	e := &Engine{
		gauges: map[gaugeKey]*gauge{}, cgroupCPU: map[string]total{}, jobs: map[string]*job{}, processes: map[sample.ID]*process{},
		rules: newRules(), prune: newPruning(),
	}
	e.Configure(c)
	return e
}

// Configure changes the policy between two readings. States stay, and so do broken
// limits of rules that select the same.
func (e *Engine) Configure(c Config) {
	newPeriod := c.Prune.ObservationPeriod != e.config.Prune.ObservationPeriod || c.Prune.Samples != e.config.Prune.Samples
	e.config = c
	e.rules.configure(c.Tracked)
	e.each(func(g *gauge) {
		if newPeriod {
			g.window, g.windowed = aggregate.Window{}, false
		}
		if e.maximum(g.key) == 0 {
			e.release(g)
		}
	})
	unset := func(k gaugeKey) bool {
		_, limit := e.ruleLimit(k)
		return k.rule != 0 && limit == 0
	}
	for key, g := range e.gauges {
		if unset(key) {
			e.forget(g, "", ruleGone)
			delete(e.gauges, key)
		}
	}
	for _, p := range e.processes {
		p.drop(e, unset, ruleGone)
	}
}

// Config returns the policy in force.
func (e *Engine) Config() Config { return e.config }

// each calls f for every gauge.
func (e *Engine) each(f func(g *gauge)) {
	for _, g := range e.gauges {
		f(g)
	}
	for _, p := range e.processes {
		for _, g := range p.gauges {
			f(g)
		}
	}
}

// Begin begins a reading. The record is the caller's again after End. continuous says
// that no record was lost since the reading before: where one was, nothing is known of
// what happened meanwhile, and neither means nor times go on.
func (e *Engine) Begin(h *record.Host, continuous bool) {
	at := e.clock(h)
	e.tick++
	e.elapsed = at - e.now
	if e.tick == 1 || !continuous || e.elapsed <= 0 {
		e.elapsed = 0
	}
	if !continuous || at < e.now {
		e.each((*gauge).interrupt)
		clear(e.cgroupCPU)
		e.checked = min(e.checked, at)
		e.prune.clockStepped(at)
		e.swept = min(e.swept, at)
		if at < e.now {
			e.each(func(g *gauge) { g.seen = at })
		}
	}
	e.now, e.host = at, h
	e.complete, e.whole = h.Processes.Known(), true
	due := e.config.Prune.CheckInterval
	e.checking = e.tick == 1 || at-e.checked >= due-due/10
	if e.checking {
		e.checked = at
	}
	e.states, e.changes = e.states[:0], e.changes[:0]
	e.prune.begin()
	e.leave(h.NoLongerChosen)
	e.judgeHost(h)
}

// clock is the time that a record tells, to the microsecond: CLOCK_MONOTONIC, or where
// the record lacks it, the wall clock since the first.
func (e *Engine) clock(h *record.Host) time.Duration {
	if s, ok := h.MonotonicSeconds.Get(); ok {
		return time.Duration(math.Round(s*1e6)) * time.Microsecond
	}
	if e.epoch.IsZero() {
		e.epoch = h.Time.Add(-time.Hour) // so that it is not 0
	}
	return h.Time.Sub(e.epoch).Round(time.Microsecond)
}

func (e *Engine) judgeHost(h *record.Host) {
	host := target{kind: kindHost}
	observe := func(t target, m measure, r reading, known bool) {
		if known {
			e.observe(t, m, r, subject{})
		}
	}
	r, ok := share(h.CPURatio)
	observe(host, mCPU, r, ok)
	r, ok = of(h.MemoryUsedBytes, h.MemoryTotalBytes)
	observe(host, mMemory, r, ok)
	r, ok = of(h.FilesOpen, h.FilesLimit)
	observe(host, mFD, r, ok)
	r, ok = of(h.Threads, h.PIDLimit)
	observe(host, mPIDs, r, ok)
	if received, sent, ok := both(h.NetReceivedBytesPerSecond, h.NetSentBytesPerSecond); ok {
		r := reading{value: received + sent, limit: e.config.NetworkLimit, unlimited: e.config.NetworkLimit == 0}
		if r.limit > 0 {
			r.ratio = aggregate.Round(r.value / r.limit)
		}
		observe(host, mNetwork, r, true)
	}
	r, ok = share(h.PressureCPUSomeRatio)
	observe(host, mPressureCPU, r, ok)
	r, ok = share(h.PressureMemorySomeRatio)
	observe(host, mPressureMemory, r, ok)
	r, ok = share(h.PressureIOSomeRatio)
	observe(host, mPressureIO, r, ok)
	for i := range h.Filesystems {
		f := &h.Filesystems[i]
		mount := target{kind: kindMount, name: f.Path}
		e.met(mount, mDisk)
		e.met(mount, mInodes)
		r, ok = of(f.Space())
		observe(mount, mDisk, r, ok)
		r, ok = of(aggregate.Used(f.InodesTotal, f.InodesAvailable), f.InodesTotal)
		observe(mount, mInodes, r, ok)
	}
}

func both(a, b record.Opt[float64]) (x, y float64, known bool) {
	x, ok1 := a.Get()
	y, ok2 := b.Get()
	return x, y, ok1 && ok2
}

// GPU takes the record of a card. Each is judged by itself: seven idle ones don't hide
// a full one.
func (e *Engine) GPU(g *record.GPU) {
	uuid, ok := g.UUID.Get()
	if !ok {
		return
	}
	card := target{kind: kindGPU, name: uuid}
	e.met(card, mGPU)
	e.met(card, mGPUMemory)
	s := subject{card: g}
	if r, ok := share(g.UtilizationRatio); ok {
		e.observe(card, mGPU, r, s)
	}
	if r, ok := of(g.MemoryUsedBytes, g.MemoryTotalBytes); ok {
		e.observe(card, mGPUMemory, r, s)
	}
	e.prune.cards.add(g)
	for i := range g.MIGInstances {
		m := &g.MIGInstances[i]
		uuid, ok := m.UUID.Get()
		if !ok {
			continue
		}
		part := target{kind: kindGPU, name: uuid}
		e.met(part, mGPUMemory)
		if r, ok := of(m.MemoryUsedBytes, m.MemoryTotalBytes); ok {
			e.observe(part, mGPUMemory, r, subject{card: g, instance: m})
		}
	}
}

// subject is whom words are about.
type subject struct {
	card     *record.GPU
	instance *record.GPUInstance
	process  *record.ProcessFacts
	job      *record.JobReading
}

// met tells that a target is there, whether its values are known or not.
func (e *Engine) met(t target, m measure) {
	if g := e.gauges[gaugeKey{target: t, measure: m}]; g != nil {
		g.seen = e.now
	}
}

// observe judges one value of what is no process.
func (e *Engine) observe(t target, m measure, r reading, s subject) {
	key := gaugeKey{target: t, measure: m}
	g := e.gauges[key]
	if g == nil {
		g = &gauge{key: key}
		e.gauges[key] = g
	}
	elapsed := e.elapsed
	if t.kind == kindCgroup { // those in which nothing moves are read once a minute only
		elapsed = 0
		if g.from != 0 {
			elapsed = e.now - g.from
		}
	}
	before, known := g.last, g.from != 0
	g.seen, g.from, g.last = e.now, e.now, r.value
	if measures[m].stock {
		g.slope.add(e.now, r.value)
	}
	if threshold, ok := e.config.Thresholds[measures[m].group]; ok && (r.limit > 0 || r.unlimited) {
		if previous, changed := g.judge(&threshold, r.ratio, e.now); changed {
			e.cross(g, previous, r, s)
		}
	}
	value := aggregate.Round(r.ratio * 100)
	if absolute(key) {
		value = r.value
	}
	e.press(g, value, e.maximum(key), elapsed, t.kind == kindCgroup)
	if t.kind == kindMount && m == mDisk {
		e.prune.fills(t.name, g.value > e.maximum(key) && e.maximum(key) > 0, record.SomeIf(before, known), r.value)
	}
}

// cross adds a crossing of a threshold to the changes.
func (e *Engine) cross(g *gauge, previous level, r reading, s subject) {
	c := record.StateChange{
		Resource: measures[g.key.measure].name,
		Target:   g.key.target.String(),
		State:    g.level.state(),
		Previous: previous.state(),
		Value:    record.Some(r.value),
		Limit:    record.SomeIf(r.limit, !r.unlimited),
		Ratio:    record.SomeIf(r.ratio, !r.unlimited),
		Unit:     unitOf(g.key),
	}
	left, known := g.left(r.limit)
	if p := s.process; p != nil {
		left, known = p.FDSecondsToLimit.Get()
	}
	foretold := known && g.level > previous && left <= e.config.Horizon.Seconds()
	describe(&c, g.key, s, record.SomeIf(left, foretold))
	e.tell(c, Change{key: g.key, Process: g.key.target.id})
}

// tell adds a state to what is told at the end.
func (e *Engine) tell(c record.StateChange, change Change) {
	e.states = append(e.states, c)
	change.state = len(e.states) - 1
	e.changes = append(e.changes, change)
}

// patience is for how long a target that is not met any more is remembered: cgroups
// in which nothing moves are read once a minute.
const patience = 90 * time.Second

// Incomplete says that the reading lacks records, as it turned out: whoever was not
// handed in may be there.
func (e *Engine) Incomplete() { e.complete, e.whole = false, false }

// End ends the reading and returns what was decided, ordered by target. The result is
// valid until the next Begin.
func (e *Engine) End() []Change {
	e.beginProcesses() // where there are none
	e.prune.noteWrites()
	e.forgetProcesses()
	e.forgetJobs()
	e.sweep()
	e.tellOver()
	slices.SortStableFunc(e.changes, func(a, b Change) int { return compareKeys(a.key, b.key) })
	for i := range e.changes {
		e.crossings++
		e.changes[i].Crossing = e.crossings
		e.changes[i].State = &e.states[e.changes[i].state]
	}
	e.decide()
	e.host = nil
	return e.changes
}

// sweep forgets what is gone.
func (e *Engine) sweep() {
	if e.now-e.swept < patience/3 {
		return
	}
	e.swept = e.now
	for key, g := range e.gauges {
		if key.target.kind != kindHost && e.now-g.seen > patience {
			e.forget(g, "", goneWhy[key.target.kind])
			delete(e.gauges, key)
			if key.target.kind == kindMount {
				delete(e.prune.full, key.target.name)
			}
		}
	}
	e.prune.forgetWrites(e.now)
	for path, t := range e.cgroupCPU {
		if e.now-t.at > patience {
			delete(e.cgroupCPU, path)
		}
	}
}
