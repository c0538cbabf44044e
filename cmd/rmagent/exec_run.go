package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/job"
	"rmagent/internal/job/track"
)

// runExec runs a plan and returns exec's status.
func runExec(ctx context.Context, p *execPlan, stderr io.Writer) (int, error) {
	files, err := openJobFiles(p)
	if err != nil {
		return exitExecFailed, err
	}
	watch, err := openJobWatch(p, files)
	if err != nil {
		return exitExecFailed, errors.Join(err, files.discard())
	}
	defer watch.close()
	tracker, lost, err := track.Open(track.Options{
		Limits: p.Limits, Enforce: !p.Only, Source: p.source, Reap: true, Agent: p.agent(),
	})
	if err != nil {
		return exitExecFailed, errors.Join(err, files.discard())
	}
	defer tracker.Close()
	cmd := p.command()
	signals := relaySignals()
	defer signals.stop()
	show := newJobProgress(p)
	x := &execution{plan: p, cmd: cmd, tracker: tracker, files: files, watch: watch, show: show, lost: lost}
	grace := p.grace
	if grace == 0 {
		grace = -1
	}
	result, err := job.Run(ctx, job.Options{
		Cmd: cmd, Tracker: tracker, Limits: p.Limits, Only: p.Only, Grace: grace, MainOnly: p.mainOnly,
		Interval: p.Interval, Step: x.step, More: watch.more, Started: x.started, Signals: signals.job,
	})
	show.end()
	if err != nil {
		return startStatus(err), errors.Join(startError(p, err), files.discard())
	}
	return x.finish(result, stderr)
}

// agent is the path of the agent's socket for jobs, if one may be asked.
func (p *execPlan) agent() string {
	if p.local || p.source != "auto" {
		return ""
	}
	return jobsSocket(p.socket)
}

func startError(p *execPlan, err error) error {
	if !errors.Is(err, job.ErrStart) {
		return err
	}
	name := "/bin/sh"
	if p.Shell == "" {
		name = p.Command[0]
	}
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("exec: %q: no such command", name)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("exec: %q: permission denied", name)
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("exec: %q: %w", name, errno)
	}
	return err
}

// execution is a job that exec runs.
type execution struct {
	plan    *execPlan
	cmd     *exec.Cmd
	tracker job.Tracker
	files   *jobFiles
	watch   *jobWatch
	show    *jobProgress
	lost    error // why it is not measured as well as could be
	failed  error // writing a file
}

// started is told of the first process: times in files count from then.
func (x *execution) started(int) {
	x.files.start = time.Now()
	x.watch.started(x.files.start)
}

func (x *execution) step(s job.Step) {
	x.show.show(&s)
	if err := x.files.step(&s); err != nil && x.failed == nil {
		x.failed = err
	}
}

// finish writes what is left to write, and returns exec's status.
func (x *execution) finish(r *job.Result, stderr io.Writer) (int, error) {
	s := x.summary(r)
	err := errors.Join(x.failed, x.watch.finish(s), x.files.finish(s, r))
	if !x.plan.quiet {
		printJob(stderr, s, &x.plan.Limits, r, x.lost)
	}
	x.tellDebug(s, r)
	switch {
	case r.Err != nil:
		return exitExecFailed, errors.Join(fmt.Errorf("measure the job: %w", r.Err), err)
	case err != nil:
		return exitExecFailed, err
	case x.plan.asMonitor:
		return monitorStatus(s, x.plan.Only), nil
	case len(r.Exceeded) > 0 && !x.plan.Only:
		return exitLimit, nil
	}
	return s.ExitStatus, nil
}

// summary sums a job up.
func (x *execution) summary(r *job.Result) *cctools.Summary {
	s := job.Summarize(r, x.tracker)
	p := x.plan
	s.Category, s.TaskID, s.Verbatim = p.Category, p.TaskID, p.Verbatim
	s.Command = p.text()
	s.Host, _ = os.Hostname()
	s.MonitorVersion = version
	s.ExecutableType = job.ExecutableType(x.cmd.Path)
	if len(r.Exceeded) > 0 && !p.Only {
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
