package kfile

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Name is a path with the NUL that system calls want, made once.
type Name []byte

// MakeName returns s as a Name. A NUL in s ends it.
func MakeName(s string) Name { return append([]byte(s), 0) }

// String returns the path without its NUL.
func (n Name) String() string {
	if len(n) == 0 {
		return ""
	}
	return string(n[:len(n)-1])
}

// AppendPID makes name the decimal pid, in place.
func AppendPID(name Name, pid int32) Name {
	var digits [11]byte
	i := len(digits)
	for v := uint32(pid); ; v /= 10 {
		i--
		digits[i] = byte('0' + v%10)
		if v < 10 {
			break
		}
	}
	return append(append(name, digits[i:]...), 0)
}

// Open opens name below dir for reading; dir may be unix.AT_FDCWD.
func Open(dir int, name Name) (int, unix.Errno) { return open(dir, name, unix.O_RDONLY) }

// OpenDir opens the directory name below dir.
func OpenDir(dir int, name Name) (int, unix.Errno) {
	return open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
}

func open(dir int, name Name, flags int) (int, unix.Errno) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(&name[0])),
			uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
		if errno != unix.EINTR {
			return int(fd), errno
		}
	}
}

// OpenNow is Open for a directory whose kernel side answers at once: see [RereadNow].
func OpenNow(dir int, name Name) (int, unix.Errno) { return openNow(dir, name, unix.O_RDONLY) }

// OpenDirNow is OpenDir for such a directory.
func OpenDirNow(dir int, name Name) (int, unix.Errno) {
	return openNow(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
}

func openNow(dir int, name Name, flags int) (int, unix.Errno) {
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(&name[0])),
		uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
	return int(fd), errno
}

// Close closes fd.
func Close(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// Extent says how a file gives its text.
type Extent uint8

// The extents.
const (
	// Whole files are one record, which one read gives whole (single_open in the
	// kernel; kernfs and sysctl files too): a read that doesn't fill the buffer
	// was the last.
	Whole Extent = iota
	// Records are cut between records wherever the kernel's buffer of a page is
	// full: only an empty read is the end. Mount tables are so.
	Records
	// ShortRecords are records of less than 1 KiB, so that a read that left more than
	// that of a page free was the last: the next record would have found room
	// (seq_read_iter in fs/seq_file.c). Diskstats and net/dev are so, whose names are
	// 32 bytes at most and whose 17 numbers 20 digits.
	ShortRecords
)

const (
	seqPage     = 4096 // the least that a page is
	shortRecord = 1024
)

// last tells whether a read that got so much, with room for more, was the last.
func (e Extent) last(got int) bool {
	switch e {
	case Whole:
		return true
	case ShortRecords:
		return got < seqPage-shortRecord
	}
	return got == 0
}

// maxSize bounds what one file may make a buffer grow to.
const maxSize = 16 << 20

// Read reads name below dir into *buf, whole: it grows *buf where the file is
// longer, and *buf keeps that size for the next time.
func Read(dir int, name Name, e Extent, buf *[]byte) ([]byte, unix.Errno) {
	fd, errno := Open(dir, name)
	if errno != 0 {
		return nil, errno
	}
	b, errno := reread(fd, e, buf, pread)
	Close(fd)
	return b, errno
}

// ReadNow is Read for a file that the kernel makes up at once: see [RereadNow].
func ReadNow(dir int, name Name, e Extent, buf *[]byte) ([]byte, unix.Errno) {
	fd, errno := OpenNow(dir, name)
	if errno != 0 {
		return nil, errno
	}
	b, errno := RereadNow(fd, e, buf)
	Close(fd)
	return b, errno
}

// RereadNow reads the file that fd has open from its beginning, like Read. The kernel
// must make the file up at once, without waiting for another process or a device, as
// it does below /sys/fs/cgroup and for the machine's files below /proc: the runtime is
// not told of the call, and runs nothing else meanwhile
// (docs/decisions/monitor-thread.md). Signals can't interrupt what does not wait.
func RereadNow(fd int, e Extent, buf *[]byte) ([]byte, unix.Errno) {
	return reread(fd, e, buf, preadNow)
}

func reread(fd int, e Extent, buf *[]byte, pread func(fd int, b []byte, at int) (int, unix.Errno)) ([]byte, unix.Errno) {
	n := 0
	for {
		if n == len(*buf) {
			if n >= maxSize {
				return nil, unix.EFBIG
			}
			*buf = append(*buf, make([]byte, max(4096, n))...)
		}
		got, errno := pread(fd, (*buf)[n:], n)
		if errno != 0 {
			return nil, errno
		}
		n += got
		if got == 0 || n < len(*buf) && e.last(got) {
			return (*buf)[:n], 0
		}
	}
}

func pread(fd int, b []byte, at int) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
			uintptr(at), 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

func preadNow(fd int, b []byte, at int) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		uintptr(at), 0, 0)
	return int(n), errno
}

// Changed reports whether the file that fd has open, as mountinfo, says by POLLPRI that
// it is another than when it was read or asked last.
func Changed(fd int) bool {
	p := unix.PollFd{Fd: int32(fd), Events: unix.POLLPRI}
	var atOnce unix.Timespec
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&atOnce)), 0, 0, 0)
	return errno == 0 && n > 0 && p.Revents&unix.POLLPRI != 0
}

// Stat is fstatat(2).
func Stat(dir int, name Name, st *unix.Stat_t) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_NEWFSTATAT, uintptr(dir), uintptr(unsafe.Pointer(&name[0])),
		uintptr(unsafe.Pointer(st)), 0, 0, 0)
	return errno
}

// Statfs is statfs(2).
func Statfs(name Name, st *unix.Statfs_t) unix.Errno {
	for {
		_, _, errno := unix.Syscall(unix.SYS_STATFS, uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(st)), 0)
		if errno != unix.EINTR {
			return errno
		}
	}
}

// StatfsNow is Statfs for a filesystem that answers at once: see [RereadNow].
func StatfsNow(name Name, st *unix.Statfs_t) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_STATFS, uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(st)), 0)
	return errno
}

// ReadlinkNow reads the link name below dir into b. The kernel must say at once where it
// leads: see [RereadNow].
func ReadlinkNow(dir int, name Name, b []byte) ([]byte, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(&name[0])),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0)
	if errno != 0 {
		return nil, errno
	}
	return b[:n], 0
}
