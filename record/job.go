package record

import "time"

// The kinds of what is said of jobs.
const (
	KindJob   Kind = "job"
	KindLimit Kind = "limit"
)

// Job is what a job's whole tree of processes used, and how it ended: once, at its
// end. Totals count every process that the job ever had; memory, open files and
// their like are the most at one instant.
type Job struct {
	Header
	Job      string     `json:"job"` // identifies the job on this boot
	JobFacts            // who and how
	JobUse              // what it used
	Measured []JobValue `json:"measured"`        // what each value is worth
	Limits   []JobLimit `json:"limits_exceeded"` // that were broken; null: none
}

// JobFacts say which job it was and how it ended.
type JobFacts struct {
	PID            int32          `json:"pid"` // of its first process
	StartTicks     uint64         `json:"start_ticks"`
	Category       Opt[string]    `json:"category"`
	TaskID         Opt[string]    `json:"taskid"`
	Command        Opt[string]    `json:"command"` // only when asked for
	ExecutableType Opt[string]    `json:"executable_type"`
	MeasuredBy     string         `json:"measured_by"` // ebpf, agent, cgroup, procfs
	StartTime      Opt[time.Time] `json:"start_time"`
	EndTime        Opt[time.Time] `json:"end_time"`
	ExitType       string         `json:"exit_type"` // normal, signal, limits
	ExitStatus     Opt[int32]     `json:"exit_status"`
	Signal         Opt[int32]     `json:"signal"`     // that ended it
	LastError      Opt[int32]     `json:"last_error"` // errno of a resource that ran out
	Cause          Opt[string]    `json:"cause"`      // in words, where exit type and status don't tell
	OOMKills       Opt[uint64]    `json:"oom_kills"`
}

// JobUse has the values of a job, those that are known.
type JobUse struct {
	WallTimeSeconds        Opt[float64] `json:"wall_time_seconds"`
	CPUTimeSeconds         Opt[float64] `json:"cpu_time_seconds"`
	MemoryBytes            Opt[uint64]  `json:"memory_bytes"`
	VirtualMemoryBytes     Opt[uint64]  `json:"virtual_memory_bytes"`
	SwapMemoryBytes        Opt[uint64]  `json:"swap_memory_bytes"`
	DiskBytes              Opt[uint64]  `json:"disk_bytes"`    // of its working directories
	ReadBytes              Opt[uint64]  `json:"read_bytes"`    // by calls, cached or not
	WrittenBytes           Opt[uint64]  `json:"written_bytes"` // by calls
	ReceivedBytes          Opt[uint64]  `json:"received_bytes"`
	SentBytes              Opt[uint64]  `json:"sent_bytes"`
	BandwidthBitsPerSecond Opt[float64] `json:"bandwidth_bits_per_second"` // most over a minute
	GPUs                   Opt[uint64]  `json:"gpus"`
	GPUMemoryBytes         Opt[uint64]  `json:"gpu_memory_bytes"`
	Cores                  Opt[float64] `json:"cores"` // most over three minutes
	CoresAvg               Opt[float64] `json:"cores_avg"`
	ContextSwitches        Opt[uint64]  `json:"context_switches"`
	MaxConcurrentProcesses Opt[uint64]  `json:"max_concurrent_processes"`
	TotalProcesses         Opt[uint64]  `json:"total_processes"`
	TotalFiles             Opt[uint64]  `json:"total_files"` // in its working directories
	OpenFiles              Opt[uint64]  `json:"open_files"`  // descriptors at once
	MinorFaults            Opt[uint64]  `json:"minor_faults"`
	MajorFaults            Opt[uint64]  `json:"major_faults"`
	RunDelaySeconds        Opt[float64] `json:"run_delay_seconds"`
}

// JobValue says what one of a job's values is worth.
type JobValue struct {
	Resource    string       `json:"resource"`     // as limits are called: memory, bytes_read
	Exactness   string       `json:"exactness"`    // exact, sampled, at_least, unknown
	Why         Opt[string]  `json:"why"`          // it is not exact
	PeakSeconds Opt[float64] `json:"peak_seconds"` // since the start, when it was reached
}

// JobLimit is a limit that a job broke. Value and Limit are in Unit.
type JobLimit struct {
	Resource string  `json:"resource"`
	Value    float64 `json:"value"` // what was measured then
	Limit    float64 `json:"limit"`
	Unit     string  `json:"unit"`    // bytes, seconds, cores, processes, files...
	Seconds  float64 `json:"seconds"` // since the job's start
}

// RunningJob is a job that an agent measures now, by the last reading of it.
type RunningJob struct {
	ID         uint64       `json:"id"`         // of one run of the agent
	UID        uint32       `json:"uid"`        // whose it is
	RunBy      int32        `json:"run_by_pid"` // who runs it
	PID        Opt[int32]   `json:"pid"`        // of its oldest process that lives; null: none does
	StartTicks Opt[uint64]  `json:"start_ticks"`
	Comm       Opt[string]  `json:"comm"`
	Command    Opt[string]  `json:"command"`  // as who runs it says; for the user and root only
	Category   Opt[string]  `json:"category"` // as who runs it says
	StartTime  time.Time    `json:"start_time"`
	AgeSeconds Opt[float64] `json:"age_seconds"` // of the reading; null: there was none yet
	Processes  Opt[uint64]  `json:"processes"`   // that live
	JobUse                  // what it used until then, and the most that it had
	Measured   []JobValue   `json:"measured"` // what each value is worth
	Limits     []JobNear    `json:"limits"`   // as who runs it says
}

