package headroom

import (
	"slices"

	"rmagent/internal/aggregate"
	"rmagent/internal/human"
	"rmagent/internal/sample"
	"rmagent/record"
)

// filesystemRows are the filesystems that the process has a file open for writing
// on.
func filesystemRows(f *Facts) []row {
	var out []row
	for i := range f.Filesystems {
		fs := &f.Filesystems[i]
		scope := "mount " + record.Text([]byte(fs.Path))
		bytes := newRow("disk", "disk_bytes", scope, "bytes")
		bytes.Consequence = "ENOSPC: writes fail"
		bytes.Raise = "free space or grow the filesystem: du -xh --max-depth=1 " + shellQuote(fs.Path)
		if fs.Why != "" {
			bytes.Why = fs.Why
			out = append(out, bytes)
			continue
		}
		used, limit := fs.Space()
		fill(&bytes, used, fs.AvailableBytes, limit)
		out = append(out, bytes)
		if fs.InodesTotal.Known() {
			inodes := newRow("inodes", "disk_inodes", scope, "inodes")
			inodes.Consequence = "ENOSPC: new files can't be made"
			inodes.Raise = "remove small files: du -x --inodes --max-depth=1 " + shellQuote(fs.Path)
			fill(&inodes, aggregate.Used(fs.InodesTotal, fs.InodesAvailable), fs.InodesAvailable, fs.InodesTotal)
			out = append(out, inodes)
		}
	}
	return out
}

func fill(r *row, used, available, limit sample.Opt[uint64]) {
	r.Used, r.Available, r.Limit = record.Float(used), record.Float(available), record.Float(limit)
	*r = unknownIf(*r, "")
}

// reservedPIDs are not given out again once the numbers have run around
// (RESERVED_PIDS in kernel/pid.c).
const reservedPIDs = 300

// machineRows are the limits that every process shares.
func machineRows(f *Facts) []row {
	m := &f.Machine
	all := f.ID.PID == 0 // for all processes: nobody is exempt
	out := []row{memAvailableRow(m)}
	if mode, ok := m.OvercommitMode.Get(); ok && mode == 2 {
		out = append(out, commitRow(f))
	}
	files := machineRow("open_files", "fs.file-max", "files", m.FilesOpen, m.FilesLimit, "ENFILE: every open fails, but root's")
	if !all && f.may(capSysAdmin) {
		files.Limit, files.Raise, files.Consequence = record.Opt[float64]{}, "", "none: CAP_SYS_ADMIN is exempt"
	}
	pids := machineRow("tasks", "kernel.pid_max", "tasks", m.Tasks, m.PIDMax, "EAGAIN: fork, clone and new threads fail")
	pids.Available = numbersLeft(f)
	if !pids.Available.Known() && pids.Limit.Known() {
		pids.Why = "which numbers are taken can't be seen from this PID namespace"
	}
	threads := machineRow("tasks", "kernel.threads-max", "tasks", m.Tasks, m.ThreadsMax, "EAGAIN: fork, clone and new threads fail")
	return append(out, files, pids, threads)
}

// numbersLeft counts the PIDs that can still be given out: from the last one
// upwards, then again from reservedPIDs (alloc_pid in kernel/pid.c).
func numbersLeft(f *Facts) record.Opt[float64] {
	limit, ok := f.Machine.PIDMax.Get()
	low, okLow := f.LowTasks.Get()
	tasks, okTasks := f.Machine.Tasks.Get()
	last, okLast := f.Machine.LastPID.Get()
	if !ok || !okLow || !okTasks || !okLast {
		return record.Opt[float64]{}
	}
	room := limit - min(limit, reservedPIDs)
	if last < reservedPIDs-1 { // the numbers have not run around yet
		room += reservedPIDs - 1 - last
	}
	taken := tasks - min(tasks, low)
	return record.Some(float64(room - min(room, taken)))
}

func machineRow(resource, name, unit string, used, limit sample.Opt[uint64], consequence string) row {
	r := newRow(resource, name, scopeMachine, unit)
	v, ok := limit.Get()
	r.Used, r.Consequence = record.Float(used), consequence
	if !ok {
		r.Why = name + " can't be read"
		return r
	}
	if r.Limit = limitOf(v); r.Limit.Known() {
		r.Raise = sysctl(name, v)
	}
	return unknownIf(r, "")
}

