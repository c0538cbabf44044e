package kfile

import (
	"bytes"
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Dir lists a directory. Buf must be at least 4 KiB; it is reused.
type Dir struct {
	Buf  []byte
	fd   int
	rest []byte
}

// Start begins to list the directory that fd has open, from its beginning.
func (d *Dir) Start(fd int) unix.Errno {
	d.fd, d.rest = fd, nil
	_, _, errno := unix.Syscall(unix.SYS_LSEEK, uintptr(fd), 0, unix.SEEK_SET)
	return errno
}

// Next returns the next entry but "." and "..", and its type (unix.DT_DIR...).
// The name is valid until the next call; nil is the end, or an error.
func (d *Dir) Next() (name []byte, typ byte, errno unix.Errno) {
	for {
		if len(d.rest) == 0 {
			n, _, errno := unix.Syscall(unix.SYS_GETDENTS64, uintptr(d.fd), uintptr(unsafe.Pointer(&d.Buf[0])), uintptr(len(d.Buf)))
			if errno != 0 || n == 0 {
				return nil, 0, errno
			}
			d.rest = d.Buf[:n]
		}
		name, typ, d.rest = cutDirent(d.rest)
		if name == nil {
			return nil, 0, unix.EIO
		}
		if string(name) != "." && string(name) != ".." {
			return name, typ, 0
		}
	}
}

// cutDirent takes one struct linux_dirent64 off b (getdents(2)); a nil name is
// a malformed entry.
func cutDirent(b []byte) (name []byte, typ byte, rest []byte) {
	const lengthAt, typeAt, nameAt = 16, 18, 19
	if len(b) <= nameAt {
		return nil, 0, nil
	}
	length := int(binary.NativeEndian.Uint16(b[lengthAt:]))
	if length <= nameAt || length > len(b) {
		return nil, 0, nil
	}
	name = b[nameAt:length]
	end := bytes.IndexByte(name, 0)
	if end <= 0 {
		return nil, 0, nil
	}
	return name[:end], b[typeAt], b[length:]
}
