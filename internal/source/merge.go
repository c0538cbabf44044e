package source

import (
	"context"
	"errors"
	"fmt"

	"rmagent/internal/sample"
)

// Merged reads a primary reader, and of a secondary one only the fields that the
// primary lacks here. It owns both and closes them.
type Merged struct {
	primary, secondary sample.Reader
	wanted             sample.FieldSet // fields that only the secondary knows
	caps               sample.Capabilities
	rest               sample.Snapshot
	index              map[sample.ID]int
}

// Merge returns a reader of both. Where the secondary has nothing to add it is
// closed and the primary is returned as it is.
func Merge(primary, secondary sample.Reader) (sample.Reader, error) {
	caps, other := primary.Capabilities(), secondary.Capabilities()
	wanted := other.Set() &^ caps.Set()
	if wanted == 0 {
		if err := secondary.Close(); err != nil {
			return nil, fmt.Errorf("close the reader that is not needed: %w", err)
		}
		return primary, nil
	}
	for f := range sample.NumFields {
		if wanted.Has(f) {
			caps[f] = other[f]
		}
	}
	return &Merged{
		primary:   primary,
		secondary: secondary,
		wanted:    wanted,
		caps:      caps,
		index:     map[sample.ID]int{},
	}, nil
}

// Read fills dst from the primary and completes what it lacks. A process that
// only one of the two saw keeps what that one knows of it: the primary decides
// which processes there are.
func (m *Merged) Read(ctx context.Context, s sample.Scope, dst *sample.Snapshot) error {
	if err := m.primary.Read(ctx, s, dst); err != nil {
		return err
	}
	wanted := m.wanted
	if s.Fields != 0 {
		wanted &= s.Fields
	}
	if wanted == 0 {
		return nil
	}
	s.Fields = wanted
	if err := m.secondary.Read(ctx, s, &m.rest); err != nil {
		return fmt.Errorf("complete %d fields: %w", wanted.Len(), err)
	}
	dst.AsRead = 0
	clear(m.index)
	for i := range m.rest.Processes {
		m.index[m.rest.Processes[i].ID] = i
	}
	for i := range dst.Processes {
		p := &dst.Processes[i]
		if j, ok := m.index[p.ID]; ok {
			p.Take(&m.rest.Processes[j], wanted&^p.Known)
		}
	}
	return nil
}

// Capabilities says of each field what the better of the two can say.
func (m *Merged) Capabilities() sample.Capabilities { return m.caps }

// Close closes both readers.
func (m *Merged) Close() error { return errors.Join(m.primary.Close(), m.secondary.Close()) }
