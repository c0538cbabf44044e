package leak

import (
	"cmp"
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
	cacheLike  = 2              // times the others: each descriptor is another file, as in a cache of files
	inUse      = 4              // times the others: what was opened is used still, as in a pool
	byMany     = 2 * closesNone // of all the sites together that one place in the code has
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
	tallies := l.tally(l.sites, nil, now, since)
	closed := uint64(0)
	for i := range l.sites {
		closed += l.sites[i].closed
	}
	for i := range tallies {
		if t, s := &tallies[i], &l.sites[i]; l.guilty(s, t, now, 0, func(site int) bool { return site == i }) {
			e.add(s, t, closed, i)
		}
	}
	if len(e.sites) == 0 {
		e = l.judgePlaces(tallies, now, since, closed)
	}
	slices.SortFunc(e.sites, func(a, b int) int {
		return cmp.Or(cmp.Compare(tallies[b].gathered, tallies[a].gathered), cmp.Compare(a, b))
	})
	return e
}

// judgePlaces looks for places in the code that leak though none of their sites does by
// itself: so many ways lead there. Those of its sites are guilty that gathered.
func (l *Ledger) judgePlaces(tallies []tally, now, since time.Duration, closed uint64) (e evidence) {
	places, of := l.places(tallies)
	sums := make([]site, len(places))
	for n := range places {
		sums[n] = places[n].site
	}
	for n, t := range l.tally(sums, of, now, since) {
		p := &places[n]
		if p.of > 1 && l.guilty(&p.site, &t, now, byMany, func(site int) bool { return of[site] == n }) {
			e.add(&p.site, &t, closed, p.gathered...)
		}
	}
	return e
}

// place is the sum of the sites of one place.
type place struct {
	site
	of       int   // so many
	gathered []int // those that gathered
}

// places sums up sites, and tells which of the sums each belongs to; a site whose place is
// not known is a place of its own.
func (l *Ledger) places(tallies []tally) (places []place, of []int) {
	of = make([]int, len(l.sites))
	at := map[int]int{} // by number
	for i := range l.sites {
		s := &l.sites[i]
		n, met := at[s.place]
		if !met || s.place == 0 {
			n = len(places)
			at[s.place] = n
			places = append(places, place{})
		}
		of[i] = n
		p := &places[n]
		p.of++
		p.opened, p.closed = p.opened+s.opened, p.closed+s.closed
		for k := range s.lives {
			p.lives[k] += s.lives[k]
		}
		if tallies[i].gathered > 0 {
			p.gathered = append(p.gathered, i)
		}
	}
	return places, of
}

// guilty tells whether what has been gathered is a leak. of says which sites it is of; it
// needs at least the share least.
func (l *Ledger) guilty(s *site, t *tally, now time.Duration, least uint64, of func(site int) bool) bool {
	count, share := s.share(t)
	share = max(share, least)
	times, passing := uint64(1), lifeFactor*s.p95()
	if t.used*2 >= t.survivors {
		times = inUse
	}
	if !t.enough(count, share*times, now, passing) {
		return false
	}
	return t.enough(count, share*max(times, cacheLike), now, passing) || !l.differ(of)
}

// add notes what is guilty of what was gathered. closed is how many descriptors the whole
// process closed.
func (e *evidence) add(s *site, t *tally, closed uint64, sites ...int) {
	e.sites = append(e.sites, sites...)
	e.covered += t.gathered
	if e.rule == "" {
		e.rule = RuleNeverClosed
	}
	if s.closed > 0 || closed < manyClosed {
		e.rule = RuleSurvivors
	}
}

// tally counts what is open, by site, or by the sums that of tells of each site.
func (l *Ledger) tally(sums []site, of []int, now, since time.Duration) []tally {
	tallies := make([]tally, len(sums))
	ages := make([]time.Duration, len(sums))
	for i := range sums {
		ages[i] = lifeFactor * sums[i].p95()
	}
	for _, b := range l.live {
		if b.at < since {
			continue
		}
		n := int(b.site)
		if of != nil {
			n = of[n]
		}
		t := &tallies[n]
		if t.gathered == 0 {
			t.oldest = b.at
		}
		t.gathered++
		age := now - b.at
		if age >= max(survivorAge, ages[n]) {
			t.survivors++
			if b.usedAt > 0 && now-b.usedAt <= usedWithin {
				t.used++
			}
		}
		if age >= ages[n] {
			t.newest = max(t.newest, b.at)
		}
	}
	return tallies
}

// share tells which descriptors of a site count, and which share of need they must be.
func (s *site) share(t *tally) (count, share uint64) {
	switch {
	case s.closed == 0:
		return t.gathered, closesNone
	case s.closed >= manyClosed && s.closed*2 >= s.opened:
		return t.survivors, closesMost
	}
	return t.survivors, closesSome
}

// enough tells whether so many descriptors that count are so large a share of need, and
// still become more. What is younger than passing may yet be closed.
func (t *tally) enough(count, share uint64, now, passing time.Duration) bool {
	if t.survivors == 0 {
		return false
	}
	growth := now - t.oldest
	for _, n := range need {
		if growth >= n.growth {
			return count*8 >= n.count*share && t.goesOn(now, passing)
		}
	}
	return false
}

// goesOn tells whether the site still gathers: within ten times its mean pause
// something was opened that stays.
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

// differ tells whether what some sites hold are all files, each another one.
func (l *Ledger) differ(of func(site int) bool) bool {
	type file struct{ device, inode uint64 }
	seen := make(map[file]bool, sampled)
	looked := 0
	for i := range l.files {
		f := &l.files[i]
		if f.Birth == 0 {
			continue
		}
		if s, _, ok := l.Find(f.Birth); !ok || !of(s) {
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
