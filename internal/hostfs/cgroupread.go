package hostfs

import (
	"slices"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// Version 2's files.
var (
	memoryCurrent = kfile.MakeName("memory.current")
	memoryMax     = kfile.MakeName("memory.max")
	memorySwap    = kfile.MakeName("memory.swap.current")
	memoryEvents  = kfile.MakeName("memory.events")
	pidsCurrent   = kfile.MakeName("pids.current")
	pidsMax       = kfile.MakeName("pids.max")
	cpuStat       = kfile.MakeName("cpu.stat")
	cpuMax        = kfile.MakeName("cpu.max")
	cpuPressure   = kfile.MakeName("cpu.pressure")
	memPressure   = kfile.MakeName("memory.pressure")
	ioPressure    = kfile.MakeName("io.pressure")
)

// readV2 reads what version 2 counts: all of it includes the descendants.
// memory.current is everything charged: anonymous and page cache, kernel memory
// (slabs, stacks, page tables, BPF maps) and socket buffers. OOM kills too
// include those of descendants. alive says that the cgroup is still there; if not,
// it may be.
func (c *CgroupReader) readV2(g *cgroup, host *sample.Host, dst *sample.Cgroup) (alive bool) {
	main := g.dirs.main
	if !g.dirs.rootUnified { // which has none of these (CFTYPE_NOT_ON_ROOT)
		dst.MemoryBytes = parseNumber(c.file(g, main, memoryCurrent))
		if dst.MemoryBytes.Known() { // else the controller isn't enabled here
			dst.MemoryLimit = parseLimit(c.file(g, main, memoryMax))
			dst.SwapBytes = swapOf(host, func() sample.Opt[uint64] { return parseNumber(c.file(g, main, memorySwap)) })
			dst.OOMKills = parseKeyed(c.file(g, main, memoryEvents), "oom_kill")
		}
		if dst.PIDs = parseNumber(c.file(g, main, pidsCurrent)); dst.PIDs.Known() {
			dst.PIDsLimit = parseLimit(c.file(g, main, pidsMax))
		}
		dst.CPULimitCores = parseCPUMax(c.file(g, main, cpuMax))
	}
	c.readPressure(g, host, dst)
	// Last, as every cgroup has this file.
	b := c.file(g, main, cpuStat)
	dst.CPUNanos = microseconds(parseKeyed(b, "usage_usec"))
	dst.ThrottledNanos = microseconds(parseKeyed(b, "throttled_usec"))
	return b != nil
}

// swapOf reads what is swapped out of a cgroup, unless the machine has no swap: a swap
// area is in SwapTotal until nothing is left in it (si_swapinfo in mm/swapfile.c).
func swapOf(host *sample.Host, read func() sample.Opt[uint64]) sample.Opt[uint64] {
	if total, ok := host.SwapTotalBytes.Get(); ok && total == 0 {
		return some(uint64(0))
	}
	return read()
}

// readPressure reads what waits in a cgroup. The root's pressure is the host's
// (cgroup_psi in kernel/cgroup/cgroup.c: both are psi_system).
func (c *CgroupReader) readPressure(g *cgroup, host *sample.Host, dst *sample.Cgroup) {
	p, dir := &dst.Pressure, g.dirs.unified
	if g.dirs.rootUnified {
		*p = host.Pressure
		return
	}
	p.PressureCPUSomeRatio, p.PressureCPUFullRatio = parsePressure(c.file(g, dir, cpuPressure))
	p.PressureMemorySomeRatio, p.PressureMemoryFullRatio = parsePressure(c.file(g, dir, memPressure))
	p.PressureIOSomeRatio, p.PressureIOFullRatio = parsePressure(c.file(g, dir, ioPressure))
}

// Version 1's files.
var (
	memoryUsage  = kfile.MakeName("memory.usage_in_bytes")
	memoryLimit  = kfile.MakeName("memory.limit_in_bytes")
	memoryStat   = kfile.MakeName("memory.stat")
	oomControl   = kfile.MakeName("memory.oom_control")
	cpuacctUsage = kfile.MakeName("cpuacct.usage")
	cfsQuota     = kfile.MakeName("cpu.cfs_quota_us")
	cfsPeriod    = kfile.MakeName("cpu.cfs_period_us")
)

// readV1 reads what version 1 counts. memory.usage_in_bytes is anonymous memory
// and page cache, and kernel memory where that is accounted; without swap.
// OOM kills are the cgroup's own only. alive is as in readV2.
func (c *CgroupReader) readV1(g *cgroup, host *sample.Host, dst *sample.Cgroup) (alive bool) {
	d := &g.dirs
	dst.CPUNanos = parseNumber(c.file(g, d.cpuacct, cpuacctUsage))
	c.readV1Throttling(g, dst)
	c.readPressure(g, host, dst)
	if !d.rootPIDs { // which has no count (CFTYPE_NOT_ON_ROOT)
		if dst.PIDs = parseNumber(c.file(g, d.pids, pidsCurrent)); dst.PIDs.Known() {
			dst.PIDsLimit = parseLimit(c.file(g, d.pids, pidsMax))
		}
	}
	if d.rootMemory { // which takes no limit (mem_cgroup_write in mm/memcontrol-v1.c)
		dst.MemoryLimit = sample.Limit{Value: some(uint64(sample.Unlimited))}
	} else {
		dst.MemoryLimit = parseLimit(c.file(g, d.memory, memoryLimit))
	}
	if d.memory >= 0 {
		dst.SwapBytes = swapOf(host, func() sample.Opt[uint64] { return parseKeyed(c.file(g, d.memory, memoryStat), "total_swap") })
	}
	dst.OOMKills = parseKeyed(c.file(g, d.memory, oomControl), "oom_kill")
	dst.MemoryBytes = parseNumber(c.file(g, d.memory, memoryUsage))
	if c.controller == "memory" {
		return dst.MemoryBytes.Known()
	}
	return dst.PIDsLimit.Value.Known()
}

// readV1Throttling reads the limit of CPU time and what came of it. A root has neither
// (tg_set_bandwidth in kernel/sched/core.c refuses it).
func (c *CgroupReader) readV1Throttling(g *cgroup, dst *sample.Cgroup) {
	d := &g.dirs
	if d.rootCPU {
		dst.ThrottledNanos = some(uint64(0))
		return
	}
	dst.ThrottledNanos = parseKeyed(c.file(g, d.cpu, cpuStat), "throttled_time")
	// An absent quota is -1, which is no number.
	if quota, ok := parseNumber(c.file(g, d.cpu, cfsQuota)).Get(); ok {
		period, ok := parseNumber(c.file(g, d.cpu, cfsPeriod)).Get()
		dst.CPULimitCores = cores(quota, period, ok)
	}
}

// file reads a file of one of g's directories, nil where it is not there. name is one
// of the variables above, and known by its address.
//
// It may stay open for the next time. Once the cgroup is gone, or has lost the
// controller, reading fails with ENODEV (kernfs_seq_start), and there may be another
// file of the name.
func (c *CgroupReader) file(g *cgroup, dir int, name kfile.Name) []byte {
	if dir < 0 {
		return nil
	}
	if i := slices.IndexFunc(g.files, func(f cgroupFile) bool { return f.name == &name[0] }); i >= 0 {
		if b, errno := kfile.RereadNow(g.files[i].fd, kfile.Whole, &c.buf); errno == 0 {
			return b
		}
		kfile.Close(g.files[i].fd)
		g.files = slices.Delete(g.files, i, i+1)
		c.files--
	}
	fd, errno := kfile.OpenNow(dir, name)
	if errno != 0 {
		return nil
	}
	b, errno := kfile.RereadNow(fd, kfile.Whole, &c.buf)
	if errno == 0 && c.keep && c.files < mostFiles {
		g.files = append(g.files, cgroupFile{&name[0], fd})
		c.files++
		return b
	}
	kfile.Close(fd)
	if errno != 0 {
		return nil
	}
	return b
}

func (c *CgroupReader) closeFiles(g *cgroup) {
	for _, f := range g.files {
		kfile.Close(f.fd)
	}
	c.files -= len(g.files)
	g.files = nil
}
