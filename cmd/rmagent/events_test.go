package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rmagent/internal/cmdline"
	"rmagent/record"
)

// In a time namespace, as a container may have, who ends is who ran, and began when it did.
func TestExitsInATimeNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a time namespace")
	}
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		t.Skip("the kernel has no time namespaces (5.6)")
	}
	cmd := agentCommand(t)
	self := cmd.Path
	var err error
	if cmd.Path, err = exec.LookPath("unshare"); err != nil {
		t.Fatal(err)
	}
	cmd.Args = []string{"unshare", "--time", "--boottime", "86400", "--monotonic", "86400", "--fork", "--kill-child",
		self, "run", "--source", "ebpf", "--interval", "100ms", "--jsonl", "out.jsonl", "--processes", "all", "--listen", ""}
	out := filepath.Join(cmd.Dir, "out.jsonl")
	agent := start(t, cmd)
	await(t, "a reading", func() bool { return lines(out, `"kind":"host"`) > 0 })
	begin := time.Now()
	p := helper(t, "still")
	pid := fmt.Sprintf(`"pid":%d,`, p.Process.Pid)
	await(t, "its record", func() bool { return lines(out, `"kind":"process"`, pid) > 0 })
	p.Kill()
	await(t, "the record of its end", func() bool { return lines(out, `"kind":"exit"`, pid) > 0 })
	agent.cmd.Process.Kill() // and its child with it
	agent.wait()
	var ran *record.Process
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b[:bytes.LastIndexByte(b, '\n')+1]) {
		r, err := record.Decode(line)
		if err != nil {
			t.Fatal(err)
		}
		switch r := r.(type) {
		case *record.Process:
			if int(r.PID) == p.Process.Pid {
				ran = r
			}
		case *record.Exit:
			if int(r.PID) != p.Process.Pid {
				continue
			}
			ended := r.ExitTime.Or(time.Time{})
			if r.StartTicks != ran.StartTicks || !r.StartTime.Or(time.Time{}).Equal(ran.StartTime.Or(begin)) || ended.Before(begin) || ended.After(time.Now()) {
				t.Errorf("%d ran since %d, %v; ended: %d, %v to %v", r.PID, ran.StartTicks, ran.StartTime, r.StartTicks, r.StartTime, ended)
			}
		}
	}
}

// TestWithoutEvents runs the agent in a PID namespace of its own, where the scan reads
// on and the hooks can't: what is lost is said once, and a process that ends is told of
// all the same.
func TestWithoutEvents(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a PID namespace")
	}
	cmd := agentCommand(t)
	self := cmd.Path
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	// cat ends with what it reads, and the agent when head does.
	const script = `"$0" run --interval 200ms --jsonl out.jsonl --log-format json & agent=$!
cat <&3 & head -c 1 <&4; kill $agent; wait $agent`
	cmd.Path, cmd.Args = unshare, []string{"unshare", "--pid", "--mount-proc", "--fork", "--kill-child", "sh", "-c", script, self}
	var ends [2]*os.File
	for i := range ends {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		cmd.ExtraFiles, ends[i] = append(cmd.ExtraFiles, r), w
	}
	out := filepath.Join(cmd.Dir, "out.jsonl")
	agent := start(t, cmd)
	for i, text := range []string{`"comm":"cat"`, `"kind":"exit"`} {
		await(t, "a record with "+text, func() bool { return lines(out, text) > 0 })
		ends[i].Close()
	}
	if status := agent.wait(); status != 0 {
		t.Fatalf("exit status %d: %s", status, agent.stderr.String())
	}
	said := agent.stderr.String()
	if strings.Count(said, "events_unavailable") != 1 || !strings.Contains(said, "PID namespace") {
		t.Errorf("not told once that there are no events, and why:\n%s", said)
	}
	all := records(t, out)
	gapless(t, all)
	seen := 0
	for _, p := range only[*record.Process](all) {
		if p.Source != record.SourceEBPF || p.NetReceivedBytesTotal.Known() {
			t.Errorf("%s (%d): read by %s, received %v", p.Comm, p.PID, p.Source, p.NetReceivedBytesTotal)
		}
		if p.Comm == "cat" {
			seen++
		}
	}
	if seen == 0 {
		t.Error("the process that ends was never read")
	}
	exits := only[*record.Exit](all)
	if len(exits) != 1 || exits[0].Comm != "cat" || !exits[0].Inferred || exits[0].ExitCode.Known() {
		t.Errorf("ends: %+v", exits)
	}
}

// TestAgentOfAnotherPIDNamespace: PIDs mean others to an agent outside, so nobody asks it.
// A job is measured all the same.
func TestAgentOfAnotherPIDNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a PID namespace")
	}
	agent := agentCommand(t, "run")
	self := agent.Path
	socket := filepath.Join(agent.Dir, "rmagent.sock")
	start(t, agent)
	await(t, "the agent's socket for jobs", func() bool { return exists(cmdline.JobsSocket(socket)) })
	const script = `"$0" snapshot --socket "$1" --pid $$ && "$0" headroom --socket "$1" --for 0 --json --pid $$ && "$0" exec --socket "$1" -O job -- true`
	cmd := agentCommand(t)
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Args = unshare, []string{"unshare", "--pid", "--mount-proc", "--fork", "--kill-child", "sh", "-c", script, self, socket}
	r := runToEnd(t, cmd)
	if r.status != 0 {
		t.Fatalf("exit status %d: %s", r.status, r.stderr)
	}
	if n := strings.Count(r.stdout, `"comm":"sh"`) + strings.Count(r.stdout, `"comm": "sh"`); n != 2 {
		t.Errorf("PID 1 is the shell in %d answers of 2:\n%s", n, r.stdout)
	}
	summary, err := os.ReadFile(filepath.Join(cmd.Dir, "job.summary"))
	if err != nil || strings.Contains(string(summary), `"measured_by":"agent"`) {
		t.Errorf("%s, %v", summary, err)
	}
}
