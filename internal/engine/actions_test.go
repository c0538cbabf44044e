package engine

import (
	"errors"
	"testing"
	"time"

	"rmagent/internal/act"
	"rmagent/internal/leak"
	"rmagent/internal/policy"
	"rmagent/internal/sample"
	"rmagent/record"
)

// kills is an EventSource of one OOM kill, and of nothing else.
type kills struct {
	oom sample.OOM
	err error // after that
}

func (k *kills) Drain(dst *sample.Events) error {
	*dst = sample.Events{OOMs: []sample.OOM{k.oom}}
	return k.err
}
func (k *kills) Ready() <-chan struct{}           { return nil }
func (k *kills) Balance() (sample.Balance, error) { return sample.Balance{}, nil }
func (k *kills) Attached(string) bool             { return true }
func (k *kills) Cost() time.Duration              { return 0 }

// told counts what an actor is told.
type told struct{ ooms []int32 }

func (a *told) Changed(*policy.Change, *act.Process) {}
func (a *told) Leak(*record.Leak, bool)              {}
func (a *told) OOM(r *record.OOM)                    { a.ooms = append(a.ooms, r.PID) }

// A kill is acted on once, and recorded once.
func TestAnOOMKillIsActedOnOnce(t *testing.T) {
	e := realEngine(t)
	actor, sink := &told{}, &discard{}
	e.Events = &kills{oom: sample.OOM{P: sample.Process{ID: sample.ID{PID: 4711, StartTicks: 99}}}}
	e.Actions, e.Sink = actor, sink
	e.drain()
	if len(actor.ooms) != 1 || actor.ooms[0] != 4711 || sink.n != 1 {
		t.Errorf("acted on %v, %d records", actor.ooms, sink.n)
	}
	// What came before a drain failed came.
	e.Events.(*kills).err = errors.New("too many open files")
	if e.drain(); len(actor.ooms) != 2 || sink.n != 2 {
		t.Errorf("a drain that fails: acted on %v, %d records", actor.ooms, sink.n)
	}
}

// Nor is a kill of who is not chosen.
func TestAnOOMKillOfWhoIsNotChosen(t *testing.T) {
	e := realEngine(t)
	actor, sink := &told{}, &discard{}
	victim := sample.Process{ID: sample.ID{PID: 4711, StartTicks: 99}}
	copy(victim.Comm[:], "shown")
	e.Events, e.Actions, e.Sink = &kills{oom: sample.OOM{P: victim}}, actor, sink
	for name, want := range map[string]int{"shown": 1, "other": 0} {
		e.Filter, actor.ooms, sink.n = Filter{Names: []string{name}}, nil, 0
		if e.drain(); len(actor.ooms) != want || sink.n != uint64(want) {
			t.Errorf("with --name %s: acted on %v, %d records, want %d", name, actor.ooms, sink.n, want)
		}
	}
}

// Who is not shown is not told of at the end either.
func TestTheEndOfALeakIsToldOfWhoIsShown(t *testing.T) {
	for name, want := range map[string]uint64{"shown": 1, "other": 0} {
		e, sink := realEngine(t), &discard{}
		e.Sink, e.Filter = sink, Filter{Names: []string{name}}
		p := sample.Process{ID: sample.ID{PID: 4711, StartTicks: 99}}
		copy(p.Comm[:], "shown")
		e.table.Update(&sample.Snapshot{Processes: []sample.Process{p}, Monotonic: time.Second})
		e.table.Update(&sample.Snapshot{Monotonic: 2 * time.Second})
		over := record.Leak{PID: p.ID.PID, StartTicks: p.ID.StartTicks, Verdict: record.VerdictOver}
		e.tell([]Announcement{{Change: leak.Change{ID: p.ID}, Record: over}})
		if sink.n != want {
			t.Errorf("with --name %s: %d records, want %d", name, sink.n, want)
		}
	}
}

// What was told of a process that then calls exec, and has a name that was not asked for, is
// told to be over.
func TestTheEndOfALeakIsToldOfWhoWasShown(t *testing.T) {
	e, sink := realEngine(t), &discard{}
	e.Sink, e.Filter = sink, Filter{Names: []string{"shown"}}
	p := sample.Process{ID: sample.ID{PID: 4711, StartTicks: 99}}
	said := func(v record.Verdict) []Announcement {
		return []Announcement{{Change: leak.Change{ID: p.ID}, Record: record.Leak{PID: p.ID.PID, StartTicks: p.ID.StartTicks, Verdict: v}}}
	}
	copy(p.Comm[:], "shown")
	e.table.Update(&sample.Snapshot{Processes: []sample.Process{p}, Monotonic: time.Second})
	e.tell(said(record.VerdictGrowing))
	copy(p.Comm[:], "other")
	e.table.Update(&sample.Snapshot{Processes: []sample.Process{p}, Monotonic: 2 * time.Second})
	e.tell(said(record.VerdictLeaking))
	e.tell(said(record.VerdictOver))
	e.tell(said(record.VerdictOver))
	if sink.n != 2 {
		t.Errorf("%d records, want those that it grows and that this is over", sink.n)
	}
}
