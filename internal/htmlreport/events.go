package htmlreport

import (
	"slices"

	"rmagent/record"
)

const (
	maxTargets  = 4096 // whose crossings are kept
	maxStretch  = 64   // stretches of one target
	maxPrunes   = 500
	maxLeaks    = 100
	maxOOMs     = 200
	maxEndKinds = 4096
	maxConfigs  = 100
)

// stretch is a time in which something held.
type stretch struct {
	from, to int64
	open     bool // still holds at the end of the records
	level    record.State
}

// target is a resource of something that crossed thresholds.
type target struct {
	resource, name string
	who            string             // of a process: its name, empty while it is unknown
	worst          record.StateChange // the crossing to the most severe state
	crossings      uint64
	first, last    int64
	stretches      []stretch
	cut            uint64 // stretches that are counted only
}

// states are the crossings.
type states struct {
	targets   map[string]*target   // by resource and name
	named     map[string][]*target // by name
	uncounted uint64               // crossings of more targets than this keeps
	crossings map[record.State]uint64
}

func newStates() states {
	return states{targets: map[string]*target{}, named: map[string][]*target{}, crossings: map[record.State]uint64{}}
}

// add takes a crossing. who names the process that it is about, where that is known.
func (s *states) add(ms int64, r *record.StateChange, who string) {
	s.crossings[r.State]++
	key := r.Resource + " " + r.Target
	t := s.targets[key]
	if t == nil {
		if len(s.targets) >= maxTargets {
			s.uncounted++
			return
		}
		t = &target{resource: r.Resource, name: r.Target, worst: *r, first: ms}
		s.targets[key] = t
		s.named[r.Target] = append(s.named[r.Target], t)
	}
	t.crossings++
	t.last = ms
	if who != "" {
		t.who = who
	}
	if worse, now := rank(r.State), rank(t.worst.State); worse > now || worse == now && r.Ratio.Or(0) > t.worst.Ratio.Or(0) {
		t.worst = *r
	}
	t.close(ms)
	if rank(r.State) == 0 {
		return
	}
	if len(t.stretches) == maxStretch {
		t.cut++
		return
	}
	t.stretches = append(t.stretches, stretch{from: ms, open: true, level: r.State})
}

// close ends the stretch that is open.
func (t *target) close(ms int64) {
	if n := len(t.stretches); n > 0 && t.stretches[n-1].open {
		t.stretches[n-1].to, t.stretches[n-1].open = ms, false
	}
}

// closeTarget ends what held of something that is gone.
func (s *states) closeTarget(name string, ms int64) {
	for _, t := range s.named[name] {
		t.close(ms)
	}
}

func (s *states) closeAll(ms int64) {
	for _, t := range s.targets {
		t.close(ms)
	}
}

// seconds is for how long a target was in a state, those open until the end counted
// to it.
func (t *target) seconds(level record.State, end int64) float64 {
	var sum int64
	for _, x := range t.stretches {
		if x.level != level {
			continue
		}
		to := x.to
		if x.open {
			to = end
		}
		sum += max(to-x.from, 0)
	}
	return float64(sum) / 1000
}

// rank orders states by severity.
func rank(s record.State) int {
	return max(0, slices.Index([]record.State{record.StateNormal, record.StateInfo, record.StateWarning, record.StateCritical}, s))
}

// prunePeriod is a time in which work should have been taken off.
type prunePeriod struct {
	from, to  int64
	open      bool
	reasons   []record.PruneReason
	candidate *record.PruneCandidate // the first to go
}

type prunes struct {
	list []prunePeriod
	more uint64 // periods that are counted only
	open bool   // one of those
}

func (p *prunes) add(ms int64, r *record.Prune) {
	last := p.last()
	switch {
	case !r.ShouldPrune:
		p.close(ms)
	case last != nil && last.open:
		last.reasons = worst(last.reasons, r.Reasons)
	case len(p.list) == maxPrunes:
		if !p.open {
			p.more++
		}
		p.open = true
	default:
		x := prunePeriod{from: ms, open: true, reasons: worst(nil, r.Reasons)}
		if len(r.Candidates) > 0 {
			first := r.Candidates[0]
			first.Comm, first.Why = clip(first.Comm, maxName), clip(first.Why, maxPath)
			x.candidate = &first
		}
		p.list = append(p.list, x)
	}
}

func (p *prunes) last() *prunePeriod {
	if len(p.list) == 0 {
		return nil
	}
	return &p.list[len(p.list)-1]
}

func (p *prunes) close(ms int64) {
	p.open = false
	if last := p.last(); last != nil && last.open {
		last.to, last.open = ms, false
	}
}

// maxReasons bounds what is kept of one period.
const maxReasons = 16

// worst adds reasons to those that are there: of one resource of one target the
// greatest value stays.
func worst(have, more []record.PruneReason) []record.PruneReason {
	for _, r := range more {
		i := slices.IndexFunc(have, func(h record.PruneReason) bool { return h.Resource == r.Resource && h.Target == r.Target })
		switch {
		case i >= 0 && r.Value.Or(0) > have[i].Value.Or(0):
			have[i] = r
		case i < 0 && len(have) < maxReasons:
			have = append(have, r)
		}
	}
	return have
}

// leakStory is a process that gathered descriptors.
type leakStory struct {
	process   *process
	shown     record.Leak // the most telling record
	growing   int64       // since when; 0: was never said
	leaking   int64
	over      int64 // when it was over; 0: it was not
	ended     int64 // when the process ended; 0: it did not
	announced uint64
}

