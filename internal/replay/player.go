package replay

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rmagent/internal/config"
	"rmagent/internal/policy"
	"rmagent/internal/report"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Options are what a Player works with.
type Options struct {
	// Write takes the decisions. They are the Player's again after it returns.
	Write func(record.Record) error
	// Policy is what to judge by instead of the recorded configuration; nil: that.
	Policy *policy.Config
}

// Player plays one recording after another.
type Player struct {
	Options
	decoder *record.Decoder
	result  Result

	engine    *policy.Engine
	recorded  *config.Loaded // nil: no config record yet
	config    policy.Config
	interval  time.Duration
	selection report.Selection

	run    run
	host   record.Host // of this reading
	now    time.Duration
	begun  bool // a reading
	tick   uint64
	spoilt bool // a record was lost since the last reading began
	seq    uint64

	table  []entry
	index  map[sample.ID]int
	buried int                  // in this reading: they may have been there when it began
	ended  map[sample.ID]uint64 // whose ends were told, and the reading in which

	here  []string // decisions of this reading that the recording has
	ours  []string // and that the policy made
	place place
}

// run is one run of an agent.
type run struct {
	host, boot string
	seq        uint64
	started    bool
}

// entry is a process.
type entry struct {
	facts record.ProcessFacts
	tick  uint64        // of its last record
	at    time.Duration // and when that was
	quiet bool          // the rates are those of a process in which nothing moves
	ended bool
}

// place is where a line is.
type place struct {
	file string
	line uint64
}

func (p place) String() string { return fmt.Sprintf("%s:%d", p.file, p.line) }

// New returns a Player that has seen nothing yet.
func New(o Options) *Player {
	p := &Player{
		Options: o, decoder: record.NewDecoder(), index: map[sample.ID]int{}, ended: map[sample.ID]uint64{},
		result: Result{Refused: map[string]uint64{}},
	}
	p.use(nil, 0)
	return p
}

// use takes a recorded configuration, nil for none.
func (p *Player) use(l *config.Loaded, agent int32) {
	p.recorded = l
	p.interval, p.selection = time.Second, report.Active
	p.config = policy.Default()
	if l != nil {
		p.interval, p.selection = l.Interval, report.Selection(l.Processes)
		p.config = l.Policy(agent)
	}
	if p.Options.Policy != nil {
		p.config = *p.Options.Policy
		p.config.Agent = agent
	}
	if p.engine != nil {
		p.engine.Configure(p.config)
	}
}

// line takes one line, without its newline. Its errors are those that end the play:
// of Write, and of a configuration that can't be used.
func (p *Player) line(at place, line []byte) error {
	p.place = at
	p.result.Lines++
	r, err := p.decoder.Decode(line)
	if err != nil {
		p.refuse(reasonOf(err))
		return nil
	}
	if err := p.follow(r.Head()); err != nil {
		return err
	}
	p.result.Records++
	switch r := r.(type) {
	case *record.Config:
		return p.configured(r)
	case *record.Host:
		return p.begin(r)
	case *record.Cgroup:
		if p.inside() {
			p.engine.Cgroup(r)
		}
	case *record.GPU:
		if p.inside() {
			p.engine.GPU(r)
		}
	case *record.JobReading:
		if p.inside() {
			p.engine.Job(r)
		}
	case *record.Process:
		p.process(&r.ProcessFacts)
	case *record.Exit:
		p.exit(r)
	case *record.StateChange:
		p.here = append(p.here, stateText(r))
	case *record.Prune:
		p.here = append(p.here, pruneText(r))
	case *record.Leak:
		return p.leak(r)
	}
	return nil
}

// leak passes a verdict on. It comes between readings, so what the one before led to goes
// first.
func (p *Player) leak(r *record.Leak) error {
	if err := p.finish(); err != nil {
		return err
	}
	p.result.Leaks++
	return p.write(r)
}

