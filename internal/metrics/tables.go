package metrics

import "rmagent/record"

func hostTable() *table[record.Host] {
	t := newTable[record.Host]("rmagent_host_")
	t.gauge("cpu_ratio", "Busy share of all CPUs in the last interval.", func(h *record.Host) num { return h.CPURatio })
	t.gauge("cpus", "CPUs that are online.", func(h *record.Host) num { return record.Float(h.CPUCount) })
	t.gauge("load1", "Load average of one minute.", func(h *record.Host) num { return h.Load1 })
	t.gauge("memory_size_bytes", "Memory of the machine.", func(h *record.Host) num { return record.Float(h.MemoryTotalBytes) })
	t.gauge("memory_available_bytes", "Memory that can be had without swapping.", func(h *record.Host) num { return record.Float(h.MemoryAvailableBytes) })
	t.gauge("memory_used_bytes", "Memory that is not available.", func(h *record.Host) num { return record.Float(h.MemoryUsedBytes) })
	t.gauge("swap_size_bytes", "Swap space.", func(h *record.Host) num { return record.Float(h.SwapTotalBytes) })
	t.gauge("swap_used_bytes", "Swap space in use.", func(h *record.Host) num { return record.Float(h.SwapUsedBytes) })
	t.gauge("files_open", "Open file descriptions.", func(h *record.Host) num { return record.Float(h.FilesOpen) })
	t.gauge("files_limit", "Open file descriptions that there may be (fs.file-max).", func(h *record.Host) num { return record.Float(h.FilesLimit) })
	t.gauge("processes", "Processes.", func(h *record.Host) num { return record.Float(h.Processes) })
	t.gauge("threads", "Threads.", func(h *record.Host) num { return record.Float(h.Threads) })
	t.gauge("pid_limit", "Threads that there may be.", func(h *record.Host) num { return record.Float(h.PIDLimit) })
	t.counter("disk_read_bytes_total", "Bytes read from disks.", func(h *record.Host) num { return record.Float(h.DiskReadBytesTotal) })
	t.counter("disk_written_bytes_total", "Bytes written to disks.", func(h *record.Host) num { return record.Float(h.DiskWrittenBytesTotal) })
	t.counter("network_received_bytes_total", "Bytes received by uplinks.", func(h *record.Host) num { return record.Float(h.NetReceivedBytesTotal) })
	t.counter("network_sent_bytes_total", "Bytes sent by uplinks.", func(h *record.Host) num { return record.Float(h.NetSentBytesTotal) })
	return t
}

func filesystemTable() *table[record.Filesystem] {
	t := newTable[record.Filesystem]("rmagent_filesystem_", "mountpoint")
	t.gauge("size_bytes", "Size of the filesystem.", func(f *record.Filesystem) num { return record.Float(f.TotalBytes) })
	t.gauge("free_bytes", "Bytes that are free, those reserved for root included.", func(f *record.Filesystem) num { return record.Float(f.FreeBytes) })
	t.gauge("available_bytes", "Bytes that an ordinary user can have.", func(f *record.Filesystem) num { return record.Float(f.AvailableBytes) })
	t.gauge("inodes", "Inodes that there can be.", func(f *record.Filesystem) num { return record.Float(f.InodesTotal) })
	t.gauge("inodes_available", "Inodes that are free.", func(f *record.Filesystem) num { return record.Float(f.InodesAvailable) })
	return t
}

func cgroupTable() *table[record.Cgroup] {
	t := newTable[record.Cgroup]("rmagent_cgroup_", "cgroup")
	t.gauge("memory_bytes", "Memory charged to the cgroup.", func(c *record.Cgroup) num { return record.Float(c.MemoryBytes) })
	t.gauge("memory_limit_bytes", "Memory that may be; no series where there is no limit.", func(c *record.Cgroup) num { return record.Float(c.MemoryLimitBytes) })
	t.gauge("swap_bytes", "Swap space charged to the cgroup.", func(c *record.Cgroup) num { return record.Float(c.SwapBytes) })
	t.gauge("pids", "Threads in the cgroup.", func(c *record.Cgroup) num { return record.Float(c.PIDs) })
	t.gauge("pids_limit", "Threads that may be; no series where there is no limit.", func(c *record.Cgroup) num { return record.Float(c.PIDsLimit) })
	t.counter("cpu_seconds_total", "CPU time.", func(c *record.Cgroup) num { return c.CPUSecondsTotal })
	t.counter("cpu_throttled_seconds_total", "Time in which the cgroup was held back by its CPU limit.", func(c *record.Cgroup) num { return c.CPUThrottledSecondsTotal })
	t.counter("oom_kills_total", "Processes that the OOM killer ended.", func(c *record.Cgroup) num { return record.Float(c.OOMKillsTotal) })
	t.gauge("fd_open", "Open descriptors of its processes.", func(c *record.Cgroup) num { return record.Float(c.FDOpen) })
	return t
}

