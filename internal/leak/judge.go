package leak

import (
	"cmp"
	"slices"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// The share of its limit from which on a process is looked at as if it grew, and at
// which it is as good as full: then it can't grow, which is no end of its leak.
const (
	closeRatio = 0.7
	fullRatio  = 0.98
)

const (
	// steady is how long a suspicion lasts that nothing confirms.
	steady = 10 * time.Second
	// tracing is for how long a process is worth tracing that climbed and then did
	// not grow.
	tracing = 60 * time.Second
	// patience is how long growth must be missed before it is over; for a leak,
	// which may well pause, it is leakPatience.
	patience     = 8 * time.Second
	leakPatience = 20 * time.Second
	// regrown is by how much a count must rise again after a growth is over.
	regrown = 12
	// settled is how long a limit must have been near to be a verdict.
	settled = 3 * time.Second
)

// Change is a process whose verdict is another than before.
type Change struct {
	ID       sample.ID
	Comm     sample.Comm
	Verdict  record.Verdict // growing, leaking or over
	Previous record.Verdict // growing or leaking; empty where it was none
	Rule     string         // of leaking
	Sites    []int          // of the process's Ledger, guilty, worst first
	Since    time.Duration  // when the growth began, monotonic

	Open, Limit     sample.Opt[uint64]
	PerSecond       float64 // the rate while it grew
	SecondsToLimit  sample.Opt[float64]
	ConfidenceRatio sample.Opt[float64] // the share of the growth that Sites cover
}

// suspect is a process that is watched.
type suspect struct {
	id      sample.ID
	comm    sample.Comm
	verdict record.Verdict // empty, growing or leaking
	rule    string
	guilty  []int
	covered uint64

	since, bucket time.Duration // of the growth
	from          uint64
	perSecond     float64
	confirmed     time.Duration // when the growth was seen last
	stirred       time.Duration // when it rose last
	climbed       time.Duration // when it climbed last; 0: never
	near          bool          // to its limit
	was           bool          // something is over
	rest          uint64        // the least since then
	left          sample.Opt[float64]
	open, limit   sample.Opt[uint64]
}

// Judge keeps the verdict of every process. One goroutine uses it at a time.
type Judge struct {
	suspects map[sample.ID]*suspect
	ledgers  map[sample.ID]*Ledger // of traced processes
	changes  []Change
	at       time.Duration
	except   int32 // PID of who is never suspect; 0: nobody
}

// NewJudge returns a judge that has seen nothing.
func NewJudge() *Judge {
	return &Judge{suspects: map[sample.ID]*suspect{}, ledgers: map[sample.ID]*Ledger{}}
}

// Except makes a process above suspicion: the agent, whose descriptors come and go with
// what it watches.
func (j *Judge) Except(pid int32) { j.except = pid }

// Observe takes the processes of the last snapshot. What follows from it is in
// Changes.
func (j *Judge) Observe(t *aggregate.Table) {
	j.at = t.Monotonic()
	j.changes = j.changes[:0]
	for i := range t.Len() {
		if t.Still(i) {
			continue
		}
		p := t.At(i)
		if p.FDsRest() {
			continue // and was met before
		}
		if p.FDTrend().Rise != aggregate.Flat || p.FDRatio().Or(0) >= closeRatio {
			if j.suspects[p.ID] == nil && p.ID.PID != j.except {
				j.suspects[p.ID] = &suspect{id: p.ID}
			}
		}
	}
	for id, s := range j.suspects {
		p := t.Find(id)
		ended := p == nil || isEmptied(p)
		if !ended {
			j.observe(s, p)
		}
		switch {
		case ended:
			if s.verdict != "" {
				j.change(s, record.VerdictOver)
			}
			delete(j.suspects, id)
		case s.verdict == "" && !s.near && j.at-s.stirred > steady && p.FDTrend().Rise < aggregate.Growing && (s.climbed == 0 || j.at-s.climbed > tracing):
			delete(j.suspects, id)
		}
	}
	slices.SortFunc(j.changes, func(a, b Change) int { return cmp.Compare(a.ID.PID, b.ID.PID) })
}

// isEmptied tells whether a process has ended, and only its parent has not seen it yet: it
// has no table of descriptors any more. One whose first thread alone has ended still has.
func isEmptied(p *aggregate.Process) bool { return p.State == 'Z' && p.FDOpen == 0 }

// Changes are the verdicts that the last Observe changed, valid until the next.
func (j *Judge) Changes() []Change { return j.changes }

func (j *Judge) observe(s *suspect, p *aggregate.Process) {
	g := p.FDTrend()
	s.comm, s.near = p.Comm, p.FDRatio().Or(0) >= closeRatio
	s.open = record.SomeIf(p.FDOpen, p.Known.Has(sample.FDOpen))
	s.limit = record.SomeIf(p.FDLimit, p.Known.Has(sample.FDLimit) && p.FDLimit != sample.Unlimited)
	if g.Rise >= aggregate.Stirs {
		s.stirred = j.at
	}
	if g.Rise >= aggregate.Climbs {
		s.climbed = j.at
	}
	switch {
	case s.verdict != "":
		s.follow(&g)
		s.left = p.FDSecondsToLimit(s.perSecond)
		if s.ended(p, j.at) {
			j.change(s, record.VerdictOver)
			return
		}
	case g.Rise == aggregate.Growing && s.afresh(p, &g, j.at):
		s.since, s.from, s.bucket = g.Since, g.From, g.Bucket
		s.perSecond = g.PerSecond
		s.left = p.FDSecondsToLimit(s.perSecond)
		s.confirmed = j.at
		j.change(s, record.VerdictGrowing)
	default:
		return
	}
	if s.verdict == record.VerdictGrowing && s.convicted(p, j.ledgers[s.id], j.at) {
		j.change(s, record.VerdictLeaking)
	}
}

// afresh tells whether growth is another than what was over: coarse marks still rise
// when it has ended.
func (s *suspect) afresh(p *aggregate.Process, g *aggregate.Growth, now time.Duration) bool {
	if !s.was {
		return true
	}
	low, ok := p.FDLowest(now-g.Bucket+1, now)
	if !ok {
		return false
	}
	s.rest = min(s.rest, low)
	return low >= s.rest+regrown
}

// follow keeps the rate of growth while it is seen at the scale where it began, or
// at a finer one: coarser ones still see it when it is over.
func (s *suspect) follow(g *aggregate.Growth) {
	if g.Rise != aggregate.Growing || g.Bucket > 2*s.bucket {
		return
	}
	s.perSecond = g.PerSecond
	s.bucket = min(s.bucket, g.Bucket)
}

// ended tells whether the low-water mark no longer rises: over as long a time as
// growth can't have been missed in, and twice that, it is no higher than over that
// time before.
func (s *suspect) ended(p *aggregate.Process, now time.Duration) bool {
	if p.FDRatio().Or(0) >= fullRatio {
		return false
	}
	least := patience
	if s.verdict == record.VerdictLeaking {
		least = leakPatience
	}
	span := max(least, 3*s.bucket, s.pause())
	if now-s.since < 2*span {
		return false
	}
	return !rises(p, now, span) && !rises(p, now, 2*span)
}

// pause is how long the growth may pause by chance.
func (s *suspect) pause() time.Duration {
	return time.Duration(pauses / s.perSecond * float64(time.Second))
}

// rises compares the lowest of the last span with that of the span before.
func rises(p *aggregate.Process, now, span time.Duration) bool {
	older, ok := p.FDLowest(now-2*span, now-span)
	newer, ok2 := p.FDLowest(now-span+1, now)
	return !ok || !ok2 || newer > older
}

// convicted looks for evidence that the growth is a leak.
func (s *suspect) convicted(p *aggregate.Process, l *Ledger, now time.Duration) bool {
	if !rises(p, now, max(shortest, s.bucket, s.pause())) && p.FDRatio().Or(0) < fullRatio {
		return false
	}
	var e evidence
	if l != nil {
		e = l.judge(now, s.since)
	}
	if left, ok := s.left.Get(); ok && e.rule == "" && now-s.since >= settled &&
		p.FDRatio().Or(0) >= nearRatio && left <= horizon.Seconds() {
		e.rule = RuleLimitNear
	}
	s.rule, s.guilty, s.covered = e.rule, e.sites, e.covered
	return e.rule != ""
}

func (j *Judge) change(s *suspect, v record.Verdict) {
	c := Change{
		ID: s.id, Comm: s.comm, Verdict: v, Previous: s.verdict, Since: s.since,
		Open: s.open, Limit: s.limit, PerSecond: s.perSecond, SecondsToLimit: s.left,
	}
	if v == record.VerdictLeaking {
		c.Rule, c.Sites = s.rule, s.guilty
		c.ConfidenceRatio = s.confidence()
	}
	j.changes = append(j.changes, c)
	s.verdict = v
	if v == record.VerdictOver {
		s.verdict, s.rule, s.guilty, s.covered = "", "", nil, 0
		s.was, s.rest = true, s.open.Or(0)
	}
}

// confidence is the share of the growth that the guilty sites cover.
func (s *suspect) confidence() sample.Opt[float64] {
	open, ok := s.open.Get()
	if !ok || open <= s.from || s.rule == RuleLimitNear {
		return sample.Opt[float64]{}
	}
	return record.Some(aggregate.Round(min(float64(s.covered)/float64(open-s.from), 1)))
}

// Status is what is known of a process between two changes.
type Status struct {
	Verdict         record.Verdict // growing, leaking or steady
	Rule            string
	Sites           []int
	PerSecond       float64
	SecondsToLimit  sample.Opt[float64]
	ConfidenceRatio sample.Opt[float64]
}

// Status returns what is known of a process; one that nothing is held against is
// steady.
func (j *Judge) Status(id sample.ID) Status {
	s := j.suspects[id]
	if s == nil || s.verdict == "" {
		return Status{Verdict: record.VerdictSteady}
	}
	st := Status{Verdict: s.verdict, PerSecond: s.perSecond, SecondsToLimit: s.left}
	if s.verdict == record.VerdictLeaking {
		st.Rule, st.Sites, st.ConfidenceRatio = s.rule, s.guilty, s.confidence()
	}
	return st
}

// Watch appends the processes that are worth looking at between two snapshots, the
// most urgent first.
func (j *Judge) Watch(dst []sample.ID) []sample.ID {
	return j.list(dst, func(*suspect) bool { return true })
}

// Trace appends the processes whose opens are worth tracing, the most urgent first:
// those that grow or climb, and those near their limit.
func (j *Judge) Trace(dst []sample.ID) []sample.ID {
	return j.list(dst, func(s *suspect) bool {
		return s.verdict != "" || s.near || s.climbed != 0 && j.at-s.climbed <= tracing
	})
}

func (j *Judge) list(dst []sample.ID, want func(*suspect) bool) []sample.ID {
	from := len(dst)
	for id, s := range j.suspects {
		if want(s) {
			dst = append(dst, id)
		}
	}
	slices.SortFunc(dst[from:], func(a, b sample.ID) int {
		x, y := j.suspects[a], j.suspects[b]
		return cmp.Or(cmp.Compare(y.urgency(), x.urgency()), cmp.Compare(y.perSecond, x.perSecond), cmp.Compare(a.PID, b.PID))
	})
	return dst
}

// urgency ranks suspects.
func (s *suspect) urgency() int {
	switch {
	case s.verdict == record.VerdictLeaking:
		return 4
	case s.verdict == record.VerdictGrowing:
		return 3
	case s.near:
		return 2
	case s.climbed != 0:
		return 1
	}
	return 0
}

// Ledger returns the ledger of a process that is traced, made if need be.
func (j *Judge) Ledger(id sample.ID) *Ledger {
	l := j.ledgers[id]
	if l == nil {
		l = &Ledger{}
		j.ledgers[id] = l
	}
	return l
}

// Forget drops the ledger of a process that is no longer traced.
func (j *Judge) Forget(id sample.ID) { delete(j.ledgers, id) }
