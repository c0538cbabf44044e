package aggregate

import (
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

// Host is the machine over time.
type Host struct {
	sample.Host

	CPURatio    sample.Opt[float64] // busy share of all CPUs
	DiskRead    sample.Opt[float64] // bytes a second, as below
	DiskWritten sample.Opt[float64]
	NetReceived sample.Opt[float64]
	NetSent     sample.Opt[float64]

	cpuRatio, memoryUsed, diskRead, diskWritten, netReceived, netSent Window
}

// HostMeans are means over the last WindowPeriod.
type HostMeans struct {
	CPURatio        sample.Opt[float64]
	MemoryUsedBytes sample.Opt[float64]
	DiskRead        sample.Opt[float64] // bytes a second, as below
	DiskWritten     sample.Opt[float64]
	NetReceived     sample.Opt[float64]
	NetSent         sample.Opt[float64]
}

// Means returns the means up to the last reading.
func (h *Host) Means() HostMeans {
	at := h.Monotonic
	return HostMeans{
		CPURatio:        h.cpuRatio.Mean(at),
		MemoryUsedBytes: h.memoryUsed.Mean(at),
		DiskRead:        h.diskRead.Mean(at),
		DiskWritten:     h.diskWritten.Mean(at),
		NetReceived:     h.netReceived.Mean(at),
		NetSent:         h.netSent.Mean(at),
	}
}

// remember adds the last interval to the windows.
func (h *Host) remember(elapsed time.Duration) {
	at := h.Monotonic
	used, ok := Used(h.MemoryTotalBytes, h.MemoryAvailableBytes).Get()
	h.cpuRatio.Add(at, elapsed, h.CPURatio)
	h.memoryUsed.Add(at, elapsed, record.SomeIf(float64(used), ok))
	h.diskRead.Add(at, elapsed, h.DiskRead)
	h.diskWritten.Add(at, elapsed, h.DiskWritten)
	h.netReceived.Add(at, elapsed, h.NetReceived)
	h.netSent.Add(at, elapsed, h.NetSent)
}

// Update takes the next reading. The caller may reuse it, but for its Filesystems,
// until the next Update.
func (h *Host) Update(now *sample.Host) {
	before := h.Host
	elapsed := now.Monotonic - before.Monotonic
	if before.Monotonic == 0 {
		elapsed = 0
	}
	h.Host = *now
	h.DiskRead = rateOf(now.DiskReadBytes, before.DiskReadBytes, elapsed)
	h.DiskWritten = rateOf(now.DiskWrittenBytes, before.DiskWrittenBytes, elapsed)
	h.NetReceived = rateOf(now.NetReceivedBytes, before.NetReceivedBytes, elapsed)
	h.NetSent = rateOf(now.NetSentBytes, before.NetSentBytes, elapsed)
	h.CPURatio = cpuRatio(now, &before)
	h.remember(elapsed)
}

// cpuRatio divides by the CPUs' own time, which counts only CPUs that are online.
func cpuRatio(now, before *sample.Host) sample.Opt[float64] {
	busy, ok1 := now.CPUBusyNanos.Get()
	all, ok2 := now.CPUAllNanos.Get()
	busyBefore, ok3 := before.CPUBusyNanos.Get()
	allBefore, ok4 := before.CPUAllNanos.Get()
	if !ok1 || !ok2 || !ok3 || !ok4 || busy < busyBefore || all <= allBefore {
		return sample.Opt[float64]{}
	}
	return record.Some(Round(min(float64(busy-busyBefore)/float64(all-allBefore), 1)))
}

// Used is what is not available of total.
func Used(total, available sample.Opt[uint64]) sample.Opt[uint64] {
	t, ok1 := total.Get()
	a, ok2 := available.Get()
	return record.SomeIf(t-min(a, t), ok1 && ok2)
}
