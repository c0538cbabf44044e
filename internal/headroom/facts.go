package headroom

import (
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
)

// Facts are what limits one process, and what it and those that share its limits
// have taken, at one instant.
type Facts struct {
	At        time.Duration // CLOCK_MONOTONIC
	StartTime sample.Opt[time.Time]

	ID           sample.ID
	Comm         string
	KernelThread bool
	Zombie       bool // it has ended, and nobody waited for it
	HasMemory    bool // not a kernel thread, and not dead

	RealUID      sample.Opt[uint32]
	EffectiveUID sample.Opt[uint32]
	// Capabilities are the effective ones as they count in the initial user
	// namespace: none in another.
	Capabilities sample.Opt[uint64]
	Cgroup       string // as records name it; empty if unknown
	Denied       string // why what only the process's owner may see is unknown

	Rlimits [numRlimits]Rlimit

	FDOpen sample.Opt[uint64]
	// FDBelowSoft and FDBelowHard count the descriptors below the limits: those above,
	// from before a limit was lowered, take no place that an open could get.
	FDBelowSoft  sample.Opt[uint64]
	FDBelowHard  sample.Opt[uint64]
	VirtualBytes sample.Opt[uint64]
	DataBytes    sample.Opt[uint64] // private writable, touched or not
	StackBytes   sample.Opt[uint64]
	LockedBytes  sample.Opt[uint64]
	AnonBytes    sample.Opt[uint64] // resident
	SwapBytes    sample.Opt[uint64]
	CPUNanos     sample.Opt[uint64]
	Mappings     sample.Opt[uint64]
	Signals      sample.Opt[uint64] // queued for its user
	Written      *WrittenFile       // the largest regular file it has open for writing

	Go *GoMemory // of the process that asks; nil for others

	User        UserFacts
	Cgroups     sample.CgroupChain
	Machine     sample.Machine
	LowTasks    sample.Opt[uint64] // tasks with a PID that is not given out again
	Filesystems []Filesystem
	GPUs        []GPU // on which it has a context; the caller's, see [GPUsOf]
}

// UserFacts are what a process's user has taken, in the process's user namespace.
type UserFacts struct {
	Read             bool // it was looked at
	Tasks            sample.Opt[uint64]
	InotifyWatches   sample.Opt[uint64]
	InotifyInstances sample.Opt[uint64]
	Why              string // why something of it is unknown
	InotifyWhy       string
}

// GoMemory is what the Go runtime holds, and GOMEMLIMIT; sample.Unlimited where it
// is off.
type GoMemory struct{ UsedBytes, LimitBytes uint64 }

// WrittenFile is a file and its size.
type WrittenFile struct {
	Path      string
	SizeBytes uint64
}

// Filesystem is one that the process has a file open for writing on.
type Filesystem struct {
	hostfs.FilesystemUse
	Why string // why it is unknown
}

// Rlimit is a soft and a hard limit; sample.Unlimited where there is none.
type Rlimit struct {
	Soft, Hard uint64
	Known      bool
}

// The rlimits that can fill up (getrlimit(2)). The others bound no quantity that
// grows, or have no effect.
const (
	nofile = iota
	nproc
	addressSpace
	data
	stack
	fileSize
	memlock
	cpuTime
	sigpending
	numRlimits
)

// rlimits describes each: its name, its number, and how tools call it.
var rlimits = [numRlimits]struct {
	name     string
	number   int
	option   string // of prlimit(1), and of docker's --ulimit
	shell    string // of ulimit
	unit     string // of ulimit's and the directive's number, in ours
	property string // of systemd
	resource string
	counts   string // unit of the row
}{
	nofile:       {"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, "nofile", "-n", "", "LimitNOFILE", "open_files", "files"},
	nproc:        {"RLIMIT_NPROC", unix.RLIMIT_NPROC, "nproc", "-u", "", "LimitNPROC", "tasks", "tasks"},
	addressSpace: {"RLIMIT_AS", unix.RLIMIT_AS, "as", "-v", "KiB", "LimitAS", "virtual_memory", "bytes"},
	data:         {"RLIMIT_DATA", unix.RLIMIT_DATA, "data", "-d", "KiB", "LimitDATA", "data", "bytes"},
	stack:        {"RLIMIT_STACK", unix.RLIMIT_STACK, "stack", "-s", "KiB", "LimitSTACK", "stack", "bytes"},
	fileSize:     {"RLIMIT_FSIZE", unix.RLIMIT_FSIZE, "fsize", "-f", "KiB", "LimitFSIZE", "file_size", "bytes"},
	memlock:      {"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK, "memlock", "-l", "KiB", "LimitMEMLOCK", "locked_memory", "bytes"},
	cpuTime:      {"RLIMIT_CPU", unix.RLIMIT_CPU, "cpu", "-t", "", "LimitCPU", "cpu_time", "seconds"},
	sigpending:   {"RLIMIT_SIGPENDING", unix.RLIMIT_SIGPENDING, "sigpending", "-i", "", "LimitSIGPENDING", "pending_signals", "signals"},
}

// The capabilities that lift limits (capabilities(7)).
const (
	capIPCLock     = unix.CAP_IPC_LOCK
	capSysAdmin    = unix.CAP_SYS_ADMIN
	capSysResource = unix.CAP_SYS_RESOURCE
)

// may reports whether the process has one of caps where the kernel asks for it:
// in the initial user namespace.
func (f *Facts) may(caps ...int) bool {
	set, _ := f.Capabilities.Get()
	for _, c := range caps {
		if set>>c&1 != 0 {
			return true
		}
	}
	return false
}