// reasonOf names why a line was no record, in few words.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, record.ErrKind):
		return "of a kind that this version does not know"
	case errors.Is(err, record.ErrSchema):
		return "of another schema"
	}
	return "no record"
}

func (p *Player) refuse(reason string) {
	if p.result.Refused[reason] == 0 {
		p.result.tell("%s: a line is %s", p.place, reason)
	}
	p.result.Refused[reason]++
}

// follow looks whether a record is the next of the same run.
func (p *Player) follow(h *record.Header) error {
	r := &p.run
	same := r.started && r.host == h.Host && r.boot == h.BootID
	switch {
	case same && h.Seq == r.seq+1:
	case same && h.Seq > r.seq:
		lost := h.Seq - r.seq - 1
		p.result.Gaps++
		p.result.Lost += lost
		if p.result.Gaps == 1 {
			p.result.tell("%s: %d records are missing, seq %d to %d: means and times begin anew there", p.place, lost, r.seq+1, h.Seq-1)
		}
		if err := p.spoil(); err != nil {
			return err
		}
	default:
		if err := p.restart(h, same); err != nil {
			return err
		}
	}
	*r = run{h.Host, h.BootID, h.Seq, true}
	return nil
}

// spoil ends a reading of which a record is missing: who has none in it may have had one.
// What follows until the next begins belongs to nobody knows which.
func (p *Player) spoil() error {
	p.spoilt = true
	if !p.begun {
		return nil
	}
	p.begun = false
	p.engine.Incomplete()
	return p.decided(p.engine.End())
}

// restart begins the next run of an agent, which knows nothing of the one before.
func (p *Player) restart(h *record.Header, same bool) error {
	if err := p.finish(); err != nil {
		return err
	}
	if p.run.started {
		why := "another run of the agent"
		if !same {
			why = "another boot or host"
		}
		p.result.tell("%s: seq goes from %d to %d, %s begins: all states begin anew there", p.place, p.run.seq, h.Seq, why)
	}
	p.result.Runs++
	p.engine = nil
	p.use(nil, 0)
	p.table, p.spoilt, p.tick = p.table[:0], false, 0
	clear(p.index)
	clear(p.ended)
	return nil
}

// configured takes the policy of the run.
func (p *Player) configured(r *record.Config) error {
	if err := p.finish(); err != nil { // what was before was judged by the one before
		return err
	}
	l, unknown, err := config.Recorded(p.place.String(), r)
	if err != nil {
		return fmt.Errorf("the recorded configuration can't be used: %w", err)
	}
	for _, name := range unknown {
		p.result.tell("%s: the configuration has %s, which this version does not know: whatever that does is not done here", p.place, name)
	}
	p.use(l, r.AgentPID.Or(0))
	return nil
}

// inside tells whether a reading is going on.
func (p *Player) inside() bool {
	if !p.begun {
		p.result.Stray++
	}
	return p.begun
}

// begin begins a reading.
func (p *Player) begin(h *record.Host) error {
	if err := p.finish(); err != nil {
		return err
	}
	if p.engine == nil {
		p.engine = policy.New(p.config)
	}
	if p.recorded == nil && p.Options.Policy == nil {
		p.result.tell("%s: there is no config record before the first reading: judged by the default policy", p.place)
		p.recorded = &config.Loaded{} // once
	}
	continuous := !p.spoilt && p.look(h)
	p.host = *h
	p.now = nowOf(h)
	p.begun, p.spoilt = true, false
	p.tick++
	p.result.readingAt(h.Time)
	p.bury(slices.Concat(h.Gone, h.NoLongerChosen))
	p.engine.Begin(&p.host, continuous)
	return nil
}

// nowOf is the time that a process's age is reckoned by.
func nowOf(h *record.Host) time.Duration {
	if s, ok := h.MonotonicSeconds.Get(); ok {
		return time.Duration(s * float64(time.Second))
	}
	return time.Duration(h.Time.UnixNano())
}

