package loader

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rmagent/internal/clock"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Kinds and flags of a record: enum event_kind and event_flag of bpf/events.h.
const (
	eventExit = 1
	eventOOM  = 2

	flagCPUFinal     = 1
	flagParent       = 2
	flagKernelThread = 8
	flagRSS          = 16
)

// eventDecoder turns the ring's records into sample.Events.
type eventDecoder struct {
	dst      *sample.Events
	boot     time.Time // the wall clock at CLOCK_BOOTTIME 0; zero: not asked yet
	pageSize uint64
	net, fds bool // their hooks run

	bootOffset time.Duration // of the reader's time namespace
}

func (e *Events) newEventDecoder(dst *sample.Events) *eventDecoder {
	return &eventDecoder{
		dst:      dst,
		pageSize: uint64(os.Getpagesize()),
		net:      e.Attached("net"),
		fds:      e.Attached("fds"),

		bootOffset: e.bootOffset,
	}
}

// decode adds one record; it reports whether the record could be read.
func (d *eventDecoder) decode(b []byte) bool {
	h := at[eventsEventHead](b)
	if h == nil {
		return false
	}
	switch h.Kind {
	case eventExit:
		return d.exit(b)
	case eventOOM:
		return d.oom(b)
	}
	return false
}

func (d *eventDecoder) exit(b []byte) bool {
	r := at[eventsExitRecord](b)
	if r == nil || !d.hasExe(b, unsafe.Sizeof(*r), &r.H) {
		return false
	}
	d.dst.Exits = append(d.dst.Exits, sample.Exit{})
	x := &d.dst.Exits[len(d.dst.Exits)-1]
	d.head(&x.P, &r.H)
	d.totals(&x.P, r)
	if r.H.Flags&flagParent != 0 {
		x.P.NSPID = r.NsPid
		x.P.Known |= sample.SetOf(sample.NSPID)
		x.Time = d.time(r.H.Time)
	}
	x.CPUFinal = r.H.Flags&flagCPUFinal != 0
	status := unix.WaitStatus(r.Status)
	x.CoreDumped = status.CoreDump()
	if status.Signaled() {
		x.Signal = record.Some(int(status.Signal()))
	} else {
		x.Code = record.Some(status.ExitStatus())
	}
	x.Exe = d.exe(b, unsafe.Sizeof(*r), &r.H)
	return true
}

func (d *eventDecoder) totals(p *sample.Process, r *eventsExitRecord) {
	p.RSSPeakBytes = r.PeakPages * d.pageSize
	p.MinorFaults, p.MajorFaults = r.MinFlt, r.MajFlt
	p.CPUNanos = r.Cpu
	p.CPUUserNanos, p.CPUSystemNanos = split(r.Cpu, r.Utime, r.Stime)
	p.IOReadBytes, p.IOWrittenBytes = r.Rchar, r.Wchar
	p.DiskReadBytes, p.DiskWrittenBytes = r.ReadBytes, r.WriteBytes
	p.Known |= sample.SetOf(sample.RSSPeak, sample.MinorFaults, sample.MajorFaults, sample.CPU, sample.CPUUser,
		sample.CPUSystem, sample.IORead, sample.IOWritten, sample.DiskRead, sample.DiskWritten)
	if d.net {
		p.NetReceivedBytes, p.NetSentBytes = r.N.NetReceived, r.N.NetSent
		p.Known |= sample.SetOf(sample.NetReceived, sample.NetSent)
	}
	if d.fds && r.N.FdUnsure == 0 {
		p.FDOpened, p.FDClosed = r.N.FdOpened, r.N.FdClosed
		p.Known |= sample.SetOf(sample.FDOpened, sample.FDClosed)
	}
}

func (d *eventDecoder) oom(b []byte) bool {
	r := at[eventsOomRecord](b)
	if r == nil {
		return false
	}
	o := sample.OOM{Time: d.time(r.H.Time)}
	d.head(&o.P, &r.H)
	o.P.RSSPeakBytes = r.PeakPages * d.pageSize
	o.P.Known |= sample.SetOf(sample.RSSPeak)
	if r.H.Flags&flagRSS != 0 {
		o.P.RSSAnonBytes = r.AnonPages * d.pageSize
		o.P.RSSFileBytes = r.FilePages * d.pageSize
		o.P.RSSShmemBytes = r.ShmemPages * d.pageSize
		o.P.SwapBytes = r.SwapPages * d.pageSize
		o.P.VirtualBytes = r.TotalVmPages * d.pageSize
		o.P.Known |= sample.RSS | sample.SetOf(sample.Swap, sample.Virtual)
	}
	d.dst.OOMs = append(d.dst.OOMs, o)
	return true
}

func (d *eventDecoder) head(p *sample.Process, h *eventsEventHead) {
	p.ID = sample.ID{PID: h.Pid, StartTicks: startTicks(h.Start, d.bootOffset)}
	p.Comm = *(*sample.Comm)(unsafe.Pointer(&h.Comm))
	p.KernelThread = h.Flags&flagKernelThread != 0
	p.UID, p.ExecID = h.Uid, h.ExecId
	p.Known |= sample.SetOf(sample.UID, sample.ExecID)
	if h.CgroupId != 0 {
		p.CgroupID = h.CgroupId
		p.Known |= sample.SetOf(sample.CgroupID)
	}
	if h.Flags&flagParent != 0 {
		p.PPID = h.Ppid
		p.Known |= sample.SetOf(sample.PPID)
	}
}

func (d *eventDecoder) time(boottime uint64) time.Time {
	if d.boot.IsZero() {
		d.boot = time.Now().Add(-clock.Boottime())
	}
	return d.boot.Add(time.Duration(boottime) + d.bootOffset)
}

func (d *eventDecoder) hasExe(b []byte, size uintptr, h *eventsEventHead) bool {
	return len(b) >= int(size)+int(h.ExeLen)
}

// exe keeps a record's exe; what was kept before stays valid when dst.Exes moves.
func (d *eventDecoder) exe(b []byte, size uintptr, h *eventsEventHead) []byte {
	start := len(d.dst.Exes)
	d.dst.Exes = append(d.dst.Exes, b[size:int(size)+int(h.ExeLen)]...)
	return d.dst.Exes[start:len(d.dst.Exes):len(d.dst.Exes)]
}
