package job

import (
	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/sample"
)

// successor goes on by /proc where another tracker can't any more. Its totals are the
// other's last, and what /proc tells that was used since.
type successor struct {
	delta
	before sample.JobTotals
	both   uint64 // processes that both know
	why    string
}

// TakeOver makes a tracker for a job whose own failed, by the last that it told. first is
// the PID of the first process, 0 where that was reaped. Of what forked since, /proc shows
// what has not lost its parent yet. why says in some words what became of the other.
func TakeOver(o ProcOptions, first int, last *Reading, why string) (Tracker, error) {
	if o.Reap {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return nil, err
		}
	}
	s := &successor{delta: delta{procTracker: newProcTracker(o)}, before: last.Totals, why: why}
	s.first = first
	for i := range last.Processes {
		id := last.Processes[i].ID
		if s.look(id.PID); s.members[id.PID] != nil && s.members[id.PID].stat.start != id.StartTicks {
			s.forget(id.PID)
		}
	}
	clear(s.seen)
	s.met = 0
	for pid, m := range s.members {
		s.meet(sample.ID{PID: pid, StartTicks: m.stat.start})
	}
	s.both = s.met
	return s, nil
}

func (s *successor) Read(dst *Reading) error {
	if err := s.delta.Read(dst); err != nil {
		return err
	}
	t, b := &dst.Totals, &s.before
	t.Add(b)
	t.Processes = max(b.Processes, b.Processes-min(b.Processes, s.both)+s.met)
	return nil
}

// Exactness is at best that some of it was not seen.
func (s *successor) Exactness(m cctools.Measure) (cctools.Exactness, string) {
	if !ofTime(m) {
		return cctools.AtLeast, s.why
	}
	return s.procTracker.Exactness(m)
}

// ofTime tells the measures that are no processes'.
func ofTime(m cctools.Measure) bool {
	switch m {
	case cctools.Start, cctools.End, cctools.WallTime, cctools.MachineCPUs, cctools.MachineLoad:
		return true
	}
	return false
}
