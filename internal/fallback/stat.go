package fallback

import (
	"bytes"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// Bits of task_struct.flags, as stat prints them (include/linux/sched.h).
const (
	workqueueWorker = 0x00000020 // PF_WQ_WORKER
	kernelThread    = 0x00200000 // PF_KTHREAD
)

const nanosPerTick = 1e9 / sample.UserHz

// parseStat reads /proc/PID/stat. The name stands in parentheses and may hold
// any byte, also ") R 1": its end is the last parenthesis.
func parseStat(b []byte, p *sample.Process) bool {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open || len(b) < end+4 || b[end+1] != ' ' {
		return false
	}
	name := b[open+1 : end]
	state := b[end+2]
	// v[i] is field i+4 of proc(5), up to 23, vsize.
	var v [20]uint64
	rest := b[end+3:]
	for i := range v {
		var word []byte
		word, rest = kfile.Word(rest)
		if signed := word; len(signed) > 1 && signed[0] == '-' {
			word = signed[1:] // tty_nr, tpgid, priority, nice: not used
		}
		var ok bool
		if v[i], ok = kfile.Uint(word); !ok {
			return false
		}
	}
	const ppid, flags, minflt, majflt, utime, stime, threads, start, vsize = 0, 5, 6, 8, 10, 11, 16, 18, 19
	p.Comm = sample.MakeComm(ownName(name, v[flags]))
	p.KernelThread = v[flags]&kernelThread != 0
	p.State = state
	p.PPID = int32(v[ppid])
	p.Threads = v[threads]
	p.MinorFaults, p.MajorFaults = v[minflt], v[majflt]
	p.CPUUserNanos, p.CPUSystemNanos = v[utime]*nanosPerTick, v[stime]*nanosPerTick
	p.CPUNanos = p.CPUUserNanos + p.CPUSystemNanos
	p.ID.StartTicks = v[start]
	p.VirtualBytes = v[vsize]
	p.Known |= statFields
	return true
}

// ownName undoes what the kernel adds to the name of a workqueue's worker:
// "+" or "-" and what it works on (wq_worker_comm in kernel/workqueue.c).
func ownName(name []byte, flags uint64) []byte {
	if flags&workqueueWorker == 0 || bytes.HasPrefix(name, []byte("kworker/R-")) {
		return name
	}
	if i := bytes.IndexAny(name, "+-"); i >= 0 {
		return name[:i]
	}
	return name
}
