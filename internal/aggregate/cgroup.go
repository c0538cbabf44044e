package aggregate

import (
	"strings"

	"rmagent/internal/sample"
)

// Active calls see with the cgroup id of every process that did something since
// the reading before.
func (t *Table) Active(see func(cgroupID uint64)) {
	for _, slot := range t.order {
		if p := &t.slots[slot]; p.Active && p.Known.Has(sample.CgroupID) {
			see(p.CgroupID)
		}
	}
}

// FDSums sums the open descriptors of each cgroup over its own and its
// descendants' processes. A table that several processes share counts once in
// each cgroup. Where a process's count or cgroup is unknown, so is the sum of the
// cgroups that it would belong to; a process of unknown cgroup spoils all.
type FDSums struct {
	sums    map[string]uint64
	unknown map[string]bool
	tables  map[tableIn]bool
	spoiled bool
}

type tableIn struct {
	path  string
	table uint64
}

// NewFDSums returns empty sums.
func NewFDSums() *FDSums {
	return &FDSums{sums: map[string]uint64{}, unknown: map[string]bool{}, tables: map[tableIn]bool{}}
}

// Update sums the table's processes anew.
func (f *FDSums) Update(t *Table) {
	clear(f.sums)
	clear(f.unknown)
	clear(f.tables)
	f.spoiled = false
	for _, slot := range t.order {
		p := &t.slots[slot]
		switch {
		case p.KernelThread:
			continue
		case p.Identity == nil || p.Identity.Cgroup == "":
			f.spoiled = true
		default:
			f.add(p)
		}
	}
}

func (f *FDSums) add(p *Process) {
	known := p.Known.Has(sample.FDOpen)
	for path := p.Identity.Cgroup; ; path = path[:strings.LastIndexByte(path, '/')] {
		if path == "" {
			path = "/"
		}
		if !known {
			f.unknown[path] = true
		} else if !f.shared(p, path) {
			f.sums[path] += p.FDOpen
		}
		if path == "/" {
			return
		}
	}
}

// shared tells whether the process's table was counted in this cgroup already.
func (f *FDSums) shared(p *Process, path string) bool {
	if !p.Known.Has(sample.FDTable) || p.FDTable == 0 {
		return false
	}
	key := tableIn{path, p.FDTable}
	if f.tables[key] {
		return true
	}
	f.tables[key] = true
	return false
}

// Of returns the sum of one cgroup.
func (f *FDSums) Of(path string) (sum uint64, known bool) {
	if f.spoiled || f.unknown[path] {
		return 0, false
	}
	return f.sums[path], true
}
