package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

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

// stopTime is how long the outputs may take to write what is left: an agent that
// is asked to end has ended within a second.
const stopTime = 700 * time.Millisecond

// overviewEvery is how often the log says how the machine is, where a person reads
// it: a program has the records.
const overviewEvery = 5 * time.Second

func runFlags() []cli.Flag {
	return commonFlags(append(filterFlags(),
		&cli.StringFlag{Name: "jsonl", Usage: "write records to `PATH`, or - for stdout"},
		&cli.StringFlag{Name: "log-file", Usage: "log to `PATH` instead of stderr"},
		&cli.StringFlag{Name: "warnings-file", Usage: "warnings to `PATH`, and no longer to stderr"},
		&cli.StringFlag{Name: "hooks", Usage: "comma-separated `LIST` of kernel hooks, default or none"},
		&cli.StringFlag{Name: "fd-tracing", Usage: "who opens descriptors: auto (of processes that are suspect), always (of those that hold most, too) or off"},
		&cli.StringFlag{Name: "processes", Usage: "active (whose counters moved, and each once a minute), all or none"},
		&cli.StringFlag{Name: "duration", Usage: "stop after `TIME`"},
		&cli.StringFlag{Name: "cpu-budget", Usage: "`RATIO` of one core that the agent may use; it slows itself down to stay inside"},
		&cli.BoolFlag{Name: "with-cmdline", Usage: "with command lines, which may hold secrets"})...)
}

func runCommand() *cli.Command {
	return command(&cli.Command{
		Name:   "run",
		Usage:  "the host agent, until SIGINT or SIGTERM",
		Flags:  runFlags(),
		Action: run,
	})
}

func run(c *cli.Context) error {
	useOneThread()
	l, err := loadConfig(c)
	if err != nil {
		return err
	}
	f, err := filter(c)
	if err != nil {
		return err
	}
	lock, err := lockInstance(socketPath(l))
	if err != nil {
		return err
	}
	defer lock.release()
	log, err := openLog(l)
	if err != nil {
		return err
	}
	hup := make(chan os.Signal, 1) // whatever comes while it starts or ends must not end it
	signal.Notify(hup, unix.SIGHUP)
	defer signal.Stop(hup)
	a := &agent{loaded: l, log: log}
	err = a.run(c.Context, f, hup)
	return errors.Join(err, a.close())
}

// useOneThread runs Go code on one thread at a time, unless the environment says
// otherwise: an agent that works for a millisecond a second has nothing to do on a
// second one, and each goroutine that becomes ready would wake one, and the
// runtime's monitor with it (a quarter of the context switches remain).
func useOneThread() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// socketPath is the configured socket. Where none is configured, an ordinary user,
// who can't write to /run, has one in a directory of their own.
func socketPath(l *config.Loaded) string {
	if os.Geteuid() == 0 || l.Origin("socket").Layer != config.LayerDefault {
		return l.Socket
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("rmagent-%d", os.Geteuid()))
	}
	return filepath.Join(dir, "rmagent.sock")
}

// agent is a run of the agent: what it reads, and what it writes to.
type agent struct {
	loaded    *config.Loaded
	log       *sink.Log
	parts     *parts
	events    *loader.Events // nil where none are asked for, or eventsErr says why
	eventsErr error
	tracer    *loader.FDTracer // nil: opens can't be traced, or are not to be
	stacks    *worker.Client
	jsonl     *sink.JSONL
}

func (a *agent) run(ctx context.Context, f engine.Filter, hup <-chan os.Signal) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	if a.loaded.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.loaded.Duration)
		defer cancel()
	}
	// A reader that closes the pipe is seen by the write that fails.
	signal.Ignore(unix.SIGPIPE)

	o, err := a.open(f)
	if err != nil {
		return err
	}
	go a.reopen(ctx, hup)

	a.started()
	// Loading took the kernel's types apart, some 10 MiB that nobody needs again.
	debug.FreeOSMemory()
	err = engine.New(*o).Run(ctx)
	if errors.Is(err, sink.ErrReaderGone) {
		a.log.Logger().Info("reader_gone", zap.String("jsonl", a.loaded.JSONL))
		return nil
	}
	return err
}

// open opens what the agent reads and writes, and says what the engine is to do.
func (a *agent) open(f engine.Filter) (*engine.Options, error) {
	l, log := a.loaded, a.log.Logger()
	for _, note := range l.Notes {
		log.Warn("config_note", zap.String("note", note))
	}
	if err := a.openEvents(); err != nil {
		return nil, err
	}
	var err error
	if a.parts, err = open(l, a.events, log); err != nil {
		return nil, err
	}
	// Where the scan can't load either, the source has said why.
	if a.eventsErr != nil && (a.parts.source.Name == record.SourceEBPF || !errors.Is(a.eventsErr, loader.ErrUnsupported)) {
		log.Warn("events_unavailable", zap.Error(a.eventsErr),
			zap.String("lost", "exit records are inferred from readings, network bytes and OOM kills are unknown"))
	}
	a.parts.watchGPUs(l, log)
	if err := a.openJSONL(); err != nil {
		return nil, err
	}
	o := &engine.Options{
		Reader:    a.parts.source,
		Source:    a.parts.source.Name,
		Host:      a.parts.host,
		Cgroups:   a.parts.cgroups,
		Who:       a.parts.who,
		Policy:    policy.New(l.Policy()),
		Log:       log,
		Version:   version,
		Interval:  l.Interval,
		CPUBudget: l.CPUBudget,
		Select:    report.Selection(l.Processes),
		Filter:    f,
	}
	if a.log.Console() {
		o.Overview = overviewEvery
	}
	if a.jsonl != nil {
		o.Sink = a.jsonl
		if err := a.writeConfig(); err != nil {
			return nil, err
		}
	}
	if a.events != nil {
		o.Events = a.events
	}
	if a.parts.gpu != nil {
		o.GPU = a.parts.gpu
	}
	o.Leaks, err = a.openLeaks()
	return o, err
}

