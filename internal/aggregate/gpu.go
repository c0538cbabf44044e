package aggregate

import (
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

// GPUs is what is known of the cards at one tick. A card never disappears in an
// average: figures of the host are those of the fullest card.
type GPUs struct {
	Devices []sample.GPU
	Age     time.Duration // of the reading, at the tick
	// Current says that Devices is all that there are now.
	Current bool

	met      map[int32]*Process // of the holders, those that the tick has
	reading  *sample.GPUs       // what holders was made from; nil: none
	holders  map[int32]holding
	held     map[int32]bool // who was in holders at the tick before
	complete bool           // whoever is not in holders holds nothing
	unread   []sample.GPU
}

// holding is what a process has of all cards together.
type holding struct {
	memory      sample.Opt[uint64]
	utilization sample.Opt[float64]
}

// Update takes the latest reading, nil where there are no cards. One that is older
// than maxAge says only which cards there were.
func (g *GPUs) Update(r *sample.GPUs, now, maxAge time.Duration) {
	clear(g.held)
	for pid := range g.holders {
		if g.held == nil {
			g.held = map[int32]bool{}
		}
		g.held[pid] = true
	}
	if r == nil {
		*g = GPUs{Current: true, held: g.held}
		return
	}
	g.Age = max(now-r.Monotonic, 0)
	if g.Age > maxAge {
		g.forget(r)
		return
	}
	g.Current = true
	if g.reading == r {
		return
	}
	g.reading, g.Devices = r, r.Devices
	g.hold()
}

// Meet finds those who hold something of a card among the processes of a tick, which it
// refers to until the next.
func (g *GPUs) Meet(t *Table) {
	clear(g.met)
	if len(g.holders) == 0 {
		return
	}
	if g.met == nil {
		g.met = map[int32]*Process{}
	}
	for i := range t.Len() {
		p := t.At(i)
		if _, holds := g.holders[p.ID.PID]; holds && p.ID.StartTicks < g.reading.ListedTicks {
			g.met[p.ID.PID] = p
		}
	}
}

// Holder returns the process that a card told of by its PID, nil where it is no more, or
// another has its PID.
func (g *GPUs) Holder(pid int32) *Process { return g.met[pid] }

// forget keeps the cards' names.
func (g *GPUs) forget(r *sample.GPUs) {
	if !g.Current && len(g.unread) == len(r.Devices) {
		return
	}
	g.unread = g.unread[:0]
	for i := range r.Devices {
		g.unread = append(g.unread, r.Devices[i].Unread())
	}
	g.Devices, g.Current, g.reading, g.complete = g.unread, false, nil, false
	clear(g.holders)
}

// hold sums what each process holds.
func (g *GPUs) hold() {
	if g.holders == nil {
		g.holders = map[int32]holding{}
	}
	clear(g.holders)
	g.complete = true
	for i := range g.Devices {
		d := &g.Devices[i]
		g.complete = g.complete && d.Complete
		for j := range d.Processes {
			p := &d.Processes[j]
			h, met := g.holders[p.PID]
			if !met {
				h = holding{p.MemoryBytes, p.Utilization}
			} else {
				h = holding{sum(h.memory, p.MemoryBytes), most(h.utilization, p.Utilization)}
			}
			g.holders[p.PID] = h
		}
	}
}

// sum and most are unknown where a part is.
func sum(a, b sample.Opt[uint64]) sample.Opt[uint64] {
	x, ok1 := a.Get()
	y, ok2 := b.Get()
	return record.SomeIf(x+y, ok1 && ok2)
}

func most(a, b sample.Opt[float64]) sample.Opt[float64] {
	x, ok1 := a.Get()
	y, ok2 := b.Get()
	return record.SomeIf(max(x, y), ok1 && ok2)
}

// Process returns the memory that a process holds of all cards, and its share of
// the one that it uses most. Where not every card told of all its processes, a
// process may hold more than is known: both are unknown then. They are zero for a
// process that no card told of, if it was there to be told of.
func (g *GPUs) Process(id sample.ID) (memory sample.Opt[uint64], utilization sample.Opt[float64]) {
	// A process that started before the lists were made, and is there now, had its
	// PID to itself all the time.
	if !g.complete || len(g.Devices) == 0 || id.StartTicks >= g.reading.ListedTicks {
		return memory, utilization
	}
	if h, ok := g.holders[id.PID]; ok {
		return h.memory, h.utilization
	}
	return record.Some(uint64(0)), record.Some(0.0)
}

// Holds tells whether a PID has, or had in the reading before, something of a card. What
// it has may change while nothing else of the process does.
func (g *GPUs) Holds(pid int32) bool {
	if len(g.holders) == 0 && len(g.held) == 0 {
		return false
	}
	_, now := g.holders[pid]
	return now || g.held[pid]
}

// Fullest returns the card that is used most, and the one that has the greatest
// share of its memory in use, nil where that is known of none.
func (g *GPUs) Fullest() (busiest, fullest *sample.GPU) {
	var use, share float64
	for i := range g.Devices {
		d := &g.Devices[i]
		if u, ok := d.Utilization.Get(); ok && (busiest == nil || u > use) {
			busiest, use = d, u
		}
		if s, ok := MemoryShare(d).Get(); ok && (fullest == nil || s > share) {
			fullest, share = d, s
		}
	}
	return busiest, fullest
}

// MemoryShare is the share of a card's memory that is in use.
func MemoryShare(d *sample.GPU) sample.Opt[float64] {
	used, ok1 := d.MemoryUsedBytes.Get()
	total, ok2 := d.MemoryTotalBytes.Get()
	if !ok1 || !ok2 || total == 0 {
		return sample.Opt[float64]{}
	}
	return record.Some(Round(float64(used) / float64(total)))
}
