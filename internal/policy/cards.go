package policy

import (
	"slices"

	"rmagent/internal/sample"
	"rmagent/record"
)

// holders are what processes have of each card, and of each MIG instance, in one reading:
// what one has of another relieves nobody.
type holders struct {
	held   map[cardHolder]held
	cardOf map[string]string // of a MIG instance of a card that does not tell whose it is
}

type cardHolder struct {
	card string // UUID, or that of an instance
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
	told := !slices.ContainsFunc(g.Processes, func(p record.GPUProcess) bool { return !p.GPUInstanceID.Known() })
	h.addOf(card, g.Processes, func(*record.GPUProcess) bool { return true })
	for i := range g.MIGInstances {
		m := &g.MIGInstances[i]
		switch uuid, ok := m.UUID.Get(); {
		case !ok:
		case told && m.GPUInstanceID.Known():
			h.addOf(uuid, g.Processes, func(p *record.GPUProcess) bool { return p.GPUInstanceID == m.GPUInstanceID })
		default:
			h.cardOf[uuid] = card
		}
	}
}

// addOf adds what those processes that are in it have of a card, or of an instance.
func (h *holders) addOf(uuid string, list []record.GPUProcess, in func(*record.GPUProcess) bool) {
	for i := range list {
		p := &list[i]
		start, ok := p.StartTicks.Get()
		if !ok || !in(p) {
			continue
		}
		key := cardHolder{uuid, sample.ID{PID: p.PID, StartTicks: start}}
		have := h.held[key]
		h.held[key] = held{have.memory + float64(p.MemoryBytes.Or(0)), max(have.use, p.UtilizationRatio.Or(0))}
	}
}

// of is what a process has of a card or of a MIG instance; where nobody tells of instances, of
// the card that it is a part of.
func (h *holders) of(uuid string, id sample.ID) held {
	if card, part := h.cardOf[uuid]; part {
		uuid = card
	}
	return h.held[cardHolder{uuid, id}]
}
