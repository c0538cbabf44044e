package engine

import (
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
	"rmagent/record"
)

// account is what the agent knows of itself.
type account struct {
	missed  uint64
	skipped uint64
	scans   [64]time.Duration // the last ones
	count   int

	cpu      uint64        // CPU time of the agent at the last tick
	hooks    time.Duration // CPU time of the hooks at the last tick
	hooksAt  time.Duration // when that was
	reported spent         // at the last agent record
}

// spent is what the agent had spent at one time, so that the next account has a rate.
type spent struct {
	cpu uint64        // nanoseconds
	at  time.Duration // monotonic; 0: never
}

func (a *account) scanned(s *sample.Snapshot) {
	a.missed += s.Missed
	a.scans[a.count%len(a.scans)] = s.Took
	a.count++
}

func (a *account) medianScan() (time.Duration, bool) {
	n := min(a.count, len(a.scans))
	if n == 0 {
		return 0, false
	}
	sorted := a.scans
	slices.Sort(sorted[:n])
	return sorted[n/2], true
}

// spend looks at what the tick cost and returns the interval that fits the budget.
func (e *Engine) spend() time.Duration {
	if e.CPUBudget == 0 {
		return e.Interval
	}
	cpu, ok := e.ownCPU(e.Cgroups.Self()).Get()
	if !ok {
		return e.budget.current
	}
	a := &e.account
	cost := time.Duration(cpu - a.cpu)
	first := a.cpu == 0
	a.cpu = cpu
	if first {
		return e.budget.current // what came before is the start
	}
	next, changed := e.budget.spent(cost, e.hookShare())
	if changed {
		e.Log.Warn("interval_changed",
			zap.Duration("interval", next),
			zap.Duration("asked_for", e.Interval),
			zap.Float64("cpu_budget", e.CPUBudget),
			zap.Duration("tick_cpu", cost))
	}
	return next
}

// ownCPU is the CPU time of the agent and of its children in nanoseconds, but for commands
// that actions run.
func (e *Engine) ownCPU(self hostfs.Self) sample.Opt[uint64] {
	cpu, ok := self.CPUNanos.Get()
	if ok && e.GPU != nil {
		cpu += uint64(e.GPU.CPU())
	}
	if ok && e.Leaks != nil && e.Leaks.Stacks != nil {
		cpu += uint64(e.Leaks.Stacks.CPU())
	}
	return record.SomeIf(cpu, ok)
}

// hookShare is the share of a core that the hooks took since the last tick.
func (e *Engine) hookShare() float64 {
	a := &e.account
	total, now := e.hookCost(), e.snapshot.Monotonic
	spent, elapsed := total-a.hooks, now-a.hooksAt
	first := a.hooksAt == 0
	a.hooks, a.hooksAt = total, now
	if first || elapsed <= 0 {
		return 0
	}
	return float64(spent) / float64(elapsed)
}

// hookCost is the CPU time that all hooks took since the start.
func (e *Engine) hookCost() (total time.Duration) {
	if e.Events != nil {
		total += e.Events.Cost()
	}
	if e.Leaks != nil && e.Leaks.Tracer != nil {
		total += e.Leaks.Tracer.Cost()
	}
	return total
}

// writeAgent writes the agent's account of itself.
func (e *Engine) writeAgent() {
	e.describeAgent(&e.agent, &e.account.reported)
	e.emit(&e.agent)
}

