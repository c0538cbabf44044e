package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rmagent/internal/execcmd"
)

// monitorRun is what a resource_monitor did in a directory of its own.
type monitorRun struct {
	result
	dir   string
	files []string
}

// runMonitor runs cctools' resource_monitor, or ours.
func runMonitor(t *testing.T, ours bool, args ...string) monitorRun {
	t.Helper()
	cmd := agentCommand(t, args...)
	if ours {
		cmd.Env = append(cmd.Env, asAgent+"=resource_monitor")
	} else {
		path, err := exec.LookPath("resource_monitor")
		if err != nil {
			t.Fatal("resource_monitor is not installed: scripts/setup test")
		}
		late, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		theirs := exec.CommandContext(late, path, args...)
		// It may miss the end of a command that ends at once, and would wait for ever.
		theirs.Cancel = func() error { theirs.Process.Signal(syscall.SIGCHLD); return os.ErrProcessDone }
		theirs.Dir, theirs.SysProcAttr = cmd.Dir, cmd.SysProcAttr
		cmd = theirs
	}
	for name, content := range map[string]string{
		"limits": `{"memory": [5000, "MB"], "max_concurrent_processes": [1, "procs"]}`,
		"bogus":  `{"bogus": [5000, "MB"]}`,
		"events": `{"f": {"events": [{"label": "made", "on-create": true, "count": 1}]}}`,
		"file":   "no program",
	} {
		if err := os.WriteFile(filepath.Join(cmd.Dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := monitorRun{result: runToEnd(t, cmd), dir: cmd.Dir}
	entries, err := os.ReadDir(cmd.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := regexp.MustCompile(`resource-pid-\d+`).ReplaceAllString(e.Name(), "resource-pid-N")
		if !slices.Contains([]string{"limits", "bogus", "events", "file"}, name) {
			r.files = append(r.files, name)
		}
	}
	return r
}

// runCCTools runs cctools' resource_monitor, again where it wrote its summary twice into
// one file: it does in a fifth of the runs that its first reading ends.
func runCCTools(t *testing.T, args ...string) monitorRun {
	t.Helper()
	for {
		r := runMonitor(t, false, args...)
		paths, _ := filepath.Glob(filepath.Join(r.dir, "*.summary"))
		if len(paths) != 1 {
			return r
		}
		text, err := os.ReadFile(paths[0])
		if err != nil {
			t.Fatal(err)
		}
		var extra *json.SyntaxError
		if err := json.Unmarshal(text, new(any)); !errors.As(err, &extra) || !strings.Contains(err.Error(), "after top-level value") {
			return r
		}
		t.Logf("cctools wrote two summaries: %v", err)
	}
}

// summaryOf reads the one summary that there is, with the order of its names.
func (r *monitorRun) summaryOf(t *testing.T) (map[string]json.RawMessage, []byte) {
	t.Helper()
	paths, _ := filepath.Glob(filepath.Join(r.dir, "*.summary"))
	if len(paths) != 1 {
		t.Fatalf("summaries: %q; exit status %d, %s", paths, r.status, r.stderr)
	}
	text, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return members, text
}

// The same commands and options, by cctools and by us: the same exit statuses, files,
// fields and units.
func TestResourceMonitorIsCCTools(t *testing.T) {
	same := []string{"command", "exit_type", "exit_status", "signal", "limits_exceeded", "host", "executable_type", "k", "max_concurrent_processes", "total_processes"}
	for name, c := range map[string]struct {
		args []string
		not  []string // fields that we leave out
		vary []string // fields of same that cctools does not get right
	}{
		"a command":        {args: []string{"-O", "t", "--", "true"}},
		"no template":      {args: []string{"true"}},
		"options after it": {args: []string{"sleep", "0.1", "-O", "t"}},
		"its status":       {args: []string{"-O", "t", "--no-pprint", "-V", "k: v w", "--", "sh", "-c", "exit 7"}},
		"a signal":         {args: []string{"-O", "t", "--", "sh", "-c", "kill -9 $$"}},
		"by sh":            {args: []string{"-O", "t", "-c", "sleep 0.1; exit 124"}},
		"wall time":        {args: []string{"-O", "t", "-i", "1", "-L", "wall_time: 1", "sleep", "60"}},
		"a deadline":       {args: []string{"-O", "t", "-i", "1", "-L", "end: 1000", "sleep", "60"}},
		"processes":        {args: []string{"-O", "t", "-i", "1", "-l", "limits", "--", "sh", "-c", "sleep 60 & sleep 60"}, vary: []string{"max_concurrent_processes", "total_processes"}},
		"limits kept":      {args: []string{"-O", "t", "-L", "memory: 5000", "-L", "wall_time: 100", "true"}},
		"only measured":    {args: []string{"-O", "t", "-i", "1", "--measure-only", "-L", "max_concurrent_processes: 1", "--", "sh", "-c", "sleep 1.3 & sleep 1.3; exit 3"}, vary: []string{"exit_type", "limits_exceeded"}},
		"all files":        {args: []string{"-O", "t", "-i", "1", "--with-time-series", "--with-inotify", "--snapshot-events", "events", "--", "sh", "-c", "sleep 1.2; echo x > f; sleep 2.2"}, vary: []string{"max_concurrent_processes", "total_processes"}},
		"no directories":   {args: []string{"-O", "t", "--without-disk-footprint", "--with-time-series", "true"}, not: []string{"disk", "total_files", "fs_nodes"}},
		"a tree":           {args: []string{"-O", "t", "--", "sh", "-c", "for i in 1 2 3; do sleep 0.3 & done; wait"}},
		"no such command":  {args: []string{"-O", "t", "/no/such/command"}},
		"no program":       {args: []string{"-O", "t", "./file"}},
		"no such process":  {args: []string{"-O", "t", "--pid", "4194303"}},
		"no such limit":    {args: []string{"-O", "t", "-L", "memory", "true"}},
		"no such number":   {args: []string{"-O", "t", "-L", "memory: many", "true"}},
		"no interval":      {args: []string{"-O", "t", "-i", "0", "true"}},
		"no directory":     {args: []string{"-O", "t", "--measure-dir", "none", "true"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			theirs, ours := runCCTools(t, c.args...), runMonitor(t, true, c.args...)
			if theirs.status != ours.status {
				t.Fatalf("exit status %d, cctools' %d\n%s%s", ours.status, theirs.status, theirs.stderr, ours.stderr)
			}
			if ours.status == 4 { // nothing was started, and one line says why
				if len(ours.files) > 0 || strings.Count(ours.stderr, "\n") != 1 || !strings.HasPrefix(ours.stderr, "resource_monitor: ") {
					t.Errorf("left %q, said %q", ours.files, ours.stderr)
				}
				return
			}
			if ours.stderr != "" || ours.stdout != "" {
				t.Errorf("it says %q, %q", ours.stdout, ours.stderr)
			}
			if !slices.Equal(theirs.files, ours.files) {
				t.Errorf("files %q, cctools' %q", ours.files, theirs.files)
			}
			a, _ := theirs.summaryOf(t)
			b, text := ours.summaryOf(t)
			compareSummaries(t, a, b, slices.DeleteFunc(slices.Clone(same), func(s string) bool { return slices.Contains(c.vary, s) }), c.not)
			if pretty := bytes.HasPrefix(text, []byte("\n{\n")); pretty == slices.Contains(c.args, "--no-pprint") {
				t.Errorf("layout: %.40q", text)
			}
			compareSeries(t, &theirs, &ours)
		})
	}
}

// compareSummaries compares the fields of cctools' summary with ours.
func compareSummaries(t *testing.T, theirs, ours map[string]json.RawMessage, same, not []string) {
	t.Helper()
	for name, want := range theirs {
		got, ok := ours[name]
		if !ok {
			if !slices.Contains(not, name) {
				t.Errorf("our summary has no %s", name)
			}
			continue
		}
		if slices.Contains(not, name) {
			t.Errorf("%s is there: %s", name, got)
		}
		if a, b := unitOf(want), unitOf(got); a != b {
			t.Errorf("%s: unit %q, cctools' %q", name, b, a)
		}
		if slices.Contains(same, name) && compact(want) != compact(got) {
			t.Errorf("%s: %s, cctools' %s", name, compact(got), compact(want))
		}
	}
	for name, value := range ours {
		if _, ok := theirs[name]; !ok && slices.Contains(same, name) {
			t.Errorf("cctools has no %s, and we have %s", name, value)
		}
	}
}

func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return string(raw)
	}
	return b.String()
}

func unitOf(raw json.RawMessage) string {
	var pair []any
	if json.Unmarshal(raw, &pair) != nil || len(pair) != 2 {
		return ""
	}
	unit, _ := pair[1].(string)
	return unit
}

// compareSeries compares the columns of the series, where there is one.
func compareSeries(t *testing.T, theirs, ours *monitorRun) {
	t.Helper()
	columns := func(r *monitorRun) (string, []string) {
		text, err := os.ReadFile(filepath.Join(r.dir, "t.series"))
		if err != nil {
			return "", nil
		}
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		return lines[7], lines[8:]
	}
	a, first := columns(theirs)
	b, rows := columns(ours)
	if a != b {
		t.Errorf("columns %q, cctools' %q", b, a)
	}
	if len(first) > 0 && len(rows) < 2 { // one at the start, one at the end
		t.Errorf("%d rows, cctools' %d", len(rows), len(first))
	}
	for _, row := range rows {
		words := strings.Fields(row)
		if len(words) != len(strings.Fields(b)) {
			t.Errorf("row %q", row)
		}
		for _, word := range words {
			if _, err := strconv.ParseFloat(word, 64); err != nil {
				t.Errorf("%v in row %q", err, row)
			}
		}
	}
}

// What docs/cctools.md lists: here cctools is not right.
func TestResourceMonitorDiffers(t *testing.T) {
	for name, c := range map[string]struct {
		args         []string
		theirs, ours int
		says         string
	}{
		"an unknown limit":             {[]string{"-O", "t", "-L", "bogus: 3", "true"}, 0, 4, `no limit called "bogus"`},
		"an unknown limit in a file":   {[]string{"-O", "t", "-l", "bogus", "true"}, 0, 4, `bogus:1: there is no limit called "bogus"`},
		"a malformed file of limits":   {[]string{"-O", "t", "-l", "file", "true"}, 0, 4, `file:1: "no program" is not of the form name: value`},
		"no file of limits":            {[]string{"-O", "t", "-l", "none", "true"}, 0, 4, "none: no such file"},
		"limits with commas":           {[]string{"-O", "t", "-L", "memory: 5000, disk: 5000 MB", "true"}, 4, 0, ""},
		"a template without directory": {[]string{"-O", "no/such/t", "true"}, 0, 4, "no/such/t.summary: no such file or directory"},
		"an unknown option":            {[]string{"--bogus", "true"}, 1, 4, `unknown option "--bogus"`},
		"no command":                   {[]string{"-O", "t"}, 1, 4, "no command to run"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			theirs, ours := runMonitor(t, false, c.args...), runMonitor(t, true, c.args...)
			if theirs.status != c.theirs || ours.status != c.ours || !strings.Contains(ours.stderr, c.says) {
				t.Errorf("exit status %d, cctools' %d; %d and %d were expected: %s", ours.status, theirs.status, c.ours, c.theirs, ours.stderr)
			}
		})
	}
}

