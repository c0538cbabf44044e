package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/signal"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"rmagent/internal/agent"
	"rmagent/internal/aggregate"
	"rmagent/internal/clock"
	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/internal/held"
	"rmagent/internal/loader"
	"rmagent/internal/pprof"
	"rmagent/internal/python"
	"rmagent/internal/sample"
	"rmagent/internal/source"
	"rmagent/internal/stack/worker"
	"rmagent/record"
)

func fdsCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "fds",
		Usage: "who holds descriptors, who leaks them, opened by which code, and when the limit is hit",
		Flags: cmdline.Flags(append(filterFlags(),
			&cli.StringFlag{Name: "for", Value: "10s", Usage: "watch for `TIME`; 0: only list what is held"},
			&cli.BoolFlag{Name: "json", Usage: "print one JSON object for each process"},
			&cli.StringFlag{Name: "pprof", Usage: "write what is held, by stack, as a profile to `FILE`"},
			&cli.BoolFlag{Name: "fail", Usage: "exit with status 3 if something leaks"},
			&cli.BoolFlag{Name: "local", Usage: "read here, never ask a running agent"})...),
		Action: fds,
	})
}

func fds(c *cli.Context) error {
	f, err := filter(c)
	if err != nil {
		return err
	}
	length, err := config.ParseDuration(c.String("for"))
	if err != nil || length < 0 || length > 24*time.Hour {
		return cmdline.Usagef("--for %q: allowed is a duration from 0 to 24h", c.String("for"))
	}
	if n := len(f.PIDs); length > 0 && n > loader.MaxTraced {
		return cmdline.Usagef("fds: --pid names %d processes; %d can be traced at once, and --for 0 lists what any number holds", n, loader.MaxTraced)
	}
	loaded, err := cmdline.LoadConfig(c)
	if err != nil {
		return err
	}
	if done, err := fdsOfAgent(c, loaded, f); done || err != nil {
		return err
	}
	l, err := openLocal(c, loaded)
	if err != nil {
		return err
	}
	defer l.close()
	w, err := newFDWatch(l, f)
	if err != nil {
		return err
	}
	defer w.close()
	ctx, stop := signal.NotifyContext(c.Context, unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := w.watch(ctx, length); err != nil {
		return err
	}
	return w.print(c)
}

// fdWatch watches descriptors for a while, without a running agent.
type fdWatch struct {
	parts  *agent.Parts
	filter engine.Filter
	tracer *loader.FDTracer // nil: untraced says why
	// untraced is why nobody can tell who opened what.
	untraced error
	leaks    *engine.Leaks
	table    *aggregate.Table
	snapshot sample.Snapshot
	interval time.Duration
	watched  time.Duration
	stacks   *worker.Client
}

func newFDWatch(l *local, f engine.Filter) (*fdWatch, error) {
	w := &fdWatch{parts: l.parts, filter: f, table: aggregate.NewTable(), interval: min(l.config.Interval, time.Second)}
	o := engine.LeakOptions{Proc: held.OpenProc("/proc"), Tracing: engine.Tracing(l.config.FDTracing), Always: f.PIDs, Log: l.log.Logger(), Now: clock.Monotonic}
	if w.tracer, w.untraced = agent.OpenTracer(l.config); w.tracer != nil {
		o.Tracer = w.tracer
		w.stacks = openStacks()
		o.Stacks, o.Pythons = w.stacks, python.NewProcesses(w.stacks)
	} else if l.config.Source == string(source.EBPF) {
		return nil, w.untraced
	}
	w.leaks = engine.NewLeaks(o)
	return w, nil
}

func (w *fdWatch) close() error {
	var errs []error
	if w.tracer != nil {
		errs = append(errs, w.tracer.Close())
	}
	if w.stacks != nil {
		w.stacks.Close()
	}
	return errors.Join(errs...)
}

// watch reads until length is over, or ctx ends, which is no error.
func (w *fdWatch) watch(ctx context.Context, length time.Duration) error {
	begin := clock.Monotonic()
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	end := time.After(length)
	if err := w.tick(ctx, true); err != nil {
		return err
	}
	p := newProgress(length)
	defer p.end()
	for {
		var err error
		select {
		case <-ctx.Done():
		case <-end:
		case <-tick.C:
			p.show(clock.Monotonic() - begin)
			err = w.tick(ctx, false)
		case <-look.C:
			w.leaks.Look(ctx, w.parts.Source, w.table)
			continue
		}
		w.watched = clock.Monotonic() - begin
		if ctx.Err() != nil || w.watched >= length {
			return w.last(length)
		}
		if err != nil {
			return err
		}
	}
}

// last reads what there is at the end, whatever interrupted.
func (w *fdWatch) last(length time.Duration) error {
	if length > 0 {
		w.leaks.Look(context.Background(), w.parts.Source, w.table)
		w.leaks.Settle()
	}
	return w.tick(context.Background(), false)
}

func (w *fdWatch) tick(ctx context.Context, first bool) error {
	scope := sample.Scope{PIDs: w.filter.PIDs}
	if err := w.parts.Source.Read(ctx, scope, &w.snapshot); err != nil {
		return err
	}
	if first {
		if err := missingPIDs(w.filter.PIDs, &w.snapshot); err != nil {
			return err
		}
		if err := w.withoutTable(); err != nil {
			return err
		}
	}
	w.table.Update(&w.snapshot)
	for i := range w.table.Len() {
		if p := w.table.At(i); p.Renew {
			p.Identity = w.parts.Who.Identify(&p.Process)
		}
	}
	w.leaks.Tick(w.table)
	return nil
}

// withoutTable names a process that was asked for and can hold nothing.
func (w *fdWatch) withoutTable() error {
	if w.filter.PIDs == nil {
		return nil
	}
	for i := range w.snapshot.Processes {
		p := &w.snapshot.Processes[i]
		switch {
		case p.KernelThread:
			return fmt.Errorf("pid %d (%s) is a kernel thread: it has no descriptors", p.ID.PID, record.Text(p.Comm.Bytes()))
		case p.State == 'Z' && p.Known.Has(sample.State) && p.FDOpen == 0:
			return fmt.Errorf("pid %d (%s) is a zombie: it has ended, and its descriptors are closed", p.ID.PID, record.Text(p.Comm.Bytes()))
		}
	}
	return nil
}

// describe returns what the processes that are shown hold.
func (w *fdWatch) describe(only func(*aggregate.Process) bool) []record.Leak {
	var list []record.Leak
	for i := range w.table.Len() {
		p := w.table.At(i)
		if p.KernelThread || !w.filter.Match(&p.Process, p.Identity) || !only(p) {
			continue
		}
		r, _ := w.leaks.Describe(p, w.watched) // what can't be read is counted in it
		list = append(list, r)
	}
	return list
}

func (w *fdWatch) print(c *cli.Context) error {
	chosen := w.filter.PIDs != nil || len(w.filter.Names)+len(w.filter.Cgroups)+len(w.filter.Units) > 0
	all := func(*aggregate.Process) bool { return true }
	var list []record.Leak
	if chosen || c.Bool("json") || c.IsSet("pprof") {
		list = w.describe(all)
	}
	if gone := w.ended(); gone != nil {
		return gone
	}
	if c.IsSet("pprof") {
		if err := writeProfile(c.String("pprof"), list); err != nil {
			return err
		}
	}
	out := bufio.NewWriterSize(c.App.Writer, 64<<10)
	page := fdPage{Painter: cmdline.NewPainter(out, c.App.Writer), watched: w.watched, untraced: w.untraced}
	var err error
	switch {
	case c.Bool("json"):
		err = w.printJSON(&lineWriter{out: out, facts: w.parts.Facts}, list)
	case chosen:
		page.processes(list)
	default:
		page.host(w.summaries(), w.describe(w.grown))
	}
	if err = quiet(cmp.Or(err, out.Flush())); err != nil {
		return err
	}
	switch {
	case !c.Bool("fail"):
	case w.leaking():
		return cmdline.StatusError(exitLeaking)
	case chosen && len(list) == 0:
		return errNobody
	}
	return nil
}

// errNobody is for --fail where nobody could have leaked: the name may be mistyped.
var errNobody = errors.New("fds: no process matches, so that nobody says whether one leaks")

// ended says that the one process that was asked for has ended meanwhile.
func (w *fdWatch) ended() error {
	if len(w.filter.PIDs) != 1 || w.table.Len() > 0 {
		return nil
	}
	return ended(w.filter.PIDs)
}

func (w *fdWatch) leaking() bool {
	for i := range w.table.Len() {
		p := w.table.At(i)
		if w.filter.Match(&p.Process, p.Identity) && w.leaks.Verdict(p.ID) == record.VerdictLeaking {
			return true
		}
	}
	return false
}

func (w *fdWatch) printJSON(out *lineWriter, list []record.Leak) error {
	for i := range list {
		if err := out.write(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

// writeProfile writes a profile.
func writeProfile(path string, list []record.Leak) error {
	if err := cmdline.WriteFile(path, 0o600, pprof.Profile(time.Now().UTC(), list).Write); err != nil {
		return fmt.Errorf("write the profile: %w", err)
	}
	return nil
}
