package policy

import (
	"fmt"

	"rmagent/record"
)

// over is a state above normal of something that is judged no more: it ended, or nobody
// limits it any longer. It is told at the end of the next reading.
type over struct {
	key   gaugeKey
	level level
	rule  *Rule  // whose limit it was; nil: a threshold's
	comm  string // of a process
	why   string
}

// Why something is judged no more.
const (
	hasEnded     = "it has ended"
	ruleGone     = "the limit is no longer set"
	notChosen    = "it is chosen no more"
	notSelected  = "the rule selects it no more"
	noLongerFull = "there is no limit any more"
)

// goneWhy is why what is no process is judged no more.
var goneWhy = map[kind]string{
	kindCgroup: "it was removed",
	kindMount:  "it is mounted no more",
	kindGPU:    "it is gone",
	kindJob:    hasEnded,
}

// forget takes a gauge out of what presses, and has its state told as over.
func (e *Engine) forget(g *gauge, comm, why string) {
	e.release(g)
	if g.level != normal {
		e.over = append(e.over, over{g.key, g.level, g.rule, comm, why})
	}
}

// tellOver tells of the states that are over. Nothing is known of their values.
func (e *Engine) tellOver() {
	for i := range e.over {
		o := &e.over[i]
		c := record.StateChange{
			Resource: measures[o.key.measure].name,
			Target:   o.key.target.String(),
			State:    record.StateNormal,
			Previous: o.level.state(),
			Unit:     unitOf(o.key),
			Message:  o.message(),
		}
		change := Change{key: o.key, Process: o.key.target.id}
		if o.rule != nil {
			change.Rule, change.Actions, change.Tracked = o.rule.Label, o.rule.Actions, true
		}
		e.tell(c, change)
	}
	e.over = e.over[:0]
}

func (o *over) message() string {
	t := &o.key.target
	switch {
	case o.rule != nil && t.kind == kindProcess:
		return fmt.Sprintf("Process %d (%s) no longer exceeds %s limit: %s", t.id.PID, o.comm, limitNames[o.key.measure], o.why)
	case o.rule != nil:
		return fmt.Sprintf("Job %s no longer exceeds %s limit: %s", t.name, limitNames[o.key.measure], o.why)
	case t.kind == kindProcess:
		return fmt.Sprintf("FD usage of %s (pid %d) is over: %s", o.comm, t.id.PID, o.why)
	}
	return fmt.Sprintf("%s: use is over, %s", whatOf(o.key, subject{}), o.why)
}
