package aggregate

import (
	"slices"
	"time"

	"rmagent/internal/sample"
)

// Table keeps every process from one snapshot to the next. One goroutine uses it
// at a time.
//
// Processes live in slots that are used again. A snapshot comes mostly in the
// order of the one before, so the slot of the next process is guessed and only
// looked up where the guess is wrong: a host of idle processes costs one
// look at a flag each. A process takes half a kibibyte, and one more once its count of
// descriptors has moved. Where less than a quarter of the slots are in use, after a
// storm of processes, the table moves to half as many.
type Table struct {
	slots []Process
	ids   []sample.ID // per slot: whose it is, or was
	still []bool      // per slot: see Still
	free  []int32
	index map[sample.ID]int32
	order []int32 // slots of the last snapshot, in its order
	next  []int32
	seen  []uint64 // per slot: the update that last met it
	place []int32  // per slot: where it was in order then
	gone  []Process
	tick  uint64

	// absent are the slots of processes that an incomplete snapshot did not have,
	// which says nothing of whether they ended.
	absent, stillAbsent []int32
	files               uint64 // counts the updates that may have changed a sum of descriptors
	whole               bool   // the last snapshot had every process

	at   time.Duration // monotonic, of the last snapshot
	read time.Duration // AsRead of the last snapshot, where order is its own; else 0
}

// patience is for how many updates a process may be absent from incomplete
// snapshots before it counts as gone: a source may be incomplete for ever, where
// other users' processes are hidden from it.
const patience = 3

// NewTable returns an empty table.
func NewTable() *Table { return &Table{index: map[sample.ID]int32{}} }

// Update takes the next snapshot. Processes that it does not have are gone, where
// it misses none.
func (t *Table) Update(s *sample.Snapshot) {
	t.tick++
	sinceLast := time.Duration(0) // at the first there is none
	if t.tick > 1 {
		sinceLast = s.Monotonic - t.at
	}
	t.at = s.Monotonic
	t.next = t.next[:0]
	guess := 0
	files := false
	same := s.Before != 0 && s.Before == t.read && sinceLast > 0
	for i := range s.Processes {
		if same && s.Same[i] && t.still[t.order[i]] {
			guess = i + 1
			t.meet(t.order[i])
			continue
		}
		p := &s.Processes[i]
		slot, known := t.find(p.ID, &guess)
		if known && t.seen[slot] == t.tick {
			continue // a source that names a process twice means one process
		}
		if !known {
			slot = t.add(p)
			files = true
		} else {
			elapsed := sinceLast
			if t.seen[slot] != t.tick-1 { // the reading before is older than that
				elapsed, files = 0, true
			}
			files = t.slots[slot].advance(p, t.at, elapsed) || files
			t.still[slot] = t.slots[slot].isStill()
		}
		t.meet(slot)
	}
	if t.collect(s.Missed > 0) || files || t.whole != s.Whole() {
		t.files++
	}
	t.whole = s.Whole()
	t.order, t.next = t.next, t.order
	t.read = 0
	if len(t.order) == len(s.Processes) {
		t.read = s.AsRead
	}
	if len(t.slots) > max(4*len(t.index), fewSlots) {
		t.shrink()
	}
}

// meet notes that this snapshot has the process of a slot next.
func (t *Table) meet(slot int32) {
	t.seen[slot] = t.tick
	t.place[slot] = int32(len(t.next))
	t.next = append(t.next, slot)
}

// fewSlots are so few that they are always kept.
const fewSlots = 4096