// look compares a reading's clocks with those of the one before, and tells whether it
// follows that. Rates were measured over what the monotonic clock says went by; where
// only the wall clock is known, nobody knows what happened in a gap.
func (p *Player) look(h *record.Host) bool {
	if p.tick == 0 {
		return true
	}
	wall := h.Time.Sub(p.host.Time)
	elapsed, monotonic := wall, false
	now, ok1 := h.MonotonicSeconds.Get()
	before, ok2 := p.host.MonotonicSeconds.Get()
	if ok1 && ok2 {
		elapsed, monotonic = time.Duration((now-before)*float64(time.Second)), true
	}
	if wall < 0 || elapsed < 0 {
		p.result.Backwards++
		if p.result.Backwards == 1 {
			p.result.tell("%s: the clock goes back by %v", p.place, max(-wall, -elapsed).Round(time.Millisecond))
		}
	}
	if longest := max(wall, elapsed); longest > max(longGap, 10*p.interval) {
		p.result.Pauses++
		if longest > p.result.LongestPause {
			p.result.LongestPause = longest
			p.result.tell("%s: nothing was read for %v, from %s on", p.place, longest.Round(time.Second), p.host.Time.UTC().Format(time.RFC3339))
		}
		return monotonic
	}
	return true
}

// longGap is how long a pause between readings must be to be worth a word.
const longGap = 10 * time.Second

// process takes the record of a process.
func (p *Player) process(f *record.ProcessFacts) {
	p.result.Processes++
	id := sample.ID{PID: f.PID, StartTicks: f.StartTicks}
	at, known := p.index[id]
	if !known {
		at = len(p.table)
		p.table = append(p.table, entry{})
		p.index[id] = at
		_, p.table[at].ended = p.ended[id]
	}
	e := &p.table[at]
	e.facts = *f
	e.quiet = false
	if !p.inside() {
		return
	}
	if e.tick == p.tick { // judged already: a process has one record in a reading
		p.result.Stray++
		return
	}
	e.tick, e.at = p.tick, p.now
	p.engine.Process(&e.facts)
}

// exit takes the end of a process. One that was only noticed is gone in this reading;
// one that the kernel told of may have been there at the beginning of the next, but
// then it has a record there.
func (p *Player) exit(r *record.Exit) {
	id := sample.ID{PID: r.PID, StartTicks: r.StartTicks}
	at, known := p.index[id]
	switch {
	case r.Inferred && known:
		p.remove(at)
	case known:
		p.table[at].ended = true
	}
	p.ended[id] = p.tick
}

// remove takes a process off the table.
func (p *Player) remove(at int) {
	f := &p.table[at].facts
	delete(p.index, sample.ID{PID: f.PID, StartTicks: f.StartTicks})
	last := len(p.table) - 1
	if at != last {
		p.table[at] = p.table[last]
		f := &p.table[at].facts
		p.index[sample.ID{PID: f.PID, StartTicks: f.StartTicks}] = at
	}
	p.table[last] = entry{}
	p.table = p.table[:last]
}

// vanished is after how long without a record a process counts as gone: each has one
// once a minute.
const vanished = 130 * time.Second

// bury takes those off the table that ended before this reading, and those that it says
// are gone, or not recorded any more.
func (p *Player) bury(gone []string) {
	before := len(p.table)
	defer func() { p.buried = before - len(p.table) }()
	for _, target := range gone {
		id, ok := sample.ParseID(target)
		if !ok {
			continue
		}
		if at, known := p.index[id]; known {
			p.remove(at)
		}
	}
	for i := len(p.table) - 1; i >= 0; i-- {
		switch e := &p.table[i]; {
		case e.ended, p.selection == report.All && e.tick+1 < p.tick:
			p.remove(i)
		case p.now-e.at > vanished:
			p.result.Vanished++
			p.remove(i)
		}
	}
	for id, tick := range p.ended {
		if tick+2 < p.tick {
			delete(p.ended, id)
		}
	}
}

