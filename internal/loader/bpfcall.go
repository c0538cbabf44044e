package loader

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The two calls of bpf(2) that a reading makes, without the allocations that
// cilium/ebpf makes for their options (include/uapi/linux/bpf.h).
const (
	bpfProgTestRun = 10
	bpfIterCreate  = 33
)

type progTestRunAttr struct {
	progFD                uint32
	retval                uint32
	dataSizeIn, dataSizeO uint32
	dataIn, dataOut       uint64
	repeat, duration      uint32
	ctxSizeIn, ctxSizeOut uint32
	ctxIn, ctxOut         uint64
	flags, cpu, batchSize uint32
	_                     uint32
}

// runSyscallProgram runs a syscall program, which reads and changes the context.
func runSyscallProgram(fd int, context *scanScanArgs) error {
	attr := progTestRunAttr{
		progFD:    uint32(fd),
		ctxSizeIn: uint32(unsafe.Sizeof(*context)),
		ctxIn:     uint64(uintptr(unsafe.Pointer(context))),
	}
	// It runs for as long as it runs, and waits for nobody: the runtime is not told
	// (docs/decisions/monitor-thread.md).
	_, _, errno := unix.RawSyscall(unix.SYS_BPF, bpfProgTestRun, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(context)
	if errno != 0 {
		return errno
	}
	return nil
}

// createIterator opens an iterator of a link, to be read like a file.
func createIterator(link int) (fd int, err error) {
	attr := struct{ linkFD, flags uint32 }{linkFD: uint32(link)}
	r, _, errno := unix.Syscall(unix.SYS_BPF, bpfIterCreate, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}
