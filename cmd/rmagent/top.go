package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"rmagent/internal/agent"
	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
	"rmagent/internal/sink"
	"rmagent/internal/stack/worker"
	"rmagent/internal/tui"
	"rmagent/record"
)

func topCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "top",
		Usage: "show the machine and its processes live, what leaks and what is near a limit on top",
		Description: "Asks a running agent over its socket where it may, and else reads for itself. Where the\n" +
			"output is no terminal, and with --json, it prints once and ends.",
		Flags: cmdline.Flags(append(filterFlags(),
			&cli.StringFlag{Name: "sort", Value: "cpu", Usage: "`COLUMN` to sort by: " + strings.Join(sortNames(), ", ")},
			&cli.BoolFlag{Name: "json", Usage: "print records as JSON lines, once"},
			&cli.BoolFlag{Name: "local", Usage: "read here, never ask a running agent"})...),
		Action: top,
	})
}

// sortColumns are the names of the columns on the command line, and their keys.
var sortColumns = map[string]string{
	"pid": "p", "cpu": "c", "memory": "m", "threads": "h", "fds": "f", "used": "o", "full": "l",
	"disk": "d", "net": "n", "gpu": "g", "name": "N",
}

func sortNames() []string {
	return []string{"cpu", "memory", "fds", "used", "full", "disk", "net", "gpu", "threads", "pid", "name"}
}

func top(c *cli.Context) error {
	f, err := filter(c)
	if err != nil {
		return err
	}
	key, ok := sortColumns[c.String("sort")]
	if !ok {
		return cmdline.Usagef("--sort %q: allowed are %s", c.String("sort"), strings.Join(sortNames(), ", "))
	}
	l, err := cmdline.LoadConfig(c)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, unix.SIGINT, unix.SIGTERM)
	defer stop()
	source, err := openTop(ctx, c, l, f)
	if err != nil {
		return err
	}
	live := cmdline.IsTerminal(c.App.Writer) && !c.Bool("json")
	switch {
	case live:
		m := tui.New(tui.Options{Source: source.String(), ASCII: !utf8Terminal(), Sort: key, PIDs: f.PIDs})
		err = tui.Run(ctx, m, source, os.Stdin, os.Stdout)
	case c.Bool("json"):
		err = topJSON(ctx, c, source, f.PIDs)
	default:
		err = topOnce(ctx, c, source, f.PIDs, key)
	}
	if ctx.Err() != nil { // Ctrl-C is how it is meant to end
		err = nil
	}
	return errors.Join(err, source.close())
}

// utf8Terminal tells whether the locale says that the terminal shows UTF-8 (locale(7)).
func utf8Terminal() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := os.Getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// topSource is a source that ends.
type topSource interface {
	tui.Source
	close() error
}

