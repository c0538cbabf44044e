package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Append appends r to dst as one line of JSON, its newline included, and returns
// the longer slice. It fails, and returns dst as it was, only for what JSON or
// the schema can't hold: a header time outside the years 0 to 9999 ([ErrTime]), a
// pointer to something that is no record ([ErrKind]), configuration values that
// encoding/json refuses.
//
// The fields come in the order of the Go types, all of them always, the unknown
// ones as null; only cmdline is left out where it was not asked for. Kind follows
// from r's type, whatever the header says. Times are UTC with nine digits of a
// second, so that they sort as text. A float that is not finite is null.
//
// Every string is safe to show on a terminal: control characters, DEL, the C1
// controls and the line separators U+2028 and U+2029 are escaped as \u00XX, and
// bytes that are not UTF-8 appear as [Text] writes them.
//
// Append allocates nothing for a *Process, *Exit, *Host, *Cgroup, *GPU,
// *StateChange or *OOM where dst has room.
func Append(dst []byte, r Record) ([]byte, error) {
	e := encoder{buf: dst}
	kind, err := KindOf(r)
	if err != nil {
		return dst, err
	}
	e.header(r.Head(), kind)
	switch r := r.(type) {
	case *Process:
		e.processFacts(&r.ProcessFacts)
	case *Exit:
		e.processFacts(&r.ProcessFacts)
		e.exit(r)
	case *Host:
		e.host(r)
	case *Cgroup:
		e.cgroup(r)
	case *GPU:
		e.gpu(r)
	case *StateChange:
		e.stateChange(r)
	case *Prune:
		e.prune(r)
	case *OOM:
		e.oom(r)
	case *Leak:
		e.leak(r)
	case *Job:
		e.job(r)
	case *Limit:
		e.limit(r)
	case *JobReading:
		e.jobReading(r)
	case *Action:
		e.action(r)
	case *Config:
		e.config(r)
	case *Agent:
		e.agent(r)
	}
	if e.err != nil {
		return dst, fmt.Errorf("encode a record of kind %s: %w", kind, e.err)
	}
	return append(e.buf, '}', '\n'), nil
}

// KindOf returns the kind of r's type, or [ErrKind] if r is none of this
// package's records.
func KindOf(r Record) (Kind, error) {
	switch r.(type) {
	case *Process:
		return KindProcess, nil
	case *Exit:
		return KindExit, nil
	case *Host:
		return KindHost, nil
	case *Cgroup:
		return KindCgroup, nil
	case *GPU:
		return KindGPU, nil
	case *StateChange:
		return KindState, nil
	case *Prune:
		return KindPrune, nil
	case *OOM:
		return KindOOM, nil
	case *Leak:
		return KindLeak, nil
	case *Job:
		return KindJob, nil
	case *Limit:
		return KindLimit, nil
	case *JobReading:
		return KindJobReading, nil
	case *Action:
		return KindAction, nil
	case *Config:
		return KindConfig, nil
	case *Agent:
		return KindAgent, nil
	}
	return "", fmt.Errorf("%w: Go type %T", ErrKind, r)
}

func (e *encoder) header(h *Header, k Kind) {
	e.timeIn(`{"time":`, h.Time)
	e.str(`,"kind":`, string(k))
	e.str(`,"host":`, h.Host)
	e.str(`,"boot_id":`, h.BootID)
	e.uint(`,"seq":`, h.Seq)
	e.int(`,"schema":`, int64(h.Schema))
}

