package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/record"
)

// Commands that ask a running agent where they may, instead of reading for themselves.
// What they print is the same.

// snapshotOfAgent prints the agent's last reading. It is not done where that lacks somebody
// who was named: they may have begun since.
func snapshotOfAgent(c *cli.Context, k *client, f engine.Filter) (done bool, err error) {
	var young bytes.Buffer
	out := bufio.NewWriterSize(c.App.Writer, 64<<10)
	if f.PIDs != nil {
		out.Reset(&young)
	}
	missing, err := k.snapshot(c.Context, f, &lineWriter{out: out})
	if err = cmp.Or(err, out.Flush()); err != nil || len(missing) > 0 {
		return err != nil, err
	}
	_, err = young.WriteTo(c.App.Writer)
	return true, err
}

// fdsOfAgent shows what the agent knows. It is not done where a watch of its own would
// tell more: of a process named by its PID that the agent does not trace, since it
// neither grows nor leaks.
func fdsOfAgent(c *cli.Context, l *config.Loaded, f engine.Filter) (done bool, err error) {
	chosen := f.HasPatterns()
	if c.IsSet("for") || c.IsSet("pprof") || f.PIDs == nil && !chosen && c.Bool("json") {
		return false, nil
	}
	ask := presentAgent
	if f.PIDs != nil && !chosen { // what they hold is looked up when the agent is asked
		ask = runningAgent
	}
	k := ask(c, l)
	switch {
	case k == nil:
		return false, nil
	case chosen:
		return fdsOfChosen(c, k, f)
	}
	if f.PIDs == nil {
		s, err := k.fds(c.Context)
		if err != nil {
			return false, nil // then it is read here
		}
		byUrgency(s.leaks)
		k.lookAgain(c.Context, s.leaks[:min(hostDetails, len(s.leaks))])
		return true, printSurvey(c, s)
	}
	list := make([]record.Leak, 0, len(f.PIDs))
	for _, pid := range f.PIDs {
		l, err := k.held(c.Context, pid)
		if err != nil || l.Verdict != record.VerdictGrowing && l.Verdict != record.VerdictLeaking {
			return false, nil // likewise
		}
		list = append(list, l)
	}
	return true, printHeld(c, list)
}

// fdsOfChosen shows what the processes that a filter chooses hold. The agent has watched
// them for longer than this command would.
func fdsOfChosen(c *cli.Context, k *client, f engine.Filter) (done bool, err error) {
	processes, err := k.chosen(c.Context, f)
	if err != nil || len(processes) > maxHeld {
		return false, nil
	}
	list := make([]record.Leak, 0, len(processes))
	for i := range processes {
		p := &processes[i]
		if !p.FDOpen.Known() || p.FDOpen.Or(0) == 0 && !p.VirtualBytes.Known() {
			continue // a kernel thread, or one that has ended
		}
		switch l, err := k.held(c.Context, p.PID); {
		case isGone(err):
		case err != nil:
			return false, nil
		default:
			list = append(list, l)
		}
	}
	return true, printHeld(c, list)
}

// lookAgain asks what processes hold now: what the agent has of them is from when it told
// of their verdicts. Of who does not answer in time, only the code stands, and no counts.
func (k *client) lookAgain(ctx context.Context, leaks []record.Leak) {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	var wait sync.WaitGroup
	for i := range leaks {
		wait.Go(func() {
			if now, err := k.held(ctx, leaks[i].PID); err == nil && now.StartTicks == leaks[i].StartTicks {
				leaks[i] = now
				return
			}
			for n := range leaks[i].Sites {
				leaks[i].Sites[n].Held = 0
			}
		})
	}
	wait.Wait()
}

// lookPatience is how long the page of a host waits for what its processes hold.
const lookPatience = 5 * time.Second

// maxHeld is of how many processes an agent is asked what they hold: it looks at each
// between two readings.
const maxHeld = 256

func printSurvey(c *cli.Context, s *fdSurvey) error {
	out := bufio.NewWriterSize(c.App.Writer, 64<<10)
	page := fdPage{Painter: cmdline.NewPainter(out, c.App.Writer), age: s.age}
	page.host(s.rows, s.leaks)
	return failing(c, s.leaks, quiet(out.Flush()))
}

func printHeld(c *cli.Context, list []record.Leak) error {
	out := bufio.NewWriterSize(c.App.Writer, 64<<10)
	var err error
	if c.Bool("json") {
		lines := &lineWriter{out: out}
		for i := range list {
			err = cmp.Or(err, lines.writeAt(&list[i]))
		}
	} else {
		page := fdPage{Painter: cmdline.NewPainter(out, c.App.Writer)}
		page.processes(list)
	}
	if err = failing(c, list, quiet(cmp.Or(err, out.Flush()))); err == nil && len(list) == 0 && c.Bool("fail") {
		return errNobody
	}
	return err
}

// failing ends with a status of its own where something leaks and that was asked for.
func failing(c *cli.Context, list []record.Leak, err error) error {
	if err != nil || !c.Bool("fail") {
		return err
	}
	for i := range list {
		if list[i].Verdict == record.VerdictLeaking {
			return cmdline.StatusError(exitLeaking)
		}
	}
	return nil
}

// headroomOfAgent shows the headroom of each process that is asked for. All are asked
// at once: each answer takes as long as there is between two readings.
func headroomOfAgent(c *cli.Context, k *client, f engine.Filter) (done bool, err error) {
	between := c.Duration("for")
	if between > 10*time.Second {
		return false, nil
	}
	if f.PIDs == nil {
		list, err := k.nearest(c.Context, f, between, c.Int("top"))
		if err != nil {
			return false, nil // then it is read here
		}
		return true, printNearest(c, &list)
	}
	if len(f.PIDs) > maxAsked || f.HasPatterns() {
		return false, nil
	}
	answers := make([]record.Headroom, len(f.PIDs))
	errs := make([]error, len(f.PIDs))
	var wait sync.WaitGroup
	for i, pid := range f.PIDs {
		wait.Go(func() { answers[i], errs[i] = k.headroom(c.Context, pid, between) })
	}
	wait.Wait()
	var gone []int32
	shown := 0
	for i := range answers {
		switch {
		case isGone(errs[i]):
			gone = append(gone, f.PIDs[i])
			continue
		case errs[i] != nil:
			return false, nil
		}
		if err := printHeadroom(c, &answers[i], shown, len(f.PIDs)); err != nil {
			return true, err
		}
		shown++
	}
	return true, noProcesses(gone)
}

// maxAsked is how many processes are asked for at once.
const maxAsked = 16

// printNearest shows who is nearest to a limit.
func printNearest(c *cli.Context, list *record.HeadroomList) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, list, true)
	}
	return newHeadroomPage(c).list(list)
}

// printHeadroom shows one of several processes.
func printHeadroom(c *cli.Context, h *record.Headroom, before, all int) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, h, all == 1)
	}
	if before > 0 {
		fmt.Fprintln(c.App.Writer)
	}
	return newHeadroomPage(c).process(h)
}
