package sock

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rmagent/internal/cctools"
	"rmagent/internal/job"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
	"rmagent/record"
)

// twoGPUs has every process use two cards.
type twoGPUs struct{}

func (twoGPUs) Use(processes []sample.JobProcess) job.GPUUse {
	n := uint64(len(processes))
	return job.GPUUse{Told: true, Cards: record.Some(2 * n), MemoryBytes: record.Some(n << 30)}
}

// What others are told of a job is what its client was told last.
func TestRunning(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("tagging tasks needs root")
	}
	jobs, err := loader.OpenJobs(MaxJobs)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "jobs.sock")
	s, err := Serve(path, jobs, twoGPUs{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(s.Close(), jobs.Close()); err != nil {
			t.Error(err)
		}
	}()
	if list := s.Running(); list == nil || len(list) != 0 {
		t.Errorf("jobs before the first: %+v", list)
	}
	about := About{Command: "wait \xff" + strings.Repeat("<", 2*maxText), Category: "sorting"}
	about.Limits.Set(cctools.GPUs, 8)
	about.Limits.Set(cctools.Memory, 0)
	about.Limits.Set(cctools.Disk, 5)
	tracker, err := Open(path, loader.JobOrder{}, about)
	if err != nil {
		t.Fatal(err)
	}
	defer tracker.Close()
	running := func() record.RunningJob {
		t.Helper()
		list := s.Running()
		if len(list) != 1 {
			t.Fatalf("%d jobs", len(list))
		}
		return list[0]
	}
	if r := running(); r.Processes.Known() || r.AgeSeconds.Known() || r.PID.Known() || r.CPUTimeSeconds.Known() || len(r.Limits) != 3 {
		t.Errorf("before a reading: %+v", r)
	}

	cmd, in := waiting(t, tracker)
	var reading job.Reading
	if err := tracker.Read(&reading); err != nil {
		t.Fatal(err)
	}
	r := running()
	if command := r.Command.Or(""); len(command) > maxText+8 || !strings.HasPrefix(command, `wait \xff<<<`) || !strings.HasSuffix(command, "<...") {
		t.Errorf("command %q", command)
	}
	if r.UID != 0 || int(r.RunBy) != os.Getpid() || int(r.PID.Or(0)) != cmd.Process.Pid || !r.StartTicks.Known() || !r.Comm.Known() ||
		r.Category.Or("") != "sorting" || r.Processes.Or(0) != 1 || !r.AgeSeconds.Known() {
		t.Errorf("%+v", r)
	}
	if r.GPUs.Or(0) != 2 || r.GPUMemoryBytes.Or(0) != 1<<30 || r.DiskBytes.Known() {
		t.Errorf("gpus %v, memory %v, disk %v", r.GPUs, r.GPUMemoryBytes, r.DiskBytes)
	}
	for _, l := range r.Limits {
		ratio, known := l.Ratio.Get()
		if want := l.Resource == "gpus"; known != want || want && ratio != 0.25 {
			t.Errorf("%+v", l)
		}
	}

	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := tracker.Read(&reading); err != nil {
		t.Fatal(err)
	}
	if r := running(); r.Processes.Or(9) != 0 || r.PID.Known() || r.GPUs.Or(0) != 2 || r.TotalProcesses.Or(0) != 1 {
		t.Errorf("after its end: %+v", r)
	}
}
