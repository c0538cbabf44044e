package engine

import (
	"path"
	"slices"
	"strings"

	"rmagent/internal/sample"
	"rmagent/record"
)

// Filter chooses the processes that are shown. Each list that is not empty must
// have a match. Patterns are those of path.Match, where a cgroup's also matches
// whatever is below it, and a slash in a name is a character like others, as in
// kworker/0:1.
type Filter struct {
	PIDs    []int32
	Names   []string
	Cgroups []string
	Units   []string
}

// Validate names the first pattern that is malformed.
func (f *Filter) Validate() (pattern string, err error) {
	for _, p := range slices.Concat(f.Names, f.Cgroups, f.Units) {
		if _, err := path.Match(p, ""); err != nil {
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
	if len(f.Names) > 0 && !matchesName(f.Names, string(p.Comm.Bytes())) {
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
		(len(f.Names) == 0 || matchesName(f.Names, p.Comm)) &&
		f.belongs(p.Cgroup.Or(""), p.Unit.Or(""))
}

// belongs tells whether the cgroup and the unit are those that are shown.
func (f *Filter) belongs(cgroup, unit string) bool {
	return (len(f.Cgroups) == 0 || matchesAbove(f.Cgroups, cgroup)) &&
		(len(f.Units) == 0 || matchesAny(f.Units, unit))
}

func matchesName(patterns []string, name string) bool {
	plain := func(s string) string { return strings.ReplaceAll(s, "/", "\x00") } // which no name has
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(plain(p), plain(name))
		return ok && err == nil
	})
}

func matchesAny(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, s)
		return ok && err == nil
	})
}

// matchesAbove matches a cgroup or one of its ancestors.
func matchesAbove(patterns []string, cgroup string) bool {
	for cgroup != "" {
		if matchesAny(patterns, cgroup) {
			return true
		}
		if cgroup == "/" {
			break
		}
		cgroup = path.Dir(cgroup)
	}
	return false
}
