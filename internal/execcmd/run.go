package execcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/cmdline"
	"rmagent/internal/human"
	"rmagent/internal/job"
	"rmagent/internal/job/cards"
	"rmagent/internal/job/track"
	"rmagent/internal/sample"
)

// gcPercent has garbage collected from 16 MiB on: what it takes to load programs is less, and
// collecting that is a tenth of the time that a short job takes.
const gcPercent = 400

// run runs a plan and returns exec's status.
func run(ctx context.Context, p *plan, stderr io.Writer) (int, error) {
	debug.SetGCPercent(gcPercent)
	if p.PID != 0 {
		return runFollow(ctx, p, stderr)
	}
	x, err := openExecution(p)
	if err != nil {
		return ExitFailed, err
	}
	defer x.close()
	if p.inGroup {
		limited, err := job.OpenLimited(&p.Limits)
		if err != nil {
			return ExitFailed, errors.Join(fmt.Errorf("--cgroup-limits: %w", err), x.files.discard())
		}
		defer limited.Close()
		x.limited = limited
	}
	x.tracker, err = track.Open(track.Options{
		Limits: p.Limits, Enforce: !p.Only, Source: p.source, Reap: true, NotOfJob: x.cards.Owns, Agent: p.agent(),
		Command: p.text(), Category: p.Category, TaskID: p.TaskID, Limited: x.limited,
	})
	if err != nil {
		return ExitFailed, errors.Join(err, x.files.discard())
	}
	defer x.tracker.Close()
	if !p.quiet {
		x.unwatched(stderr, x.knowable)
	}
	x.cmd = p.command()
	signals := relaySignals()
	defer signals.stop()
	grace := p.grace
	if grace == 0 {
		grace = -1
	}
	result, err := job.Run(ctx, job.Options{
		Cmd: x.cmd, Tracker: x.tracker, Limited: x.limited, Limits: p.Limits, Only: p.Only, Grace: grace, MainOnly: p.mainOnly, GPUs: x.cards,
		Interval: p.Interval, Step: x.step, More: x.watch.more, Started: x.started, Signals: signals.job,
		Refused: func(ids []sample.ID) { p.tellRefused(stderr, ids) },
	})
	x.show.end()
	if err != nil {
		return startStatus(err), errors.Join(startError(p, err), x.files.discard())
	}
	return x.finish(result, stderr)
}

// tellRefused says whom the job goes on with although it is to end.
func (p *plan) tellRefused(stderr io.Writer, ids []sample.ID) {
	if p.quiet {
		return
	}
	for _, id := range ids {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", id.PID)) // empty: it has ended
		fmt.Fprintf(stderr, "rmagent: process %d (%s) is another user's and can't be ended by this one: the job goes on with it\n",
			id.PID, human.Text(strings.TrimSpace(string(name))))
	}
}

// agent is the path of the agent's socket for jobs, if one may be asked.
func (p *plan) agent() string {
	if p.local || p.source != "auto" {
		return ""
	}
	path := ""
	for _, socket := range p.sockets {
		path = cmdline.JobsSocket(socket)
		if _, err := os.Stat(path); err == nil {
			break
		}
	}
	return path
}

func startError(p *plan, err error) error {
	if !errors.Is(err, job.ErrStart) {
		return err
	}
	name := shell
	if p.Shell == "" {
		name = p.Command[0]
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("exec: %q: no such command", name)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("exec: %q: %s", name, missing(name))
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("exec: %q: permission denied", name)
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("exec: %q: %w", name, errno)
	}
	return err
}

// missing says what there is not of a command that was found nowhere, or by the kernel only
// in part.
func missing(command string) string {
	path, err := exec.LookPath(command)
	if err != nil {
		return "no such command"
	}
	if kind := job.ExecutableType(path); strings.HasPrefix(kind, "#!") {
		return "there is no such interpreter: " + kind
	}
	return "the loader that it names does not exist"
}

// execution is a job that exec runs.
type execution struct {
	plan    *plan
	cmd     *exec.Cmd
	tracker *track.Tracker
	limited *job.Limited // nil: none
	files   *jobFiles
	watch   *jobWatch
	cards   *cards.Own
	show    *jobProgress
	failed  error // writing a file
}