func gpuTable() *table[record.GPU] {
	t := newTable[record.GPU]("rmagent_gpu_", "gpu", "uuid")
	t.gauge("utilization_ratio", "Share of time in which a kernel ran.", func(g *record.GPU) num { return g.UtilizationRatio })
	t.gauge("memory_size_bytes", "Memory of the card.", func(g *record.GPU) num { return record.Float(g.MemoryTotalBytes) })
	t.gauge("memory_used_bytes", "Memory in use.", func(g *record.GPU) num { return record.Float(g.MemoryUsedBytes) })
	t.gauge("temperature_celsius", "Temperature.", func(g *record.GPU) num { return g.TemperatureCelsius })
	t.gauge("power_watts", "Power.", func(g *record.GPU) num { return g.PowerWatts })
	t.gauge("encoder_ratio", "Use of the encoder.", func(g *record.GPU) num { return g.EncoderRatio })
	t.gauge("decoder_ratio", "Use of the decoder.", func(g *record.GPU) num { return g.DecoderRatio })
	return t
}

func groupTable() *table[group] {
	t := newTable[group]("rmagent_group_", "by", "group")
	t.gauge("processes", "Processes of the unit, of the container, or of this name.", func(g *group) num { return record.Some(float64(g.processes)) })
	t.gauge("threads", "Their threads.", func(g *group) num { return g.threads.total() })
	t.gauge("fd_open", "Their open descriptors.", func(g *group) num { return g.fds.total() })
	t.gauge("rss_bytes", "Their resident memory; what they share counts for each.", func(g *group) num { return g.rss.total() })
	t.gauge("cpu_cores", "CPU time a second in the last interval, of those that were there all the time.", func(g *group) num { return g.cpu.known() })
	t.gauge("disk_read_bytes_per_second", "Bytes read from storage, likewise.", func(g *group) num { return g.diskRead.known() })
	t.gauge("disk_written_bytes_per_second", "Bytes written to storage, likewise.", func(g *group) num { return g.diskWritten.known() })
	t.gauge("network_received_bytes_per_second", "Bytes received by IP sockets, likewise.", func(g *group) num { return g.received.known() })
	t.gauge("network_sent_bytes_per_second", "Bytes sent by IP sockets, likewise.", func(g *group) num { return g.sent.known() })
	return t
}

func processTable() *table[record.Process] {
	t := newTable[record.Process]("rmagent_process_", "name", "pid", "start_ticks")
	t.gauge("threads", "Threads.", func(p *record.Process) num { return record.Float(p.Threads) })
	t.gauge("fd_open", "Open descriptors.", func(p *record.Process) num { return record.Float(p.FDOpen) })
	t.gauge("fd_limit", "Descriptors that may be open.", func(p *record.Process) num { return record.Float(p.FDLimit) })
	t.gauge("rss_bytes", "Resident memory.", func(p *record.Process) num { return record.Float(p.RSSBytes) })
	t.gauge("swap_bytes", "Swapped memory.", func(p *record.Process) num { return record.Float(p.SwapBytes) })
	t.counter("cpu_seconds_total", "CPU time.", func(p *record.Process) num { return p.CPUSecondsTotal })
	t.counter("major_faults_total", "Page faults that read from a disk.", func(p *record.Process) num { return record.Float(p.MajorFaultsTotal) })
	t.counter("disk_read_bytes_total", "Bytes read from storage.", func(p *record.Process) num { return record.Float(p.DiskReadBytesTotal) })
	t.counter("disk_written_bytes_total", "Bytes written to storage.", func(p *record.Process) num { return record.Float(p.DiskWrittenBytesTotal) })
	t.counter("network_received_bytes_total", "Bytes received by IP sockets.", func(p *record.Process) num { return record.Float(p.NetReceivedBytesTotal) })
	t.counter("network_sent_bytes_total", "Bytes sent by IP sockets.", func(p *record.Process) num { return record.Float(p.NetSentBytesTotal) })
	return t
}

func leakTable() *table[record.Leak] {
	t := newTable[record.Leak]("rmagent_leak_", "name", "pid", "start_ticks", "verdict")
	t.gauge("fd_open", "Open descriptors of a process that grows or leaks.", func(l *record.Leak) num { return record.Float(l.FDOpen) })
	t.gauge("growth_per_second", "Descriptors that it gathers in a second.", func(l *record.Leak) num { return l.GrowthPerSecond })
	t.gauge("seconds_to_limit", "When it is at its limit at this rate.", func(l *record.Leak) num { return l.SecondsToLimit })
	return t
}

