// Package uringtest has tests use io_uring, of which no library here knows enough to have
// an operation done by one of the kernel's worker threads.
package uringtest

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ring is an io_uring of four entries, one of which is used.
type Ring struct {
	fd       int
	sq, sqes []byte
	sqTail   *uint32
	sqArray  *uint32
	cqHead   *uint32
	cqTail   *uint32
	cqes     unsafe.Pointer
	mask     uint32
}

// Params is struct io_uring_params (include/uapi/linux/io_uring.h).
type Params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sqOff                                                                  struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cqOff struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

// New makes a ring. It is not safe for several goroutines at once.
func New() (*Ring, error) {
	var p Params
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	size := max(int(p.sqOff.array+4*p.sqEntries), int(p.cqOff.cqes+16*p.cqEntries))
	mem, err := unix.Mmap(int(fd), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	sqes, err := unix.Mmap(int(fd), 0x10000000, int(64*p.sqEntries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&mem[off])) }
	return &Ring{
		fd: int(fd), sq: mem, sqes: sqes,
		sqTail: at(p.sqOff.tail), sqArray: at(p.sqOff.array),
		cqHead: at(p.cqOff.head), cqTail: at(p.cqOff.tail),
		cqes: unsafe.Pointer(&mem[p.cqOff.cqes]), mask: p.cqEntries - 1,
	}, nil
}

// Do moves bytes by an operation, which returns how many.
func (r *Ring) Do(op byte, fd int, p []byte) (int, error) { return r.submit(op, 0, fd, p) }

// Async is Do by a worker thread of the kernel's.
func (r *Ring) Async(op byte, fd int, p []byte) (int, error) {
	const async = 1 << 4 // IOSQE_ASYNC
	return r.submit(op, async, fd, p)
}

func (r *Ring) submit(op, flags byte, fd int, p []byte) (int, error) {
	n := r.Run(func(sqe []byte) {
		sqe[0], sqe[1] = op, flags
		*(*int32)(unsafe.Pointer(&sqe[4])) = int32(fd)
		*(*uint64)(unsafe.Pointer(&sqe[16])) = uint64(uintptr(unsafe.Pointer(&p[0])))
		*(*uint32)(unsafe.Pointer(&sqe[24])) = uint32(len(p))
	})
	if n < 0 {
		return 0, fmt.Errorf("io_uring operation %d: %w", op, unix.Errno(-n))
	}
	return n, nil
}

// Run runs one operation, whose entry fill writes, and returns its result. One that needs a worker is cancelled
// where the kernel could not start any: signals interrupt clone, as those by which Go
// preempts do, and it tries but a few times (Linux, "io_uring/io-wq: limit retrying
// worker initialisation", July 2024). Nothing was done then, so it is asked again.
func (r *Ring) Run(fill func(sqe []byte)) int {
	for {
		if res := r.once(fill); res != -int(unix.ECANCELED) {
			return res
		}
	}
}

// once runs one operation, as Run does. io_uring_enter orders the memory on both sides.
func (r *Ring) once(fill func(sqe []byte)) int {
	clear(r.sqes[:64])
	fill(r.sqes[:64])
	*(*[4]uint32)(unsafe.Pointer(r.sqArray)) = [4]uint32{}
	*r.sqTail++
	for *r.cqHead == *r.cqTail {
		const getEvents = 1 // IORING_ENTER_GETEVENTS
		if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 1, 1, getEvents, 0, 0); errno != 0 && errno != unix.EINTR {
			return -int(errno)
		}
	}
	res := *(*int32)(unsafe.Add(r.cqes, 16*(*r.cqHead&r.mask)+8))
	*r.cqHead++
	return int(res)
}
