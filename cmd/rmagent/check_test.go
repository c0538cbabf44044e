package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
	"rmagent/internal/cmdline"
	"rmagent/record"
)

// TestCheck asks about a process that has 190 of 200 descriptors open, before and
// after it closes them.
func TestCheck(t *testing.T) {
	full := helper(t, "fds")
	ask := func(files int, more ...string) (result, record.FDCheck) {
		t.Helper()
		args := append([]string{"check", "--json", "--pid", fmt.Sprint(full.Process.Pid), "--files", fmt.Sprint(files)}, more...)
		r := runToEnd(t, agentCommand(t, args...))
		var answer record.FDCheck
		if err := json.Unmarshal([]byte(r.stdout), &answer); err != nil {
			t.Fatalf("%v: %s%s", err, r.stdout, r.stderr)
		}
		return r, answer
	}
	open := descriptors(t, full)
	r, answer := ask(5)
	if r.status != exitRisky || answer.Open.Or(0) != open || answer.Limit.Or(0) != 200 || answer.Batch.Or(1) != 0 || answer.State.Or("") != record.StateCritical {
		t.Errorf("status %d, %d are open: %s", r.status, open, r.stdout)
	}
	if want := fmt.Sprintf("High FD usage: %d/200 (%d%%) for 5 files", open, (open+1)/2); answer.Message != want {
		t.Errorf("%q, want %q", answer.Message, want)
	}

	full.Say("")
	full.Ready()
	open = descriptors(t, full)
	fit := int(200*8/10 - 1 - open - 10)
	if r, answer := ask(fit); r.status != 0 || !answer.Safe.Or(false) || answer.Batch.Or(0) != uint64(fit) {
		t.Errorf("%d files, with %d open: status %d: %s", fit, open, r.status, r.stdout)
	}
	if r, answer := ask(fit + 1); r.status != exitRisky || answer.Safe.Or(true) {
		t.Errorf("%d files, with %d open: status %d: %s", fit+1, open, r.status, r.stdout)
	}
	if r, _ := ask(fit+1, "--margin", "0.1"); r.status != 0 {
		t.Errorf("with a margin of 10 %%: status %d: %s", r.status, r.stdout)
	}
	if r, _ := ask(fit, "--sockets", "1"); r.status != exitRisky {
		t.Errorf("with a socket: status %d: %s", r.status, r.stdout)
	}
}

// descriptors counts what a process has open.
func descriptors(t *testing.T, cmd *childtest.Child) uint64 {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return uint64(len(entries))
}

// TestCheckOfTheCaller: what a shell may open, its children may; a page for people,
// and the warning in a file of its own.
func TestCheckOfTheCaller(t *testing.T) {
	agent := agentCommand(t, "check", "--files", "400", "--warnings-file", "warnings")
	shell := exec.Command("sh", "-c", `ulimit -n 256; "$@"; exit $?`, "sh")
	shell.Args = append(shell.Args, agent.Args...)
	shell.Env, shell.Dir = agent.Env, agent.Dir
	r := runToEnd(t, shell)
	if r.status != exitRisky || r.stderr != "" {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
	for _, want := range []string{"RISKY: High FD usage: ", "/256 (", "for 400 files", "Consider transferring fewer files or increasing limits", "ulimit -n 1024"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in\n%s", want, r.stdout)
		}
	}
	warnings, err := os.ReadFile(filepath.Join(agent.Dir, "warnings"))
	if err != nil || !strings.Contains(string(warnings), "High FD usage: ") || !strings.Contains(string(warnings), `"batch":`) {
		t.Errorf("%v: %s", err, warnings)
	}
}

// TestCheckOfWhatCannotBeTold: a process has more descriptors than its limit, which was
// lowered since. How many are below it only its table tells, which somebody else may not
// read: that is no number, and an exit status of its own.
func TestCheckOfWhatCannotBeTold(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to be somebody else")
	}
	full := helper(t, "fds")
	if err := unix.Prlimit(full.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: 200}, nil); err != nil {
		t.Fatal(err)
	}
	cmd := builtAgent(t, "check", "--json", "--pid", fmt.Sprint(full.Process.Pid), "--files", "5")
	if err := os.Chmod(builtDir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Dir = openDir(t)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	r := runToEnd(t, cmd)
	var answer record.FDCheck
	if err := json.Unmarshal([]byte(r.stdout), &answer); err != nil {
		t.Fatalf("%v: %s%s", err, r.stdout, r.stderr)
	}
	if r.status != exitUnknown || answer.Safe.Known() || answer.Open.Known() || answer.Batch.Known() || answer.Message == "" {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
}

func TestCheckStatus(t *testing.T) {
	for _, c := range []struct {
		safe record.Opt[bool]
		want error
	}{{record.Some(true), nil}, {record.Some(false), cmdline.StatusError(3)}, {record.Opt[bool]{}, cmdline.StatusError(4)}} {
		if got := checkStatus(&record.FDCheck{Safe: c.safe}); !errors.Is(got, c.want) {
			t.Errorf("%v: %v", c.safe, got)
		}
	}
}

// Nor does a process that has ended, and that nobody waited for.
func TestCheckOfAZombie(t *testing.T) {
	dead := exec.Command("true")
	if err := dead.Start(); err != nil {
		t.Fatal(err)
	}
	defer dead.Wait()
	pid := dead.Process.Pid
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	r := runToEnd(t, agentCommand(t, "check", "--files", "5", "--pid", fmt.Sprint(pid)))
	if want := fmt.Sprintf("CANNOT TELL: pid %d (true) is a zombie: it has ended, and its descriptors", pid); r.status != exitUnknown || !strings.HasPrefix(r.stdout, want) {
		t.Errorf("exit status %d, %s%s; want %q", r.status, r.stdout, r.stderr, want)
	}
}

// A kernel thread opens no files: whether more would be safe can't be told.
func TestCheckOfAKernelThread(t *testing.T) {
	if comm, _ := os.ReadFile("/proc/2/comm"); string(comm) != "kthreadd\n" {
		t.Skip("there are no kernel threads in this PID namespace")
	}
	r := runToEnd(t, agentCommand(t, "check", "--files", "5", "--pid", "2"))
	if want := "CANNOT TELL: pid 2 (kthreadd) is a kernel thread: it has no descriptors\n"; r.status != exitUnknown || !strings.HasPrefix(r.stdout, want) {
		t.Errorf("exit status %d: %s%s", r.status, r.stdout, r.stderr)
	}
}
