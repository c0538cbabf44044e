// Package track finds who can tell of a job here: the kernel, a running agent, or
// /proc. It is apart from package job because it knows them all.
package track

import (
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/job"
	"rmagent/internal/job/sock"
	"rmagent/internal/loader"
)

// Options say how a job is to be followed.
type Options struct {
	Limits  cctools.Limits
	Enforce bool   // a broken limit ends the job
	Agent   string // path of the agent's socket for jobs; empty: no agent is asked
	// Source is auto, ebpf or procfs: what may be used where no agent is asked or
	// answers. With ebpf or procfs no agent is asked.
	Source string
	// Reap and NotOfJob are those of job.ProcOptions.
	Reap     bool
	NotOfJob func(pid int32) bool
	// Limited is the cgroup that the job runs in, if it is not to choose one itself.
	Limited *job.Limited
	// Command, Category and TaskID are what the agent is told, beside Limits.
	Command  string
	Category string
	TaskID   string
}

// forksForgiven is how many processes above a limit there may be for the moment that
// it takes to end the job in good order; who forks then dies at once.
const forksForgiven = 64

// Order makes of limits what the kernel is to tell at once.
func Order(l *cctools.Limits, enforce bool) loader.JobOrder {
	o := loader.JobOrder{UID: uint32(os.Getuid())}
	count := func(m cctools.Measure) uint64 {
		v, ok := l.Get(m)
		if !ok || v >= math.MaxInt64 {
			return 0
		}
		return uint64(v)
	}
	o.AtOnce = count(cctools.MaxConcurrentProcesses)
	o.Processes = count(cctools.TotalProcesses)
	if enforce && o.AtOnce > 0 {
		o.FatalAtOnce = o.AtOnce + forksForgiven
	}
	return o
}

// Open begins to follow a job.
func Open(o Options) (*Tracker, error) {
	proc := job.ProcOptions{Reap: o.Reap, NotOfJob: o.NotOfJob, Limited: o.Limited}
	best, lost, err := open(o, proc)
	if err != nil {
		return nil, err
	}
	return &Tracker{Tracker: best, proc: proc, lost: lost, told: time.Now()}, nil
}

// open opens the best there is. lost says what could not be had; it is nil where the best
// was.
func open(o Options, proc job.ProcOptions) (t job.Tracker, lost error, err error) {
	order := Order(&o.Limits, o.Enforce)
	var refused []error
	if o.Agent != "" && o.Source == "auto" {
		t, err := sock.Open(o.Agent, order, sock.About{Command: o.Command, Category: o.Category, TaskID: o.TaskID, Limits: o.Limits})
		if err == nil {
			return t, nil, nil
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) { // those mean that none runs
			refused = append(refused, err)
		}
	}
	if o.Source != "procfs" {
		t, err := job.OpenKernel(order)
		if err == nil {
			return t, nil, nil
		}
		if o.Source == "ebpf" {
			return nil, nil, err
		}
		refused = append(refused, err)
	}
	t, err = job.OpenProc(proc)
	if err != nil {
		return nil, nil, errors.Join(append(refused, fmt.Errorf("follow the job by /proc: %w", err))...)
	}
	return t, errors.Join(refused...), nil
}
