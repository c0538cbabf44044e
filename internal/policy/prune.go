package policy

import (
	"slices"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// reminder is how often a prune decision is told again while it holds.
const reminder = time.Minute

// pruning is where the prune decision stands.
type pruning struct {
	told     []gaugeKey // the reasons that were told last, in order
	toldAt   time.Duration
	crossing uint64
	record   record.Prune

	begun    bool // this reading's processes
	ranking  bool // in this reading
	rankNext bool // in the next one, because a decision waits for it
	reasons  []*gauge
	weighed  []gaugeKey // the reasons' keys
	top      []candidate

	written map[sample.ID]written // where filesystems have a maximum
	full    map[string]*full      // filesystems that are above
	sorted  []gaugeKey

	cards holders // of this reading
}

func newPruning() pruning {
	return pruning{written: map[sample.ID]written{}, full: map[string]*full{}, cards: newHolders()}
}

func (p *pruning) begin() {
	p.begun, p.ranking = false, false
	p.top = p.top[:0]
	p.cards.clear()
}

// wantsAll tells whether every process must be handed in.
func (p *pruning) wantsAll() bool { return p.ranking }

func (p *pruning) clockStepped(at time.Duration) { p.toldAt = min(p.toldAt, at) }

// absolute tells whether a maximum is in the measure's own unit; the others are shares
// of a limit, in percent.
func absolute(k gaugeKey) bool {
	return k.measure == mNetwork || k.measure == mMemory && k.target.kind == kindHost
}

// maximum is the one that the prune rule has for a gauge; 0: none.
func (e *Engine) maximum(k gaugeKey) float64 {
	p := &e.config.Prune
	if k.rule != 0 {
		return e.ruleMaximum(k)
	}
	switch k.measure {
	case mCPU:
		if k.target.kind == kindHost {
			return p.CPUPercent
		}
	case mMemory:
		if k.target.kind == kindHost {
			return p.MemoryBytes
		}
		return p.CgroupMemoryPercent
	case mFD:
		return p.FDPercent
	case mDisk:
		return p.DiskPercent
	case mNetwork:
		if k.target.kind == kindHost {
			return p.NetworkBytesPerSecond
		}
	case mGPU:
		return p.GPUPercent
	case mGPUMemory:
		return p.GPUMemoryPercent
	case mPIDs:
		return p.PIDsPercent
	case mPressureCPU:
		return p.PressureCPUPercent
	case mPressureMemory:
		return p.PressureMemoryPercent
	case mPressureIO:
		return p.PressureIOPercent
	}
	return 0
}

func (e *Engine) ruleMaximum(k gaugeKey) float64 {
	if rule, limit := e.ruleLimit(k); rule != nil && rule.Prune {
		return limit
	}
	return 0
}

// ruleLimit is the rule whose limit a gauge judges, and the limit; nil and 0 where it is
// no longer set.
func (e *Engine) ruleLimit(k gaugeKey) (*Rule, float64) {
	place := e.rules.place(k.rule)
	if k.rule == 0 || place < 0 {
		return nil, 0
	}
	rule := &e.config.Tracked[place]
	for i := range limitOf {
		if limitOf[i].measure == k.measure {
			return rule, limitOf[i].limit(&rule.Limits)
		}
	}
	return nil, 0
}

// keys are the reasons of now, in order.
func (e *Engine) keys() []gaugeKey {
	p := &e.prune
	p.sorted = p.sorted[:0]
	for _, g := range e.pressed {
		p.sorted = append(p.sorted, g.key)
	}
	slices.SortFunc(p.sorted, compareKeys)
	return p.sorted
}

// beginProcesses decides, once all else was handed in, whether candidates are needed
// in this reading: only then every process has to be looked at.
func (e *Engine) beginProcesses() {
	p := &e.prune
	if p.begun {
		return
	}
	p.begun = true
	p.ranking = len(e.pressed) > 0 && e.checking &&
		(p.rankNext || e.now-p.toldAt >= reminder || !slices.Equal(e.keys(), p.told))
	if p.ranking {
		p.reasons = append(p.reasons[:0], e.pressed...)
		p.weighed = append(p.weighed[:0], e.keys()...)
	}
}

// decide tells what presses, if that changed or was told a minute ago.
func (e *Engine) decide() {
	p := &e.prune
	if !e.checking {
		return
	}
	now := e.keys()
	changed := !slices.Equal(now, p.told)
	if !changed && (len(now) == 0 || e.now-p.toldAt < reminder) {
		return
	}
	if len(now) > 0 && !(p.ranking && (p.rankNext || slices.Equal(now, p.weighed))) {
		p.rankNext = true // who is to go first is known after the next reading
		return
	}
	p.rankNext = false
	added := slices.ContainsFunc(now, func(k gaugeKey) bool { return !slices.Contains(p.told, k) })
	again := len(now) > 0 && !added
	if !again {
		e.crossings++
		p.crossing = e.crossings
	}
	p.told, p.toldAt = append(p.told[:0], now...), e.now
	e.fill(&p.record)
	e.changes = append(e.changes, Change{Crossing: p.crossing, Again: again, Prune: &p.record})
}

// fill makes the record of what presses and who is to go.
func (e *Engine) fill(r *record.Prune) {
	*r = record.Prune{ShouldPrune: len(e.pressed) > 0, Reasons: r.Reasons[:0], Candidates: r.Candidates[:0]}
	if r.Reasons == nil {
		r.Reasons, r.Candidates = []record.PruneReason{}, []record.PruneCandidate{}
	}
	slices.SortFunc(e.pressed, func(a, b *gauge) int { return compareKeys(a.key, b.key) })
	for _, g := range e.pressed {
		known := g.weighed == e.now
		r.Reasons = append(r.Reasons, record.PruneReason{
			Resource:     measures[g.key.measure].name,
			Target:       g.key.target.String(),
			Value:        record.SomeIf(g.value, known),
			Max:          record.Some(g.max),
			Unit:         pruneUnit(g.key),
			AverageRatio: record.SomeIf(aggregate.Round(g.mean/g.max), known),
			TargetRatio:  record.Some(e.config.Prune.Target),
		})
	}
	for i := range e.prune.top {
		r.Candidates = append(r.Candidates, e.prune.top[i].record(e.host.Time))
	}
}

// pruneUnit is the unit of a reason's values.
func pruneUnit(k gaugeKey) string {
	if k.rule == 0 && !absolute(k) {
		return "percent"
	}
	return unitOf(k)
}
