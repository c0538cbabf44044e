package hostfs

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/clock"
	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// Self is what the agent itself costs.
type Self struct {
	CPUNanos    sample.Opt[uint64] // counter, exact: CLOCK_PROCESS_CPUTIME_ID
	RSSBytes    sample.Opt[uint64]
	FDOpen      sample.Opt[uint64]
	MemoryBytes sample.Opt[uint64] // charged to its cgroup, BPF maps and neighbours there included
}

// Self reads what the agent costs. Its own /proc is always the machine's.
func (c *CgroupReader) Self() Self {
	return Self{
		CPUNanos:    some(uint64(clock.ProcessCPU())),
		RSSBytes:    c.ownRSS(),
		FDOpen:      ownFDs(),
		MemoryBytes: c.ownMemory(),
	}
}

var statmName = kfile.MakeName("/proc/self/statm")

func (c *CgroupReader) ownRSS() sample.Opt[uint64] {
	b, errno := kfile.Read(unix.AT_FDCWD, statmName, kfile.Whole, &c.buf)
	if errno != 0 {
		return sample.Opt[uint64]{}
	}
	_, b, _ = kfile.NextUint(b)
	pages, _, ok := kfile.NextUint(b)
	return someIf(pages*uint64(os.Getpagesize()), ok)
}

// ownFDs counts the descriptors, but not the one that it counts by.
func ownFDs() sample.Opt[uint64] {
	fd, errno := kfile.OpenDir(unix.AT_FDCWD, kfile.MakeName("/proc/self/fd"))
	if errno != 0 {
		return sample.Opt[uint64]{}
	}
	defer kfile.Close(fd)
	d := kfile.Dir{Buf: make([]byte, 4096)}
	if d.Start(fd) != 0 {
		return sample.Opt[uint64]{}
	}
	for n := uint64(0); ; n++ {
		if name, _, errno := d.Next(); name == nil {
			return someIf(n-1, errno == 0)
		}
	}
}

func (c *CgroupReader) ownMemory() sample.Opt[uint64] {
	g := c.find([]byte(c.self))
	if g == nil {
		return sample.Opt[uint64]{}
	}
	c.hold(g)
	if c.controller == "" {
		return parseNumber(c.file(g, g.dirs.main, memoryCurrent))
	}
	return parseNumber(c.file(g, g.dirs.memory, memoryUsage))
}

// Facts are what stays the same while the machine is up.
type Facts struct {
	Host       string
	BootID     string
	InitialPID bool // the agent is in the initial PID namespace and sees every process
}

// initialPIDNamespace is the inode of the initial PID namespace on every Linux
// (PROC_PID_INIT_INO in include/linux/proc_ns.h).
const initialPIDNamespace = "pid:[4026531836]"

// InitialPIDNamespace tells whether this process is in the initial PID namespace, by
// the /proc below root.
func InitialPIDNamespace(root string) (bool, error) {
	ns, err := os.Readlink(root + "/proc/self/ns/pid")
	if err != nil {
		return false, fmt.Errorf("read PID namespace: %w", err)
	}
	return ns == initialPIDNamespace, nil
}

// ReadFacts reads them.
func ReadFacts(o Options) (Facts, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Facts{}, fmt.Errorf("read host name: %w", err)
	}
	id, err := os.ReadFile(o.Root + "/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Facts{}, fmt.Errorf("read boot id: %w", err)
	}
	initial, err := InitialPIDNamespace(o.Root)
	if err != nil {
		return Facts{}, err
	}
	return Facts{
		Host:       unix.ByteSliceToString(u.Nodename[:]),
		BootID:     strings.TrimSpace(string(id)),
		InitialPID: initial,
	}, nil
}
