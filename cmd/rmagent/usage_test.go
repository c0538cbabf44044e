package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// Each mistake is one line that names it, and nothing else happens.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		args   string
		status int
		says   []string
	}{
		{"snapsho", 2, []string{`"snapsho"`, "snapshot"}},
		{"rn", 2, []string{`rmagent: unknown command "rn"; did you mean run?; there are run, snapshot`}},
		{"--bogus", 2, []string{"rmagent: unknown flag --bogus (rmagent --help lists the commands)"}},
		{"--version", 2, []string{"rmagent: unknown flag --version; it is rmagent version"}},
		{"-v", 2, []string{"rmagent: unknown flag -v; it is rmagent version"}},
		{"--interval 5s run", 2, []string{"rmagent: unknown flag --interval before the command; it goes behind: rmagent COMMAND --interval"}},
		{"run --intervall 5s", 2, []string{"rmagent: run: unknown flag --intervall; did you mean --interval? (rmagent run --help"}},
		{"run -x", 2, []string{"rmagent: run: unknown flag -x (rmagent run --help"}},
		{"run --bogus", 2, []string{"run", "--bogus"}},
		{"run --interval", 2, []string{"--interval", "needs a value"}},
		{"run --interval soon", 2, []string{"interval", `soon`, "allowed"}},
		{"run --interval 0s", 2, []string{"interval", "allowed"}},
		{"run --source magic", 2, []string{"source", "magic", "auto, ebpf or procfs"}},
		{"run --processes some", 2, []string{"processes", "some", "active, all or none"}},
		{"run --cpu-budget 1.5", 2, []string{"cpu-budget", "1.5", "allowed"}},
		{"run --hooks exits,nonsense", 2, []string{"hooks", "nonsense"}},
		{"run --log-level loud", 2, []string{"log-level", "loud"}},
		{"run extra", 2, []string{"run", `"extra"`}},
		{"run --config " + filepath.Join(dir, "none.yaml"), 2, []string{"none.yaml", "no such file"}},
		{"run --config " + write("key.yaml", "interval: 1s\nintervall: 2s\n"), 2, []string{"key.yaml:2", "intervall", "interval"}},
		{"run --config " + write("type.yaml", "\n\nthresholds:\n  fd:\n    warning: lots\n"), 2, []string{"type.yaml:5", "thresholds.fd.warning"}},
		{"run --config " + write("order.yaml", "thresholds:\n  fd:\n    warning: 0.95\n"), 2, []string{"order.yaml:3", "thresholds.fd", "info <= warning <= critical"}},
		{"config --config " + write("tabs.yaml", "interval:\t1s\n\t- x\n"), 2, []string{"tabs.yaml"}},
		{"snapshot --pid 0", 2, []string{"--pid 0", "allowed"}},
		{"snapshot --pid 4194304", 2, []string{"--pid 4194304", "1 to 4194303"}},
		{"snapshot --pid x", 2, []string{"pid", `"x"`}},
		{"snapshot --pid 1,2", 2, []string{`snapshot: --pid: "1,2" is not a whole number; for several, repeat the flag`}},
		{"headroom --top many", 2, []string{`headroom: --top: "many" can't be understood`}},
		{"headroom --for soon", 2, []string{`headroom: --for: "soon" can't be understood`}},
		{"check --files 1 --margin much", 2, []string{`check: --margin: "much" can't be understood`}},
		{"fds --json=perhaps", 2, []string{`fds: --json: "perhaps" can't be understood`}},
		{"help snapsho", 2, []string{`"snapsho"`, "snapshot"}},
		{"replay " + dir, 2, []string{"replay: " + dir + " is a directory: name the files in it"}},
		{"category " + dir, 2, []string{"category: " + dir + " is a directory: name the files in it"}},
		{"replay x.jsonl --quiet", 2, []string{"replay: flags come before the files: found --quiet behind x.jsonl"}},
		{"category x.summary --json", 2, []string{"category: flags come before the files: found --json"}},
		{"check --files 1 --pid 1 --pid 2", 2, []string{"--pid 1 and 2", "one process"}},
		{"run --jsonl x --log-file ./x", 2, []string{"log_file", "jsonl", "a file of its own"}},
		{"run --config " + write("same.yaml", "log_file: /x/y\nwarnings_file: /x/y\n"), 2, []string{"same.yaml:2", "warnings_file", "log_file"}},
		{"snapshot --name [", 2, []string{`"["`}},
		{"snapshot --pid 4194303", 1, []string{"4194303"}},
		{"headroom --pid 4194303 --for 0s", 1, []string{"no process", "4194303"}},
		{"headroom --pid 0", 2, []string{"--pid 0", "allowed"}},
		{"headroom --for -1s", 2, []string{"--for -1s", "allowed"}},
		{"headroom --top -1", 2, []string{"--top -1", "allowed"}},
		{"headroom --pid 1 --name x", 2, []string{"--pid", "--name"}},
		{"check", 2, []string{"--files"}},
		{"check --files -1", 2, []string{"--files", `"-1"`, "allowed"}},
		{"check --files many", 2, []string{"--files", `"many"`, "allowed"}},
		{"check --files 1 --sockets 1e3", 2, []string{"--sockets", `"1e3"`, "allowed"}},
		{"check --files 1 --margin 20", 2, []string{"--margin 20", "allowed"}},
		{"check --files 1 --pid 0", 2, []string{"--pid 0", "allowed"}},
		{"check --files 1 --pid 4194303", 1, []string{"no process", "4194303"}},
		{"run --jsonl " + dir + "/none/x.jsonl --duration 1s", 1, []string{"none/x.jsonl", "no such file"}},
		{"run --log-file " + dir + "/none/x.log --duration 1s", 1, []string{"none/x.log", "no such file"}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			r := runToEnd(t, agentCommand(t, strings.Fields(tt.args)...))
			if r.status != tt.status {
				t.Errorf("exit status %d, want %d", r.status, tt.status)
			}
			if r.stdout != "" {
				t.Errorf("it wrote to stdout: %q", r.stdout)
			}
			line := mistake(r.stderr)
			for _, want := range tt.says {
				if !strings.Contains(line, want) {
					t.Errorf("%q does not say %q", line, want)
				}
			}
			if strings.Contains(line, "strconv") {
				t.Errorf("%q is said in a programmer's words", line)
			}
			if n := strings.Count(line, "\n"); n != 1 {
				t.Errorf("%d lines say what is wrong:\n%s", n, line)
			}
		})
	}
}

