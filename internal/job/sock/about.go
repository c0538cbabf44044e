package sock

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"rmagent/internal/cctools"
	"rmagent/internal/clock"
	"rmagent/internal/job"
	"rmagent/internal/sample"
	"rmagent/record"
)

// maxWord bounds each word that a client says of its job, in bytes.
const maxWord = 256

// About is what the agent is told of a job: its policy judges it by that, and who asks is
// told.
type About struct {
	Command  string
	Category string
	TaskID   string
	Limits   cctools.Limits
}

// request is the one that begins the job. Words that are too long are cut.
func (a *About) request() *request {
	q := &request{Op: opNew, Command: clip(a.Command, maxText), Category: clip(a.Category, maxWord), TaskID: clip(a.TaskID, maxWord), Limits: map[string]float64{}}
	for _, m := range a.Limits.Names() {
		if v, _ := a.Limits.Get(m); !math.IsInf(v, 0) {
			q.Limits[m.String()] = v
		}
	}
	return q
}

// about reads what a client says of its job.
func about(q *request) (a About, err error) {
	if len(q.Category) > maxWord || len(q.TaskID) > maxWord {
		return a, fmt.Errorf("a category or task of more than %d bytes", maxWord)
	}
	if len(q.Command) > maxText {
		return a, fmt.Errorf("a command of more than %d bytes", maxText)
	}
	a.Command = q.Command
	a.Category, a.TaskID = q.Category, q.TaskID
	for name, limit := range q.Limits {
		m, ok := cctools.MeasureOf(name)
		if !ok || !(limit >= 0) {
			return a, fmt.Errorf("%.40q: %v is no limit", name, limit)
		}
		a.Limits.Set(m, limit)
	}
	return a, nil
}

// watched is what the server remembers of a job for the agent itself.
type watched struct {
	about About
	meter *job.Meter
	first sample.ID // zero: nobody was seen yet

	since  time.Time
	last   time.Duration     // the last reading, on CLOCK_BOOTTIME; 0: there was none
	living uint64            // processes then
	oldest sample.JobProcess // of these; zero: none lived
}

// Jobs appends every job of which something lives, in the order of their beginnings. It
// takes one walk over all tasks, and none where there is no job.
func (s *Server) Jobs(dst []sample.Job) ([]sample.Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byJob) == 0 {
		return dst, nil
	}
	if err := s.walk(); err != nil {
		return dst, err
	}
	at, from := clock.Monotonic(), len(dst)
	for id, c := range s.byJob {
		processes := s.survey.processes[id]
		totals, known := s.survey.totals[id]
		if !known || len(processes) == 0 {
			continue
		}
		r := job.Reading{Boottime: s.survey.boottime, Totals: totals, Processes: processes}
		if s.gpus != nil {
			r.GPUs = s.gpus.Use(processes)
		}
		j := c.watched.read(&r)
		j.UID, j.Monotonic = c.uid, at
		dst = append(dst, j)
	}
	slices.SortFunc(dst[from:], func(a, b sample.Job) int { return older(a.ID, b.ID) })
	return dst, nil
}

func older(a, b sample.ID) int {
	return cmp.Or(cmp.Compare(a.StartTicks, b.StartTicks), cmp.Compare(a.PID, b.PID))
}

// read makes a job of a reading. Its processes are the survey's, which the next walk
// makes anew.
func (w *watched) read(r *job.Reading) sample.Job {
	w.add(r)
	now := &w.meter.Now
	bytes := func(m cctools.Measure) sample.Opt[uint64] {
		v, ok := now.Get(m)
		return record.SomeIf(uint64(v*cctools.BytesPerMB), ok)
	}
	count := func(m cctools.Measure) sample.Opt[uint64] {
		v, ok := now.Get(m)
		return record.SomeIf(uint64(v), ok)
	}
	elapsed, _ := now.Get(cctools.WallTime)
	j := sample.Job{
		Category: w.about.Category, TaskID: w.about.TaskID, ElapsedSeconds: elapsed,
		Totals: r.Totals, Processes: r.Processes,
		Memory: bytes(cctools.Memory), MemoryAtLeast: w.meter.Shared, Virtual: bytes(cctools.VirtualMemory), Swap: bytes(cctools.SwapMemory),
		FDs: count(cctools.OpenFiles), GPUs: count(cctools.GPUs), GPUMemory: bytes(cctools.GPUMemory),
	}
	for _, m := range w.about.Limits.Names() {
		v, _ := w.about.Limits.Get(m)
		limit, unit := m.InRecord(v)
		j.Limits = append(j.Limits, sample.JobLimit{Resource: m.String(), Limit: limit, Unit: unit})
	}
	slices.SortFunc(j.Processes, func(a, b sample.JobProcess) int { return older(a.ID, b.ID) })
	j.ID = w.first
	return j
}

// meet has the job called after its oldest process, if nobody was seen of it before.
func (w *watched) meet(processes []sample.JobProcess) {
	if w.first == (sample.ID{}) && len(processes) > 0 {
		w.first = slices.MinFunc(processes, func(a, b sample.JobProcess) int { return older(a.ID, b.ID) }).ID
	}
}

var errSecondJob = errors.New("a connection has one job")
