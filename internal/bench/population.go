package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const fdsEach = 8

// A population is N processes to be watched: idle, or busy if each wakes hertz
// times a second for a handful of system calls.
type population struct {
	n, hertz int
}

func (p population) String() string {
	if p.hertz == 0 {
		return fmt.Sprintf("%d idle processes", p.n)
	}
	return fmt.Sprintf("%d busy processes", p.n)
}

func (p population) kind() string {
	if p.hertz == 0 {
		return "idle"
	}
	return "busy"
}

// processes of a population that are alive until stop.
type processes struct {
	cmd   *exec.Cmd
	stdin io.Closer
	pids  []int
}

func startPopulation(ctx context.Context, p population, cache string) (*processes, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(cache, "idle"),
		strconv.Itoa(p.n), strconv.Itoa(fdsEach), strconv.Itoa(p.hertz))
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("pipe to %v: %w", p, err)
	}
	cmd.Cancel, cmd.WaitDelay = stdin.Close, endTimeout // it ends and reaps its children
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("pipe from %v: %w", p, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %v: %w", p, err)
	}
	all := &processes{cmd: cmd, stdin: stdin}
	if err := all.readPIDs(stdout); err != nil {
		all.stop()
		return nil, fmt.Errorf("start %v: %w", p, err)
	}
	return all, nil
}

func (p *processes) readPIDs(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if lines.Text() == "ready" {
			return nil
		}
		pid, err := strconv.Atoi(strings.TrimSpace(lines.Text()))
		if err != nil {
			return fmt.Errorf("read a PID: %w", err)
		}
		p.pids = append(p.pids, pid)
	}
	return io.ErrUnexpectedEOF
}

// cpu is what all of them have used so far.
func (p *processes) cpu() time.Duration {
	var sum time.Duration
	for _, pid := range p.pids {
		if t, err := processClock(pid); err == nil {
			sum += t
		}
	}
	return sum
}

func (p *processes) stop() {
	p.stdin.Close()
	_ = p.cmd.Wait() // it reaps its children; if it is killed, they die with it
}
