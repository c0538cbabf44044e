package rmagent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"rmagent/internal/cctools"
	"rmagent/internal/job"
	"rmagent/internal/job/cards"
	"rmagent/internal/job/track"
	"rmagent/record"
)

// JobOptions say how a job is measured, and what it may use. The zero value measures
// and limits nothing.
type JobOptions struct {
	// Name is told to OnMeasure; empty: the program's name.
	Name string
	// Category and TaskID go into the summary.
	Category, TaskID string
	// Limits are what the job may use at most, in cctools' names and units: "memory" MB
	// of 2^20 bytes, "wall_time" s, "cpu_time" s, "max_concurrent_processes"... A name
	// that does not exist is an error.
	Limits map[string]float64
	// MeasureOnly notes broken limits and enforces none.
	MeasureOnly bool
	// Grace is how long a job that must end has to do so by itself, between SIGTERM and
	// SIGKILL; 0: 5 s; below 0: none.
	Grace time.Duration
	// MainOnly ends the job with its first process, and what is left with it. Else a
	// job ends with the last of its processes.
	MainOnly bool
	// Interval is how often OnMeasure is called, the first time at the start; 0: once a
	// second.
	Interval time.Duration
	// OnMeasure, if any, is told what the job uses at the start, at each interval and at the end. It
	// is called by the goroutine that called Measure, which meanwhile enforces nothing.
	OnMeasure func(Measurement)
	// Socket is where a running agent measures jobs, as /run/rmagent/jobs.sock, which
	// is asked where it is empty. An agent that is not there is not needed; "none" asks
	// none.
	Socket string
}

// Measurement is what a job uses at one instant of its life.
type Measurement struct {
	ID        uint64 // of the job, in this program
	Name      string
	Step      int // from 0; -1: the last
	Resources map[string]Resource
}

// Resource is one thing that a job uses now, or, if it only grows, used until now. In
// the last measurement it is the most that the job ever used.
type Resource struct {
	Value float64
	Unit  string // MB, s, cores, procs, files... as cctools has them
}

// Job is what became of a job.
type Job struct {
	record.Job
	// State is how its first process ended; nil for a function.
	State *os.ProcessState
	// OutputErr is what [exec.Cmd.Wait] said of copying its input and output.
	OutputErr error
}

// ExhaustionError means that a job broke its limits, and was ended unless it was only
// to be measured. Resources is what it used.
type ExhaustionError struct {
	Broken    []record.JobLimit
	Resources map[string]Resource
	text      string
}

// Error is "Limits broken: memory: 200,wall_time: 60": which limits, and what they were.
func (e *ExhaustionError) Error() string { return e.text }

// InternalError means that a job could not be measured, or not to its end; a command
// that could not be started is told by what [exec.Cmd.Start] says, and is no
// InternalError.
type InternalError struct{ Err error }

func (e *InternalError) Error() string { return "measure a job: " + e.Err.Error() }
func (e *InternalError) Unwrap() error { return e.Err }

var jobIDs atomic.Uint64

