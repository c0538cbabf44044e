package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// pty is a pseudoterminal that a shell with job control runs in.
type pty struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd

	mu   sync.Mutex
	said bytes.Buffer
}

// shellInTerminal runs a script in a terminal of its own, where $E is exec.
func shellInTerminal(t *testing.T, script string) *pty {
	t.Helper()
	master, slave := openTerminal(t)
	defer slave.Close()
	path, err := agentBinary()
	if err != nil {
		t.Fatal(err)
	}
	p := &pty{t: t, master: master, cmd: exec.Command("bash", "-c", "set -m\n"+script)}
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append(os.Environ(), "E="+path+" exec --quiet --source procfs")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	// Who began the tests in a background job has SIGINT ignored, which what they begin would
	// inherit, and not a shell's trap can change (signal(7)). What is caught is not inherited.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGINT)
	defer signal.Stop(caught)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		master.Close() // hangs up on who is left
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			p.mu.Lock()
			p.said.Write(b[:n])
			p.mu.Unlock()
		}
	}()
	return p
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudoterminals here: %v", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	keepOutput(t, slave)
	return master, slave
}

// keepOutput has a terminal not throw away at Ctrl-C what was written and not read yet
// (termios(3), NOFLSH): the test would wait for words that were said.
func keepOutput(t *testing.T, terminal *os.File) {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	mode.Lflag |= unix.NOFLSH
	if err := unix.IoctlSetTermios(int(terminal.Fd()), unix.TCSETS, mode); err != nil {
		t.Fatal(err)
	}
}

// waits for words that the terminal shows.
func (p *pty) waits(words string) {
	p.t.Helper()
	defer func() {
		if p.t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.t.Logf("the terminal shows %q", &p.said)
		}
	}()
	await(p.t, fmt.Sprintf("%q in the terminal", words), func() bool { return p.shows(words) })
}

func (p *pty) shows(words string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Contains(p.said.String(), words)
}

func (p *pty) types(text string) {
	p.t.Helper()
	if _, err := p.master.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
}

const (
	ctrlC = "\x03"
	ctrlD = "\x04"
	ctrlZ = "\x1a"
)

func TestExecInATerminal(t *testing.T) {
	t.Run("Ctrl-C", func(t *testing.T) {
		p := shellInTerminal(t, `$E -- sh -c 'trap "echo once; exit 9" INT; echo ready; while :; do sleep 0.01; done'; echo status $?`)
		p.waits("ready")
		p.types(ctrlC)
		p.waits("once")
		p.waits("status 9") // its own, although exec got the signal, too
	})
	t.Run("Ctrl-C ends who does not care", func(t *testing.T) {
		p := shellInTerminal(t, `trap : INT; $E -- sh -c 'echo ready; exec sleep 60'; echo status $?`)
		p.waits("ready")
		p.types(ctrlC)
		p.waits("status 130")
	})
	t.Run("Ctrl-C ends what the command left", func(t *testing.T) {
		p := shellInTerminal(t, `trap : INT; $E --grace 0s -- sh -c 'trap "" INT; setsid sleep 60 & echo ready'; echo status $?`)
		p.waits("ready")
		await(t, "the end of what is left", func() bool {
			p.types(ctrlC) // until the command has ended, it does nothing
			return p.shows("status 0")
		})
	})
	t.Run("Ctrl-Z", func(t *testing.T) {
		p := shellInTerminal(t, `$E -- sh -c 'echo ready; read line; echo got $line; exit 5'; echo status $?; fg >/dev/null; echo status $?`)
		p.waits("ready")
		p.types(ctrlZ)
		p.waits("status 148") // stopped by SIGTSTP, and the shell goes on
		p.types("words\n")
		p.waits("got words")
		p.waits("status 5")
	})
	t.Run("reads the terminal", func(t *testing.T) {
		p := shellInTerminal(t, `$E -- cat; echo status $?`)
		p.types("hello\n")
		p.waits("hello\r\nhello")
		p.types(ctrlD)
		p.waits("status 0")
	})
	t.Run("in a pipeline", func(t *testing.T) {
		p := shellInTerminal(t, `echo hello | $E -- cat | tr a-z A-Z; echo status ${PIPESTATUS[*]}`)
		p.waits("HELLO")
		p.waits("status 0 0 0")
	})
	t.Run("Ctrl-C ends a pipeline", func(t *testing.T) {
		p := shellInTerminal(t, `sleep 60 | $E -- sh -c 'echo ready >/dev/tty; exec sleep 60'; sleep 60`)
		p.waits("ready")
		p.types(ctrlC)
		p.cmd.Wait() // bash ends by the signal that ended its job
	})
	t.Run("in the background", func(t *testing.T) {
		p := shellInTerminal(t, `$E -- sh -c 'echo ready; exec sleep 60' & sleep 0.1; kill -TERM $!; wait $!; echo status $?`)
		p.waits("status 143")
	})
}
