// Package pattern chooses processes by name, systemd unit and cgroup. Patterns are
// those of path.Match.
package pattern

import (
	"path"
	"strings"

	"rmagent/internal/sample"
)

// Check returns path.ErrBadPattern for a pattern that is malformed.
func Check(pattern string) error {
	_, err := path.Match(pattern, "")
	return err
}

// Name matches a process's name. A slash in a name is a character like others, as in
// kworker/0:1.
func Name(pattern, name string) bool {
	return match(strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(name, "/", "\x00")) // which no name has
}

// Unit matches a systemd unit.
func Unit(pattern, unit string) bool { return match(pattern, unit) }

// Cgroup matches a cgroup's path, or one of those above it.
func Cgroup(pattern, cgroup string) bool {
	root := cgroup != "" && !sample.OutsideCgroups(cgroup) // whether "/" is above it
	for cgroup != "" {
		if match(pattern, cgroup) {
			return true
		}
		cgroup = cgroup[:max(strings.LastIndexByte(cgroup, '/'), 0)] // path.Dir takes ".." for a step back
	}
	return root && match(pattern, "/")
}

func match(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return ok && err == nil
}
