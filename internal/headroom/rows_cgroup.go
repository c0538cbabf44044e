package headroom

import (
	"fmt"
	"math"

	"rmagent/internal/human"
	"rmagent/internal/sample"
	"rmagent/record"
)

// cgroupRows are the limits that the process shares with others of its cgroups.
func cgroupRows(f *Facts) []row {
	c := &f.Cgroups
	var out []row
	for i := range c.Memory {
		out = append(out, memoryRows(f, &c.Memory[i])...)
	}
	for i := range c.PIDs {
		l := &c.PIDs[i]
		r := cgroupRow(f, "tasks", "pids.max", "tasks", &l.CgroupLevel, l.Max)
		r.Used = record.Float(l.Tasks)
		r.Consequence = "EAGAIN: fork, clone and new threads fail"
		out = append(out, unknownIf(r, ""))
	}
	for i := range c.CPU {
		out = append(out, cpuRow(f, &c.CPU[i]))
	}
	if r, ok := cpusetRow(f); ok {
		out = append(out, r)
	}
	for i := range c.Hidden {
		out = append(out, hiddenRow(f, &c.Hidden[i]))
	}
	return out
}

func cgroupScope(l *sample.CgroupLevel) string { return "cgroup " + record.Text([]byte(l.Path)) }

func cgroupRow(f *Facts, resource, name, unit string, l *sample.CgroupLevel, limit sample.Limit) row {
	r := newRow(resource, name, cgroupScope(l), unit)
	v, ok := limit.Value.Get()
	r.Limit = record.SomeIf(float64(v), ok && v != sample.Unlimited)
	switch {
	case l.Gone:
		r.Why = "the cgroup was removed"
	case !ok:
		r.Why = "the limit can't be read"
	case v != sample.Unlimited:
		r.Raise = raiseCgroup(f, name, l, v)
	}
	return r
}

func memoryRows(f *Facts, l *sample.MemoryLevel) []row {
	usage, okUsage := l.UsageBytes.Get()
	reclaimable, okReclaimable := l.ReclaimableBytes.Get()
	used := record.SomeIf(float64(usage-min(usage, reclaimable)), okUsage && okReclaimable)

	most := cgroupRow(f, "memory", "memory.max", "bytes", &l.CgroupLevel, l.Max)
	most.Used, most.Consequence = used, oomConsequence(f, l)
	out := []row{unknownIf(most, "")}
	if l.High.Value.Known() {
		high := cgroupRow(f, "memory", "memory.high", "bytes", &l.CgroupLevel, l.High)
		high.Used = used
		high.Consequence = "throttling: its processes wait while the kernel reclaims; none is killed"
		out = append(out, unknownIf(high, ""))
	}
	if !l.SwapMax.Value.Known() { // swap is not accounted
		return out
	}
	swap := cgroupRow(f, "swap", "memory.swap.max", "bytes", &l.CgroupLevel, l.SwapMax)
	swap.Used = record.Float(l.SwapBytes)
	swap.Consequence = "no more of it is swapped out, so memory.max kills"
	if l.Version == 1 {
		swap.Resource, swap.Name = "memory", "memory.memsw.limit_in_bytes"
		both, ok := l.SwapBytes.Get()
		swap.Used = record.SomeIf(float64(both-min(both, reclaimable)), ok && okReclaimable)
		swap.Consequence = "the OOM killer ends a process of " + cgroupScope(&l.CgroupLevel)
		if v, ok := l.SwapMax.Get().Get(); ok {
			swap.Raise = raiseCgroup(f, swap.Name, &l.CgroupLevel, v)
		}
	}
	return append(out, unknownIf(swap, ""))
}

// oomConsequence says what happens at memory.max: what can be swapped out is,
// first.
func oomConsequence(f *Facts, l *sample.MemoryLevel) string {
	scope := cgroupScope(&l.CgroupLevel)
	s := "OOM kill: the kernel ends a process of " + scope
	switch {
	case l.OOMOff:
		s = "its processes freeze until memory is freed: the OOM killer is off in " + scope
	case l.OOMGroup:
		s = "OOM kill: the kernel ends every process of " + scope
	}
	if room := swapRoom(f, l); room > 0 {
		s = "swaps out, up to " + human.Bytes(float64(room)) + " more; then " + s
	}
	return s
}

