package cmdline

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func saying(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(in("before"), []byte("before"), 0o604); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("before", in("link")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, file string
		mode       os.FileMode
	}{
		{"new", "new", 0o640},
		{"before", "before", 0o604},
		{"link", "before", 0o604},
	} {
		if err := WriteFile(in(tt.path), 0o640, saying("whole "+tt.path)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(in(tt.file))
		info, _ := os.Lstat(in(tt.file))
		if err != nil || string(got) != "whole "+tt.path || info.Mode() != tt.mode {
			t.Errorf("%s: %q, %v, %v", tt.path, got, info.Mode(), err)
		}
	}
	if to, err := os.Readlink(in("link")); to != "before" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	failed := errors.New("failed")
	if err := WriteFile(in("before"), 0o640, func(w io.Writer) error { io.WriteString(w, "half"); return failed }); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	if got, _ := os.ReadFile(in("before")); string(got) != "whole link" {
		t.Errorf("a failure left %q", got)
	}
	if left, _ := os.ReadDir(dir); len(left) != 3 {
		t.Errorf("left behind: %v", left)
	}
}

// TestWriteFileToNoFile: what is no file is still there afterwards, and got the text. A
// device stands for itself: a command of root's must not replace /dev/null.
func TestWriteFileToNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := WriteFile(pipe, 0o640, saying("to a pipe")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	n, err := r.Read(got)
	info, _ := os.Lstat(pipe)
	if err != nil || string(got[:n]) != "to a pipe" || info.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("%q, %v, %v", got[:n], info.Mode(), err)
	}
	full := filepath.Join(dir, "full")
	if err := os.Symlink("/dev/full", full); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(full, 0o640, saying("x")); !errors.Is(err, unix.ENOSPC) || err.Error() != full+": no space left on device" {
		t.Errorf("%v", err)
	}
	if err := WriteFile(dir, 0o640, saying("x")); err == nil || err.Error() != dir+" is a directory: name the file in it" {
		t.Errorf("%v", err)
	}
	missing := filepath.Join(dir, "none", "x")
	if err := WriteFile(missing, 0o640, saying("x")); err == nil || err.Error() != missing+": no such file or directory" {
		t.Errorf("%v", err)
	}
}
