package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cmdline"
	"rmagent/internal/headroom"
	"rmagent/internal/sample"
	"rmagent/record"
)

// terminalOf is a real terminal, tmux, in which a command runs.
type terminalOf struct {
	t      *testing.T
	socket string
	status string // file with the exit status, when the command has ended
}

// openTmux runs a command line of rmagent in a terminal of 80 by 24.
func openTmux(t *testing.T, cmd *exec.Cmd, env ...string) *terminalOf {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Fatal("tmux is not installed; scripts/setup test installs it")
	}
	s := &terminalOf{t: t, socket: filepath.Join(cmd.Dir, "tmux"), status: filepath.Join(cmd.Dir, "status")}
	script := "#!/bin/sh\n"
	for _, e := range append(env, asAgent+"=1", "RMAGENT_SOCKET="+filepath.Join(cmd.Dir, "rmagent.sock"), "LC_ALL=C.UTF-8") {
		script += "export '" + e + "'\n"
	}
	script += fmt.Sprintf("'%s' %s 2>stderr\necho $? >status.new\nmv status.new status\ncat stderr\nexec cat\n", cmd.Path, strings.Join(cmd.Args[1:], " "))
	path := filepath.Join(cmd.Dir, "run.sh")
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	s.tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "-c", cmd.Dir, path)
	t.Cleanup(func() { exec.Command("tmux", "-S", s.socket, "kill-server").Run() })
	return s
}

func (s *terminalOf) tmux(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", s.socket}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

func (s *terminalOf) keys(keys ...string) {
	s.t.Helper()
	s.tmux(append([]string{"send-keys"}, keys...)...)
}

// shows waits until the screen has a text that matches, and returns the screen.
func (s *terminalOf) shows(pattern string) string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	screen := ""
	defer func() {
		if s.t.Failed() {
			s.t.Logf("the screen:\n%s", screen)
		}
	}()
	await(s.t, strconv.Quote(pattern)+" on the screen", func() bool {
		screen = s.tmux("capture-pane", "-p")
		return re.MatchString(screen)
	})
	return screen
}

// ends waits for the exit status.
func (s *terminalOf) ends() int {
	s.t.Helper()
	await(s.t, "the end of the command", func() bool { return size(s.status) > 0 })
	b, err := os.ReadFile(s.status)
	if err != nil {
		s.t.Fatal(err)
	}
	status, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		s.t.Fatal(err)
	}
	return status
}

// hostileName is a process whose name would clear the screen and turn the writing.
const hostileName = "\x1b[2J\x1b[31mA"

// asHostile starts a copy of sleep with that name.
func asHostile(t *testing.T) int {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), hostileName)
	if err := os.WriteFile(path, b, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "300")
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

