package headroom

import (
	"fmt"

	"rmagent/internal/sample"
	"rmagent/record"
)

// limitOf returns a limit as a row has it: null where there is none. Values from
// 2^63 - 2^16 on are how several kernel files write that.
func limitOf(v uint64) record.Opt[float64] {
	return record.SomeIf(float64(v), v < unlimited)
}

const unlimited = 1<<63 - 1<<16

const (
	scopeProcess = "process"
	scopeHard    = "process, hard"
	scopeGo      = "Go runtime"
	scopeMachine = "machine"
)

// processRows are the limits that the process has for itself.
func processRows(f *Facts) []row {
	var out, hard []row
	for i := range numRlimits {
		if i == nproc || i == sigpending { // shared by the user's processes
			continue
		}
		if !f.Rlimits[i].Known || f.KernelThread || !f.HasMemory && i != nofile && i != cpuTime {
			continue
		}
		both := rlimitRows(f, i)
		out, hard = append(out, both[0]), append(hard, both[1])
	}
	if f.HasMemory {
		out = append(out, mapCountRow(f))
	}
	if f.Go != nil {
		out = append(out, goRow(f.Go))
	}
	if v, ok := f.Machine.NROpen.Get(); ok && !f.KernelThread {
		r := newRow("open_files", "fs.nr_open", scopeProcess, "files")
		r.Used, r.Limit = record.Float(f.FDOpen), limitOf(v)
		r.Consequence = "EMFILE: no RLIMIT_NOFILE can be raised beyond it"
		r.Raise = sysctl("fs.nr_open", v)
		out = append(out, unknownIf(r, f.Denied))
	}
	return append(out, hard...)
}

// goRow is the limit that a Go program sets itself: soft, the runtime gives way
// before the program starves (runtime/debug.SetMemoryLimit).
func goRow(g *GoMemory) row {
	r := newRow("memory", "GOMEMLIMIT", scopeGo, "bytes")
	r.Used, r.Limit = record.Some(float64(g.UsedBytes)), limitOf(g.LimitBytes)
	r.Consequence = "the garbage collector runs more and more, on up to half of the CPUs; nothing fails"
	if r.Limit.Known() {
		r.Raise = fmt.Sprintf("GOMEMLIMIT=%d in its environment, or debug.SetMemoryLimit", g.LimitBytes*2)
	}
	return r
}

func newRow(resource, name, scope, unit string) row {
	return row{HeadroomLimit: record.HeadroomLimit{Resource: resource, Name: name, Scope: scope, Unit: unit}}
}

// unknownIf says why a row's use is unknown, if it is.
func unknownIf(r row, why string) row {
	if !r.Used.Known() && r.Why == "" {
		if why == "" {
			why = "the kernel does not say"
		}
		r.Why = why
	}
	return r
}

// rlimitRows are the soft and the hard limit of one kind.
func rlimitRows(f *Facts, i int) []row {
	l := f.Rlimits[i]
	soft := rlimitRow(f, i, scopeProcess, l.Soft)
	hard := rlimitRow(f, i, scopeHard, l.Hard)
	if i == nofile {
		soft.Available = placesLeft(l.Soft, f.FDBelowSoft)
		hard.Available = placesLeft(l.Hard, f.FDBelowHard)
	}
	if i == cpuTime {
		hard.Consequence = "SIGKILL"
	}
	return []row{soft, hard}
}

// placesLeft is how many descriptors below a limit are free.
func placesLeft(limit uint64, below sample.Opt[uint64]) record.Opt[float64] {
	n, ok := below.Get()
	return record.SomeIf(float64(limit-min(limit, n)), ok && limit < unlimited)
}

func rlimitRow(f *Facts, i int, scope string, limit uint64) row {
	k := &rlimits[i]
	r := newRow(k.resource, k.name, scope, k.counts)
	r.Used, r.Limit = rlimitUse(f, i), limitOf(limit)
	r.Consequence = rlimitConsequence(f, i)
	if i == memlock && f.may(capIPCLock) {
		r.Limit, r.Consequence = record.Opt[float64]{}, "none: CAP_IPC_LOCK is exempt"
	}
	if r.Limit.Known() {
		r.Raise = raiseRlimit(f, i)
	}
	return unknownIf(r, f.Denied)
}

func rlimitUse(f *Facts, i int) record.Opt[float64] {
	switch i {
	case nofile:
		return record.Float(f.FDOpen)
	case addressSpace:
		return record.Float(f.VirtualBytes)
	case data:
		return record.Float(f.DataBytes)
	case stack:
		return record.Float(f.StackBytes)
	case memlock:
		return record.Float(f.LockedBytes)
	case cpuTime:
		v, ok := f.CPUNanos.Get()
		return record.SomeIf(float64(v)/1e9, ok)
	case fileSize:
		if f.Written != nil {
			return record.Some(float64(f.Written.SizeBytes))
		}
		return record.SomeIf(0.0, f.Denied == "")
	}
	return record.Opt[float64]{}
}

