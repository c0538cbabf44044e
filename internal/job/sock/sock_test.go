package sock

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/job"
	"rmagent/internal/loader"
)

// helperVariable makes the test binary the program of a job.
const helperVariable = "RMAGENT_SOCK_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperVariable) {
	case "nothing":
		os.Exit(0)
	case "nest":
		os.Exit(nest())
	case "wait":
		os.Stdout.WriteString("ready\n")
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func helper(does string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVariable+"="+does)
	return cmd
}

// nestVariable has the socket, and how many jobs a helper begins, each in the one before.
const nestVariable = "RMAGENT_SOCK_NEST"

// nest begins a job in the one that it is in, of a process that does the same.
func nest() int {
	path, depth, _ := strings.Cut(os.Getenv(nestVariable), " ")
	left, err := strconv.Atoi(depth)
	if err != nil {
		return 3
	}
	tracker, err := Open(path, loader.JobOrder{}, About{})
	if err != nil {
		return 4
	}
	defer tracker.Close()
	cmd := helper("nothing")
	if left > 1 {
		cmd = nested(path, left-1)
	}
	cmd.Stdout = os.Stdout
	r, err := job.Run(context.Background(), job.Options{Cmd: cmd, Tracker: tracker})
	if errors.Is(err, ErrAgent) {
		os.Stdout.WriteString(err.Error())
	}
	if err != nil || r.Err != nil || !r.State.Success() {
		return 5
	}
	return 0
}

func nested(path string, depth int) *exec.Cmd {
	cmd := helper("nest")
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%s %d", nestVariable, path, depth))
	return cmd
}

// Nobody leaves a job by beginning another.
func TestJobsInJobs(t *testing.T) {
	const most = 3 // in one
	path := serve(t)
	run := func(depth int) (r *job.Result, output string) {
		tracker := open(t, path)
		defer tracker.Close()
		cmd := nested(path, depth)
		var out strings.Builder
		cmd.Stdout = &out
		r, err := job.Run(context.Background(), job.Options{Cmd: cmd, Tracker: tracker})
		if err != nil || r.Err != nil {
			t.Fatalf("%v, %v", err, r.Err)
		}
		return r, out.String()
	}
	single := func() float64 { // of a job that begins none, as seen by who begins it
		r, _ := run(1)
		n, _ := r.Meter.Most.Get(cctools.TotalProcesses)
		return n
	}()
	r, out := run(most)
	n, _ := r.Meter.Most.Get(cctools.TotalProcesses)
	together, _ := r.Meter.Most.Get(cctools.MaxConcurrentProcesses)
	if !r.State.Success() || n != 1+(single-1)*most || together != 1+most {
		t.Errorf("%v: %v processes, %v at once; one that starts one has %v: %s", r.State, n, together, single, out)
	}
	r, out = run(most + 1)
	if r.State.Success() || !strings.Contains(out, loader.ErrTooDeep.Error()) {
		t.Errorf("%v, %q", r.State, out)
	}
}

// serve serves jobs, as an agent does.
func serve(t testing.TB) (path string) {
	t.Helper()
	path, _ = server(t)
	return path
}

func server(t testing.TB) (string, *Server) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("tagging tasks needs root")
	}
	jobs, err := loader.OpenJobs(MaxJobs)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "jobs.sock")
	s, err := Serve(path, jobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), jobs.Close()); err != nil {
			t.Error(err)
		}
	})
	return path, s
}

// open begins a job.
func open(t testing.TB, path string) *Tracker {
	t.Helper()
	tracker, err := Open(path, loader.JobOrder{}, About{})
	if err != nil {
		t.Fatal(err)
	}
	return tracker
}

// noop compiles a static program that does nothing, in a third of a millisecond.
func noop(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "noop")
	out, err := exec.Command("gcc", "-O1", "-static", "-pthread", "-o", path, "../../../testdata/programs/job/job.c").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return path
}

