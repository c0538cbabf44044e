package engine

import (
	"errors"
	"io/fs"
	"slices"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/aggregate"
	"rmagent/internal/held"
	"rmagent/internal/leak"
	"rmagent/internal/sample"
	"rmagent/record"
)

const (
	maxSites = 32   // in a record; the rest is counted
	maxPaths = 8192 // read for a record, 2 us each
)

// describe makes a record of a change. p is nil where the process is gone.
func (l *Leaks) describe(c *leak.Change, p *aggregate.Process) record.Leak {
	r := record.Leak{
		PID: c.ID.PID, StartTicks: c.ID.StartTicks, Comm: record.Text(c.Comm.Bytes()),
		Verdict: c.Verdict, FDOpen: c.Open, FDLimit: c.Limit,
		SecondsToLimit: c.SecondsToLimit, ConfidenceRatio: c.ConfidenceRatio,
		GrowthPerSecond: record.Some(c.PerSecond),
		Rule:            record.SomeIf(c.Rule, c.Rule != ""),
	}
	if c.Verdict == record.VerdictOver {
		r.GrowthPerSecond, r.SecondsToLimit = record.Some(0.0), record.Opt[float64]{}
	}
	r.Sites, r.Unattributed = []record.Site{}, map[string]uint64{}
	if p != nil {
		if err := l.fillSites(&r, p.ID, c.Sites, maxSites, maxPaths); err != nil && !gone(err) {
			l.Log.Warn("fds_failed", zap.Int32("pid", p.ID.PID), zap.Error(err))
		}
	}
	return r
}

// Verdict is what a process's descriptors look like now.
func (l *Leaks) Verdict(id sample.ID) record.Verdict { return l.judge.Status(id).Verdict }

// Settle takes what is waiting to be walked: for whoever looks once, at the end.
func (l *Leaks) Settle() {
	for end := l.Now() + settleTime; len(l.waiting) > 0 && l.Now() < end; {
		time.Sleep(lookEvery / 10)
		l.drain()
	}
}

// settleTime bounds how long Settle waits.
const settleTime = 2 * time.Second

// Summary makes a record of a process without its sites: its verdict is steady or
// unknown where nothing else is known, by whether it was watched long enough.
func (l *Leaks) Summary(p *aggregate.Process, watched time.Duration) record.Leak {
	s := l.judge.Status(p.ID)
	r := record.Leak{
		PID: p.ID.PID, StartTicks: p.ID.StartTicks, Comm: record.Text(p.Comm.Bytes()),
		Verdict: s.Verdict, Rule: record.SomeIf(s.Rule, s.Rule != ""),
		FDOpen:          record.SomeIf(p.FDOpen, p.Known.Has(sample.FDOpen)),
		FDLimit:         record.SomeIf(p.FDLimit, p.Known.Has(sample.FDLimit) && p.FDLimit != sample.Unlimited),
		SecondsToLimit:  s.SecondsToLimit,
		ConfidenceRatio: s.ConfidenceRatio,
		GrowthPerSecond: record.SomeIf(s.PerSecond, s.Verdict != record.VerdictSteady || watched >= steadyAfter),
	}
	if s.Verdict == record.VerdictSteady && (watched < steadyAfter || !p.Known.Has(sample.FDOpen)) {
		r.Verdict = record.VerdictUnknown
	}
	return r
}

// Describe is Summary with what the process holds now. Where that can't be listed the
// error says so, and the rest of the record stands.
func (l *Leaks) Describe(p *aggregate.Process, watched time.Duration) (record.Leak, error) {
	r := l.Summary(p, watched)
	s := l.judge.Status(p.ID)
	return r, l.fillSites(&r, p.ID, s.Sites, 4*maxSites, 8*maxPaths)
}

// steadyAfter is from when on a process that does not grow is called steady.
const steadyAfter = 8 * time.Second

// list lists what a process holds, by the best that there is: a process that a kernel hides
// from its programs may be in /proc. It returns who told.
func (l *Leaks) list(id sample.ID, dst *sample.FDList) (held.Lister, error) {
	if l.Tracer != nil {
		if err := l.Tracer.List(id, dst); err == nil {
			return l.Tracer, nil
		}
	}
	return l.Proc, l.Proc.List(id, dst)
}