// passed tells of growth that stopped without ever being called a leak.
func (l *leakStory) passed() bool { return l.leaking == 0 && (l.over > 0 || l.ended > 0) }

// until is when it stopped; 0: it did not.
func (l *leakStory) until() int64 {
	if l.over > 0 {
		return l.over
	}
	return l.ended
}

type leaks struct {
	index map[processKey]*leakStory
	list  []*leakStory
	more  uint64 // records of processes that there was no room for
}

func newLeaks() leaks { return leaks{index: map[processKey]*leakStory{}} }

func (l *leaks) add(ms int64, r *record.Leak, p *process) {
	if p.comm == "" {
		p.comm = clip(r.Comm, maxName)
	}
	s := l.index[p.key]
	if s == nil {
		if r.Verdict == record.VerdictOver {
			return
		}
		if s = l.room(r); s == nil {
			l.more++
			return
		}
		s.process = p
		l.index[p.key] = s
	}
	s.announced++
	switch r.Verdict {
	case record.VerdictGrowing:
		s.over = 0
		if s.growing == 0 {
			s.growing = ms
		}
	case record.VerdictLeaking:
		s.over = 0
		if s.leaking == 0 {
			s.leaking = ms
		}
	case record.VerdictOver:
		s.over = ms
		return
	}
	if s.announced == 1 || r.Verdict == record.VerdictLeaking || s.leaking == 0 {
		s.shown = *r
	}
}

// room makes room for a story. A leak takes the place of a growth that is over.
func (l *leaks) room(r *record.Leak) *leakStory {
	if len(l.list) < maxLeaks {
		l.list = append(l.list, &leakStory{})
		return l.list[len(l.list)-1]
	}
	for i, old := range l.list {
		if old.leaking == 0 && (old.over > 0 || r.Verdict == record.VerdictLeaking) {
			l.more++
			delete(l.index, old.process.key)
			l.list[i] = &leakStory{}
			return l.list[i]
		}
	}
	return nil
}

func (l *leaks) ended(b *boot, ms int64, r *record.Exit) {
	if s := l.index[processKey{b, r.PID, r.StartTicks}]; s != nil {
		s.ended = ms
	}
}

// ooms are the last kills of the OOM killer.
type ooms struct {
	list  []record.OOM
	count uint64
}

func (o *ooms) add(r *record.OOM) {
	o.count++
	if len(o.list) == maxOOMs {
		o.list = append(o.list[:0], o.list[1:]...)
	}
	o.list = append(o.list, *r)
}

// endKind is a way in which processes of one name ended badly.
type endKind struct {
	comm   string
	signal int32
	code   int32
	dumped bool
}

type endCount struct {
	endKind
	count       uint64
	first, last int64
}

// ends counts how processes ended.
type ends struct {
	total, inferred, failed, killed, dumped uint64
	kinds                                   map[endKind]*endCount
	uncounted                               uint64 // bad ends of more kinds than this keeps
}

func newEnds() ends { return ends{kinds: map[endKind]*endCount{}} }

func (e *ends) add(ms int64, r *record.Exit) {
	e.total++
	if r.Inferred {
		e.inferred++
	}
	k := endKind{comm: clip(r.Comm, maxName), signal: r.ExitSignal.Or(0), code: r.ExitCode.Or(0), dumped: r.CoreDumped.Or(false)}
	switch {
	case k.signal != 0:
		e.killed++
	case k.code != 0:
		e.failed++
	default:
		return
	}
	if k.dumped {
		e.dumped++
	}
	c := e.kinds[k]
	if c == nil {
		if len(e.kinds) >= maxEndKinds {
			e.uncounted++
			return
		}
		c = &endCount{endKind: k, first: ms}
		e.kinds[k] = c
	}
	c.count++
	c.last = ms
}

// configs are the changes of the configuration.
type configs struct {
	hash    string
	changes []int64
	more    uint64
}

func (c *configs) add(ms int64, r *record.Config) {
	if c.hash != "" && c.hash != r.Hash {
		if len(c.changes) < maxConfigs {
			c.changes = append(c.changes, ms)
		} else {
			c.more++
		}
	}
	c.hash = r.Hash
}

// agents is what the agent said of itself.
type agents struct {
	version  string
	source   record.Source
	cores    series
	memory   peak
	rss      peak
	lost     map[string]uint64 // records of ended runs, by cause
	events   uint64            // lost, of ended runs
	skipped  uint64
	lastSeen int64
}

const maxCauses = 64

func (a *agents) add(b *boot, r *record.Agent) {
	if a.cores.limit == 0 {
		a.cores = *newSeries(processPoints)
	}
	ms := r.Time.UnixMilli()
	a.version, a.source = r.Version, r.Source
	if v, ok := r.CPUCores.Get(); ok {
		a.cores.add(ms, v)
	}
	if v, ok := r.MemoryBytes.Get(); ok {
		a.memory.add(float64(v), ms)
	}
	if v, ok := r.RSSBytes.Get(); ok {
		a.rss.add(float64(v), ms)
	}
	b.agent = r
}

// ended takes the last account of a run that is over.
func (a *agents) ended(b *boot) {
	if b.agent == nil {
		return
	}
	for cause, n := range b.agent.RecordsLost {
		if _, ok := a.lost[cause]; ok || len(a.lost) < maxCauses {
			a.lost[cause] += n
		}
	}
	for _, n := range b.agent.EventsLost {
		a.events += n
	}
	a.skipped += b.agent.TicksSkipped
	b.agent = nil
}
