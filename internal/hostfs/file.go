package hostfs

import (
	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
)

// Options says where to read.
type Options struct {
	Root string // what stands before /proc and /sys; empty for the machine itself
}

// file is a kernel file that stays open: reading it again saves the look-up and
// the open, about half of a short file's cost.
type file struct {
	fd     int // -1 if it is not there
	extent kfile.Extent
}

func openFile(path string, e kfile.Extent) file {
	fd, errno := kfile.Open(unix.AT_FDCWD, kfile.MakeName(path))
	if errno != 0 {
		return file{-1, e}
	}
	return file{fd, e}
}

// read returns the file's text now, nil where it is unreadable.
func (f file) read(buf *[]byte) []byte {
	if f.fd < 0 {
		return nil
	}
	b, errno := kfile.RereadNow(f.fd, f.extent, buf)
	if errno != 0 {
		return nil
	}
	return b
}

func (f file) close() {
	if f.fd >= 0 {
		kfile.Close(f.fd)
	}
}