func (e *encoder) processFacts(f *ProcessFacts) {
	e.int(`,"pid":`, int64(f.PID))
	e.uint(`,"start_ticks":`, f.StartTicks)
	e.optInt(`,"ns_pid":`, f.NSPID)
	e.optInt(`,"ppid":`, f.PPID)
	e.optTime(`,"start_time":`, f.StartTime)
	e.str(`,"comm":`, f.Comm)
	e.optStr(`,"exe":`, f.Exe)
	e.optUint32(`,"uid":`, f.UID)
	e.optStr(`,"cgroup":`, f.Cgroup)
	e.optStr(`,"container_id":`, f.ContainerID)
	e.optStr(`,"unit":`, f.Unit)
	e.optStr(`,"state":`, f.State)
	e.str(`,"source":`, string(f.Source))
	e.optUint(`,"threads":`, f.Threads)
	if f.Cmdline != nil {
		e.strs(`,"cmdline":`, *f.Cmdline)
	}

	e.optUint(`,"fd_open":`, f.FDOpen)
	e.optUint(`,"fd_open_min":`, f.FDOpenMin)
	e.optUint(`,"fd_open_max":`, f.FDOpenMax)
	e.optUint(`,"fd_limit":`, f.FDLimit)
	e.optUint(`,"fd_hard_limit":`, f.FDHardLimit)
	e.optFloat(`,"fd_ratio":`, f.FDRatio)
	e.optUint(`,"fd_opened_total":`, f.FDOpenedTotal)
	e.optUint(`,"fd_closed_total":`, f.FDClosedTotal)
	e.optFloat(`,"fd_growth_per_second":`, f.FDGrowthPerSecond)
	e.optFloat(`,"fd_seconds_to_limit":`, f.FDSecondsToLimit)

	e.optUint(`,"rss_bytes":`, f.RSSBytes)
	e.optUint(`,"rss_anon_bytes":`, f.RSSAnonBytes)
	e.optUint(`,"rss_file_bytes":`, f.RSSFileBytes)
	e.optUint(`,"rss_shmem_bytes":`, f.RSSShmemBytes)
	e.optUint(`,"rss_peak_bytes":`, f.RSSPeakBytes)
	e.optUint(`,"swap_bytes":`, f.SwapBytes)
	e.optUint(`,"virtual_bytes":`, f.VirtualBytes)

	e.optUint(`,"minor_faults_total":`, f.MinorFaultsTotal)
	e.optUint(`,"major_faults_total":`, f.MajorFaultsTotal)

	e.optFloat(`,"cpu_seconds_total":`, f.CPUSecondsTotal)
	e.optFloat(`,"cpu_user_seconds_total":`, f.CPUUserSecondsTotal)
	e.optFloat(`,"cpu_system_seconds_total":`, f.CPUSystemSecondsTotal)
	e.optFloat(`,"cpu_cores":`, f.CPUCores)
	e.optFloat(`,"run_delay_seconds_total":`, f.RunDelaySecondsTotal)

	e.optUint(`,"disk_read_bytes_total":`, f.DiskReadBytesTotal)
	e.optUint(`,"disk_written_bytes_total":`, f.DiskWrittenBytesTotal)
	e.optFloat(`,"disk_read_bytes_per_second":`, f.DiskReadBytesPerSecond)
	e.optFloat(`,"disk_written_bytes_per_second":`, f.DiskWrittenBytesPerSecond)
	e.optUint(`,"io_read_bytes_total":`, f.IOReadBytesTotal)
	e.optUint(`,"io_written_bytes_total":`, f.IOWrittenBytesTotal)

	e.optUint(`,"net_received_bytes_total":`, f.NetReceivedBytesTotal)
	e.optUint(`,"net_sent_bytes_total":`, f.NetSentBytesTotal)
	e.optFloat(`,"net_received_bytes_per_second":`, f.NetReceivedBytesPerSecond)
	e.optFloat(`,"net_sent_bytes_per_second":`, f.NetSentBytesPerSecond)

	e.optUint(`,"gpu_memory_bytes":`, f.GPUMemoryBytes)
	e.optFloat(`,"gpu_utilization_ratio":`, f.GPUUtilizationRatio)
}

func (e *encoder) exit(r *Exit) {
	e.optTime(`,"exit_time":`, r.ExitTime)
	e.optInt(`,"exit_code":`, r.ExitCode)
	e.optInt(`,"exit_signal":`, r.ExitSignal)
	e.optBool(`,"core_dumped":`, r.CoreDumped)
	e.bool(`,"cpu_final":`, r.CPUFinal)
	e.bool(`,"inferred":`, r.Inferred)
}

