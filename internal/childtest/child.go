// Package childtest runs programs that tests talk with: a line to it makes the program
// go on, and it says in lines what it did.
package childtest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Child is a program that runs until the test ends.
type Child struct {
	*exec.Cmd

	t   testing.TB
	in  io.WriteCloser
	out *bufio.Scanner
}

// Itself returns a command that runs this test binary again with a variable in its
// environment, by which TestMain knows what to be.
func Itself(variable, value string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), variable+"="+value)
	return cmd
}

// Start starts a command. When the test ends its input is closed, and it is killed and
// waited for. What it writes to stderr the test writes, unless the command says
// otherwise.
func Start(t testing.TB, cmd *exec.Cmd) *Child {
	t.Helper()
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
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
		t.Fatalf("start %v: %v", cmd, err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait() // it may have been waited for
	})
	return &Child{Cmd: cmd, t: t, in: in, out: bufio.NewScanner(out)}
}

// PID is the child's.
func (c *Child) PID() int32 { return int32(c.Process.Pid) }

// Line returns the next line that the child says; ok is false at its end.
func (c *Child) Line() (line string, ok bool) {
	ok = c.out.Scan()
	return c.out.Text(), ok
}

// Hear waits for a line that begins with word, and returns the rest.
func (c *Child) Hear(word string) string {
	c.t.Helper()
	line, ok := c.Line()
	if !ok {
		c.t.Fatalf("%v ended instead of saying %q: %v", c.Cmd, word, c.Wait())
	}
	rest, ok := strings.CutPrefix(line, word)
	if !ok {
		c.t.Fatalf("%v said %q instead of %q", c.Cmd, line, word)
	}
	return strings.TrimSpace(rest)
}

// Ready waits for the line "ready" and returns what the child said before.
func (c *Child) Ready() (said []string) {
	c.t.Helper()
	for {
		line, ok := c.Line()
		switch {
		case !ok:
			c.t.Fatalf("%v said %q and ended: %v", c.Cmd, said, c.Wait())
		case line == "ready":
			return said
		}
		said = append(said, line)
	}
}

// Say tells the child a line; an empty one lets it go on.
func (c *Child) Say(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		c.t.Fatalf("tell %v: %v", c.Cmd, err)
	}
}

// Kill ends the child and returns what wait4 says of it.
func (c *Child) Kill() *os.ProcessState {
	c.Process.Kill()
	c.Wait()
	return c.ProcessState
}
