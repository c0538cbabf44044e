package job

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
)

// groupLimit is a limit that the kernel keeps for a cgroup of version 2
// (Documentation/admin-guide/cgroup-v2.rst).
type groupLimit struct {
	measure    cctools.Measure
	controller string
	file       string
	text       func(limit float64) string
}

var groupLimits = []groupLimit{
	{cctools.Memory, "memory", "memory.max", func(mb float64) string { return strconv.FormatFloat(mb*cctools.BytesPerMB, 'f', 0, 64) }},
	{cctools.MaxConcurrentProcesses, "pids", "pids.max", func(n float64) string { return strconv.FormatFloat(n, 'f', 0, 64) }},
	{cctools.Cores, "cpu", "cpu.max", func(cores float64) string { return strconv.FormatFloat(max(1, cores*100), 'f', 0, 64) + "000 100000" }},
}

// OpenLimited makes a cgroup whose limits on memory, processes and CPUs are those of a
// job that will run in it. It is not made below this process's own, which has a process
// and so may hand no controller down, but beside it. Close removes it.
func OpenLimited(limits *cctools.Limits) (*Limited, error) {
	var wanted []groupLimit
	for _, l := range groupLimits {
		if limits.Known(l.measure) {
			wanted = append(wanted, l)
		}
	}
	if len(wanted) == 0 {
		return nil, errors.New("a cgroup limits memory, max_concurrent_processes and cores: none of them is limited")
	}
	own, err := ownGroup()
	if err != nil {
		return nil, err
	}
	parent := own
	if _, err := os.Stat(filepath.Join(own, "cgroup.type")); err == nil { // the root has no type
		parent = filepath.Dir(own)
	}
	if _, err := os.Stat(filepath.Join(parent, "cgroup.subtree_control")); err != nil {
		return nil, fmt.Errorf("%w: none can be made beside %s", errNoGroup, own) // it is all that a container sees
	}
	g, err := newGroupIn(parent)
	if err != nil {
		return nil, fmt.Errorf("a cgroup for the job: %w", err)
	}
	for _, l := range wanted {
		limit, _ := limits.Get(l.measure)
		if err := g.limit(parent, l, limit); err != nil {
			return nil, errors.Join(fmt.Errorf("limit the job's cgroup: %w", err), g.remove())
		}
	}
	return &Limited{g}, nil
}

// limit sets one limit; the parent is asked to hand the controller down where it does not.
func (g *group) limit(parent string, l groupLimit, limit float64) error {
	path := filepath.Join(g.dir, l.file)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+l.controller), 0); err != nil {
			if errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("version 2 of cgroups does not have the controller %s here: it may be version 1's", l.controller)
			}
			return fmt.Errorf("controller %s: %w", l.controller, err)
		}
	}
	return os.WriteFile(path, []byte(l.text(limit)), 0)
}

// Limited is a cgroup with limits, for one job.
type Limited struct{ group *group }

// Close removes it, and what was made below it.
func (l *Limited) Close() error { return l.group.remove() }
