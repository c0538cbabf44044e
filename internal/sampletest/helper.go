package sampletest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
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
	os.Exit(m.Run())
}

// process is a helper under measurement.
type process struct {
	t   testing.TB
	cmd *exec.Cmd
	pid int32
	in  io.WriteCloser
	out *bufio.Scanner
}

// start runs a helper until the test ends, and waits until it is ready.
func start(t testing.TB, helper string, change ...func(*exec.Cmd)) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVariable+"="+helper)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	for _, f := range change {
		f(cmd)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start helper %s: %v", helper, err)
	}
	p := &process{t: t, cmd: cmd, pid: int32(cmd.Process.Pid), in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return p
}

// ready waits for the helper's next "ready" and returns what it said before.
func (p *process) ready() (said []string) {
	p.t.Helper()
	for p.out.Scan() {
		if p.out.Text() == "ready" {
			return said
		}
		said = append(said, p.out.Text())
	}
	p.t.Fatalf("helper said %q and ended", said)
	return nil
}

// numbers is ready for a helper that says so many numbers.
func (p *process) numbers(n int) []uint64 {
	p.t.Helper()
	said := strings.Join(p.ready(), " ")
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

// proceed lets the helper take its next step.
func (p *process) proceed() {
	p.t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		p.t.Fatal(err)
	}
}

// kill ends the helper and returns what wait4 says of it.
func (p *process) kill() *os.ProcessState {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	return p.cmd.ProcessState
}

// zombie ends the helper and leaves it unreaped.
func (p *process) zombie() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	awaitZombie(p.t, p.pid)
}
