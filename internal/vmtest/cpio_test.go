package vmtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// What another implementation reads has to be what went in.
func TestArchiveReadByCpio(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("no cpio to read the archive:", err)
	}
	in := t.TempDir()
	hostile := "foo) Z\n\xff"
	for name, content := range map[string]string{
		"":               "",
		"empty":          "",
		"one":            "1",
		"four":           "1234",
		"dir/" + hostile: strings.Repeat("x", 70_001),
		"dir/deep/file":  "content\n",
	} {
		name = filepath.Join(in, name)
		if name == in {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(in, "hollow"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere/at all", filepath.Join(in, "link")); err != nil {
		t.Fatal(err)
	}

	var b bytes.Buffer
	a := newArchive(&b)
	if err := a.add("/some/where", in); err != nil {
		t.Fatal(err)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	cmd := exec.Command("cpio", "-i", "--quiet", "--make-directories")
	cmd.Dir, cmd.Stdin = out, &b
	if text, err := cmd.CombinedOutput(); err != nil || len(text) > 0 {
		t.Fatalf("cpio: %v: %s", err, text)
	}
	// The archive has the directories above too, and nothing else.
	if diff := cmp.Diff(tree(t, in), tree(t, filepath.Join(out, "some/where"))); diff != "" {
		t.Errorf("unpacked differs (-in +out):\n%s", diff)
	}
}

// tree describes everything below a directory.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.Walk(root, func(name string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		below, _ := filepath.Rel(root, name)
		what := info.Mode().String() + " "
		switch info.Mode().Type() {
		case 0:
			content, err := os.ReadFile(name)
			found[below] = what + string(content)
			return err
		case os.ModeSymlink:
			target, err := os.Readlink(name)
			found[below] = what + target
			return err
		}
		found[below] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(found, ".") // its mode is that of a temporary directory
	return found
}

func TestArchiveRefuses(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	a := newArchive(&bytes.Buffer{})
	if err := a.add("/fifo", fifo); err == nil {
		t.Error("a FIFO was archived")
	}
	if err := a.file("relative", 0o600, nil); err == nil {
		t.Error("a relative name was archived")
	}
}
