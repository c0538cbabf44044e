package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"rmagent/internal/act"
	"rmagent/internal/clock"
	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/internal/held"
	"rmagent/internal/loader"
	"rmagent/internal/policy"
	"rmagent/internal/python"
	"rmagent/internal/report"
	"rmagent/internal/sink"
	"rmagent/internal/source"
	"rmagent/internal/stack/worker"
	"rmagent/record"
)

// Options say what an agent is made of. Whatever they hold stays the caller's to close.
type Options struct {
	Config *config.Loaded
	// Sources are where Config was read from, to read it again when it changes.
	Sources  config.Sources
	Filter   engine.Filter
	Version  string
	Log      *zap.Logger
	SetLevel func(level string) error // changes what Log logs; nil: that can't change
	Overview time.Duration            // how often the log says how the machine is; 0: never
	Stdout   *os.File                 // where records go if the configuration says so
	// Stacks walks call stacks; nil: opens of descriptors are not traced.
	Stacks *worker.Client
	// Observers are told of every record, after it was written.
	Observers []Observer
	// Processes are recorded for the observers, too, and not only if they are written.
	Processes bool
	// Self is the PID of a process that does nothing but run the agent, and so is no
	// suspect of a leak: what it has open follows what it watches. 0: a program of which
	// the agent is a part.
	Self  int32
	Views *engine.Views    // where what is known is published; nil: nowhere
	Jobs  engine.JobReader // nil: none run beside the agent
}

// Observer is told of records, by whichever goroutine writes one. It must not wait,
// and keeps nothing of a record: its memory is used again.
type Observer interface {
	Observe(r record.Record)
}

// Agent is a run of the agent: what it reads, and what it writes to.
type Agent struct {
	Options
	parts     *Parts
	events    *loader.Events // nil where none are asked for, or eventsErr says why
	eventsErr error
	tracer    *loader.FDTracer // nil: opens can't be traced, or are not to be
	jsonl     *sink.JSONL      // nil: no records are written
	out       *fanout          // nil: nobody wants records
	engine    *engine.Engine
	actions   *act.Runner
	reloads   *reloads
	running   atomic.Bool
}

// Open opens all that an agent reads and writes, or nothing.
func Open(o Options) (_ *Agent, err error) {
	a := &Agent{Options: o}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			err = errors.Join(err, a.Close(ctx))
		}
	}()
	for _, note := range o.Config.Notes {
		a.Log.Warn("config_note", zap.String("note", note))
	}
	if err := a.openEvents(); err != nil {
		return nil, err
	}
	if a.parts, err = OpenParts(o.Config, a.events, a.Log); err != nil {
		return nil, err
	}
	// Where the scan can't load either, the source has said why.
	if a.eventsErr != nil && (a.parts.Source.Name == record.SourceEBPF || !errors.Is(a.eventsErr, loader.ErrUnsupported)) {
		a.Log.Warn("events_unavailable", zap.Error(a.eventsErr),
			zap.String("lost", "exit records are inferred from readings, network bytes and OOM kills are unknown"))
	}
	a.parts.WatchGPUs(o.Config, a.Log)
	if err := a.openOutputs(); err != nil {
		return nil, err
	}
	a.openActions()
	e, err := a.engineOptions()
	if err != nil {
		return nil, err
	}
	a.engine = engine.New(*e)
	return a, nil
}

// engineOptions says what the engine is to do.
func (a *Agent) engineOptions() (*engine.Options, error) {
	l := a.Config
	o := &engine.Options{
		Reader:    a.parts.Source,
		Source:    a.parts.Source.Name,
		Host:      a.parts.Host,
		Cgroups:   a.parts.Cgroups,
		Who:       a.parts.Who,
		Policy:    policy.New(l.Policy(int32(os.Getpid()))),
		Log:       a.Log,
		Self:      a.Self,
		Version:   a.Version,
		Interval:  l.Interval,
		Overview:  a.Overview,
		CPUBudget: l.CPUBudget,
		Select:    a.selection(l),
		Filter:    a.Filter,
		Actions:   a.actions,
		Views:     a.Views,
		Jobs:      a.Jobs,
	}
	if a.out != nil {
		o.Sink = a.out
		if err := a.out.Write(a.configRecord(l)); err != nil {
			return nil, err
		}
	}
	if a.events != nil {
		o.Events = a.events
	}
	if a.parts.GPU != nil {
		o.GPU = a.parts.GPU
	}
	a.reloads = newReloads(a)
	o.Settings = a.reloads
	var err error
	o.Leaks, err = a.openLeaks()
	return o, err
}

