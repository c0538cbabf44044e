package sample

import (
	"net/netip"
	"time"
)

// FDKind says what a descriptor refers to.
type FDKind uint8

// The kinds of descriptor.
const (
	FDUnknown FDKind = iota
	FDFile
	FDDirectory
	FDCharDevice
	FDBlockDevice
	FDPipe // pipe(2)
	FDFIFO // a named one
	FDTCP4
	FDTCP6
	FDUDP4
	FDUDP6
	FDUnix
	FDNetlink
	FDPacket
	FDSocket // of another family or protocol
	FDEventfd
	FDEpoll
	FDInotify
	FDFanotify
	FDTimerfd
	FDSignalfd
	FDMemfd
	FDPidfd
	FDIOUring
	FDUserfaultfd
	FDPerfEvent
	FDBPF // map, program, link, iterator
	FDNamespace
	FDAnon // another anonymous inode
	NumFDKinds
)

var fdKinds = [NumFDKinds]string{
	"unknown", "file", "directory", "char_device", "block_device", "pipe", "fifo",
	"tcp4", "tcp6", "udp4", "udp6", "unix", "netlink", "packet", "socket",
	"eventfd", "epoll", "inotify", "fanotify", "timerfd", "signalfd", "memfd", "pidfd",
	"io_uring", "userfaultfd", "perf_event", "bpf", "namespace", "anon_inode",
}

// String returns the kind as records name it.
func (k FDKind) String() string { return fdKinds[k] }

// Unattributed says why nobody knows who opened a descriptor.
type Unattributed uint8

// The reasons.
const (
	Attributed    Unattributed = iota
	BeforeTracing              // it was open when tracing began
	UntracedCall               // it came by a call that no hook sees: an ioctl, seccomp's ADDFD
	CompatCall                 // it came by a 32-bit call
	MapFull                    // its stamp found no room
	StackLost                  // who opened it is known, but its stack found the log full
	NumUnattributed
)

var unattributed = [NumUnattributed]string{
	"", "before_tracing", "untraced_call", "compat", "map_full", "stack_lost",
}

// String returns the reason as records name it.
func (u Unattributed) String() string { return unattributed[u] }

// FD is one open descriptor, as its process's table shows it.
type FD struct {
	Number int32
	Kind   FDKind
	Why    Unattributed
	Birth  uint64 // FDBirth.Seq of who opened it; 0 where Why says so
	// File tells open file descriptions apart: equal in two tables, or twice in
	// one, it is one description. It means nothing once the description is closed.
	File   uint64
	Inode  uint64
	Device uint64 // as st_dev

	// Of IP sockets; the zero AddrPort where there is none.
	Local, Remote netip.AddrPort
	Listening     bool

	// Used changes while it is used: it is the bytes that a TCP socket received and sent,
	// or a file's position; 0 where nothing tells.
	Used uint64
}

// FDList is what one process holds. A reader reuses its memory.
type FDList struct {
	ID  ID
	FDs []FD // by number
	// Missed is how many more there were than could be read.
	Missed uint64
	// Denied is how many more the kernel did not permit to be read.
	Denied uint64
}

// FDBirth is one traced call that made a descriptor, or that failed because there
// was none left.
type FDBirth struct {
	Seq     uint64 // ascending, from 1; a gap is a loss
	ID      ID     // of the process; none where it was traced, and is not any more
	TID     int32
	FD      int32         // -1 where Errno says why none came
	Errno   uint32        // EMFILE or ENFILE, else 0
	Syscall int32         // the native number, or -1 minus the opcode of an io_uring request
	ExecID  uint64        // grows whenever the process becomes another program
	At      time.Duration // CLOCK_MONOTONIC; with Known, up to 60 ms late
	Thread  Comm          // the name of the thread that called
	// Known is what a walk was remembered as that the stack is walked like. 0: none, and
	// Stack is what was copied.
	Known  uint32
	Stack  RawStack      // valid until the next drain
	Python []PythonFrame // innermost first, where the process's CPython is known; valid as long
}

// Registers are those of the caller in user space, by their names on amd64. On
// arm64 IP, SP, BP and LR are pc, sp, x29 and x30.
type Registers struct {
	IP, SP, BP, BX, R12, R13, R14, R15, LR uint64
}

// RawStack is what was copied of a caller's stack.
type RawStack struct {
	Registers
	Window []byte   // from SP upward, as little-endian memory; ends early at the stack's top
	Chain  []uint64 // return addresses by the chain of frame pointers, innermost first, without IP
}

// WalkWords is everything that a walk read of a raw stack: stacks with these words are
// walked alike.
type WalkWords []WalkWord

// WalkWord is eight bytes of a raw stack.
type WalkWord struct {
	Offset   int32 // from SP, or the number of a register as in Registers, from -1 downward
	Relative bool  // Value is its distance from SP
	Value    uint64
}

// PythonLayout is where the CPython of a process keeps its frames: the address of the
// pointer to its interpreters, and offsets in its structures.
type PythonLayout struct {
	Interpreters                                   uint64
	NextInterpreter, Threads, NextThread, ThreadID uint32
	Current, Code, Instruction, Previous, Owner    uint32
	Indirect                                       uint32 // Current leads to a structure that has the frame at Indirect - 1; 0: to the frame
	Shim                                           uint32 // owner of a frame that is C's; 0: there are none,
	Entry                                          uint32 // but a byte that says that C called
}

// PythonFrame is a frame of CPython.
type PythonFrame struct {
	Code        uint64 // address of the code object
	Instruction uint64 // address of the one that is running, or runs another frame
	Entry       bool   // C called it: it is the outermost of its run of the interpreter
}

// FDBirths are what was traced between two drains, in the order of Seq.
type FDBirths struct {
	Births []FDBirth
	Lost   uint64 // births that found the log full: the gaps in Seq

	Bytes []byte   // what the windows point into
	Words []uint64 // what the chains point into

	Pythons []PythonFrame // what the frames of CPython point into
}

// Reset empties b for its next use and keeps its memory.
func (b *FDBirths) Reset() {
	*b = FDBirths{Births: b.Births[:0], Bytes: b.Bytes[:0], Words: b.Words[:0], Pythons: b.Pythons[:0]}
}

// FDCounts is what a tracer counted of one process since it is traced.
type FDCounts struct {
	Opened uint64 // descriptors that it got, however long they lived
	EMFILE uint64 // calls that failed because its limit was reached
	ENFILE uint64 // because the host's was

	// Of those opened, what can't be attributed.
	MapFull   uint64 // found no room for a stamp
	Ambiguous uint64 // two threads' calls lay claim to one descriptor
	Compat    uint64 // by a 32-bit call
}

// FDBalance is everything that a tracer saw, and could not keep: Births +
// Failures = Logged + Quiet + Compat + Gone.
type FDBalance struct {
	Births   uint64 // descriptors that traced processes got
	Failures uint64 // EMFILE and ENFILE
	Logged   uint64 // of both, Lost included
	Quiet    uint64 // failures beyond 16 a second of a process: counted only
	Lost     uint64 // of these, without their stacks: they found the log full

	// Of Births, whose descriptors are told as nobody's.
	MapFull   uint64 // found no room for a stamp
	Ambiguous uint64 // another thread's call may have made it

	Compat     uint64 // births by 32-bit calls
	Gone       uint64 // births that another thread closed before the call was back
	TablesFull uint64 // tables that there was no room for

	Stamps        uint64 // in use, those of closed descriptors included
	StampCapacity uint64
}
