package record

import "time"

// Schema is the version of the records that this package describes. It changes
// when a field changes its meaning or goes away, not when one is added.
const Schema = 1

// Kind names the type of a record.
type Kind string

// The kinds of record.
const (
	KindProcess Kind = "process"
	KindExit    Kind = "exit"
	KindHost    Kind = "host"
	KindCgroup  Kind = "cgroup"
	KindGPU     Kind = "gpu"
	KindState   Kind = "state"
	KindOOM     Kind = "oom"
	KindLeak    Kind = "leak"
	KindConfig  Kind = "config"
	KindAgent   Kind = "agent"
)

// Header begins every record.
type Header struct {
	Time   time.Time `json:"time"`
	Kind   Kind      `json:"kind"`
	Host   string    `json:"host"`
	BootID string    `json:"boot_id"`
	Seq    uint64    `json:"seq"`
	Schema int       `json:"schema"`
}

// Head returns the header, so that a sink can fill it in for every kind alike.
func (h *Header) Head() *Header { return h }

// Record is any of this package's record types, by pointer.
type Record interface {
	Head() *Header
}

// Source says where a process's values came from.
type Source string

// The sources.
const (
	SourceEBPF   Source = "ebpf"
	SourceProcfs Source = "procfs"
)

// ProcessFacts are the values that a process record and the exit record of the
// same process share.
type ProcessFacts struct {
	PID         int32          `json:"pid"`
	StartTicks  uint64         `json:"start_ticks"`
	NSPID       Opt[int32]     `json:"ns_pid"` // the PID inside its own PID namespace
	PPID        Opt[int32]     `json:"ppid"`
	StartTime   Opt[time.Time] `json:"start_time"` // for people: moves with clock steps
	Comm        string         `json:"comm"`
	Exe         Opt[string]    `json:"exe"` // null for kernel threads and where it can't be read
	UID         Opt[uint32]    `json:"uid"` // real user id
	Cgroup      Opt[string]    `json:"cgroup"`
	ContainerID Opt[string]    `json:"container_id"`
	Unit        Opt[string]    `json:"unit"`  // innermost systemd service or scope
	State       Opt[string]    `json:"state"` // the letter of /proc/PID/stat
	Source      Source         `json:"source"`
	Threads     Opt[uint64]    `json:"threads"`
	Cmdline     *[]string      `json:"cmdline,omitempty"` // only when asked for

	FDOpen            Opt[uint64]  `json:"fd_open"`
	FDOpenMin         Opt[uint64]  `json:"fd_open_min"` // within the interval
	FDOpenMax         Opt[uint64]  `json:"fd_open_max"` // within the interval
	FDLimit           Opt[uint64]  `json:"fd_limit"`    // soft RLIMIT_NOFILE
	FDHardLimit       Opt[uint64]  `json:"fd_hard_limit"`
	FDRatio           Opt[float64] `json:"fd_ratio"`
	FDOpenedTotal     Opt[uint64]  `json:"fd_opened_total"`
	FDClosedTotal     Opt[uint64]  `json:"fd_closed_total"`
	FDGrowthPerSecond Opt[float64] `json:"fd_growth_per_second"` // of the low-water mark
	FDSecondsToLimit  Opt[float64] `json:"fd_seconds_to_limit"`

	RSSBytes      Opt[uint64] `json:"rss_bytes"`
	RSSAnonBytes  Opt[uint64] `json:"rss_anon_bytes"`
	RSSFileBytes  Opt[uint64] `json:"rss_file_bytes"`
	RSSShmemBytes Opt[uint64] `json:"rss_shmem_bytes"`
	RSSPeakBytes  Opt[uint64] `json:"rss_peak_bytes"`
	SwapBytes     Opt[uint64] `json:"swap_bytes"`
	VirtualBytes  Opt[uint64] `json:"virtual_bytes"`

	MinorFaultsTotal Opt[uint64] `json:"minor_faults_total"`
	MajorFaultsTotal Opt[uint64] `json:"major_faults_total"`

	CPUSecondsTotal       Opt[float64] `json:"cpu_seconds_total"`
	CPUUserSecondsTotal   Opt[float64] `json:"cpu_user_seconds_total"`
	CPUSystemSecondsTotal Opt[float64] `json:"cpu_system_seconds_total"`
	CPUCores              Opt[float64] `json:"cpu_cores"` // CPU seconds per second
	RunDelaySecondsTotal  Opt[float64] `json:"run_delay_seconds_total"`

	DiskReadBytesTotal        Opt[uint64]  `json:"disk_read_bytes_total"`
	DiskWrittenBytesTotal     Opt[uint64]  `json:"disk_written_bytes_total"`
	DiskReadBytesPerSecond    Opt[float64] `json:"disk_read_bytes_per_second"`
	DiskWrittenBytesPerSecond Opt[float64] `json:"disk_written_bytes_per_second"`
	IOReadBytesTotal          Opt[uint64]  `json:"io_read_bytes_total"`
	IOWrittenBytesTotal       Opt[uint64]  `json:"io_written_bytes_total"`

	NetReceivedBytesTotal     Opt[uint64]  `json:"net_received_bytes_total"`
	NetSentBytesTotal         Opt[uint64]  `json:"net_sent_bytes_total"`
	NetReceivedBytesPerSecond Opt[float64] `json:"net_received_bytes_per_second"`
	NetSentBytesPerSecond     Opt[float64] `json:"net_sent_bytes_per_second"`

	GPUMemoryBytes      Opt[uint64]  `json:"gpu_memory_bytes"`      // of all GPUs
	GPUUtilizationRatio Opt[float64] `json:"gpu_utilization_ratio"` // of the GPU that it uses most
}