// selection is which processes get records: none where nobody would read them.
func (a *Agent) selection(l *config.Loaded) report.Selection {
	if a.jsonl == nil && !a.Processes {
		return report.None
	}
	return report.Selection(l.Processes)
}

func (a *Agent) configRecord(l *config.Loaded) *record.Config {
	r := &record.Config{Hash: l.Hash(), Values: l.Values(), AgentPID: record.Some(int32(os.Getpid()))}
	r.Time = time.Now().UTC()
	return r
}

// openLeaks opens what looks for leaks. Without a tracer only growth is seen.
func (a *Agent) openLeaks() (*engine.Leaks, error) {
	l := a.Config
	o := engine.LeakOptions{
		Proc: held.OpenProc("/proc"), Tracing: engine.Tracing(l.FDTracing), CPUBudget: l.CPUBudget, Log: a.Log, Now: clock.Monotonic, Self: a.Self,
	}
	if o.Tracing == engine.TraceOff || a.Stacks == nil {
		o.Tracing = engine.TraceOff
		return engine.NewLeaks(o), nil
	}
	var err error
	if a.tracer, err = OpenTracer(l); err != nil {
		if l.Source == string(source.EBPF) {
			return nil, err
		}
		if l.Source != string(source.Procfs) {
			a.Log.Warn("fd_tracing_unavailable", zap.Error(err))
		}
		return engine.NewLeaks(o), nil
	}
	o.Tracer = a.tracer
	o.Stacks, o.Pythons = a.Stacks, python.NewProcesses(a.Stacks)
	return engine.NewLeaks(o), nil
}

// OpenTracer opens the tracer where eBPF may be used; the error says why it isn't.
func OpenTracer(l *config.Loaded) (*loader.FDTracer, error) {
	if l.Source == string(source.Procfs) {
		return nil, errors.New("procfs does not tell who opens descriptors")
	}
	return loader.OpenFDTracer(loader.FDTraceOptions{})
}

// openEvents attaches the hooks, unless procfs is asked for. Without them ends are
// inferred. Hooks that were asked for by name must attach; of those that are on by
// default the rest is good enough, and what is lost is said once.
func (a *Agent) openEvents() error {
	names, custom := a.Config.HookNames()
	if a.Config.Source == string(source.Procfs) || custom && len(names) == 0 {
		return nil
	}
	events, err := loader.OpenEvents(loader.EventOptions{Hooks: names})
	if err != nil {
		if custom || a.Config.Source == string(source.EBPF) {
			return err
		}
		a.eventsErr = err
		return nil
	}
	a.events = events
	for hook, why := range events.Refused() {
		if custom {
			return fmt.Errorf("hook %s: %w", hook, why)
		}
		a.Log.Warn("hook_unavailable", zap.String("hook", hook), zap.Error(why))
	}
	return nil
}

// openOutputs opens where records go.
func (a *Agent) openOutputs() error {
	if a.Config.JSONL != "" {
		var err error
		a.jsonl, err = sink.OpenJSONL(sink.JSONLOptions{
			Path: a.Config.JSONL, Stdout: a.Stdout, Host: a.parts.Facts.Host, BootID: a.parts.Facts.BootID,
		})
		if err != nil {
			return err
		}
	}
	if a.jsonl != nil || len(a.Observers) > 0 {
		a.out = newFanout(a.jsonl, a.parts.Facts, a.Observers)
	}
	return nil
}

