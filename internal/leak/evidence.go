package leak

import (
	"slices"
	"time"

	"rmagent/internal/sample"
)

// The rules that make a leak of growth, as records name them.
const (
	RuleSurvivors   = "survivors"    // far outlive what the same site closes
	RuleNeverClosed = "never_closed" // the site closes nothing, others do
	RuleLimitNear   = "limit_near"
)

// What counts as a survivor: it is older than survivorAge, and than lifeFactor times
// the p95 of the lifetimes of what its site closes.
const (
	survivorAge = 30 * time.Second
	lifeFactor  = 10
)

// need is how many descriptors a site that closes nothing must have gathered to be
// called a leak, by how long it has done so without a pause. A pool or a crowd of
// clients that arrives gathers as steadily, until it is full; so short growth must
// be large. Which share of it a site needs depends on what else is known of it.
var need = []struct {
	growth time.Duration
	count  uint64
}{
	{6 * time.Hour, 50},
	{time.Hour, 100},
	{10 * time.Minute, 200},
	{45 * time.Second, 400},
}

// Shares of need, in eighths. A site that closes things is judged by its survivors
// alone.
const (
	closesNone = 8
	closesSome = 5
	closesMost = 4
	cacheLike  = 2 // times the others: each descriptor is another file, as in a cache of files
	inUse      = 4 // times the others: what was opened is used still, as in a pool
)

// usedWithin is how long ago a survivor was used that is in use.
const usedWithin = time.Minute

// manyClosed is from how many closes on a site's habits are known.
const manyClosed = 50

// The limit is near where this share of it is open and it is hit within horizon.
const (
	nearRatio = 0.8
	horizon   = 10 * time.Minute
)

// tally is what one pass over a ledger finds of a site.
type tally struct {
	gathered  uint64 // open, and opened since the growth began
	survivors uint64 // of these
	used      uint64 // of these
	oldest    time.Duration
	newest    time.Duration // when the last of gathered was opened that is no passer-by
}

// evidence is what makes a leak of growth.
type evidence struct {
	rule    string
	sites   []int  // guilty, those that hold most first
	covered uint64 // descriptors that are open because of them
}

// judge looks for sites that leak, in a process whose descriptors grow since an
// instant and still do.
func (l *Ledger) judge(now, since time.Duration) (e evidence) {
	tallies := l.tally(now, since)
	closed := uint64(0)
	for i := range l.sites {
		closed += l.sites[i].closed
	}
	e.rule = RuleNeverClosed
	for i := range tallies {
		t, s := &tallies[i], &l.sites[i]
		if !s.leaks(t, now, 1) || !s.leaks(t, now, cacheLike) && l.differ(i) {
			continue
		}
		e.sites = append(e.sites, i)
		e.covered += t.gathered
		if s.closed > 0 || closed < manyClosed {
			e.rule = RuleSurvivors
		}
	}
	if len(e.sites) == 0 {
		return evidence{}
	}
	slices.SortFunc(e.sites, func(a, b int) int { return compare(tallies[b].gathered, tallies[a].gathered) })
	return e
}

// tally counts what is open, by site.
func (l *Ledger) tally(now, since time.Duration) []tally {
	tallies := make([]tally, len(l.sites))
	ages := make([]time.Duration, len(l.sites))
	for i := range l.sites {
		ages[i] = lifeFactor * l.sites[i].p95()
	}
	for _, b := range l.live {
		if b.at < since {
			continue
		}
		t := &tallies[b.site]
		if t.gathered == 0 {
			t.oldest = b.at
		}
		t.gathered++
		age := now - b.at
		if age >= max(survivorAge, ages[b.site]) {
			t.survivors++
			if b.usedAt > 0 && now-b.usedAt <= usedWithin {
				t.used++
			}
		}
		if age >= ages[b.site] {
			t.newest = max(t.newest, b.at)
		}
	}
	return tallies
}

// leaks tells whether a site has gathered so many times what it needs, and still
// gathers.
func (s *site) leaks(t *tally, now time.Duration, times uint64) bool {
	if t.survivors == 0 {
		return false
	}
	count, share := t.survivors, uint64(closesSome)
	switch {
	case s.closed == 0:
		count, share = t.gathered, closesNone
	case s.closed >= manyClosed && s.closed*2 >= s.opened:
		share = closesMost
	}
	if t.used*2 >= t.survivors {
		times = max(times, inUse)
	}
	growth := now - t.oldest
	for _, n := range need {
		if growth >= n.growth {
			return count*8 >= n.count*share*times && t.goesOn(now, lifeFactor*s.p95())
		}
	}
	return false
}

// goesOn tells whether the site still gathers: within ten times its mean pause
// something was opened that stays. What is younger than passing may yet be closed.
func (t *tally) goesOn(now, passing time.Duration) bool {
	pause := (now - t.oldest) / time.Duration(t.gathered)
	return now-t.newest-passing <= max(pauses*pause, shortest)
}

// A growth has ended where nothing came for so many of its mean pauses, and for so
// long. Of random arrivals one pause in 22,000 is that long.
const (
	pauses   = 10
	shortest = 5 * time.Second
)

// sampled is how many files of a site are compared.
const sampled = 512

// differ tells whether what a site holds are all files, each another one.
func (l *Ledger) differ(n int) bool {
	type file struct{ device, inode uint64 }
	seen := make(map[file]bool, sampled)
	looked := 0
	for i := range l.files {
		f := &l.files[i]
		if f.Birth == 0 {
			continue
		}
		if s, _, ok := l.Find(f.Birth); !ok || s != n {
			continue
		}
		if f.Kind != sample.FDFile {
			return false
		}
		seen[file{f.Device, f.Inode}] = true
		if looked++; looked == sampled {
			break
		}
	}
	return looked > 0 && len(seen)*10 >= looked*9
}
