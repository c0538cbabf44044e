package cctools

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// monitor runs cctools' resource_monitor in a directory of its own, and returns the
// directory. Now and then it waits for ever for a job that ended at once; then it runs again.
func monitor(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("resource_monitor")
	if err != nil {
		t.Fatal("resource_monitor is not installed: scripts/setup test")
	}
	for range 5 {
		dir := t.TempDir()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Dir, cmd.WaitDelay = dir, time.Second
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		hung := ctx.Err() != nil
		cancel()
		if err == nil {
			return dir
		}
		if !hung {
			t.Fatalf("%v: %v\n%s", args, err, out.Bytes())
		}
		t.Logf("%v: it hangs", args)
	}
	t.Fatalf("%v: it hung each time", args)
	return ""
}

func contents(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What cctools writes, written again by this package, is the same bytes.
func TestLayoutIsCCTools(t *testing.T) {
	events := filepath.Join(t.TempDir(), "events")
	if err := os.WriteFile(events, []byte(`{"f": {"from-start": true, "events": [{"label": "made", "on-create": true}]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := monitor(t, "-O", "t", "-i", "1", "-V", "k: v", "--with-time-series", "--with-inotify", "--snapshot-events", events,
		"--", "sh", "-c", "sleep 1.2; echo a > f; sleep 1.2")
	layout(t, contents(t, dir, "t.summary"), true)
	layout(t, contents(t, dir, "t.snapshot.00"), true)
	layout(t, contents(t, monitor(t, "-O", "t", "--no-pprint", "--", "true"), "t.summary"), false)

	// The head of the series but for two lines about units, which cctools has since
	// corrected.
	series := strings.SplitAfter(string(contents(t, dir, "t.series")), "\n")
	ours := strings.SplitAfter(string(AppendSeriesHead(nil, true)), "\n")
	for i, line := range ours[:len(ours)-1] {
		if i != 1 && i != 4 && series[i] != line {
			t.Errorf("line %d of the series: %q, not %q", i+1, line, series[i])
		}
	}
	form := regexp.MustCompile(`^\d+\.\d{6} \d+\.\d{6} \d+\.\d{3}( \d+){8} \d+\.\d{3}( \d+){3}\n$`)
	var full Measures
	for id := range Measure(NumMeasures) {
		full.Set(id, 12.3456)
	}
	for _, row := range []string{series[len(ours)-1], string(AppendSeriesRow(nil, &full, true))} {
		if !form.MatchString(row) {
			t.Errorf("row of a series: %q", row)
		}
	}

	files := strings.Split(string(contents(t, dir, "t.files")), "\n")
	head := strings.Split(string(AppendFiles(nil, nil)), "\n")
	if !slices.Equal(files[:2], head[:2]) {
		t.Errorf("head of the files: %q, not %q", head, files[:2])
	}
	again := string(AppendFiles(nil, []File{{Path: "p", Device: 65024, SizeInitial: 1, SizeFinal: 2, Opens: 3}}))
	if a, b := len(files[3]), len(strings.Split(again, "\n")[3]); a != b {
		t.Errorf("a row of the files has %d bytes, not %d", b, a)
	}
}

// Every measure that cctools writes is in the table, with its unit and its place,
// and the table has none that it does not write.
func TestMeasuresAreCCTools(t *testing.T) {
	data := contents(t, monitor(t, "-O", "t", "--no-pprint", "-L", "gpus: 1", "--", "true"), "t.summary")
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var theirs, ours []string
	for _, m := range ordered(t, d).(object) {
		if q, ok := m.value.(quantity); ok {
			theirs = append(theirs, m.name+" "+q.unit)
		}
	}
	for id := range Measure(NumMeasures) {
		if !id.Ours() {
			ours = append(ours, id.String()+" "+id.Unit())
		}
	}
	if !slices.Equal(theirs, ours) {
		t.Errorf("cctools:\n%s\nours:\n%s", strings.Join(theirs, "\n"), strings.Join(ours, "\n"))
	}
}

// A file of limits that cctools takes, it takes from us too: our summary is one. Its
// reader ends at what it can't read, and complains of names that it does not know.
func TestCCToolsReadsOurSummaries(t *testing.T) {
	s := typical()
	s.Measures.Set(Memory, 1<<20)
	s.Measures.Set(WallTime, 1000)
	s.Measures.Set(CPUTime, 1000)
	s.Measures.Set(Disk, 1<<20)
	s.Measures.Set(Bandwidth, 1000)
	s.Measures.Set(BytesWritten, 1000)
	s.Measures.Set(TotalProcesses, 1)
	s.Measures.Set(End, 1e10)
	s.Measures.Set(Start, 1e10)
	s.Measures.Set(Cores, 100)
	s.Measures.Set(CoresAvg, 100)
	s.LastError = 0
	path := filepath.Join(t.TempDir(), "limits")
	cmd := exec.Command("resource_monitor", "-O", filepath.Join(t.TempDir(), "t"), "-l", path, "--", "sh", "-c", "sleep 2 & wait")
	cmd.Dir = t.TempDir()
	if err := os.WriteFile(path, AppendSummary(nil, s, FileOptions{CCToolsOnly: true}), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	// Two processes, where one is allowed: so the limits were read. The second lasts, or the
	// monitor is told that the first has ended before it counts.
	if code := cmd.ProcessState.ExitCode(); code != 2 || len(out) > 0 {
		t.Errorf("exit status %d (%v), output %q", code, err, out)
	}
}

// Whatever it wrote of a job, we read.
func TestWeReadCCToolsSummaries(t *testing.T) {
	for _, pretty := range []string{"--no-pprint", "--measure-only"} {
		dir := monitor(t, "-O", "t", pretty, "-V", "category: a 'b'", "-L", "max_concurrent_processes: 5", "--", "sh", "-c", `true 'x' "y" \\`)
		read := 0
		err := ReadSummaries("t", bytes.NewReader(contents(t, dir, "t.summary")), func(raw json.RawMessage) error {
			read++
			s, err := ParseSummary(raw)
			if err != nil {
				return err
			}
			if wall, ok := s.Measures.Get(WallTime); !ok || wall <= 0 || s.Category != "a 'b'" || s.ExitType != ExitNormal || s.Command != `sh -c true 'x' "y" \\` {
				t.Errorf("%+v", s)
			}
			return nil
		})
		if err != nil || read != 1 {
			t.Errorf("%d summaries, %v", read, err)
		}
	}
}
