package loader

import (
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Calls of bpf(2) that are made without cilium/ebpf (include/uapi/linux/bpf.h): the two
// that a reading makes, without the allocations that the library makes for their options,
// and the one that loads a program whose types the library did not find (quickload.go).
const (
	bpfProgLoad    = 5
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

type progLoadAttr struct {
	progType, insnCount    uint32
	insns, license         uint64
	logLevel, logSize      uint32
	logBuffer              uint64
	kernelVersion, flags   uint32
	name                   [unix.BPF_OBJ_NAME_LEN]byte
	ifindex, attachType    uint32
	btfFD, funcInfoSize    uint32
	funcInfo               uint64
	funcCount              uint32
	lineInfoSize           uint32
	lineInfo               uint64
	lineCount, attachBTFID uint32
}

// loadProgram loads a program, with the information on its functions. attr has the rest.
func loadProgram(attr *progLoadAttr, name, license string, code, funcs []byte) (fd int, err error) {
	text := append([]byte(license), 0)
	var pin runtime.Pinner
	defer pin.Unpin()
	address := func(b []byte) uint64 {
		if len(b) == 0 {
			return 0
		}
		pin.Pin(&b[0])
		return uint64(uintptr(unsafe.Pointer(&b[0])))
	}
	copy(attr.name[:len(attr.name)-1], name)
	attr.license = address(text)
	attr.insns, attr.insnCount = address(code), uint32(len(code)/asm.InstructionSize)
	attr.funcInfo, attr.funcCount = address(funcs), uint32(len(funcs))/attr.funcInfoSize
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, bpfProgLoad, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
		switch {
		case errno == unix.EAGAIN: // a signal came while it was verified
		case errno != 0:
			return -1, errno
		default:
			return int(r), nil
		}
	}
}
