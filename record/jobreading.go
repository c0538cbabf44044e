package record

// KindJobReading is a reading of a job that runs.
const KindJobReading Kind = "job_reading"

// JobReading is what a job that runs beside the agent has and did, at each reading of the
// agent. Totals count from its start; what its processes have is of those that live.
type JobReading struct {
	Header
	Job            string       `json:"job"` // its first process, as pid:N@START_TICKS
	UID            Opt[uint32]  `json:"uid"` // of who began it
	Category       Opt[string]  `json:"category"`
	TaskID         Opt[string]  `json:"taskid"`
	ElapsedSeconds Opt[float64] `json:"elapsed_seconds"`

	Processes       Opt[uint64] `json:"processes"`
	ProcessesTotal  Opt[uint64] `json:"processes_total"`
	TasksUnmeasured uint64      `json:"tasks_unmeasured"` // could not be told from others: every value is at least this

	CPUSecondsTotal Opt[float64] `json:"cpu_seconds_total"`
	CPUCores        Opt[float64] `json:"cpu_cores"`
	MemoryBytes     Opt[uint64]  `json:"memory_bytes"`    // resident, the processes' together
	MemoryAtLeast   bool         `json:"memory_at_least"` // they share some, and it may be more
	VirtualBytes    Opt[uint64]  `json:"virtual_bytes"`
	SwapBytes       Opt[uint64]  `json:"swap_bytes"`
	FDOpen          Opt[uint64]  `json:"fd_open"`
	GPUs            Opt[uint64]  `json:"gpus"` // that they use
	GPUMemoryBytes  Opt[uint64]  `json:"gpu_memory_bytes"`

	DiskReadBytesPerSecond    Opt[float64] `json:"disk_read_bytes_per_second"`
	DiskWrittenBytesPerSecond Opt[float64] `json:"disk_written_bytes_per_second"`
	NetReceivedBytesPerSecond Opt[float64] `json:"net_received_bytes_per_second"`
	NetSentBytesPerSecond     Opt[float64] `json:"net_sent_bytes_per_second"`

	Limits  []JobAllowance `json:"limits"`  // that it was begun with
	Members []JobMember    `json:"members"` // processes that live, the oldest first, 1,000 at most
}

// JobAllowance is a limit of a job, by the name that limits have.
type JobAllowance struct {
	Resource string  `json:"resource"`
	Limit    float64 `json:"limit"`
	Unit     string  `json:"unit"`
}

// JobMember is a process of a job.
type JobMember struct {
	PID        int32  `json:"pid"`
	StartTicks uint64 `json:"start_ticks"`
}

func (e *encoder) jobReading(r *JobReading) {
	e.str(`,"job":`, r.Job)
	e.optUint32(`,"uid":`, r.UID)
	e.optStr(`,"category":`, r.Category)
	e.optStr(`,"taskid":`, r.TaskID)
	e.optFloat(`,"elapsed_seconds":`, r.ElapsedSeconds)
	e.optUint(`,"processes":`, r.Processes)
	e.optUint(`,"processes_total":`, r.ProcessesTotal)
	e.uint(`,"tasks_unmeasured":`, r.TasksUnmeasured)
	e.optFloat(`,"cpu_seconds_total":`, r.CPUSecondsTotal)
	e.optFloat(`,"cpu_cores":`, r.CPUCores)
	e.optUint(`,"memory_bytes":`, r.MemoryBytes)
	e.bool(`,"memory_at_least":`, r.MemoryAtLeast)
	e.optUint(`,"virtual_bytes":`, r.VirtualBytes)
	e.optUint(`,"swap_bytes":`, r.SwapBytes)
	e.optUint(`,"fd_open":`, r.FDOpen)
	e.optUint(`,"gpus":`, r.GPUs)
	e.optUint(`,"gpu_memory_bytes":`, r.GPUMemoryBytes)
	e.optFloat(`,"disk_read_bytes_per_second":`, r.DiskReadBytesPerSecond)
	e.optFloat(`,"disk_written_bytes_per_second":`, r.DiskWrittenBytesPerSecond)
	e.optFloat(`,"net_received_bytes_per_second":`, r.NetReceivedBytesPerSecond)
	e.optFloat(`,"net_sent_bytes_per_second":`, r.NetSentBytesPerSecond)
	e.list(`,"limits":`, r.Limits == nil, len(r.Limits), func(i int) {
		l := &r.Limits[i]
		e.str(`{"resource":`, l.Resource)
		e.float(`,"limit":`, l.Limit)
		e.str(`,"unit":`, l.Unit)
		e.raw("}")
	})
	e.list(`,"members":`, r.Members == nil, len(r.Members), func(i int) {
		e.int(`{"pid":`, int64(r.Members[i].PID))
		e.uint(`,"start_ticks":`, r.Members[i].StartTicks)
		e.raw("}")
	})
}
