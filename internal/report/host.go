package report

import (
	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Host fills r but for its header. The filesystems are the reading's own.
func Host(r *record.Host, h *aggregate.Host) {
	swapUsed := aggregate.Used(h.SwapTotalBytes, h.SwapFreeBytes)
	*r = record.Host{
		Header:               r.Header,
		MonotonicSeconds:     record.SomeIf(aggregate.Round(h.Monotonic.Seconds()), h.Monotonic != 0),
		CPURatio:             h.CPURatio,
		CPUCount:             h.CPUCount,
		Load1:                h.Load1,
		MemoryTotalBytes:     h.MemoryTotalBytes,
		MemoryAvailableBytes: h.MemoryAvailableBytes,
		MemoryUsedBytes:      aggregate.Used(h.MemoryTotalBytes, h.MemoryAvailableBytes),
		SwapTotalBytes:       h.SwapTotalBytes,
		SwapUsedBytes:        swapUsed,
		FilesOpen:            h.FilesOpen,
		FilesLimit:           h.FilesLimit,
		Processes:            h.Processes,
		Threads:              h.Threads,
		PIDLimit:             h.PIDLimit,

		DiskReadBytesTotal:        h.DiskReadBytes,
		DiskWrittenBytesTotal:     h.DiskWrittenBytes,
		DiskReadBytesPerSecond:    h.DiskRead,
		DiskWrittenBytesPerSecond: h.DiskWritten,
		NetReceivedBytesTotal:     h.NetReceivedBytes,
		NetSentBytesTotal:         h.NetSentBytes,
		NetReceivedBytesPerSecond: h.NetReceived,
		NetSentBytesPerSecond:     h.NetSent,

		Pressure:    h.Pressure,
		Filesystems: h.Filesystems,
	}
}

// Cgroup fills r but for its header.
func (b *Builder) Cgroup(r *record.Cgroup, c *sample.Cgroup, fds record.Opt[uint64]) {
	nanos := func(v sample.Opt[uint64]) record.Opt[float64] {
		n, ok := v.Get()
		return record.SomeIf(float64(n)/1e9, ok)
	}
	*r = record.Cgroup{
		Header:                   r.Header,
		Path:                     b.text(c.Path).Or(""),
		ContainerID:              b.text(c.ContainerID),
		Unit:                     b.text(c.Unit),
		MemoryBytes:              c.MemoryBytes,
		MemoryLimitBytes:         c.MemoryLimit.Get(),
		SwapBytes:                c.SwapBytes,
		PIDs:                     c.PIDs,
		PIDsLimit:                c.PIDsLimit.Get(),
		CPUSecondsTotal:          nanos(c.CPUNanos),
		CPUThrottledSecondsTotal: nanos(c.ThrottledNanos),
		CPULimitCores:            c.CPULimitCores,
		Pressure:                 c.Pressure,
		OOMKillsTotal:            c.OOMKills,
		FDOpen:                   fds,
	}
}
