package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"rmagent/internal/agent"
	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/internal/history"
	"rmagent/internal/sink"
	"rmagent/internal/stack/worker"
)

// stopTime is how long actions, answers and outputs have to end by themselves: an agent
// that is asked to end has ended within a second. Whatever hangs then is left behind.
const stopTime = 400 * time.Millisecond

// overviewEvery is how often the log says how the machine is, where a person reads
// it: a program has the records.
const overviewEvery = 5 * time.Second

func runFlags() []cli.Flag {
	return cmdline.Flags(append(filterFlags(),
		&cli.StringFlag{Name: "jsonl", Usage: "write records to `PATH`, or - for stdout"},
		&cli.StringFlag{Name: "log-file", Usage: "log to `PATH` instead of stderr"},
		&cli.StringFlag{Name: "warnings-file", Usage: "warnings to `PATH`, and no longer to stderr"},
		&cli.StringFlag{Name: "hooks", Usage: "comma-separated `LIST` of kernel hooks, default or none"},
		&cli.StringFlag{Name: "fd-tracing", Usage: "who opens descriptors: auto (of processes that are suspect), always (of those that hold most, too) or off"},
		&cli.StringFlag{Name: "processes", Usage: "active (whose counters moved, and each once a minute), all or none"},
		&cli.StringFlag{Name: "duration", Usage: "stop after `TIME`"},
		&cli.StringFlag{Name: "cpu-budget", Usage: "`RATIO` of one core that the agent may use; it slows itself down to stay inside"},
		&cli.StringFlag{Name: "listen", Usage: "TCP `ADDRESS` for numbers, such as 127.0.0.1:9475; empty: none"},
		&cli.StringFlag{Name: "web.config.file", Usage: "TLS and authentication for --listen from `FILE`, as for Prometheus's exporters"},
		&cli.StringFlag{Name: "socket-group", Usage: "`GROUP` that may connect to the socket, to read"},
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
	threads := newThreads()
	l, err := cmdline.LoadConfig(c)
	if err != nil {
		return err
	}
	f, err := filter(c)
	if err != nil {
		return err
	}
	if err := cmdline.CheckOwn(l); err != nil {
		return err
	}
	lock, err := lockInstance(cmdline.SocketPath(l))
	if held := (*heldError)(nil); errors.As(err, &held) {
		return fmt.Errorf("%w; stop it, or choose another --socket", err)
	}
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
	a, err := openAgent(c, l, f, log, newFront(threads))
	if err == nil {
		// They stay caught: one more, while it ends, would take away what is still to be written.
		ctx, _ := signal.NotifyContext(c.Context, unix.SIGINT, unix.SIGTERM)
		err = a.run(ctx, hup)
		err = errors.Join(err, a.close())
	}
	// A log that hangs makes no failure of an agent that did its part; who can still be
	// told is told.
	if incomplete := closeLog(log); incomplete != nil && l.LogFile != "" {
		fmt.Fprintf(os.Stderr, "rmagent: the log is not complete: %v\n", incomplete)
	}
	return err
}

// running is the agent, and what the command adds to it.
type running struct {
	*agent.Agent
	log     *sink.Log
	stacks  *worker.Client
	history *history.Store
	front   *front // where people and programs ask
	jobs    jobServer
}

func openAgent(c *cli.Context, l *config.Loaded, f engine.Filter, log *sink.Log, front *front) (*running, error) {
	r := &running{log: log, stacks: openStacks(), history: openHistory(l, log.Logger()), front: front}
	r.front.history = r.history
	o := agent.Options{
		Config: l, Sources: cmdline.Sources(c), Filter: f, Version: version, Log: log.Logger(), SetLevel: log.SetLevel,
		Stdout: os.Stdout, Stacks: r.stacks, Views: r.front.views, Observers: []agent.Observer{r.history, r.front.bus},
		Self: int32(os.Getpid()), Jobs: &r.jobs,
	}
	if log.Console() {
		o.Overview = overviewEvery
	}
	var err error
	if r.Agent, err = agent.Open(o); err != nil {
		r.stacks.Close()
		return nil, err
	}
	return r, nil
}

// run runs the agent until ctx ends, or the time is over.
func (r *running) run(ctx context.Context, hup <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if d := r.Config.Duration; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	if err := r.jobs.open(r.Config, r.GPUClient(), r.log.Logger()); err != nil {
		return err
	}
	if err := r.front.open(ctx, r.Agent, &r.jobs); err != nil {
		return err
	}
	go r.hangUps(ctx, hup)
	// Loading took the kernel's types apart, some 10 MiB that nobody needs again.
	debug.FreeOSMemory()
	return r.Run(ctx)
}

// hangUps opens the outputs anew at each SIGHUP, until ctx ends.
func (r *running) hangUps(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			r.log.Reopen()
			r.Hangup()
			r.log.Logger().Info("reopened")
		}
	}
}

// close writes what is left and closes everything but the log.
func (r *running) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	err := errors.Join(r.front.close(ctx), r.Close(ctx), r.jobs.close())
	r.stacks.Close()
	return err
}

// closeLog writes the rest of the log, last of all.
func closeLog(log *sink.Log) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	return log.Close(ctx)
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