// rest makes the facts of a process those of one in which nothing moved since.
func (e *entry) rest() {
	if e.quiet {
		return
	}
	e.quiet = true
	f := &e.facts
	f.CPUCores = record.SomeIf(0.0, f.CPUSecondsTotal.Known())
	f.DiskReadBytesPerSecond = record.SomeIf(0.0, f.DiskReadBytesTotal.Known())
	f.DiskWrittenBytesPerSecond = record.SomeIf(0.0, f.DiskWrittenBytesTotal.Known())
	f.NetReceivedBytesPerSecond = record.SomeIf(0.0, f.NetReceivedBytesTotal.Known())
	f.NetSentBytesPerSecond = record.SomeIf(0.0, f.NetSentBytesTotal.Known())
	f.FDSecondsToLimit = record.Opt[float64]{}
}

// finish ends the reading, if one was begun, and writes what was decided.
func (p *Player) finish() error {
	if !p.begun {
		return nil
	}
	p.begun = false
	for i := range p.table {
		e := &p.table[i]
		if e.tick == p.tick || !p.engine.Watches(sample.ID{PID: e.facts.PID, StartTicks: e.facts.StartTicks}) {
			continue
		}
		e.rest()
		p.engine.Process(&e.facts)
	}
	if all, known := p.host.Processes.Get(); !known {
		p.result.Incomplete++
	} else if recorded := uint64(len(p.table) + p.buried); p.tick > 1 && recorded*10 < all*9 {
		p.result.few(recorded, all)
	}
	return p.decided(p.engine.End())
}

// decided writes decisions.
func (p *Player) decided(changes []policy.Change) error {
	for i := range changes {
		c := &changes[i]
		var r record.Record = c.State
		text := ""
		if c.Prune != nil {
			r, text = c.Prune, pruneText(c.Prune)
			p.result.Prunes++
		} else {
			text = stateText(c.State)
			p.result.States++
		}
		p.ours = append(p.ours, text)
		r.Head().Time = p.host.Time
		if err := p.write(r); err != nil {
			return err
		}
	}
	if p.Options.Policy == nil {
		p.compare()
	}
	p.here, p.ours = p.here[:0], p.ours[:0]
	return nil
}

// write writes one decision, numbered anew.
func (p *Player) write(r record.Record) error {
	p.seq++
	h := r.Head()
	h.Host, h.BootID, h.Seq, h.Schema = p.run.host, p.run.boot, p.seq, record.Schema
	return p.Write(r)
}

// compare holds this reading's decisions against those that were recorded.
func (p *Player) compare() {
	for _, text := range p.ours {
		if at := slices.Index(p.here, text); at >= 0 {
			p.result.Same++
			p.here = slices.Delete(p.here, at, at+1)
			continue
		}
		p.result.differs("%s: decided here and not in the recording: %s", p.host.Time.UTC().Format(time.RFC3339Nano), text)
	}
	for _, text := range p.here {
		p.result.differs("%s: decided in the recording and not here: %s", p.host.Time.UTC().Format(time.RFC3339Nano), text)
	}
}

func stateText(c *record.StateChange) string {
	return fmt.Sprintf("%s of %s from %s to %s", c.Resource, c.Target, c.Previous, c.State)
}

func pruneText(c *record.Prune) string {
	if !c.ShouldPrune {
		return "no prune"
	}
	var b strings.Builder
	b.WriteString("prune")
	for i := range c.Reasons {
		fmt.Fprintf(&b, " %s of %s", c.Reasons[i].Resource, c.Reasons[i].Target)
	}
	for i := range c.Candidates {
		fmt.Fprintf(&b, ", %d@%d", c.Candidates[i].PID, c.Candidates[i].StartTicks)
	}
	return b.String()
}
