package metrics

import (
	"cmp"
	"slices"

	"rmagent/record"
)

// sum adds values of which some may be unknown.
type sum struct {
	of      float64
	n       int32 // values that are known
	unknown int32
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
	g.threads.add(record.Float(p.Threads))
	g.fds.add(record.Float(p.FDOpen))
	g.rss.add(record.Float(p.RSSBytes))
	g.cpu.add(p.CPUCores)
	g.diskRead.add(p.DiskReadBytesPerSecond)
	g.diskWritten.add(p.DiskWrittenBytesPerSecond)
	g.received.add(p.NetReceivedBytesPerSecond)
	g.sent.add(p.NetSentBytesPerSecond)
}

// bys are the ways to group processes.
var bys = [3]struct {
	name string
	of   func(*record.Process) string // empty: in no group
}{
	{"unit", func(p *record.Process) string { return p.Unit.Or("") }},
	{"container", func(p *record.Process) string { return p.ContainerID.Or("") }},
	{"name", func(p *record.Process) string { return p.Comm }},
}

// grouper sums processes by a key, in memory that it uses again.
type grouper struct {
	all   []group
	index map[string]int // in all, by name
}

// by returns the groups that take most memory, until the next call, and how many there
// are beside.
func (g *grouper) by(list []record.Process, of func(*record.Process) string, most int) (groups []*group, rest int) {
	if g.index == nil {
		g.index = map[string]int{}
	}
	clear(g.index)
	g.all = g.all[:0]
	for i := range list {
		name := of(&list[i])
		if name == "" {
			continue
		}
		at, there := g.index[name]
		if !there {
			at = len(g.all)
			g.index[name] = at
			g.all = append(g.all, group{name: name})
		}
		g.all[at].add(&list[i])
	}
	groups = largest(g.all, most, func(a, b *group) int {
		return cmp.Or(cmp.Compare(b.rss.of, a.rss.of), cmp.Compare(b.processes, a.processes), cmp.Compare(a.name, b.name))
	})
	return groups, len(g.all) - len(groups)
}

// largest returns the first n elements of a list in an order. Most of a long list is
// compared once, with the last of these.
func largest[T any](list []T, n int, order func(a, b *T) int) []*T {
	top := make([]*T, 0, n+1)
	for i := range list {
		x := &list[i]
		if len(top) == n && order(x, top[n-1]) >= 0 {
			continue
		}
		at, _ := slices.BinarySearchFunc(top, x, order)
		top = slices.Insert(top, at, x)
		top = top[:min(len(top), n)]
	}
	return top
}

// topProcesses are those that take most CPU time, memory, or descriptors, a third of n
// each.
func topProcesses(list []record.Process, n int) []*record.Process {
	keys := []func(*record.Process) float64{
		func(p *record.Process) float64 { return p.CPUCores.Or(0) },
		func(p *record.Process) float64 { return record.Float(p.RSSBytes).Or(0) },
		func(p *record.Process) float64 { return record.Float(p.FDOpen).Or(0) },
	}
	chosen := map[*record.Process]bool{}
	var top []*record.Process
	for k, key := range keys {
		for _, p := range largest(list, n, func(a, b *record.Process) int {
			return cmp.Or(cmp.Compare(key(b), key(a)), cmp.Compare(a.PID, b.PID))
		}) {
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
