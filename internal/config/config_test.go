package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"rmagent/internal/policy"
)

func TestDefaultsAreValid(t *testing.T) {
	l, err := Load(Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	if l.Interval != time.Second || l.Source != "auto" || l.Thresholds["fd"].Warning != 0.8 || l.Socket == "" {
		t.Errorf("got %+v", l.Config)
	}
	if len(l.Notes) != 0 {
		t.Errorf("notes: %q", l.Notes)
	}
	for _, k := range keys { // the defaults pass their own parser
		if k.form == formList || k.form == formItems {
			continue
		}
		if _, err := k.parse(strings.Trim(show(k.def), `"`)); err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
	}
}

// TestLaterLayersWin sets one key in every layer, and takes the layers away from
// the top.
func TestLaterLayersWin(t *testing.T) {
	in := Inputs{
		Path: "rmagent.yaml", File: []byte("# a comment\ncheck_interval: 3\n"),
		Environ: []string{"RMAGENT_CHECK_INTERVAL=6s", "CHECK_INTERVAL=5"},
		Flags:   map[string]string{"check-interval": "7s"},
	}
	steps := []struct {
		remove func()
		want   time.Duration
		origin string
	}{
		{func() {}, 7 * time.Second, "--check-interval"},
		{func() { in.Flags = nil }, 6 * time.Second, "environment RMAGENT_CHECK_INTERVAL"},
		{func() { in.Environ = in.Environ[1:] }, 5 * time.Second, "environment CHECK_INTERVAL"},
		{func() { in.Environ = nil }, 3 * time.Second, "rmagent.yaml:2"},
		{func() { in.Path, in.DotEnv = "", []byte("\nCHECK_INTERVAL=4 # seconds") }, 4 * time.Second, ".env:2"},
		{func() { in.DotEnv = []byte("\ufeffCHECK_INTERVAL=5\r\n") }, 5 * time.Second, ".env:1"}, // as Windows' editors write it
		{func() { in.DotEnv = nil }, time.Second, "default"},
	}
	for _, s := range steps {
		s.remove()
		l, err := Load(in)
		if err != nil {
			t.Fatal(err)
		}
		if l.CheckInterval != s.want || l.Origin("check_interval").String() != s.origin {
			t.Errorf("got %v from %s, want %v from %s", l.CheckInterval, l.Origin("check_interval"), s.want, s.origin)
		}
	}
}

const full = `
source: procfs
interval: 250ms
log_level: debug
log_format: json
log_file: /var/log/rmagent.log
warnings_file: /var/log/rmagent-warnings.log
jsonl: "-"
processes: all
with_cmdline: true
hooks: [exit, net]
duration: 1m30s
cpu_budget: 0.05
socket: /tmp/s
thresholds:
  fd: {info: 0.5, warning: 0.6, critical: 0.7, hysteresis: 0.01, hold: 1}
  memory:
    critical: 1
max_network_usage_bytes_per_second: 8MiB
gpu: off
`

func TestFile(t *testing.T) {
	l, err := Load(Inputs{Path: "f", File: []byte(full)})
	if err != nil {
		t.Fatal(err)
	}
	def, _ := Load(Inputs{})
	want := Config{
		Source: "procfs", Interval: 250 * time.Millisecond, LogLevel: "debug", LogFormat: "json",
		LogFile: "/var/log/rmagent.log", WarningsFile: "/var/log/rmagent-warnings.log", JSONL: "-", Processes: "all",
		WithCmdline: true, GPU: "off", Hooks: []string{"exit", "net"}, Duration: 90 * time.Second, CPUBudget: 0.05, FDTracing: "auto", Socket: "/tmp/s", Listen: "127.0.0.1:9475",
		Thresholds: def.Thresholds, Prune: def.Prune, PredictionHorizon: time.Hour, Tracked: []Tracked{}, Actions: []Action{},
	}
	want.Thresholds["fd"] = policy.Threshold{Info: 0.5, Warning: 0.6, Critical: 0.7, Hysteresis: 0.01, Hold: time.Second}
	memory := want.Thresholds["memory"]
	memory.Critical = 1
	want.Thresholds["memory"] = memory
	want.MaxNetworkUsageBytesPerSecond = 8 << 20
	if diff := cmp.Diff(want, l.Config); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := l.Origin("thresholds.memory.critical").String(); got != "f:18" {
		t.Errorf("origin %s, want f:18", got)
	}
}

func TestEnvironmentAndFlags(t *testing.T) {
	l, err := Load(Inputs{
		Environ: []string{"RMAGENT_HOOKS=exit, net", "RMAGENT_WITH_CMDLINE=true", "RMAGENT_THRESHOLDS_FD_INFO=0.1", "PATH=/bin", "=x", "OTHER",
			"RMAGENT_SERVICE_HOST=10.0.0.1", "RMAGENT_PORT=tcp://10.0.0.1:9475", "RMAGENT_PORT_9475_TCP_ADDR=10.0.0.1", "RMAGENT_SERVICE_PORT=9475"},
		Flags: map[string]string{"jsonl": "", "log-level": "warn", "pid": "7"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(l.Hooks, []string{"exit", "net"}) || !l.WithCmdline || l.Thresholds["fd"].Info != 0.1 || l.LogLevel != "warn" {
		t.Errorf("got %+v", l.Config)
	}
}

func TestPolicyIsValid(t *testing.T) {
	for _, in := range []Inputs{{}, yamlOf(full)} {
		l, err := Load(in)
		if err != nil {
			t.Fatal(err)
		}
		p := l.Policy(0)
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
	}
	l, _ := Load(Inputs{})
	if diff := cmp.Diff(policy.Default(), l.Policy(0), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("not the policy's defaults (-want +got):\n%s", diff)
	}
}

// TestManyProblems: a file that is wrong throughout is refused in short.
func TestManyProblems(t *testing.T) {
	_, err := Load(yamlOf(strings.Repeat("? [x]\n: y\n", 10000)))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxProblems+1 || lines[maxProblems] != "and 9980 more" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

func TestHookNames(t *testing.T) {
	for text, want := range map[string]struct {
		names  []string
		custom bool
	}{"default": {nil, false}, "none": {[]string{}, true}, "exit,net": {[]string{"exit", "net"}, true}} {
		l, err := Load(Inputs{Flags: map[string]string{"hooks": text}, Hooks: []string{"exit", "net"}})
		if err != nil {
			t.Fatal(err)
		}
		names, custom := l.HookNames()
		if diff := cmp.Diff(want.names, names); diff != "" || custom != want.custom {
			t.Errorf("%s: got %v, %v", text, names, custom)
		}
	}
}

// TestProblems: each mistake is named by place and key, on one line.
func TestProblems(t *testing.T) {
	for _, c := range []struct {
		name string
		in   Inputs
		want string
	}{
		{"unknown key", yamlOf("intervall: 1s"), "f:1: intervall: there is no such key; did you mean interval?"},
		{"dashes", yamlOf("\nlog-level: info"), "f:2: log-level: there is no such key; did you mean log_level?"},
		{"nothing near", yamlOf("zebra: 1"), "f:1: zebra: there is no such key"},
		{"nested", yamlOf("thresholds:\n  fd:\n    warnin: 0.5"), "f:3: thresholds.fd.warnin: there is no such key; did you mean thresholds.fd.warning?"},
		{"resource", yamlOf("thresholds:\n  fds: {}"), "f:2: thresholds.fds: there is no such key; did you mean thresholds.fd?"},
		{"range", yamlOf("interval: 1ms"), "f:1: interval: 1ms is out of range; allowed: a duration from 100ms to 1h"},
		{"negative", yamlOf("interval: -1"), `f:1: interval: "-1" is not a duration such as 500ms, 10s, 1m30s or 2d; allowed: a duration from 100ms to 1h`},
		{"type", yamlOf("interval: [1, 2]"), "f:1: interval: it is a list; allowed: a duration from 100ms to 1h"},
		{"type on its own line", yamlOf("interval:\n  a: b"), "f:2: interval: it is a mapping; allowed: a duration from 100ms to 1h"},
		{"bool", yamlOf("with_cmdline: 1"), "f:1: with_cmdline: it is the number 1; allowed: true or false"},
		{"number as text", yamlOf("cpu_budget: lots"), `f:1: cpu_budget: it is the text "lots"; allowed: a number from 0 to 1`},
		{"NaN", yamlOf("cpu_budget: .nan"), `f:1: cpu_budget: ".nan" is not a number; allowed: a number from 0 to 1`},
		{"whole", yamlOf("rolling_window_size: 1.5"), "f:1: rolling_window_size: 1.5 is not whole; allowed: a whole number from 1 to 100000"},
		{"null", yamlOf("jsonl:"), "f:1: jsonl: it is empty; allowed: a path, or - for stdout"},
		{"word", yamlOf("source: epbf"), `f:1: source: "epbf" is none of these; did you mean ebpf?; allowed: auto, ebpf or procfs`},
		{"hook", Inputs{Flags: map[string]string{"hooks": "exits"}, Hooks: []string{"exit"}}, `--hooks: hooks: "exits" is no hook; did you mean exit?; there are exit; allowed: default, none, or a list of hook names (rmagent doctor shows them)`},
		{"hooks mixed", Inputs{Flags: map[string]string{"hooks": "none,exit"}}, `--hooks: hooks: "none" stands alone; allowed: default, none, or a list of hook names (rmagent doctor shows them)`},
		{"hooks empty", yamlOf("hooks: []"), `f:1: hooks: it is empty; allowed: default, none, or a list of hook names (rmagent doctor shows them)`},
		{"socket", Inputs{Flags: map[string]string{"socket": ""}}, `--socket: socket: it is empty; allowed: a path`},
		{"twice", yamlOf("interval: 1\nsource: auto\ninterval: 2"), "f:3: interval: it was set in line 1 already"},
		{"group twice", yamlOf("thresholds: {}\nthresholds: {}"), "f:2: thresholds: it was set in line 1 already"},
		{"order", yamlOf("thresholds:\n  fd:\n    warning: 0.95"), "f:3: thresholds.fd.warning: warning (0.95) is above critical (0.9); allowed: info <= warning <= critical, hysteresis < info"},
		{"hysteresis", Inputs{Path: "f", File: []byte("thresholds: {fd: {info: 0.05}}"), Flags: map[string]string{"source": "auto"}}, "f:1: thresholds.fd.info: hysteresis (0.05) is not below info (0.05); allowed: info <= warning <= critical, hysteresis < info"},
		{"anchor", yamlOf("interval: &a 1s"), "f:1: interval: anchors and aliases are not allowed"},
		{"alias", yamlOf("source: &s auto\nlog_level: *s"), "f:1: source: anchors and aliases are not allowed\nf:2: log_level: anchors and aliases are not allowed"},
		{"merge", yamlOf("<<: {interval: 1}"), "f:1: a key is a merge; allowed: a name"},
		{"root list", yamlOf("- interval"), "f:1: it is a list; allowed: keys with values"},
		{"group scalar", yamlOf("thresholds: 1"), "f:1: thresholds: it is the number 1; allowed: keys with values"},
		{"second document", yamlOf("interval: 1\n---\ninterval: 2"), "f:2: it is not YAML: a second document; allowed: one"},
		{"syntax", yamlOf("interval: 1\n  source: auto"), "f:2: it is not YAML: mapping values are not allowed in this context"},
		{"terminal", yamlOf(`"a\e[31m\n": 1`), `f:1: a\u001b[31m\u000a: there is no such key`},
		{"environment", Inputs{Environ: []string{"RMAGENT_INTERVAL=fast"}}, `environment RMAGENT_INTERVAL: interval: "fast" is not a duration such as 500ms, 10s, 1m30s or 2d; allowed: a duration from 100ms to 1h`},
		{"unknown environment", Inputs{Environ: []string{"RMAGENT_INTERVALL=1"}}, "environment RMAGENT_INTERVALL: there is no such setting; did you mean RMAGENT_INTERVAL?"},
		{"plain environment", Inputs{Environ: []string{"TARGET_UTILIZATION=80"}}, "environment TARGET_UTILIZATION: target_utilization: 80 is out of range; allowed: a number from 0.01 to 1"},
		{".env", Inputs{DotEnv: []byte("TARGET_UTILIZATION=0.8\nMAX_CPU_USAGE_PERCENT=x")}, `.env:2: max_cpu_usage_percent: "x" is not a number; allowed: a number from 0 to 100`},
		{"flag", Inputs{Flags: map[string]string{"with-cmdline": "yes"}}, `--with-cmdline: with_cmdline: "yes" is neither; allowed: true or false`},
		{"all at once", Inputs{Path: "f", File: []byte("a: 1\nsource: x"), Environ: []string{"RMAGENT_DURATION=x"}, Flags: map[string]string{"source": "auto", "jsonl": "a\x00b"}},
			"f:1: a: there is no such key\n" +
				"f:2: source: \"x\" is none of these; allowed: auto, ebpf or procfs\n" +
				"environment RMAGENT_DURATION: duration: \"x\" is not a duration such as 500ms, 10s, 1m30s or 2d; allowed: a duration from 0s to 3650d\n" +
				"--jsonl: jsonl: \"a\\x00b\" has a NUL byte; allowed: a path, or - for stdout"},
		{"contradictions beside mistakes", yamlOf("source: x\nthresholds: {fd: {warning: 0.95}, cpu: {critical: 0.01, info: lots}}\n" +
			"tracked: [{fd: 7}]\nactions: [{name: a, kind: log, url: 'http://x'}]"),
			"f:1: source: \"x\" is none of these; allowed: auto, ebpf or procfs\n" +
				"f:2: thresholds.cpu.info: it is the text \"lots\"; allowed: a number from 0.01 to 1\n" +
				"f:2: thresholds.fd.warning: warning (0.95) is above critical (0.9); allowed: info <= warning <= critical, hysteresis < info\n" +
				"f:3: tracked[0].fd: there is no such key"}, // so what it selects, and the actions, are another day's
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := Load(c.in)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, %v, want an *Error", l, err)
			}
			if diff := cmp.Diff(c.want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func yamlOf(text string) Inputs { return Inputs{Path: "f", File: []byte(text)} }

func TestSaysNothing(t *testing.T) {
	for _, text := range []string{"", "\n", "# only a comment\n", "---\n", "---\n# x\n...\n", "{}", "null"} {
		if _, err := Load(yamlOf(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestWriteReadsBack: what rmagent config prints is a configuration, the same.
func TestWriteReadsBack(t *testing.T) {
	for _, in := range []Inputs{{}, yamlOf(full), {Flags: map[string]string{"jsonl": "a \"b\"\t\x7f\u009b\xff: #", "hooks": "none"}}} {
		want, err := Load(in)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := want.Write(&text); err != nil {
			t.Fatal(err)
		}
		got, err := Load(Inputs{Path: "written", File: text.Bytes()})
		if err != nil {
			t.Fatalf("%v in\n%s", err, text.String())
		}
		if diff := cmp.Diff(want.Values(), got.Values()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if want.Hash() != got.Hash() {
			t.Error("equal values have different hashes")
		}
	}
}

func TestWriteNamesOrigins(t *testing.T) {
	l, err := Load(Inputs{Path: "/etc/rmagent.yaml", File: []byte("source: ebpf"), Environ: []string{"RMAGENT_JSONL=-"}, Flags: map[string]string{"interval": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := l.Write(&text); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"source: ebpf # /etc/rmagent.yaml:1", "interval: 2s # --interval", `jsonl: "-" # environment RMAGENT_JSONL`, "info: 0.7 # default"} {
		if !strings.Contains(strings.Join(strings.Fields(text.String()), " "), line) {
			t.Errorf("no %q in\n%s", line, text.String())
		}
	}
}

func TestHashTellsApart(t *testing.T) {
	a, _ := Load(Inputs{})
	b, _ := Load(Inputs{Flags: map[string]string{"interval": "2"}})
	c, _ := Load(Inputs{Environ: []string{"RMAGENT_INTERVAL=2s"}})
	if a.Hash() == b.Hash() || b.Hash() != c.Hash() || len(a.Hash()) != 64 {
		t.Errorf("hashes %s %s %s", a.Hash(), b.Hash(), c.Hash())
	}
}

func TestDotEnvLines(t *testing.T) {
	for text, want := range map[string][2]string{
		"A=1":                     {"A", "1"},
		" export A = 1 # one ":    {"A", "1"},
		`A="1 # one" # two`:       {"A", "1 # one"},
		"A='x'":                   {"A", "x"},
		"A=":                      {"A", ""},
		"A=# none":                {"A", ""},
		"A=8388608.0 # 8MB/s\r\n": {"A", "8388608.0"},
		`A="open`:                 {"A", `"open`},
	} {
		name, value, ok := dotEnvLine(text)
		if !ok || name != want[0] || value != want[1] {
			t.Errorf("%q: got %q, %q, %v", text, name, value, ok)
		}
	}
	if _, _, ok := dotEnvLine("# A=1"); ok {
		t.Error("a comment is a setting")
	}
}

// TestDotEnvTrust: the owner and the mode decide.
func TestDotEnvTrust(t *testing.T) {
	const used, unused = "the file .env of the working directory is used", "the file .env of the working directory is not used: "
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		path string // of a YAML file
		note string // the first one; empty: none at all
	}{
		{"ours", func(t *testing.T, p string) { writeFile(t, p, 0o644) }, "", used},
		{"none", func(*testing.T, string) {}, "", ""},
		{"group", func(t *testing.T, p string) { writeFile(t, p, 0o664) }, "", unused + "others than its owner can write it (mode 0664)"},
		{"all", func(t *testing.T, p string) { writeFile(t, p, 0o646) }, "", unused + "others than its owner can write it (mode 0646)"},
		{"theirs", func(t *testing.T, p string) { writeFile(t, p, 0o644); chown(t, p, 12345) }, "", unused + "it belongs to the user 12345"},
		{"link", func(t *testing.T, p string) { symlink(t, p) }, "", unused + "it is a symbolic link"},
		{"directory", func(t *testing.T, p string) { mkdir(t, p) }, "", unused + "it is no regular file"},
		{"beside --config", func(t *testing.T, p string) { writeFile(t, p, 0o644); writeYAML(t, filepath.Dir(p)) }, "x.yaml", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.make(t, filepath.Join(dir, ".env"))
			s := Sources{Dir: dir}
			if c.path != "" {
				s.Path = filepath.Join(dir, c.path)
			}
			l, err := Read(s)
			if err != nil {
				t.Fatal(err)
			}
			isUsed := l.TargetUtilization == 0.5
			if isUsed != (c.note == used) {
				t.Errorf("used: %v", isUsed)
			}
			if c.note == "" && len(l.Notes) > 0 || c.note != "" && (len(l.Notes) == 0 || l.Notes[0] != c.note) {
				t.Errorf("notes %q, want %q", l.Notes, c.note)
			}
		})
	}
}

func TestReadFails(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("#\n"), maxFile), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): filepath.Join(dir, "none") + ": open: no such file or directory",
		dir:                        dir + ": it is no regular file",
		big:                        big + ": it has more than the 262144 bytes that are allowed",
	} {
		_, err := Read(Sources{Path: path})
		var e *Error
		if !errors.As(err, &e) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "1": time.Second, "1.5": 1500 * time.Millisecond, "15.0": 15 * time.Second, "250ms": 250 * time.Millisecond,
		"1m30s": 90 * time.Second, "2d": 48 * time.Hour, "1d12h": 36 * time.Hour, "0.5d": 12 * time.Hour, "1e-9": 1, "100us": 100 * time.Microsecond,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", " ", "-1", "-1s", "1x", "d", "1d-1h", "NaN", "Inf", "1e300", "1e300d", "106751d24h", "s", "1s ", "-0.1d", "NaNd"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]float64{"0": 0, "8388608.0": 8 << 20, "8MiB": 8 << 20, "8 MB": 8e6, "1.5GiB": 1.5 * (1 << 30), "2kB": 2000, "7B": 7} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MB", "1XB", "1Mi", "1BB", "x1MB", "1 M B", "NaN"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

// FuzzLoad: no file makes Load panic, hang or answer with neither a Config nor a
// problem that has a place and fits on a line; what it takes, it writes and takes
// again.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("interval: 1\n---\na"))
	f.Add([]byte("a: &a [*a, *a]\n<<: *a"))
	f.Add([]byte("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: &d [*c,*c]\ne: [*d,*d]"))
	f.Add([]byte("? {a: b}\n: c\n? !!binary aaaa\n: !!set {x}"))
	f.Add([]byte("hooks: [a, !!int b, \"\"]\nthresholds: {fd: {warning: 0x1}}\n%YAML 1.1"))
	f.Fuzz(func(t *testing.T, content []byte) {
		l, err := Load(Inputs{Path: "f", File: content})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || len(e.Problems) == 0 {
				t.Fatalf("not an *Error: %v", err)
			}
			for _, p := range e.Problems {
				if strings.ContainsFunc(p.String(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
					t.Fatalf("a control character in %q", p.String())
				}
			}
			return
		}
		var text bytes.Buffer
		if err := l.Write(&text); err != nil {
			t.Fatal(err)
		}
		again, err := Load(Inputs{Path: "w", File: text.Bytes()})
		if err != nil {
			t.Fatalf("%v in\n%s", err, text.String())
		}
		if l.Hash() != again.Hash() {
			t.Fatalf("another configuration in\n%s", text.String())
		}
	})
}

func FuzzDotEnv(f *testing.F) {
	f.Add([]byte("OBSERVATION_PERIOD=15.0\nexport CHECK_INTERVAL='1.5'\n=\n\x00"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if l, err := Load(Inputs{DotEnv: content}); (l == nil) == (err == nil) {
			t.Fatalf("got %v, %v", l, err)
		}
	})
}

func writeFile(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte("TARGET_UTILIZATION=0.5\nRMAGENT_INTERVAL=9\nPATH=/\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func chown(t *testing.T, path string, uid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	if err := os.Chown(path, uid, -1); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, path string) {
	t.Helper()
	writeFile(t, path+".real", 0o644)
	if err := os.Symlink(path+".real", path); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func writeYAML(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "x.yaml"), []byte("source: auto\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestActions reads one with every field, and one with few.
func TestActions(t *testing.T) {
	l, err := Load(Inputs{Path: "f", File: []byte(`
actions:
  - name: tell-ops
    kind: webhook
    on: [prune, leak]
    resources: [memory]
    min_state: warning
    targets: [host, "cgroup:/a/*"]
    names: ["x*"]
    recovery: true
    dry_run: true
    min_interval: 1m
    max_per_hour: 4
    time_limit: 2s
    url: https://user:secret@example.org/hook/secret
    headers: ["X-Token: secret"]
    authorization_file: /etc/token
    retries: 2
  - {name: end, kind: signal, signal: KILL}
`)})
	if err != nil {
		t.Fatal(err)
	}
	want := []Action{
		{
			Name: "tell-ops", Kind: "webhook", On: []string{"prune", "leak"}, Resources: []string{"memory"}, MinState: "warning",
			Targets: []string{"host", "cgroup:/a/*"}, Names: []string{"x*"}, Recovery: true, DryRun: true, MinInterval: time.Minute, MaxPerHour: 4,
			TimeLimit: 2 * time.Second, Argv: []string{}, URL: "https://user:secret@example.org/hook/secret", Headers: []string{"X-Token: secret"},
			AuthorizationFile: "/etc/token", Retries: 2, Signal: "TERM",
		},
		{
			Name: "end", Kind: "signal", On: []string{}, Resources: []string{}, MinState: "critical", Targets: []string{}, Names: []string{},
			MaxPerHour: 60, TimeLimit: 10 * time.Second, Argv: []string{}, Headers: []string{}, Retries: 5, Signal: "KILL",
		},
	}
	if diff := cmp.Diff(want, l.Actions); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := l.Origin("actions[1].signal").String(); got != "f:19" {
		t.Errorf("origin %s, want f:19", got)
	}
	values, err := json.Marshal(l.Values())
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	if err := l.Write(&shown); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"the record": string(values), "rmagent config": shown.String()} {
		if strings.Contains(text, "secret") || !strings.Contains(text, "tell-ops") || !strings.Contains(text, "KILL") {
			t.Errorf("%s says %s", what, text)
		}
	}
	if !strings.Contains(shown.String(), "https://example.org/(hidden)") || !strings.Contains(shown.String(), "X-Token: (hidden)") {
		t.Errorf("it says\n%s", shown.String())
	}
	again, err := Load(Inputs{Path: "f", File: shown.Bytes()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l.Values(), again.Values()); diff != "" {
		t.Errorf("what it shows is not what it has (-had +shown):\n%s", diff)
	}
}

func TestWrongActions(t *testing.T) {
	for _, c := range [][2]string{
		{"actions: 5", "f:1: actions: it is the number 5; allowed: a list of actions"},
		{"actions: [5]", "f:1: actions[0]: it is the number 5; allowed: keys with values"},
		{"actions:\n  - kind: log", "f:2: actions[0].name: it is missing"},
		{"actions:\n  - name: a\n    kind: log\n    name: b", "f:4: actions[0].name: it was set in line 2 already"},
		{"actions:\n  - name: a\n    kind: log\n    min_intervall: 1s", "f:4: actions[0].min_intervall: there is no such key; did you mean min_interval?"},
		{"actions:\n  - name: A b\n    kind: log", `f:2: actions[0].name: "A b" is no name; allowed: a name of a-z`},
		{"actions:\n  - {name: a, kind: log}\n  - {name: a, kind: log}", "f:3: actions[1].name: a is the name of actions[0] already"},
		{"actions:\n  - name: a\n    kind: log\n    argv: [/bin/true]", "f:4: actions[0].argv: it means nothing for the kind log; it is for command"},
		{"actions:\n  - {name: a, kind: command}", "f:2: actions[0].argv: the program's path is missing"},
		{"actions:\n  - {name: a, kind: command, argv: [rm]}", "f:2: actions[0].argv: the program's path is missing"},
		{"actions:\n  - {name: a, kind: webhook}", "f:2: actions[0].url: it is missing"},
		{"actions:\n  - {name: a, kind: webhook, url: 'ftp://secret'}", "f:2: actions[0].url: it is no such address"},
		{"actions:\n  - {name: a, kind: webhook, url: 'http://h', headers: ['secret']}", "f:2: actions[0].headers: an element is no header"},
		{"actions:\n  - {name: a, kind: webhook, url: 'http://h', headers: ['Host: x']}", "f:2: actions[0].headers: Host is set by the agent"},
		{"actions:\n  - {name: a, kind: signal, signal: SIGSEGV}", `f:2: actions[0].signal: "SIGSEGV" is none of these`},
		{"actions:\n  - {name: a, kind: log, targets: ['[']}", `f:2: actions[0].targets: "[" is no pattern`},
		{"actions:\n  - {name: a, kind: log, on: [prune, paint]}", `f:2: actions[0].on: "paint" is none of these`},
		{"actions:\n  - {name: a, kind: log, time_limit: -1s}", "f:2: actions[0].time_limit: "},
		{"actions:\n  - {name: a, kind: log, max_per_hour: 1.5}", "f:2: actions[0].max_per_hour: 1.5 is not whole"},
	} {
		_, err := Load(Inputs{Path: "f", File: []byte(c[0])})
		if err == nil || !strings.HasPrefix(err.Error(), c[1]) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s\nsays %v, want %s", c[0], err, c[1])
		}
	}
	_, err := Load(Inputs{Environ: []string{"RMAGENT_ACTIONS=x"}})
	if err == nil || !strings.Contains(err.Error(), "environment RMAGENT_ACTIONS: actions: only the YAML file can set it") {
		t.Error(err)
	}
}

// TestSettings: what a program sets wins over all else, and rules are added.
func TestSettings(t *testing.T) {
	l, err := Load(Inputs{
		Path: "f", File: []byte("interval: 3s\ntracked: [{name: a, max_fd: 5}]"), Flags: map[string]string{"interval": "4s"},
		Settings: map[string]string{"interval": "5s", "thresholds.fd.warning": "0.75", "hooks": "exits,net"},
		Tracked:  []Tracked{{PID: 7, MaxCPUPercent: 50, Actions: []string{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if l.Interval != 5*time.Second || l.Thresholds["fd"].Warning != 0.75 || len(l.Hooks) != 2 || l.Origin("interval").String() != "setting interval" {
		t.Errorf("%+v", l.Config)
	}
	if len(l.Tracked) != 2 || l.Tracked[0].MaxFD != 5 || l.Tracked[1].PID != 7 || l.Tracked[1].MaxCPUPercent != 50 {
		t.Errorf("%+v", l.Tracked)
	}
	for name, want := range map[string]string{
		"intervall":             "setting intervall: there is no such setting; did you mean interval?",
		"actions":               "setting actions: actions: only the YAML file can set it",
		"thresholds.fd.warning": "setting thresholds.fd.warning: thresholds.fd.warning: 7 is out of range",
	} {
		if _, err := Load(Inputs{Settings: map[string]string{name: "7"}}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := Load(Inputs{Tracked: []Tracked{{MaxFD: 1}}}); err == nil || !strings.Contains(err.Error(), "it selects nobody") {
		t.Error(err)
	}
}
