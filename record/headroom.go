package record

import (
	"encoding/json"
	"time"
)

// Headroom is how far one process is from every limit that applies to it: what
// `rmagent headroom --json` prints and the library returns. It is no [Record]: it
// answers a question, and is in no log.
type Headroom struct {
	PID         int32          `json:"pid"`
	StartTicks  uint64         `json:"start_ticks"`
	StartTime   Opt[time.Time] `json:"start_time"` // for people: moves with clock steps
	Comm        string         `json:"comm"`
	UID         Opt[uint32]    `json:"uid"` // real user id
	Cgroup      Opt[string]    `json:"cgroup"`
	ContainerID Opt[string]    `json:"container_id"`
	Unit        Opt[string]    `json:"unit"` // innermost systemd service or scope

	// FirstInSpace has the least share left, FirstInTime the fewest seconds at the
	// present rate; null where no limit is known, or nothing grows towards one.
	FirstInSpace *HeadroomLimit  `json:"first_in_space"`
	FirstInTime  *HeadroomLimit  `json:"first_in_time"`
	Limits       []HeadroomLimit `json:"limits"` // null in a list of processes: not all were looked at

	Overcommit *Overcommit `json:"overcommit"` // null where it is unknown
}

// HeadroomLimit is one limit that applies to a process, and how far it is.
type HeadroomLimit struct {
	Resource string `json:"resource"` // open_files, memory, tasks, disk...
	Name     string `json:"name"`     // the system's own: RLIMIT_NOFILE, memory.max, fs.file-max
	Scope    string `json:"scope"`    // what shares it: the process, a user, a cgroup, a mount, the machine
	Unit     string `json:"unit"`     // of the next three: bytes, files, tasks, cores...

	Used Opt[float64] `json:"used"`
	// Limit is null where there is none (with Known), or where it is unknown.
	Limit Opt[float64] `json:"limit"`
	// Available is what can still be taken. It may be less than limit - used: some
	// of what is not used can't be had either.
	Available Opt[float64] `json:"available"`
	// UsedRatio is 1 - available/limit: the share of the limit that is gone.
	UsedRatio      Opt[float64] `json:"used_ratio"`
	RatePerSecond  Opt[float64] `json:"rate_per_second"`  // of used; null after one reading
	SecondsToLimit Opt[float64] `json:"seconds_to_limit"` // at that rate; null if it doesn't grow

	Consequence string `json:"consequence"` // what happens at the limit
	Raise       string `json:"raise"`       // how to raise it where the process runs
	Known       bool   `json:"known"`       // used and limit are known
	Why         string `json:"why"`         // what is unknown and why; else empty
}

// Overcommit says what the readings of used memory can't show: memory that a
// process has been promised and has not touched.
type Overcommit struct {
	Mode string `json:"mode"` // heuristic, always, strict: vm.overcommit_memory 0, 1, 2
	// UntouchedBytes is private writable memory that is mapped and was never
	// touched: it counts nowhere until it is. A lower bound.
	UntouchedBytes uint64 `json:"untouched_bytes"`
	// AvailableBytes is the least memory that its cgroups and the machine have left.
	AvailableBytes Opt[uint64] `json:"available_bytes"`
	Risk           string      `json:"risk"` // what would happen if it were touched; empty: it fits
}

// HeadroomList is what `rmagent headroom --json` prints for many processes.
type HeadroomList struct {
	// Machine has the limits that all processes share.
	Machine []HeadroomLimit `json:"machine"`
	// Processes are those nearest to a limit of their own, their user or their
	// cgroups, nearest first. FirstInSpace and FirstInTime are among those.
	Processes []Headroom `json:"processes"`
	Evaluated int        `json:"evaluated"` // how many processes were
}

// MarshalJSON writes what encoding/json does, but safe to show on a terminal.
func (h Headroom) MarshalJSON() ([]byte, error) {
	type plain Headroom
	return safeJSON(plain(h))
}

// MarshalJSON writes what encoding/json does, but safe to show on a terminal.
func (l HeadroomLimit) MarshalJSON() ([]byte, error) {
	type plain HeadroomLimit
	return safeJSON(plain(l))
}

// safeJSON escapes DEL and the C1 controls, which encoding/json leaves as they
// are: names and paths may hold them.
func safeJSON(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	e := encoder{buf: make([]byte, 0, len(b))}
	e.escapeControls(b)
	return e.buf, nil
}
