package aggregate

import (
	"testing"
	"time"

	"rmagent/internal/sample"
)

func TestRatesOfJobs(t *testing.T) {
	reading := func(pid int32, at, cpu time.Duration, written uint64) sample.Job {
		return sample.Job{ID: sample.ID{PID: pid, StartTicks: 1}, Monotonic: at, Totals: sample.JobTotals{CPU: cpu, DiskWritten: written}}
	}
	j := NewJobs()
	j.Update([]sample.Job{reading(1, time.Second, time.Second, 1000)})
	if j.List[0].CPUCores.Known() || j.List[0].DiskWritten.Known() {
		t.Errorf("rates of a first reading: %+v", j.List[0])
	}
	j.Update([]sample.Job{reading(1, 3*time.Second, 4*time.Second, 900), reading(2, 3*time.Second, 0, 0)})
	if cores := j.List[0].CPUCores.Or(-1); cores != 1.5 {
		t.Errorf("%v CPUs, want 1.5", cores)
	}
	if j.List[0].DiskWritten.Known() || j.List[1].CPUCores.Known() {
		t.Errorf("a counter that fell, and a job that is new, have rates: %+v", j.List)
	}
	j.Update(nil)
	j.Update([]sample.Job{reading(1, 5*time.Second, 5*time.Second, 2000)})
	if len(j.List) != 1 || j.List[0].CPUCores.Known() {
		t.Errorf("a job that was away has rates: %+v", j.List)
	}
}