// describeAgent fills r but for its header. last is when it was described before, and
// becomes now.
func (e *Engine) describeAgent(r *record.Agent, last *spent) {
	a := &e.account
	self := e.Cgroups.Self()
	*r = record.Agent{
		Version:         e.Version,
		Source:          e.Source,
		RSSBytes:        self.RSSBytes,
		MemoryBytes:     self.MemoryBytes,
		FDOpen:          self.FDOpen,
		IntervalSeconds: e.budget.current.Seconds(),
		EventsLost:      map[string]uint64{},
		Uncounted:       map[string]uint64{},
		RecordsLost:     map[string]uint64{},
		TasksMissed:     a.missed,
		TicksSkipped:    a.skipped,
	}
	now := e.snapshot.Monotonic
	if cpu, ok := e.ownCPU(self).Get(); ok {
		r.CPUSecondsTotal = record.Some(float64(cpu) / 1e9)
		if elapsed := now - last.at; last.at != 0 && elapsed > 0 {
			r.CPUCores = record.Some(float64(cpu-last.cpu) / float64(elapsed))
		}
		*last = spent{cpu, now}
	}
	if scan, ok := a.medianScan(); ok {
		r.ScanSeconds = record.Some(scan.Seconds())
	}
	e.fillBalance(r)
	if e.Leaks != nil && e.Leaks.Tracer != nil {
		e.addTracer(r)
	}
	if e.Events != nil || e.Leaks != nil && e.Leaks.Tracer != nil {
		r.ProgramSecondsEstimated = record.Some(e.hookCost().Seconds())
	}
	if e.Sink != nil {
		c := e.Sink.Counters()
		r.RecordsWritten, r.RecordsLost = c.Written, c.Lost
	}
}

// fillBalance fills in what became of the events.
func (e *Engine) fillBalance(r *record.Agent) {
	if e.Events == nil {
		return
	}
	b, err := e.Events.Balance()
	if err != nil {
		e.Log.Error("balance_failed", zap.Error(err))
		return
	}
	sum := b.Sum()
	r.EventsSeen = record.Some(sum.Seen)
	r.EventsDelivered = record.Some(sum.Delivered)
	r.EventsPending = record.Some(sum.Pending)
	r.EventsLost = nonZero(map[string]uint64{
		"exit_ring_full": b.Exits.Lost,
		"oom_ring_full":  b.OOMs.Lost,
	})
	r.Uncounted = nonZero(map[string]uint64{
		"processes_without_state":    b.StateFailed,
		"processes_told_late":        b.HoldFailed,
		"processes_that_lost_counts": b.Stranded,
		"spills":                     b.SpillFailed,
		"net_bytes":                  b.UncountedBytes,
		"descriptors":                b.UncountedFDs,
		"malformed_events":           b.Malformed,
	})
	r.MapEntries = record.Some(b.SpillEntries)
	r.MapCapacity = record.Some(b.SpillCapacity)
}

// addTracer adds what became of the births of descriptors.
func (e *Engine) addTracer(r *record.Agent) {
	b, err := e.Leaks.Tracer.Balance()
	if err != nil {
		e.Log.Error("balance_failed", zap.Error(err))
		return
	}
	delivered := min(e.Leaks.drained, b.Logged-min(b.Logged, b.Lost))
	r.EventsSeen = record.Some(r.EventsSeen.Or(0) + b.Logged)
	r.EventsDelivered = record.Some(r.EventsDelivered.Or(0) + delivered)
	r.EventsPending = record.Some(r.EventsPending.Or(0) + b.Logged - b.Lost - delivered)
	maps.Copy(r.EventsLost, nonZero(map[string]uint64{"fd_births_overwritten": b.Lost}))
	maps.Copy(r.Uncounted, nonZero(map[string]uint64{
		"fd_births_ambiguous": b.Ambiguous,
		"fd_births_compat":    b.Compat,
		"fd_births_gone":      b.Gone,
		"fd_births_unstamped": b.MapFull,
		"fd_failures_quiet":   b.Quiet,
		"fd_tables":           b.TablesFull,
	}))
	r.MapEntries = record.Some(r.MapEntries.Or(0) + b.Stamps)
	r.MapCapacity = record.Some(r.MapCapacity.Or(0) + b.StampCapacity)
}

// nonZero leaves out what did not happen.
func nonZero(counts map[string]uint64) map[string]uint64 {
	maps.DeleteFunc(counts, func(_ string, n uint64) bool { return n == 0 })
	return counts
}
