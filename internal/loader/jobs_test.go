package loader

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
)

// openJobs loads the programs of jobs for a test.
func openJobs(t testing.TB) *Jobs {
	t.Helper()
	j, err := OpenJobs(4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

// runJob runs a command as a job to its end, and returns what it did.
func runJob(t testing.TB, j *Jobs, cmd *exec.Cmd) sample.JobTotals {
	t.Helper()
	id, err := j.New(JobOrder{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Forget(id)
	launch(t, j, id, cmd)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	return finished(t, j, id)
}

func launch(t testing.TB, j *Jobs, id uint64, cmd *exec.Cmd) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, err := hostfs.ReadID(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Await(id, unix.Gettid(), self); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// finished waits until a job's totals are complete.
func finished(t testing.TB, j *Jobs, id uint64) sample.JobTotals {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		totals, err := j.Totals(id)
		if err != nil {
			t.Fatal(err)
		}
		if totals.Processes > 0 && totals.Pending == 0 {
			return totals
		}
		if time.Now().After(deadline) {
			t.Fatalf("the job does not end: %+v", totals)
		}
		runtime.Gosched()
	}
}

func TestJobCountsTrue(t *testing.T) {
	j := openJobs(t)
	begin := time.Now()
	got := runJob(t, j, exec.Command("/bin/true"))
	t.Logf("%v %+v", time.Since(begin), got)
	got = runJob(t, j, exec.Command("sh", "-c", "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done"))
	t.Logf("%v %+v", time.Since(begin), got)
}
