package engine

import (
	"slices"

	"rmagent/internal/act"
	"rmagent/internal/aggregate"
	"rmagent/internal/policy"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Actor acts on what was decided. It is told after the record was written, keeps
// nothing of what it is told, and never waits.
type Actor interface {
	Changed(c *policy.Change, p *act.Process)
	Leak(r *record.Leak, protected bool)
	OOM(r *record.OOM)
}

// actOnChange hands a decision over, with the process that it is about.
func (e *Engine) actOnChange(c *policy.Change) {
	if e.Actions == nil {
		return
	}
	var who *act.Process
	if c.Process != (sample.ID{}) {
		who = e.actee(c.Process)
	}
	e.Actions.Changed(c, who)
}

// lastOf is a process of this reading, or one that this reading found gone; nil for others.
func (e *Engine) lastOf(id sample.ID) *aggregate.Process {
	if p := e.table.Find(id); p != nil {
		return p
	}
	gone := e.table.Gone()
	i := slices.IndexFunc(gone, func(p aggregate.Process) bool { return p.ID == id })
	if i < 0 {
		return nil
	}
	return &gone[i]
}

// actee is a process as actions want it, nil if it ended before this reading.
func (e *Engine) actee(id sample.ID) *act.Process {
	p := e.lastOf(id)
	if p == nil {
		return nil
	}
	var r record.Process
	e.builder.Process(&r, p, &e.gpus)
	return &act.Process{ID: id, Comm: r.Comm, Protected: p.KernelThread || e.Policy.Protects(&r.ProcessFacts)}
}

func (e *Engine) actOnLeak(r *record.Leak) {
	if e.Actions == nil {
		return
	}
	who := e.actee(sample.ID{PID: r.PID, StartTicks: r.StartTicks})
	e.Actions.Leak(r, who == nil || who.Protected)
}

func (e *Engine) actOnOOM() {
	if e.Actions != nil {
		e.Actions.OOM(&e.oom)
	}
}
