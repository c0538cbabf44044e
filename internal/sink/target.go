package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fifoRetry is how often a FIFO without a reader is looked at again.
const fifoRetry = 100 * time.Millisecond

// target is where lines go: a regular file, or a stream (pipe, FIFO, terminal,
// device). Only one goroutine uses it at a time.
type target struct {
	path    string   // empty: an inherited stream, which can't be reopened
	file    *os.File // nil: a FIFO that nobody reads yet
	regular bool
	torn    bool // the file ends in half a line
	midLine bool // writeNow ended within a line, with which write goes on
}

// openTarget opens a file for appending, and makes it with mode 0640. A FIFO is
// not waited for: ready opens it once somebody reads it.
func openTarget(path string) (*target, error) {
	t := &target{path: path}
	if st, err := os.Stat(path); err == nil && st.Mode()&fs.ModeNamedPipe != 0 {
		err := t.openFIFO()
		if errors.Is(err, unix.ENXIO) {
			err = nil
		}
		return t, err
	}
	// Reading is for repairs: see takeBack and endsTorn.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOCTTY, 0o640)
	if errors.Is(err, fs.ErrPermission) {
		var again error
		if f, again = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NOCTTY, 0); !errors.Is(again, fs.ErrNotExist) {
			err = again
		} // else it may not be made, which is what is wrong
	}
	if err != nil {
		return nil, fmt.Errorf("open the output: %w", err)
	}
	if err := t.take(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return t, nil
}

// inheritTarget makes a target of a stream that the agent was started with. It
// works on a duplicate: on descriptors 1 and 2, Go answers a reader that has
// closed the pipe by ending the program with SIGPIPE (os/signal).
func inheritTarget(f *os.File) (*target, error) {
	conn, err := f.SyscallConn() // f.Fd would make it blocking for everybody who shares it
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	var fd int
	var dupErr error
	err = conn.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) })
	if err := errors.Join(err, dupErr); err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	t := &target{}
	dup := os.NewFile(uintptr(fd), f.Name())
	if err := t.take(dup); err != nil {
		return nil, errors.Join(err, dup.Close())
	}
	return t, nil
}

func (t *target) take(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("stat the output: %w", err)
	}
	t.file, t.regular = f, st.Mode().IsRegular()
	t.torn = t.regular && endsTorn(f, st.Size())
	return nil
}

// endsTorn reports whether the last line has no end: its writer was killed.
func endsTorn(f *os.File, size int64) bool {
	var last [1]byte
	if size == 0 {
		return false
	}
	n, _ := f.ReadAt(last[:], size-1) // may not be open for reading
	return n == 1 && last[0] != '\n'
}

// openFIFO fails with ENXIO while nobody reads the FIFO (fifo(7)).
func (t *target) openFIFO() error {
	f, err := os.OpenFile(t.path, os.O_WRONLY|os.O_APPEND|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open the output: %w", err)
	}
	t.file = f
	return nil
}

// ready waits until a FIFO has a reader. All else is ready.
func (t *target) ready(ctx context.Context) error {
	for t.file == nil {
		err := t.openFIFO()
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENXIO) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for a reader of %s: %w", t.path, ctx.Err())
		case <-time.After(fifoRetry):
		}
	}
	return nil
}

// writeNow writes as much as a stream takes without waiting, and returns how many bytes
// that was. Regular files take nothing: they may wait for a disk. Nor do pipes before
// Linux 6.4 (afed6271f5b0), terminals and devices; errors are for write to meet.
func (t *target) writeNow(lines []byte) (n int) {
	if t.file == nil || t.regular || t.torn || len(lines) == 0 {
		return 0
	}
	conn, err := t.file.SyscallConn()
	if err != nil {
		return 0
	}
	err = conn.Control(func(fd uintptr) {
		vector := unix.Iovec{Base: &lines[0]}
		vector.SetLen(len(lines))
		const position = ^uintptr(0) // the file's own
		got, _, errno := unix.RawSyscall6(unix.SYS_PWRITEV2, fd, uintptr(unsafe.Pointer(&vector)), 1,
			position, position, unix.RWF_NOWAIT)
		if errno == 0 {
			n = int(got)
		}
	})
	if err != nil {
		return 0
	}
	t.midLine = n > 0 && lines[n-1] != '\n' || n == 0 && t.midLine
	return n
}

// write writes lines and returns how many bytes of whole lines are in the target
// for good.
func (t *target) write(lines []byte) (int, error) {
	if t.torn {
		if _, err := t.file.Write([]byte("\n")); err != nil {
			return 0, err
		}
		t.torn = false
	}
	n, err := t.file.Write(lines) // goes on after a short write
	begun := t.midLine
	t.midLine = false
	if err == nil {
		return n, nil
	}
	whole := bytes.LastIndexByte(lines[:n], '\n') + 1
	if part := lines[whole:n]; len(part) > 0 || whole == 0 && begun {
		t.torn = !t.takeBack(part)
	}
	return whole, err
}

// takeBack cuts half a line off a regular file, if it still is what the file
// ends in: somebody may have truncated the file, or written to it, meanwhile.
func (t *target) takeBack(part []byte) bool {
	if !t.regular {
		return false
	}
	st, err := t.file.Stat()
	if err != nil {
		return false
	}
	end := make([]byte, len(part))
	from := st.Size() - int64(len(part))
	if _, err := t.file.ReadAt(end, max(from, 0)); err != nil || !bytes.Equal(end, part) {
		return false
	}
	return t.file.Truncate(from) == nil
}

// reopen opens the path anew; the old file stays where that fails. Streams that
// were inherited have nothing to reopen.
func (t *target) reopen() error {
	if t.path == "" {
		return nil
	}
	next, err := openTarget(t.path)
	if err != nil {
		return err
	}
	old := t.file
	*t = *next
	if old == nil {
		return nil
	}
	if err := old.Close(); err != nil {
		return fmt.Errorf("close the former output: %w", err)
	}
	return nil
}

func (t *target) close() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}
