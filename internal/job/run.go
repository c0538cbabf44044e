package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/clock"
	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
)

// DefaultGrace is how long a job that must end has to do so by itself.
const DefaultGrace = 5 * time.Second

// killTime bounds the wait for killed processes: one in an uninterruptible sleep dies
// when that ends.
const killTime = 10 * time.Second

// Options say what is to run, and how it is watched.
type Options struct {
	Cmd     *exec.Cmd // not started
	Tracker Tracker   // stays the caller's
	Limits  cctools.Limits
	Only    bool          // note broken limits, and enforce none
	Grace   time.Duration // between SIGTERM and SIGKILL; 0: DefaultGrace; below 0: none
	// MainOnly ends the job with its first process: what is left then is ended too.
	// Else a job ends with the last of its processes.
	MainOnly bool
	// Interval is how often Step is called, the first time at the start; 0: only at the
	// end.
	Interval time.Duration
	// GPUs, if any, is asked what the processes have of the GPUs where the tracker does
	// not tell.
	GPUs GPUs
	// Step, if any, is told of the start and of each interval, and, with Number -1, of
	// the end.
	Step func(Step)
	// More, if any, is told of each reading, and adds measures that no tracker tells:
	// nil adds none. It is called by the goroutine of Run and must not wait, but at the
	// last.
	More func(Moment) *cctools.Measures
	// Limited, if any, is the cgroup that the command starts in; it stays the caller's.
	Limited *Limited
	// Signals are passed on to the job.
	Signals <-chan Signal
	// Refused, if any, is told of processes of another user, which are not ended by who may
	// not end them: the job goes on with them.
	Refused func([]sample.ID)
	// Started, if any, is told the first process's PID.
	Started func(pid int)
}

// Signal is one that came for the job.
type Signal struct {
	Signal unix.Signal
	// Terminal: the terminal sent it to all who are in its foreground, the command too.
	Terminal bool
}

// Moment is one reading of a job, valid during the call that tells of it.
type Moment struct {
	Seconds   float64
	Last      bool // the job has ended
	Now       *cctools.Measures
	Processes []sample.JobProcess
}

// Step is what a job uses at an instant.
type Step struct {
	Number  int  // from 0; -1: the last
	Left    bool // the first process has ended, and others have not
	Seconds float64
	Now     cctools.Measures
	Most    cctools.Measures
}

// Result is what became of a job.
type Result struct {
	First    sample.ID        // the first process
	State    *os.ProcessState // of it
	WaitErr  error            // of exec.Cmd.Wait: copying its output failed
	Start    time.Time
	End      time.Time
	Meter    *Meter
	Exceeded []cctools.Exceeded
	Killed   bool        // it was ended: by a limit, or with its context
	Left     int         // processes that survived even SIGKILL
	Refused  []sample.ID // of these, or of those that a signal was for: who may not be sent one
	Err      error       // the watching failed: what Meter has is not all
}

// ErrStart is wrapped by errors of a command that could not be started.
var ErrStart = errors.New("start the command")

// StartCommand starts a command, for trackers: errors of exec.Cmd.Start are told
// apart from theirs.
func StartCommand(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: %w", ErrStart, err)
	}
	return nil
}

// Run runs a job to its end. When ctx ends, the job is ended. An error means that
// nothing was started.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := &run{o: o, ended: make(chan struct{}), copied: make(chan error, 1), grace: o.Grace}
	if r.grace == 0 {
		r.grace = DefaultGrace
	}
	if err := r.start(); err != nil {
		return nil, err
	}
	r.loop(ctx)
	return r.result, nil
}

// run is a job while it runs.
type run struct {
	o       Options
	result  *Result
	begin   time.Duration // CLOCK_BOOTTIME
	grace   time.Duration
	ended   chan struct{} // closed when the first process is a zombie
	usage   unix.Rusage   // of it, then
	copied  chan error    // what exec.Cmd.Wait said
	alone   bool          // the first process has ended
	waited  bool          // and its output is copied
	reading Reading
	took    time.Duration // the last reading
	pace    pacer
	sharing sharesReader
	step    int
	killAt  time.Time // zero: nobody is to be killed
	ending  bool
	relax   func() // nil: nobody hurries
}

