package loader

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// nestedVariable says that the test binary runs in a PID namespace of its own.
const nestedVariable = "LOADER_TEST_NESTED"

// counted counts the scans of all processes.
type counted struct {
	scanner
	scans int
}

func (c *counted) scan(exact bool, emit func(*scanProcessRecord, int)) error {
	c.scans++
	return c.scanner.scan(exact, emit)
}

// In a nested PID namespace, too, a look at a few processes reads those alone, and all only
// for the sake of who began since.
func TestALookInANestedNamespace(t *testing.T) {
	if os.Getenv(nestedVariable) == "" {
		openScan(t, Options{Scan: ScanSyscall}).Close() // or skips
		cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), nestedVariable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("in a namespace: %v\n%s", err, out)
		}
		return
	}
	old, gone := startHelper(t, "pass"), startHelper(t, "pass")
	old.line()
	gone.line()
	r := openScan(t, Options{Scan: ScanSyscall})
	defer r.Close()
	c := &counted{scanner: r.scanner}
	r.scanner = c
	var s sample.Snapshot
	read := func(what string, scans int, pids ...int32) {
		t.Helper()
		c.scans = 0
		if err := r.Read(context.Background(), sample.Scope{PIDs: pids}, &s); err != nil {
			t.Fatal(err)
		}
		if c.scans != scans {
			t.Errorf("%s: %d scans of all, want %d", what, c.scans, scans)
		}
	}
	self, before := int32(os.Getpid()), map[int32]sample.ID{}
	read("all", 1)
	for i := range s.Processes {
		before[s.Processes[i].ID.PID] = s.Processes[i].ID
	}
	for range 2 {
		read("two", 0, self, int32(old.pid))
		for i := range s.Processes {
			if id := s.Processes[i].ID; before[id.PID] != id {
				t.Errorf("%v was %v before", id, before[id.PID])
			}
		}
		if len(s.Processes) != 2 {
			t.Errorf("%d of 2", len(s.Processes))
		}
	}
	young := startHelper(t, "pass")
	young.line()
	gone.wait()
	if read("one that began since", 1, self, int32(young.pid)); len(s.Processes) != 2 {
		t.Errorf("%d of 2 where one began since", len(s.Processes))
	}
	if read("one that has ended", 1, self, int32(gone.pid)); len(s.Processes) != 1 || s.Processes[0].ID.PID != self {
		t.Errorf("%d of 1 where one has ended", len(s.Processes))
	}
}
