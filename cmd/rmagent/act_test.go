package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
	"rmagent/record"
)

// TestActions: a process that comes near its limit of descriptors is told of by a
// webhook, a command and a log line, and gets a signal; one that is protected does not.
func TestActions(t *testing.T) {
	each(t, func(t *testing.T, source string) {
		posted := make(chan record.ActionInput, 10)
		hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			var in record.ActionInput
			if json.Unmarshal(body, &in) == nil {
				posted <- in
			}
		}))
		defer hook.Close()
		ended, dry := helper(t, "fds"), helper(t, "fds")
		dir := t.TempDir()
		file := filepath.Join(dir, "rmagent.yaml")
		text := fmt.Sprintf(`
interval: 200ms
processes: none
actions:
  - {name: tell, kind: webhook, on: [state], targets: ["pid:%[1]d@*"], url: "%[3]s/hook"}
  - {name: run, kind: command, on: [state], targets: ["pid:%[1]d@*"], argv: [/bin/sh, -c, 'cat > %[4]s/in; grep SigIgn /proc/self/status']}
  - {name: end, kind: signal, on: [state], targets: ["pid:%[1]d@*"], signal: KILL}
  - {name: spare, kind: signal, on: [state], targets: ["pid:%[2]d@*"], signal: KILL, dry_run: true}
  - {name: say, kind: log, on: [state], targets: ["pid:%[1]d@*"]}
`, ended.PID(), dry.PID(), hook.URL, dir)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := agentCommand(t, "run", "--source", source, "--config", file, "--jsonl", "out.jsonl", "--log-file", "log", "--log-format", "json")
		out := filepath.Join(cmd.Dir, "out.jsonl")
		s := start(t, cmd)
		actions := func() map[string]*record.Action {
			byName := map[string]*record.Action{}
			for _, a := range only[*record.Action](wholeRecords(t, out)) {
				byName[a.Action] = a
			}
			return byName
		}
		await(t, "all actions", func() bool { return len(actions()) == 5 })
		if ended.Wait(); ended.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal() != unix.SIGKILL {
			t.Errorf("it ended with %v", ended.ProcessState)
		}
		in := <-posted
		checkInput(t, &in, ended)
		text2, err := os.ReadFile(filepath.Join(dir, "in"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text2, &in); err != nil {
			t.Fatal(err)
		}
		checkInput(t, &in, ended)
		for name, want := range map[string]record.Outcome{"tell": "done", "run": "done", "end": "done", "spare": "dry_run", "say": "done"} {
			if a := actions()[name]; a.Outcome != want || !strings.HasPrefix(a.Why, "High FD usage: ") || a.PID.Or(0) == 0 {
				t.Errorf("%+v", a)
			}
		}
		var ignored uint64
		if _, err := fmt.Sscanf(actions()["run"].Detail, "SigIgn: %x", &ignored); err != nil || ignored&(1<<(unix.SIGPIPE-1)) != 0 {
			t.Errorf("the command says %q (%v): it must not ignore SIGPIPE, or its pipes never end", actions()["run"].Detail, err)
		}
		if line := lineOfLog(t, filepath.Join(cmd.Dir, "log"), `"action":"say"`); !strings.Contains(line, "High FD usage: ") {
			t.Errorf("the log says %s", line)
		}
		s.stop()
		all := records(t, out)
		gapless(t, all)
		if n := len(only[*record.Action](all)); n != 5 {
			t.Errorf("%d attempts", n)
		}
		dry.Say("") // it lives
	})
}

// checkInput holds what a command or a webhook was given against the process.
func checkInput(t *testing.T, in *record.ActionInput, p *childtest.Child) {
	t.Helper()
	r, err := record.Decode(in.Record)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := r.(*record.StateChange)
	if !ok || s.State != record.StateCritical || s.Resource != "fd" || s.Limit.Or(0) != 200 || s.Target != in.Target.Or("") || in.PID.Or(0) != p.PID() || s.Seq == 0 {
		t.Errorf("%+v: %s", in, in.Record)
	}
}

// TestActionsOfRules: a rule's limit is broken, and the action that it names acts, but
// not on who is protected. The file that says so comes while the agent runs.
func TestActionsOfRules(t *testing.T) {
	spared, ended := helper(t, "fds"), helper(t, "fds")
	file := filepath.Join(t.TempDir(), "rmagent.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("interval: 200ms\nprocesses: none\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	cmd := agentCommand(t, "run", "--source", "procfs", "--config", file, "--jsonl", "out.jsonl")
	out := filepath.Join(cmd.Dir, "out.jsonl")
	s := start(t, cmd)
	await(t, "the first reading", func() bool { return len(only[*record.Host](wholeRecords(t, out))) > 0 })
	write(fmt.Sprintf(`
actions: [{name: end, kind: signal, signal: TERM}]
protected: ["name:nobody-is-called-so"]
tracked:
  - {label: a, pid: %d, max_fd: 100, actions: [end]}
`, ended.PID()))
	ended.Wait()
	write(fmt.Sprintf(`
actions: [{name: end, kind: signal, signal: TERM}]
protected: ["name:%s"]
tracked:
  - {label: b, pid: %d, max_fd: 100, actions: [end]}
`, strings.TrimSpace(content(t, fmt.Sprintf("/proc/%d/comm", spared.PID()))), spared.PID()))
	of := func(pid int32) (list []*record.Action) {
		for _, a := range only[*record.Action](wholeRecords(t, out)) {
			if a.PID.Or(0) == pid {
				list = append(list, a)
			}
		}
		return list
	}
	await(t, "the refusal", func() bool { return len(of(spared.PID())) > 0 })
	s.stop()
	if list := of(ended.PID()); len(list) != 1 || list[0].Outcome != record.OutcomeDone || list[0].Cause != "limit" {
		t.Errorf("%+v", list)
	}
	if list := of(spared.PID()); len(list) != 1 || list[0].Outcome != record.OutcomeRefused || list[0].Detail != "it is protected" {
		t.Errorf("%+v", list)
	}
	spared.Say("") // it lives
	gapless(t, records(t, out))
}
