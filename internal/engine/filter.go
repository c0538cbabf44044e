package engine

import (
	"slices"

	"rmagent/internal/pattern"
	"rmagent/internal/sample"
)

// Filter chooses the processes that are shown. Each list that is not empty must
// have a match, as package pattern matches.
type Filter struct {
	PIDs    []int32
	Names   []string
	Cgroups []string
	Units   []string
}

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
	if id == nil {
		return false
	}
	return (len(f.Cgroups) == 0 || matches(f.Cgroups, id.Cgroup, pattern.Cgroup)) &&
		(len(f.Units) == 0 || matches(f.Units, id.Unit, pattern.Unit))
}

func matches(patterns []string, s string, match func(pattern, s string) bool) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, s) })
}