func agentTable() *table[record.Agent] {
	t := newTable[record.Agent]("rmagent_agent_")
	t.counter("cpu_seconds_total", "CPU time of the agent.", func(a *record.Agent) num { return a.CPUSecondsTotal })
	t.counter("program_seconds_estimated_total", "CPU time of its hooks, estimated.", func(a *record.Agent) num { return a.ProgramSecondsEstimated })
	t.gauge("rss_bytes", "Resident memory of the agent.", func(a *record.Agent) num { return record.Float(a.RSSBytes) })
	t.gauge("memory_bytes", "Memory of its cgroup, BPF maps included.", func(a *record.Agent) num { return record.Float(a.MemoryBytes) })
	t.gauge("fd_open", "Open descriptors of the agent.", func(a *record.Agent) num { return record.Float(a.FDOpen) })
	t.gauge("interval_seconds", "Time between two readings.", func(a *record.Agent) num { return record.Some(a.IntervalSeconds) })
	t.gauge("scan_seconds", "Median time of a reading of all processes.", func(a *record.Agent) num { return a.ScanSeconds })
	t.counter("events_seen_total", "Events that the hooks saw: delivered, lost or pending.", func(a *record.Agent) num { return record.Float(a.EventsSeen) })
	t.counter("events_delivered_total", "Events that were delivered.", func(a *record.Agent) num { return record.Float(a.EventsDelivered) })
	t.gauge("events_pending", "Events that wait.", func(a *record.Agent) num { return record.Float(a.EventsPending) })
	t.counter("records_written_total", "Records that were written.", func(a *record.Agent) num { return record.Some(float64(a.RecordsWritten)) })
	t.counter("tasks_missed_total", "Processes that readings missed.", func(a *record.Agent) num { return record.Some(float64(a.TasksMissed)) })
	t.counter("ticks_skipped_total", "Readings that did not come in time.", func(a *record.Agent) num { return record.Some(float64(a.TicksSkipped)) })
	t.gauge("map_entries", "Entries in its BPF maps.", func(a *record.Agent) num { return record.Float(a.MapEntries) })
	t.gauge("map_capacity", "Entries that there can be.", func(a *record.Agent) num { return record.Float(a.MapCapacity) })
	return t
}

// number is a value of its own, with the labels of its metric.
type number struct{ value num }

func single(counter bool, name, help string, labels ...string) *table[number] {
	t := newTable[number]("rmagent_", labels...)
	t.fields = []field[number]{{t.prefix + name, help, counter, func(n *number) num { return n.value }}}
	return t
}

// numberRow makes a row of a table of single values.
func numberRow(t *table[number], v float64, labels ...string) row[number] {
	return t.row(&number{record.Some(v)}, labels...)
}

// singles are the metrics that have one value for each set of labels.
type singles struct {
	pressure, eventsLost, recordsLost, uncounted, omitted, verdicts, states, nearest, soonest, prune, read, build *table[number]
}

func newSingles() singles {
	return singles{
		pressure:    single(false, "host_pressure_ratio", "Share of the last ten seconds in which some or all tasks waited for the resource.", "resource", "tasks"),
		eventsLost:  single(true, "agent_events_lost_total", "Events that were lost, by cause.", "cause"),
		recordsLost: single(true, "agent_records_lost_total", "Records that were lost, by cause.", "cause"),
		uncounted:   single(true, "agent_uncounted_total", "What found no counter in the kernel, by what it was.", "what"),
		omitted:     single(false, "omitted", "Things that have no series of their own, because others take more.", "what"),
		verdicts:    single(false, "leaks", "Processes whose descriptors grow or leak.", "verdict"),
		states:      single(false, "states", "Targets that are not normal, by resource and state.", "resource", "state"),
		nearest:     single(false, "nearest_limit_ratio", "Greatest share of a limit that is taken: of a process, a cgroup, a filesystem or the host.", "resource"),
		soonest:     single(false, "soonest_limit_seconds", "When the first limit of this kind is reached at the present rate; no series where nothing grows.", "resource"),
		prune:       single(false, "should_prune", "1 where work should be taken off this machine."),
		read:        single(false, "last_reading_timestamp_seconds", "When the machine was read last."),
		build:       single(false, "build_info", "The agent.", "goversion", "source", "version"),
	}
}

func (s *singles) all() []*table[number] {
	return []*table[number]{s.pressure, s.eventsLost, s.recordsLost, s.uncounted, s.omitted, s.verdicts, s.states, s.nearest, s.soonest, s.prune, s.read, s.build}
}
