package policy

import (
	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// process is what is remembered of one process: only of those near a limit, and of
// those that are tracked.
type process struct {
	seen   uint64 // the tick that last met it
	comm   string
	gauges []*gauge
	match  *match // nil where nobody is tracked
}

// gauge returns the process's gauge of a key, nil where there is none.
func (p *process) gauge(m measure, rule int) *gauge {
	for _, g := range p.gauges {
		if g.key.measure == m && g.key.rule == rule {
			return g
		}
	}
	return nil
}

// drop forgets some gauges, for why.
func (p *process) drop(e *Engine, dropped func(k gaugeKey) bool, why string) {
	kept := p.gauges[:0]
	for _, g := range p.gauges {
		if dropped(g.key) {
			e.forget(g, p.comm, why)
			continue
		}
		kept = append(kept, g)
	}
	clear(p.gauges[len(kept):])
	p.gauges = kept
}

// Watches tells whether a process must be handed in although nothing of it moved
// since the reading before: the others can be left out.
func (e *Engine) Watches(id sample.ID) bool {
	e.beginProcesses()
	if e.prune.wantsAll() || e.rules.fresh {
		return true
	}
	if len(e.processes) == 0 {
		return false
	}
	p := e.processes[id]
	return p != nil && (len(p.gauges) > 0 || p.match != nil && len(p.match.rules) > 0)
}

// Process takes the record of a process of this reading. A process in which nothing
// moved since its last record has that record's facts, but for its rates, which are 0.
func (e *Engine) Process(f *record.ProcessFacts) {
	e.beginProcesses()
	id := sample.ID{PID: f.PID, StartTicks: f.StartTicks}
	if ended(f) {
		return // what it had is gone; who waits for it has only its exit status
	}
	p := e.processes[id]
	if p != nil {
		p.seen, p.comm = e.tick, f.Comm
	}
	p = e.judgeFDs(f, id, p)
	if len(e.config.Tracked) > 0 {
		e.track(f, id, p)
	}
	e.rank(f, id)
}

// ended tells a zombie. One whose first thread ended while others live is none.
func ended(f *record.ProcessFacts) bool {
	s, known := f.State.Get()
	return known && (s == "Z" || s == "X") && f.Threads.Or(0) <= 1
}

// remember makes sure that there is a process to remember something of.
func (e *Engine) remember(f *record.ProcessFacts, id sample.ID, p *process) *process {
	if p == nil {
		p = &process{seen: e.tick, comm: f.Comm}
		e.processes[id] = p
	}
	return p
}

// judgeFDs judges a process's descriptors. Of a process that is far from its limit
// nothing is remembered.
func (e *Engine) judgeFDs(f *record.ProcessFacts, id sample.ID, p *process) *process {
	ratio, known := f.FDRatio.Get()
	threshold, judged := e.config.Thresholds[FD]
	maximum := e.config.Prune.FDPercent
	if !known || !judged && maximum == 0 {
		return p
	}
	var g *gauge
	if p != nil {
		g = p.gauge(mFD, 0)
	}
	near := judged && ratio >= threshold.Info || maximum > 0 && ratio*100 >= maximum/2
	if g == nil && !near {
		return p
	}
	if g == nil {
		p = e.remember(f, id, p)
		g = &gauge{key: gaugeKey{target: target{kind: kindProcess, id: id}, measure: mFD}}
		p.gauges = append(p.gauges, g)
	}
	g.seen = e.now
	r := reading{value: float64(f.FDOpen.Or(0)), limit: float64(f.FDLimit.Or(0)), ratio: ratio}
	if judged {
		if previous, changed := g.judge(&threshold, ratio, e.now); changed {
			e.cross(g, previous, r, subject{process: f})
		}
	}
	e.press(g, aggregate.Round(ratio*100), maximum, e.elapsed, true)
	if g.idle() && !g.pressed && !near {
		p.drop(e, func(k gaugeKey) bool { return k.rule == 0 }, "")
	}
	return p
}

// leave forgets those who live and are judged no more.
func (e *Engine) leave(targets []string) {
	for _, t := range targets {
		id, _ := sample.ParseID(t)
		if p := e.processes[id]; p != nil {
			p.drop(e, func(gaugeKey) bool { return true }, notChosen)
			delete(e.processes, id)
		}
	}
}

// forgetProcesses forgets those that were not met. A reading that may have missed
// some says nothing about who ended.
func (e *Engine) forgetProcesses() {
	const readings = 3
	for id, p := range e.processes {
		switch {
		case p.seen != e.tick && (e.complete || e.tick-p.seen > readings):
			for _, g := range p.gauges {
				e.forget(g, p.comm, hasEnded)
			}
			delete(e.processes, id)
		case len(p.gauges) == 0 && p.match == nil:
			delete(e.processes, id)
		}
	}
	e.rules.fresh = false
}
