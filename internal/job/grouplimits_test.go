package job

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
)

// limited runs a job in a cgroup with limits, which readings do not enforce.
func limited(t *testing.T, limits string, words ...string) (*Result, *Limited) {
	t.Helper()
	var l cctools.Limits
	if err := cctools.ParseLimits(limits, &l); err != nil {
		t.Fatal(err)
	}
	g, err := OpenLimited(&l)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	tracker, err := OpenProc(ProcOptions{Limited: g})
	if err != nil {
		t.Fatal(err)
	}
	defer tracker.Close()
	cmd := helper(words...)
	cmd.Stdin, cmd.Stderr = nil, nil
	r, err := Run(context.Background(), Options{Cmd: cmd, Tracker: tracker, Limited: g})
	if err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	return r, g
}

func TestLimitedMemory(t *testing.T) {
	r, _ := limited(t, "memory: 48", "memory", "256")
	status := r.State.Sys().(syscall.WaitStatus)
	if status.Signal() != unix.SIGKILL || r.Meter.Totals().OOMKills != 1 {
		t.Errorf("%v, %d OOM kills", r.State, r.Meter.Totals().OOMKills)
	}
}

func TestLimitedProcesses(t *testing.T) {
	r, g := limited(t, "max_concurrent_processes: 24", "tree", "1", "12") // each of several threads
	b, err := os.ReadFile(filepath.Join(g.group.dir, "pids.events"))
	refused, ok := statField(b, "max")
	if err != nil || !ok || refused == 0 || r.State.Success() {
		t.Errorf("%v: pids.events %q, %v", r.State, b, err)
	}
}

func TestLimitedCPUs(t *testing.T) {
	_, g := limited(t, "cores: 0.2", "busy", "300")
	b, err := os.ReadFile(filepath.Join(g.group.dir, "cpu.stat"))
	throttled, ok := statField(b, "nr_throttled")
	if err != nil || !ok || throttled == 0 {
		t.Errorf("cpu.stat %q, %v", b, err)
	}
}

func TestNothingToLimit(t *testing.T) {
	var l cctools.Limits
	l.Set(cctools.WallTime, 3)
	if _, err := OpenLimited(&l); err == nil {
		t.Error("a cgroup without limits was made")
	}
}