// TestShortJobsAllEnd is what hung cctools in 12 of 80 runs.
func TestShortJobsAllEnd(t *testing.T) {
	path, program := serve(t), noop(t)
	const runs = 500
	summaries := 0
	for range runs {
		tracker := open(t, path)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		r, err := job.Run(ctx, job.Options{Cmd: exec.Command(program), Tracker: tracker})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		s := job.Summarize(r, tracker)
		n, _ := s.Measures.Get(cctools.TotalProcesses)
		if cpu, ok := s.Measures.Get(cctools.CPUTime); r.Err != nil || r.Killed || n != 1 || !ok || cpu <= 0 {
			t.Fatalf("%v, killed %v, %v processes, CPU %v s", r.Err, r.Killed, n, cpu)
		}
		summaries++
		if err := tracker.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if summaries != runs {
		t.Errorf("%d summaries of %d runs", summaries, runs)
	}
}

// waiting starts a job that waits until its input is closed.
func waiting(t *testing.T, tracker *Tracker) (cmd *exec.Cmd, in io.WriteCloser) {
	t.Helper()
	cmd = helper("wait")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tracker.Start(cmd); err != nil {
		t.Fatal(err)
	}
	return cmd, in
}

func TestAJobEndsWithItsConnection(t *testing.T) {
	path := serve(t)
	tracker := open(t, path)
	cmd, in := waiting(t, tracker)
	var r job.Reading
	if err := tracker.Read(&r); err != nil || r.Totals.Now != 1 || len(r.Processes) != 1 {
		t.Fatalf("%d processes live: %v", r.Totals.Now, err)
	}
	tracker.Close()
	if err := tracker.Read(&r); !errors.Is(err, ErrAgent) {
		t.Errorf("a reading without a connection: %v", err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil { // it lives on, and ends when it likes
		t.Error(err)
	}
}

func TestAnAgentThatGoesAwayIsAnError(t *testing.T) {
	jobs, err := loader.OpenJobs(1)
	if err != nil {
		t.Skip(err)
	}
	defer jobs.Close()
	path := filepath.Join(t.TempDir(), "jobs.sock")
	s, err := Serve(path, jobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	tracker := open(t, path)
	defer tracker.Close()
	cmd := helper("wait")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	go func() {
		<-started
		s.Close()
		time.Sleep(10 * time.Millisecond)
		in.Close()
	}()
	r, err := job.Run(context.Background(), job.Options{Cmd: cmd, Tracker: tracker, Started: func(int) { close(started) }})
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(r.Err, ErrAgent) || !r.State.Success() {
		t.Errorf("%v, %v", r.Err, r.State)
	}
}

// noJobs has no job, and tells of none.
type noJobs struct{ Jobs }

func (noJobs) Notices() <-chan loader.JobNotice { return nil }

// Who is let in when the server is closed would be waited for as long as it likes.
func TestNobodyComesAfterTheEnd(t *testing.T) {
	s, err := Serve(filepath.Join(t.TempDir(), "jobs.sock"), noJobs{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "late.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial(t, path)
	late, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, err := s.admit(late); err == nil {
		t.Error("it is let in")
	}
}

// raw is a client that does as it likes.
type raw struct {
	testing.TB
	net.Conn
}

func dial(t testing.TB, path string) raw {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return raw{t, c}
}

func (c raw) ask(q *request) *response {
	c.Helper()
	if err := writeFrame(c, q, maxRequest); err != nil {
		c.Fatal(err)
	}
	return c.answer()
}

func (c raw) answer() *response {
	c.Helper()
	for {
		var r response
		if err := readFrame(c, &r, maxResponse); err != nil {
			c.Fatal(err)
		}
		if !r.Notice {
			return &r
		}
	}
}

// refused says that a request is refused, with words that hold some.
func (c raw) refused(q *request, words string) {
	c.Helper()
	if r := c.ask(q); !strings.Contains(r.Error, words) {
		c.Errorf("%s: %q, want %q", q.Op, r.Error, words)
	}
}

// gone says that the server hangs up.
func (c raw) gone() {
	c.Helper()
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, unix.ECONNRESET) {
		c.Errorf("the connection stays: %v", err)
	}
}

func TestHostileClients(t *testing.T) {
	path := serve(t)
	t.Run("a frame too long", func(t *testing.T) {
		c := dial(t, path)
		c.Write(binary.NativeEndian.AppendUint32(nil, 1<<31))
		c.gone()
	})
	t.Run("no JSON", func(t *testing.T) {
		c := dial(t, path)
		c.Write(append(binary.NativeEndian.AppendUint32(nil, 4), "{{{{"...))
		c.gone()
	})
	t.Run("half a frame", func(t *testing.T) {
		c := dial(t, path)
		c.Write([]byte{9, 0})
		c.Conn.(*net.UnixConn).CloseWrite()
		c.gone()
	})
	t.Run("wrong requests", func(t *testing.T) {
		c := dial(t, path)
		c.refused(&request{Op: opRead}, "before there is a job")
		c.refused(&request{Op: "steal"}, "before there is a job")
		if r := c.ask(&request{Op: opNew}); r.Error != "" {
			t.Fatal(r.Error)
		}
		c.refused(&request{Op: opNew}, "one job")
		c.refused(&request{Op: "steal"}, "nothing is called")
		c.refused(&request{Op: opAwait, Thread: 1}, "none of process")
		c.refused(&request{Op: opAwait, Thread: -5}, "none of process")
		c.refused(&request{Op: "signal"}, "nothing is called")
		if r := c.ask(&request{Op: opRead}); r.Totals == nil || r.Totals.Processes != 0 {
			t.Errorf("a job without processes: %+v", r)
		}
	})
	t.Run("too many jobs", func(t *testing.T) {
		for range MaxJobs {
			c := dial(t, path)
			c.ask(&request{Op: opNew})
		}
		c := dial(t, path)
		if r := c.answer(); !strings.Contains(r.Error, loader.ErrTooManyJobs.Error()) {
			t.Errorf("one job too many: %q", r.Error)
		}
		c.gone()
	})
	// Whatever they did, the next is served.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		tracker, err := Open(path, loader.JobOrder{}, About{})
		if err == nil {
			tracker.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestASilentClientIsSentAway(t *testing.T) {
	c := dial(t, serve(t))
	begin := time.Now()
	c.gone()
	if waited := time.Since(begin); waited < firstFrameTime {
		t.Errorf("it was sent away after %v", waited)
	}
}

func FuzzFrame(f *testing.F) {
	var good bytes.Buffer
	writeFrame(&good, &request{Op: opNew, AtOnce: 3}, maxRequest)
	f.Add(good.Bytes())
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{2, 0, 0, 0, '[', ']'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var q request
		if readFrame(bytes.NewReader(b), &q, maxRequest) != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, &q, maxResponse); err != nil {
			t.Fatal(err)
		}
		var r response
		readFrame(bytes.NewReader(b), &r, maxRequest)
		fromWire(nil, r.Processes)
	})
}
