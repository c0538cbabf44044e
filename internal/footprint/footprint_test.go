package footprint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, path string, bytes int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, bytes), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func measure(t *testing.T, dirs ...string) Size {
	t.Helper()
	size, err := Measure(context.Background(), dirs)
	must(t, err)
	return size
}

func check(t *testing.T, what string, got Size, bytes, files uint64, partial bool) {
	t.Helper()
	if got.Bytes != bytes || got.Files != files || got.Partial != partial {
		t.Errorf("%s: %d bytes, %d files, partial %v; there are %d and %d, %v", what, got.Bytes, got.Files, got.Partial, bytes, files, partial)
	}
}

func TestMeasureCountsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	check(t, "an empty directory", measure(t, dir), 0, 1, false)
	write(t, filepath.Join(dir, "a"), 1000)
	write(t, filepath.Join(dir, "sub/b"), 5000)
	write(t, filepath.Join(dir, "sub/deep/c\n\xff"), 1)
	check(t, "three files", measure(t, dir), 6001, 6, false)

	must(t, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "sub/again")))
	check(t, "with a hard link", measure(t, dir), 6001, 7, false)
	must(t, os.Symlink("..", filepath.Join(dir, "sub/loop")))
	must(t, os.Symlink("/usr", filepath.Join(dir, "usr")))
	check(t, "with symbolic links", measure(t, dir), 6001, 9, false)

	check(t, "a directory twice, and one inside", measure(t, filepath.Join(dir, "sub"), dir, dir+"/.", filepath.Join(dir, "sub/deep")), 6001, 9, false)
	check(t, "one inside, later", measure(t, dir, filepath.Join(dir, "sub")), 6001, 9, false)
	check(t, "apart", measure(t, filepath.Join(dir, "sub/deep"), t.TempDir()), 1, 3, false)
	check(t, "one that is gone", measure(t, filepath.Join(dir, "none"), filepath.Join(dir, "sub/deep")), 1, 2, false)
}

// A sparse file takes what it has, not what it could have.
func TestMeasureLeavesHolesOut(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(1<<30))
	_, err = f.WriteAt(make([]byte, 1<<20), 512<<20)
	must(t, err)
	if got := measure(t, dir).Bytes; got < 1<<20 || got > 2<<20 {
		t.Errorf("a file of 1 MiB and holes: %d bytes", got)
	}
}

func TestMeasureStaysOnItsFilesystem(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a filesystem needs root")
	}
	dir := t.TempDir()
	mount := filepath.Join(dir, "mount")
	write(t, filepath.Join(dir, "f"), 10)
	must(t, os.Mkdir(mount, 0o755))
	must(t, unix.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"))
	defer unix.Unmount(mount, unix.MNT_DETACH)
	write(t, filepath.Join(mount, "g"), 100)
	check(t, "a filesystem inside", measure(t, dir), 10, 3, false)
	check(t, "both", measure(t, dir, mount), 110, 4, false)
}

// A directory deeper than any path may be long.
func TestMeasureIsBounded(t *testing.T) {
	dir := t.TempDir()
	cwd, err := os.Getwd()
	must(t, err)
	defer os.Chdir(cwd)
	must(t, os.Chdir(dir))
	for range maxDepth + 5 {
		must(t, os.Mkdir(strings.Repeat("d", 100), 0o755))
		must(t, os.Chdir(strings.Repeat("d", 100)))
	}
	check(t, "a deep tree", measure(t, dir), 0, maxDepth+2, true)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	begin := time.Now()
	if _, err := Measure(ctx, []string{"/usr"}); err == nil || time.Since(begin) > time.Second {
		t.Errorf("a walk that must stop: %v after %s", err, time.Since(begin))
	}
}