func (e *encoder) host(r *Host) {
	e.optFloat(`,"monotonic_seconds":`, r.MonotonicSeconds)
	e.optFloat(`,"cpu_ratio":`, r.CPURatio)
	e.optUint(`,"cpu_count":`, r.CPUCount)
	e.optFloat(`,"load1":`, r.Load1)
	e.optUint(`,"memory_total_bytes":`, r.MemoryTotalBytes)
	e.optUint(`,"memory_available_bytes":`, r.MemoryAvailableBytes)
	e.optUint(`,"memory_used_bytes":`, r.MemoryUsedBytes)
	e.optUint(`,"swap_total_bytes":`, r.SwapTotalBytes)
	e.optUint(`,"swap_used_bytes":`, r.SwapUsedBytes)
	e.optUint(`,"files_open":`, r.FilesOpen)
	e.optUint(`,"files_limit":`, r.FilesLimit)
	e.optUint(`,"processes":`, r.Processes)
	e.optUint(`,"threads":`, r.Threads)
	e.optUint(`,"pid_limit":`, r.PIDLimit)

	e.optUint(`,"disk_read_bytes_total":`, r.DiskReadBytesTotal)
	e.optUint(`,"disk_written_bytes_total":`, r.DiskWrittenBytesTotal)
	e.optFloat(`,"disk_read_bytes_per_second":`, r.DiskReadBytesPerSecond)
	e.optFloat(`,"disk_written_bytes_per_second":`, r.DiskWrittenBytesPerSecond)
	e.optUint(`,"net_received_bytes_total":`, r.NetReceivedBytesTotal)
	e.optUint(`,"net_sent_bytes_total":`, r.NetSentBytesTotal)
	e.optFloat(`,"net_received_bytes_per_second":`, r.NetReceivedBytesPerSecond)
	e.optFloat(`,"net_sent_bytes_per_second":`, r.NetSentBytesPerSecond)

	e.pressure(&r.Pressure)
	e.list(`,"filesystems":`, r.Filesystems == nil, len(r.Filesystems), func(i int) { e.filesystem(&r.Filesystems[i]) })
	e.strs(`,"gone":`, r.Gone)
	e.strs(`,"no_longer_chosen":`, r.NoLongerChosen)
}

func (e *encoder) pressure(p *Pressure) {
	e.optFloat(`,"pressure_cpu_some_ratio":`, p.PressureCPUSomeRatio)
	e.optFloat(`,"pressure_cpu_full_ratio":`, p.PressureCPUFullRatio)
	e.optFloat(`,"pressure_memory_some_ratio":`, p.PressureMemorySomeRatio)
	e.optFloat(`,"pressure_memory_full_ratio":`, p.PressureMemoryFullRatio)
	e.optFloat(`,"pressure_io_some_ratio":`, p.PressureIOSomeRatio)
	e.optFloat(`,"pressure_io_full_ratio":`, p.PressureIOFullRatio)
}

func (e *encoder) filesystem(f *Filesystem) {
	e.str(`{"path":`, f.Path)
	e.optUint(`,"total_bytes":`, f.TotalBytes)
	e.optUint(`,"free_bytes":`, f.FreeBytes)
	e.optUint(`,"available_bytes":`, f.AvailableBytes)
	e.optUint(`,"inodes_total":`, f.InodesTotal)
	e.optUint(`,"inodes_available":`, f.InodesAvailable)
	e.raw("}")
}

func (e *encoder) cgroup(r *Cgroup) {
	e.str(`,"path":`, r.Path)
	e.optStr(`,"container_id":`, r.ContainerID)
	e.optStr(`,"unit":`, r.Unit)
	e.optUint(`,"memory_bytes":`, r.MemoryBytes)
	e.optUint(`,"memory_limit_bytes":`, r.MemoryLimitBytes)
	e.optUint(`,"swap_bytes":`, r.SwapBytes)
	e.optUint(`,"pids":`, r.PIDs)
	e.optUint(`,"pids_limit":`, r.PIDsLimit)
	e.optFloat(`,"cpu_seconds_total":`, r.CPUSecondsTotal)
	e.optFloat(`,"cpu_throttled_seconds_total":`, r.CPUThrottledSecondsTotal)
	e.optFloat(`,"cpu_limit_cores":`, r.CPULimitCores)
	e.pressure(&r.Pressure)
	e.optUint(`,"oom_kills_total":`, r.OOMKillsTotal)
	e.optUint(`,"fd_open":`, r.FDOpen)
}

