package engine

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/policy"
	"rmagent/internal/report"
	"rmagent/internal/sample"
	"rmagent/record"
)

// View is what was known at one tick. Nothing in it ever changes, so readers keep it
// as long as they like, and read it at once.
type View struct {
	Time      time.Time     // of the reading
	Monotonic time.Duration // CLOCK_MONOTONIC then
	Tick      uint64        // counts the ticks; two views of one tick may differ in Details
	Interval  time.Duration // until the next one

	Host  record.Host
	GPUs  []record.GPU
	Prune *record.Prune // the last decision

	// Details are nil where nobody asked for them: see [Views.Detailed].
	Details *Details
}

// Details are what a view has only for those who ask. The records' headers have no
// more than their time.
type Details struct {
	Cgroups   []record.Cgroup      // as each was read last: those in which nothing moves up to a minute ago
	Processes []record.Process     // in the order of the reading
	Leaks     []record.Leak        // who grows or leaks; sites are those of the announcement
	States    []record.StateChange // the last crossing of all that is not normal
	Agent     record.Agent
}

// Process returns a process of the view by its PID, or nil.
func (d *Details) Process(pid int32) *record.Process {
	i := slices.IndexFunc(d.Processes, func(p record.Process) bool { return p.PID == pid })
	if i < 0 {
		return nil
	}
	return &d.Processes[i]
}

// Views is where an engine publishes its views. Many goroutines may read; a reader
// never waits for a reading of the machine, and costs the engine nothing that it does
// not ask for.
type Views struct {
	latest    atomic.Pointer[View]
	asked     atomic.Bool        // somebody asked for details since the last tick
	ask       chan struct{}      // wakes the engine between ticks, to make them of the last one
	questions chan func(*Engine) // run between ticks

	mu        sync.Mutex
	published chan struct{} // closed at the next publication; nil: nobody waits for it
}

// NewViews returns a Views with nothing in it yet.
func NewViews() *Views {
	return &Views{ask: make(chan struct{}, 1), questions: make(chan func(*Engine))}
}

// Latest returns the view of the last tick, with details or without, nil before the
// first.
func (v *Views) Latest() *View { return v.latest.Load() }

// Published is closed when the next view is there.
func (v *Views) Published() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.published == nil {
		v.published = make(chan struct{})
	}
	return v.published
}