// Process is one reading of one process.
type Process struct {
	Header
	ProcessFacts
}

// Exit is a process that ended, once, with its final totals. Rates are those of
// its last interval.
type Exit struct {
	Header
	ProcessFacts
	ExitTime   Opt[time.Time] `json:"exit_time"`
	ExitCode   Opt[int32]     `json:"exit_code"` // null if a signal ended it
	ExitSignal Opt[int32]     `json:"exit_signal"`
	CoreDumped Opt[bool]      `json:"core_dumped"`
	CPUFinal   bool           `json:"cpu_final"` // false: sent before the kernel's last accounting
	Inferred   bool           `json:"inferred"`  // procfs only noticed that it was gone
}

// Host is one reading of the machine.
type Host struct {
	Header
	MonotonicSeconds     Opt[float64] `json:"monotonic_seconds"` // CLOCK_MONOTONIC when the reading began: unlike Time it never steps
	CPURatio             Opt[float64] `json:"cpu_ratio"`         // busy share of all CPUs since the last reading
	CPUCount             Opt[uint64]  `json:"cpu_count"`         // online
	Load1                Opt[float64] `json:"load1"`
	MemoryTotalBytes     Opt[uint64]  `json:"memory_total_bytes"`
	MemoryAvailableBytes Opt[uint64]  `json:"memory_available_bytes"`
	MemoryUsedBytes      Opt[uint64]  `json:"memory_used_bytes"` // total - available
	SwapTotalBytes       Opt[uint64]  `json:"swap_total_bytes"`
	SwapUsedBytes        Opt[uint64]  `json:"swap_used_bytes"`
	FilesOpen            Opt[uint64]  `json:"files_open"`  // open file descriptions
	FilesLimit           Opt[uint64]  `json:"files_limit"` // fs.file-max
	Processes            Opt[uint64]  `json:"processes"`
	Threads              Opt[uint64]  `json:"threads"`
	PIDLimit             Opt[uint64]  `json:"pid_limit"` // the lower of kernel.pid_max and kernel.threads-max

	DiskReadBytesTotal        Opt[uint64]  `json:"disk_read_bytes_total"`
	DiskWrittenBytesTotal     Opt[uint64]  `json:"disk_written_bytes_total"`
	DiskReadBytesPerSecond    Opt[float64] `json:"disk_read_bytes_per_second"`
	DiskWrittenBytesPerSecond Opt[float64] `json:"disk_written_bytes_per_second"`
	NetReceivedBytesTotal     Opt[uint64]  `json:"net_received_bytes_total"`
	NetSentBytesTotal         Opt[uint64]  `json:"net_sent_bytes_total"`
	NetReceivedBytesPerSecond Opt[float64] `json:"net_received_bytes_per_second"`
	NetSentBytesPerSecond     Opt[float64] `json:"net_sent_bytes_per_second"`

	Pressure
	Filesystems []Filesystem `json:"filesystems"`
	// Gone are processes (pid:N@START_TICKS) that the reading before had and this one has
	// not, whose exit records were not written yet; null: none.
	Gone []string `json:"gone"`
	// NoLongerChosen are processes that live, and of which there are no records any more:
	// they have another name or cgroup than those that were asked for; null: none.
	NoLongerChosen []string `json:"no_longer_chosen"`
}

