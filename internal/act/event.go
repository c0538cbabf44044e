package act

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"rmagent/internal/config"
	"rmagent/internal/policy"
	"rmagent/internal/report"
	"rmagent/internal/sample"
	"rmagent/record"
)

// event is something that happened.
type event struct {
	cause    string // one of config's On...
	crossing uint64 // number of the crossing or decision, on which an action acts once; 0: it has none
	subject  subject
	recovery bool         // it got better
	over     bool         // and is as if it had never been
	state    record.State // that was reached, or left
	now      record.State // that was reached
	resource string
	target   string
	message  string
	who      []Process // whom it is about; of prune decisions the candidates, first to go first
	actions  []string  // those that a rule names
	record   record.Record
}

// subject is what begins and ends: a state of a target, work that should be taken off, or a
// process that leaks. What has no end has none.
type subject struct {
	cause string
	state policy.Key
	id    sample.ID
}

// Process is whom something is about.
type Process struct {
	ID   sample.ID
	Comm string
	// Protected are processes that no signal is sent to.
	Protected bool
}

// asked is the cause of an action that somebody named.
const asked = "asked"

// ofChange makes an event of a decision; p is the process that it is about, if it is
// about one.
func ofChange(c *policy.Change, p *Process) event {
	if c.Prune != nil {
		return ofPrune(c)
	}
	s := c.State
	e := event{
		cause: config.OnState, crossing: c.Crossing, recovery: !c.Worse(),
		state: worse(s.State, s.Previous), now: s.State, resource: s.Resource, target: s.Target, message: s.Message,
		actions: c.Actions, record: s,
	}
	if c.Tracked {
		e.cause = config.OnLimit
	}
	e.subject, e.over = subject{cause: e.cause, state: c.Key()}, s.State == record.StateNormal
	if p != nil {
		e.who = []Process{*p}
	}
	return e
}

// worse is the state that a crossing is about: the one that was reached, or left.
func worse(a, b record.State) record.State {
	if rank(a) >= rank(b) {
		return a
	}
	return b
}

func rank(s record.State) int {
	return slices.Index([]record.State{record.StateNormal, record.StateInfo, record.StateWarning, record.StateCritical}, s)
}

func ofPrune(c *policy.Change) event {
	e := event{
		cause: config.OnPrune, crossing: c.Crossing, recovery: !c.Prune.ShouldPrune,
		subject: subject{cause: config.OnPrune}, over: !c.Prune.ShouldPrune,
		message: report.PruneMessage(c.Prune), actions: c.Actions, record: c.Prune,
	}
	if len(c.Prune.Reasons) > 0 {
		e.resource, e.target = c.Prune.Reasons[0].Resource, c.Prune.Reasons[0].Target
	}
	for i := range c.Prune.Candidates { // whom the policy protects is not among them
		q := &c.Prune.Candidates[i]
		e.who = append(e.who, Process{ID: sample.ID{PID: q.PID, StartTicks: q.StartTicks}, Comm: q.Comm})
	}
	return e
}

// ofLeak makes an event of a verdict, which is leaking, or over.
func ofLeak(r *record.Leak) event {
	id := sample.ID{PID: r.PID, StartTicks: r.StartTicks}
	over := r.Verdict == record.VerdictOver
	return event{
		cause: config.OnLeak, recovery: over, over: over, subject: subject{cause: config.OnLeak, id: id},
		resource: string(policy.FD), target: id.String(), message: report.LeakMessage(r),
		who: []Process{{ID: id, Comm: r.Comm}}, record: r,
	}
}

func ofOOM(r *record.OOM) event {
	id := sample.ID{PID: r.PID, StartTicks: r.StartTicks}
	return event{
		cause: config.OnOOM, resource: string(policy.Memory), target: id.String(),
		message: fmt.Sprintf("The kernel killed %s (pid %d) for want of memory", r.Comm, r.PID),
		who:     []Process{{ID: id, Comm: r.Comm}}, record: r,
	}
}

// chooses tells whether an action is for an event. The end of what it acted on is its
// business, whatever has changed meanwhile: the end of a prune period has no reasons, and a
// process may have another name.
func chooses(a *config.Action, e *event) bool {
	if a.Kind == config.ActionSignal && e.recovery {
		return false
	}
	if slices.Contains(e.actions, a.Name) || e.cause == asked {
		return !e.recovery || a.Recovery
	}
	if !slices.Contains(a.On, e.cause) || e.recovery && !a.Recovery {
		return false
	}
	if e.state != "" && rank(e.state) < rank(record.State(a.MinState)) {
		return false
	}
	if e.recovery {
		return rank(e.now) < rank(record.State(a.MinState))
	}
	if len(a.Resources) > 0 && !slices.ContainsFunc(e.resources(), func(r string) bool { return slices.Contains(a.Resources, r) }) {
		return false
	}
	if len(a.Targets) > 0 && !slices.ContainsFunc(e.targets(), func(t string) bool { return matchesAny(a.Targets, t) }) {
		return false
	}
	return len(a.Names) == 0 || len(meant(a, e)) > 0
}

// meant are the processes of an event that an action is for.
func meant(a *config.Action, e *event) []Process {
	if len(a.Names) == 0 {
		return e.who
	}
	var who []Process
	for _, p := range e.who {
		if matchesAny(a.Names, p.Comm) {
			who = append(who, p)
		}
	}
	return who
}

// resources are all that an event is about: a prune decision has several reasons.
func (e *event) resources() []string {
	return e.reasons(e.resource, func(r *record.PruneReason) string { return r.Resource })
}

func (e *event) targets() []string {
	return e.reasons(e.target, func(r *record.PruneReason) string { return r.Target })
}

func (e *event) reasons(first string, of func(*record.PruneReason) string) []string {
	p, ok := e.record.(*record.Prune)
	if !ok || len(p.Reasons) == 0 {
		return []string{first}
	}
	list := make([]string, len(p.Reasons))
	for i := range p.Reasons {
		list[i] = of(&p.Reasons[i])
	}
	return list
}

// matchesAny matches patterns of path.Match in which * stands for slashes, too.
func matchesAny(patterns []string, s string) bool {
	flat := strings.ReplaceAll(s, "/", "\x00") // which no name has
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(strings.ReplaceAll(p, "/", "\x00"), flat)
		return ok && err == nil
	})
}
