package main

import (
	"context"
	"errors"
	"io"
	"os/signal"

	"golang.org/x/sys/unix"

	"rmagent/internal/job"
)

// followText is the command in the summary of a process that was followed: cctools'.
const followText = "# following pid with --pid"

// runFollow is runExec for a process that runs already. SIGINT and SIGTERM end the
// following, and leave the process alone.
func runFollow(ctx context.Context, p *execPlan, stderr io.Writer) (int, error) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	files, err := openJobFiles(p)
	if err != nil {
		return exitExecFailed, err
	}
	watch, err := openJobWatch(p, files)
	if err != nil {
		return exitExecFailed, errors.Join(err, files.discard())
	}
	defer watch.close()
	x := &execution{plan: p, files: files, watch: watch, show: newJobProgress(p)}
	result, tracker, err := job.Follow(ctx, p.PID, job.Options{
		Limits: p.Limits, Interval: p.Interval, Step: x.step, More: watch.more, Started: x.started,
	})
	if err != nil {
		return exitExecFailed, errors.Join(err, files.discard())
	}
	x.tracker = tracker
	return x.finish(result, stderr)
}
