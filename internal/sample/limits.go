package sample

// CgroupChain is every cgroup that limits one process, innermost first: its own
// and all above, in the hierarchy of each controller.
type CgroupChain struct {
	Memory []MemoryLevel
	PIDs   []PIDsLevel
	CPU    []CPULevel
	CPUSet []CPUSetLevel
	// Hidden are the places above which there may be limits that can't be seen.
	Hidden []HiddenCgroups
}

// CgroupLevel names one cgroup of one hierarchy.
type CgroupLevel struct {
	Path    string // within the hierarchy
	Dir     string // where its files are
	Version int    // of cgroups: 1 or 2
	Gone    bool   // it was removed while it was read
}

// MemoryLevel is what one cgroup's memory controller says.
type MemoryLevel struct {
	CgroupLevel
	Max     Limit // memory.max; version 1's memory.limit_in_bytes
	High    Limit // memory.high; version 1 has none
	SwapMax Limit // memory.swap.max; of version 1, memory.memsw.limit_in_bytes: memory and swap

	UsageBytes Opt[uint64] // everything charged, page cache too
	// ReclaimableBytes is page cache and slabs that the kernel drops before a
	// limit hurts: file pages on the LRU lists, which neither shared memory nor
	// locked pages are on, and reclaimable slabs (version 2).
	ReclaimableBytes Opt[uint64]
	SwapBytes        Opt[uint64] // of version 1, memory and swap: memory.memsw.usage_in_bytes
	OOMGroup         bool        // memory.oom.group: its processes die together
	OOMOff           bool        // version 1's oom_kill_disable: they freeze instead
}

// PIDsLevel is what one cgroup's pids controller says.
type PIDsLevel struct {
	CgroupLevel
	Max   Limit
	Tasks Opt[uint64] // threads count too
}

// CPULevel is what one cgroup's cpu controller says.
type CPULevel struct {
	CgroupLevel
	LimitCores     Opt[float64] // infinite where there is none
	CPUNanos       Opt[uint64]  // counter
	ThrottledNanos Opt[uint64]  // counter
}

// CPUSetLevel is what one cgroup's cpuset controller says.
type CPUSetLevel struct {
	CgroupLevel
	CPUs Opt[uint64] // how many it may run on, what is above it counted in
}

// HiddenCgroups is a place above which cgroups can't be seen: the root of a cgroup
// namespace, or of a mount that shows a part.
type HiddenCgroups struct {
	Controller string // memory, pids, cpu or cpuset
	Path       string // the topmost that can be seen
	// MemoryMax is the least limit of all, those that can't be seen included, where
	// the kernel says so: hierarchical_memory_limit of version 1.
	MemoryMax Limit
	Why       string
}

// Machine is what the kernel and the machine as a whole limit.
type Machine struct {
	MemoryTotalBytes     Opt[uint64]
	MemoryAvailableBytes Opt[uint64]
	SwapTotalBytes       Opt[uint64]
	SwapFreeBytes        Opt[uint64]

	OvercommitMode    Opt[uint64] // vm.overcommit_memory
	CommitLimitBytes  Opt[uint64]
	CommittedBytes    Opt[uint64] // Committed_AS
	AdminReserveBytes Opt[uint64] // vm.admin_reserve_kbytes
	UserReserveBytes  Opt[uint64] // vm.user_reserve_kbytes

	FilesOpen        Opt[uint64] // open file descriptions
	FilesLimit       Opt[uint64] // fs.file-max
	NROpen           Opt[uint64] // fs.nr_open
	Tasks            Opt[uint64] // threads of all processes
	LastPID          Opt[uint64] // the number given out last
	PIDMax           Opt[uint64] // kernel.pid_max
	ThreadsMax       Opt[uint64] // kernel.threads-max
	MaxMapCount      Opt[uint64] // vm.max_map_count
	InotifyWatches   Opt[uint64] // fs.inotify.max_user_watches
	InotifyInstances Opt[uint64] // fs.inotify.max_user_instances
	CPUs             Opt[uint64] // online
}