func (r *run) start() error {
	r.begin = clock.Boottime()
	r.result = &Result{Start: time.Now(), Meter: NewMeter(r.begin)}
	if r.o.Limited != nil {
		r.o.Limited.group.take(r.o.Cmd)
	}
	if err := r.o.Tracker.Start(r.o.Cmd); err != nil {
		return err
	}
	pid := r.o.Cmd.Process.Pid
	r.result.First, _ = hostfs.ReadID(pid) // a zombie at worst: nobody reaps it but us
	if r.o.Started != nil {
		r.o.Started(pid)
	}
	go func() {
		defer close(r.ended)
		for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, &r.usage) == unix.EINTR {
		}
	}()
	return nil
}

// every ticks at an interval; 0: never.
func every(interval time.Duration) (ticks <-chan time.Time, stop func()) {
	if interval <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(interval)
	return t.C, t.Stop
}

// loop watches until nothing is left to watch.
func (r *run) loop(ctx context.Context) {
	tick := time.NewTimer(readEvery)
	defer tick.Stop()
	steps, stopSteps := every(r.o.Interval)
	defer stopSteps()
	ended, stop := r.ended, ctx.Done()
	if r.o.Interval > 0 {
		r.tell(false)
	}
	for !r.over() {
		select {
		case <-tick.C:
			r.look()
			tick.Reset(r.pace.next(&r.o.Limits, &r.result.Meter.Now, r.took))
		case <-r.o.Tracker.Notices():
			r.look()
		case <-steps:
			r.tell(false)
		case s := <-r.o.Signals:
			r.pass(s)
		case <-ended:
			ended = nil
			r.reap()
			r.look()
		case err := <-r.copied:
			r.wait(err)
			r.look()
		case <-stop:
			stop = nil
			r.end()
		}
	}
	r.finish()
}

// over reports whether the job has ended, all of it.
func (r *run) over() bool {
	if !r.waited {
		return false
	}
	return r.result.Err != nil || r.reading.Totals.Pending == 0
}

// look takes a reading and does what it demands.
func (r *run) look() {
	if !r.read() {
		return
	}
	if !r.ending {
		r.judge()
	}
	if !r.killAt.IsZero() && !time.Now().Before(r.killAt) {
		r.kill()
	}
}

// read takes a reading; false: it failed, and the job goes on unwatched.
func (r *run) read() bool {
	if r.result.Err != nil {
		return false
	}
	begin := time.Now()
	if err := r.o.Tracker.Read(&r.reading); err != nil {
		r.result.Err = err
		return false
	}
	r.o.addGPUs(&r.reading)
	r.sharing.within(func(share Sharer) { r.result.Meter.Add(&r.reading, share) })
	r.more(false)
	r.took = time.Since(begin)
	return true
}

// more adds what no tracker tells to the last reading.
func (r *run) more(last bool) {
	if r.o.More == nil {
		return
	}
	m := r.result.Meter
	at := Moment{Last: last, Now: &m.Now, Processes: r.reading.Processes}
	at.Seconds, _ = m.Now.Get(cctools.WallTime)
	if more := r.o.More(at); more != nil {
		m.AddMore(more)
	}
}

// judge ends the job if it broke a limit.
func (r *run) judge() {
	seconds, _ := r.result.Meter.Now.Get(cctools.WallTime)
	if r.result.judge(&r.o, seconds) && !r.o.Only {
		r.end()
	}
}

// judge adds the limits that are broken now, and tells whether there are any new ones. What
// is found beside a limit that is enforced is what the end of the job makes of it.
func (r *Result) judge(o *Options, seconds float64) (more bool) {
	if len(r.Exceeded) > 0 && !o.Only {
		return false
	}
	for _, broken := range o.Limits.Broken(&r.Meter.Most) {
		if slices.ContainsFunc(r.Exceeded, func(e cctools.Exceeded) bool { return e.Measure == broken.Measure }) {
			continue // it is told once
		}
		broken.Seconds = seconds
		r.Exceeded, more = append(r.Exceeded, broken), true
	}
	return more
}

// end asks all processes to end, and has them killed after the grace period.
func (r *run) end() {
	if r.ending {
		return
	}
	r.ending, r.result.Killed = true, true
	r.relax = hurry()
	if r.grace < 0 {
		r.kill()
		return
	}
	r.killAt = time.Now().Add(r.grace)
	r.signal(unix.SIGTERM)
	r.signal(unix.SIGCONT) // a stopped process gets no signal before it goes on
}