func memAvailableRow(m *sample.Machine) row {
	r := newRow("memory", "MemAvailable", scopeMachine, "bytes")
	total, okTotal := m.MemoryTotalBytes.Get()
	available, ok := m.MemoryAvailableBytes.Get()
	r.Limit = record.SomeIf(float64(total), okTotal)
	r.Used = record.SomeIf(float64(total-min(total, available)), ok && okTotal)
	r.Available = record.SomeIf(float64(available), ok)
	r.Consequence = "OOM kill: the kernel ends the process with the highest oom_score of all"
	if swap, ok := m.SwapFreeBytes.Get(); ok && swap > 0 {
		r.Consequence = "swaps out, up to " + human.Bytes(float64(swap)) + " more; then " + r.Consequence
	}
	r.Raise = "add memory or swap, or stop what takes it: rmagent snapshot, by rss_anon_bytes"
	return unknownIf(r, "this kernel has no MemAvailable")
}

// commitRow is the limit of strict overcommit, for this process: the kernel keeps
// some for root and some for who would have to clean up (__vm_enough_memory in
// mm/util.c).
func commitRow(f *Facts) row {
	m := &f.Machine
	r := machineRow("committed_memory", "CommitLimit", "bytes", m.CommittedBytes, m.CommitLimitBytes,
		"ENOMEM: mmap, brk and fork fail")
	limit, ok := m.CommitLimitBytes.Get()
	if !ok {
		return r
	}
	r.Raise = "add swap, or sysctl -w vm.overcommit_ratio=N (now all of it is promised, not all is used)"
	reserve := uint64(0)
	if admin, ok := m.AdminReserveBytes.Get(); ok && !f.may(capSysAdmin) {
		reserve += admin
	}
	virtual, okVirtual := f.VirtualBytes.Get()
	if user, ok := m.UserReserveBytes.Get(); ok && okVirtual {
		reserve += min(virtual/32, user)
	}
	committed, _ := m.CommittedBytes.Get()
	r.Available = record.Some(float64(limit - min(limit, committed+reserve)))
	return r
}

// overcommit tells of memory that was promised and not touched.
func overcommit(f *Facts, limits []record.HeadroomLimit) *record.Overcommit {
	mode, okMode := f.Machine.OvercommitMode.Get()
	d, okData := f.DataBytes.Get()
	s, okStack := f.StackBytes.Get()
	anon, okAnon := f.AnonBytes.Get()
	swap, okSwap := f.SwapBytes.Get()
	if !okMode || mode > 2 || !okData || !okStack || !okAnon || !okSwap {
		return nil
	}
	o := &record.Overcommit{Mode: [...]string{"heuristic", "always", "strict"}[mode]}
	o.UntouchedBytes = d + s - min(d+s, anon+swap)
	nearest := leastMemory(limits)
	if nearest == nil {
		return o
	}
	available := nearest.Available.Or(0)
	o.AvailableBytes = record.Some(uint64(available))
	if float64(o.UntouchedBytes) > available {
		o.Risk = "if it touches all of it, " + nearest.Name + " (" + nearest.Scope + ") is hit: " + nearest.Consequence
	}
	return o
}

// leastMemory is the limit that leaves least memory to touch: it kills, or as
// memory.high slows down.
func leastMemory(limits []record.HeadroomLimit) (least *record.HeadroomLimit) {
	for i := range limits {
		l := &limits[i]
		a, ok := l.Available.Get()
		if !ok || !l.Known || !slices.Contains(memoryLimits, l.Name) {
			continue
		}
		if least == nil || a < least.Available.Or(0) {
			least = l
		}
	}
	return least
}

// memoryLimits are those that resident memory runs into.
var memoryLimits = []string{"memory.max", "memory.high", "memory.memsw.limit_in_bytes", "MemAvailable"}

// LeastMemory returns the limit that leaves a process least memory to touch, from
// facts of any depth; nil where none is known.
func LeastMemory(f *Facts) *record.HeadroomLimit {
	return leastMemory(judge(nil, append(cgroupRows(f), memAvailableRow(&f.Machine)), 0))
}

// Descriptors returns the soft limit of a process's descriptors.
func Descriptors(f *Facts) *record.HeadroomLimit {
	return &judge(nil, rlimitRows(f, nofile)[:1], 0)[0]
}
