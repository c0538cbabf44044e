package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
	"rmagent/record"
)

// Variables that make the test binary another program.
const (
	asAgent  = "RMAGENT_TEST_AGENT"
	asHelper = "RMAGENT_TEST_HELPER"
)

func TestMain(m *testing.M) {
	switch {
	case strings.HasPrefix(os.Getenv(asHelper), "mount "):
		fmt.Fprintln(os.Stderr, mountDriver(strings.Fields(os.Getenv(asHelper))[1]))
		os.Exit(1)
	case os.Getenv(asAgent) != "":
		name := os.Getenv(asAgent) // that it is called by
		os.Unsetenv(asAgent)
		os.Exit(execute(append([]string{name}, os.Args[1:]...), os.Stdout, os.Stderr))
	case os.Getenv(asHelper) != "":
		help(strings.Fields(os.Getenv(asHelper)))
		os.Exit(0)
	}
	status := m.Run()
	if builtDir != "" {
		os.RemoveAll(builtDir)
	}
	os.Exit(status)
}

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// agentCommand is a command line of rmagent, in an empty directory, with a socket
// of its own where the command takes one.
func agentCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), asAgent+"=rmagent", "RMAGENT_SOCKET="+filepath.Join(cmd.Dir, "rmagent.sock"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// result is how a command ended.
type result struct {
	status         int
	stdout, stderr string
}

func runToEnd(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// started is an agent that runs.
type started struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan error
}

func start(t *testing.T, cmd *exec.Cmd) *started {
	t.Helper()
	s := &started{t: t, cmd: cmd, ended: make(chan error, 1)}
	cmd.Stderr = &s.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	return s
}

// wait waits for the end and returns the exit status.
func (s *started) wait() int {
	s.t.Helper()
	select {
	case <-s.ended:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		s.t.Fatalf("the agent did not end; it said:\n%s", s.stderr.String())
		return 0
	}
}

// stop ends the agent as systemd would, and wants it to end well.
func (s *started) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(unix.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	if status := s.wait(); status != 0 {
		s.t.Fatalf("exit status %d after SIGTERM; it said:\n%s", status, s.stderr.String())
	}
}

// await polls until there is what a test waits for.
func await(t *testing.T, what string, there func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !there(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// records decodes whole files of records, in their order.
func records(t *testing.T, paths ...string) []record.Record {
	t.Helper()
	var all []record.Record
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 0 && b[len(b)-1] != '\n' {
			t.Fatalf("%s ends within a line", path)
		}
		for line := range bytes.Lines(b) {
			r, err := record.Decode(line)
			if err != nil {
				t.Fatalf("%s: %v: %q", path, err, line)
			}
			all = append(all, r)
		}
	}
	return all
}

// gapless fails unless every seq from 1 on is there once, in order.
func gapless(t *testing.T, all []record.Record) {
	t.Helper()
	for i, r := range all {
		if got := r.Head().Seq; got != uint64(i)+1 {
			t.Fatalf("record %d has seq %d", i+1, got)
		}
	}
}

func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

// helper starts a process that does something known, and waits until it has.
func helper(t *testing.T, does string, change ...func(*exec.Cmd)) *childtest.Child {
	t.Helper()
	cmd := childtest.Itself(asHelper, does)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	for _, f := range change {
		f(cmd)
	}
	c := childtest.Start(t, cmd)
	c.Hear("ready")
	return c
}

// A helper's main goroutine stays on the thread that leads.
func init() {
	if os.Getenv(asHelper) != "" {
		runtime.LockOSThread()
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(1)
	}
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// help is what the helpers do.
func help(words []string) {
	say := func() { fmt.Println("ready") }
	wait := func() {
		if n, _ := os.Stdin.Read(make([]byte, 1)); n == 0 {
			os.Exit(0)
		}
	}
	switch words[0] {
	case "send": // so many bytes to an address
		n, err := strconv.ParseInt(words[2], 10, 64)
		check(err)
		c, err := net.Dial("tcp", words[1])
		check(err)
		_, err = io.CopyN(struct{ io.Writer }{c}, zeroReader{}, n) // no sendfile or splice: calls that write
		check(err)
		check(c.(*net.TCPConn).CloseWrite())
		say()
		wait()
	case "still":
		say()
		wait()
	case "fds": // opens nineteen of twenty, takes one name after another, and closes them when asked to
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 200, Max: 200})
		var open []int
		for {
			fd, err := unix.Open("/dev/null", unix.O_CLOEXEC, 0)
			if err != nil {
				os.Exit(1)
			}
			if open = append(open, fd); fd >= 189 { // 190 are open, at least
				break
			}
		}
		for _, name := range words[1:] {
			check(unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(unsafe.StringData(name+"\x00"))), 0, 0, 0))
			say()
			wait()
		}
		say()
		wait()
		for _, fd := range open {
			unix.Close(fd)
		}
		say()
		wait()
	case "burn":
		say()
		wait()
		var used unix.Rusage
		for used.Utime.Nano() < int64(300*time.Millisecond) {
			for range 1 << 16 {
			}
			unix.Getrusage(unix.RUSAGE_SELF, &used)
		}
		os.Exit(7)
	case "become": // sleep, by an exec from the leader or from another thread
		say()
		wait()
		sleep := func() { check(syscall.Exec("/bin/sleep", []string{"sleep", "1000"}, nil)) }
		if words[1] == "leader" {
			sleep()
		}
		go func() {
			runtime.LockOSThread()
			sleep()
		}()
		select {}
	case "hostile":
		os.WriteFile("/proc/self/comm", []byte("a) R\n\x1b[2J\xff"), 0)
		say()
		wait()
	case "hog":
		hog(words, say, wait)
	case "tmpfs":
		agentWithTmpfs()
	default:
		helpHealthy(words, say)
	}
}
