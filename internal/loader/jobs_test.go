package loader

import (
	"errors"
	"os"
	"testing"
	"unsafe"
)

func TestJobsHavePlaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("tagging tasks needs root")
	}
	j, err := OpenJobs(2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	a, err := j.New(JobOrder{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := j.New(JobOrder{})
	if err != nil || a == b {
		t.Fatalf("jobs %d and %d: %v", a, b, err)
	}
	if _, err := j.New(JobOrder{}); !errors.Is(err, ErrTooManyJobs) {
		t.Errorf("a third job of two: %v", err)
	}
	if err := j.Forget(a); err != nil {
		t.Error(err)
	}
	if _, err := j.Totals(a); !errors.Is(err, ErrNoJob) {
		t.Errorf("a job that was forgotten: %v", err)
	}
	if err := j.Forget(a); !errors.Is(err, ErrNoJob) {
		t.Errorf("forgotten twice: %v", err)
	}
	place := j.last
	if err := j.Forget(b); err != nil {
		t.Error(err)
	}
	if _, err := j.New(JobOrder{}); err != nil || j.last == place {
		t.Errorf("the place of a job that has just been forgotten is taken: %d, %v", place, err)
	}
	c, err := j.New(JobOrder{})
	if err != nil || c == a {
		t.Errorf("job %d in the place of %d: %v", c, a, err)
	}
	if totals, err := j.Totals(c); err != nil || totals.Processes != 0 {
		t.Errorf("a new job: %+v, %v", totals, err)
	}
}

func TestJobRecordsAreOfTheSizeInC(t *testing.T) {
	for what, sizes := range map[string][2]uintptr{
		"job":          {unsafe.Sizeof(jobsJob{}), 8 * 36},
		"job_notice":   {unsafe.Sizeof(jobsJobNotice{}), 24},
		"job_task":     {unsafe.Sizeof(jobsJobTask{}), 8*uintptr(jobsOfTask) + 16 + 8*24 + 16},
		"job_launcher": {unsafe.Sizeof(jobsJobLauncher{}), 24},
	} {
		if sizes[0] != sizes[1] {
			t.Errorf("%s has %d bytes, in C %d", what, sizes[0], sizes[1])
		}
	}
}