// rlimitConsequence is what happens at a limit.
func rlimitConsequence(f *Facts, i int) string {
	switch i {
	case nofile:
		return "EMFILE: open, accept, socket, pipe and dup fail"
	case addressSpace:
		return "ENOMEM: mmap, brk and new threads fail"
	case data:
		return "ENOMEM: private mmap and brk fail"
	case stack:
		return "SIGSEGV, when the main thread's stack must grow"
	case memlock:
		return "ENOMEM: mlock fails, mmap with MAP_LOCKED gives EAGAIN"
	case cpuTime:
		return "SIGXCPU, each second until the hard limit's SIGKILL"
	}
	s := "SIGXFSZ, and EFBIG where that is ignored"
	if f.Written != nil {
		s += "; the largest is " + f.Written.Path
	}
	return s
}

// mapCountRow: every mmap that can't be joined to its neighbour is one
// (mm->map_count in mm/mmap.c).
func mapCountRow(f *Facts) row {
	r := newRow("memory_mappings", "vm.max_map_count", scopeProcess, "mappings")
	v, ok := f.Machine.MaxMapCount.Get()
	r.Used, r.Limit = record.Float(f.Mappings), record.SomeIf(float64(v), ok)
	r.Consequence = "ENOMEM: mmap, mprotect and new threads fail"
	r.Raise = sysctl("vm.max_map_count", v)
	if !ok {
		r.Why = "vm.max_map_count can't be read"
	}
	return unknownIf(r, f.Denied)
}

// userRows are the limits that all processes of a user share.
func userRows(f *Facts) []row {
	if f.KernelThread || !f.User.Read {
		return nil
	}
	var out []row
	real, _ := f.RealUID.Get()
	scope := userScope(real)
	if l := f.Rlimits[nproc]; l.Known {
		out = append(out, userRlimit(f, nproc, scope, l.Soft))
	}
	if l := f.Rlimits[sigpending]; l.Known {
		out = append(out, userRlimit(f, sigpending, scope, l.Soft))
	}
	effective, _ := f.EffectiveUID.Get()
	scope = userScope(effective)
	out = append(out,
		inotifyRow(f, "inotify_watches", "fs.inotify.max_user_watches", scope, "watches", f.User.InotifyWatches,
			f.Machine.InotifyWatches, "ENOSPC: inotify_add_watch fails"),
		inotifyRow(f, "inotify_instances", "fs.inotify.max_user_instances", scope, "instances", f.User.InotifyInstances,
			f.Machine.InotifyInstances, "EMFILE: inotify_init fails"))
	if l := f.Rlimits[nproc]; l.Known {
		out = append(out, userRlimit(f, nproc, userScope(real)+", hard", l.Hard))
	}
	return out
}

func userScope(uid uint32) string { return fmt.Sprintf("uid %d", uid) }

func userRlimit(f *Facts, i int, scope string, limit uint64) row {
	k := &rlimits[i]
	r := newRow(k.resource, k.name, scope, k.counts)
	r.Limit = limitOf(limit)
	if i == nproc {
		r.Used = record.Float(f.User.Tasks)
		r.Consequence = "EAGAIN: fork, clone and new threads fail"
		if f.exemptFromNPROC() {
			r.Limit, r.Consequence = record.Opt[float64]{}, "none: root, CAP_SYS_RESOURCE and CAP_SYS_ADMIN are exempt"
		}
	} else {
		r.Used = record.Float(f.Signals)
		r.Consequence = "EAGAIN: sigqueue and timer_create fail"
	}
	if r.Limit.Known() {
		r.Raise = raiseRlimit(f, i)
	}
	return unknownIf(r, f.User.Why)
}

// exemptFromNPROC is the exception of copy_process in kernel/fork.c.
func (f *Facts) exemptFromNPROC() bool {
	uid, ok := f.RealUID.Get()
	return ok && uid == 0 || f.may(capSysResource, capSysAdmin)
}

func inotifyRow(f *Facts, resource, name, scope, unit string, used, limit sample.Opt[uint64], consequence string) row {
	r := newRow(resource, name, scope, unit)
	v, ok := limit.Get()
	r.Used, r.Limit = record.Float(used), record.SomeIf(float64(v), ok)
	r.Consequence, r.Raise = consequence, sysctl(name, v)
	if !ok {
		r.Why = name + " can't be read"
	}
	return unknownIf(r, f.User.InotifyWhy)
}
