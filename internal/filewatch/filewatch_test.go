package filewatch

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
)

func parse(t *testing.T, text string) []cctools.WatchedFile {
	t.Helper()
	files, err := cctools.ParseEvents("e", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// step is what is done to a file, and what that is an event of.
type step struct {
	do   func(path string) error
	want string
}

func put(text string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(text), 0o644) }
}

func add(text string) func(string) error {
	return func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Close())
	}
}

func nothing(string) error { return nil }

func TestEvents(t *testing.T) {
	const all = `{"f": {%s "events": [{"label": "made", "on-create": true}, {"label": "gone", "on-delete": true},
		{"label": "cut", "on-truncate": true}, {"label": "half", "on-pattern": "^# HALF"}]}}`
	for name, c := range map[string]struct {
		options string
		before  string // "": it is not there
		steps   []step
	}{
		"a life": {"", "", []step{
			{nothing, ""}, {put("x\n"), "made(1)"}, {nothing, ""}, {add("# HA"), ""}, {add("LF\nx\n# HALF 2\n"), "half(2)"},
			{put(""), "cut(1)"}, {add("# HALF\n"), "half(1)"}, {os.Remove, "gone(1)"}, {nothing, ""}, {put("# HALF\n"), "made(1),half(1)"},
		}},
		"what was there": {"", "# HALF\n# HALF\n", []step{{nothing, ""}, {add("# HALF\n"), "half(1)"}}},
		"from the start": {`"from-start": true,`, "# HALF\n# HALF\n", []step{{nothing, "half(2)"}, {nothing, ""}}},
		"cut and kept":   {`"from-start-if-truncated": false,`, "long text", []step{{put("# HALF"), "cut(1)"}, {add("\n# HALF\n"), "half(1)"}}},
		"another in its place": {"", "old\n", []step{{func(path string) error {
			return errors.Join(os.WriteFile(path+"2", []byte("# HALF, and longer\n"), 0o644), os.Rename(path+"2", path))
		}, "cut(1),half(1)"}}},
		"deleted when found": {`"delete-if-found": true,`, "", []step{{put("x"), "made(1)"}, {nothing, ""}, {put("x"), "made(1)"}}},
		"a FIFO":             {"", "", []step{{func(path string) error { return unix.Mkfifo(path, 0o600) }, "made(1)"}, {nothing, ""}}},
		"a directory":        {"", "", []step{{func(path string) error { return os.Mkdir(path, 0o700) }, "made(1)"}, {nothing, ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if c.before != "" {
				if err := put(c.before)(path); err != nil {
					t.Fatal(err)
				}
			}
			f := newFile(parse(t, strings.Replace(all, "%s", c.options, 1))[0], path)
			for i, s := range c.steps {
				if err := s.do(path); err != nil {
					t.Fatal(err)
				}
				if got := join(f.look(false)); got != s.want {
					t.Errorf("step %d: %q, not %q", i+1, got, s.want)
				}
			}
		})
	}
}

func TestCountBoundsSnapshots(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f := newFile(parse(t, `{"f": {"events": [{"label": "made", "on-create": true, "count": 2}]}}`)[0], path)
	taken := 0
	for range 5 {
		if err := put("x")(path); err != nil {
			t.Fatal(err)
		}
		taken += len(f.look(false))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		f.look(false)
	}
	if taken != 2 {
		t.Errorf("%d snapshots, not 2", taken)
	}
}

// A line without an end is bounded; the end of the job ends it.
func TestLongLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f := newFile(parse(t, `{"f": {"events": [{"label": "x", "on-pattern": "^a+$"}, {"label": "b", "on-pattern": "b"}]}}`)[0], path)
	if err := put(strings.Repeat("a", 3*maxRead) + "b\nb")(path); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 3 {
		got = append(got, join(f.look(false)))
	}
	got = append(got, join(f.look(false)), join(f.look(true)))
	if len(f.line) > maxLine || cap(f.line) > 4*maxLine || strings.Join(got, "|") != "|||x(1)|b(1)" {
		t.Errorf("%q, %d bytes kept", got, cap(f.line))
	}
}

func TestWatcherSeesByItself(t *testing.T) {
	dir := t.TempDir()
	w := Start(parse(t, `{"sub/f": {"events": [{"label": "made", "on-create": true}]}, "g": {"events": [{"label": "g", "on-create": true}]}}`), dir)
	if got := w.Due(); got != "" {
		t.Errorf("due at the start: %q", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := put("")(filepath.Join(dir, "sub/f")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if got := w.Due(); got == "made(1)" {
			break
		} else if got != "" || time.Now().After(deadline) {
			t.Fatalf("due: %q", got)
		}
	}
	if err := put("")(filepath.Join(dir, "g")); err != nil {
		t.Fatal(err)
	}
	if got := w.Final(10 * time.Second); got != "g(1)" {
		t.Errorf("due at the end: %q", got)
	}
	w.Close()
}
