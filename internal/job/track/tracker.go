package track

import (
	"fmt"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/clock"
	"rmagent/internal/job"
	"rmagent/internal/job/sock"
	"rmagent/internal/sample"
)

// patience is for how long readings may fail, as for want of descriptors, before /proc is
// asked instead.
const patience = 2 * time.Second

// Tracker is a job.Tracker that outlives who measures: an agent may be restarted while a
// job runs. From then on /proc tells, of less.
type Tracker struct {
	job.Tracker // who tells now

	proc   job.ProcOptions
	begin  time.Duration // CLOCK_BOOTTIME; 0: nothing was started
	first  int           // the first process, until it is reaped
	last   job.Reading
	told   time.Time // the last
	moved  bool      // /proc tells instead
	doomed bool
	lost   error
}

// Lost says what could not be had, or not to the end; nil where it is the best there is.
func (t *Tracker) Lost() error { return t.lost }

// Start starts the job's first process.
func (t *Tracker) Start(cmd *exec.Cmd) error {
	begin := clock.Boottime()
	if err := t.Tracker.Start(cmd); err != nil {
		return err
	}
	t.begin, t.first, t.told = begin, cmd.Process.Pid, time.Now()
	return nil
}

// Reaped is told what the first process used.
func (t *Tracker) Reaped(usage *unix.Rusage) {
	t.Tracker.Reaped(usage)
	t.first = 0
}

// Read replaces dst with what the job did until now. A reading that fails is the one before
// for a while.
func (t *Tracker) Read(dst *job.Reading) error {
	err := t.Tracker.Read(dst)
	if err != nil && t.move(err) {
		err = t.Tracker.Read(dst)
	}
	switch {
	case err == nil:
		t.told = time.Now()
		keep(&t.last, dst)
	case t.last.Boottime != 0 && time.Since(t.told) < patience:
		keep(dst, &t.last)
		err = nil
	}
	return err
}

// keep makes of dst a copy of src.
func keep(dst, src *job.Reading) {
	processes := append(dst.Processes[:0], src.Processes...)
	*dst = *src
	dst.Processes = processes
}

// Signal sends a signal to every process that lives.
func (t *Tracker) Signal(s unix.Signal) (sent int, refused []sample.ID, err error) {
	sent, refused, err = t.Tracker.Signal(s)
	if err != nil && t.move(err) {
		return t.Tracker.Signal(s)
	}
	return sent, refused, err
}

// Doom lets none of these fork any more.
func (t *Tracker) Doom() error {
	t.doomed = true
	err := t.Tracker.Doom()
	if err != nil && t.move(err) {
		return nil
	}
	return err
}

// move has /proc tell from now on, if who told is gone, or has failed for long.
func (t *Tracker) move(because error) bool {
	if t.moved || t.begin == 0 || !sock.Gone(because) && time.Since(t.told) < patience {
		return false
	}
	if source := t.Source(); source != "agent" && source != "ebpf" {
		return false
	}
	why := fmt.Errorf("who measured the job failed after %.1f s, /proc told since: %w", (clock.Boottime() - t.begin).Seconds(), because)
	next, err := job.TakeOver(t.proc, t.first, &t.last, why.Error())
	if err != nil {
		return false
	}
	t.Tracker.Close() // whatever that says: it failed
	t.Tracker, t.moved, t.lost = next, true, why
	if t.doomed {
		next.Doom()
	}
	return true
}