// fillSites lists what a process holds, by site: guilty ones first.
func (l *Leaks) fillSites(r *record.Leak, id sample.ID, guilty []int, most, paths int) error {
	r.Sites, r.Unattributed = []record.Site{}, map[string]uint64{}
	var list sample.FDList
	now := l.Now()
	lister, err := l.list(id, &list)
	if err != nil {
		list.Missed = r.FDOpen.Or(0)
		if errors.Is(err, fs.ErrPermission) {
			list.Missed, list.Denied = 0, list.Missed
		}
		countUnlisted(r, &list)
		return err
	}
	if l.traced[id] != nil {
		l.drain()
	}
	l.sites(r, id, l.Proc.Targets(&list, lister, paths), now, guilty, most)
	countUnlisted(r, &list)
	return nil
}

// countUnlisted counts the descriptors that nothing more is known of.
func countUnlisted(r *record.Leak, list *sample.FDList) {
	if list.Missed > 0 {
		r.Unattributed["not_read"] = list.Missed
	}
	if list.Denied > 0 {
		r.Unattributed["not_permitted"] = list.Denied
	}
}

// sites puts what a process held at an instant into a record: so many sites at most, guilty
// ones first.
func (l *Leaks) sites(r *record.Leak, id sample.ID, fds []held.FD, now time.Duration, guilty []int, most int) {
	who := attribution{l: l, id: id, younger: l.younger(id, fds, now)}
	groups := held.Groups(fds, func(f *held.FD) int32 {
		n, _ := who.siteOf(f)
		return n
	})
	slices.SortStableFunc(groups, func(a, b held.Group) int { return rank(a.Site, guilty) - rank(b.Site, guilty) })
	whole := map[int32]uint64{} // by site
	for i := range groups {
		whole[groups[i].Site] += uint64(len(groups[i].FDs))
	}
	for i := range groups {
		g := &groups[i]
		if g.Site < 0 {
			r.Unattributed[sample.Unattributed(-g.Site).String()] += uint64(len(g.FDs))
		}
		if i >= most {
			r.Unattributed["not_listed"] += uint64(len(g.FDs))
			continue
		}
		r.Sites = append(r.Sites, who.site(g, fds, now, whole[g.Site]))
		delete(whole, g.Site) // its totals are told once
	}
	if t := l.traced[id]; t != nil {
		who.addFailed(r, t, groups)
	}
}

// younger counts what a process's sites opened since its descriptors were listed: what is in
// no list because of that was not closed.
func (l *Leaks) younger(id sample.ID, fds []held.FD, listed time.Duration) map[int]uint64 {
	if l.traced[id] == nil {
		return nil
	}
	later := map[uint64]int{} // sites, by birth
	l.judge.Ledger(id).Since(listed, func(site int, seq uint64) { later[seq] = site })
	for i := range fds {
		delete(later, fds[i].Birth)
	}
	counts := map[int]uint64{}
	for _, site := range later {
		counts[site]++
	}
	return counts
}

// addFailed adds the sites that hold nothing, and were refused a descriptor.
func (a *attribution) addFailed(r *record.Leak, t *traced, groups []held.Group) {
	for n := range min(len(t.sites), maxSitesTraced) {
		if a.l.judge.Ledger(a.id).Counts(n).Failed == 0 || slices.ContainsFunc(groups, func(g held.Group) bool { return g.Site == int32(n) }) {
			continue
		}
		s := a.site(&held.Group{Site: int32(n)}, nil, a.l.Now(), 0)
		s.OldestSeconds = record.Opt[float64]{}
		r.Sites = append(r.Sites, s)
		if len(r.Sites) >= 4*maxSites {
			return
		}
	}
}

// rank is where a site comes in the order of the guilty.
func rank(site int32, guilty []int) int {
	if i := slices.Index(guilty, int(site)); site >= 0 && i >= 0 {
		return i - len(guilty)
	}
	return 0
}