// mistake is what stderr says beside the log.
func mistake(stderr string) string {
	var lines []string
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "rmagent: ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func TestHelp(t *testing.T) {
	for _, args := range []string{"", "--help", "run --help", "snapshot --help", "headroom --help", "check --help", "doctor --help", "config --help", "version --help"} {
		r := runToEnd(t, agentCommand(t, strings.Fields(args)...))
		if r.status != 0 || r.stderr != "" || !strings.Contains(r.stdout, "USAGE") {
			t.Errorf("%q: exit status %d, stderr %q, stdout %q", args, r.status, r.stderr, r.stdout)
		}
	}
}

func TestHelpIsACommandToo(t *testing.T) {
	for words, same := range map[string]string{"help": "--help", "help fds": "fds --help"} {
		got := runToEnd(t, agentCommand(t, strings.Fields(words)...))
		want := runToEnd(t, agentCommand(t, strings.Fields(same)...))
		if got.status != 0 || got.stdout != want.stdout || got.stderr != "" {
			t.Errorf("%s: exit status %d, %q", words, got.status, got.stdout)
		}
	}
}

func TestVersion(t *testing.T) {
	r := runToEnd(t, agentCommand(t, "version"))
	for _, want := range []string{"rmagent ", "commit ", "go ", "bpf "} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%q does not say %q", r.stdout, want)
		}
	}
	var v versions
	decode(t, runToEnd(t, agentCommand(t, "version", "--json")), &v)
	for _, part := range []string{v.Version, v.Commit, v.Go, v.BPF, v.OS + "/" + v.Arch} {
		if part == "" || !strings.Contains(r.stdout, part) {
			t.Errorf("%q of %+v is not in %q", part, v, r.stdout)
		}
	}
}

func TestConfigSaysWhereFrom(t *testing.T) {
	cmd := agentCommand(t, "config", "--interval", "3s")
	cmd.Env = append(cmd.Env, "RMAGENT_PROCESSES=all")
	r := runToEnd(t, cmd)
	for _, want := range [][2]string{{"interval: 3s", "--interval"}, {"processes: all", "RMAGENT_PROCESSES"}, {"source: auto", "default"}} {
		found := false
		for line := range strings.Lines(r.stdout) {
			found = found || strings.HasPrefix(line, want[0]) && strings.Contains(line, want[1])
		}
		if !found {
			t.Errorf("no line says %s and %s:\n%s", want[0], want[1], r.stdout)
		}
	}
	cmd = agentCommand(t, "config", "--interval", "3s", "--json")
	cmd.Env = append(cmd.Env, "RMAGENT_PROCESSES=all")
	var e effective
	decode(t, runToEnd(t, cmd), &e)
	if len(e.Hash) != 64 || e.Values["interval"] != "3s" || e.Origins["interval"] != "--interval" ||
		e.Origins["processes"] != "environment RMAGENT_PROCESSES" || e.Origins["thresholds.fd.info"] != "default" {
		t.Errorf("%+v", e)
	}
}

// A file that is no recording is named, not played as one in which nothing happened.
func TestReplayOfNoRecording(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(path, []byte("hello\nworld\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := runToEnd(t, agentCommand(t, "replay", path))
	if r.status != 1 || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "no record in it: "+path+":1: ") {
		t.Errorf("exit status %d, %q, %q", r.status, r.stdout, r.stderr)
	}
}

func TestDoctor(t *testing.T) {
	r := runToEnd(t, agentCommand(t, "doctor"))
	for _, want := range []string{"kernel", "source", "HOOK", "exits", "FIELD", "fd_open"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("it does not say %q:\n%s", want, r.stdout)
		}
	}
	fitsColumns(t, r.stdout)
	fitsColumns(t, runToEnd(t, agentCommand(t, "check", "--files", "9999999")).stdout)
	if r := runToEnd(t, agentCommand(t, "doctor", "--json")); r.status != 0 || !strings.HasPrefix(r.stdout, "{") {
		t.Errorf("exit status %d: %.200s", r.status, r.stdout)
	}
}

// fitsColumns wants lines for which a terminal of 80 columns has room.
func fitsColumns(t *testing.T, text string) {
	t.Helper()
	if text == "" {
		t.Error("no text")
	}
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
}