// JobNear is how near a job came to a limit. Value and Limit are in Unit.
type JobNear struct {
	Resource string       `json:"resource"`
	Value    Opt[float64] `json:"value"`
	Limit    float64      `json:"limit"`
	Ratio    Opt[float64] `json:"ratio"` // Value / Limit; null where the limit is 0, too
	Unit     string       `json:"unit"`
}

// Limit is a limit that a running job broke, at the moment when that was seen.
type Limit struct {
	Header
	Job        string      `json:"job"`
	PID        int32       `json:"pid"` // of its first process
	StartTicks uint64      `json:"start_ticks"`
	Category   Opt[string] `json:"category"`
	JobLimit
	Enforced bool   `json:"enforced"` // the job is being ended; else it is only noted
	Message  string `json:"message"`
}

func (e *encoder) job(r *Job) {
	e.str(`,"job":`, r.Job)
	e.jobFacts(&r.JobFacts)
	e.jobUse(&r.JobUse)
	e.list(`,"measured":`, r.Measured == nil, len(r.Measured), func(i int) { e.jobValue(&r.Measured[i]) })
	e.list(`,"limits_exceeded":`, r.Limits == nil, len(r.Limits), func(i int) {
		e.jobLimit(`{"resource":`, &r.Limits[i])
		e.raw("}")
	})
}

func (e *encoder) jobFacts(f *JobFacts) {
	e.int(`,"pid":`, int64(f.PID))
	e.uint(`,"start_ticks":`, f.StartTicks)
	e.optStr(`,"category":`, f.Category)
	e.optStr(`,"taskid":`, f.TaskID)
	e.optStr(`,"command":`, f.Command)
	e.optStr(`,"executable_type":`, f.ExecutableType)
	e.str(`,"measured_by":`, f.MeasuredBy)
	e.optTime(`,"start_time":`, f.StartTime)
	e.optTime(`,"end_time":`, f.EndTime)
	e.str(`,"exit_type":`, f.ExitType)
	e.optInt(`,"exit_status":`, f.ExitStatus)
	e.optInt(`,"signal":`, f.Signal)
	e.optInt(`,"last_error":`, f.LastError)
	e.optStr(`,"cause":`, f.Cause)
	e.optUint(`,"oom_kills":`, f.OOMKills)
}

func (e *encoder) jobUse(u *JobUse) {
	e.optFloat(`,"wall_time_seconds":`, u.WallTimeSeconds)
	e.optFloat(`,"cpu_time_seconds":`, u.CPUTimeSeconds)
	e.optUint(`,"memory_bytes":`, u.MemoryBytes)
	e.optUint(`,"virtual_memory_bytes":`, u.VirtualMemoryBytes)
	e.optUint(`,"swap_memory_bytes":`, u.SwapMemoryBytes)
	e.optUint(`,"disk_bytes":`, u.DiskBytes)
	e.optUint(`,"read_bytes":`, u.ReadBytes)
	e.optUint(`,"written_bytes":`, u.WrittenBytes)
	e.optUint(`,"received_bytes":`, u.ReceivedBytes)
	e.optUint(`,"sent_bytes":`, u.SentBytes)
	e.optFloat(`,"bandwidth_bits_per_second":`, u.BandwidthBitsPerSecond)
	e.optUint(`,"gpus":`, u.GPUs)
	e.optUint(`,"gpu_memory_bytes":`, u.GPUMemoryBytes)
	e.optFloat(`,"cores":`, u.Cores)
	e.optFloat(`,"cores_avg":`, u.CoresAvg)
	e.optUint(`,"context_switches":`, u.ContextSwitches)
	e.optUint(`,"max_concurrent_processes":`, u.MaxConcurrentProcesses)
	e.optUint(`,"total_processes":`, u.TotalProcesses)
	e.optUint(`,"total_files":`, u.TotalFiles)
	e.optUint(`,"open_files":`, u.OpenFiles)
	e.optUint(`,"minor_faults":`, u.MinorFaults)
	e.optUint(`,"major_faults":`, u.MajorFaults)
	e.optFloat(`,"run_delay_seconds":`, u.RunDelaySeconds)
}

func (e *encoder) jobValue(v *JobValue) {
	e.str(`{"resource":`, v.Resource)
	e.str(`,"exactness":`, v.Exactness)
	e.optStr(`,"why":`, v.Why)
	e.optFloat(`,"peak_seconds":`, v.PeakSeconds)
	e.raw("}")
}

func (e *encoder) jobLimit(key string, l *JobLimit) {
	e.str(key, l.Resource)
	e.float(`,"value":`, l.Value)
	e.float(`,"limit":`, l.Limit)
	e.str(`,"unit":`, l.Unit)
	e.float(`,"seconds":`, l.Seconds)
}

func (e *encoder) limit(r *Limit) {
	e.str(`,"job":`, r.Job)
	e.int(`,"pid":`, int64(r.PID))
	e.uint(`,"start_ticks":`, r.StartTicks)
	e.optStr(`,"category":`, r.Category)
	e.jobLimit(`,"resource":`, &r.JobLimit)
	e.bool(`,"enforced":`, r.Enforced)
	e.str(`,"message":`, r.Message)
}
