package aggregate

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"rmagent/internal/sample"
)

// inCgroup gives every process of the table the path that path returns.
func inCgroup(t *Table, path func(*Process) string) {
	for i := range t.Len() {
		if p := t.At(i); p.Renew {
			p.Identity = &sample.Identity{Cgroup: path(p)}
		}
	}
}

func BenchmarkFDSums(b *testing.B) {
	for _, moving := range []int{0, 1} {
		b.Run(fmt.Sprintf("processes=5000/moving=%d", moving), func(b *testing.B) {
			s := population(5000, time.Second)
			for i := range s.Processes {
				s.Processes[i].FDTable = uint64(i + 1)
			}
			table := NewTable()
			table.Update(s)
			inCgroup(table, func(p *Process) string { return fmt.Sprintf("/system.slice/unit%d.service", p.ID.PID%100) })
			sums := NewFDSums()
			b.ReportAllocs()
			for b.Loop() {
				s.Monotonic += time.Second
				for i := range moving {
					s.Processes[i].FDOpen ^= 1
				}
				table.Update(s)
				sums.Update(table)
			}
		})
	}
}

// A sum is what one gets by listing the tables of each cgroup, whatever is shared,
// moves, ends or is unknown, and however often the sums are asked for.
func TestFDSumsAgreeWithAModel(t *testing.T) {
	paths := []string{"/", "/a", "/a/b", "/a/b/c", "/ab", "/d", ""}
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		alive := map[int32]sample.Process{}
		where := map[int32]string{}
		table, sums := NewTable(), NewFDSums()
		for tick := range 80 {
			for pid := range int32(12) {
				p, ok := alive[pid]
				switch {
				case !ok && rng.IntN(4) == 0:
					p = proc(pid, uint64(tick), fds(rng.Uint64N(9)))
					p.KernelThread = rng.IntN(6) == 0
					alive[pid] = p
					where[pid] = paths[rng.IntN(len(paths)-1)]
					continue
				case !ok || rng.IntN(5) > 0:
					continue
				case rng.IntN(6) == 0:
					delete(alive, pid)
					continue
				}
				switch rng.IntN(5) {
				case 0:
					p.FDOpen, p.FDTable = rng.Uint64N(9), 0
				case 1:
					p.FDTable = 1 + rng.Uint64N(4)
					p.FDOpen = 10 * p.FDTable // one table has one count
				case 2:
					p.Known ^= 1 << sample.FDOpen
				case 3:
					p.CgroupID++
					where[pid] = paths[rng.IntN(len(paths))]
				case 4:
					p.CPUNanos++
				}
				alive[pid] = p
			}
			var procs []sample.Process
			for _, p := range alive {
				procs = append(procs, p)
			}
			update(table, float64(tick+1), procs...)
			inCgroup(table, func(p *Process) string { return where[p.ID.PID] })
			if rng.IntN(3) == 0 {
				continue // cgroups are not read at every tick
			}
			sums.Update(table)
			for _, path := range paths[:len(paths)-1] {
				want, wantKnown := modelFDSum(alive, where, path)
				got, known := sums.Of(path)
				if known != wantKnown || known && got != want {
					t.Fatalf("seed %d, tick %d: %s has %d (%v), want %d (%v)", seed, tick, path, got, known, want, wantKnown)
				}
			}
		}
	}
}

// Where a process was missed, so were its descriptors.
// In a cgroup namespace "/" is the reader's own cgroup, and others are not below it.
func TestFDSumsInACgroupNamespace(t *testing.T) {
	table, sums := NewTable(), NewFDSums()
	update(table, 1, proc(1, 1, fds(3)), proc(2, 2, fds(5)), proc(3, 3, fds(7)), proc(4, 4, fds(9)))
	inCgroup(table, func(p *Process) string { return []string{"/", "/..", "/../other", "/..own"}[p.ID.PID-1] })
	sums.Update(table)
	for path, want := range map[string]uint64{"/": 12, "/..own": 9} {
		if got, known := sums.Of(path); got != want || !known {
			t.Errorf("%s: %d (%v), want %d", path, got, known, want)
		}
	}
}

func TestFDSumsOfAnIncompleteSnapshot(t *testing.T) {
	table, sums := NewTable(), NewFDSums()
	path := func(*Process) string { return "/a" }
	sum := func(what string, want uint64, wantKnown bool) {
		t.Helper()
		inCgroup(table, path)
		sums.Update(table)
		if got, known := sums.Of("/a"); known != wantKnown || known && got != want {
			t.Errorf("%s: %d (%v), want %d (%v)", what, got, known, want, wantKnown)
		}
	}
	one, two := proc(1, 1, fds(3)), proc(2, 2, fds(5))
	update(table, 1, one, two)
	sum("complete", 8, true)
	table.Update(&sample.Snapshot{Monotonic: 2 * time.Second, Processes: []sample.Process{one}, Missed: 1})
	sum("one was missed", 0, false)
	update(table, 3, one, two)
	sum("both are back", 8, true)
	update(table, 4, one)
	sum("one ended", 3, true)
}

// modelFDSum lists the tables of one cgroup.
func modelFDSum(alive map[int32]sample.Process, where map[int32]string, path string) (sum uint64, known bool) {
	prefix := strings.TrimSuffix(path, "/") + "/"
	tables := map[uint64]bool{}
	for pid, p := range alive {
		if p.KernelThread {
			continue
		}
		if where[pid] == "" {
			return 0, false
		}
		if !strings.HasPrefix(where[pid]+"/", prefix) {
			continue
		}
		if !p.Known.Has(sample.FDOpen) {
			return 0, false
		}
		if p.FDTable != 0 && tables[p.FDTable] {
			continue
		}
		tables[p.FDTable] = true
		sum += p.FDOpen
	}
	return sum, true
}

func TestActiveMarksTheCgroupsAbove(t *testing.T) {
	table := NewTable()
	procs := []sample.Process{proc(1, 1), proc(2, 1), proc(3, 1)}
	update(table, 1, procs...)
	for i, path := range []string{"/pods/a/x", "/pods/b", "/"} {
		table.At(i).Identity = &sample.Identity{Cgroup: path}
	}
	mark := func() string {
		paths := map[string]bool{}
		table.Active(paths, 0)
		return strings.Join(slices.Sorted(maps.Keys(paths)), " ")
	}
	if got := mark(); got != "/ /pods /pods/a /pods/a/x /pods/b" {
		t.Errorf("at first: %s", got)
	}
	procs[1].CPUNanos++
	update(table, 2, procs...)
	if got := mark(); got != "/ /pods /pods/b" {
		t.Errorf("one moved: %s", got)
	}
	update(table, 3, procs...)
	if got := mark(); got != "" {
		t.Errorf("none moved: %s", got)
	}
	procs[1].CPUNanos++
	procs[2].CPUNanos++
	update(table, 4, procs...)
	paths := map[string]bool{}
	table.Active(paths, 2)
	if len(paths) != 1 || !paths["/"] {
		t.Errorf("the reader and another moved: %v", paths)
	}
}
