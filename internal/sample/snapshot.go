package sample

import (
	"context"
	"time"
)

// Scope says what to read.
type Scope struct {
	// PIDs limits the reading to these processes; nil means every process. One
	// that does not exist is left out of the snapshot, which is no error.
	PIDs []int32
	// Fields limits the reading to these facts; a source may return more. 0 means
	// all that it has.
	Fields FieldSet
}

// Snapshot is one reading of the processes. Its order is the source's own.
type Snapshot struct {
	Time      time.Time     // wall clock when the reading began
	Monotonic time.Duration // CLOCK_MONOTONIC then: what rates divide by, so that suspend and clock steps don't count
	Boottime  time.Duration // CLOCK_BOOTTIME then: what StartTicks counts on
	Took      time.Duration // how long the reading lasted
	Processes []Process
	// Missed is how many processes the source knows that it did not reach; 0 is
	// the rule.
	Missed uint64
	// Hidden says that there are more which the source can't even count.
	Hidden bool
	// AsRead is Monotonic where the processes are as their reader left them, else 0: it may
	// fill in anew only those that changed.
	AsRead time.Duration
	// Same has true for each of Processes that is what it was, in the same place, in the
	// reading whose AsRead was Before; 0: nobody compared.
	Before time.Duration
	Same   []bool
}

// Whole tells whether no process is missing.
func (s *Snapshot) Whole() bool { return s.Missed == 0 && !s.Hidden }

// fewProcesses are so few that their memory is always kept.
const fewProcesses = 4096

// Reset empties s for its next reading and keeps its memory, unless the last one
// used less than a quarter of it: after a storm of processes most would be idle.
func (s *Snapshot) Reset() {
	clear(s.Processes)
	s.Reuse()
}

// Reuse is Reset, but leaves the processes of the last reading in the memory behind
// Processes' length, for a reader that knows them by their Since.
func (s *Snapshot) Reuse() {
	if n := len(s.Processes); cap(s.Processes) > max(4*n, fewProcesses) {
		s.Processes = make([]Process, 0, 2*n)
	}
	*s = Snapshot{Processes: s.Processes[:0], Same: s.Same[:0]}
}

// Reader is a source of process facts. One goroutine uses it at a time.
type Reader interface {
	// Read fills dst, reusing its memory. A process that ends while it is read is
	// left out or complete, never half.
	Read(ctx context.Context, s Scope, dst *Snapshot) error
	// Capabilities says what this reader can know here, on this kernel and with
	// these privileges. It does not change after the reader is open.
	Capabilities() Capabilities
	Close() error
}

// Level says how well a field is known.
type Level uint8

// The levels.
const (
	Absent Level = iota
	Approximate
	Exact
)

// String returns the level's name.
func (l Level) String() string { return [...]string{"absent", "approximate", "exact"}[l] }

// Capability is what a reader can say of one field.
type Capability struct {
	Level Level
	Why   string // for people: what is missing or approximate about it; empty where exact
}

// Capabilities is what a reader can say of every field.
type Capabilities [NumFields]Capability

// Set returns the fields that are known at all.
func (c *Capabilities) Set() (s FieldSet) {
	for f := range NumFields {
		if c[f].Level != Absent {
			s |= 1 << f
		}
	}
	return s
}

// Identity is what files under /proc say of a process beyond its numbers. It
// changes only with an exec or a move to another cgroup, so it is read once and
// shared; nobody changes one after it is made. An empty string is unknown.
type Identity struct {
	Exe         string // as readlink /proc/PID/exe gives it, " (deleted)" included
	Cgroup      string // path within the hierarchy that CgroupID belongs to
	ContainerID string // Docker, containerd, CRI-O or podman: 64 hex digits
	Unit        string // innermost systemd .service or .scope in Cgroup
	Cmdline     []string
}