// shrink moves the processes to the first slots of a table with as much room again.
func (t *Table) shrink() {
	n := len(t.index)
	slots, seen, place := make([]Process, n, 2*n), make([]uint64, n, 2*n), make([]int32, n, 2*n)
	ids, still := make([]sample.ID, n, 2*n), make([]bool, n, 2*n)
	index := make(map[sample.ID]int32, 2*n) // a map keeps the room that it once had
	moved := int32(0)
	move := func(from []int32) []int32 {
		to := make([]int32, 0, 2*n)
		for _, slot := range from {
			slots[moved], seen[moved], place[moved] = t.slots[slot], t.seen[slot], t.place[slot]
			ids[moved], still[moved] = t.ids[slot], t.still[slot]
			index[ids[moved]] = moved
			to = append(to, moved)
			moved++
		}
		return to
	}
	t.order, t.absent = move(t.order), move(t.absent)
	t.slots, t.seen, t.place, t.index = slots, seen, place, index
	t.ids, t.still = ids, still
	t.free, t.next, t.stillAbsent, t.gone = nil, nil, nil, slices.Clone(t.gone)
}

// find looks for a process where the last snapshot had it: guess is the place in
// its order behind the process that was found before.
func (t *Table) find(id sample.ID, guess *int) (slot int32, known bool) {
	for look := *guess; look < len(t.order) && look < *guess+4; look++ { // a few may be gone
		if slot = t.order[look]; t.ids[slot] == id {
			*guess = look + 1
			return slot, true
		}
	}
	if slot, known = t.index[id]; known {
		*guess = int(t.place[slot]) + 1
	}
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
		t.place = append(t.place, 0)
		t.ids = append(t.ids, sample.ID{})
		t.still = append(t.still, false)
	}
	t.ids[slot], t.still[slot] = p.ID, false
	t.slots[slot] = Process{Process: *p, Renew: true, Active: true, born: t.at}
	t.index[p.ID] = slot
	return slot
}

// collect frees the slots of the processes that this snapshot did not have, unless
// it may have missed them. It tells whether any process left the order.
func (t *Table) collect(incomplete bool) (left bool) {
	if n := len(t.gone); cap(t.gone) > max(4*n, fewSlots) {
		t.gone = nil // of a storm that is over
	}
	clear(t.gone)
	t.gone = t.gone[:0]
	t.stillAbsent = t.stillAbsent[:0]
	for _, slots := range [...][]int32{t.order, t.absent} {
		for _, slot := range slots {
			switch {
			case t.seen[slot] == t.tick:
				continue
			case incomplete && t.tick-t.seen[slot] <= patience:
				t.stillAbsent = append(t.stillAbsent, slot)
			default:
				t.bury(slot)
			}
			left = true
		}
	}
	t.absent, t.stillAbsent = t.stillAbsent, t.absent
	return left
}

func (t *Table) bury(slot int32) {
	p := &t.slots[slot]
	t.gone = append(t.gone, *p)
	delete(t.index, p.ID)
	*p = Process{}
	t.ids[slot] = sample.ID{}
	t.free = append(t.free, slot)
}

// Len returns how many processes there are.
func (t *Table) Len() int { return len(t.order) }

// At returns the i-th process of the last snapshot, to be read and its Identity
// set, until the next Update.
func (t *Table) At(i int) *Process { return &t.slots[t.order[i]] }

// ID returns who the i-th process of the last snapshot is.
func (t *Table) ID(i int) sample.ID { return t.ids[t.order[i]] }

// Still tells of the i-th process of the last snapshot that nothing of it moved since the
// reading before, nor had, that it needs no Identity, and that its descriptors never moved:
// who looks for any of these need not look at it.
func (t *Table) Still(i int) bool { return t.still[t.order[i]] }

// Moved tells whether the i-th process of the last snapshot is Active.
func (t *Table) Moved(i int) bool { return !t.Still(i) && t.At(i).Active }

// Find returns a process by its identity, or nil. One that an incomplete snapshot
// did not have is as it was read last.
func (t *Table) Find(id sample.ID) *Process {
	slot, ok := t.index[id]
	if !ok {
		return nil
	}
	t.still[slot] = false // the caller may note something
	return &t.slots[slot]
}

// Gone returns the processes that turned out to be gone in the last snapshot, as
// they were read last.
func (t *Table) Gone() []Process { return t.gone }

// Monotonic returns when the last snapshot began.
func (t *Table) Monotonic() time.Duration { return t.at }
