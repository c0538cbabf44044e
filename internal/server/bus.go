package server

import (
	"slices"
	"sync"

	"rmagent/record"
)

// Bus hands records on to who listens, as they come. It keeps the last ones, so that
// who was away for a moment misses nothing; whoever is slower than that is told how
// many were missed. Publishing never waits, and listeners cost it nothing but one
// encoding for all of them.
type Bus struct {
	mu      sync.Mutex
	ring    []Event // the last ones, oldest first from start on
	start   int
	bytes   int
	next    uint64        // number of the next event, from 1 on
	more    chan struct{} // closed at the next event
	exits   int           // listeners who want every exit
	scratch []byte
}

// Event is a record as it was written.
type Event struct {
	Number uint64
	Kind   record.Kind
	Full   []byte // for who is trusted
	Plain  []byte // without command lines, stacks and targets
}

// The bounds of what is kept.
const (
	maxEvents     = 1024
	maxEventBytes = 1 << 20
)

// NewBus returns a bus without events.
func NewBus() *Bus { return &Bus{next: 1, more: make(chan struct{})} }

// eventKinds are the kinds that are handed on: what happens, not what is measured.
// Exits come often, and only to who asks for them.
var eventKinds = []record.Kind{
	record.KindState, record.KindPrune, record.KindLeak, record.KindOOM, record.KindAction, record.KindConfig, record.KindAgent, record.KindExit,
}

// Observe hands a record on, whose header is filled in, if it is of a kind that is. It
// keeps nothing of r.
func (b *Bus) Observe(r record.Record) {
	kind, err := record.KindOf(r)
	if err != nil || !slices.Contains(eventKinds, kind) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if kind == record.KindExit && b.exits == 0 {
		return
	}
	if b.scratch, err = record.Append(b.scratch[:0], r); err != nil {
		return // whoever writes it down tells
	}
	e := Event{Number: b.next, Kind: kind, Full: trimmed(b.scratch)}
	e.Plain = e.Full
	if plain := hidden(r); plain != nil {
		if b.scratch, err = record.Append(b.scratch[:0], plain); err != nil {
			return
		}
		e.Plain = trimmed(b.scratch)
	}
	b.keep(e)
	close(b.more)
	b.more = make(chan struct{})
}

func trimmed(line []byte) []byte { return slices.Clone(line[:len(line)-1]) }

// hidden returns the record without what not everybody may know, nil where it has
// nothing of that kind.
func hidden(r record.Record) record.Record {
	switch r := r.(type) {
	case *record.Leak:
		c := *r
		hideSites(&c)
		return &c
	case *record.Exit:
		if r.Cmdline == nil {
			return nil
		}
		c := *r
		c.Cmdline = nil
		return &c
	}
	return nil
}

// keep appends an event and drops the oldest ones that there is no room for.
func (b *Bus) keep(e Event) {
	b.next++
	b.ring = append(b.ring, e)
	b.bytes += e.size()
	for len(b.ring)-b.start > maxEvents || b.bytes > maxEventBytes && len(b.ring)-b.start > 1 {
		b.bytes -= b.ring[b.start].size()
		b.ring[b.start] = Event{}
		b.start++
	}
	if b.start > maxEvents {
		b.ring = slices.Delete(b.ring, 0, b.start)
		b.start = 0
	}
}

func (e *Event) size() int {
	if len(e.Full) > 0 && len(e.Plain) > 0 && &e.Full[0] == &e.Plain[0] {
		return len(e.Full)
	}
	return len(e.Full) + len(e.Plain)
}

// since appends to dst the events from a number on, and says how many of those are
// gone already. more is closed when there is another.
func (b *Bus) since(dst []Event, number uint64) (events []Event, lost uint64, more <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := b.ring[b.start:]
	oldest := b.next - uint64(len(kept))
	if number < oldest {
		lost = oldest - number
		number = oldest
	}
	if number < b.next {
		dst = append(dst, kept[number-oldest:]...)
	}
	return dst, lost, b.more
}

// last is the number of the next event.
func (b *Bus) last() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next
}

// wantExits counts who wants exits.
func (b *Bus) wantExits(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exits += n
}
