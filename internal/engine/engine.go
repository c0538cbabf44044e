package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/aggregate"
	"rmagent/internal/hostfs"
	"rmagent/internal/policy"
	"rmagent/internal/report"
	"rmagent/internal/sample"
	"rmagent/internal/sink"
	"rmagent/record"
)

// Sink takes records. It fills in their headers but for the time, keeps nothing of
// them, and never waits. A record that it has to leave out it counts.
type Sink interface {
	Write(record.Record) error
	// Flush has written what waits. Its errors tell what went wrong since the last
	// time; sink.ErrReaderGone ends the agent.
	Flush() error
	Counters() sink.Counters
}

// EventSource tells of what happened between readings.
type EventSource interface {
	// Drain replaces dst with what happened since. Where it fails, dst has what came before.
	Drain(dst *sample.Events) error
	// Ready says that much is waiting and a drain should not wait for the tick.
	Ready() <-chan struct{}
	Balance() (sample.Balance, error)
	// Attached says whether a hook runs; "exits" is the one that tells of ends.
	Attached(hook string) bool
	// Cost estimates the CPU time that the hooks took from everybody since the
	// start.
	Cost() time.Duration
}

// GPUReader tells of the graphics cards.
type GPUReader interface {
	// Poll returns the latest complete reading, nil where there are no cards, and
	// asks for the next. It never waits.
	Poll() *sample.GPUs
	// CPU is the CPU time of the children that read them.
	CPU() time.Duration
}

// JobReader tells of the jobs that run beside the agent.
type JobReader interface {
	// Jobs appends those of which something lives.
	Jobs(dst []sample.Job) ([]sample.Job, error)
}

// Options are what an engine works with. It closes none of it.
type Options struct {
	Reader  sample.Reader
	Source  record.Source
	Events  EventSource // nil: ends are inferred from readings
	GPU     GPUReader   // nil: none
	Jobs    JobReader   // nil: none
	Host    *hostfs.HostReader
	Cgroups *hostfs.CgroupReader
	Who     *hostfs.Identifier
	Policy  *policy.Engine
	Leaks   *Leaks // nil: nobody looks for leaks
	Sink    Sink   // nil: no records
	Views   *Views // nil: nobody reads views
	Log     *zap.Logger

	Self     int32 // PID of the agent; 0 where somebody else reads
	Version  string
	Interval time.Duration
	// Overview is how often the log says how the machine is; 0: never.
	Overview time.Duration
	// CPUBudget is the share of one core that the agent may use; 0: no limit.
	CPUBudget float64
	Select    report.Selection
	Filter    Filter
	Settings  SettingsSource // nil: they never change
	Actions   Actor          // nil: nobody acts
}

// Engine is one running agent.
type Engine struct {
	Options
	snapshot sample.Snapshot
	host     sample.Host
	events   sample.Events
	cgroups  []sample.Cgroup
	running  []sample.Job
	// jobsUnread says that running lacks those that run.
	jobsUnread bool

	table   *aggregate.Table
	machine aggregate.Host
	fds     *aggregate.FDSums
	gpus    aggregate.GPUs
	jobs    *aggregate.Jobs
	builder *report.Builder
	budget  *budget
	account account
	output  output

	active   map[string]bool    // paths of cgroups in which something moved, or that the policy watches
	exited   map[sample.ID]bool // whose ends were told since the last tick
	chosen   map[sample.ID]bool // whom the filter's patterns chose at the last tick
	now      time.Time          // of what is being written: a reading's beginning, or a drain
	since    time.Duration      // monotonic time of the first tick
	before   time.Duration      // and of the last
	overview time.Duration      // of the last overview
	minute   time.Duration      // of the last that began a minute
	failures int                // readings that failed in a row
	looking  bool               // at somebody, between ticks

	standings standings

	ended sample.Identity // of identityOf

	// Reused for every record of their kind.
	process record.Process
	exit    record.Exit
	hostRec record.Host
	cgroup  record.Cgroup
	gpu     record.GPU
	job     record.JobReading
	oom     record.OOM
	agent   record.Agent
}

