package sample

import "time"

// JobTotals is what all processes of a job together did: of those that ended, and,
// where a reading says so, of those that live. Times count on CLOCK_BOOTTIME.
type JobTotals struct {
	Processes uint64 // that there were
	Now       uint64 // that have not ended
	Most      uint64 // at once
	MostAt    time.Duration
	Threads   uint64 // that there were, of all processes
	Pending   uint64 // threads whose totals are still to come: the living, and those about to be gone

	CPU       time.Duration // exact where the kernel tells it
	User      time.Duration // the tick samples how CPU is divided
	System    time.Duration
	RunDelay  time.Duration // waiting for a CPU
	MinorFlt  uint64
	MajorFlt  uint64
	Voluntary uint64 // context switches
	Forced    uint64

	ReadBytes    uint64 // by calls, cached or not (rchar)
	WrittenBytes uint64
	DiskRead     uint64 // from storage
	DiskWritten  uint64
	Received     uint64 // over IP
	Sent         uint64

	// Of the one process that had most of it, when it ended.
	PeakBytes   uint64
	PeakAt      time.Duration
	PeakVirtual uint64
	PeakFDs     uint64
	PeakFDsAt   time.Duration
	// Processes of whose memory only a bound is known, and the bound.
	Hidden      uint64
	HiddenBytes uint64

	FDsFull  uint64 // processes that ended with as many descriptors as they may have
	OOMKills uint64
	Lost     uint64 // tasks that could not be told from others: their use is missing
}

// Add adds the sums of b: what tasks used while they live.
func (a *JobTotals) Add(b *JobTotals) {
	a.CPU += b.CPU
	a.User += b.User
	a.System += b.System
	a.RunDelay += b.RunDelay
	a.MinorFlt += b.MinorFlt
	a.MajorFlt += b.MajorFlt
	a.Voluntary += b.Voluntary
	a.Forced += b.Forced
	a.ReadBytes += b.ReadBytes
	a.WrittenBytes += b.WrittenBytes
	a.DiskRead += b.DiskRead
	a.DiskWritten += b.DiskWritten
	a.Received += b.Received
	a.Sent += b.Sent
}

// Job is a job that runs, at one instant.
type Job struct {
	ID             ID // its oldest process when it was first looked at: its first, as a rule
	UID            uint32
	Category       string
	TaskID         string
	ElapsedSeconds float64
	Monotonic      time.Duration // when it was read
	Totals         JobTotals     // of all its processes
	Memory         Opt[uint64]   // resident, of those that live
	MemoryAtLeast  bool          // they share some: it may be more
	Virtual, Swap  Opt[uint64]
	FDs            Opt[uint64]
	GPUs           Opt[uint64]  // that they use
	GPUMemory      Opt[uint64]  // bytes, of all GPUs
	Processes      []JobProcess // that live, the oldest first
	Limits         []JobLimit
}

// JobLimit is a limit that a job was begun with.
type JobLimit struct {
	Resource string
	Limit    float64
	Unit     string
}

// JobProcess is a living process of a job. Equal Space or Table of two processes
// mean one address space or one table of descriptors; 0: unknown, and their own.
type JobProcess struct {
	ID     ID
	UID    uint32
	Comm   Comm
	Space  uint64
	Table  uint64
	First  bool // still in the memory of who launched it: that is not the job's
	Memory bool // the memory is known
	// Family: it shares pages with a process that forked it or that it forked.
	Family bool
	Forked bool // has not called exec since it was forked

	File, Anon, Shmem, Swap uint64 // bytes
	Peak                    uint64 // the most resident at once
	Virtual, PeakVirtual    uint64

	FDs, FDLimit Opt[uint64]
}
