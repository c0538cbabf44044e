// Command leakdrive AGENT PROGRAM... starts programs of testdata/programs/leak, has the
// agent watch them, lets them leak for a while once it does, and prints how many
// descriptors each of them says to have leaked, then the agent's records. It runs in a
// guest, which has no shell.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

const (
	leaking = 20 * time.Second
	settled = 10 * time.Second // the agent attaches its programs one after the other
)

type program struct {
	in  io.Writer
	out *bufio.Reader
	pid int
}

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "leakdrive:", err)
		os.Exit(1)
	}
}

func run(agent string, paths []string) error {
	os.Unsetenv("RMAGENT_GUEST") // the agent refuses variables of its own that it doesn't know
	args := []string{"fds", "--json", "--for", "1h"}
	var programs []*program
	for _, path := range paths {
		p, err := start(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		programs = append(programs, p)
		args = append(args, "--pid", strconv.Itoa(p.pid))
	}
	cmd := exec.Command(agent, args...)
	var said bytes.Buffer // would be among the records: both are one serial port here
	cmd.Stdout, cmd.Stderr = os.Stdout, &said
	if err := cmd.Start(); err != nil {
		return err
	}
	awaitTracing(cmd.Process.Pid)
	for _, p := range programs {
		io.WriteString(p.in, "\n")
	}
	time.Sleep(leaking)
	for i, p := range programs {
		io.WriteString(p.in, "\n")
		said, err := p.out.ReadString('\n')
		if err != nil {
			return fmt.Errorf("%s: %w", paths[i], err)
		}
		fmt.Printf("leaked %s %d %s", paths[i], p.pid, said)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil { // it tells what there is
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, &said)
	}
	return nil
}

// awaitTracing waits until a process has BPF programs attached, and attaches no more.
func awaitTracing(pid int) {
	attached, since := 0, time.Now()
	for attached == 0 || time.Since(since) < settled {
		time.Sleep(100 * time.Millisecond)
		if now := links(pid); now != attached {
			attached, since = now, time.Now()
		}
	}
}

// links is how many BPF links a process has.
func links(pid int) (n int) {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, path := range paths {
		if to, _ := os.Readlink(path); to == "anon_inode:bpf_link" {
			n++
		}
	}
	return n
}

// start returns a program that is ready. It ends with the guest.
func start(path string) (*program, error) {
	cmd := exec.Command(path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &program{in, bufio.NewReader(out), cmd.Process.Pid}
	if said, err := p.out.ReadString('\n'); err != nil || said != "ready\n" {
		return nil, fmt.Errorf("it says %q: %w", said, err)
	}
	return p, nil
}
