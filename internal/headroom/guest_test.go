package headroom

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// These change what the whole machine allows, so they run in guests only.
func needGuest(t *testing.T) {
	t.Helper()
	if os.Getenv("RMAGENT_GUEST") == "" {
		t.Skip("it would change the machine: for guests only")
	}
}

// setSysctl sets a value until the test ends.
func setSysctl(t *testing.T, name string, value uint64) {
	t.Helper()
	path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(fmt.Sprint(value)), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(path, old, 0) })
}

// machineValue reads a value of the machine.
func machineValue(t *testing.T, of func(*sample.Machine) sample.Opt[uint64]) uint64 {
	t.Helper()
	m := openReader(t).ReadMachine().Machine
	v, ok := of(&m).Get()
	if !ok {
		t.Fatal("unknown")
	}
	return v
}

func TestGuestDrivenIntoKernelLimits(t *testing.T) {
	needGuest(t)
	for _, d := range []drive{
		// Before 6.18 file-nr is what the CPUs have summed up: each keeps up to 32.
		{helper: "files", ordinary: true, take: 1800, name: "fs.file-max", scope: "machine",
			outcome: "too many open files in system", says: "ENFILE", slack: 32 * float64(runtime.NumCPU()+1),
			limit: func(t *testing.T, c *child) {
				c.limit(unix.RLIMIT_NOFILE, 8192)
				open := machineValue(t, func(m *sample.Machine) sample.Opt[uint64] { return m.FilesOpen })
				setSysctl(t, "fs.file-max", open+2000)
			}},
		{helper: "files", take: 480, name: "fs.nr_open", scope: "process",
			outcome: "too many open files", says: "EMFILE",
			limit: func(t *testing.T, c *child) {
				c.limit(unix.RLIMIT_NOFILE, 4096)
				setSysctl(t, "fs.nr_open", 512)
			}},
		{helper: "tasks", take: 150, name: "kernel.pid_max", scope: "machine",
			outcome: "resource temporarily unavailable", says: "EAGAIN", slack: 6, // kernel threads come and go
			limit: func(t *testing.T, _ *child) { setSysctl(t, "kernel.pid_max", 500) }},
		{helper: "tasks", take: 60, name: "kernel.threads-max", scope: "machine",
			outcome: "resource temporarily unavailable", says: "EAGAIN", slack: 6,
			limit: func(t *testing.T, _ *child) {
				tasks := machineValue(t, func(m *sample.Machine) sample.Opt[uint64] { return m.Tasks })
				setSysctl(t, "kernel.threads-max", tasks+80)
			}},
		{helper: "watches", ordinary: true, take: 45, name: "fs.inotify.max_user_watches", scope: fmt.Sprint("uid ", ordinary),
			outcome: "no space left on device", says: "ENOSPC",
			limit: func(t *testing.T, _ *child) {
				setSysctl(t, "fs.inotify.max_user_watches", 50)
			}},
		{helper: "promise", take: 80 << 20, name: "CommitLimit", scope: "machine",
			outcome: "cannot allocate memory", says: "ENOMEM", slack: 4 << 20,
			limit: func(t *testing.T, _ *child) {
				committed := machineValue(t, func(m *sample.Machine) sample.Opt[uint64] { return m.CommittedBytes })
				setSysctl(t, "vm.overcommit_kbytes", (committed+100<<20)>>10)
				setSysctl(t, "vm.overcommit_memory", 2)
			}},
	} {
		t.Run(d.name, func(t *testing.T) { d.run(t) })
	}
}

// TestGuestDrivenIntoMemAvailable lets the OOM killer of the whole machine end a
// process.
func TestGuestDrivenIntoMemAvailable(t *testing.T) {
	needGuest(t)
	r := openReader(t)
	c := start(t, "touch")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", c.Process.Pid), []byte("1000"), 0); err != nil {
		t.Fatal(err)
	}
	available := machineValue(t, func(m *sample.Machine) sample.Opt[uint64] { return m.MemoryAvailableBytes })
	c.take(available * 9 / 10)
	l := c.read(r).FirstInSpace
	if l == nil || l.Name != "MemAvailable" || !strings.HasPrefix(l.Consequence, "OOM kill") {
		t.Fatalf("first in space: %+v", l)
	}
	c.Say("end")
	c.diesOf(unix.SIGKILL) // by the OOM killer
}
