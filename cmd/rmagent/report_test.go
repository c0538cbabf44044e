package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rmagent/internal/cmdline"
	"rmagent/record"
)

// recordedLines are readings of a host, one a second from second begin on.
func recordedLines(t *testing.T, begin, n int) []byte {
	t.Helper()
	var lines []byte
	for i := begin; i < begin+n; i++ {
		h := record.Header{Time: time.Unix(1_700_000_000+int64(i), 0), Host: "db-7", BootID: "b", Seq: uint64(i + 1), Schema: record.Schema}
		var err error
		if lines, err = record.Append(lines, &record.Host{Header: h, CPURatio: record.Some(0.01 * float64(i))}); err != nil {
			t.Fatal(err)
		}
	}
	return lines
}

func TestReportOfAnAgent(t *testing.T) {
	cmd := agentCommand(t, "run", "--source", "procfs", "--interval", "200ms", "--duration", "1s", "--jsonl", "out.jsonl", "--processes", "all", "--pid", fmt.Sprint(os.Getpid()))
	dir := cmd.Dir
	if r := runToEnd(t, cmd); r.status != 0 {
		t.Fatal(r.stderr)
	}
	cmd = agentCommand(t, "report", "-o", "out.html", "out.jsonl")
	cmd.Dir = dir
	if r := runToEnd(t, cmd); r.status != 0 || r.stdout+r.stderr != "" {
		t.Fatalf("exit status %d, %s%s", r.status, r.stdout, r.stderr)
	}
	page, err := os.ReadFile(filepath.Join(dir, "out.html"))
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	// Only this process was recorded.
	for _, want := range []string{"<h1>" + host + "</h1>", "<b>CPU</b>", fmt.Sprintf(`<span class="pid">%d</span>`, os.Getpid())} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".rmagent-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestReportReadsFilesInTheOrderOfTheirTimes: rotated files come in any order,
// compressed or not.
func TestReportReadsFilesInTheOrderOfTheirTimes(t *testing.T) {
	cmd := agentCommand(t, "report", "-o", "-", "new", "-", "old.gz")
	var old bytes.Buffer
	z := gzip.NewWriter(&old)
	z.Write(recordedLines(t, 0, 30))
	z.Close()
	for name, text := range map[string][]byte{"new": recordedLines(t, 60, 30), "old.gz": old.Bytes()} {
		if err := os.WriteFile(filepath.Join(cmd.Dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Stdin = bytes.NewReader(recordedLines(t, 30, 30))
	r := runToEnd(t, cmd)
	if r.status != 0 {
		t.Fatal(r.stderr)
	}
	for _, want := range []string{"90 readings", "<b>89%</b>"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, not := range []string{"missing", "was there before", "begin within"} {
		if strings.Contains(r.stdout, not) {
			t.Errorf("the page says %q", not)
		}
	}
}

func TestReportMistakes(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"-o", "x.html"}, cmdline.ExitUsage, "report: name the files to draw"},
		{[]string{"good"}, cmdline.ExitUsage, "report: say where the page goes"},
		{[]string{"good", "-o", "x.html"}, cmdline.ExitUsage, "report: flags come before the files: found -o behind good"},
		{[]string{"-o", "x.html", "good", "--interval", "1s"}, cmdline.ExitUsage, "report: flags come before the files: found --interval behind good"},
		{[]string{"-o", "x.html", "-", "-"}, cmdline.ExitUsage, "report: the standard input can be read only once"},
		{[]string{"-o", "x.html", "."}, cmdline.ExitUsage, "report: . is a directory"},
		{[]string{"-o", "x.html", "missing"}, cmdline.ExitFailed, "open missing: no such file or directory"},
		{[]string{"-o", "x.html", "good", "empty"}, cmdline.ExitFailed, "empty: no record in it: it is empty"},
		{[]string{"-o", "x.html", "text"}, cmdline.ExitFailed, "text: no record in it: line 1: "},
		{[]string{"-o", "no/such/x.html", "good"}, cmdline.ExitFailed, "write the page: no/such/x.html: no such file or directory"},
		{[]string{"-o", ".", "good"}, cmdline.ExitFailed, "write the page: . is a directory: name the file in it"},
	} {
		cmd := agentCommand(t, append([]string{"report"}, c.args...)...)
		for name, text := range map[string][]byte{"good": recordedLines(t, 0, 3), "empty": nil, "text": []byte("hello\n")} {
			if err := os.WriteFile(filepath.Join(cmd.Dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r := runToEnd(t, cmd)
		if r.status != c.status || !strings.HasPrefix(r.stderr, "rmagent: "+c.says) || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%q: exit status %d, %q; want %d, %q", c.args, r.status, r.stderr, c.status, c.says)
		}
		if _, err := os.Stat(filepath.Join(cmd.Dir, "x.html")); err == nil {
			t.Errorf("%q: there is a page", c.args)
		}
	}
}

func TestFullDiskIsSaidOnce(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var lines []byte
	for i := range 3000 { // whose page is more than a buffer holds
		h := record.Header{Time: time.Unix(1_700_000_000+int64(i), 0), Host: "db-7", BootID: "b", Seq: uint64(i + 1), Schema: record.Schema}
		some := float64(i*7919%1000) / 1000
		host := record.Host{Header: h, CPURatio: record.Some(some), Load1: record.Some(some), NetReceivedBytesPerSecond: record.Some(some), NetSentBytesPerSecond: record.Some(some), DiskReadBytesPerSecond: record.Some(some)}
		if lines, err = record.Append(lines, &host); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"report", "-o", "-", "records"}, {"fds", "--local", "--for", "0", "--json"}} {
		cmd := agentCommand(t, args...)
		if err := os.WriteFile(filepath.Join(cmd.Dir, "records"), lines, 0o600); err != nil {
			t.Fatal(err)
		}
		if out := runToEnd(t, cmd); out.status != 0 || args[0] == "report" && len(out.stdout) < 100<<10 {
			t.Fatalf("%q: exit status %d, %d bytes, %s", args, out.status, len(out.stdout), out.stderr)
		}
		again := agentCommand(t, args...)
		again.Dir, again.Stdout = cmd.Dir, full
		var stderr bytes.Buffer
		again.Stderr = &stderr
		const says = "rmagent: write /dev/stdout: no space left on device\n"
		if err := again.Run(); again.ProcessState.ExitCode() != cmdline.ExitFailed || stderr.String() != says {
			t.Errorf("%q: %v, %q; want %q", args, err, stderr.String(), says)
		}
	}
}
