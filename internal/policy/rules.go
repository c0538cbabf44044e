package policy

import (
	"fmt"
	"math"
	"slices"

	"rmagent/internal/aggregate"
	"rmagent/internal/pattern"
	"rmagent/internal/sample"
	"rmagent/record"
)

// rules are the tracked ones. Each has a number that it keeps for as long as it is the
// same, whatever comes before it in the configuration: what its limits did goes on.
type rules struct {
	list   []numbered // in the configuration's order
	last   int
	pinned map[int]sample.ID // who has a rule's PID
	fresh  bool              // nobody was matched yet with the rules as they are now
}

// numbered is a rule in force: all that it says, and whom it selects. Two that say the same
// are one.
type numbered struct {
	number         int
	text, selected string
}

// match is which rules select a process, and what that was decided by.
type match struct {
	comm, unit, cgroup string
	rules              []int // places in the configuration
}

func newRules() rules { return rules{pinned: map[int]sample.ID{}} }

// configure takes the rules in force. A rule is the same if it says the same, and else if
// it selects the same: its limits, label and actions may change.
func (r *rules) configure(tracked []Rule) {
	before := r.list
	r.list = make([]numbered, len(tracked))
	for i := range tracked {
		r.list[i] = numbered{text: fmt.Sprintf("%+v", tracked[i]), selected: fmt.Sprintf("%+v %q", tracked[i].Selector, tracked[i].Job)}
	}
	r.number(before)
	r.fresh = r.fresh || !slices.Equal(before, r.list)
	for n := range r.pinned {
		if r.place(n) < 0 {
			delete(r.pinned, n)
		}
	}
}

// number gives the rules their numbers: those that they had before, as far as they are the
// same.
func (r *rules) number(before []numbered) {
	texts, stays := map[string]int{}, map[int]bool{}
	for i := range before {
		texts[before[i].text] = before[i].number
	}
	for i := range r.list {
		stays[texts[r.list[i].text]] = true
	}
	free := map[string][]int{} // numbers of rules that say what none says now, by whom they select
	for i := range before {
		if b := &before[i]; !stays[b.number] {
			stays[b.number] = true // of two that say the same, once
			free[b.selected] = append(free[b.selected], b.number)
		}
	}
	for i := range r.list {
		n := &r.list[i]
		if n.number = texts[n.text]; n.number != 0 {
			continue
		}
		if numbers := free[n.selected]; len(numbers) > 0 {
			n.number, free[n.selected] = numbers[0], numbers[1:]
		} else {
			r.last++
			n.number = r.last
		}
		texts[n.text] = n.number
	}
}

// place is where the rule of a number is, -1 where it is not in force.
func (r *rules) place(number int) int {
	return slices.IndexFunc(r.list, func(n numbered) bool { return n.number == number })
}

// first tells whether no rule before says the same.
func (r *rules) first(place int) bool { return r.place(r.list[place].number) == place }

// matchOf tells which rules select a process.
func (e *Engine) matchOf(f *record.ProcessFacts, id sample.ID, p *process) *match {
	unit, cgroup := f.Unit.Or(""), f.Cgroup.Or("")
	if p != nil && p.match != nil && !e.rules.fresh && p.match.comm == f.Comm && p.match.unit == unit && p.match.cgroup == cgroup {
		return p.match
	}
	m := &match{comm: f.Comm, unit: unit, cgroup: cgroup}
	for i := range e.config.Tracked {
		s := &e.config.Tracked[i].Selector
		if !e.rules.first(i) || !s.matches(f) {
			continue
		}
		if s.PID != 0 {
			n := e.rules.list[i].number
			if first, pinned := e.rules.pinned[n]; pinned && first != id {
				continue
			}
			e.rules.pinned[n] = id
		}
		m.rules = append(m.rules, i)
	}
	return m
}

// matches tells whether a process is selected. What is unknown of it matches nothing.
func (s *Selector) matches(f *record.ProcessFacts) bool {
	switch {
	case *s == Selector{}:
		return false
	case s.PID != 0 && s.PID != f.PID, s.ID != sample.ID{} && s.ID != sample.ID{PID: f.PID, StartTicks: f.StartTicks}:
		return false
	case s.Name != "" && !pattern.Name(s.Name, f.Comm):
		return false
	case s.Unit != "" && !(f.Unit.Known() && pattern.Unit(s.Unit, f.Unit.Or(""))):
		return false
	}
	return s.Cgroup == "" || f.Cgroup.Known() && pattern.Cgroup(s.Cgroup, f.Cgroup.Or(""))
}

// overLimit is the threshold of a limit: it is broken by what is above it.
var overLimit = math.Nextafter(1, 2)

