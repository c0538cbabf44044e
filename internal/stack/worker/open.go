package worker

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/procmem"
)

const (
	openTime = 2 * time.Second
	maxStuck = 4 // opens that never came back: each holds a thread
)

// opener opens files of other processes, whose paths and file systems belong to
// others: a lookup in a file system in user space may never come back.
type opener struct{ stuck procmem.Gate }

func newOpener() *opener { return &opener{procmem.NewGate(maxStuck)} }

// identity tells files apart, also one that took a deleted one's inode.
type identity struct {
	device, inode uint64
	size          int64
	changed       unix.Timespec
}

// opened is a regular file and what it is.
type opened struct {
	file  *os.File
	id    identity
	owner uint32
}

// link opens what a link of /proc leads to, a regular file for which want is true.
func (o *opener) link(path string, want func(*unix.Stat_t) error) (opened, error) {
	return o.inTime(func() (opened, error) {
		handle, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return opened{}, err
		}
		return openRegular(handle, path, want)
	})
}

// inside opens a path in a process's root, where links stay, too; none at its end is
// followed with O_NOFOLLOW.
func (o *opener) inside(pid int32, path string, flags uint64, want func(*unix.Stat_t) error) (opened, error) {
	return o.inTime(func() (opened, error) {
		root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return opened{}, err
		}
		defer unix.Close(root)
		handle, err := unix.Openat2(root, path, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != nil {
			return opened{}, err
		}
		return openRegular(handle, path, want)
	})
}

// inTime opens, and gives up after a while.
func (o *opener) inTime(open func() (opened, error)) (opened, error) {
	f, err := procmem.InTime(o.stuck, openTime, open, func(f opened) {
		if f.file != nil {
			_ = f.file.Close()
		}
	})
	switch {
	case errors.Is(err, procmem.ErrLate):
		err = fmt.Errorf("not open after %s", openTime)
	case errors.Is(err, procmem.ErrFull):
		err = errors.New("too many files that do not open")
	}
	return f, err
}

// openRegular opens what a handle (O_PATH) is of, so that what is opened is what was
// looked at; a FIFO or device never is. It closes the handle.
func openRegular(handle int, path string, want func(*unix.Stat_t) error) (opened, error) {
	defer unix.Close(handle)
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		return opened{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return opened{}, errors.New("not a regular file")
	}
	if want != nil {
		if err := want(&st); err != nil {
			return opened{}, err
		}
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", handle), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return opened{}, err
	}
	id := identity{device: st.Dev, inode: st.Ino, size: st.Size, changed: st.Ctim}
	return opened{os.NewFile(uintptr(fd), path), id, st.Uid}, nil
}

// mappedAt refuses a file that is not the one of a mapping.
func mappedAt(device, inode uint64) func(*unix.Stat_t) error {
	return func(st *unix.Stat_t) error {
		if uint64(unix.Major(st.Dev))<<32|uint64(unix.Minor(st.Dev)) != device || st.Ino != inode {
			return errors.New("replaced by another file")
		}
		return nil
	}
}
