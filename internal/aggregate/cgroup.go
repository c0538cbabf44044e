package aggregate

import (
	"maps"
	"strings"

	"rmagent/internal/sample"
)

// Active marks in paths the cgroup of every process but one that did something since
// the reading before, and the cgroups above it, which are charged for it too. It needs
// the processes' identities. The one is who reads: it always does something.
func (t *Table) Active(paths map[string]bool, reader int32) {
	for _, slot := range t.order {
		if t.still[slot] {
			continue
		}
		p := &t.slots[slot]
		if !p.Active || p.Identity == nil || p.ID.PID == reader {
			continue
		}
		for path := p.Identity.Cgroup; path != "" && !paths[path]; path = above(path) {
			paths[path] = true
		}
	}
}

// above returns the path of the cgroup that a cgroup is in, empty for the root.
func above(path string) string {
	if path == "/" {
		return ""
	}
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "/"
}

// FDSums sums the open descriptors of each cgroup over its own and its
// descendants' processes. A table that several processes share counts once in
// each cgroup. Where a process's count or cgroup is unknown, so is the sum of the
// cgroups that it would belong to; a process of unknown cgroup, or one that the
// snapshot missed, spoils all.
type FDSums struct {
	groups  map[string]*group
	tables  map[uint64]*group // where a table was met first
	shared  map[tableIn]bool  // tables met in several cgroups: where they are counted
	spoiled bool
	version uint64 // Table.files of what is summed; 0: nothing is
	update  uint64
}

// group is a cgroup with processes.
type group struct {
	parent  *group // nil for the root
	sum     uint64
	unknown bool
	update  uint64 // that last met it
}

type tableIn struct {
	group *group
	table uint64
}

// NewFDSums returns empty sums, for one table.
func NewFDSums() *FDSums {
	return &FDSums{groups: map[string]*group{}, tables: map[uint64]*group{}, shared: map[tableIn]bool{}}
}

// Update sums the table's processes, whose identities must be set by now. Where
// no descriptor and no cgroup moved since the last time it has nothing to do.
func (f *FDSums) Update(t *Table) {
	if f.version == t.files {
		return
	}
	f.version = t.files
	f.update++
	clear(f.tables)
	clear(f.shared)
	f.spoiled = !t.whole
	for _, slot := range t.order {
		p := &t.slots[slot]
		switch {
		case p.KernelThread:
			continue
		case p.Identity != nil && sample.OutsideCgroups(p.Identity.Cgroup):
			continue // in none of those that have a record
		case p.Identity == nil || p.Identity.Cgroup == "":
			f.spoiled = true
		default:
			f.add(p)
		}
	}
	maps.DeleteFunc(f.groups, func(_ string, g *group) bool { return g.update != f.update })
}

// group returns the cgroup of a path, emptied when an update first meets it.
func (f *FDSums) group(path string) *group {
	g := f.groups[path]
	if g == nil {
		g = &group{}
		f.groups[path] = g
	}
	if g.update == f.update {
		return g
	}
	*g = group{update: f.update}
	if path != "/" {
		parent := path[:max(strings.LastIndexByte(path, '/'), 0)]
		if parent == "" {
			parent = "/"
		}
		g.parent = f.group(parent)
	}
	return g
}

func (f *FDSums) add(p *Process) {
	own := f.group(p.Identity.Cgroup)
	if !p.Known.Has(sample.FDOpen) {
		for g := own; g != nil; g = g.parent {
			g.unknown = true
		}
		return
	}
	var first *group
	if p.Known.Has(sample.FDTable) && p.FDTable != 0 {
		if first = f.tables[p.FDTable]; first == own {
			return
		}
		if first == nil {
			f.tables[p.FDTable] = own
		}
	}
	if first != nil {
		f.addShared(p, first, own)
		return
	}
	for g := own; g != nil; g = g.parent {
		g.sum += p.FDOpen
	}
}

// addShared counts a table that was met in another cgroup first.
func (f *FDSums) addShared(p *Process, first, own *group) {
	for g := first; g != nil; g = g.parent {
		f.shared[tableIn{g, p.FDTable}] = true
	}
	for g := own; g != nil; g = g.parent {
		if in := (tableIn{g, p.FDTable}); !f.shared[in] {
			f.shared[in] = true
			g.sum += p.FDOpen
		}
	}
}

// Of returns the sum of one cgroup.
func (f *FDSums) Of(path string) (sum uint64, known bool) {
	g := f.groups[path]
	switch {
	case f.spoiled || g != nil && g.unknown:
		return 0, false
	case g == nil:
		return 0, true
	}
	return g.sum, true
}