func (e *encoder) gpu(r *GPU) {
	e.int(`,"index":`, int64(r.Index))
	e.optStr(`,"uuid":`, r.UUID)
	e.optStr(`,"name":`, r.Name)
	e.optFloat(`,"utilization_ratio":`, r.UtilizationRatio)
	e.optUint(`,"memory_total_bytes":`, r.MemoryTotalBytes)
	e.optUint(`,"memory_used_bytes":`, r.MemoryUsedBytes)
	e.optFloat(`,"temperature_celsius":`, r.TemperatureCelsius)
	e.optFloat(`,"power_watts":`, r.PowerWatts)
	e.optFloat(`,"encoder_ratio":`, r.EncoderRatio)
	e.optFloat(`,"decoder_ratio":`, r.DecoderRatio)
	e.optFloat(`,"age_seconds":`, r.AgeSeconds)
	e.list(`,"mig_instances":`, r.MIGInstances == nil, len(r.MIGInstances), func(i int) { e.gpuInstance(&r.MIGInstances[i]) })
	e.list(`,"processes":`, r.Processes == nil, len(r.Processes), func(i int) { e.gpuProcess(&r.Processes[i]) })
}

func (e *encoder) gpuProcess(p *GPUProcess) {
	e.int(`{"pid":`, int64(p.PID))
	e.optUint(`,"start_ticks":`, p.StartTicks)
	e.optStr(`,"comm":`, p.Comm)
	e.optUint(`,"memory_bytes":`, p.MemoryBytes)
	e.optFloat(`,"utilization_ratio":`, p.UtilizationRatio)
	e.optUint(`,"gpu_instance_id":`, p.GPUInstanceID)
	e.raw("}")
}

func (e *encoder) gpuInstance(g *GPUInstance) {
	e.optStr(`{"uuid":`, g.UUID)
	e.optStr(`,"name":`, g.Name)
	e.optUint(`,"gpu_instance_id":`, g.GPUInstanceID)
	e.optUint(`,"compute_instance_id":`, g.ComputeInstanceID)
	e.optUint(`,"memory_total_bytes":`, g.MemoryTotalBytes)
	e.optUint(`,"memory_used_bytes":`, g.MemoryUsedBytes)
	e.raw("}")
}

func (e *encoder) stateChange(r *StateChange) {
	e.str(`,"resource":`, r.Resource)
	e.str(`,"target":`, r.Target)
	e.str(`,"state":`, string(r.State))
	e.str(`,"previous":`, string(r.Previous))
	e.optFloat(`,"value":`, r.Value)
	e.optFloat(`,"limit":`, r.Limit)
	e.optFloat(`,"ratio":`, r.Ratio)
	e.str(`,"unit":`, r.Unit)
	e.str(`,"message":`, r.Message)
	e.str(`,"advice":`, r.Advice)
}

func (e *encoder) oom(r *OOM) {
	e.int(`,"pid":`, int64(r.PID))
	e.uint(`,"start_ticks":`, r.StartTicks)
	e.str(`,"comm":`, r.Comm)
	e.optUint32(`,"uid":`, r.UID)
	e.optStr(`,"cgroup":`, r.Cgroup)
	e.optUint(`,"rss_bytes":`, r.RSSBytes)
	e.optUint(`,"rss_anon_bytes":`, r.RSSAnonBytes)
	e.optUint(`,"rss_file_bytes":`, r.RSSFileBytes)
	e.optUint(`,"rss_shmem_bytes":`, r.RSSShmemBytes)
	e.optUint(`,"swap_bytes":`, r.SwapBytes)
	e.optInt(`,"oom_score_adj":`, r.OOMScoreAdj)
}

func (e *encoder) leak(r *Leak) {
	e.int(`,"pid":`, int64(r.PID))
	e.uint(`,"start_ticks":`, r.StartTicks)
	e.str(`,"comm":`, r.Comm)
	e.str(`,"verdict":`, string(r.Verdict))
	e.optStr(`,"rule":`, r.Rule)
	e.optUint(`,"fd_open":`, r.FDOpen)
	e.optUint(`,"fd_limit":`, r.FDLimit)
	e.optFloat(`,"growth_per_second":`, r.GrowthPerSecond)
	e.optFloat(`,"seconds_to_limit":`, r.SecondsToLimit)
	e.optFloat(`,"confidence_ratio":`, r.ConfidenceRatio)
	e.list(`,"sites":`, r.Sites == nil, len(r.Sites), func(i int) { e.site(&r.Sites[i]) })
	e.counts(`,"unattributed":`, r.Unattributed)
}