// openTop asks the agent that runs, or has one read here: also where the agent lacks a
// process that was named, for it may have begun since. It is an error if nobody has it.
func openTop(ctx context.Context, c *cli.Context, l *config.Loaded, f engine.Filter) (topSource, error) {
	if k := presentAgent(c, l); k != nil {
		facts, err := hostfs.ReadFacts(hostfs.Options{})
		if err != nil {
			return nil, err
		}
		s := &agentSource{client: k, filter: f, host: facts.Host, name: "the running agent"}
		if l.Origin("socket").Layer != config.LayerDefault {
			s.name = "agent at " + k.socket
		}
		if f.PIDs == nil {
			return s, nil
		}
		if r, err := s.read(ctx); err != nil || absent(f.PIDs, r.Processes) == nil {
			return s, err
		}
	}
	s, err := openHere(ctx, l, f)
	if err != nil || f.PIDs == nil {
		return s, err
	}
	r, err := s.Next(ctx, time.Time{})
	if err == nil {
		err = noProcesses(absent(f.PIDs, r.Processes))
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// absent are those of the PIDs that no process has.
func absent(pids []int32, list []record.Process) []int32 {
	return slices.DeleteFunc(slices.Clone(pids), func(pid int32) bool {
		return slices.ContainsFunc(list, func(p record.Process) bool { return p.PID == pid })
	})
}

// ended names processes that were there, and are no more; nil for none.
func ended(pids []int32) error {
	if len(pids) == 0 {
		return nil
	}
	return fmt.Errorf("pid %s ended while it was watched", listed(pids))
}

// agentSource asks a running agent.
type agentSource struct {
	client *client
	filter engine.Filter
	host   string
	name   string
	due    time.Time // of the agent's next reading, about
}

func (s *agentSource) String() string { return s.name }

func (s *agentSource) close() error { return nil }

// Next asks as often as the agent reads: for what it has anyway.
func (s *agentSource) Next(ctx context.Context, after time.Time) (*tui.Reading, error) {
	for {
		if err := pause(ctx, time.Until(s.due)); err != nil {
			return nil, err
		}
		r, err := s.read(ctx)
		if err != nil {
			s.due = time.Time{}
			return nil, err
		}
		s.due = r.Time.Add(r.Interval + r.Interval/20)
		if soon := time.Now().Add(r.Interval / 10); s.due.Before(soon) || s.due.After(soon.Add(r.Interval)) {
			s.due = soon // the agent is late, or its clock another
		}
		if r.Time.After(after) || r.Time.Before(after.Add(-time.Minute)) { // a clock that was set back
			return r, nil
		}
	}
}

func (s *agentSource) read(ctx context.Context) (*tui.Reading, error) {
	var system struct {
		Time     time.Time            `json:"time"`
		Interval float64              `json:"interval_seconds"`
		Host     record.Host          `json:"host"`
		GPUs     []record.GPU         `json:"gpus"`
		States   []record.StateChange `json:"states"`
	}
	if err := s.client.getJSON(ctx, "/v1/system", nil, &system); err != nil {
		return nil, err
	}
	var processes struct{ Processes []record.Process }
	if err := s.client.getJSON(ctx, "/v1/processes", filterQuery(s.filter), &processes); err != nil {
		return nil, err
	}
	var leaks struct{ Leaks []record.Leak }
	if err := s.client.getJSON(ctx, "/v1/leaks", nil, &leaks); err != nil {
		return nil, err
	}
	var policy struct{ Prune *record.Prune }
	if err := s.client.getJSON(ctx, "/v1/policy", nil, &policy); err != nil {
		return nil, err
	}
	if f := &s.filter; f.PIDs != nil || f.HasPatterns() {
		system.States, leaks.Leaks = ofChosen(processes.Processes, system.States, leaks.Leaks)
	}
	return &tui.Reading{
		Time: system.Time, Interval: time.Duration(system.Interval * float64(time.Second)), Host: system.Host, HostName: s.host,
		GPUs: system.GPUs, Processes: processes.Processes, Leaks: leaks.Leaks, States: system.States, Prune: policy.Prune,
	}, nil
}

// ofChosen leaves out what is told of processes that a filter does not choose.
func ofChosen(chosen []record.Process, states []record.StateChange, leaks []record.Leak) ([]record.StateChange, []record.Leak) {
	there := map[sample.ID]bool{}
	targets := map[string]bool{}
	for i := range chosen {
		id := sample.ID{PID: chosen[i].PID, StartTicks: chosen[i].StartTicks}
		there[id], targets[id.String()] = true, true
	}
	states = slices.DeleteFunc(states, func(s record.StateChange) bool { return strings.HasPrefix(s.Target, "pid:") && !targets[s.Target] })
	leaks = slices.DeleteFunc(leaks, func(l record.Leak) bool { return !there[sample.ID{PID: l.PID, StartTicks: l.StartTicks}] })
	return states, leaks
}

// Detail asks for what a process holds, and for its limits.
func (s *agentSource) Detail(ctx context.Context, pid int32) tui.Detail {
	d := tui.Detail{PID: pid}
	d.Holds, d.HoldsErr = s.client.held(ctx, pid)
	d.Headroom, d.HeadroomErr = s.client.follow(ctx, pid)
	return d
}

// hereSource has an agent read in this process that writes nothing.
type hereSource struct {
	agent  *agent.Agent
	log    *sink.Log
	stacks *worker.Client
	views  *engine.Views
	desk   *headroomDesk
	ended  chan error
	stop   context.CancelFunc
}

// openHere begins to read here. The log goes to a file, or nowhere: the terminal shows
// something else.
func openHere(ctx context.Context, l *config.Loaded, f engine.Filter) (_ *hereSource, err error) {
	l.JSONL = ""
	if l.Origin("interval").Layer != config.LayerFlag { // it is for records: who looks does not wait so long
		l.Interval = min(l.Interval, time.Second)
	}
	if l.LogFile == "" {
		l.LogFile = os.DevNull
	}
	log, err := openLog(l)
	if err != nil {
		return nil, err
	}
	s := &hereSource{
		log: log, stacks: openStacks(), views: engine.NewViews(),
		desk: newHeadroomDesk(), ended: make(chan error, 1),
	}
	s.agent, err = agent.Open(agent.Options{Config: l, Filter: f, Version: version, Log: log.Logger(), Stacks: s.stacks, Views: s.views})
	if err != nil {
		s.stacks.Close()
		return nil, errors.Join(err, closeLog(log))
	}
	s.desk.gpus, s.desk.views = s.agent.GPUs, s.views
	ctx, s.stop = context.WithCancel(ctx)
	go func() { s.ended <- s.agent.Run(ctx) }()
	return s, nil
}

func (s *hereSource) String() string { return "read here, " + s.agent.About().Source }

func (s *hereSource) close() error {
	s.stop()
	err := errors.Join(<-s.ended, s.desk.close())
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	err = errors.Join(err, s.agent.Close(ctx))
	s.stacks.Close()
	return errors.Join(err, closeLog(s.log))
}

// Next waits for the engine's next view.
func (s *hereSource) Next(ctx context.Context, after time.Time) (*tui.Reading, error) {
	for {
		published := s.views.Published()
		v, err := s.views.Detailed(ctx)
		if err != nil {
			return nil, err
		}
		if v.Time.After(after) {
			return s.reading(v), nil
		}
		select {
		case <-published:
		case err := <-s.ended:
			s.ended <- err
			return nil, errors.Join(errors.New("the reading ended"), err)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *hereSource) reading(v *engine.View) *tui.Reading {
	return &tui.Reading{
		Time: v.Time, Interval: v.Interval, Host: v.Host, HostName: s.agent.About().Facts.Host, GPUs: v.GPUs,
		Processes: v.Details.Processes, Leaks: v.Details.Leaks, States: v.Details.States, Prune: v.Prune,
	}
}

// Detail looks at a process: what it holds, and its limits.
func (s *hereSource) Detail(ctx context.Context, pid int32) tui.Detail {
	d := tui.Detail{PID: pid}
	d.Holds, d.HoldsErr = s.views.Holds(ctx, pid)
	d.Headroom, d.HeadroomErr = s.desk.Follow(ctx, pid)
	return d
}

// second returns the first reading that has rates: those that come with the second
// of an engine that has just begun. Of an agent that reads rarely it is the last.
func second(ctx context.Context, source topSource) (*tui.Reading, error) {
	r, err := source.Next(ctx, time.Time{})
	if err != nil || r.Host.CPURatio.Known() || r.Interval > maxAge {
		return r, err
	}
	return source.Next(ctx, r.Time)
}

// topOnce prints the table for a reader that is no terminal.
func topOnce(ctx context.Context, c *cli.Context, source topSource, pids []int32, key string) error {
	r, err := second(ctx, source)
	if err != nil {
		return err
	}
	gone := absent(pids, r.Processes)
	if pids != nil && len(r.Processes) == 0 {
		return ended(gone)
	}
	m := tui.New(tui.Options{Source: source.String(), Sort: key, ASCII: !utf8Terminal()})
	m.Take(r)
	width := 100
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n >= 40 && n <= 1000 {
		width = n
	}
	_, err = c.App.Writer.Write([]byte(m.Once(width)))
	return errors.Join(err, ended(gone))
}

// topJSON prints what top shows as records.
func topJSON(ctx context.Context, c *cli.Context, source topSource, pids []int32) error {
	r, err := second(ctx, source)
	if err != nil {
		return err
	}
	facts, err := hostfs.ReadFacts(hostfs.Options{})
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(c.App.Writer, 64<<10)
	w := &lineWriter{out: out, facts: facts}
	for _, x := range topRecords(r) {
		*x.Head() = record.Header{Time: r.Time, Host: facts.Host, BootID: facts.BootID, Schema: record.Schema}
		if err := w.writeAt(x); err != nil {
			return err
		}
	}
	return errors.Join(out.Flush(), ended(absent(pids, r.Processes)))
}

func topRecords(r *tui.Reading) []record.Record {
	list := []record.Record{&r.Host}
	for i := range r.GPUs {
		list = append(list, &r.GPUs[i])
	}
	for i := range r.States {
		list = append(list, &r.States[i])
	}
	if r.Prune != nil {
		list = append(list, r.Prune)
	}
	for i := range r.Leaks {
		list = append(list, &r.Leaks[i])
	}
	slices.SortStableFunc(r.Processes, func(a, b record.Process) int { return int(a.PID) - int(b.PID) })
	for i := range r.Processes {
		list = append(list, &r.Processes[i])
	}
	return list
}