// attribution finds who opened what a process holds: itself, or a traced process that
// shares its table or that it was forked from.
type attribution struct {
	l       *Leaks
	id      sample.ID
	others  []siteOfOther
	numbers map[siteOfOther]int32 // of others
	last    sample.ID             // whose others was the last: most have one opener
	younger map[int]uint64        // than the list, of its own sites
}

type siteOfOther struct {
	id   sample.ID
	site int
}

// firstOther is the first number of a site of another process; those of a process's own
// are less.
const firstOther = 1 << 20

// siteOf is the site that opened a descriptor and when, or -reason where that is
// unknown.
func (a *attribution) siteOf(f *held.FD) (site int32, at time.Duration) {
	own := a.l.traced[a.id] != nil
	if f.Birth == 0 {
		return -int32(max(f.Why, sample.BeforeTracing)), 0
	}
	if own {
		if n, at, ok := a.l.judge.Ledger(a.id).Find(f.Birth); ok {
			return int32(n), at
		}
	}
	if n, at, ok := a.ofOther(a.last, f.Birth); ok {
		return n, at
	}
	for id := range a.l.traced {
		if n, at, ok := a.ofOther(id, f.Birth); ok {
			a.last = id
			return n, at
		}
	}
	if own {
		return -int32(sample.StackLost), 0
	}
	return -int32(sample.BeforeTracing), 0
}

// ofOther is siteOf for what another traced process opened; false where it did not.
func (a *attribution) ofOther(id sample.ID, birth uint64) (site int32, at time.Duration, ok bool) {
	if id == a.id || a.l.traced[id] == nil {
		return 0, 0, false
	}
	n, at, ok := a.l.judge.Ledger(id).Find(birth)
	if !ok {
		return 0, 0, false
	}
	s := siteOfOther{id, n}
	number, met := a.numbers[s]
	if !met {
		if a.numbers == nil {
			a.numbers = map[siteOfOther]int32{}
		}
		number = int32(firstOther + len(a.others))
		a.numbers[s] = number
		a.others = append(a.others, s)
	}
	return number, at, true
}

// site makes a record of a group. Where whole is not 0, it is how much its site holds
// in all its groups, and the record has the site's totals, if it is the process's own.
func (a *attribution) site(g *held.Group, fds []held.FD, now time.Duration, whole uint64) record.Site {
	s := record.Site{
		Held: uint64(len(g.FDs)), Type: g.Kind.String(), Stack: []record.Frame{},
		Target: record.SomeIf(record.Text([]byte(g.Target)), g.Target != ""),
	}
	if g.Site < 0 {
		s.StackEnd = record.Some(sample.Unattributed(-g.Site).String())
		return s
	}
	oldest := now
	for _, i := range g.FDs {
		if _, at := a.siteOf(&fds[i]); at < oldest {
			oldest = at
		}
	}
	s.OldestSeconds = record.Some(aggregate.Round((now - oldest).Seconds()))
	if g.Site >= firstOther {
		by := a.others[g.Site-firstOther]
		a.l.traced[by.id].sites[by.site].describe(&s)
		return s
	}
	t, c := a.l.traced[a.id], a.l.judge.Ledger(a.id).Counts(int(g.Site))
	if whole > 0 && !t.lossy {
		opened := c.Opened - min(c.Opened, a.younger[int(g.Site)])
		s.OpenedTotal, s.ClosedTotal = record.Some(opened), record.Some(opened-min(opened, whole))
	}
	s.FailedTotal = record.Some(c.Failed)
	t.sites[g.Site].describe(&s)
	return s
}

// describe puts into a record what is known of a site beside its counts.
func (info *siteInfo) describe(s *record.Site) {
	s.Thread = record.Some(record.Text(info.thread.Bytes()))
	if info.stack == nil {
		s.StackEnd = record.Some("not_walked")
		return
	}
	s.StackEnd = record.SomeIf(info.stack.End, info.stack.End != "")
	if info.stack.Frames != nil {
		s.Stack = info.stack.Frames
	}
}
