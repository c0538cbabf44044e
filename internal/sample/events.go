package sample

import "time"

// Exit is a process that ended. P has its final totals; where P.Known lacks a
// field, nobody knows it any more.
type Exit struct {
	P          Process
	Time       time.Time // of its last thread's exit; zero if unknown
	Code       Opt[int]  // null if a signal ended it
	Signal     Opt[int]
	CoreDumped bool
	CPUFinal   bool   // false: it was not reaped in time for its last accounting
	Exe        []byte // the program it ran last; empty if unknown. Valid until the next Drain
}

// OOM is a process that the OOM killer chose, with what it had then.
type OOM struct {
	P    Process
	Time time.Time
}

// Events is what happened between two readings, in the order of its happening
// within each kind. A source reuses its memory: it is valid until the next Drain.
type Events struct {
	Exits []Exit
	OOMs  []OOM
	Exes  []byte // what Exe points into
}

// Reset empties e for its next use and keeps its memory.
func (e *Events) Reset() {
	*e = Events{Exits: e.Exits[:0], OOMs: e.OOMs[:0], Exes: e.Exes[:0]}
}

// Tally is the balance of one kind of event: Seen = Delivered + Lost + Pending
// whenever nothing happens meanwhile. Every number but their sum is counted for
// itself.
type Tally struct {
	Seen      uint64 // by the kernel
	Delivered uint64 // by Drain
	Lost      uint64 // the ring buffer was full
	Pending   uint64 // in the ring buffer, or not yet to be told: an unreaped process
}

// Balance is everything that an event source saw, and could not keep.
type Balance struct {
	Exits, OOMs Tally

	StateFailed    uint64 // processes for whose counters there was no memory
	HoldFailed     uint64 // processes that are told of only when they are reaped: their table was full
	SpillFailed    uint64 // events that found the table of headless processes full
	Stranded       uint64 // processes that lost counters when another thread called exec
	UncountedBytes uint64 // network bytes that found no counter
	UncountedFDs   uint64 // descriptors that found no counter
	Malformed      uint64 // records that could not be read

	SpillEntries  uint64 // headless processes
	SpillCapacity uint64
	RingBytes     uint64 // waiting in the ring buffer
	RingCapacity  uint64
}

// Sum is the balance over all kinds of event.
func (b *Balance) Sum() (t Tally) {
	for _, k := range [...]*Tally{&b.Exits, &b.OOMs} {
		t.Seen += k.Seen
		t.Delivered += k.Delivered
		t.Lost += k.Lost
		t.Pending += k.Pending
	}
	return t
}
