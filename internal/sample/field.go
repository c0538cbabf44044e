package sample

import "math/bits"

// Field names one fact of a Process that a source may or may not know.
type Field uint8

// The fields.
const (
	PPID Field = iota
	NSPID
	UID
	State
	ExecID
	CgroupID
	Threads
	FDTable
	FDOpen
	FDLimit
	FDHardLimit
	RSSAnon
	RSSFile
	RSSShmem
	RSSPeak
	Swap
	Virtual
	MinorFaults
	MajorFaults
	CPU
	CPUUser
	CPUSystem
	RunDelay
	DiskRead
	DiskWritten
	IORead
	IOWritten
	NetReceived
	NetSent
	FDOpened
	FDClosed
	NumFields
)

// FieldSet is a set of fields.
type FieldSet uint64

// AllFields has every field.
const AllFields FieldSet = 1<<NumFields - 1

// RSS is the fields that RSSBytes sums.
const RSS = FieldSet(1<<RSSAnon | 1<<RSSFile | 1<<RSSShmem)

// SetOf returns the set of fs.
func SetOf(fs ...Field) (s FieldSet) {
	for _, f := range fs {
		s |= 1 << f
	}
	return s
}

// Has reports whether f is in s.
func (s FieldSet) Has(f Field) bool { return s>>f&1 != 0 }

// HasAll reports whether all of t is in s.
func (s FieldSet) HasAll(t FieldSet) bool { return s&t == t }

// Len returns the number of fields in s.
func (s FieldSet) Len() int { return bits.OnesCount64(uint64(s)) }

// Kind says how a field's values at two instants relate.
type Kind uint8

// The kinds of field.
const (
	Label   Kind = iota // identifies; has no arithmetic
	Gauge               // may go up and down
	Counter             // only grows while the process lives
)

// Unit is what a field's number counts.
type Unit uint8

// The units of Field.Get.
const (
	None  Unit = iota
	Count      // things
	Bytes
	Nanoseconds
)

// Info describes a field: the one table that rates, limits, metrics and
// documentation are made from.
type Info struct {
	Name string // in records; for a Counter, without its _total and unit
	Kind Kind
	Unit Unit
	At   func(*Process) *uint64 // nil for labels that are not a uint64
}

// Info returns the description of f.
func (f Field) Info() *Info { return &infos[f] }

// String returns the field's name.
func (f Field) String() string { return infos[f].Name }

var infos = [NumFields]Info{
	PPID:        {"ppid", Label, None, nil},
	NSPID:       {"ns_pid", Label, None, nil},
	UID:         {"uid", Label, None, nil},
	State:       {"state", Label, None, nil},
	ExecID:      {"exec_id", Label, None, func(p *Process) *uint64 { return &p.ExecID }},
	CgroupID:    {"cgroup_id", Label, None, func(p *Process) *uint64 { return &p.CgroupID }},
	Threads:     {"threads", Gauge, Count, func(p *Process) *uint64 { return &p.Threads }},
	FDTable:     {"fd_table", Label, None, func(p *Process) *uint64 { return &p.FDTable }},
	FDOpen:      {"fd_open", Gauge, Count, func(p *Process) *uint64 { return &p.FDOpen }},
	FDLimit:     {"fd_limit", Gauge, Count, func(p *Process) *uint64 { return &p.FDLimit }},
	FDHardLimit: {"fd_hard_limit", Gauge, Count, func(p *Process) *uint64 { return &p.FDHardLimit }},
	RSSAnon:     {"rss_anon", Gauge, Bytes, func(p *Process) *uint64 { return &p.RSSAnonBytes }},
	RSSFile:     {"rss_file", Gauge, Bytes, func(p *Process) *uint64 { return &p.RSSFileBytes }},
	RSSShmem:    {"rss_shmem", Gauge, Bytes, func(p *Process) *uint64 { return &p.RSSShmemBytes }},
	RSSPeak:     {"rss_peak", Gauge, Bytes, func(p *Process) *uint64 { return &p.RSSPeakBytes }},
	Swap:        {"swap", Gauge, Bytes, func(p *Process) *uint64 { return &p.SwapBytes }},
	Virtual:     {"virtual", Gauge, Bytes, func(p *Process) *uint64 { return &p.VirtualBytes }},
	MinorFaults: {"minor_faults", Counter, Count, func(p *Process) *uint64 { return &p.MinorFaults }},
	MajorFaults: {"major_faults", Counter, Count, func(p *Process) *uint64 { return &p.MajorFaults }},
	CPU:         {"cpu", Counter, Nanoseconds, func(p *Process) *uint64 { return &p.CPUNanos }},
	CPUUser:     {"cpu_user", Counter, Nanoseconds, func(p *Process) *uint64 { return &p.CPUUserNanos }},
	CPUSystem:   {"cpu_system", Counter, Nanoseconds, func(p *Process) *uint64 { return &p.CPUSystemNanos }},
	RunDelay:    {"run_delay", Counter, Nanoseconds, func(p *Process) *uint64 { return &p.RunDelayNanos }},
	DiskRead:    {"disk_read", Counter, Bytes, func(p *Process) *uint64 { return &p.DiskReadBytes }},
	DiskWritten: {"disk_written", Counter, Bytes, func(p *Process) *uint64 { return &p.DiskWrittenBytes }},
	IORead:      {"io_read", Counter, Bytes, func(p *Process) *uint64 { return &p.IOReadBytes }},
	IOWritten:   {"io_written", Counter, Bytes, func(p *Process) *uint64 { return &p.IOWrittenBytes }},
	NetReceived: {"net_received", Counter, Bytes, func(p *Process) *uint64 { return &p.NetReceivedBytes }},
	NetSent:     {"net_sent", Counter, Bytes, func(p *Process) *uint64 { return &p.NetSentBytes }},
	FDOpened:    {"fd_opened", Counter, Count, func(p *Process) *uint64 { return &p.FDOpened }},
	FDClosed:    {"fd_closed", Counter, Count, func(p *Process) *uint64 { return &p.FDClosed }},
}