// Measure runs a command and measures the whole tree of its processes, whatever they
// do: as root or beside a running agent exactly, else as well as /proc tells; the
// fields measured say which. It starts the command, which must not be started, and
// waits for it. A command that fails is no error: see [Job].State. Errors are
// *[ExhaustionError], with a Job that says what it used, *[InternalError], the error
// of [exec.Cmd.Start], or ctx's, which ends the job.
//
// The program must not reap the command by itself, as with wait4(-1).
//
// An ordinary user without an agent and without a cgroup of their own to make others in
// has less of Measure than of rmagent exec, which becomes the child subreaper of its job
// (PR_SET_CHILD_SUBREAPER). That is of the whole process: Measure would make a program the
// parent of the orphans of all commands that it starts elsewhere, whom nobody waits for, and
// could not tell those of the job from them. So there orphans go to init. Those that a
// reading saw before, one of ten a second, are still followed and ended; a process that
// loses its parent before is not, nor are its descendants. The summary then has the
// processes, CPU time and bytes that were seen among what is known at least (AtLeast).
func Measure(ctx context.Context, cmd *exec.Cmd, o JobOptions) (*Job, error) {
	limits, err := jobLimits(o.Limits)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	tracker, err := track.Open(track.Options{Limits: limits, Enforce: !o.MeasureOnly, Agent: o.socket(), Source: "auto",
		Command: strings.Join(cmd.Args, " "), Category: o.Category, TaskID: o.TaskID})
	if err != nil {
		return nil, &InternalError{err}
	}
	defer tracker.Close()
	gpus := cards.Open("", false)
	defer gpus.Close()
	if o.Name == "" {
		o.Name = filepath.Base(cmd.Path)
	}
	steps := newSteps(&o)
	r, err := job.Run(ctx, job.Options{
		Cmd: cmd, Tracker: tracker, Limits: limits, Only: o.MeasureOnly, Grace: o.Grace, MainOnly: o.MainOnly, GPUs: gpus,
		Interval: steps.interval, Step: steps.tell,
	})
	if errors.Is(err, job.ErrStart) || err != nil && err == ctx.Err() { // it ended meanwhile
		return nil, err
	}
	if err != nil {
		return nil, &InternalError{err}
	}
	s := job.Summarize(r, tracker)
	s.Category, s.TaskID = o.Category, o.TaskID
	s.ExecutableType = job.ExecutableType(cmd.Path)
	j := &Job{State: r.State, OutputErr: r.WaitErr}
	if exit := (*exec.ExitError)(nil); errors.As(r.WaitErr, &exit) {
		j.OutputErr = nil // State says so
	}
	j.fill(s)
	j.Job.Job, j.PID, j.StartTicks = r.First.String(), r.First.PID, r.First.StartTicks
	return j, jobError(ctx, s, r)
}

func jobError(ctx context.Context, s *cctools.Summary, r *job.Result) error {
	switch {
	case len(s.Exceeded) > 0:
		return exhaustion(s)
	case r.Err != nil:
		return &InternalError{r.Err}
	case r.Killed:
		return context.Cause(ctx)
	}
	return nil
}

func (o *JobOptions) socket() string {
	switch o.Socket {
	case "":
		return "/run/rmagent/jobs.sock"
	case "none":
		return ""
	}
	return o.Socket
}

// jobLimits reads limits by name.
func jobLimits(limits map[string]float64) (l cctools.Limits, err error) {
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		id, ok := cctools.MeasureOf(name)
		if !ok {
			return l, fmt.Errorf("there is no limit called %q: there are %s", name, strings.Join(measureNames(), ", "))
		}
		l.Set(id, limits[name])
		if !l.Known(id) {
			return l, fmt.Errorf("limit %s: %v: allowed is a number of %s, 0 and more", name, limits[name], id.Unit())
		}
	}
	return l, nil
}

func measureNames() []string {
	var names []string
	for id := range cctools.Measure(cctools.NumMeasures) {
		names = append(names, id.String())
	}
	return names
}

func (j *Job) fill(s *cctools.Summary) { j.Job = *s.Record() }

func exhaustion(s *cctools.Summary) *ExhaustionError {
	return &ExhaustionError{Broken: s.Record().Limits, Resources: resources(&s.Measures), text: cctools.LimitsText(s.Exceeded)}
}

func resources(m *cctools.Measures) map[string]Resource {
	all := map[string]Resource{}
	for id := range cctools.Measure(cctools.NumMeasures) {
		if v, ok := m.Get(id); ok {
			all[id.String()] = Resource{v, id.Unit()}
		}
	}
	return all
}

// steps tells a program of a job's steps.
type steps struct {
	id       uint64
	name     string
	interval time.Duration
	call     func(Measurement)
}

func newSteps(o *JobOptions) *steps {
	s := &steps{id: jobIDs.Add(1), name: o.Name, interval: o.Interval, call: o.OnMeasure}
	switch {
	case s.call == nil:
		s.interval = 0
	case s.interval <= 0:
		s.interval = time.Second
	}
	return s
}

func (s *steps) tell(step job.Step) {
	if s.call == nil {
		return
	}
	m := Measurement{ID: s.id, Name: s.name, Step: step.Number}
	if step.Number < 0 {
		m.Resources = resources(&step.Most)
	} else {
		m.Resources = resources(&step.Now)
	}
	s.call(m)
}
