package opened

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, o Options) *Counter {
	t.Helper()
	c, err := Start(o)
	must(t, err)
	return c
}

func TestCounts(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	in := filepath.Join(dir, "sub/in")
	must(t, os.WriteFile(in, make([]byte, 1000), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "untouched"), nil, 0o644))
	c := start(t, Options{Dirs: []string{dir}, Here: dir, Ignore: func(path string) bool { return filepath.Base(path) == "t.summary" }})

	for range 3 { // three opens, each with one read of all
		f, err := os.Open(in)
		must(t, err)
		n, err := f.Read(make([]byte, 2000))
		if n != 1000 {
			t.Fatal(n, err)
		}
		must(t, f.Close())
	}
	out, err := os.Create(filepath.Join(dir, "out"))
	must(t, err)
	_, err = out.Write(make([]byte, 70))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "t.summary"), nil, 0o644))
	_, err = os.ReadDir(dir)
	must(t, err)
	c.Close()
	files, missed := c.Files()
	var st unix.Stat_t
	must(t, unix.Stat(in, &st))
	want := []cctools.File{
		{Path: "out", Output: true, Device: int64(st.Dev), SizeInitial: -1, SizeFinal: 70, Opens: 1, Writes: 1},
		{Path: "sub/in", Device: int64(st.Dev), SizeInitial: 1000, SizeFinal: 1000, Opens: 3, Closes: 3, Reads: 3},
	}
	if diff := cmp.Diff(want, files); diff != "" || missed != "" {
		t.Errorf("%s\nmissed %q", diff, missed)
	}
	must(t, out.Close())
}

// Directories that are made meanwhile are watched, and it is said that what happened
// in them at once may be missing.
func TestNewDirectories(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	c := start(t, Options{Dirs: []string{dir, elsewhere}, Here: elsewhere})
	script := `mkdir -p a/b && echo x > a/b/f && cat a/b/f && mv a c && rm -r c`
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "x\n" {
		t.Fatalf("%v: %s", err, out)
	}
	c.Close()
	files, missed := c.Files()
	for _, f := range files {
		if f.Path != filepath.Join(dir, "a/b/f") && f.Path != filepath.Join(dir, "c/b/f") {
			t.Errorf("%+v", f)
		}
	}
	if len(files) == 0 && missed == "" {
		t.Error("a file was neither counted nor said to be missed")
	}
}

func TestAnOverflowIsTold(t *testing.T) {
	c := &Counter{dirs: map[int32]string{}, files: map[string]*cctools.File{}}
	c.event(event{wd: -1, mask: unix.IN_Q_OVERFLOW})
	if _, missed := c.Files(); missed == "" {
		t.Error("an overflow is passed over")
	}
}

func FuzzCutEvent(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00file\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for n := 0; ; n++ {
			_, rest, ok := cutEvent(b)
			if !ok {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("nothing was taken")
			}
			b = rest
		}
	})
}