// limitOf are the limits that a rule may have, and what is measured against them.
var limitOf = [...]struct {
	measure measure
	limit   func(l *Limits) float64
	value   func(f *record.ProcessFacts) (float64, bool)
}{
	{mCPU, func(l *Limits) float64 { return l.CPUPercent }, func(f *record.ProcessFacts) (float64, bool) {
		cores, ok := f.CPUCores.Get()
		return aggregate.Round(cores * 100), ok
	}},
	{mMemory, func(l *Limits) float64 { return l.MemoryBytes }, func(f *record.ProcessFacts) (float64, bool) { return whole(f.RSSBytes) }},
	{mFD, func(l *Limits) float64 { return l.FDs }, func(f *record.ProcessFacts) (float64, bool) { return whole(f.FDOpen) }},
	{mTransfer, func(l *Limits) float64 { return l.DiskBytesPerSecond }, func(f *record.ProcessFacts) (float64, bool) {
		return sum(f.DiskReadBytesPerSecond, f.DiskWrittenBytesPerSecond)
	}},
	{mNetwork, func(l *Limits) float64 { return l.NetworkBytesPerSecond }, func(f *record.ProcessFacts) (float64, bool) {
		return sum(f.NetReceivedBytesPerSecond, f.NetSentBytesPerSecond)
	}},
	{mGPU, func(l *Limits) float64 { return l.GPUPercent }, func(f *record.ProcessFacts) (float64, bool) {
		ratio, ok := f.GPUUtilizationRatio.Get()
		return aggregate.Round(ratio * 100), ok
	}},
	{mGPUMemory, func(l *Limits) float64 { return l.GPUMemoryBytes }, func(f *record.ProcessFacts) (float64, bool) { return whole(f.GPUMemoryBytes) }},
}

func whole(v record.Opt[uint64]) (float64, bool) {
	n, ok := v.Get()
	return float64(n), ok
}

func sum(a, b record.Opt[float64]) (float64, bool) {
	x, y, ok := both(a, b)
	return x + y, ok
}

// track judges the limits that rules set to a process.
func (e *Engine) track(f *record.ProcessFacts, id sample.ID, p *process) {
	m := e.matchOf(f, id, p)
	p = e.remember(f, id, p)
	if before := p.match; before != nil && before != m {
		p.drop(e, func(k gaugeKey) bool { return k.rule != 0 && !e.selects(m, k.rule) }, notSelected)
	}
	p.match = m
	for _, i := range m.rules {
		e.judgeRule(f, id, p, i)
	}
}

// selects tells whether the rule of a number is among those that select a process.
func (e *Engine) selects(m *match, number int) bool {
	return slices.ContainsFunc(m.rules, func(place int) bool { return e.rules.list[place].number == number })
}

func (e *Engine) judgeRule(f *record.ProcessFacts, id sample.ID, p *process, place int) {
	rule, number := &e.config.Tracked[place], e.rules.list[place].number
	for i := range limitOf {
		l := &limitOf[i]
		limit := l.limit(&rule.Limits)
		value, known := l.value(f)
		if limit <= 0 || !known {
			continue
		}
		g := p.gauge(l.measure, number)
		if g == nil {
			g = &gauge{key: gaugeKey{target{kind: kindProcess, id: id}, l.measure, number}}
			p.gauges = append(p.gauges, g)
		}
		g.seen = e.now
		e.judgeLimit(g, subject{process: f}, rule, value, limit)
		maximum := 0.0
		if rule.Prune {
			maximum = limit
		}
		e.press(g, value, maximum, e.elapsed, false)
	}
}

// judgeLimit judges one value of a tracked process or job: critical above its limit, normal
// once it has been below for as long and by as much as thresholds of the resource ask
// for.
func (e *Engine) judgeLimit(g *gauge, s subject, rule *Rule, value, limit float64) {
	t, ok := e.config.Thresholds[measures[g.key.measure].group]
	if !ok {
		t = usual
	}
	g.rule = rule
	t.Info, t.Warning, t.Critical, t.After = overLimit, overLimit, overLimit, 0
	previous, changed := g.judge(&t, value/limit, e.now)
	if !changed {
		return
	}
	c := record.StateChange{
		Resource: measures[g.key.measure].name,
		Target:   g.key.target.String(),
		State:    g.level.state(),
		Previous: previous.state(),
		Value:    record.Some(value),
		Limit:    record.Some(limit),
		Ratio:    record.Some(aggregate.Round(value / limit)),
		Unit:     unitOf(g.key),
	}
	describeLimit(&c, s, g.key.measure, rule)
	e.tell(c, Change{key: g.key, Process: g.key.target.id, Rule: rule.Label, Actions: rule.Actions, Tracked: true})
}
