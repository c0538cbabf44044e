package aggregate

import (
	"time"

	"rmagent/internal/sample"
)

// Table keeps every process from one snapshot to the next. One goroutine uses it
// at a time.
//
// Processes live in slots that are used again. A snapshot comes mostly in the
// order of the one before, so the slot of the next process is guessed and only
// looked up where the guess is wrong: a host of idle processes costs one
// comparison each.
type Table struct {
	slots []Process
	free  []int32
	index map[sample.ID]int32
	order []int32 // slots of the last snapshot, in its order
	next  []int32
	seen  []uint64 // per slot: the update that last met it
	gone  []Process
	tick  uint64

	at      time.Duration // monotonic, of the last snapshot
	elapsed time.Duration // from the one before; 0 at the first
}

// NewTable returns an empty table.
func NewTable() *Table { return &Table{index: map[sample.ID]int32{}} }

// Update takes the next snapshot. Processes that it does not have are gone.
func (t *Table) Update(s *sample.Snapshot) {
	t.tick++
	t.elapsed = 0
	if t.tick > 1 {
		t.elapsed = s.Monotonic - t.at
	}
	t.at = s.Monotonic
	t.next = t.next[:0]
	guess := 0
	for i := range s.Processes {
		p := &s.Processes[i]
		slot, known := t.find(p.ID, &guess)
		if known && t.seen[slot] == t.tick {
			continue // a source that names a process twice means one process
		}
		if !known {
			slot = t.add(p)
		} else {
			t.slots[slot].advance(p, t.at, t.elapsed)
		}
		t.seen[slot] = t.tick
		t.next = append(t.next, slot)
	}
	t.collect()
	t.order, t.next = t.next, t.order
}

// find looks for a process where the last snapshot had it: guess is the place in
// its order behind the process that was found before.
func (t *Table) find(id sample.ID, guess *int) (slot int32, known bool) {
	for look := *guess; look < len(t.order) && look < *guess+4; look++ { // a few may be gone
		if slot = t.order[look]; t.slots[slot].ID == id {
			*guess = look + 1
			return slot, true
		}
	}
	slot, known = t.index[id]
	return slot, known
}

func (t *Table) add(p *sample.Process) int32 {
	var slot int32
	if n := len(t.free); n > 0 {
		slot, t.free = t.free[n-1], t.free[:n-1]
	} else {
		slot = int32(len(t.slots))
		t.slots = append(t.slots, Process{})
		t.seen = append(t.seen, 0)
	}
	t.slots[slot] = Process{Process: *p, Renew: true, Active: true, born: t.at}
	t.index[p.ID] = slot
	return slot
}

// collect frees the slots of the processes that this snapshot did not have.
func (t *Table) collect() {
	clear(t.gone)
	t.gone = t.gone[:0]
	if len(t.order) == 0 {
		return
	}
	for _, slot := range t.order {
		if t.seen[slot] == t.tick {
			continue
		}
		p := &t.slots[slot]
		t.gone = append(t.gone, *p)
		delete(t.index, p.ID)
		*p = Process{}
		t.free = append(t.free, slot)
	}
}

// Len returns how many processes there are.
func (t *Table) Len() int { return len(t.order) }

// At returns the i-th process of the last snapshot, to be read and its Identity
// set, until the next Update.
func (t *Table) At(i int) *Process { return &t.slots[t.order[i]] }

// Find returns a process by its identity, or nil.
func (t *Table) Find(id sample.ID) *Process {
	slot, ok := t.index[id]
	if !ok {
		return nil
	}
	return &t.slots[slot]
}

// Gone returns the processes that the last snapshot no longer had, as they were in
// the one before.
func (t *Table) Gone() []Process { return t.gone }

// Monotonic returns when the last snapshot began.
func (t *Table) Monotonic() time.Duration { return t.at }

// Elapsed returns the time between the last two snapshots, 0 at the first.
func (t *Table) Elapsed() time.Duration { return t.elapsed }
