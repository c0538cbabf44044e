package sample

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// UserHz is the unit of StartTicks: USER_HZ is 100 on every architecture that
// rmagent is built for (include/uapi/asm-generic/param.h).
const UserHz = 100

// Unlimited is the kernel's RLIM_INFINITY (include/uapi/asm-generic/resource.h).
const Unlimited = ^uint64(0)

// ID tells the users of one PID apart, until the machine boots again.
type ID struct {
	PID        int32
	StartTicks uint64 // start since boot in USER_HZ, field 22 of /proc/PID/stat
}

// String writes the ID as targets are written: "pid:N@START_TICKS".
func (id ID) String() string { return string(id.Append(nil)) }

// ParseID reads what String writes.
func ParseID(s string) (id ID, ok bool) {
	_, err := fmt.Sscanf(s, "pid:%d@%d", &id.PID, &id.StartTicks)
	return id, err == nil
}

// OutsideCgroups tells of a cgroup's path that it is in a part of the hierarchy which this
// cgroup namespace does not show: it is not below "/" there (cgroup_namespaces(7)).
func OutsideCgroups(path string) bool { return path == "/.." || strings.HasPrefix(path, "/../") }

// Append appends String to b.
func (id ID) Append(b []byte) []byte {
	b = append(b, "pid:"...)
	b = strconv.AppendInt(b, int64(id.PID), 10)
	b = append(b, '@')
	return strconv.AppendUint(b, id.StartTicks, 10)
}

// Comm is a task's name as the kernel holds it, NUL-padded. Its bytes are the
// process's own choice: they may be no UTF-8, or escape sequences.
type Comm [16]byte

// Bytes returns the name without its padding; it aliases c.
func (c *Comm) Bytes() []byte {
	if n := bytes.IndexByte(c[:], 0); n >= 0 {
		return c[:n]
	}
	return c[:]
}

// MakeComm cuts s as the kernel does, to 15 bytes and a NUL.
func MakeComm(s []byte) (c Comm) {
	copy(c[:len(c)-1], s)
	return c
}

// Process is what one process had at one instant. A field means something only
// where Known has its bit; ID, Comm and KernelThread always do. Counters (see
// [Field.Kind]) grow for as long as the process lives and include its dead
// threads.
type Process struct {
	ID ID
	// Since is the Monotonic of the first of the readings in a row that agree in all
	// there is to know of the process: two that one reader gave the same ID and Since
	// are equal. 0 where nobody compared.
	Since        time.Duration
	Known        FieldSet
	Comm         Comm
	KernelThread bool
	State        byte // the letter of /proc/PID/stat, of the leader

	PPID  int32
	NSPID int32
	UID   uint32 // real

	// ExecID changes whenever the process becomes another program; what was read
	// of its exe before is void then. CgroupID is the kernfs id (a directory's
	// inode number) of its cgroup in the v2 hierarchy, or where that hierarchy
	// has no controllers, of the memory controller's.
	ExecID   uint64
	CgroupID uint64

	Threads uint64

	// FDTable tells shared descriptor tables: processes with the same value (and
	// not 0) share theirs, and FDOpen counts the same descriptors. It means
	// nothing beyond one snapshot.
	FDTable     uint64
	FDOpen      uint64 // of every table that the process's threads hold
	FDLimit     uint64 // soft RLIMIT_NOFILE, or Unlimited
	FDHardLimit uint64

	RSSAnonBytes  uint64
	RSSFileBytes  uint64
	RSSShmemBytes uint64
	RSSPeakBytes  uint64
	SwapBytes     uint64
	VirtualBytes  uint64

	MinorFaults uint64
	MajorFaults uint64

	CPUNanos       uint64 // exact: the scheduler's sum_exec_runtime
	CPUUserNanos   uint64 // the split is sampled by the tick
	CPUSystemNanos uint64
	RunDelayNanos  uint64 // runnable, but not running

	DiskReadBytes    uint64 // fetched from storage
	DiskWrittenBytes uint64 // sent to storage
	IOReadBytes      uint64 // by calls, cached or not: rchar
	IOWrittenBytes   uint64 // wchar

	NetReceivedBytes uint64 // IP sockets
	NetSentBytes     uint64

	FDOpened uint64 // while its opens and closes are traced
	FDClosed uint64
}

// RSSBytes is the resident set: anonymous, file and shared memory pages.
func (p *Process) RSSBytes() uint64 { return p.RSSAnonBytes + p.RSSFileBytes + p.RSSShmemBytes }
