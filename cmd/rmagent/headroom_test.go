package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"rmagent/record"
)

func decode(t *testing.T, r result, v any) {
	t.Helper()
	if r.status != 0 {
		t.Fatalf("exit status %d: %s", r.status, r.stderr)
	}
	if err := json.Unmarshal([]byte(r.stdout), v); err != nil {
		t.Fatalf("%v: %.300s", err, r.stdout)
	}
}

// Where /proc is of another PID namespace, a PID is another process's there: nobody tells of
// that process instead.
func TestAForeignProc(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a PID namespace")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"headroom", "--local", "--pid", "1"}, {"check", "--files", "5", "--pid", "1"}, {"snapshot", "--local", "--source", "procfs"}} {
		cmd := agentCommand(t, args...)
		cmd.Args = slices.Concat([]string{"unshare", "--pid", "--fork", "--kill-child", cmd.Path}, args)
		cmd.Path = unshare
		r := runToEnd(t, cmd)
		if r.status != 1 || r.stdout != "" || !strings.Contains(r.stderr, "rmagent: /proc is of another PID namespace") {
			t.Errorf("%q: exit status %d, %s%s", args, r.status, r.stdout, r.stderr)
		}
	}
}

func TestHeadroomOfOneProcess(t *testing.T) {
	pid := fmt.Sprint(helper(t, "fds").Process.Pid)
	var h record.Headroom
	decode(t, runToEnd(t, agentCommand(t, "headroom", "--pid", pid, "--for", "50ms", "--json", "--local")), &h)
	l := h.FirstInSpace
	if l == nil || l.Name != "RLIMIT_NOFILE" || l.Limit.Or(0) != 200 || l.Used.Or(0) < 190 || l.Available.Or(99) > 10 {
		t.Fatalf("%+v", l)
	}
	if !l.RatePerSecond.Known() || fmt.Sprint(h.PID) != pid || h.StartTicks == 0 || !h.StartTime.Known() {
		t.Errorf("%+v", h)
	}

	r := runToEnd(t, agentCommand(t, "headroom", "--pid", pid, "--for", "0s"))
	for _, want := range []string{"(pid " + pid + ")", "first in space  RLIMIT_NOFILE of process", "then:  EMFILE", "ulimit -n 400", "machine\n", "MemAvailable", "unlimited: "} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("it does not say %q:\n%s", want, r.stdout)
		}
	}
	if strings.Contains(r.stdout, "first in time") || strings.Contains(r.stdout, "\x1b") {
		t.Errorf("after one reading, to no terminal:\n%s", r.stdout)
	}
	for line := range strings.Lines(r.stdout) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 && !strings.HasPrefix(line, "/") && !strings.HasPrefix(line, "cgroup ") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// TestHeadroomOfSeveral shows those that are there, and names those that are not.
func TestHeadroomOfSeveral(t *testing.T) {
	a, b := fmt.Sprint(helper(t, "still").Process.Pid), fmt.Sprint(helper(t, "still").Process.Pid)
	r := runToEnd(t, agentCommand(t, "headroom", "--pid", a, "--pid", "4194303", "--pid", b, "--for", "0s", "--json"))
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	if r.status != 1 || len(lines) != 2 || !strings.Contains(lines[0], `"pid":`+a) || !strings.Contains(lines[1], `"pid":`+b) ||
		!strings.Contains(r.stderr, "no process has PID 4194303") {
		t.Errorf("exit status %d, %d lines, stderr %q", r.status, len(lines), r.stderr)
	}
}

func TestHeadroomOfTheHost(t *testing.T) {
	near, far := helper(t, "fds").Process.Pid, helper(t, "still").Process.Pid
	var list record.HeadroomList
	decode(t, runToEnd(t, agentCommand(t, "headroom", "--for", "20ms", "--top", "0", "--json")), &list)
	at := func(pid int) int {
		return slices.IndexFunc(list.Processes, func(h record.Headroom) bool { return h.PID == int32(pid) })
	}
	i, j := at(near), at(far)
	if i < 0 || j < 0 || i > j {
		t.Fatalf("at %d and %d of %d", i, j, len(list.Processes))
	}
	if l := list.Processes[i].FirstInSpace; l.Name != "RLIMIT_NOFILE" || l.Limit.Or(0) != 200 {
		t.Errorf("%+v", l)
	}
	if list.Evaluated != len(list.Processes) || !slices.ContainsFunc(list.Machine, func(l record.HeadroomLimit) bool { return l.Name == "MemAvailable" && l.Known }) {
		t.Errorf("%d evaluated, %d shown, machine %+v", list.Evaluated, len(list.Processes), list.Machine)
	}

	hostile := helper(t, "hostile").Process.Pid
	r := runToEnd(t, agentCommand(t, "headroom", "--for", "0s", "--top", "0"))
	if !strings.Contains(r.stdout, fmt.Sprint(hostile)) || strings.Contains(r.stdout, "\x1b") || r.status != 0 {
		t.Errorf("exit status %d: %.500q", r.status, r.stdout)
	}
	r = runToEnd(t, agentCommand(t, "headroom", "--for", "0s", "--name", "none-is-called-so"))
	if r.status != 0 || !strings.Contains(r.stdout, "no process") {
		t.Errorf("exit status %d: %s", r.status, r.stdout)
	}
}
