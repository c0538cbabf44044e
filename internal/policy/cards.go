package policy

import (
	"rmagent/internal/sample"
	"rmagent/record"
)

// holders are what processes have of each card, in one reading: what one has of another
// card relieves nobody.
type holders struct {
	held   map[cardHolder]held
	cardOf map[string]string // of a MIG instance: who has what of which is not told
}

type cardHolder struct {
	card string // UUID
	id   sample.ID
}

// held is what is known of it; 0 where it is not.
type held struct {
	memory float64 // bytes
	use    float64 // share of the card
}

func newHolders() holders {
	return holders{held: map[cardHolder]held{}, cardOf: map[string]string{}}
}

func (h *holders) clear() {
	clear(h.held)
	clear(h.cardOf)
}

// add takes a card that has a UUID.
func (h *holders) add(g *record.GPU) {
	card := g.UUID.Or("")
	for i := range g.MIGInstances {
		if uuid, ok := g.MIGInstances[i].UUID.Get(); ok {
			h.cardOf[uuid] = card
		}
	}
	for i := range g.Processes {
		p := &g.Processes[i]
		if start, ok := p.StartTicks.Get(); ok {
			key := cardHolder{card, sample.ID{PID: p.PID, StartTicks: start}}
			have := h.held[key]
			h.held[key] = held{have.memory + float64(p.MemoryBytes.Or(0)), max(have.use, p.UtilizationRatio.Or(0))}
		}
	}
}

// of is what a process has of a card, or of the card that a MIG instance is a part of.
func (h *holders) of(uuid string, id sample.ID) held {
	if card, part := h.cardOf[uuid]; part {
		uuid = card
	}
	return h.held[cardHolder{uuid, id}]
}
