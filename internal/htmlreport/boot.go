package htmlreport

import (
	"cmp"
	"slices"

	"rmagent/record"
)

// boot is a machine between two starts: the life of its processes and of the numbers
// that records carry.
type boot struct {
	id          string
	first, last int64 // Unix milliseconds
	seq         uint64
	runs        int
	agent       *record.Agent // the last account of the agent's present run
}

// gap is a stretch of time that the records don't cover.
type gap struct {
	from, to int64
	lost     uint64 // records; 0: the agent did not run
}

const (
	maxGaps  = 200
	maxBoots = 64 // of a machine
	// soonAgain is how many milliseconds may pass between two runs of the agent
	// without that being worth a word.
	soonAgain = 5000
)

// gaps counts what is missing, and keeps the longest.
type gaps struct {
	lost, count uint64 // records that are missing, and in how many places
	backwards   uint64 // records with a number that was there before
	midway      uint64 // runs of which the beginning is not in the files
	missed      uint64 // records before these
	cut         uint64 // stretches that are counted only
	list        []gap
}

func (g *gaps) add(x gap) {
	if x.lost > 0 {
		g.count++
		g.lost += x.lost
	}
	if len(g.list) < maxGaps {
		g.list = append(g.list, x)
		return
	}
	g.cut++
	i := 0
	for j := range g.list {
		if g.list[j].to-g.list[j].from < g.list[i].to-g.list[i].from {
			i = j
		}
	}
	if x.to-x.from > g.list[i].to-g.list[i].from {
		g.list[i] = x
	}
}

func (g *gaps) sorted() []gap {
	return slices.SortedFunc(slices.Values(g.list), func(a, b gap) int { return cmp.Compare(a.from, b.from) })
}

// follow takes the number of the next record and tells whether a new run of the
// agent begins with it.
func (b *boot) follow(h *record.Header, g *gaps) (began bool) {
	ms := h.Time.UnixMilli()
	switch {
	case b.runs == 0:
		began = true
		if h.Seq > 1 {
			g.midway++
			g.missed += h.Seq - 1
		}
	case h.Seq > b.seq+1:
		g.add(gap{from: min(b.last, ms), to: ms, lost: h.Seq - b.seq - 1})
	case h.Seq <= b.seq && h.Seq <= 1:
		began = true
		if ms-b.last > soonAgain {
			g.add(gap{from: b.last, to: ms})
		}
	case h.Seq <= b.seq:
		g.backwards++
		b.last = max(b.last, ms)
		return false // a file twice, or out of order: the highest number counts
	}
	if began {
		b.runs++
	}
	b.seq = h.Seq
	b.first, b.last = min(b.first, ms), max(b.last, ms)
	return began
}
