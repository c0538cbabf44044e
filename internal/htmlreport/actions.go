package htmlreport

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"rmagent/internal/human"
	"rmagent/record"
)

const (
	maxActions   = 200 // the last ones
	shownActions = 40
)

// actions are what the agent did, or would have done.
type actions struct {
	list   []record.Action // the last
	counts map[record.Outcome]uint64
	failed *record.Action // the last one that went wrong
}

func newActions() actions { return actions{counts: map[record.Outcome]uint64{}} }

// wrong are the outcomes that somebody should look at.
var wrong = []record.Outcome{record.OutcomeFailed, record.OutcomeTimedOut, record.OutcomeRefused, record.OutcomeDropped}

func (a *actions) add(r *record.Action) {
	if _, ok := a.counts[r.Outcome]; ok || len(a.counts) < maxCauses {
		a.counts[r.Outcome]++
	}
	kept := *r
	for _, s := range []*string{&kept.Action, &kept.Type, &kept.Cause, &kept.Why, &kept.What, &kept.Detail} {
		*s = clip(*s, maxName)
	}
	kept.Target, kept.Comm = clipOpt(r.Target), clipOpt(r.Comm)
	if slices.Contains(wrong, r.Outcome) {
		a.failed = &kept
	}
	if len(a.list) == maxActions {
		a.list = append(a.list[:0], a.list[1:]...)
	}
	a.list = append(a.list, kept)
}

func clipOpt(o record.Opt[string]) record.Opt[string] {
	text, ok := o.Get()
	return record.SomeIf(clip(text, maxName), ok)
}

func (a *actions) total() (n uint64) {
	for _, c := range a.counts {
		n += c
	}
	return n
}

// actionRow tells of one attempt.
type actionRow struct{ At, Name, Who, Why, What, Class, Outcome, Detail string }

// actionTable is what the page says of actions.
type actionTable struct {
	Text string
	Rows []actionRow
	More string
}

func (v *view) actionTable() *actionTable {
	a := &v.actions
	if len(a.list) == 0 {
		return nil
	}
	var parts []string
	for _, outcome := range slices.Sorted(maps.Keys(a.counts)) {
		parts = append(parts, number(a.counts[outcome])+" "+words(string(outcome)))
	}
	t := &actionTable{Text: plural(a.total(), "attempt", "attempts") + ": " + strings.Join(parts, ", ") + "."}
	last := a.list[max(0, len(a.list)-shownActions):]
	for i := range last {
		t.Rows = append(t.Rows, v.actionRow(&last[i]))
	}
	if n := a.total() - uint64(len(last)); n > 0 {
		t.More = plural(n, "earlier attempt is", "earlier attempts are") + " not listed."
	}
	return t
}

// words writes what a program says in one word, such as timed_out.
func words(s string) string { return human.Text(clip(strings.ReplaceAll(s, "_", " "), maxName)) }

func (v *view) actionRow(r *record.Action) actionRow {
	row := actionRow{
		At: v.clock.format(r.Time.UnixMilli()), Name: human.Text(fmt.Sprintf("%s (%s)", r.Action, r.Type)), Why: human.Text(r.Why), What: human.Text(r.What),
		Outcome: words(string(r.Outcome)), Detail: human.Text(r.Detail), Class: "info",
	}
	pid, known := r.PID.Get()
	switch {
	case known && r.Comm.Known():
		row.Who = fmt.Sprintf("%s (pid %d)", human.Text(r.Comm.Or("")), pid)
	case known:
		row.Who = fmt.Sprintf("pid %d", pid)
	default:
		row.Who = human.Text(r.Target.Or(""))
	}
	if r.Attempt > 1 {
		row.Detail = strings.TrimPrefix(fmt.Sprintf("%s; attempt %d", row.Detail, r.Attempt), "; ")
	}
	switch {
	case slices.Contains(wrong, r.Outcome):
		row.Class = "critical"
	case r.Outcome == record.OutcomeDone:
		row.Class = "good"
	}
	return row
}

func (v *view) actionFinding() []finding {
	a := &v.actions
	var n uint64
	for _, outcome := range wrong {
		n += a.counts[outcome]
	}
	if n == 0 {
		return nil
	}
	last := a.failed
	return []finding{{"warning", fmt.Sprintf("%s wrong, last %s at %s: %s.", plural(n, "action went", "actions went"), human.Text(last.Action),
		v.clock.format(last.Time.UnixMilli()), strings.TrimRight(words(string(last.Outcome))+", "+human.Text(last.Detail), ", .")), "actions"}}
}

// actionSpans are the lane of actions.
func (v *view) actionSpans() (spans []span) {
	for i := range v.actions.list {
		r := &v.actions.list[i]
		ms := r.Time.UnixMilli()
		spans = append(spans, v.plot.span(ms, ms, v.actionRow(r).Class, fmt.Sprintf("%s: %s at %s", human.Text(r.Action), words(string(r.Outcome)), v.clock.format(ms))))
	}
	return spans
}
