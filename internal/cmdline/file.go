package cmdline

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// UnfinishedFile begins the names of files that are to take another's place when they are
// whole.
const UnfinishedFile = ".rmagent-"

// WriteFile has write make a whole file or nothing: it appears, or takes the place of the
// one before with the permissions of that, when it is complete. A link stays one, and the
// file that it leads to is replaced. What is no file, as a pipe or a device, can't be
// replaced, and is written to. perm is of a file that was not there.
func WriteFile(path string, perm os.FileMode, write func(io.Writer) error) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("%s is a directory: name the file in it", path)
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return because(path, errors.Join(buffered(f, write), f.Close()))
	case err == nil:
		perm = info.Mode().Perm()
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return err
		}
	}
	return because(path, replaceFile(path, perm, write))
}

func replaceFile(path string, perm os.FileMode, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), UnfinishedFile+"*")
	if err != nil {
		return err
	}
	err = errors.Join(buffered(f, write), f.Chmod(perm), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func buffered(f *os.File, write func(io.Writer) error) error {
	out := bufio.NewWriterSize(f, 64<<10)
	return cmp.Or(write(out), out.Flush()) // which says again why writing failed
}

// because names the file that was asked for, not the one that was to take its place.
func because(path string, err error) error {
	var number unix.Errno
	if errors.As(err, &number) {
		return fmt.Errorf("%s: %w", path, number)
	}
	return err
}