// Pressure is PSI's avg10: the share of the last ten seconds in which some or
// all tasks waited for the resource. Null where the kernel has no PSI.
type Pressure struct {
	PressureCPUSomeRatio    Opt[float64] `json:"pressure_cpu_some_ratio"`
	PressureCPUFullRatio    Opt[float64] `json:"pressure_cpu_full_ratio"`
	PressureMemorySomeRatio Opt[float64] `json:"pressure_memory_some_ratio"`
	PressureMemoryFullRatio Opt[float64] `json:"pressure_memory_full_ratio"`
	PressureIOSomeRatio     Opt[float64] `json:"pressure_io_some_ratio"`
	PressureIOFullRatio     Opt[float64] `json:"pressure_io_full_ratio"`
}

// Filesystem is one mounted filesystem that stores bytes. The values are null
// while it does not answer, as a hung network mount does.
type Filesystem struct {
	Path            string      `json:"path"`
	TotalBytes      Opt[uint64] `json:"total_bytes"`
	FreeBytes       Opt[uint64] `json:"free_bytes"`      // what is reserved for root included
	AvailableBytes  Opt[uint64] `json:"available_bytes"` // to an ordinary user
	InodesTotal     Opt[uint64] `json:"inodes_total"`
	InodesAvailable Opt[uint64] `json:"inodes_available"`
}

// Space returns the bytes in use and the bytes that ordinary users may have in all,
// as df counts: what is reserved for root is neither in use nor there.
func (f *Filesystem) Space() (used, limit Opt[uint64]) {
	total, ok1 := f.TotalBytes.Get()
	free, ok2 := f.FreeBytes.Get()
	available, ok3 := f.AvailableBytes.Get()
	known := ok1 && ok2 && ok3
	n := total - min(free, total)
	return SomeIf(n, known), SomeIf(n+available, known)
}

// Cgroup is one reading of one cgroup, its descendants included, as the kernel
// counts. A limit of null is no limit at this level, or one that is unknown.
type Cgroup struct {
	Header
	Path                     string       `json:"path"`
	ContainerID              Opt[string]  `json:"container_id"`
	Unit                     Opt[string]  `json:"unit"`
	MemoryBytes              Opt[uint64]  `json:"memory_bytes"`
	MemoryLimitBytes         Opt[uint64]  `json:"memory_limit_bytes"`
	SwapBytes                Opt[uint64]  `json:"swap_bytes"`
	PIDs                     Opt[uint64]  `json:"pids"`
	PIDsLimit                Opt[uint64]  `json:"pids_limit"`
	CPUSecondsTotal          Opt[float64] `json:"cpu_seconds_total"`
	CPUThrottledSecondsTotal Opt[float64] `json:"cpu_throttled_seconds_total"`
	CPULimitCores            Opt[float64] `json:"cpu_limit_cores"`
	Pressure
	OOMKillsTotal Opt[uint64] `json:"oom_kills_total"`
	FDOpen        Opt[uint64] `json:"fd_open"` // sum over its own and its descendants' processes
}

// GPU is one reading of one NVIDIA GPU.
type GPU struct {
	Header
	Index              int           `json:"index"` // NVML's, which may change with a boot
	UUID               Opt[string]   `json:"uuid"`
	Name               Opt[string]   `json:"name"`
	UtilizationRatio   Opt[float64]  `json:"utilization_ratio"` // share of the driver's sample period in which a kernel ran
	MemoryTotalBytes   Opt[uint64]   `json:"memory_total_bytes"`
	MemoryUsedBytes    Opt[uint64]   `json:"memory_used_bytes"` // all that is not free, what the driver keeps for itself included
	TemperatureCelsius Opt[float64]  `json:"temperature_celsius"`
	PowerWatts         Opt[float64]  `json:"power_watts"`
	EncoderRatio       Opt[float64]  `json:"encoder_ratio"`
	DecoderRatio       Opt[float64]  `json:"decoder_ratio"`
	AgeSeconds         Opt[float64]  `json:"age_seconds"`   // how long before Time the values were read; null with them
	MIGInstances       []GPUInstance `json:"mig_instances"` // null where the card is not divided
	Processes          []GPUProcess  `json:"processes"`     // who has a context on the card; null where not all are known
}

// GPUProcess is what one process has of one GPU, or of a GPU instance.
type GPUProcess struct {
	PID              int32        `json:"pid"`
	StartTicks       Opt[uint64]  `json:"start_ticks"` // null, as is Comm, for who is no more, or began after the card was read
	Comm             Opt[string]  `json:"comm"`
	MemoryBytes      Opt[uint64]  `json:"memory_bytes"`
	UtilizationRatio Opt[float64] `json:"utilization_ratio"`
	GPUInstanceID    Opt[uint64]  `json:"gpu_instance_id"` // of a GPU that is divided; null where it isn't, or that is not known
}