// New returns an engine that has read nothing yet.
func New(o Options) *Engine {
	return &Engine{
		Options: o,
		table:   aggregate.NewTable(),
		fds:     aggregate.NewFDSums(),
		jobs:    aggregate.NewJobs(),
		builder: report.NewBuilder(o.Source),
		budget:  newBudget(o.CPUBudget, o.Interval),
		active:  map[string]bool{},
		exited:  map[sample.ID]bool{},
		chosen:  map[sample.ID]bool{},

		standings: newStandings(),
	}
}

// Run ticks until ctx ends, which is no error, then writes what is left.
func (e *Engine) Run(ctx context.Context) error {
	interval := e.Interval
	due := newSchedule(interval)
	ticks, err := newTicker(interval)
	if err != nil {
		return err
	}
	defer ticks.stop()
	looks, err := newTicker(0)
	if err != nil {
		return err
	}
	defer looks.stop()
	for {
		e.account.skipped += due.turn(time.Now())
		e.renew()
		if err := e.tick(ctx); err != nil {
			return e.stop(err)
		}
		if next := e.spend(); next != interval {
			interval = next
			e.account.skipped += due.missed(time.Now())
			due = newSchedule(interval)
			if err := ticks.reset(interval); err != nil {
				return e.stop(fmt.Errorf("slow down: %w", err))
			}
		}
		if err := e.look(looks); err != nil {
			return e.stop(err)
		}
		if err := e.wait(ctx, ticks.C, looks.C); err != nil {
			return e.stop(err)
		}
	}
}

// look makes looks tick while somebody is to be looked at between ticks.
func (e *Engine) look(looks *ticker) error {
	busy := e.Leaks != nil && e.Leaks.Busy()
	looks.drop() // of the time of the tick
	if busy == e.looking {
		return nil
	}
	e.looking = busy
	every := time.Duration(0)
	if busy {
		every = lookEvery
	}
	return looks.reset(every)
}

// wait waits for the next tick. Meanwhile it drains events that can't wait as long, and
// looks at who is worth it.
func (e *Engine) wait(ctx context.Context, tick, look <-chan struct{}) error {
	var ready <-chan struct{}
	if e.Events != nil {
		ready = e.Events.Ready()
	}
	var ask <-chan struct{}
	var questions <-chan func(*Engine)
	if e.Views != nil {
		ask, questions = e.Views.ask, e.Views.questions
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick:
			return nil
		case <-ask:
			e.publishDetails()
		case question := <-questions:
			question(e)
		case <-ready:
			e.drain()
			if err := e.flush(); err != nil {
				return err
			}
		case <-look:
			e.now = time.Now()
			e.tell(e.Leaks.Look(ctx, e.Reader, e.table))
		}
	}
}

// stop writes what is left. The end of ctx is how an agent is meant to end.
func (e *Engine) stop(cause error) error {
	if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		cause = nil
	}
	if cause == nil {
		e.drain()
		e.writeAgent()
	}
	return errors.Join(cause, e.flush())
}

// emit writes one record of the time of the last reading.
func (e *Engine) emit(r record.Record) {
	if e.Sink == nil {
		return
	}
	h := r.Head()
	h.Time = e.now
	if err := e.Sink.Write(r); err != nil {
		e.Log.Error("record_failed", zap.Error(err))
	}
}

// flush has the records written. A full disk or a lost file is told and lived
// with; a reader that has gone away is the end.
func (e *Engine) flush() error {
	if e.Sink == nil {
		return nil
	}
	err := e.Sink.Flush()
	if errors.Is(err, sink.ErrReaderGone) {
		return err
	}
	e.output.flushed(e.Log, err, time.Now())
	return nil
}

