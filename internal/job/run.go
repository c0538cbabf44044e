package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
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
	Signals <-chan os.Signal
	// Started, if any, is told the first process's PID.
	Started func(pid int)
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
	Number  int // from 0; -1: the last
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
	Killed   bool  // it was ended: by a limit, or with its context
	Left     int   // processes that survived even SIGKILL
	Err      error // the watching failed: what Meter has is not all
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
	r := &run{o: o, ended: make(chan struct{}), grace: o.Grace}
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
	reaped  bool
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
		for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
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
		case <-stop:
			stop = nil
			r.end()
		}
	}
	r.finish()
}

// over reports whether the job has ended, all of it.
func (r *run) over() bool {
	if !r.reaped {
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
	m := r.result.Meter
	if len(r.result.Exceeded) > 0 { // told once
		return
	}
	broken := r.o.Limits.Broken(&m.Most)
	if len(broken) == 0 {
		return
	}
	for i := range broken {
		broken[i].Seconds, _ = m.Now.Get(cctools.WallTime)
	}
	r.result.Exceeded = broken
	if !r.o.Only {
		r.end()
	}
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
		r.result.Left = n
		if n == 0 || time.Now().After(deadline) {
			return
		}
		time.Sleep(2 * time.Millisecond) // they die meanwhile; who was born dies next time
	}
}

func (r *run) signal(s unix.Signal) int {
	n, err := r.o.Tracker.Signal(s)
	if err != nil && r.result.Err == nil && n == 0 {
		r.result.Err = fmt.Errorf("end the job's processes: %w", err)
	}
	return n
}

// pass passes a signal on to the first process, and to all that are left after it.
func (r *run) pass(s os.Signal) {
	number, ok := s.(unix.Signal)
	if !ok {
		return
	}
	if r.reaped {
		r.signal(number)
		return
	}
	r.o.Cmd.Process.Signal(number) // it may have ended meanwhile
}

// reap ends the wait for the first process.
func (r *run) reap() {
	r.read() // while it is a zombie, /proc still tells what it did
	r.result.WaitErr = r.o.Cmd.Wait()
	r.result.State = r.o.Cmd.ProcessState
	r.result.End = time.Now()
	r.reaped = true
	if usage, ok := r.result.State.SysUsage().(*syscall.Rusage); ok {
		r.o.Tracker.Reaped(usage)
	}
	if r.o.MainOnly && !r.ending {
		r.endRest()
	}
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
	s := Step{Number: r.step, Seconds: seconds, Now: m.Now, Most: m.Most}
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
	if len(r.result.Exceeded) == 0 && !r.result.Killed {
		r.lastJudgment(wall)
	}
}

// lastJudgment looks at what broke a limit without having been seen while it ran.
func (r *run) lastJudgment(wall float64) {
	broken := r.o.Limits.Broken(&r.result.Meter.Most)
	for i := range broken {
		broken[i].Seconds = wall
	}
	r.result.Exceeded = broken
}
