package leak

import (
	"slices"
	"time"

	"rmagent/internal/sample"
)

// Ledger is what one process opened since tracing began, by site, and what of it is
// open. Sites are numbers from 0 that the caller chooses; they stay what they are.
type Ledger struct {
	sites  []site
	live   []birth   // by seq
	held   []holding // what was open at the last Hold, by seq
	heldAt time.Duration
	newest uint64      // the highest seq so far
	files  []sample.FD // of the last Hold
}

// birth is a descriptor that is open, as far as is known.
type birth struct {
	seq  uint64
	at   time.Duration
	site int32
	used uint64 // sample.FD.Used at the last Hold
	// usedAt is when that changed last, but for the time right after it was opened; 0:
	// never.
	usedAt time.Duration
}

// holding is a descriptor of a list.
type holding struct{ seq, used uint64 }

// opening is how long what happens to a descriptor belongs to its opening.
const opening = 5 * time.Second

type site struct {
	place                  int // in the code; 0: not known
	opened, closed, failed uint64
	held                   uint64
	lives                  [lifeBuckets]uint32 // of what was closed
}

// Lifetimes are counted in buckets that double: the first is up to a quarter of a
// second, which is no finer than closes are noticed.
const (
	lifeBuckets = 24 // the last is everything above 12 days
	firstLife   = 250 * time.Millisecond
)

// SiteCounts is what became of the descriptors of one site.
type SiteCounts struct {
	Opened, Closed uint64
	Failed         uint64 // calls that found no descriptor free
	Held           uint64 // at the last Hold, and what was opened since
}

// Counts returns the counts of a site, all 0 of one that nothing is known of.
func (l *Ledger) Counts(site int) SiteCounts {
	if site >= len(l.sites) {
		return SiteCounts{}
	}
	s := &l.sites[site]
	return SiteCounts{Opened: s.opened, Closed: s.closed, Failed: s.failed, Held: s.held}
}

// SetPlace says which place in the code a site is of, by a number from 1 that the caller
// chooses: sites of one place differ only in who called it.
func (l *Ledger) SetPlace(n, place int) { l.site(n).place = place }

func (l *Ledger) site(n int) *site {
	for n >= len(l.sites) {
		l.sites = append(l.sites, site{})
	}
	return &l.sites[n]
}

// Open notes that a site opened a descriptor. Who walks stacks may tell of it late,
// after the descriptor was closed.
func (l *Ledger) Open(n int, seq uint64, at time.Duration) {
	s := l.site(n)
	s.opened++
	if at < l.heldAt {
		if _, open := slices.BinarySearchFunc(l.held, seq, func(h holding, seq uint64) int { return compare(h.seq, seq) }); !open {
			s.close(l.heldAt - at)
			return
		}
	}
	s.held++
	b := birth{seq: seq, at: at, site: int32(n)}
	if seq > l.newest {
		l.newest = seq
		l.live = append(l.live, b)
		return
	}
	i, there := slices.BinarySearchFunc(l.live, seq, func(b birth, seq uint64) int { return compare(b.seq, seq) })
	if !there {
		l.live = slices.Insert(l.live, i, b)
	}
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Fail notes a call of a site that found no descriptor free.
func (l *Ledger) Fail(n int) { l.site(n).failed++ }

// Hold takes what the process had open at an instant. What was opened before and is
// not there any more was closed. fds are kept, and must stay what they are, until the
// next Hold.
func (l *Ledger) Hold(at time.Duration, fds []sample.FD) {
	l.held = l.held[:0]
	for i := range fds {
		if fds[i].Birth != 0 {
			l.held = append(l.held, holding{fds[i].Birth, fds[i].Used})
		}
	}
	slices.SortFunc(l.held, func(a, b holding) int { return compare(a.seq, b.seq) })
	l.heldAt, l.files = at, fds
	left := l.live[:0]
	i := 0
	for _, b := range l.live {
		for i < len(l.held) && l.held[i].seq < b.seq {
			i++
		}
		listed := i < len(l.held) && l.held[i].seq == b.seq
		if listed && b.used != l.held[i].used {
			b.used = l.held[i].used
			if at-b.at > opening {
				b.usedAt = at
			}
		}
		if b.at >= at || listed {
			left = append(left, b)
			continue
		}
		l.sites[b.site].close(at - b.at)
		l.sites[b.site].held--
	}
	l.live = left
}

func (s *site) close(life time.Duration) {
	s.closed++
	i := 0
	for limit := firstLife; life > limit && i < lifeBuckets-1; limit *= 2 {
		i++
	}
	s.lives[i]++
}

// p95 is a length that 95 % of the lifetimes don't exceed; 0 where nothing was
// closed.
func (s *site) p95() time.Duration {
	total := uint64(0)
	for _, n := range s.lives {
		total += uint64(n)
	}
	if total == 0 {
		return 0
	}
	sum := uint64(0)
	limit := firstLife
	for _, n := range s.lives {
		sum += uint64(n)
		if sum*20 >= total*19 {
			break
		}
		limit *= 2
	}
	return limit
}

// Since calls told with each descriptor that was opened at an instant or later and is open,
// as far as is known.
func (l *Ledger) Since(at time.Duration, told func(site int, seq uint64)) {
	for i := range l.live {
		if b := &l.live[i]; b.at >= at {
			told(int(b.site), b.seq)
		}
	}
}

// Find returns the site and the time of a descriptor that is open.
func (l *Ledger) Find(seq uint64) (site int, at time.Duration, ok bool) {
	i, ok := slices.BinarySearchFunc(l.live, seq, func(b birth, seq uint64) int { return compare(b.seq, seq) })
	if !ok {
		return 0, 0, false
	}
	return int(l.live[i].site), l.live[i].at, true
}