// openExecution opens what a plan writes to and what is watched beside the processes:
// mistakes in both are told before anything is started.
func openExecution(p *plan) (*execution, error) {
	files, err := openJobFiles(p)
	if err != nil {
		return nil, err
	}
	watch, err := openJobWatch(p, files)
	if err != nil {
		return nil, errors.Join(err, files.discard())
	}
	return &execution{plan: p, files: files, watch: watch, cards: cards.Open("", p.noGPUs), show: newJobProgress(p)}, nil
}

func (x *execution) close() {
	x.watch.close()
	x.cards.Close()
}

// knowable says what a measure can be worth here, as far as that shows at the start.
func (x *execution) knowable(id cctools.Measure) (cctools.Exactness, string) {
	if (id == cctools.GPUs || id == cctools.GPUMemory) && x.tracker.Source() != "agent" {
		if why := x.cards.Why(); why != "" {
			return cctools.Unknown, why
		}
	}
	return x.tracker.Exactness(id)
}

// unwatched says which limits nobody can tell to be broken, but of what directories hold
// and of GPUs, which shows later.
func (x *execution) unwatched(stderr io.Writer, worth func(cctools.Measure) (cctools.Exactness, string)) {
	for id := range cctools.Measure(cctools.NumMeasures) {
		if !x.plan.Limits.Known(id) {
			continue
		}
		if e, why := worth(id); e == cctools.Unknown {
			fmt.Fprintf(stderr, "rmagent: the limit of %s is not watched: %s\n", id, why)
		}
	}
}

// started is told of the first process: times in files count from then.
func (x *execution) started(int) {
	x.files.start = time.Now()
	x.failed = x.files.begin()
	x.watch.started(x.files.start)
}

func (x *execution) step(s job.Step) {
	x.show.show(&s)
	err := x.files.step(&s)
	if x.plan.UpdateSummary && s.Number >= 0 {
		err = errors.Join(err, x.files.update(x.running(&s)))
	}
	if err != nil && x.failed == nil {
		x.failed = err
	}
}

// running sums up a job that runs.
func (x *execution) running(s *job.Step) *cctools.Summary {
	r := &cctools.Summary{ExitType: cctools.ExitRunning, Measures: s.Most, Snapshots: x.watch.snapshots}
	begin := float64(x.files.start.UnixMicro()) / 1e6
	r.Measures.Set(cctools.Start, begin)
	r.Measures.Set(cctools.End, begin+s.Seconds)
	r.Measures.Set(cctools.WallTime, s.Seconds)
	x.describe(r)
	r.Finish()
	return r
}

// describe says whose summary it is.
func (x *execution) describe(s *cctools.Summary) {
	p := x.plan
	s.Category, s.TaskID, s.Verbatim = p.Category, p.TaskID, p.Verbatim
	s.Command = p.text()
	s.Host, _ = os.Hostname()
	s.MonitorVersion = p.version
	if x.cmd != nil && x.files.any() {
		s.ExecutableType = job.ExecutableType(x.cmd.Path)
	}
}

// finish writes what is left to write, and returns exec's status.
func (x *execution) finish(r *job.Result, stderr io.Writer) (int, error) {
	s := x.summary(r)
	err := errors.Join(x.failed, x.watch.finish(s), x.files.finish(s, r))
	if !x.plan.quiet {
		x.unwatched(stderr, func(id cctools.Measure) (cctools.Exactness, string) {
			if e, why := x.knowable(id); e == cctools.Unknown { // said at the start
				return cctools.Exact, why
			}
			return s.Exactness[id], s.Why[id]
		})
		printJob(stderr, s, &x.plan.Limits, r, x.tracker.Lost())
	}
	x.tellDebug(s, r)
	switch {
	case r.Err != nil:
		return ExitFailed, errors.Join(fmt.Errorf("measure the job: %w", r.Err), err)
	case err != nil:
		return ExitFailed, err
	case x.plan.asMonitor:
		return monitorStatus(s, x.plan.Only), nil
	case len(r.Exceeded) > 0 && !x.plan.Only:
		return ExitLimit, nil
	}
	return s.ExitStatus, nil
}

// summary sums a job up.
func (x *execution) summary(r *job.Result) *cctools.Summary {
	s := job.Summarize(r, x.tracker)
	x.describe(s)
	if x.cmd == nil {
		s.Cause = "the process was followed, and is not ours: its exit status is unknown"
	}
	if len(r.Exceeded) > 0 && !x.plan.Only {
		s.ExitStatus = 128 + int(unix.SIGTERM) // whatever it made of that
	}
	return s
}

// foreground reports whether the terminal sends its signals to this process.
func foreground() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
