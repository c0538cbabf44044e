package job

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/clock"
	"rmagent/internal/sample"
)

// RunSelf measures this whole process, and the children that it waits for, while a
// function runs: what other goroutines do meanwhile counts too, and memory from before
// counts in what there is. A broken limit cancels the function's context, which is all
// that can be done to a function; cause makes its cause. o has no command and no
// tracker. The function runs in the goroutine that calls, so that who calls may recover
// from its panic; o.Step is called by another. It returns what the function returned.
func RunSelf(ctx context.Context, o Options, f func(context.Context) error, cause func(*Result) error) (*Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &self{o: o, before: selfTotals()}
	s.result = &Result{Start: time.Now(), Meter: NewMeter(clock.Boottime())}
	s.exhausted = func() { cancel(cause(s.result)) }
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		s.watch(done)
	}()
	defer func() {
		close(done)
		<-watched
	}()
	return s.result, f(ctx)
}

type self struct {
	o      Options
	result *Result
	before sample.JobTotals
	step   int
	// exhausted is called once, when a limit is broken.
	exhausted func()
}

func (s *self) watch(done <-chan struct{}) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	steps, stopSteps := every(s.o.Interval)
	defer stopSteps()
	if s.o.Interval > 0 {
		s.look()
		s.tell(false)
	}
	for {
		select {
		case <-tick.C:
			s.look()
		case <-steps:
			s.look()
			s.tell(false)
		case <-done:
			s.exhausted = func() {} // too late
			s.look()
			s.result.End = time.Now()
			s.tell(true)
			return
		}
	}
}

func (s *self) look() {
	r := Reading{Boottime: clock.Boottime(), Totals: selfTotals()}
	subtract(&r.Totals, &s.before)
	if stat, err := readStat(int32(os.Getpid())); err == nil {
		if p, ok := readProcess(int32(os.Getpid()), &stat); ok {
			p.Peak, p.PeakVirtual = 0, 0 // of all its life
			p.Forked = false
			r.Processes = append(r.Processes, p)
		}
	}
	s.o.addGPUs(&r)
	m := s.result.Meter
	m.Add(&r, nil)
	seconds, _ := m.Now.Get(cctools.WallTime)
	if s.result.judge(&s.o, seconds) && !s.o.Only {
		s.result.Killed = true
		s.exhausted()
	}
}

func (s *self) tell(last bool) {
	if s.o.Step == nil {
		return
	}
	m := s.result.Meter
	seconds, _ := m.Now.Get(cctools.WallTime)
	step := Step{Number: s.step, Seconds: seconds, Now: m.Now, Most: m.Most}
	s.step++
	if last {
		step.Number = -1
	}
	s.o.Step(step)
}

// selfTotals is what this process and the children that it waited for ever did.
func selfTotals() (t sample.JobTotals) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) != nil {
			continue
		}
		t.User += time.Duration(u.Utime.Nano())
		t.System += time.Duration(u.Stime.Nano())
		t.MinorFlt += uint64(u.Minflt)
		t.MajorFlt += uint64(u.Majflt)
		t.Voluntary += uint64(u.Nvcsw)
		t.Forced += uint64(u.Nivcsw)
	}
	t.CPU = t.User + t.System
	if io, ok := readIO(int32(os.Getpid()), nil); ok {
		io.add(&t)
	}
	return t
}

func subtract(a, b *sample.JobTotals) {
	a.CPU -= b.CPU
	a.User -= b.User
	a.System -= b.System
	a.MinorFlt -= b.MinorFlt
	a.MajorFlt -= b.MajorFlt
	a.Voluntary -= b.Voluntary
	a.Forced -= b.Forced
	a.ReadBytes -= b.ReadBytes
	a.WrittenBytes -= b.WrittenBytes
	a.DiskRead -= b.DiskRead
	a.DiskWritten -= b.DiskWritten
}

// SelfExactness says what measuring a function in its process is worth.
func SelfExactness(m cctools.Measure) (cctools.Exactness, string) {
	switch m {
	case cctools.Memory, cctools.VirtualMemory, cctools.SwapMemory, cctools.OpenFiles:
		return cctools.Sampled, "of the whole process: the highest of ten readings a second"
	case cctools.CPUTime, cctools.Cores, cctools.CoresAvg, cctools.BytesRead, cctools.BytesWritten,
		cctools.ContextSwitches, cctools.MinorFaults, cctools.MajorFaults:
		return cctools.Exact, "of the whole process, and the children that it waited for meanwhile"
	case cctools.WallTime, cctools.Start, cctools.End, cctools.MachineCPUs, cctools.MachineLoad:
		return cctools.Exact, ""
	}
	return cctools.Unknown, "a function is measured in its own process, which does not tell"
}