func (e *encoder) site(s *Site) {
	e.uint(`{"held":`, s.Held)
	e.optUint(`,"opened_total":`, s.OpenedTotal)
	e.optUint(`,"closed_total":`, s.ClosedTotal)
	e.optUint(`,"failed_total":`, s.FailedTotal)
	e.str(`,"type":`, s.Type)
	e.optStr(`,"target":`, s.Target)
	e.optFloat(`,"oldest_seconds":`, s.OldestSeconds)
	e.optStr(`,"thread":`, s.Thread)
	e.list(`,"stack":`, s.Stack == nil, len(s.Stack), func(i int) { e.frame(&s.Stack[i]) })
	e.optStr(`,"stack_end":`, s.StackEnd)
	e.raw("}")
}

func (e *encoder) frame(f *Frame) {
	e.optStr(`{"function":`, f.Function)
	e.optStr(`,"file":`, f.File)
	e.optUint(`,"line":`, f.Line)
	e.optStr(`,"module":`, f.Module)
	e.optUint(`,"offset":`, f.Offset)
	e.optStr(`,"build_id":`, f.BuildID)
	e.bool(`,"inlined":`, f.Inlined)
	e.optStr(`,"language":`, f.Language)
	e.optStr(`,"guess":`, f.Guess)
	e.raw("}")
}

// config leaves Values, which may hold anything, to encoding/json.
func (e *encoder) config(r *Config) {
	e.str(`,"hash":`, r.Hash)
	e.raw(`,"values":`)
	var values bytes.Buffer
	enc := json.NewEncoder(&values)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r.Values); err != nil {
		e.err = err
		return
	}
	e.escapeControls(bytes.TrimSuffix(values.Bytes(), []byte("\n")))
	e.optInt(`,"agent_pid":`, r.AgentPID)
}

func (e *encoder) agent(r *Agent) {
	e.str(`,"version":`, r.Version)
	e.str(`,"source":`, string(r.Source))
	e.optFloat(`,"cpu_seconds_total":`, r.CPUSecondsTotal)
	e.optFloat(`,"cpu_cores":`, r.CPUCores)
	e.optUint(`,"rss_bytes":`, r.RSSBytes)
	e.optUint(`,"memory_bytes":`, r.MemoryBytes)
	e.optUint(`,"fd_open":`, r.FDOpen)
	e.float(`,"interval_seconds":`, r.IntervalSeconds)
	e.optUint(`,"events_seen":`, r.EventsSeen)
	e.optUint(`,"events_delivered":`, r.EventsDelivered)
	e.counts(`,"events_lost":`, r.EventsLost)
	e.optUint(`,"events_pending":`, r.EventsPending)
	e.counts(`,"uncounted":`, r.Uncounted)
	e.uint(`,"records_written":`, r.RecordsWritten)
	e.counts(`,"records_lost":`, r.RecordsLost)
	e.uint(`,"tasks_missed":`, r.TasksMissed)
	e.uint(`,"ticks_skipped":`, r.TicksSkipped)
	e.optUint(`,"map_entries":`, r.MapEntries)
	e.optUint(`,"map_capacity":`, r.MapCapacity)
	e.optFloat(`,"scan_seconds":`, r.ScanSeconds)
	e.optFloat(`,"program_seconds_estimated":`, r.ProgramSecondsEstimated)
}

// counts writes the causes in alphabetical order, so that equal counts are equal
// bytes.
func (e *encoder) counts(key string, m map[string]uint64) {
	e.raw(key)
	if m == nil {
		e.raw("null")
		return
	}
	e.raw("{")
	for i, cause := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			e.raw(",")
		}
		e.str("", cause)
		e.uint(":", m[cause])
	}
	e.raw("}")
}
