package record

import (
	"encoding/json"
	"errors"
	"fmt"
)

var (
	// ErrKind is a record of a kind that this package does not know, as a newer
	// agent may write: skip it.
	ErrKind = errors.New("unknown kind of record")
	// ErrSchema is a record of another [Schema], whose fields may mean something
	// else.
	ErrSchema = errors.New("unknown schema of records")
	// ErrTime is a header time that RFC 3339 can't hold.
	ErrTime = errors.New("time outside the years 0 to 9999")
)

// Decode reads one line, with or without its newline. Fields that it does not
// know are ignored, those that are missing are unknown. It fails with [ErrKind]
// for a kind that it does not know (the text names it), with [ErrSchema] for
// another schema, and with encoding/json's errors for what is not such a record.
func Decode(line []byte) (Record, error) {
	var head struct {
		Kind   *Kind `json:"kind"`
		Schema int   `json:"schema"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, fmt.Errorf("decode a record: %w", err)
	}
	if head.Kind == nil {
		return nil, fmt.Errorf("decode a record: %w: it names none", ErrKind)
	}
	r := newRecord(*head.Kind)
	if r == nil {
		return nil, fmt.Errorf("decode a record: %w %q", ErrKind, *head.Kind)
	}
	if head.Schema != Schema {
		return nil, fmt.Errorf("decode a record: %w: %d, not %d", ErrSchema, head.Schema, Schema)
	}
	if err := json.Unmarshal(line, r); err != nil {
		return nil, fmt.Errorf("decode a record of kind %s: %w", *head.Kind, err)
	}
	return r, nil
}

// newRecord returns an empty record of the kind, or nil.
func newRecord(k Kind) Record {
	switch k {
	case KindProcess:
		return new(Process)
	case KindExit:
		return new(Exit)
	case KindHost:
		return new(Host)
	case KindCgroup:
		return new(Cgroup)
	case KindGPU:
		return new(GPU)
	case KindState:
		return new(StateChange)
	case KindPrune:
		return new(Prune)
	case KindOOM:
		return new(OOM)
	case KindLeak:
		return new(Leak)
	case KindJob:
		return new(Job)
	case KindLimit:
		return new(Limit)
	case KindJobReading:
		return new(JobReading)
	case KindAction:
		return new(Action)
	case KindConfig:
		return new(Config)
	case KindAgent:
		return new(Agent)
	}
	return nil
}
