package metrics

import (
	"cmp"
	"maps"
	"slices"

	"rmagent/record"
)

// sum adds values of which some may be unknown.
type sum struct {
	of      float64
	n       int // values that are known
	unknown int
}

func (s *sum) add(o num) {
	if v, ok := o.Get(); ok {
		s.of += v
		s.n++
		return
	}
	s.unknown++
}

// total is unknown where a part is.
func (s *sum) total() num { return record.SomeIf(s.of, s.unknown == 0) }

// known is the sum of what is known, if anything is.
func (s *sum) known() num { return record.SomeIf(s.of, s.n > 0) }

// group is what processes of one unit, container or name have together.
type group struct {
	name      string
	processes int

	threads, fds, rss, cpu, diskRead, diskWritten, received, sent sum
}

func (g *group) add(p *record.Process) {
	g.processes++
	g.threads.add(float(p.Threads))
	g.fds.add(float(p.FDOpen))
	g.rss.add(float(p.RSSBytes))
	g.cpu.add(p.CPUCores)
	g.diskRead.add(p.DiskReadBytesPerSecond)
	g.diskWritten.add(p.DiskWrittenBytesPerSecond)
	g.received.add(p.NetReceivedBytesPerSecond)
	g.sent.add(p.NetSentBytesPerSecond)
}

// bys are the ways to group processes.
var bys = []struct {
	name string
	of   func(*record.Process) string // empty: in no group
}{
	{"unit", func(p *record.Process) string { return p.Unit.Or("") }},
	{"container", func(p *record.Process) string { return p.ContainerID.Or("") }},
	{"name", func(p *record.Process) string { return p.Comm }},
}

// groupBy sums processes by a key and returns the groups that take most memory, and
// how many there are beside.
func groupBy(list []record.Process, of func(*record.Process) string, most int) (groups []*group, rest int) {
	byName := map[string]*group{}
	for i := range list {
		name := of(&list[i])
		if name == "" {
			continue
		}
		g := byName[name]
		if g == nil {
			g = &group{name: name}
			byName[name] = g
		}
		g.add(&list[i])
	}
	groups = slices.Collect(maps.Values(byName))
	return largest(groups, most, func(a, b *group) int {
		return cmp.Or(cmp.Compare(b.rss.of, a.rss.of), cmp.Compare(b.processes, a.processes), cmp.Compare(a.name, b.name))
	})
}

// largest returns the first most of a list in an order, and how many there are beside.
func largest[T any](list []T, most int, order func(a, b T) int) ([]T, int) {
	if len(list) <= most {
		return list, 0
	}
	slices.SortFunc(list, order)
	return list[:most], len(list) - most
}

// topProcesses are those that take most CPU time, memory, or descriptors, a third of n
// each.
func topProcesses(list []record.Process, n int) []*record.Process {
	keys := []func(*record.Process) float64{
		func(p *record.Process) float64 { return p.CPUCores.Or(0) },
		func(p *record.Process) float64 { return float(p.RSSBytes).Or(0) },
		func(p *record.Process) float64 { return float(p.FDOpen).Or(0) },
	}
	chosen := map[*record.Process]bool{}
	var top []*record.Process
	all := make([]*record.Process, len(list))
	for i := range list {
		all[i] = &list[i]
	}
	for k, key := range keys {
		slices.SortFunc(all, func(a, b *record.Process) int {
			return cmp.Or(cmp.Compare(key(b), key(a)), cmp.Compare(a.PID, b.PID))
		})
		for _, p := range all {
			if len(top) >= n*(k+1)/len(keys) {
				break
			}
			if !chosen[p] {
				chosen[p] = true
				top = append(top, p)
			}
		}
	}
	return top
}
