package act

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/record"
)

// keptOutput is how much of what a command writes is in its record.
const keptOutput = 4 << 10

// leftBehind is how long the output of a command is waited for after its end: a process
// that it left behind may have it open for ever.
const leftBehind = time.Second

// command runs the program of a job.
func (r *Runner) command(j *job) {
	if j.dryRun {
		res := result{outcome: record.OutcomeDryRun, attempt: 1}
		if _, err := exec.LookPath(j.action.Argv[0]); err != nil {
			res.detail = "it could not be run: " + err.Error()
		}
		r.emit(j, res)
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, j.action.TimeLimit)
	defer cancel()
	begin := time.Now()
	output, err := runCommand(ctx, j.action.Argv, j.input)
	res := result{outcome: record.OutcomeDone, detail: output, attempt: 1, took: time.Since(begin)}
	switch {
	case r.ctx.Err() != nil && err != nil:
		res.outcome, res.detail = record.OutcomeFailed, "killed, for the agent ended"
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && err != nil:
		res.outcome = record.OutcomeTimedOut
		res.detail = with(fmt.Sprintf("killed after %v", j.action.TimeLimit), output)
	case err != nil:
		res.outcome, res.detail = record.OutcomeFailed, with(err.Error(), output)
	}
	r.emit(j, res)
}

func with(what, output string) string {
	if output == "" {
		return what
	}
	return what + ": " + output
}

// runCommand runs a program in a process group of its own, which is killed when ctx
// ends.
func runCommand(ctx context.Context, argv []string, input []byte) (output string, err error) {
	var out head
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.Stdin = bytes.NewReader(append(input, '\n'))
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = leftBehind
	cmd.Cancel = func() error {
		// While its leader is not reaped, no other group can have the number.
		if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
			return err
		}
		return unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	}
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well, and left a process behind
	}
	return strings.TrimSpace(record.Text(out.kept)), err
}

// environment is what a command needs; the agent's own may hold secrets.
func environment() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"HOME", "LANG"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// head keeps the beginning of what is written to it.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), keptOutput-len(h.kept))]...)
	return len(p), nil
}
