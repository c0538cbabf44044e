package sink

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"go.uber.org/zap"
)

const hostile = "a\x1b[31m\nINFO fake\r\x00\x7f\u009b2J\u2028\u202e\xff\"\\\t"

// logTo opens a log over files in a directory, in place of stderr too.
func logTo(t *testing.T, o LogOptions) (l *Log, stderr string) {
	t.Helper()
	stderr = filepath.Join(t.TempDir(), "stderr")
	f, err := os.Create(stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o.Stderr = f
	if o.Level == "" {
		o.Level = "info"
	}
	if l, err = OpenLog(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(soon(t)) })
	return l, stderr
}

func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func syncLog(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Logger().Sync(); err != nil {
		t.Fatal(err)
	}
}

func TestLogJSON(t *testing.T) {
	l, stderr := logTo(t, LogOptions{Format: "auto"}) // a file is no terminal
	l.Logger().Warn("hello", Foreign("comm", hostile), zap.String("raw", hostile), zap.Uint64("pid", 7))
	syncLog(t, l)
	text := contents(t, stderr)
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	if got["level"] != "warn" || got["message"] != "hello" || got["pid"] != 7.0 || !strings.HasSuffix(got["time"].(string), "Z") {
		t.Errorf("got %v", got)
	}
	if want := strings.ReplaceAll(hostile, "\xff", `\xff`); got["comm"] != want {
		t.Errorf("comm %q, want %q", got["comm"], want)
	}
	checkSafe(t, text)
}

// TestLogConsoleIsSafe: neither a message nor a field acts on a terminal or makes
// a second line.
func TestLogConsoleIsSafe(t *testing.T) {
	l, stderr := logTo(t, LogOptions{Format: "console"})
	l.Logger().Named(hostile).Info(hostile, Foreign("name", []byte(hostile)), zap.String(hostile, "key"))
	syncLog(t, l)
	text := contents(t, stderr)
	if !strings.Contains(text, "INFO") || !strings.Contains(text, `\u001b[31m\nINFO fake`) {
		t.Errorf("got %q", text)
	}
	checkSafe(t, strings.ReplaceAll(text, "\t", " "))
}

func checkSafe(t *testing.T, text string) {
	t.Helper()
	if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		t.Errorf("not one line: %q", text)
	}
	for _, r := range strings.TrimSuffix(text, "\n") {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0x202e || r == utf8.RuneError && !strings.Contains(text, `"raw"`) {
			t.Errorf("%U in %q", r, text)
		}
	}
}

// TestWarningsFile: warnings and errors are in it, and only in it where the rest
// goes to stderr.
func TestWarningsFile(t *testing.T) {
	for _, withFile := range []bool{false, true} {
		dir := t.TempDir()
		o := LogOptions{Level: "debug", Format: "json", WarningsFile: filepath.Join(dir, "warnings")}
		if withFile {
			o.File = filepath.Join(dir, "log")
		}
		l, stderr := logTo(t, o)
		l.Logger().Debug("D")
		l.Logger().Info("I")
		l.Logger().Warn("W")
		l.Logger().Error("E")
		syncLog(t, l)
		checkMessages(t, o.WarningsFile, "WE")
		if withFile {
			checkMessages(t, o.File, "DIWE")
			checkMessages(t, stderr, "")
			continue
		}
		checkMessages(t, stderr, "DI")
	}
}

