package sock

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"rmagent/internal/loader"
	"rmagent/internal/sample"
)

// told stands for the kernel: jobs without processes, and notices as a test likes.
type told struct {
	jobs    atomic.Uint64
	notices chan loader.JobNotice
}

func (j *told) New(loader.JobOrder) (uint64, error)           { return j.jobs.Add(1), nil }
func (j *told) Forget(uint64) error                           { return nil }
func (j *told) Await(uint64, int, sample.ID) error            { return nil }
func (j *told) Cancel(uint64, int) error                      { return nil }
func (j *told) Totals(uint64) (t sample.JobTotals, err error) { return t, nil }
func (j *told) Doom(uint64) error                             { return nil }
func (j *told) Forgive(uint64) error                          { return nil }
func (j *told) Notices() <-chan loader.JobNotice              { return j.notices }
func (j *told) Processes(func(uint64, *sample.JobProcess), func(uint64, *sample.JobTotals)) error {
	return nil
}

// Who reads no notices of their own job delays nobody else's.
func TestNoticesOfOthersWaitForNobody(t *testing.T) {
	jobs := &told{notices: make(chan loader.JobNotice)}
	path := filepath.Join(t.TempDir(), "jobs.sock")
	s, err := Serve(path, jobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	deaf := dial(t, path)
	deaf.ask(&request{Op: opNew}) // job 1
	other, err := Open(path, loader.JobOrder{}, About{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	timeout := time.After(frameTime / 2)
	for range 20_000 { // more than a socket holds
		select {
		case jobs.notices <- loader.JobNotice{Job: 1, Kind: loader.JobAtOnce}:
		case <-timeout:
			t.Fatal("notices are held up by who does not read them")
		}
	}
	select {
	case jobs.notices <- loader.JobNotice{Job: 2, Kind: loader.JobEmpty}:
	case <-timeout:
		t.Fatal("the other's notice is held up")
	}
	select {
	case <-other.Notices():
	case <-timeout:
		t.Error("the other is not told")
	}
}