// openLeaks opens what looks for leaks. Without a tracer only growth is seen.
func (a *agent) openLeaks() (*engine.Leaks, error) {
	l, log := a.loaded, a.log.Logger()
	o := engine.LeakOptions{
		Proc: held.OpenProc("/proc"), Tracing: engine.Tracing(l.FDTracing), CPUBudget: l.CPUBudget, Log: log, Now: monotonic,
	}
	if o.Tracing == engine.TraceOff {
		return engine.NewLeaks(o), nil
	}
	var err error
	if a.tracer, err = openTracer(l); err != nil {
		if l.Source == string(source.EBPF) {
			return nil, err
		}
		if l.Source != string(source.Procfs) {
			log.Warn("fd_tracing_unavailable", zap.Error(err))
		}
		return engine.NewLeaks(o), nil
	}
	o.Tracer = a.tracer
	a.stacks = openStacks()
	o.Stacks, o.Pythons = a.stacks, python.NewProcesses(a.stacks)
	return engine.NewLeaks(o), nil
}

func (a *agent) openJSONL() error {
	if a.loaded.JSONL == "" {
		return nil
	}
	var err error
	a.jsonl, err = sink.OpenJSONL(sink.JSONLOptions{
		Path:   a.loaded.JSONL,
		Stdout: os.Stdout,
		Host:   a.parts.facts.Host,
		BootID: a.parts.facts.BootID,
	})
	return err
}

// openEvents attaches the hooks, unless procfs is asked for. Without them ends are
// inferred. Hooks that were asked for by name must attach; of those that are on by
// default the rest is good enough, and what is lost is said once.
func (a *agent) openEvents() error {
	names, custom := a.loaded.HookNames()
	if a.loaded.Source == string(source.Procfs) || custom && len(names) == 0 {
		return nil
	}
	events, err := loader.OpenEvents(loader.EventOptions{Hooks: names})
	if err != nil {
		if custom || a.loaded.Source == string(source.EBPF) {
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
		a.log.Logger().Warn("hook_unavailable", zap.String("hook", hook), zap.Error(why))
	}
	return nil
}

func (a *agent) writeConfig() error {
	r := &record.Config{Hash: a.loaded.Hash(), Values: a.loaded.Values()}
	r.Time = now()
	return a.jsonl.Write(r)
}

func (a *agent) started() {
	l := a.loaded
	a.log.Logger().Info("started",
		zap.String("version", version),
		zap.String("source", string(a.parts.source.Name)),
		zap.String("detail", a.parts.source.Detail),
		zap.String("kernel", kernelRelease()),
		zap.Duration("interval", l.Interval),
		zap.String("processes", l.Processes),
		sink.Foreign("jsonl", l.JSONL))
}

// reopen opens the outputs anew at each SIGHUP, until ctx ends.
func (a *agent) reopen(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			a.log.Reopen()
			if a.jsonl != nil {
				a.jsonl.Reopen()
			}
			a.log.Logger().Info("reopened")
		}
	}
}

// close writes what is left and closes everything, the log last.
func (a *agent) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	var errs []error
	if a.parts != nil {
		errs = append(errs, a.parts.close())
	}
	if a.events != nil {
		errs = append(errs, a.events.Close())
	}
	if a.tracer != nil {
		errs = append(errs, a.tracer.Close())
	}
	if a.stacks != nil {
		a.stacks.Close()
	}
	if a.jsonl != nil {
		if err := a.jsonl.Close(ctx); err != nil { // what it cost is counted; the agent did its part
			a.log.Logger().Warn("output_incomplete", zap.Error(err))
		}
		lost := zap.Any("records_lost", a.jsonl.Counters().Lost)
		a.log.Logger().Info("stopped", zap.Uint64("records_written", a.jsonl.Counters().Written), lost)
	} else {
		a.log.Logger().Info("stopped")
	}
	return errors.Join(append(errs, a.log.Close(ctx))...)
}

func openLog(l *config.Loaded) (*sink.Log, error) {
	return sink.OpenLog(sink.LogOptions{
		Level:        l.LogLevel,
		Format:       l.LogFormat,
		File:         l.LogFile,
		WarningsFile: l.WarningsFile,
		Stderr:       os.Stderr,
	})
}
