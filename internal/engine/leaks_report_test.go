package engine

import (
	"strconv"
	"testing"
	"time"

	"rmagent/internal/held"
	"rmagent/internal/sample"
	"rmagent/internal/stack/worker"
	"rmagent/record"
)

// Two processes may have one table of descriptors, and a child has what its parent opened:
// who opened a descriptor is told of whoever holds it, and its totals only of who did.
func TestWhatAnotherProcessOpenedHasItsStack(t *testing.T) {
	owner, sharer, child := sample.ID{PID: 7, StartTicks: 1}, sample.ID{PID: 8, StartTicks: 2}, sample.ID{PID: 9, StartTicks: 3}
	l := NewLeaks(LeakOptions{Now: func() time.Duration { return 10 * time.Second }})
	for _, id := range []sample.ID{owner, sharer} {
		l.traced[id] = newTraced()
		l.traced[id].bySite = map[*worker.Site]int{}
	}
	comm := sample.Comm{'s', 'h', 'a', 'r', 'e', 'r'}
	leaky := stackOf("", "open", "leak", "main")
	l.open(41, leaky, &waiting{id: sharer, at: time.Second, thread: comm})
	l.open(42, leaky, &waiting{id: sharer, at: 2 * time.Second, thread: comm})
	fds := []held.FD{{FD: sample.FD{Number: 3, Birth: 41}}, {FD: sample.FD{Number: 4, Birth: 42}}, {FD: sample.FD{Number: 5, Birth: 43}}}
	for _, id := range []sample.ID{owner, sharer, child} {
		who := attribution{l: l, id: id}
		groups := held.Groups(fds, func(f *held.FD) int32 {
			n, _ := who.siteOf(f)
			return n
		})
		if len(groups) != 2 || len(groups[0].FDs) != 2 {
			t.Fatalf("%v: %v", id, groups)
		}
		s := who.site(&groups[0], fds, l.Now(), 2)
		if len(s.Stack) != 3 || s.Thread.Or("") != "sharer" || s.OldestSeconds.Or(0) != 9 || s.OpenedTotal.Known() != (id == sharer) {
			t.Errorf("%v: %+v", id, s)
		}
		unknown, want := who.site(&groups[1], fds, l.Now(), 1), sample.StackLost
		if id == child { // who is not traced
			want = sample.BeforeTracing
		}
		if unknown.StackEnd.Or("") != want.String() {
			t.Errorf("%v: %+v", id, unknown)
		}
	}
}

// All that a process holds is in its sites or counted as what none has, and what a site
// opened is what it closed and what it holds, in how many groups ever.
func TestSitesAddUp(t *testing.T) {
	parent, child := sample.ID{PID: 7, StartTicks: 1}, sample.ID{PID: 8, StartTicks: 2}
	l := NewLeaks(LeakOptions{Now: func() time.Duration { return 100 * time.Second }})
	for _, id := range []sample.ID{parent, child} {
		l.traced[id] = newTraced()
		l.traced[id].bySite = map[*worker.Site]int{}
	}
	const sites, each, closed = 300, 5, 2
	var fds []held.FD
	for i := range sites {
		stack := stackOf("", "open", strconv.Itoa(i), "main")
		for k := range each {
			id, birth := parent, uint64(1+i*each+k)
			if i%3 == 0 {
				id = child
			}
			l.open(birth, stack, &waiting{id: id, at: time.Second})
			if k == 0 { // and one since the list was made
				l.open(1<<20+birth, stack, &waiting{id: id, at: 99 * time.Second})
			}
			if k >= closed {
				fd := held.FD{FD: sample.FD{Number: int32(birth), Birth: birth, Kind: sample.FDFile}}
				fd.Target = "/srv/" + strconv.Itoa(k) // three groups of each site
				fds = append(fds, fd)
			}
		}
	}
	fds = append(fds, held.FD{FD: sample.FD{Number: 5000}}, held.FD{FD: sample.FD{Number: 5001, Birth: 1 << 40}})
	const most = 100
	for _, id := range []sample.ID{parent, child} {
		r := record.Leak{Unattributed: map[string]uint64{}}
		l.sites(&r, id, fds, 99*time.Second, nil, most)
		sum := r.Unattributed["not_listed"]
		for i := range r.Sites {
			s := &r.Sites[i]
			sum += s.Held
			if opened, ok := s.OpenedTotal.Get(); ok && (opened != each || s.ClosedTotal.Or(0) != closed) {
				t.Errorf("%v: %+v", id, s)
			}
		}
		if sum != uint64(len(fds)) || len(r.Sites) != most {
			t.Errorf("%v: %d of %d descriptors, in %d sites", id, sum, len(fds), len(r.Sites))
		}
	}
}