// tick is one turn: read, compare, judge, write.
func (e *Engine) tick(ctx context.Context) error {
	var gpus *sample.GPUs
	if e.GPU != nil {
		gpus = e.GPU.Poll() // before the processes: whose PIDs it has are those that live
	}
	if err := e.Reader.Read(ctx, sample.Scope{}, &e.snapshot); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return e.readFailed(err)
	}
	e.failures = 0
	s := &e.snapshot
	if e.before == 0 {
		e.since = s.Monotonic
	}
	e.builder.SetClocks(s.Time, s.Boottime, s.Monotonic)
	e.account.scanned(s)
	minute := s.Monotonic-e.minute >= time.Minute || e.before == 0
	if minute {
		e.minute = s.Monotonic
	}

	e.drain() // ends first: the table still knows who they were
	e.now = s.Time
	e.table.Update(s)
	e.identify()
	if e.Leaks != nil {
		e.tell(e.Leaks.Tick(e.table))
	}
	e.readHost()
	e.readCgroups(minute)
	e.readJobs()
	e.gpus.Update(gpus, s.Monotonic, gpuPatience*e.budget.current)
	e.gpus.Meet(e.table)

	err := e.write(minute)
	e.publish(minute)
	e.logOverview()
	e.before = s.Monotonic
	return err
}

// maxFailures is how many readings in a row may fail before the agent gives up.
const maxFailures = 10

func (e *Engine) readFailed(err error) error {
	e.failures++
	e.account.skipped++
	if e.failures >= maxFailures {
		return fmt.Errorf("read the processes %d times in a row: %w", e.failures, err)
	}
	e.Log.Error("read_failed", zap.Error(err), zap.Int("in_a_row", e.failures))
	return nil
}

func (e *Engine) identify() {
	for i := range e.table.Len() {
		if e.table.Still(i) {
			continue
		}
		if p := e.table.At(i); p.Renew {
			p.Identity = e.Who.Identify(&p.Process)
		}
	}
}

func (e *Engine) readHost() {
	e.Host.Read(&e.host)
	if e.snapshot.Whole() {
		e.host.Processes = record.Some(uint64(e.table.Len()))
	}
	e.machine.Update(&e.host)
}

// readCgroups reads those in which a process other than the agent did something, with
// those above, those that the policy watches, and once a minute all.
func (e *Engine) readCgroups(all bool) {
	e.cgroups = e.cgroups[:0]
	if all {
		e.cgroups = e.Cgroups.Read(e.cgroups, &e.host, nil)
		return
	}
	clear(e.active)
	e.table.Active(e.active, e.Self)
	e.Policy.WatchedCgroups(e.active)
	e.cgroups = e.Cgroups.Read(e.cgroups, &e.host, func(_ uint64, path string) bool { return e.active[path] })
}

// readJobs reads those that run. Where that fails, nothing is known of them in this tick.
func (e *Engine) readJobs() {
	e.running, e.jobsUnread = e.running[:0], false
	if e.Jobs != nil {
		var err error
		if e.running, err = e.Jobs.Jobs(e.running); err != nil {
			e.Log.Error("read_jobs_failed", zap.Error(err))
			e.running, e.jobsUnread = e.running[:0], true
		}
	}
	e.jobs.Update(e.running)
}

// gpuPatience is after how many intervals a reading of the cards says nothing any
// more: one passes until the tick takes it, one may be lost.
const gpuPatience = 3

// drain writes the ends that the kernel told of.
func (e *Engine) drain() {
	if e.Events == nil {
		return
	}
	if err := e.Events.Drain(&e.events); err != nil {
		e.Log.Error("drain_failed", zap.Error(err))
	}
	e.now = time.Now()
	for i := range e.events.Exits {
		x := &e.events.Exits[i]
		e.exited[x.P.ID] = true
		id := e.identityOf(&x.P)
		if !e.Filter.Match(&x.P, id) {
			continue
		}
		e.builder.Exit(&e.exit, x, id)
		e.emit(&e.exit)
	}
	for i := range e.events.OOMs {
		e.writeOOM(&e.events.OOMs[i])
	}
}