// What cctools says of the same directory, where it puts one file of its own: the
// library that it has the job load.
func TestMeasureAgreesWithCCTools(t *testing.T) {
	dir := t.TempDir()
	for i := range 32 { // 3.05 MB: the library does not fill the fourth
		write(t, filepath.Join(dir, fmt.Sprintf("d%d/f%d", i%7, i)), 100_000)
	}
	out := filepath.Join(t.TempDir(), "t")
	cmd := exec.Command("resource_monitor", "-O", out, "--no-pprint", "--", "sleep", "0.1")
	cmd.Dir = dir
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	summary, err := os.ReadFile(out + ".summary")
	must(t, err)
	size := measure(t, dir)
	const mb = 1 << 20
	for _, want := range []string{
		fmt.Sprintf(`"disk":[%d,"MB"]`, (size.Bytes+mb-1)/mb),
		fmt.Sprintf(`"total_files":[%d,"files"]`, size.Files+1),
	} {
		if !strings.Contains(string(summary), want) {
			t.Errorf("%s is not in %s", want, summary)
		}
	}
}

func TestMeterFollowsProcesses(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, filepath.Join(elsewhere, "f"), 7)
	m := Start(Options{Dirs: []string{dir}, Follow: true, Every: time.Hour})
	defer m.Close()
	size, ok := m.Final(10 * time.Second)
	if !ok {
		t.Fatal("no measurement")
	}
	check(t, "before there is a process", size, 0, 1, false)

	cmd := exec.Command("sleep", "60")
	cmd.Dir = elsewhere
	must(t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	m.Processes(func(yield func(int32) bool) { _ = yield(int32(cmd.Process.Pid)) && yield(int32(os.Getpid())<<1) })
	if size, ok = m.Final(10 * time.Second); !ok {
		t.Fatal("no measurement")
	}
	check(t, "the process's own", size, 7, 2, false)
	if last, ok := m.Last(); !ok || last != size {
		t.Errorf("last: %+v", last)
	}
}

// Final is a measurement that began after it was asked for.
func TestFinalSeesWhatWasWrittenBefore(t *testing.T) {
	dir := t.TempDir()
	m := Start(Options{Dirs: []string{dir}, Every: time.Hour})
	defer m.Close()
	for i := 1; i <= 50; i++ {
		write(t, filepath.Join(dir, strconv.Itoa(i)), 1)
		if size, ok := m.Final(10 * time.Second); !ok || size.Bytes != uint64(i) {
			t.Fatalf("%d bytes, %v: there are %d", size.Bytes, ok, i)
		}
	}
	m.Close()
	if _, ok := m.Final(time.Second); ok {
		t.Error("a measurement after Close")
	}
}

func BenchmarkMeasure(b *testing.B) {
	dir := b.TempDir()
	for i := range 10_000 {
		path := filepath.Join(dir, strconv.Itoa(i%100), strconv.Itoa(i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for b.Loop() {
		if _, err := Measure(context.Background(), []string{dir}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAFullFilesystemIsNoticed fills one of one MiB, with bytes and with files.
func TestAFullFilesystemIsNoticed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a filesystem needs root")
	}
	for name, c := range map[string]struct {
		options string
		inodes  bool
		fill    func(dir string) error
	}{
		"bytes": {"size=1m", false, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "f"), make([]byte, 2<<20), 0o644)
		}},
		"inodes": {"size=1m,nr_inodes=8", true, func(dir string) (err error) {
			for i := 0; err == nil; i++ {
				err = os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o644)
			}
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, c.options))
			defer unix.Unmount(dir, unix.MNT_DETACH)
			m := Start(Options{Dirs: []string{dir}})
			defer m.Close()
			if _, ok := m.Final(10 * time.Second); !ok || m.Exhausted().Dir != "" {
				t.Errorf("an empty filesystem: %+v", m.Exhausted())
			}
			if err := c.fill(dir); !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			m.Final(10 * time.Second)
			if got := m.Exhausted(); got.Dir != dir || got.Inodes != c.inodes {
				t.Errorf("a full filesystem: %+v", got)
			}
		})
	}
}
