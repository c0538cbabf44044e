package agent

import (
	"sync"

	"rmagent/internal/hostfs"
	"rmagent/internal/sink"
	"rmagent/record"
)

// fanout is the engine's sink: the output, if there is one, and then the observers.
type fanout struct {
	jsonl     *sink.JSONL // nil: none
	facts     hostfs.Facts
	observers []Observer

	mu  sync.Mutex
	seq uint64 // where there is no output that counts
}

func newFanout(jsonl *sink.JSONL, facts hostfs.Facts, observers []Observer) *fanout {
	return &fanout{jsonl: jsonl, facts: facts, observers: observers}
}

// Write writes a record, and tells of it.
func (f *fanout) Write(r record.Record) error {
	if err := f.write(r); err != nil {
		return err
	}
	for _, o := range f.observers {
		o.Observe(r)
	}
	return nil
}

func (f *fanout) write(r record.Record) error {
	if f.jsonl != nil {
		return f.jsonl.Write(r)
	}
	kind, err := record.KindOf(r)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++
	h := r.Head()
	h.Kind, h.Host, h.BootID, h.Seq, h.Schema = kind, f.facts.Host, f.facts.BootID, f.seq, record.Schema
	return nil
}

// Flush has what waits written.
func (f *fanout) Flush() error {
	if f.jsonl == nil {
		return nil
	}
	return f.jsonl.Flush()
}

// Counters are the output's.
func (f *fanout) Counters() sink.Counters {
	if f.jsonl == nil {
		return sink.Counters{Lost: map[string]uint64{}}
	}
	return f.jsonl.Counters()
}
