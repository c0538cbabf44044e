package cards

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"rmagent/internal/gpu/gputest"
	"rmagent/internal/hostfs"
	"rmagent/internal/job"
	"rmagent/internal/sample"
)

// self is this process, as one of a job.
func self(t *testing.T) []sample.JobProcess {
	t.Helper()
	id, err := hostfs.ReadID(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return []sample.JobProcess{{ID: id}}
}

// open reads the cards of a machine, with the child in PATH where it is installed.
func open(t *testing.T, m *gputest.Machine, installed bool) *Own {
	t.Helper()
	t.Setenv("LD_LIBRARY_PATH", m.Library)
	dir := t.TempDir()
	if installed {
		if _, err := gputest.BuildHelper(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	o := Open(m.Root, false)
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// await asks until the answer is as it is wanted.
func await(t *testing.T, o *Own, is func(job.GPUUse) bool) {
	t.Helper()
	processes := self(t)
	var u job.GPUUse
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if u = o.Use(processes); !u.Told {
			t.Fatalf("%+v: it has not looked", u)
		}
		if is(u) {
			return
		}
	}
	t.Fatalf("%+v", u)
}

func because(why string) func(job.GPUUse) bool {
	return func(u job.GPUUse) bool {
		return strings.Contains(u.Why, why) && !u.Cards.Known() && !u.MemoryBytes.Known() && !u.Absent
	}
}

func TestTwoCardsOfEight(t *testing.T) {
	mine := fmt.Sprintf("process compute %d %d 60\n", os.Getpid(), 5<<30)
	script := "driver 550.54\n" + gputest.Card(0, 1, 6<<30) + mine + gputest.Card(1, 99, 39<<30) + "process compute 1 1000 99\n"
	m := gputest.New(t, script)
	o := open(t, m, true)
	await(t, o, func(u job.GPUUse) bool { return u.Cards.Or(99) == 1 && u.MemoryBytes.Or(0) == 5<<30 })
	m.Play(t, script+gputest.Card(2, 50, 9<<30)+"mig MIG-a 20000000000 9\n"+mine+"mig MIG-b 20000000000 9\n"+mine)
	await(t, o, func(u job.GPUUse) bool { return u.Cards.Or(99) == 2 && u.MemoryBytes.Or(0) == 15<<30 })
}

func TestWhatCantBeReadIsUnknown(t *testing.T) {
	m := gputest.New(t, gputest.Eight(0)+"fail nvmlDeviceGetComputeRunningProcesses_v3 999 3\n")
	o := open(t, m, true)
	await(t, o, because("GPU 3 does not tell whose processes use it"))
	m.Play(t, gputest.Eight(0)+"crash nvmlDeviceGetCount_v2\n")
	await(t, o, because("the GPUs can't be read"))
	m.Play(t, gputest.Eight(0))
	await(t, o, func(u job.GPUUse) bool { return u.Cards == sample.Opt[uint64]{} || u.Cards.Or(99) == 0 })
}

func TestWithoutTheChild(t *testing.T) {
	o := open(t, gputest.New(t, gputest.Eight(0)), false)
	if why := o.Why(); !strings.Contains(why, "rmagent-nvml is not installed") {
		t.Errorf("before it is asked: %q", why)
	}
	await(t, o, because("rmagent-nvml is not installed"))
}

// A driver that hangs has said nothing of now; what was known before goes unknown.
func TestAHangIsUnknown(t *testing.T) {
	mine := fmt.Sprintf("process compute %d %d 60\n", os.Getpid(), 5<<30)
	m := gputest.New(t, gputest.Card(0, 1, 6<<30)+mine)
	o := open(t, m, true)
	if why := o.Why(); why != "" {
		t.Error(why)
	}
	await(t, o, func(u job.GPUUse) bool { return u.Cards.Or(99) == 1 })
	m.Play(t, gputest.Card(0, 1, 6<<30)+mine+"hang nvmlDeviceGetPowerUsage\n")
	await(t, o, because("the driver does not answer"))
}

func TestSwitchedOff(t *testing.T) {
	o := Open(gputest.New(t, gputest.Eight(0)).Root, true)
	defer o.Close()
	if u := o.Use(self(t)); !because("gpu: off")(u) || !u.Told || o.client != nil || o.Why() == "" {
		t.Errorf("%+v", u)
	}
}

// Where there is no driver, nothing is started, and nobody uses a card.
func TestWithoutADriver(t *testing.T) {
	o := Open(t.TempDir(), false)
	if u := o.Use(self(t)); !u.Told || !u.Absent || u.Cards.Or(99) != 0 || u.MemoryBytes.Or(99) != 0 || o.client != nil {
		t.Errorf("%+v", u)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}
