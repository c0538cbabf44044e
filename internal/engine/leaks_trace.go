package engine

import (
	"cmp"
	"slices"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/internal/stack/worker"
)

// choose decides who is traced from now on.
func (l *Leaks) choose(table *aggregate.Table) {
	if l.Tracer == nil || l.Tracing == TraceOff && len(l.Always) == 0 {
		return
	}
	now := l.Now()
	l.ids = l.wanted(table, now)
	if len(l.traced) == 0 && len(l.ids) > 0 && !l.mayAttach(now) {
		return
	}
	if l.tooExpensive(now) {
		l.ids = l.ids[:0]
	}
	same := len(l.ids) == len(l.traced)
	for _, id := range l.ids {
		same = same && l.traced[id] != nil
	}
	if same {
		return
	}
	if len(l.traced) == 0 {
		l.attaches = append(l.attaches, now)
	}
	l.trace(table, now)
}

// wanted is who is to be traced: who must be, who is suspect, and who was within the
// last minute; and where tracing is for always, who holds most.
func (l *Leaks) wanted(table *aggregate.Table, now time.Duration) []sample.ID {
	ids := l.ids[:0]
	for _, pid := range l.Always {
		for i := range table.Len() {
			if p := table.At(i); p.ID.PID == pid {
				ids = append(ids, p.ID)
			}
		}
	}
	if l.Tracing == TraceOff {
		return ids
	}
	suspects := l.judge.Trace(l.who[:0])
	l.who = suspects
	for _, id := range suspects {
		if t := l.traced[id]; t != nil {
			t.until = now + keepTracing
		}
	}
	add := func(id sample.ID) {
		if len(ids) < maxTraced && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, id := range suspects {
		add(id)
	}
	for id, t := range l.traced {
		if now < t.until && table.Find(id) != nil {
			add(id)
		}
	}
	if l.Tracing == TraceAlways {
		for id := range l.traced { // whoever is goes on
			if table.Find(id) != nil {
				add(id)
			}
		}
		for _, id := range l.largest(table, maxTraced-len(ids)) {
			add(id)
		}
	}
	return ids
}

// largest is who holds most descriptors.
func (l *Leaks) largest(table *aggregate.Table, n int) []sample.ID {
	if n <= 0 {
		return nil
	}
	type size struct {
		id   sample.ID
		open uint64
	}
	var all []size
	for i := range table.Len() {
		if p := table.At(i); !p.KernelThread && p.Known.Has(sample.FDOpen) && l.traced[p.ID] == nil {
			all = append(all, size{p.ID, p.FDOpen})
		}
	}
	slices.SortFunc(all, func(a, b size) int { return cmp.Compare(b.open, a.open) })
	ids := make([]sample.ID, 0, n)
	for _, s := range all[:min(n, len(all))] {
		ids = append(ids, s.id)
	}
	return ids
}

// trace makes l.ids those who are traced.
func (l *Leaks) trace(table *aggregate.Table, now time.Duration) {
	if err := l.Tracer.Start(l.ids); err != nil {
		l.Log.Error("fd_tracing_failed", zap.Error(err))
		l.ids = l.ids[:0]
		l.paused = now + keepTracing
		if err := l.Tracer.Start(nil); err != nil {
			l.Log.Error("fd_tracing_failed", zap.Error(err))
		}
	}
	for id := range l.traced {
		if !slices.Contains(l.ids, id) {
			delete(l.traced, id)
			l.judge.Forget(id)
			if l.Stacks != nil {
				l.Stacks.Forget(id)
			}
			if l.Pythons != nil {
				l.Pythons.Forget(id)
			}
		}
	}
	for _, id := range l.ids {
		if l.traced[id] == nil {
			l.traced[id] = &traced{since: now, until: now + keepTracing, execID: table.Find(id).ExecID, room: l.roomForSites, bySite: map[*worker.Site]int{}, joined: map[*worker.Site]*worker.Site{}}
			l.judge.Ledger(id) // from now on, it has one
		}
	}
	if len(l.traced) == 0 {
		clear(l.waiting)
	}
	l.Log.Debug("fd_tracing", zap.Int("processes", len(l.traced)))
}

// mayAttach keeps attaching to so many times an hour, unless it is asked for.
func (l *Leaks) mayAttach(now time.Duration) bool {
	if len(l.Always) > 0 || l.Tracing == TraceAlways {
		return true
	}
	l.attaches = slices.DeleteFunc(l.attaches, func(at time.Duration) bool { return now-at > time.Hour })
	return len(l.attaches) < maxAttaches
}

// tooExpensive tells whether the hooks took more than the budget since the last tick;
// then nobody is traced for a while.
func (l *Leaks) tooExpensive(now time.Duration) bool {
	if now < l.paused {
		return true
	}
	if len(l.traced) == 0 || l.CPUBudget == 0 {
		return false
	}
	total := l.Tracer.Cost()
	spent, elapsed := total-l.cost, now-l.costAt
	first := l.costAt == 0
	l.cost, l.costAt = total, now
	if first || float64(spent) <= l.CPUBudget*float64(elapsed) {
		return false
	}
	l.paused = now + 10*keepTracing
	l.Log.Warn("fd_tracing_paused",
		zap.Duration("for", 10*keepTracing),
		zap.Float64("cores", float64(spent)/float64(elapsed)),
		zap.Float64("cpu_budget", l.CPUBudget))
	return true
}
