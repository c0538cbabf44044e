package vmtest

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// archive writes an initramfs: a cpio archive in the "newc" format
// (Documentation/driver-api/early-userspace/buffer-format.rst). Names are
// absolute paths in the guest; a directory is written before what is in it,
// because the kernel creates no parents.
type archive struct {
	w    *bufio.Writer
	seen map[string]bool // directories written
	ino  int
	size int64 // bytes written, for alignment
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriter(w), seen: map[string]bool{"/": true}}
}

// add writes src, a file, a symbolic link or a directory with all below it, as dst.
func (a *archive) add(dst, src string) error {
	return filepath.WalkDir(src, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(src, name)
		if err != nil {
			return err
		}
		return a.addOne(path.Join(dst, below), name)
	})
}

func (a *archive) addOne(dst, src string) error {
	info, err := os.Lstat(src)
	if err != nil {
		return err
	}
	switch mode := info.Mode(); mode.Type() {
	case fs.ModeDir:
		return a.dir(dst)
	case fs.ModeSymlink:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return a.entry(dst, unix.S_IFLNK|0o777, []byte(target), 0, 0)
	case 0:
		content, err := os.ReadFile(src)
		if err != nil {
			return err
		}
		return a.file(dst, mode.Perm(), content)
	default:
		return fmt.Errorf("archive %s: no place for a file of type %s", src, mode)
	}
}

func (a *archive) file(name string, perm fs.FileMode, content []byte) error {
	return a.entry(name, unix.S_IFREG|uint32(perm), content, 0, 0)
}

func (a *archive) charDevice(name string, perm fs.FileMode, major, minor int) error {
	return a.entry(name, unix.S_IFCHR|uint32(perm), nil, major, minor)
}

func (a *archive) dir(name string) error {
	name = path.Clean(name)
	if a.seen[name] {
		return nil
	}
	a.seen[name] = true
	return a.entry(name, unix.S_IFDIR|0o755, nil, 0, 0)
}

// close writes the end of the archive.
func (a *archive) close() error {
	if err := a.write("TRAILER!!!", 0, nil, 0, 0); err != nil {
		return err
	}
	return a.w.Flush()
}

func (a *archive) entry(name string, mode uint32, content []byte, major, minor int) error {
	if !path.IsAbs(name) {
		return fmt.Errorf("archive %q: the name in the guest must be absolute", name)
	}
	if int64(len(content)) > 1<<32-1 {
		return fmt.Errorf("archive %s: the format ends at 4 GiB", name)
	}
	if err := a.dir(path.Dir(name)); err != nil {
		return err
	}
	return a.write(strings.TrimPrefix(path.Clean(name), "/"), mode, content, major, minor)
}

// write appends one header, name and content, the latter two each filled up to a
// multiple of four bytes. Owner is root, the time of change 1970.
func (a *archive) write(name string, mode uint32, content []byte, major, minor int) error {
	a.ino++
	n, err := fmt.Fprintf(a.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.ino, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name)
	a.size += int64(n)
	if err != nil {
		return err
	}
	if err := a.align(); err != nil {
		return err
	}
	n, err = a.w.Write(content)
	a.size += int64(n)
	if err != nil {
		return err
	}
	return a.align()
}

func (a *archive) align() error {
	n, err := a.w.Write(make([]byte, -a.size&3))
	a.size += int64(n)
	return err
}