// openActions makes ready what acts, which is nothing where the configuration has no
// actions.
func (a *Agent) openActions() {
	a.actions = act.New(act.Options{Log: a.Log, Emit: a.acted, UserAgent: "rmagent/" + a.Version})
	a.actions.Configure(a.Config.Actions, a.Config.ActionsDryRun)
}

// acted writes and logs an attempt at an action.
func (a *Agent) acted(r *record.Action) {
	if a.out != nil {
		if err := a.out.Write(r); err != nil {
			a.Log.Error("record_failed", zap.Error(err))
		}
	}
	fields := []zap.Field{
		zap.String("action", r.Action), zap.String("cause", r.Cause), zap.String("outcome", string(r.Outcome)),
		sink.Foreign("what", r.What), sink.Foreign("why", r.Why), zap.Float64("seconds", r.DurationSeconds),
	}
	if r.Detail != "" {
		fields = append(fields, sink.Foreign("detail", r.Detail))
	}
	switch r.Outcome {
	case record.OutcomeDone, record.OutcomeDryRun, record.OutcomeRateLimited:
		a.Log.Info("acted", fields...)
	default:
		a.Log.Warn("acted", fields...)
	}
}

// Actions does what the configuration asks for: somebody may name one to act.
func (a *Agent) Actions() *act.Runner { return a.actions }

// Run reads and writes until ctx ends, which is no error. That the reader of the
// records has gone is none either.
func (a *Agent) Run(ctx context.Context) error {
	if !a.running.CompareAndSwap(false, true) {
		return errors.New("the agent runs already, or has run")
	}
	ctx, cancel := context.WithCancel(ctx)
	wait := a.reloads.start(ctx)
	defer func() {
		cancel()
		wait()
	}()
	a.started()
	err := a.engine.Run(ctx)
	if errors.Is(err, sink.ErrReaderGone) {
		a.Log.Info("reader_gone", zap.String("jsonl", a.Config.JSONL))
		return nil
	}
	return err
}

func (a *Agent) started() {
	l := a.Config
	a.Log.Info("started",
		zap.String("version", a.Version),
		zap.String("source", string(a.parts.Source.Name)),
		zap.String("detail", a.parts.Source.Detail),
		zap.String("kernel", KernelRelease()),
		zap.Duration("interval", l.Interval),
		zap.String("processes", l.Processes),
		sink.Foreign("jsonl", l.JSONL))
}

// Hangup does what SIGHUP asks for: the output is opened anew, and the configuration
// is read again. It does not wait.
func (a *Agent) Hangup() {
	if a.jsonl != nil {
		a.jsonl.Reopen()
	}
	a.reloads.demand()
}

// Close writes what is left, and closes everything; Run must have returned. Actions that
// have not ended with ctx, and an output that hangs then, are left behind: what that cost
// is counted and logged, and no error. Outputs come first, for nothing that follows has
// anything to tell, and to detach from the kernel takes its time.
func (a *Agent) Close(ctx context.Context) error {
	if a.actions != nil {
		if err := a.actions.Close(ctx); err != nil { // its last records go where the others go
			a.Log.Warn("actions_left_behind", zap.Error(err))
		}
	}
	fields := []zap.Field{}
	if a.jsonl != nil {
		if err := a.jsonl.Close(ctx); err != nil {
			a.Log.Warn("output_incomplete", zap.Error(err))
		}
		c := a.jsonl.Counters()
		fields = append(fields, zap.Uint64("records_written", c.Written), zap.Any("records_lost", c.Lost))
	}
	var errs []error
	if a.parts != nil {
		errs = append(errs, a.parts.Close())
	}
	if a.events != nil {
		errs = append(errs, a.events.Close())
	}
	if a.tracer != nil {
		errs = append(errs, a.tracer.Close())
	}
	a.Log.Info("stopped", fields...)
	return errors.Join(errs...)
}

// KernelRelease is the kernel's version and the machine's architecture.
func KernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
}
