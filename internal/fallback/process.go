package fallback

import (
	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// The files, and the fields that each is read for.
var (
	statName      = kfile.MakeName("stat")
	statusName    = kfile.MakeName("status")
	schedstatName = kfile.MakeName("schedstat")
	ioName        = kfile.MakeName("io")
	limitsName    = kfile.MakeName("limits")
	fdName        = kfile.MakeName("fd")
	taskName      = kfile.MakeName("task")
)

const (
	statFields = sample.FieldSet(1<<sample.PPID | 1<<sample.State | 1<<sample.Threads | 1<<sample.Virtual |
		1<<sample.MinorFaults | 1<<sample.MajorFaults | 1<<sample.CPU | 1<<sample.CPUUser | 1<<sample.CPUSystem)
	memoryFields    = sample.RSS | 1<<sample.RSSPeak | 1<<sample.Swap
	statusFields    = memoryFields | 1<<sample.NSPID | 1<<sample.UID
	schedstatFields = sample.FieldSet(1<<sample.CPU | 1<<sample.RunDelay)
	ioFields        = sample.FieldSet(1<<sample.DiskRead | 1<<sample.DiskWritten | 1<<sample.IORead | 1<<sample.IOWritten)
	limitFields     = sample.FieldSet(1<<sample.FDLimit | 1<<sample.FDHardLimit)
	taskFields      = memoryFields | 1<<sample.Virtual | 1<<sample.FDOpen    // a dead leader has none
	threadFields    = sample.FieldSet(1<<sample.RunDelay | 1<<sample.FDOpen) // summed over threads
)

// readProcess fills p. Every file is opened relative to one descriptor of
// /proc/PID, which the kernel ties to the process, not to its number: after a
// reuse it answers ESRCH.
func (r *Reader) readProcess(pid int32, want sample.FieldSet, p *sample.Process) unix.Errno {
	r.name = kfile.AppendPID(r.name[:0], pid)
	dir, errno := kfile.OpenDir(r.root, r.name)
	if errno != 0 {
		return errno
	}
	defer kfile.Close(dir)

	p.ID.PID = pid
	r.readLimits(dir, want, p)
	if errno := r.readStat(dir, p); errno != 0 {
		return errno
	}
	if want&schedstatFields != 0 {
		r.readSchedstat(dir, p)
	}
	if want&ioFields != 0 {
		if b, errno := kfile.Read(dir, ioName, kfile.Whole, &r.text); errno == 0 {
			parseIO(b, p)
		}
	}
	return r.readOwned(dir, want, p)
}

func (r *Reader) readStat(dir int, p *sample.Process) unix.Errno {
	b, errno := kfile.Read(dir, statName, kfile.Whole, &r.text)
	if errno != 0 {
		return errno
	}
	if !parseStat(b, p) {
		return unix.EINVAL
	}
	return 0
}

// readSchedstat raises the CPU time to what the leader is known to have run.
// Ticks cut off up to 20 ms; a leader's own time never exceeds the process's. So
// the larger is nearer, exact while the process never had another thread, and
// only grows.
func (r *Reader) readSchedstat(dir int, p *sample.Process) {
	if !r.schedstat {
		return
	}
	b, errno := kfile.Read(dir, schedstatName, kfile.Whole, &r.text)
	if errno != 0 {
		return
	}
	ran, waited, ok := parseSchedstat(b)
	if !ok {
		return
	}
	p.CPUNanos = max(p.CPUNanos, r.leaderRan(p.ID, ran))
	p.RunDelayNanos = waited
	if p.Threads == 1 {
		p.Known |= 1 << sample.RunDelay
	}
}

// readLimits comes before any file is read: that the file then answers proves
// that the number was still this process's when prlimit looked it up.
func (r *Reader) readLimits(dir int, want sample.FieldSet, p *sample.Process) {
	if want&limitFields == 0 {
		return
	}
	if r.sameNamespace {
		var l unix.Rlimit
		if errno := prlimit(p.ID.PID, unix.RLIMIT_NOFILE, &l); errno == 0 {
			p.FDLimit, p.FDHardLimit = l.Cur, l.Max
			p.Known |= limitFields
			return
		}
	}
	if b, errno := kfile.Read(dir, limitsName, kfile.Whole, &r.text); errno == 0 {
		parseLimits(b, p)
	}
}

// readOwned reads what a task owns apart from its thread group: its memory and
// its descriptors. A leader that has exited owns neither, while its threads
// still do, so a living thread stands in for it.
func (r *Reader) readOwned(dir int, want sample.FieldSet, p *sample.Process) unix.Errno {
	if want&statusFields != 0 {
		b, errno := kfile.Read(dir, statusName, kfile.Whole, &r.text)
		if errno != 0 {
			return errno
		}
		parseStatus(b, p)
	}
	owner, task := dir, p.ID.PID
	if p.State == 'Z' && p.Threads > 1 && want&taskFields != 0 {
		if d, tid := r.livingThread(dir, p.ID.PID); d >= 0 {
			defer kfile.Close(d)
			owner, task = d, tid
			r.readThreadMemory(d, p)
		}
	}
	if want.Has(sample.FDOpen) {
		if n, errno := r.countFDs(owner); errno == 0 {
			p.FDOpen = n
			p.Known |= 1 << sample.FDOpen
		}
	}
	if p.Threads > 1 && want&threadFields != 0 && (r.schedstat || r.kcmp) {
		r.readThreads(dir, task, want, p)
	}
	if p.Known.Has(sample.RunDelay) {
		p.RunDelayNanos = r.threadsWaited(p.ID, p.RunDelayNanos)
	}
	return 0
}

// readThreadMemory takes the memory's fields from the status of a thread.
func (r *Reader) readThreadMemory(thread int, p *sample.Process) {
	b, errno := kfile.Read(thread, statusName, kfile.Whole, &r.text)
	if errno != 0 {
		return
	}
	var t sample.Process
	parseStatus(b, &t)
	p.Take(&t, memoryFields)
	if b, errno := kfile.Read(thread, statName, kfile.Whole, &r.text); errno == 0 && parseStat(b, &t) {
		p.Take(&t, 1<<sample.Virtual)
	}
}

// countFDs counts the descriptors of the task whose directory dir is.
func (r *Reader) countFDs(dir int) (uint64, unix.Errno) {
	if r.fdSize {
		var st unix.Stat_t
		errno := kfile.Stat(dir, fdName, &st)
		return uint64(st.Size), errno
	}
	fd, errno := kfile.OpenDir(dir, fdName)
	if errno != 0 {
		return 0, errno
	}
	defer kfile.Close(fd)
	d := kfile.Dir{Buf: r.text}
	if errno := d.Start(fd); errno != 0 {
		return 0, errno
	}
	for n := uint64(0); ; n++ {
		if name, _, errno := d.Next(); name == nil {
			return n, errno
		}
	}
}
