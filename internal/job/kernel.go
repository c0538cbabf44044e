package job

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/clock"
	"rmagent/internal/hostfs"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
)

// kernelTracker has the kernel's tags for itself.
type kernelTracker struct {
	jobs    *loader.Jobs
	id      uint64
	notices chan struct{}
	done    chan struct{}
	watch   sync.WaitGroup
}

// OpenKernel begins a job whose tasks the kernel tags. It needs what eBPF needs.
func OpenKernel(o loader.JobOrder) (Tracker, error) {
	jobs, err := loader.OpenJobs(1)
	if err != nil {
		return nil, err
	}
	id, err := jobs.New(o)
	if err != nil {
		return nil, errors.Join(err, jobs.Close())
	}
	t := &kernelTracker{jobs: jobs, id: id, notices: make(chan struct{}, 1), done: make(chan struct{})}
	t.watch.Go(t.forward)
	return t, nil
}

func (t *kernelTracker) forward() {
	for {
		select {
		case <-t.jobs.Notices():
			select {
			case t.notices <- struct{}{}:
			default:
			}
		case <-t.done:
			return
		}
	}
}

func (t *kernelTracker) Start(cmd *exec.Cmd) error {
	SettlePidfds()
	runtime.LockOSThread() // the kernel awaits a fork of this thread
	defer runtime.UnlockOSThread()
	self, err := hostfs.ReadID(os.Getpid())
	if err != nil {
		return err
	}
	thread := unix.Gettid()
	if err := t.jobs.Await(t.id, thread, self); err != nil {
		return err
	}
	if err := StartCommand(cmd); err != nil {
		return errors.Join(err, t.jobs.Cancel(t.id, thread))
	}
	return nil
}

// SettlePidfds has package os find out now whether pidfds work, for which it forks a
// child: that must not be taken for the job's first process.
func SettlePidfds() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		p.Release()
	}
}

// Read reads the totals of the dead first: who dies in between is missing until the
// next reading, and never counts twice.
func (t *kernelTracker) Read(dst *Reading) error {
	dst.reset()
	var err error
	if dst.Totals, err = t.jobs.Totals(t.id); err != nil {
		return err
	}
	dst.Boottime = clock.Boottime()
	if dst.Totals.Pending == 0 {
		return nil
	}
	return t.jobs.Processes(
		func(job uint64, p *sample.JobProcess) {
			if job == t.id {
				dst.Processes = append(dst.Processes, *p)
			}
		},
		func(job uint64, used *sample.JobTotals) {
			if job == t.id {
				dst.Totals.Add(used)
			}
		})
}

func (t *kernelTracker) Signal(s unix.Signal) (int, []sample.ID, error) {
	var ids []sample.ID
	err := t.jobs.Processes(
		func(job uint64, p *sample.JobProcess) {
			if job == t.id {
				ids = append(ids, p.ID)
			}
		},
		func(uint64, *sample.JobTotals) {})
	if err != nil {
		return 0, nil, err
	}
	return SignalAll(ids, s)
}

// SignalAll sends a signal to processes, and to nobody who has their PIDs by now. It
// returns how many got it, and who may not be sent one.
func SignalAll(ids []sample.ID, s unix.Signal) (sent int, refused []sample.ID, err error) {
	for _, id := range ids {
		ok, e := signal(id, s)
		switch {
		case ok:
			sent++
		case errors.Is(e, unix.EPERM):
			refused = append(refused, id)
		default:
			err = errors.Join(err, e)
		}
	}
	return sent, refused, err
}

func signal(id sample.ID, s unix.Signal) (bool, error) {
	fd, err := unix.PidfdOpen(int(id.PID), 0)
	if err != nil {
		return false, ignoreGone(err)
	}
	defer unix.Close(fd)
	if now, err := hostfs.ReadID(int(id.PID)); err != nil || now != id {
		return false, nil // it ended, and another has its PID
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil {
		return false, ignoreGone(err)
	}
	return true, nil
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (t *kernelTracker) Doom() error { return t.jobs.Doom(t.id) }

func (t *kernelTracker) Notices() <-chan struct{} { return t.notices }

func (t *kernelTracker) Reaped(*unix.Rusage) {}

func (t *kernelTracker) Source() string { return "ebpf" }

func (t *kernelTracker) Exactness(m cctools.Measure) (cctools.Exactness, string) {
	return KernelExactness(m)
}

// KernelExactness says what the kernel's tags tell.
func KernelExactness(m cctools.Measure) (cctools.Exactness, string) {
	switch m {
	case cctools.Memory:
		return cctools.Sampled, "the highest of ten readings a second, and of each process's own peak"
	case cctools.VirtualMemory:
		return cctools.Sampled, "the highest of ten readings a second, and of each process's own peak"
	case cctools.SwapMemory:
		return cctools.Sampled, "the highest of ten readings a second"
	case cctools.OpenFiles:
		return cctools.Sampled, "the highest of ten readings a second, and of each process at its end"
	}
	return cctools.Exact, ""
}

func (t *kernelTracker) Close() error {
	close(t.done)
	t.watch.Wait()
	return t.jobs.Close()
}