// swapRoom is what a cgroup may still swap out.
func swapRoom(f *Facts, l *sample.MemoryLevel) uint64 {
	room, ok := f.Machine.SwapFreeBytes.Get()
	if !ok {
		return 0
	}
	if limit, ok := l.SwapMax.Get().Get(); ok {
		used, _ := l.SwapBytes.Get()
		room = min(room, limit-min(limit, used))
	}
	return room
}

func cpuRow(f *Facts, l *sample.CPULevel) row {
	r := newRow("cpu", "cpu.max", cgroupScope(&l.CgroupLevel), "cores")
	limit, ok := l.LimitCores.Get()
	r.Limit = record.SomeIf(limit, ok && !math.IsInf(limit, 0))
	nanos, okNanos := l.CPUNanos.Get()
	r.counter, r.seconds = record.SomeIf(float64(nanos)/1e9, okNanos), true
	r.Consequence = "throttling: its threads wait for the next period"
	switch {
	case l.Gone:
		r.Why = "the cgroup was removed"
	case !ok:
		r.Why = "the limit can't be read"
	case !okNanos:
		r.Why = "the CPU time of this cgroup is counted elsewhere"
	default:
		r.Why = "a speed: known after a second reading"
	}
	if r.Limit.Known() {
		r.Raise = raiseCPU(f, &l.CgroupLevel, limit)
	}
	return r
}

// cpusetRow is the narrowest set of CPUs, of the topmost cgroup that has it. It is
// no limit where it holds all CPUs.
func cpusetRow(f *Facts) (row, bool) {
	sets := f.Cgroups.CPUSet
	if len(sets) == 0 {
		return row{}, false
	}
	n, ok := sets[0].CPUs.Get()
	online, okOnline := f.Machine.CPUs.Get()
	if !ok || okOnline && n >= online {
		return row{}, false
	}
	top := &sets[0]
	for i := range sets {
		if v, ok := sets[i].CPUs.Get(); ok && v == n {
			top = &sets[i]
		}
	}
	r := newRow("cpu", "cpuset.cpus", cgroupScope(&top.CgroupLevel), "cores")
	r.Limit = record.Some(float64(n))
	nanos, okNanos := f.CPUNanos.Get()
	r.counter, r.seconds = record.SomeIf(float64(nanos)/1e9, okNanos), true
	r.Consequence = fmt.Sprintf("waiting: no more than %d of its threads run at once", n)
	r.Raise = raiseCgroup(f, r.Name, &top.CgroupLevel, n)
	r.Why = "a speed: known after a second reading"
	return r, true
}

// hiddenRow tells of limits that may be where nobody can look.
func hiddenRow(f *Facts, h *sample.HiddenCgroups) row {
	names := map[string][3]string{
		"memory": {"memory", "memory.max", "bytes"},
		"pids":   {"tasks", "pids.max", "tasks"},
		"cpu":    {"cpu", "cpu.max", "cores"},
		"cpuset": {"cpu", "cpuset.cpus", "cores"},
	}
	n := names[h.Controller]
	r := newRow(n[0], n[1], "above cgroup "+record.Text([]byte(h.Path)), n[2])
	r.Why = h.Why
	if v, ok := h.MemoryMax.Get().Get(); ok && !f.limitsMemoryTo(v) {
		r.Limit = record.Some(float64(v))
		r.Consequence = "OOM kill, by a cgroup that can't be seen from here"
	}
	return r
}

// limitsMemoryTo reports whether a cgroup that can be seen has that limit.
func (f *Facts) limitsMemoryTo(v uint64) bool {
	for i := range f.Cgroups.Memory {
		if m, ok := f.Cgroups.Memory[i].Max.Get().Get(); ok && m == v {
			return true
		}
	}
	return false
}
