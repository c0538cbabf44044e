package engine

import (
	"slices"

	"rmagent/internal/pattern"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Filter chooses the processes that there are records of, that are judged and that are
// acted on. Each list that is not empty must have a match, as package pattern matches.
type Filter struct {
	PIDs    []int32
	Names   []string
	Cgroups []string
	Units   []string
}

// HasPatterns tells whether it chooses by more than PIDs.
func (f *Filter) HasPatterns() bool { return len(f.Names)+len(f.Cgroups)+len(f.Units) > 0 }

// Validate names the first pattern that is malformed.
func (f *Filter) Validate() (malformed string, err error) {
	for _, p := range slices.Concat(f.Names, f.Cgroups, f.Units) {
		if err := pattern.Check(p); err != nil {
			return p, err
		}
	}
	return "", nil
}

// Match tells whether a process is shown. What is unknown of it matches nothing.
func (f *Filter) Match(p *sample.Process, id *sample.Identity) bool {
	if len(f.PIDs) > 0 && !slices.Contains(f.PIDs, p.ID.PID) {
		return false
	}
	if len(f.Names) > 0 && !matches(f.Names, string(p.Comm.Bytes()), pattern.Name) {
		return false
	}
	if len(f.Cgroups) == 0 && len(f.Units) == 0 {
		return true
	}
	return id != nil && f.belongs(id.Cgroup, id.Unit)
}

// MatchRecord tells the same of a process's record.
func (f *Filter) MatchRecord(p *record.ProcessFacts) bool {
	return (len(f.PIDs) == 0 || slices.Contains(f.PIDs, p.PID)) &&
		(len(f.Names) == 0 || matches(f.Names, p.Comm, pattern.Name)) &&
		f.belongs(p.Cgroup.Or(""), p.Unit.Or(""))
}

// belongs tells whether the cgroup and the unit are those that are shown.
func (f *Filter) belongs(cgroup, unit string) bool {
	return (len(f.Cgroups) == 0 || matches(f.Cgroups, cgroup, pattern.Cgroup)) &&
		(len(f.Units) == 0 || matches(f.Units, unit, pattern.Unit))
}

func matches(patterns []string, s string, match func(pattern, s string) bool) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, s) })
}