// Detailed returns the view of the last tick with its details. They are made of what
// the engine has in memory, once a tick, and for whoever asks at every tick they are
// ready. It fails only with ctx.
func (v *Views) Detailed(ctx context.Context) (*View, error) {
	v.asked.Store(true)
	for {
		next := v.Published()
		if view := v.Latest(); view != nil && view.Details != nil {
			return view, nil
		}
		select {
		case v.ask <- struct{}{}:
		default: // the engine has been told
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Holds tells what a process holds now, by site: the one answer that the engine reads
// the process's table of descriptors for. The error is [ErrNoProcess], that the table
// can't be listed, or ctx's.
func (v *Views) Holds(ctx context.Context, pid int32) (r record.Leak, err error) {
	done := make(chan struct{})
	question := func(e *Engine) {
		defer close(done)
		if ctx.Err() == nil {
			r, err = e.holds(ctx, pid)
		}
	}
	select {
	case v.questions <- question:
	case <-ctx.Done():
		return record.Leak{}, ctx.Err()
	}
	<-done
	return r, errors.Join(err, ctx.Err())
}

// Reading is what an engine read last of all processes.
type Reading struct {
	sample.Snapshot
	identities map[sample.ID]*sample.Identity
	filter     Filter // of the engine
}

// Chosen tells whether both the engine and a filter want a process of the reading.
func (r *Reading) Chosen(f *Filter, p *sample.Process) bool {
	return r.filter.Match(p, r.Identity(p)) && f.Match(p, r.Identity(p))
}

// Identity says who a process of the reading is.
func (r *Reading) Identity(p *sample.Process) *sample.Identity { return r.identities[p.ID] }

// Reading returns a copy of the last tick's processes. It fails only with ctx.
func (v *Views) Reading(ctx context.Context) (*Reading, error) {
	r := &Reading{identities: map[sample.ID]*sample.Identity{}}
	done := make(chan struct{})
	question := func(e *Engine) {
		defer close(done)
		r.Snapshot, r.filter = e.snapshot, e.Filter
		r.Processes = make([]sample.Process, e.table.Len())
		for i := range e.table.Len() {
			p := e.table.At(i)
			r.Processes[i], r.identities[p.ID] = p.Process, p.Identity
		}
	}
	select {
	case v.questions <- question:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	<-done
	return r, nil
}

// AwaitTick waits for the next reading of the machine.
func (v *Views) AwaitTick(ctx context.Context) error {
	var now uint64
	if view := v.Latest(); view != nil {
		now = view.Tick
	}
	for {
		next := v.Published()
		if view := v.Latest(); view != nil && view.Tick != now {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ErrNoProcess is a process that the last reading does not have.
var ErrNoProcess = errors.New("no such process")

// holds lists what a process holds, and counts it anew: the last reading may be a minute old.
func (e *Engine) holds(ctx context.Context, pid int32) (record.Leak, error) {
	if e.Leaks == nil {
		return record.Leak{}, errors.New("nobody looks for leaks")
	}
	for i := range e.table.Len() {
		p := e.table.At(i)
		if p.ID.PID != pid || !e.Filter.Match(&p.Process, p.Identity) {
			continue
		}
		now := *p
		var s sample.Snapshot
		scope := sample.Scope{PIDs: []int32{pid}, Fields: sample.SetOf(sample.FDOpen, sample.FDLimit)}
		if err := e.Reader.Read(ctx, scope, &s); err == nil && len(s.Processes) == 1 && s.Processes[0].ID == p.ID {
			now.Take(&s.Processes[0], scope.Fields)
		}
		r, err := e.Leaks.Describe(&now, e.watched(p))
		r.Time = time.Now()
		return r, err
	}
	return record.Leak{}, ErrNoProcess
}

// watched is for how long a process has been watched.
func (e *Engine) watched(p *aggregate.Process) time.Duration {
	age := e.snapshot.Boottime - time.Duration(p.ID.StartTicks)*(time.Second/sample.UserHz)
	return min(e.snapshot.Monotonic-e.since, age)
}

func (v *Views) publish(view *View) {
	v.latest.Store(view)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.published != nil {
		close(v.published)
		v.published = nil
	}
}

// standings is what the views need to remember from tick to tick.
type standings struct {
	states  map[policy.Key]record.StateChange // not the normal ones
	leaks   map[sample.ID]record.Leak         // growing or leaking
	cgroups map[string]cgroupReading          // by path, as it was read last
	prune   *record.Prune                     // the last decision; nobody changes it
	cost    spent                             // at the last view with details
}

type cgroupReading struct {
	sample.Cgroup
	at time.Time
}

func newStandings() standings {
	return standings{
		states: map[policy.Key]record.StateChange{}, leaks: map[sample.ID]record.Leak{}, cgroups: map[string]cgroupReading{},
		prune: &record.Prune{Reasons: []record.PruneReason{}, Candidates: []record.PruneCandidate{}}, // as long as nothing is decided
	}
}

// cross remembers what crossed a threshold. Each state ends as normal.
func (s *standings) cross(c *policy.Change) {
	if c.State.State == record.StateNormal {
		delete(s.states, c.Key())
		return
	}
	s.states[c.Key()] = *c.State
}

// decide remembers a prune decision, whose memory is the policy's.
func (s *standings) decide(p *record.Prune) {
	c := *p
	c.Reasons, c.Candidates = slices.Clone(p.Reasons), slices.Clone(p.Candidates)
	s.prune = &c
}

// announce remembers a verdict.
func (s *standings) announce(r *record.Leak) {
	id := sample.ID{PID: r.PID, StartTicks: r.StartTicks}
	if r.Verdict == record.VerdictOver {
		delete(s.leaks, id)
		return
	}
	s.leaks[id] = *r
}

// publish makes the tick's view, with details if somebody asked for them since the
// last tick.
func (e *Engine) publish(allCgroups bool) {
	if e.Views == nil {
		return
	}
	if allCgroups {
		clear(e.standings.cgroups)
	}
	for i := range e.cgroups {
		e.standings.cgroups[e.cgroups[i].Path] = cgroupReading{e.cgroups[i], e.snapshot.Time}
	}
	v := &View{
		Time:      e.snapshot.Time,
		Monotonic: e.snapshot.Monotonic,
		Interval:  e.budget.current,
		Tick:      1,
		Host:      e.hostRec,
		GPUs:      make([]record.GPU, len(e.gpus.Devices)),
		Prune:     e.standings.prune,
	}
	if last := e.Views.Latest(); last != nil {
		v.Tick = last.Tick + 1
	}
	v.Host.Header = record.Header{Time: v.Time}
	v.Host.Filesystems, v.Host.Gone = slices.Clone(v.Host.Filesystems), slices.Clone(v.Host.Gone) // their owners use them again
	for i := range v.GPUs {
		v.GPUs[i].Time = v.Time
		e.builder.GPU(&v.GPUs[i], &e.gpus.Devices[i], &e.gpus)
	}
	if e.Views.asked.Swap(false) {
		v.Details = e.details(v)
	}
	e.Views.publish(v)
}

// publishDetails adds the details of the last tick to its view.
func (e *Engine) publishDetails() {
	last := e.Views.Latest()
	if last == nil || last.Details != nil {
		return
	}
	v := *last
	v.Details = e.details(&v)
	e.Views.publish(&v)
}

// details makes records of what the engine knows, without reading anything but its
// own account.
func (e *Engine) details(v *View) *Details {
	d := &Details{
		Cgroups:   e.viewCgroups(),
		Processes: make([]record.Process, 0, e.table.Len()),
		Leaks:     e.viewLeaks(v.Time),
		States:    e.viewStates(),
	}
	for i := range e.table.Len() {
		p := e.table.At(i)
		if !e.Filter.Match(&p.Process, p.Identity) {
			continue
		}
		d.Processes = append(d.Processes, record.Process{Header: record.Header{Time: v.Time}})
		e.builder.Process(&d.Processes[len(d.Processes)-1], p, &e.gpus)
	}
	e.describeAgent(&d.Agent, &e.standings.cost)
	d.Agent.Time = v.Time
	return d
}

func (e *Engine) viewCgroups() []record.Cgroup {
	e.fds.Update(e.table)
	list := make([]record.Cgroup, 0, len(e.standings.cgroups))
	for _, path := range slices.Sorted(maps.Keys(e.standings.cgroups)) {
		c := e.standings.cgroups[path]
		sum, known := e.fds.Of(path)
		r := record.Cgroup{Header: record.Header{Time: c.at}}
		e.builder.Cgroup(&r, &c.Cgroup, record.SomeIf(sum, known))
		list = append(list, r)
	}
	return list
}

// viewLeaks has who grows or leaks and is still there, worst first, with the counts
// of now.
func (e *Engine) viewLeaks(at time.Time) []record.Leak {
	list := make([]record.Leak, 0, len(e.standings.leaks))
	for id, r := range e.standings.leaks {
		p := e.table.Find(id)
		if p == nil {
			delete(e.standings.leaks, id)
			continue
		}
		now := e.Leaks.Summary(p, e.watched(p))
		now.Header = record.Header{Time: at}
		now.Verdict, now.Rule = r.Verdict, r.Rule
		now.Sites, now.Unattributed = r.Sites, r.Unattributed
		list = append(list, now)
	}
	slices.SortFunc(list, report.WorseLeak)
	return list
}

// viewStates has the states that are not normal, worst first.
func (e *Engine) viewStates() []record.StateChange {
	return slices.SortedFunc(maps.Values(e.standings.states), report.WorseState)
}