func checkMessages(t *testing.T, path, want string) {
	t.Helper()
	got := ""
	for line := range strings.Lines(contents(t, path)) {
		var entry struct{ Message string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		got += entry.Message
	}
	if got != want {
		t.Errorf("%s has %q, want %q", filepath.Base(path), got, want)
	}
}

func TestLogLevel(t *testing.T) {
	l, stderr := logTo(t, LogOptions{Level: "warn", Format: "json"})
	l.Logger().Info("1")
	if err := l.SetLevel("debug"); err != nil {
		t.Fatal(err)
	}
	l.Logger().Debug("2")
	syncLog(t, l)
	checkMessages(t, stderr, "2")
	if err := l.SetLevel("loud"); err == nil {
		t.Error("there is no level loud")
	}
	if _, err := OpenLog(LogOptions{Level: "loud", Stderr: os.Stderr}); err == nil {
		t.Error("there is no level loud")
	}
}

func TestLogReopen(t *testing.T) {
	dir := t.TempDir()
	o := LogOptions{Format: "json", File: filepath.Join(dir, "log"), WarningsFile: filepath.Join(dir, "warnings")}
	l, _ := logTo(t, o)
	l.Logger().Warn("1")
	for _, path := range []string{o.File, o.WarningsFile} {
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
	}
	l.Logger().Warn("2")
	l.Reopen()
	l.Logger().Warn("3")
	syncLog(t, l)
	for _, path := range []string{o.File, o.WarningsFile} {
		checkMessages(t, path+".1", "12")
		checkMessages(t, path, "3")
	}
}

// TestLogFlood: a message that repeats is thinned out, others are not, and Close
// says how many are missing.
func TestLogFlood(t *testing.T) {
	l, stderr := logTo(t, LogOptions{Format: "json"})
	const flood = 5000
	for range flood {
		l.Logger().Warn("again")
	}
	l.Logger().Warn("else")
	if err := l.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	text := contents(t, stderr)
	kept := strings.Count(text, `"again"`)
	if kept < sampleFirst || kept > flood/2 || !strings.Contains(text, `"else"`) {
		t.Errorf("%d of %d kept", kept, flood)
	}
	last := text[strings.LastIndex(strings.TrimSuffix(text, "\n"), "\n")+1:]
	var said struct{ Lines int }
	if err := json.Unmarshal([]byte(last), &said); err != nil || said.Lines != flood-kept {
		t.Errorf("%d are missing, the last line is %s", flood-kept, last)
	}
}

// TestLogTellsOfEachVerdict: verdicts on many processes in one second are no repetition.
func TestLogTellsOfEachVerdict(t *testing.T) {
	l, stderr := logTo(t, LogOptions{Format: "json"})
	logger := l.Logger().With(zap.Int("of", 1))
	const verdicts = 200
	for i := range verdicts {
		logger.Warn("leak", zap.Int("pid", i))
		logger.Warn("state", zap.Int("pid", i))
	}
	if err := l.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	text := contents(t, stderr)
	for _, message := range []string{`"leak"`, `"state"`} {
		if n := strings.Count(text, message); n != verdicts {
			t.Errorf("%d of %d lines of %s", n, verdicts, message)
		}
	}
}

// TestLogOnClosedPipe: a log that nobody reads stops nothing.
func TestLogOnClosedPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	l, err := OpenLog(LogOptions{Level: "info", Format: "auto", Stderr: w})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	l.Logger().Info("1")
	syncLog(t, l)
	l.Logger().Info("2")
	if err := l.Close(soon(t)); err != nil {
		t.Errorf("Close: %v", err)
	}
	if n := l.Lost(); n != 2 {
		t.Errorf("%d lost, want 2", n)
	}
}

func TestLogOpenFails(t *testing.T) {
	none := filepath.Join(t.TempDir(), "no", "log")
	for _, o := range []LogOptions{{File: none}, {WarningsFile: none}} {
		o.Level, o.Stderr = "info", os.Stderr
		if _, err := OpenLog(o); err == nil || !strings.Contains(err.Error(), none) {
			t.Errorf("got %v, want an error that names %s", err, none)
		}
	}
}

func FuzzAppendLine(f *testing.F) {
	f.Add([]byte(hostile), true)
	f.Add([]byte("{\"a\":\"\u009b\xff\"}\n"), false)
	f.Fuzz(func(t *testing.T, p []byte, console bool) {
		line := appendLine(nil, p, console)
		if bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' || !utf8.Valid(line) {
			t.Fatalf("%q", line)
		}
		for _, r := range string(line[:len(line)-1]) {
			if r < ' ' && !(r == '\t' && console) || r >= 0x7f && r < 0xa0 {
				t.Fatalf("%U in %q", r, line)
			}
		}
	})
}
