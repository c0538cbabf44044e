package sample

import (
	"time"

	"rmagent/record"
)

// Opt is a value that may be unknown.
type Opt[T any] = record.Opt[T]

// Host is what the machine as a whole had at one instant.
type Host struct {
	Time      time.Time
	Monotonic time.Duration

	CPUBusyNanos Opt[uint64] // of all CPUs, counter; idle and iowait are not busy
	CPUAllNanos  Opt[uint64] // counter
	CPUCount     Opt[uint64] // online

	Load1                Opt[float64]
	MemoryTotalBytes     Opt[uint64]
	MemoryAvailableBytes Opt[uint64]
	SwapTotalBytes       Opt[uint64]
	SwapFreeBytes        Opt[uint64]

	FilesOpen  Opt[uint64]
	FilesLimit Opt[uint64]
	Processes  Opt[uint64]
	Threads    Opt[uint64]
	PIDLimit   Opt[uint64]

	DiskReadBytes    Opt[uint64] // counters, whole disks only: nothing twice
	DiskWrittenBytes Opt[uint64]
	NetReceivedBytes Opt[uint64] // counters, uplinks only: no loopback, nothing twice
	NetSentBytes     Opt[uint64]

	Pressure    Pressure
	Filesystems []record.Filesystem
}

// Pressure is PSI's avg10 as ratios.
type Pressure = record.Pressure

// Cgroup is what one cgroup, its descendants included, had at one instant.
type Cgroup struct {
	ID          uint64 // as Process.CgroupID; 0 if unknown
	Path        string
	ContainerID string
	Unit        string

	MemoryBytes Opt[uint64]
	MemoryLimit Limit
	SwapBytes   Opt[uint64]
	PIDs        Opt[uint64]
	PIDsLimit   Limit

	CPUNanos       Opt[uint64] // counter
	ThrottledNanos Opt[uint64] // counter
	CPULimitCores  Opt[float64]

	OOMKills Opt[uint64] // counter
	Pressure Pressure
}

// Limit is a limit that may be unknown, and that may be absent. Its zero value
// is unknown.
type Limit struct {
	Value Opt[uint64] // Unlimited where there is none
}

// Get returns the limit where there is one.
func (l Limit) Get() Opt[uint64] {
	if v, ok := l.Value.Get(); ok && v != Unlimited {
		return l.Value
	}
	return Opt[uint64]{}
}
