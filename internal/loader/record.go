package loader

import (
	"math/bits"
	"time"
	"unsafe"

	"rmagent/internal/sample"
)

// The bits of scanProcessRecord.Flags: REC_* of bpf/scan.h.
const (
	recKthread = 1 << iota
	recMM
	recFiles
	recCPUTorn
	recFDTorn
	recTablesMore
	recThreadsMore
	recCgroup
	recNSPID
	recEvents
)

// Task states (include/linux/sched.h).
const (
	taskIdle       = 0x402 // TASK_UNINTERRUPTIBLE and TASK_NOLOAD
	taskRTLockWait = 0x1000
	taskFrozen     = 0x8000
	taskReport     = 0x7f
	stateLetters   = "RSDTtXZP"
)

// Fields that a record may carry, by what has to be true of it.
var (
	fieldsAlways = sample.SetOf(sample.PPID, sample.UID, sample.State, sample.ExecID,
		sample.Threads, sample.FDLimit, sample.FDHardLimit)
	fieldsOfThreads = sample.SetOf(sample.MinorFaults, sample.MajorFaults, sample.CPU,
		sample.CPUUser, sample.CPUSystem, sample.RunDelay, sample.DiskRead, sample.DiskWritten,
		sample.IORead, sample.IOWritten)
	fieldsOfFiles  = sample.SetOf(sample.FDTable, sample.FDOpen)
	fieldsOfEvents = sample.SetOf(sample.NetReceived, sample.NetSent, sample.FDOpened, sample.FDClosed)
	fieldsOfMemory = sample.RSS | sample.SetOf(sample.RSSPeak, sample.Swap, sample.Virtual)
)

// recordDecoder turns the kernel's records into facts.
type recordDecoder struct {
	pageBytes  uint64
	bootOffset time.Duration   // of the reader's time namespace, which /proc/PID/stat adds, too
	known      sample.FieldSet // what this kernel has at all
}

func (d *recordDecoder) id(r *scanProcessRecord) sample.ID {
	return sample.ID{
		PID: int32(r.Pid),
		// nsec_to_clock_t, as /proc/PID/stat divides
		StartTicks: uint64(int64(r.StartBoottimeNs)+int64(d.bootOffset)) / (1e9 / sample.UserHz),
	}
}

func (d *recordDecoder) decode(r *scanProcessRecord, p *sample.Process) {
	*p = sample.Process{
		ID:           d.id(r),
		Comm:         *(*sample.Comm)(unsafe.Pointer(&r.Comm)),
		KernelThread: r.Flags&recKthread != 0,
		State:        stateLetter(r.State),
		PPID:         int32(r.Ppid),
		UID:          r.Uid,
		ExecID:       r.ExecId,
		Threads:      r.Threads,
		FDLimit:      r.FdLimit,
		FDHardLimit:  r.FdHardLimit,
		Known:        fieldsAlways,
	}
	p.Comm[len(p.Comm)-1] = 0
	if r.Flags&recNSPID != 0 {
		p.NSPID = int32(r.NsPid)
		p.Known |= 1 << sample.NSPID
	}
	if r.Flags&recCgroup != 0 {
		p.CgroupID = r.CgroupId
		p.Known |= 1 << sample.CgroupID
	}
	if r.Flags&(recCPUTorn|recThreadsMore) == 0 {
		d.decodeThreads(r, p)
	}
	d.decodeFiles(r, p)
	d.decodeMemory(r, p)
	if r.Flags&recEvents != 0 {
		p.NetReceivedBytes = r.NetReceived
		p.NetSentBytes = r.NetSent
		p.FDOpened = r.FdOpened
		p.FDClosed = r.FdClosed
		p.Known |= fieldsOfEvents
	}
	p.Known &= d.known
}

func (d *recordDecoder) decodeThreads(r *scanProcessRecord, p *sample.Process) {
	p.MinorFaults = r.MinorFaults
	p.MajorFaults = r.MajorFaults
	p.CPUNanos = r.CpuNs
	p.CPUUserNanos, p.CPUSystemNanos = split(r.CpuNs, r.UtimeNs, r.StimeNs)
	p.RunDelayNanos = r.RunDelayNs
	p.DiskReadBytes = r.ReadBytes
	p.DiskWrittenBytes = r.WriteBytes
	p.IOReadBytes = r.ReadChars
	p.IOWrittenBytes = r.WriteChars
	p.Known |= fieldsOfThreads
}

// decodeFiles knows a count where every table was read whole. A process without
// any table has none open: a kernel thread shares init's, which is empty, and a
// zombie has given its own back.
func (d *recordDecoder) decodeFiles(r *scanProcessRecord, p *sample.Process) {
	if r.Flags&(recFDTorn|recTablesMore|recThreadsMore) != 0 {
		return
	}
	if r.Files[1] == 0 { // one table, which others may share as a whole
		p.FDTable = r.Files[0]
	}
	p.FDOpen = uint64(r.FdOpen)
	p.Known |= fieldsOfFiles
}

// decodeMemory knows zeros, too: a kernel thread or a zombie has no memory. Where
// the address space went away while it was read, the next scan will tell.
func (d *recordDecoder) decodeMemory(r *scanProcessRecord, p *sample.Process) {
	if r.Flags&recMM == 0 && r.Flags&recKthread == 0 && p.State != 'Z' && p.State != 'X' {
		return
	}
	p.RSSFileBytes = r.RssFilePages * d.pageBytes
	p.RSSAnonBytes = r.RssAnonPages * d.pageBytes
	p.RSSShmemBytes = r.RssShmemPages * d.pageBytes
	p.RSSPeakBytes = r.PeakPages * d.pageBytes
	p.SwapBytes = r.SwapPages * d.pageBytes
	p.VirtualBytes = r.VirtualPages * d.pageBytes
	p.Known |= fieldsOfMemory
}

// split shares the exact CPU time out by what the tick sampled, as the kernel does
// for /proc (kernel/sched/cputime.c, cputime_adjust).
func split(total, user, system uint64) (u, s uint64) {
	switch {
	case system == 0:
		return total, 0
	case user == 0:
		return 0, total
	}
	hi, lo := bits.Mul64(system, total)
	if sum := user + system; hi < sum {
		s, _ = bits.Div64(hi, lo, sum)
	}
	s = min(s, total)
	return total - s, s
}

// stateLetter is get_task_state of fs/proc/array.c.
func stateLetter(state uint32) byte {
	switch {
	case state&(taskRTLockWait|taskFrozen) != 0:
		return 'D' // so the kernel says, rather than to show new letters
	case state&taskIdle == taskIdle:
		return 'I'
	}
	return stateLetters[bits.Len32(state&taskReport)]
}
