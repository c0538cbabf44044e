package loader

import "rmagent/internal/sample"

// splits remembers how each process's CPU time was split into user and system
// time. The tick samples the split, so the exact total shared out by it may take
// time back from one side; the kernel remembers what it last said, too
// (kernel/sched/cputime.c, cputime_adjust).
//
// Every 32nd reading of all processes fills the other table, so that the ended are
// forgotten.
type splits struct {
	now, next splitTable
	readings  uint
}

const turnEvery = 32

// turning says that every process of this reading is to be remembered, not only those
// in which something changed.
func (s *splits) turning() bool { return s.readings%turnEvery == turnEvery-1 }

// remember notes what a reading of all says of a process.
func (s *splits) remember(p *sample.Process) {
	switch {
	case !p.Known.Has(sample.CPU):
	case s.turning():
		s.next.remember(p)
	default:
		s.now.remember(p)
	}
}

// rememberSome notes what another reading says.
func (s *splits) rememberSome(p *sample.Process) {
	if p.Known.Has(sample.CPU) {
		s.now.remember(p)
	}
}

// end ends a reading of all.
func (s *splits) end() {
	if s.turning() {
		s.turn()
	}
	s.readings++
}

// monotonic moves user and system, which add up to the total, so that neither is
// less than it was.
func (s *splits) monotonic(p *sample.Process) {
	e := s.now.find(p.ID)
	if e == nil || e.id != p.ID || e.user+e.system > p.CPUNanos {
		return
	}
	p.CPUSystemNanos = max(p.CPUSystemNanos, e.system)
	p.CPUUserNanos = p.CPUNanos - p.CPUSystemNanos
	if p.CPUUserNanos < e.user {
		p.CPUUserNanos = e.user
		p.CPUSystemNanos = p.CPUNanos - e.user
	}
}

// fewSplits are so few that their memory is always kept.
const fewSplits = 1 << 13

// turn forgets every process that is not in next.
func (s *splits) turn() {
	s.now, s.next = s.next, s.now
	if len(s.next.entries) > max(16*s.now.used, fewSplits) {
		s.next.entries = nil // of a storm of processes that is over
	}
	clear(s.next.entries)
	s.next.used = 0
}

// splitTable is a hash table with linear probing, at most half full.
type splitTable struct {
	entries []splitEntry
	used    int
}

type splitEntry struct {
	id           sample.ID // PID 0: empty
	user, system uint64
}

// remember notes what is said of a process.
func (t *splitTable) remember(p *sample.Process) {
	if 2*(t.used+1) > len(t.entries) {
		t.grow()
	}
	e := t.find(p.ID)
	if e.id.PID == 0 {
		t.used++
	}
	*e = splitEntry{p.ID, p.CPUUserNanos, p.CPUSystemNanos}
}

func (t *splitTable) grow() {
	old := t.entries
	t.entries = make([]splitEntry, max(512, 2*len(old)))
	for i := range old {
		if old[i].id.PID != 0 {
			*t.find(old[i].id) = old[i]
		}
	}
}

// find returns the entry of a process, or the empty one where it belongs; nil in an
// empty table.
func (t *splitTable) find(id sample.ID) *splitEntry {
	if len(t.entries) == 0 {
		return nil
	}
	mask := uint32(len(t.entries) - 1)
	for i := uint32(id.PID) * 0x9e3779b1 >> 8; ; i++ {
		if e := &t.entries[i&mask]; e.id.PID == 0 || e.id == id {
			return e
		}
	}
}