// TestTopInATerminal uses top as a person does, with keys and eyes.
func TestTopInATerminal(t *testing.T) {
	pid := asHostile(t)
	s := openTmux(t, agentCommand(t, "top", "--local", "--source", "procfs", "--interval", "500ms"))
	s.shows(`(?s)^rmagent top.*CPU.*MEM.*PID +CPU%v.*read here, procfs`)
	s.keys("/", strconv.Itoa(pid), "Enter")
	screen := s.shows(fmt.Sprintf(`(?m)^ *%d .* \?\[2J\?\[31mA`, pid))
	if !strings.HasPrefix(screen, "rmagent top") {
		t.Errorf("the name moved the cursor:\n%s", screen)
	}
	s.keys("Enter")
	s.shows(fmt.Sprintf(`(?s)\?\[2J\?\[31mA \(pid %d\).*Limits, the nearest first\n.*RLIMIT_NOFILE.*Open descriptors\n +[1-9]`, pid))
	s.keys("Escape")
	s.shows(`PID +CPU%v`)
	s.keys("Escape")
	s.shows(`(?m)^enter look`)
	s.keys("?")
	s.shows(`Sort by`)
	s.keys("x")
	s.shows(`(?m)^enter look`)
	s.keys("t")
	s.shows(`(?m)[├└]─`)
	s.keys("Space")
	s.shows(`paused`)
	s.tmux("resize-window", "-x", "100", "-y", "30")
	s.shows(`(?m)PID +UID`)
	// tmux 3.3 takes lines that are wider than its first screen for that screen's.
	s.tmux("resize-window", "-x", "80", "-y", "24")
	s.shows(`(?m)PID +CPU%v`)
	s.keys("q")
	if status := s.ends(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	s.shows(`^\s*$`) // nothing is left behind, once tmux has read to the end
}

// TestTopAsksTheAgent: what a running agent knows, without colours where they are not
// wanted, and prints once where nobody looks.
func TestTopAsksTheAgent(t *testing.T) {
	run := agentCommand(t, "run", "--source", "procfs", "--interval", "300ms", "--listen", "")
	agent := start(t, run)
	socket := filepath.Join(run.Dir, "rmagent.sock")
	awaitReading(t, socket)

	s := openTmux(t, agentCommand(t, "top", "--socket", socket), "NO_COLOR=1")
	s.shows(`(?s)rmagent top.*PID +CPU%v.*agent at`)
	if screen := s.tmux("capture-pane", "-p", "-e"); regexp.MustCompile(`\x1b\[[0-9;]*3[0-7]m`).MatchString(screen) {
		t.Errorf("colours, though NO_COLOR is set:\n%q", screen)
	}
	s.keys("Enter")
	s.shows(`(?s)Limits, the nearest first\n.*left`)

	once := runToEnd(t, agentCommand(t, "top", "--socket", socket, "--sort", "pid"))
	if once.status != 0 || strings.Contains(once.stdout, "\x1b") || !regexp.MustCompile(fmt.Sprintf(`(?m)^.? *%d `, os.Getpid())).MatchString(once.stdout) {
		t.Errorf("exit status %d, %s%s", once.status, once.stdout, once.stderr)
	}
	lines := runToEnd(t, agentCommand(t, "top", "--socket", socket, "--json", "--pid", strconv.Itoa(os.Getpid())))
	if lines.status != 0 {
		t.Fatal(lines.stderr)
	}
	var all []record.Record
	for line := range bytes.Lines([]byte(lines.stdout)) {
		r, err := record.Decode(line)
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, r)
	}
	self := only[*record.Process](all)
	if len(only[*record.Host](all)) != 1 || len(self) != 1 || int(self[0].PID) != os.Getpid() || !self[0].CPUCores.Known() || self[0].BootID == "" {
		t.Errorf("got %s", lines.stdout)
	}

	agent.stop() // top says so, and does not end
	s.keys("Escape")
	s.shows(`no answer: `)
	s.keys("C-c")
	if status := s.ends(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

func TestTopOnceByItself(t *testing.T) {
	r := runToEnd(t, agentCommand(t, "top", "--local", "--source", "procfs", "--interval", "200ms", "--sort", "memory"))
	if r.status != 0 || r.stderr != "" || !regexp.MustCompile(`(?s)^rmagent top.*CPU .*%.*MEM(v|\s).*NAME`).MatchString(r.stdout) {
		t.Errorf("exit status %d, %s%s", r.status, r.stdout, r.stderr)
	}
	if r := runToEnd(t, agentCommand(t, "top", "--sort", "colour")); r.status != cmdline.ExitUsage || !strings.HasPrefix(r.stderr, `rmagent: --sort "colour": allowed are cpu, memory`) {
		t.Errorf("exit status %d, %s", r.status, r.stderr)
	}
}

// A PID that nobody has is said to be nobody's, and no table is shown; who ends while it is
// shown is said to have ended.
func TestTopOfOneProcess(t *testing.T) {
	s := serveAgent(t, "--source", "procfs", "--interval", "200ms")
	for _, where := range []string{"--local=false", "--local"} { // of the agent, and by itself
		for _, form := range []string{"--json=false", "--json"} {
			r := runToEnd(t, s.command(t, "top", where, form, "--interval", "100ms", "--pid", strconv.Itoa(maxPID)))
			if want := fmt.Sprintf("rmagent: no process has PID %d\n", maxPID); r.status != 1 || r.stdout != "" || !strings.HasSuffix(r.stderr, want) {
				t.Errorf("%s %s: exit status %d, %q, %q", where, form, r.status, r.stdout, r.stderr)
			}
		}
	}
	young := helper(t, "fds")
	pid := young.Process.Pid
	terminal := openTmux(t, agentCommand(t, "top", "--socket", filepath.Join(s.dir, "rmagent.sock"), "--pid", strconv.Itoa(pid)))
	terminal.shows(fmt.Sprintf(`(?m)^.? *%d `, pid))
	young.Process.Kill()
	young.Wait()
	terminal.shows(fmt.Sprintf(`(?m)^pid %d has ended`, pid))
}

// TestHeadroomOfNobody: a process may end between a reading and a question.
func TestHeadroomOfNobody(t *testing.T) {
	d := newHeadroomDesk()
	defer d.close()
	if _, err := d.Process(t.Context(), maxPID, 0); !errors.Is(err, headroom.ErrNoProcess) {
		t.Errorf("got %v", err)
	}
}

// TestLooksAreRemembered: who keeps asking about a process learns at which rate it takes
// what it takes; looks that are too close, too old or of another process say nothing.
func TestLooksAreRemembered(t *testing.T) {
	d := newHeadroomDesk()
	at := func(pid int32, start uint64, at time.Duration) *headroom.Facts {
		return &headroom.Facts{ID: sample.ID{PID: pid, StartTicks: start}, At: at}
	}
	first, close1, second := at(7, 1, 10*time.Second), at(7, 1, 10*time.Second+lookStep/2), at(7, 1, 11*time.Second)
	for _, c := range []struct {
		what      string
		now, want *headroom.Facts
	}{
		{"the first", first, nil},
		{"too close to the first", close1, nil},
		{"the second", second, first},
		{"too close to the second", at(7, 1, 11*time.Second+lookStep/2), first},
		{"after that", at(7, 1, 12*time.Second), second},
		{"another process with that PID", at(7, 2, 13*time.Second), nil},
		{"much later", at(7, 2, 14*time.Second+lookAge), nil},
	} {
		if got := d.remember(c.now); got != c.want {
			t.Errorf("%s is compared with %+v", c.what, got)
		}
	}
	for pid := range int32(3 * maxLooks) {
		d.remember(at(1000+pid, 1, 200*time.Second))
	}
	if len(d.looks) != maxLooks {
		t.Errorf("%d looks are remembered", len(d.looks))
	}
}
