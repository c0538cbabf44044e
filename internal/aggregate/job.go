package aggregate

import (
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

// Job is a job at one tick, with what it did since the tick before.
type Job struct {
	sample.Job
	CPUCores                                    sample.Opt[float64]
	DiskRead, DiskWritten, NetReceived, NetSent sample.Opt[float64] // bytes a second
}

// Jobs compares the jobs of a tick with those of the tick before.
type Jobs struct {
	List   []Job
	before map[sample.ID]jobTotals
}

type jobTotals struct {
	at     time.Duration
	totals sample.JobTotals
}

// NewJobs returns Jobs without any.
func NewJobs() *Jobs { return &Jobs{before: map[sample.ID]jobTotals{}} }

// Update takes the jobs that run. Who is not among them is forgotten.
func (j *Jobs) Update(list []sample.Job) {
	j.List = j.List[:0]
	for i := range list {
		job := Job{Job: list[i]}
		if last, known := j.before[job.ID]; known {
			job.since(&last)
		}
		j.List = append(j.List, job)
	}
	clear(j.before)
	for i := range list {
		j.before[list[i].ID] = jobTotals{list[i].Monotonic, list[i].Totals}
	}
}

// since makes rates. Sums can be a little less than before, where a thread left between
// two looks: then there is no rate.
func (j *Job) since(last *jobTotals) {
	elapsed := (j.Monotonic - last.at).Seconds()
	if elapsed <= 0 {
		return
	}
	now, before := &j.Totals, &last.totals
	rate := func(a, b uint64) sample.Opt[float64] {
		return record.SomeIf(Round(float64(a-b)/elapsed), a >= b)
	}
	j.CPUCores = record.SomeIf(Round((now.CPU-before.CPU).Seconds()/elapsed), now.CPU >= before.CPU)
	j.DiskRead, j.DiskWritten = rate(now.DiskRead, before.DiskRead), rate(now.DiskWritten, before.DiskWritten)
	j.NetReceived, j.NetSent = rate(now.Received, before.Received), rate(now.Sent, before.Sent)
}
