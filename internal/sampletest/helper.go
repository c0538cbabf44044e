package sampletest

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
)

// helperVariable makes the test binary one of the helpers.
const helperVariable = "SAMPLETEST_HELPER"

func init() {
	// Main stays on the leader: helpers count on it, and a test that drops its
	// thread's privileges must not drop the leader's, which cannot end by itself.
	runtime.LockOSThread()
}

// Main runs the tests, or becomes a process that they measure.
func Main(m *testing.M) {
	if words := strings.Fields(os.Getenv(helperVariable)); len(words) > 0 {
		debug.SetGCPercent(-1)
		helpers[words[0]](words[1:])
		os.Exit(0)
	}
	if os.Getenv(namespaceVariable) != "" {
		if err := enterNamespace(); err != nil {
			fmt.Fprintln(os.Stderr, "enter the namespace:", err)
			os.Exit(1)
		}
	}
	// What the tests were started with is not what their helpers have.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, "keep descriptors from the helpers:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// process is a helper under measurement.
type process struct {
	*childtest.Child
	t   testing.TB
	pid int32
}

// start runs a helper until the test ends.
func start(t testing.TB, helper string, change ...func(*exec.Cmd)) *process {
	t.Helper()
	cmd := childtest.Itself(helperVariable, helper)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	for _, f := range change {
		f(cmd)
	}
	c := childtest.Start(t, cmd)
	return &process{Child: c, t: t, pid: c.PID()}
}

// numbers is ready for a helper that says so many numbers.
func (p *process) numbers(n int) []uint64 {
	p.t.Helper()
	said := strings.Join(p.Ready(), " ")
	v := make([]uint64, n)
	for i, word := range strings.Fields(said) {
		if i == n {
			break
		}
		if _, err := fmt.Sscan(word, &v[i]); err != nil {
			p.t.Fatalf("helper said %q", said)
		}
	}
	return v
}

// zombie ends the helper and leaves it unreaped.
func (p *process) zombie() {
	p.t.Helper()
	if err := p.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	awaitZombie(p.t, p.pid)
}