// GPUInstance is a part of a GPU that MIG set apart. Compute instances of one GPU
// instance share its memory.
type GPUInstance struct {
	UUID              Opt[string] `json:"uuid"`
	Name              Opt[string] `json:"name"`
	GPUInstanceID     Opt[uint64] `json:"gpu_instance_id"`
	ComputeInstanceID Opt[uint64] `json:"compute_instance_id"`
	MemoryTotalBytes  Opt[uint64] `json:"memory_total_bytes"`
	MemoryUsedBytes   Opt[uint64] `json:"memory_used_bytes"`
}

// State names how close a target is to its limit.
type State string

// The states, in order of severity.
const (
	StateNormal   State = "normal"
	StateInfo     State = "info"
	StateWarning  State = "warning"
	StateCritical State = "critical"
)

// StateChange (kind "state") is a target that crossed a threshold, up or down,
// once per crossing.
type StateChange struct {
	Header
	Resource string       `json:"resource"`
	Target   string       `json:"target"` // host, pid:N@START_TICKS, cgroup:PATH, gpu:UUID, mount:PATH
	State    State        `json:"state"`
	Previous State        `json:"previous"`
	Value    Opt[float64] `json:"value"`
	Limit    Opt[float64] `json:"limit"`
	Ratio    Opt[float64] `json:"ratio"`
	Unit     string       `json:"unit"`
	Message  string       `json:"message"`
	Advice   string       `json:"advice"`
}

// OOM is a process that the kernel's OOM killer chose.
type OOM struct {
	Header
	PID           int32       `json:"pid"`
	StartTicks    uint64      `json:"start_ticks"`
	Comm          string      `json:"comm"`
	UID           Opt[uint32] `json:"uid"`
	Cgroup        Opt[string] `json:"cgroup"`
	RSSBytes      Opt[uint64] `json:"rss_bytes"`
	RSSAnonBytes  Opt[uint64] `json:"rss_anon_bytes"`
	RSSFileBytes  Opt[uint64] `json:"rss_file_bytes"`
	RSSShmemBytes Opt[uint64] `json:"rss_shmem_bytes"`
	SwapBytes     Opt[uint64] `json:"swap_bytes"`
	OOMScoreAdj   Opt[int32]  `json:"oom_score_adj"`
}

// Config is the effective configuration, at start and at each reload.
type Config struct {
	Header
	Hash     string         `json:"hash"` // SHA-256 of the canonical JSON of Values
	Values   map[string]any `json:"values"`
	AgentPID Opt[int32]     `json:"agent_pid"` // of the agent, which is never to go
}

// Agent is the agent's account of itself, once a minute and at the end:
// EventsSeen = EventsDelivered + the sum of EventsLost + EventsPending.
type Agent struct {
	Header
	Version                 string            `json:"version"`
	Source                  Source            `json:"source"`
	CPUSecondsTotal         Opt[float64]      `json:"cpu_seconds_total"`
	CPUCores                Opt[float64]      `json:"cpu_cores"`
	RSSBytes                Opt[uint64]       `json:"rss_bytes"`
	MemoryBytes             Opt[uint64]       `json:"memory_bytes"` // its cgroup's, BPF maps included
	FDOpen                  Opt[uint64]       `json:"fd_open"`
	IntervalSeconds         float64           `json:"interval_seconds"` // longer than asked for while it slows itself down
	EventsSeen              Opt[uint64]       `json:"events_seen"`
	EventsDelivered         Opt[uint64]       `json:"events_delivered"`
	EventsLost              map[string]uint64 `json:"events_lost"` // by cause
	EventsPending           Opt[uint64]       `json:"events_pending"`
	Uncounted               map[string]uint64 `json:"uncounted"` // what found no counter in the kernel, by what it was
	RecordsWritten          uint64            `json:"records_written"`
	RecordsLost             map[string]uint64 `json:"records_lost"` // by cause
	TasksMissed             uint64            `json:"tasks_missed"` // by scans, since the start
	TicksSkipped            uint64            `json:"ticks_skipped"`
	MapEntries              Opt[uint64]       `json:"map_entries"`
	MapCapacity             Opt[uint64]       `json:"map_capacity"`
	ScanSeconds             Opt[float64]      `json:"scan_seconds"` // median of the last minute
	ProgramSecondsEstimated Opt[float64]      `json:"program_seconds_estimated"`
}
