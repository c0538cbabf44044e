package engine

import (
	"slices"

	"go.uber.org/zap"

	"rmagent/internal/policy"
	"rmagent/internal/report"
	"rmagent/internal/sink"
	"rmagent/record"
)

// write writes the records of a tick, has the policy judge each as it is written, and
// then writes what was decided: a reader of the records has all that it was decided by.
func (e *Engine) write(minute bool) error {
	report.Host(&e.hostRec, &e.machine)
	e.hostRec.Time = e.now
	e.hostRec.Gone = e.gone()
	e.hostRec.NoLongerChosen = e.noLongerChosen()
	e.Policy.Begin(&e.hostRec, true)
	e.emit(&e.hostRec)
	e.writeCgroups()
	e.writeGPUs()
	e.writeJobs()
	e.writeProcesses()
	e.writeEnds()
	e.decided(e.Policy.End())
	if minute && e.before != 0 {
		e.writeAgent()
	}
	return e.flush()
}

func (e *Engine) writeCgroups() {
	if len(e.cgroups) == 0 {
		return
	}
	e.fds.Update(e.table)
	for i := range e.cgroups {
		c := &e.cgroups[i]
		sum, known := e.fds.Of(c.Path)
		e.builder.Cgroup(&e.cgroup, c, record.SomeIf(sum, known))
		e.Policy.Cgroup(&e.cgroup)
		e.emit(&e.cgroup)
	}
}

func (e *Engine) writeGPUs() {
	for i := range e.gpus.Devices {
		e.builder.GPU(&e.gpu, &e.gpus.Devices[i], &e.gpus)
		e.Policy.GPU(&e.gpu)
		e.emit(&e.gpu)
	}
}

func (e *Engine) writeJobs() {
	if e.jobsUnread {
		e.Policy.Incomplete() // else they would have ended
	}
	for i := range e.jobs.List {
		e.builder.Job(&e.job, &e.jobs.List[i])
		e.Policy.Job(&e.job)
		e.emit(&e.job)
	}
}

// writeProcesses has every process judged that the filter chooses and of which something
// moved, or that the policy watches, and writes those that are to be shown. Of others there
// are no records, so that nobody could decide the same of them. A process in which nothing
// moved and whose end was told already is left to its end, as a reader of the records
// leaves it.
func (e *Engine) writeProcesses() {
	now := e.snapshot.Monotonic
	for i := range e.table.Len() {
		id, moved := e.table.ID(i), e.table.Moved(i)
		due := e.Select.Due(id.PID, moved, e.before, now) || e.Select == report.Active && e.gpus.Holds(id.PID)
		if !due && !moved && (!e.Policy.Watches(id) || e.exited[id]) {
			continue
		}
		p := e.table.At(i)
		if !e.Filter.Match(&p.Process, p.Identity) {
			continue
		}
		if e.Filter.HasPatterns() {
			e.chosen[p.ID] = true
		}
		e.builder.Process(&e.process, p, &e.gpus)
		if !due {
			e.process.FDSecondsToLimit = record.Opt[float64]{} // which moves, though nothing of the process does
		}
		e.Policy.Process(&e.process.ProcessFacts)
		if due {
			e.emit(&e.process)
		}
	}
	clear(e.exited)
}

// endsAreTold says whether the kernel tells of every end.
func (e *Engine) endsAreTold() bool { return e.Events != nil && e.Events.Attached("exits") }

// gone lists who is gone and whose end was not told yet, nil for nobody: the policy has
// forgotten them, and who reads the records must, too.
func (e *Engine) gone() (list []string) {
	if !e.endsAreTold() {
		return nil // the records of their ends come with this reading
	}
	for i := range e.table.Gone() {
		p := &e.table.Gone()[i]
		if !e.exited[p.ID] && e.Filter.Match(&p.Process, p.Identity) {
			list = append(list, p.ID.String())
		}
	}
	return list
}

// noLongerChosen lists who lives and has another name, cgroup or unit now than one that was
// asked for, nil for nobody.
func (e *Engine) noLongerChosen() (list []string) {
	for id := range e.chosen {
		p := e.table.Find(id)
		if p != nil && e.Filter.Match(&p.Process, p.Identity) {
			continue
		}
		delete(e.chosen, id)
		if p != nil {
			list = append(list, id.String())
		}
	}
	slices.Sort(list)
	return list
}

// writeEnds writes who is gone, where the kernel doesn't tell.
func (e *Engine) writeEnds() {
	if e.endsAreTold() {
		return
	}
	for i := range e.table.Gone() {
		p := &e.table.Gone()[i]
		if !e.Filter.Match(&p.Process, p.Identity) {
			continue
		}
		e.builder.InferredExit(&e.exit, p)
		e.emit(&e.exit)
	}
}

// decided writes and logs what the policy decided.
func (e *Engine) decided(changes []policy.Change) {
	for i := range changes {
		c := &changes[i]
		switch {
		case c.State != nil:
			e.emit(c.State)
			e.logState(c.State)
			e.standings.cross(c)
		case c.Prune != nil:
			e.emit(c.Prune)
			e.standings.decide(c.Prune)
			if !c.Again {
				e.logPrune(c.Prune)
			}
		}
		e.actOnChange(c)
	}
}

func (e *Engine) logState(c *record.StateChange) {
	fields := []zap.Field{
		zap.String("resource", c.Resource),
		zap.String("target", c.Target),
		zap.String("state", string(c.State)),
		zap.String("previous", string(c.Previous)),
	}
	for _, v := range [...]struct {
		name  string
		value record.Opt[float64]
	}{{"value", c.Value}, {"limit", c.Limit}, {"ratio", c.Ratio}} {
		if x, known := v.value.Get(); known {
			fields = append(fields, zap.Float64(v.name, x))
		}
	}
	fields = append(fields, zap.String("message", c.Message))
	if c.Advice != "" {
		fields = append(fields, zap.String("advice", c.Advice))
	}
	switch c.State {
	case record.StateCritical:
		e.Log.Error("state", fields...)
	case record.StateWarning:
		e.Log.Warn("state", fields...)
	default:
		e.Log.Info("state", fields...)
	}
}

func (e *Engine) logPrune(p *record.Prune) {
	fields := []zap.Field{zap.Bool("should_prune", p.ShouldPrune), sink.Foreign("message", report.PruneMessage(p))}
	if !p.ShouldPrune {
		e.Log.Info("prune", fields...)
		return
	}
	e.Log.Warn("prune", fields...)
}