// Options that cannot be held against this version of cctools.
func TestResourceMonitorOptions(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		status int
		check  func(t *testing.T, r *monitorRun)
	}{
		"help":    {[]string{"--help"}, 0, func(t *testing.T, r *monitorRun) { wants(t, r.stdout, "--with-time-series") }},
		"version": {[]string{"-v"}, 0, func(t *testing.T, r *monitorRun) { wants(t, r.stdout, "resource_monitor version ") }},
		"debug": {[]string{"-O", "t", "-d", "all", "-o", "t.debug", "true"}, 0, func(t *testing.T, r *monitorRun) {
			text, _ := os.ReadFile(filepath.Join(r.dir, "t.debug"))
			wants(t, string(text), "measured by ")
		}},
		"update": {[]string{"-O", "t", "-i", "1", "--update-summary", "--", "sh", "-c", "sleep 1.5; cp t.summary early"}, 0, func(t *testing.T, r *monitorRun) {
			text, _ := os.ReadFile(filepath.Join(r.dir, "early"))
			wants(t, string(text), `"exit_type":"running"`)
			_, last := r.summaryOf(t)
			wants(t, string(last), `"exit_type":"normal"`)
		}},
		"category": {[]string{"-O", "t", "-V", "category: c", "-V", "taskid: 9", "true"}, 0, func(t *testing.T, r *monitorRun) {
			s, _ := r.summaryOf(t)
			if string(s["category"]) != `"c"` || string(s["taskid"]) != `"9"` {
				t.Errorf("%s, %s", s["category"], s["taskid"])
			}
		}},
		"disk": {[]string{"-O", "t", "-L", "disk: 20", "--", "sh", "-c", "head -c 50000000 /dev/zero > big; sleep 60"}, 2, func(t *testing.T, r *monitorRun) {
			s, _ := r.summaryOf(t)
			wants(t, string(s["limits_exceeded"]), "disk")
			wants(t, string(s["limits_broken"]), "MB > 20 MB after ")
		}},
		"measured directory": {[]string{"-O", "t", "--measure-dir", "sub/..", "true"}, 4, func(t *testing.T, r *monitorRun) { wants(t, r.stderr, "--measure-dir") }},
		"followed": {[]string{"-O", "t", "--follow-chdir", "--", "sh", "-c", "mkdir a && cd a && head -c 30000000 /dev/zero > x && sleep 2"}, 0, func(t *testing.T, r *monitorRun) {
			s, _ := r.summaryOf(t)
			if compact(s["disk"]) != `[29,"MB"]` {
				t.Errorf("disk %s", s["disk"])
			}
		}},
		"nobody is left": {[]string{"-O", "t", "-i", "1", "-L", "wall_time: 1", "--", "sh", "-c", "echo $$ > pid; (setsid sh -c 'echo $$ > daemon; sleep 300' &) ; sleep 300"}, 2, func(t *testing.T, r *monitorRun) {
			for _, name := range []string{"pid", "daemon"} {
				text, err := os.ReadFile(filepath.Join(r.dir, name))
				if err != nil {
					t.Fatal(err)
				}
				// Whoever the daemon was given to may not have waited for it yet.
				if stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(text)) + "/stat"); err == nil && !bytes.Contains(stat, []byte(") Z ")) {
					t.Errorf("%s lives: %s", name, stat)
				}
			}
		}},
		"counts": {[]string{"-O", "t", "-i", "1", "--update-summary", "--with-inotify", "--", "sh", "-c", "cat events > /dev/null; cat events > out; sleep 1.2"}, 0, func(t *testing.T, r *monitorRun) {
			text, err := os.ReadFile(filepath.Join(r.dir, "t.files"))
			if err != nil {
				t.Fatal(err)
			}
			counted := map[string][]string{}
			lines := strings.Split(string(text), "\n")
			for i := 2; i+1 < len(lines); i += 2 {
				counted[strings.TrimSpace(lines[i])] = strings.Fields(lines[i+1])
			}
			if f := counted["events"]; len(f) != 7 || f[3] != "2" || f[4] != "2" {
				t.Errorf("events: %q", f)
			}
			if f := counted["out"]; len(f) != 7 || f[1] != "-1" || f[3] != "1" || f[6] == "0" {
				t.Errorf("out: %q", f)
			}
			for name := range counted {
				if strings.HasPrefix(name, "t.") || strings.HasPrefix(name, ".") {
					t.Errorf("the monitor's own file is counted: %s", name)
				}
			}
			s, _ := r.summaryOf(t)
			wants(t, string(s["input_files"]), "events")
			wants(t, string(s["output_files"]), "out")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := runMonitor(t, true, c.args...)
			if r.status != c.status {
				t.Fatalf("exit status %d, not %d: %s", r.status, c.status, r.stderr)
			}
			c.check(t, &r)
		})
	}
}

func wants(t *testing.T, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("%q is not in %q", part, text)
	}
}

// Both names that cctools' own programs call.
func TestMonitorNames(t *testing.T) {
	for name, want := range map[string]bool{
		"resource_monitor": true, "/usr/bin/resource_monitor": true, "./cctools-monitor": true, "rmagent": false, "resource_monitor2": false, "": false,
	} {
		if got := execcmd.IsMonitor([]string{name}); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	if execcmd.IsMonitor(nil) {
		t.Error("without a name")
	}
}
