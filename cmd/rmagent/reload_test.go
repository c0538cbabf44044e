package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/record"
)

// TestReload changes the configuration under a running agent, in every way: a new file
// renamed over the old one, a wrong one, SIGHUP, and keys that must wait.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "rmagent.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("interval: 200ms\nprocesses: none\n")
	cmd := agentCommand(t, "run", "--source", "procfs", "--config", file, "--jsonl", "out.jsonl", "--log-file", "log", "--log-format", "json")
	out, log := filepath.Join(cmd.Dir, "out.jsonl"), filepath.Join(cmd.Dir, "log")
	s := start(t, cmd)
	configs := func() []*record.Config { return only[*record.Config](wholeRecords(t, out)) }
	says := func(what string) int { return strings.Count(content(t, log), what) }

	await(t, "the first configuration", func() bool { return len(configs()) == 1 })
	write("interval: 100ms\nprocesses: none\njsonl: other.jsonl\nthresholds: {fd: {warning: 0.85}}\n")
	await(t, "the second configuration", func() bool { return len(configs()) == 2 })
	two := configs()
	if two[0].Hash == two[1].Hash || two[1].Values["interval"] != "100ms" || two[1].Values["jsonl"] != "out.jsonl" {
		t.Errorf("the second configuration: %+v", two[1])
	}
	if line := lineOfLog(t, log, "config_reloaded"); !strings.Contains(line, `"changed":["interval","thresholds.fd.warning"]`) {
		t.Errorf("the log says %s", line)
	}

	write("interval: 100ms\nintervall: 3s\nprocesses: some\n")
	await(t, "the refusal", func() bool { return says("config_refused") > 0 })
	hosts := len(only[*record.Host](wholeRecords(t, out)))
	await(t, "readings at the old interval", func() bool { return len(only[*record.Host](wholeRecords(t, out))) > hosts+5 })
	if n := says("config_refused"); n != 1 || len(configs()) != 2 {
		t.Errorf("%d refusals, %d configurations", n, len(configs()))
	}
	line := lineOfLog(t, log, "config_refused")
	for _, want := range []string{file + ":2: intervall: there is no such key", file + ":3: processes: ", `"in_force"`} {
		if !strings.Contains(line, want) {
			t.Errorf("%s does not say %s", line, want)
		}
	}

	write("interval: 300ms\nprocesses: none\nsource: ebpf\n")
	if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await(t, "the third configuration", func() bool { return len(configs()) > 2 })
	if last := configs()[2]; last.Values["interval"] != "300ms" || last.Values["source"] != "procfs" {
		t.Errorf("the third configuration: %+v", last)
	}
	s.stop()
	gapless(t, records(t, out))
}

// TestReloadWhatWaits: a key that takes effect at the next start is named.
func TestReloadWhatWaits(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rmagent.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("source: procfs\n")
	cmd := agentCommand(t, "run", "--config", file, "--interval", "100ms", "--log-file", "log", "--log-format", "json")
	s := start(t, cmd)
	log := filepath.Join(cmd.Dir, "log")
	await(t, "the start", func() bool { return strings.Contains(content(t, log), `"started"`) })
	write("source: auto\ninterval: 3s\nlog_level: debug\n") // which the flag --interval overrides
	await(t, "the reload", func() bool { return strings.Contains(content(t, log), "config_reloaded") })
	if line := lineOfLog(t, log, "config_reloaded"); !strings.Contains(line, `"changed":["log_level"],"needs_restart":["source"]`) {
		t.Errorf("the log says %s", line)
	}
	s.stop()
}

// content is a file's, or nothing while it is not there.
func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

// lineOfLog is the first line of a log that has a word.
func lineOfLog(t *testing.T, path, word string) string {
	t.Helper()
	for line := range strings.Lines(content(t, path)) {
		if strings.Contains(line, word) {
			return line
		}
	}
	t.Fatalf("no line of the log says %s", word)
	return ""
}

// TestHistoryFillsAgain: an agent begins with what the one before has written.
func TestHistoryFillsAgain(t *testing.T) {
	cmd := agentCommand(t, "run", "--source", "procfs", "--interval", "100ms", "--duration", "700ms", "--jsonl", "out.jsonl")
	if r := runToEnd(t, cmd); r.status != 0 {
		t.Fatal(r.stderr)
	}
	hosts := len(only[*record.Host](records(t, filepath.Join(cmd.Dir, "out.jsonl"))))
	again := agentCommand(t, append(cmd.Args[1:], "--log-file", "log", "--log-format", "json")...)
	again.Dir, again.Env = cmd.Dir, cmd.Env
	if r := runToEnd(t, again); r.status != 0 {
		t.Fatal(r.stderr)
	}
	line := lineOfLog(t, filepath.Join(cmd.Dir, "log"), "history_filled")
	var filled struct {
		Records, Skipped int
		Whole            bool
	}
	if err := json.Unmarshal([]byte(line), &filled); err != nil || filled.Records < hosts || filled.Skipped != 0 || !filled.Whole {
		t.Errorf("of %d readings: %v, %s", hosts, err, line)
	}
}
