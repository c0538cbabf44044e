package track

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/job"
	"rmagent/internal/job/sock"
	"rmagent/internal/loader"
)

// helperVariable makes the test binary the program of a job.
const helperVariable = "RMAGENT_TRACK_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperVariable) != "" {
		grow()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// grow takes 64 MiB when it is told to, and waits for the end of its input.
func grow() {
	const bytes = 64 << 20
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	in.ReadByte()
	b, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		os.Exit(3)
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	fmt.Println("grown")
	io.Copy(io.Discard, in)
}

// agent serves jobs, as an agent does, until it is stopped.
func agent(t *testing.T) (path string, stop func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("tagging tasks needs root")
	}
	jobs, err := loader.OpenJobs(1)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "jobs.sock")
	s, err := sock.Serve(path, jobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := jobs.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return path, stop
}

// A job outlives the agent that measures it: it goes on within its limits, and what is said
// of it is no more than was seen.
func TestAJobOutlivesItsAgent(t *testing.T) {
	path, stop := agent(t)
	limits := cctools.Limits{}
	limits.Set(cctools.Memory, 48)
	tracker, err := Open(Options{Agent: path, Source: "auto", Limits: limits, Enforce: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tracker.Close()
	if tracker.Source() != "agent" || tracker.Lost() != nil {
		t.Fatalf("measured by %s, lost: %v", tracker.Source(), tracker.Lost())
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVariable+"=grow")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := func(int) {
		lines := bufio.NewReader(out)
		if line, err := lines.ReadString('\n'); line != "ready\n" {
			t.Errorf("%q, %v", line, err)
		}
		stop()
		in.Write([]byte{'\n'})
	}
	r, err := job.Run(context.Background(), job.Options{Cmd: cmd, Tracker: tracker, Limits: limits, Grace: -1, Started: started})
	if err != nil {
		t.Fatal(err)
	}
	if r.Err != nil || !r.Killed || len(r.Exceeded) != 1 || r.Left != 0 {
		t.Errorf("%v, killed: %v, broken: %v, %d left", r.Err, r.Killed, r.Exceeded, r.Left)
	}
	if lost := tracker.Lost(); lost == nil || !strings.Contains(lost.Error(), sock.ErrAgent.Error()) {
		t.Errorf("lost: %v", lost)
	}
	s := job.Summarize(r, tracker)
	for _, id := range []cctools.Measure{cctools.Memory, cctools.CPUTime, cctools.TotalProcesses, cctools.BytesReceived} {
		if s.Exactness[id] != cctools.AtLeast || s.Why[id] == "" {
			t.Errorf("%s is %v, because %q", id, s.Exactness[id], s.Why[id])
		}
	}
	if s.Exactness[cctools.WallTime] != cctools.Exact {
		t.Errorf("wall_time is %v", s.Exactness[cctools.WallTime])
	}
	if n, _ := s.Measures.Get(cctools.TotalProcesses); n != 1 {
		t.Errorf("%v processes", n)
	}
	if mb, _ := s.Measures.Get(cctools.Memory); mb <= 48 || mb > 80 {
		t.Errorf("memory %v", mb)
	}
}