// identityOf says who a process was that the kernel told of: as the last snapshot
// had it, unless it called exec or moved to another cgroup since, else what its
// cgroup says. It is valid until the next call.
func (e *Engine) identityOf(p *sample.Process) *sample.Identity {
	if last := e.table.Find(p.ID); last != nil && last.Identity != nil && last.IsStill(p) {
		return last.Identity
	}
	e.Who.Ended(p, &e.ended)
	return &e.ended
}

func (e *Engine) writeOOM(o *sample.OOM) {
	id := e.identityOf(&o.P)
	if !e.Filter.Match(&o.P, id) {
		return
	}
	e.builder.OOM(&e.oom, o, id.Cgroup)
	e.Log.Warn("oom_kill",
		zap.Int32("pid", o.P.ID.PID),
		zap.String("comm", e.oom.Comm),
		zap.String("cgroup", e.oom.Cgroup.Or("")),
		zap.Uint64("rss_bytes", e.oom.RSSBytes.Or(0)))
	e.emit(&e.oom)
	e.actOnOOM()
}

// logOverview says how the machine is, from the second tick on: the first has no
// rates.
func (e *Engine) logOverview() {
	now := e.snapshot.Monotonic
	if e.Overview == 0 || e.before == 0 || e.overview != 0 && now-e.overview < e.Overview-e.Interval/2 {
		return
	}
	e.overview = now
	o := e.builder.Look(&e.machine, e.table, &e.gpus)
	fields := []zap.Field{zap.Int("processes", o.Processes)}
	for _, f := range [...]struct{ key, text string }{
		{"cpu", o.CPU}, {"memory", o.Memory}, {"disk", o.Disk}, {"net", o.Net}, {"gpu", o.GPU},
		{"busiest", o.Busiest}, {"largest", o.Largest}, {"nearest_fd_limit", o.NearestFDLimit},
	} {
		if f.text != "" {
			fields = append(fields, sink.Foreign(f.key, f.text))
		}
	}
	e.Log.Info("host", fields...)
}

// tell writes and logs the verdicts on processes that are shown, and that what was told of
// one that was shown is over.
func (e *Engine) tell(list []Announcement) {
	for i := range list {
		r, id := &list[i].Record, list[i].Change.ID
		_, stands := e.standings.leaks[id]
		p := e.lastOf(id)
		if p != nil && !e.Filter.Match(&p.Process, p.Identity) && (!stands || r.Verdict != record.VerdictOver) {
			continue
		}
		e.emit(r)
		e.logLeak(r)
		e.actOnLeak(r)
		e.standings.announce(r)
	}
}

// soon is how near a limit must be, in seconds, for a growth to be urgent.
const soon = 600

func (e *Engine) logLeak(r *record.Leak) {
	fields := []zap.Field{
		zap.String("verdict", string(r.Verdict)),
		zap.String("target", sample.ID{PID: r.PID, StartTicks: r.StartTicks}.String()),
		sink.Foreign("message", report.LeakMessage(r)),
	}
	if rule, ok := r.Rule.Get(); ok {
		fields = append(fields, zap.String("rule", rule))
	}
	if advice := report.LeakAdvice(r); advice != "" {
		fields = append(fields, zap.String("advice", advice))
	}
	left, limited := r.SecondsToLimit.Get()
	urgent := limited && left < soon
	switch {
	case r.Verdict == record.VerdictLeaking && urgent:
		e.Log.Error("leak", fields...)
	case r.Verdict == record.VerdictLeaking || r.Verdict == record.VerdictGrowing && urgent:
		e.Log.Warn("leak", fields...)
	default:
		e.Log.Info("leak", fields...)
	}
}
