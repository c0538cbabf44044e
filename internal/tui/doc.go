// Package tui shows a machine and its processes in a terminal, live.
//
// The [Model] is pure: readings, keys and sizes go in, a screen of text comes out, and
// an [Effect] says what whoever drives it should do. [Run] drives it with Bubble Tea.
// Names in the readings are from elsewhere and may be hostile: every text of theirs goes
// through [human.Text] before it is measured or shown.
package tui

import (
	"context"
	"time"

	"rmagent/record"
)

// Reading is what is known at one moment.
type Reading struct {
	Time      time.Time
	Interval  time.Duration // until the next one
	Host      record.Host
	HostName  string
	GPUs      []record.GPU
	Processes []record.Process
	Leaks     []record.Leak        // who grows or leaks, worst first
	States    []record.StateChange // what is not normal, worst first
	Prune     *record.Prune        // nil: unknown
}

// Detail is what is known of one process beyond its reading. What could not be read
// has an error.
type Detail struct {
	PID         int32
	Holds       record.Leak
	HoldsErr    error
	Headroom    record.Headroom
	HeadroomErr error
}

// Source tells of a machine.
type Source interface {
	// Next returns the first reading that is newer than a time, when it is there.
	Next(ctx context.Context, after time.Time) (*Reading, error)
	// Detail looks at one process.
	Detail(ctx context.Context, pid int32) Detail
	// String says where it reads, in a few words.
	String() string
}
