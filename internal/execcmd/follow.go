package execcmd

import (
	"context"
	"errors"
	"io"
	"os/signal"

	"golang.org/x/sys/unix"

	"rmagent/internal/job"
	"rmagent/internal/job/track"
)

// followText is the command in the summary of a process that was followed: cctools'.
const followText = "# following pid with --pid"

// runFollow is run for a process that runs already. SIGINT and SIGTERM end the
// following, and leave the process alone.
func runFollow(ctx context.Context, p *plan, stderr io.Writer) (int, error) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	x, err := openExecution(p)
	if err != nil {
		return ExitFailed, err
	}
	defer x.close()
	result, tracker, err := job.Follow(ctx, p.PID, job.Options{
		Limits: p.Limits, Interval: p.Interval, GPUs: x.cards, Step: x.step, More: x.watch.more, Started: x.started,
	})
	if err != nil {
		return ExitFailed, errors.Join(err, x.files.discard())
	}
	x.tracker = &track.Tracker{Tracker: tracker}
	return x.finish(result, stderr)
}