// kill ends every process that is left.
func (r *run) kill() {
	r.killAt = time.Time{}
	if err := r.o.Tracker.Doom(); err != nil && r.result.Err == nil {
		r.result.Err = fmt.Errorf("keep the job from forking: %w", err)
	}
	deadline := time.Now().Add(killTime)
	for {
		n := r.signal(unix.SIGKILL)
		r.result.Left = n + len(r.result.Refused)
		if n == 0 || time.Now().After(deadline) {
			return
		}
		time.Sleep(2 * time.Millisecond) // they die meanwhile; who was born dies next time
	}
}

func (r *run) signal(s unix.Signal) int {
	n, refused, err := r.o.Tracker.Signal(s)
	if len(refused) > 0 && len(r.result.Refused) == 0 && r.o.Refused != nil {
		r.o.Refused(refused)
	}
	r.result.Refused = refused
	if err != nil && r.result.Err == nil && n == 0 {
		r.result.Err = fmt.Errorf("end the job's processes: %w", err)
	}
	return n
}

// pass passes a signal on to the first process, and to all that are left after it. Who
// interrupts those from a terminal is waited for by nobody else: a shell has its background
// jobs ignore that. They are ended.
func (r *run) pass(s Signal) {
	switch {
	case !s.Terminal && !r.alone:
		r.o.Cmd.Process.Signal(s.Signal) // it may have ended meanwhile
	case !s.Terminal:
		r.signal(s.Signal)
	case !r.alone || s.Signal != unix.SIGINT && s.Signal != unix.SIGQUIT:
	case r.ending: // once more
		r.kill()
	default:
		r.endRest()
	}
}

// reap ends the wait for the first process.
func (r *run) reap() {
	r.read() // while it is a zombie, /proc still tells what it did
	r.result.End = time.Now()
	r.o.Tracker.Reaped(&r.usage)
	r.alone = true
	if copiesNothing(r.o.Cmd) {
		r.wait(r.o.Cmd.Wait())
	} else { // whoever has its output may go on for long
		go func() { r.copied <- r.o.Cmd.Wait() }()
	}
	if r.o.MainOnly && !r.ending {
		r.endRest()
	}
}

// copiesNothing tells whether exec.Cmd.Wait waits for the process only.
func copiesNothing(cmd *exec.Cmd) bool {
	for _, end := range []any{cmd.Stdin, cmd.Stdout, cmd.Stderr} {
		if _, file := end.(*os.File); end != nil && !file {
			return false
		}
	}
	return true
}

// wait takes what exec.Cmd.Wait said.
func (r *run) wait(err error) {
	r.waited = true
	r.result.WaitErr, r.result.State = err, r.o.Cmd.ProcessState
}

// endRest ends what the first process left behind.
func (r *run) endRest() {
	if r.read() && r.reading.Totals.Now > 0 {
		r.ending = true
		r.killAt = time.Now().Add(max(r.grace, 0))
		r.signal(unix.SIGTERM)
		r.signal(unix.SIGCONT)
	}
}

// tell tells of a step.
func (r *run) tell(last bool) {
	if !last && !r.read() {
		return
	}
	m := r.result.Meter
	seconds, _ := m.Now.Get(cctools.WallTime)
	var host cctools.Measures
	machine(&host)
	m.AddMore(&host)
	if last {
		r.more(true)
	} else if !r.ending {
		r.judge()
	}
	if r.o.Step == nil {
		return
	}
	s := Step{Number: r.step, Left: r.alone && !last, Seconds: seconds, Now: m.Now, Most: m.Most}
	r.step++
	if last {
		s.Number = -1
	}
	r.o.Step(s)
}

// finish completes the result.
func (r *run) finish() {
	if r.relax != nil {
		r.relax()
	}
	if !r.o.MainOnly || r.result.End.IsZero() {
		r.result.End = time.Now()
	}
	r.tell(true)
	m := r.result.Meter
	wall := r.result.End.Sub(r.result.Start).Seconds()
	m.Most.Set(cctools.WallTime, wall)
	m.Times.Set(cctools.WallTime, wall)
	if !r.result.Killed {
		r.result.judge(&r.o, wall) // what broke a limit without having been seen while it ran
	}
}
