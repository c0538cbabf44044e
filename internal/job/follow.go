package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/clock"
	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
)

// ErrFollow is wrapped by errors of a process that can't be followed.
var ErrFollow = errors.New("follow a process")

// Follow measures a process that runs already, and those that it forks, by /proc,
// until it ends, a limit is broken, or ctx ends. Totals count from now on. The process
// is left as it is: it gets no signal, and nobody learns its exit status. Of o, Cmd,
// Tracker, Grace, MainOnly and Signals are not used.
func Follow(ctx context.Context, pid int, o Options) (*Result, Tracker, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: PID %d: %w", ErrFollow, pid, err)
	}
	end := os.NewFile(uintptr(fd), "pidfd")
	defer end.Close()
	first, err := hostfs.ReadID(pid)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: PID %d: %w", ErrFollow, pid, err)
	}
	o.Only = true
	f := &follower{delta{procTracker: newProcTracker(ProcOptions{})}}
	f.first = pid
	o.Tracker = f
	r := &run{o: o, begin: clock.Boottime(), ended: make(chan struct{})}
	r.result = &Result{First: first, Start: time.Now(), Meter: NewMeter(r.begin)}
	if o.Started != nil {
		o.Started(pid)
	}
	gone := make(chan struct{})
	go func() {
		defer close(r.ended)
		waitGone(fd, gone)
	}()
	r.follow(ctx)
	close(gone)
	<-r.ended
	r.finish()
	return r.result, o.Tracker, nil
}

// waitGone returns when a process has ended, or when stop is closed.
func waitGone(pidfd int, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(readEvery.Milliseconds()))
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// follow takes readings until there is a reason to stop.
func (r *run) follow(ctx context.Context) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	steps, stopSteps := every(r.o.Interval)
	defer stopSteps()
	for r.look(); len(r.result.Exceeded) == 0 && r.result.Err == nil; {
		select {
		case <-tick.C:
			r.look()
		case <-steps:
			r.tell(false)
		case <-r.ended:
			return
		case <-ctx.Done():
			return
		}
	}
}

// delta tells by /proc what processes that were there before used since the first look.
type delta struct {
	*procTracker
	base  sample.JobTotals // that were used before
	based bool
}

func (d *delta) Start(*exec.Cmd) error { return ErrFollow }

func (d *delta) Read(dst *Reading) error {
	if err := d.procTracker.Read(dst); err != nil {
		return err
	}
	t := &dst.Totals
	if !d.based {
		d.base, d.based = *t, true
	}
	b := &d.base
	t.CPU, t.User, t.System = max(0, t.CPU-b.CPU), max(0, t.User-b.User), max(0, t.System-b.System)
	less := func(v *uint64, base uint64) { *v -= min(*v, base) }
	less(&t.MinorFlt, b.MinorFlt)
	less(&t.MajorFlt, b.MajorFlt)
	less(&t.Voluntary, b.Voluntary)
	less(&t.Forced, b.Forced)
	less(&t.ReadBytes, b.ReadBytes)
	less(&t.WrittenBytes, b.WrittenBytes)
	less(&t.DiskRead, b.DiskRead)
	less(&t.DiskWritten, b.DiskWritten)
	return nil
}

// follower is a tracker of a process that is not ours.
type follower struct{ delta }

// Signal sends none.
func (f *follower) Signal(unix.Signal) (int, []sample.ID, error) { return 0, nil, nil }

func (f *follower) Doom() error { return nil }

func (f *follower) Exactness(m cctools.Measure) (cctools.Exactness, string) {
	e, why := f.procTracker.Exactness(m)
	if e != cctools.Exact || ofTime(m) {
		return e, why
	}
	return cctools.AtLeast, "what processes did between the last of ten readings a second and their end is missing"
}
