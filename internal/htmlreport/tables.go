package htmlreport

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/human"
	"rmagent/internal/report"
	"rmagent/record"
)

// Rows of the tables.
const (
	shownLeaks   = 20
	shownSites   = 8
	shownFrames  = 40
	shownGrowths = 15
	shownTargets = 40
	shownPrunes  = 40
	shownOOMs    = 40
	shownEnds    = 15
	shownCgroups = 12
	shownGaps    = 20
)

// leakCard tells of a process that gathered descriptors.
type leakCard struct {
	Who, Verdict, Class string
	When                string
	Text                string
	Advice              string
	Chart               *chart
	Sites               []siteRow
	More                string
}

type siteRow struct {
	Held, Type, Target string
	Place              string
	Notes              string
	Frames             []frameRow
}

type frameRow struct{ Function, Where, Class string }

func (s *leakStory) who() string {
	return fmt.Sprintf("%s (pid %d)", human.Text(s.process.comm), s.process.key.pid)
}

// sortedLeaks has leaks first, of those the one that held most.
func (v *view) sortedLeaks() []*leakStory {
	return slices.SortedStableFunc(slices.Values(v.leaks.list), func(a, b *leakStory) int {
		return cmp.Or(
			cmp.Compare(min(b.leaking, 1), min(a.leaking, 1)),
			cmp.Compare(b.process.fds.value, a.process.fds.value),
			cmp.Compare(a.process.key.pid, b.process.key.pid))
	})
}

// leakCards tell of leaks and of what still grew at the end; what grew for a while has
// a row.
func (v *view) leakCards() (list []leakCard, growths []growthRow, more string) {
	left := v.leaks.more
	for _, s := range v.sortedLeaks() {
		switch {
		case s.passed() && len(growths) < shownGrowths:
			growths = append(growths, v.growthRow(s))
		case !s.passed() && len(list) < shownLeaks:
			list = append(list, v.leakCard(s))
		default:
			left++
		}
	}
	if left > 0 {
		more = plural(left, "more process", "more processes") + " gathered descriptors, fewer than these."
	}
	return list, growths, more
}

// growthRow tells of a process that gathered descriptors for a while.
type growthRow struct{ Who, From, Length, Peak, Place string }

func (v *view) growthRow(s *leakStory) growthRow {
	row := growthRow{Who: s.who(), Peak: count(s.process.fds.value)}
	if s.growing > 0 {
		row.From, row.Length = v.clock.format(s.growing), seconds(float64(s.until()-s.growing)/1000)
	}
	for i := range s.shown.Sites {
		if row.Place = human.Text(clip(report.Place(s.shown.Sites[i].Stack), maxPath)); row.Place != "" {
			break
		}
	}
	return row
}

func (v *view) leakCard(s *leakStory) leakCard {
	r := &s.shown
	c := leakCard{
		Who: s.who(), Verdict: string(record.VerdictGrowing), Class: "warning", When: v.leakTimes(s),
		Text: human.Text(report.LeakMessage(r)) + ".", More: restOfSites(r),
	}
	if s.leaking > 0 {
		c.Verdict, c.Class = string(record.VerdictLeaking), "critical"
	}
	if s.until() == 0 {
		c.Advice = human.Text(report.LeakAdvice(r))
	}
	if s.process.fdSeries != nil {
		limit := limitLine{float64(r.FDLimit.Or(0)), "limit"}
		c.Chart = v.plot.chart("Open descriptors of "+s.who(), unitCount, 0, limit, drawn{"open", s.process.fdSeries})
	}
	for i := range r.Sites[:min(len(r.Sites), shownSites)] {
		c.Sites = append(c.Sites, siteOf(&r.Sites[i]))
	}
	return c
}

func (v *view) leakTimes(s *leakStory) string {
	var when []string
	if s.growing > 0 {
		when = append(when, "growing since "+v.clock.format(s.growing))
	}
	if s.leaking > 0 {
		text := "leaking since " + v.clock.format(s.leaking)
		if rule, ok := s.shown.Rule.Get(); ok {
			text += " (" + human.Text(clip(report.RuleText(rule), maxName)) + ")"
		}
		when = append(when, text)
	}
	if s.over > 0 {
		when = append(when, "over at "+v.clock.format(s.over))
	}
	if s.ended > 0 {
		when = append(when, "ended at "+v.clock.format(s.ended))
	}
	return strings.Join(when, ", ")
}

// restOfSites says what a record holds beside the sites that are shown.
func restOfSites(r *record.Leak) string {
	var parts []string
	held := uint64(0)
	for i := shownSites; i < len(r.Sites); i++ {
		held += r.Sites[i].Held
	}
	if held > 0 {
		parts = append(parts, fmt.Sprintf("%s more of %s", number(held), plural(uint64(len(r.Sites)-shownSites), "site", "sites")))
	}
	for _, reason := range report.Unlisted {
		if n := r.Unattributed[reason]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", number(n), report.UnlistedText(reason)))
		}
	}
	return strings.Join(parts, "; ")
}

func siteOf(s *record.Site) siteRow {
	row := siteRow{
		Held: number(s.Held), Type: human.Text(clip(s.Type, maxName)), Target: human.Text(clip(s.Target.Or(""), maxPath)),
		Place: human.Text(clip(report.Place(s.Stack), maxPath)), Notes: siteNotes(s),
	}
	culprit := report.Culprit(s.Stack)
	for i := range s.Stack[:min(len(s.Stack), shownFrames)] {
		row.Frames = append(row.Frames, frameOf(&s.Stack[i], i == culprit))
	}
	if n := len(s.Stack) - len(row.Frames); n > 0 {
		row.Frames = append(row.Frames, frameRow{Function: fmt.Sprintf("%d more", n), Class: "runtime"})
	}
	return row
}

func siteNotes(s *record.Site) string {
	var notes []string
	if opened, ok := s.OpenedTotal.Get(); ok {
		notes = append(notes, fmt.Sprintf("opened %s, closed %s", number(opened), number(s.ClosedTotal.Or(0))))
	}
	if age, ok := s.OldestSeconds.Get(); ok {
		notes = append(notes, "oldest "+seconds(age))
	}
	if n := s.FailedTotal.Or(0); n > 0 {
		notes = append(notes, number(n)+" failed at the limit")
	}
	if thread := s.Thread.Or(""); thread != "" {
		notes = append(notes, "thread "+human.Text(clip(thread, maxName)))
	}
	if len(s.Stack) == 0 {
		notes = append(notes, human.Text(clip(report.NoStackText(s.StackEnd.Or("")), maxName)))
	}
	return strings.Join(notes, ", ")
}

func frameOf(f *record.Frame, culprit bool) frameRow {
	row := frameRow{Function: human.Text(clip(f.Function.Or("?"), maxPath))}
	switch file, line := f.File.Or(""), f.Line.Or(0); {
	case file != "" && line > 0:
		row.Where = fmt.Sprintf("%s:%d", file, line)
	case file != "":
		row.Where = file
	case f.Module.Known():
		row.Where = fmt.Sprintf("%s+0x%x", f.Module.Or(""), f.Offset.Or(0))
	}
	row.Where = human.Text(clip(row.Where, maxPath))
	switch {
	case culprit:
		row.Class = "culprit"
		row.Where += report.GuessText(f)
	case report.Runtime(f) || !f.Function.Known():
		row.Class = "runtime"
	}
	return row
}

// stateRow tells of a target that crossed thresholds.
type stateRow struct {
	State, Resource, Who     string
	Critical, Warning        string
	Peak, Crossings          string
	First, Last              string
	Message, Advice, Ongoing string
}

func (v *view) stateRows() (list []stateRow, more string) {
	left := uint64(0)
	for _, t := range v.sortedTargets() {
		if rank(t.worst.State) < 2 || len(list) == shownTargets {
			left++
			continue
		}
		list = append(list, v.stateRow(t))
	}
	if left > 0 {
		more = plural(left, "target, less severe than a warning or than these, is", "targets, less severe than a warning or than these, are") + " not listed."
	}
	if n := v.states.uncounted; n > 0 {
		more += fmt.Sprintf(" %s of more than %d targets are counted only.", plural(n, "crossing", "crossings"), maxTargets)
	}
	return list, more
}

func (v *view) stateRow(t *target) stateRow {
	w := &t.worst
	row := stateRow{
		State: string(w.State), Resource: human.Text(clip(t.resource, maxName)), Who: v.name(t),
		Critical: seconds(t.seconds(record.StateCritical, v.last)), Warning: seconds(t.seconds(record.StateWarning, v.last)),
		Crossings: number(t.crossings), First: v.clock.format(t.first), Last: v.clock.format(t.last),
		Message: human.Text(clip(w.Message, maxPath)), Advice: human.Text(clip(w.Advice, maxPath)),
	}
	if r, ok := w.Ratio.Get(); ok {
		row.Peak = percent(r)
	}
	if n := len(t.stretches); n > 0 && t.stretches[n-1].open {
		row.Ongoing = string(t.stretches[n-1].level) + " at the end"
	}
	if t.cut > 0 { // the times are at least so long
		row.Critical, row.Warning = "over "+row.Critical, "over "+row.Warning
	}
	return row
}

// pruneRow tells of a time in which work should have been taken off.
type pruneRow struct{ From, Length, Reasons, Candidate string }

func (v *view) pruneRows() (list []pruneRow, more string) {
	for i := range v.prunes.list[:min(len(v.prunes.list), shownPrunes)] {
		x := &v.prunes.list[i]
		row := pruneRow{From: v.clock.format(x.from), Length: seconds(float64(v.until(x.to, x.open)-x.from) / 1000), Reasons: reasons(x.reasons)}
		if c := x.candidate; c != nil {
			row.Candidate = fmt.Sprintf("%s (pid %d): %s", human.Text(c.Comm), c.PID, human.Text(c.Why))
		}
		list = append(list, row)
	}
	if n := uint64(len(v.prunes.list)-len(list)) + v.prunes.more; n > 0 {
		more = plural(n, "later period is", "later periods are") + " not listed."
	}
	return list, more
}

// reasons writes why work should be taken off.
func reasons(list []record.PruneReason) string {
	var parts []string
	for i := range list {
		r := &list[i]
		text := human.Text(clip(r.Resource, maxName) + " of " + clip(r.Target, maxName))
		value, ok1 := r.Value.Get()
		limit, ok2 := r.Max.Get()
		if ok1 && ok2 {
			text += fmt.Sprintf(" %s > %s", inUnit(value, r.Unit), inUnit(limit, r.Unit))
		}
		if mean, ok := r.AverageRatio.Get(); ok {
			text += ", on average " + percent(mean) + " of it"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// inUnit writes a value in the unit that a record names.
func inUnit(v float64, unit string) string {
	switch unit {
	case "bytes_per_second":
		return unitRate.format(v)
	case "bytes":
		return unitBytes.format(v)
	case "percent":
		return unitRatio.format(v / 100)
	case "ratio":
		return unitRatio.format(v)
	}
	return strings.TrimSpace(count(v) + " " + human.Text(clip(unit, 40)))
}

// oomRow tells of a kill.
type oomRow struct{ At, Who, Cgroup, RSS, Swap string }

func (v *view) oomRows() []oomRow {
	var list []oomRow
	for _, o := range v.ooms.list[max(0, len(v.ooms.list)-shownOOMs):] {
		row := oomRow{
			At: v.clock.format(o.Time.UnixMilli()), Who: fmt.Sprintf("%s (pid %d)", human.Text(clip(o.Comm, maxName)), o.PID),
			Cgroup: human.Text(clip(o.Cgroup.Or("unknown"), maxPath)), RSS: "unknown",
		}
		if n, ok := o.RSSBytes.Get(); ok {
			row.RSS = human.Bytes(float64(n))
		}
		if n, ok := o.SwapBytes.Get(); ok && n > 0 {
			row.Swap = human.Bytes(float64(n))
		}
		list = append(list, row)
	}
	return list
}

// rankingTable is the greatest processes by one resource.
type rankingTable struct {
	Title, What string
	Plotted     bool // there are sparklines
	Rows        []processRow
}

type processRow struct {
	Who, PID, Where string
	Value, Detail   string
	Life            string
	Share           float64 // of the first, in percent
	Spark           string
}

func (v *view) rankingTables() []rankingTable {
	var list []rankingTable
	for i, r := range v.processes.rankings {
		t := rankingTable{Title: r.title, What: r.what, Plotted: i <= byFDs}
		for _, p := range r.list {
			t.Rows = append(t.Rows, v.processRow(i, r, p))
		}
		if len(t.Rows) > 0 {
			list = append(list, t)
		}
	}
	return list
}

// The rankings, in their order.
const (
	byCPU = iota
	byMemory
	byFDs
	byDisk
	byNetwork
)

func (v *view) processRow(by int, r *ranking, p *process) processRow {
	row := processRow{
		Who: human.Text(p.comm), PID: fmt.Sprint(p.key.pid), Where: human.Text(p.where()), Life: v.life(p),
		Share: round(r.value(p) / r.value(r.list[0]) * 100),
	}
	switch by { // each line is scaled by itself: what counts is when
	case byCPU:
		row.Value = seconds(p.cpu.value())
		if p.cores.known {
			row.Detail = fmt.Sprintf("peak %.2f cores", p.cores.value)
		}
		row.Spark = v.plot.spark(p.coreSeries, p.cores.value)
	case byMemory:
		row.Value = human.Bytes(p.rss.value)
		row.Spark = v.plot.spark(p.rssSeries, p.rss.value)
	case byFDs:
		row.Value = count(p.fds.value)
		if p.fdLimit > 0 {
			row.Detail = fmt.Sprintf("%s of %s allowed", percent(p.fds.value/float64(p.fdLimit)), number(p.fdLimit))
		}
		row.Spark = v.plot.spark(p.fdSeries, p.fds.value)
	case byDisk:
		row.Value = human.Bytes(r.value(p))
		row.Detail = human.Bytes(p.read.value()) + " read, " + human.Bytes(p.written.value()) + " written"
	case byNetwork:
		row.Value = human.Bytes(r.value(p))
		row.Detail = human.Bytes(p.received.value()) + " received, " + human.Bytes(p.sent.value()) + " sent"
	}
	return row
}

// where says which service a process belongs to.
func (p *process) where() string {
	switch {
	case p.container != "":
		return "container " + p.container[:min(12, len(p.container))]
	case p.unit != "":
		return p.unit
	case p.cgroup == "/":
		return ""
	}
	return p.cgroup
}

// life says when a process was there, and how it ended.
func (v *view) life(p *process) string {
	text := ""
	if p.first > v.first+lingering {
		text = "from " + v.clock.format(p.first)
	}
	if p.exit == nil {
		return text
	}
	text = strings.TrimSpace(text + " to " + v.clock.format(p.exit.at))
	if how := ending(p.exit.code.Or(0), p.exit.signal.Or(0), p.exit.dumped); how != "" {
		text += ", " + how
	}
	return text
}

// ending says how a process ended, unless it ended well.
func ending(code, signal int32, dumped bool) string {
	switch {
	case signal != 0:
		name := unix.SignalName(unix.Signal(signal))
		if name == "" {
			name = fmt.Sprintf("signal %d", signal)
		}
		if dumped {
			name += ", core dumped"
		}
		return name
	case code != 0:
		return fmt.Sprintf("status %d", code)
	}
	return ""
}

// endRow tells how processes of one name ended.
type endRow struct{ Who, How, Count, When string }

func (v *view) endRows() (text string, list []endRow) {
	e := &v.ends
	if e.total == 0 {
		return "", nil
	}
	text = fmt.Sprintf("%s ended: %s by a signal, %s with a status that is not 0, %s with a core dump.",
		plural(e.total, "process", "processes"), number(e.killed), number(e.failed), number(e.dumped))
	if e.inferred > 0 {
		text += fmt.Sprintf(" Of %s only the end was seen, not how.", number(e.inferred))
	}
	if e.uncounted > 0 {
		text += fmt.Sprintf(" The table leaves out %s.", plural(e.uncounted, "end", "ends"))
	}
	kinds := slices.SortedFunc(maps.Values(e.kinds), func(a, b *endCount) int {
		return cmp.Or(cmp.Compare(severity(b), severity(a)), cmp.Compare(b.count, a.count),
			cmp.Compare(a.comm, b.comm), cmp.Compare(a.code, b.code), cmp.Compare(a.signal, b.signal))
	})
	for _, k := range kinds[:min(len(kinds), shownEnds)] {
		when := v.clock.format(k.first)
		if k.count > 1 {
			when += " to " + v.clock.format(k.last)
		}
		list = append(list, endRow{human.Text(k.comm), ending(k.code, k.signal, k.dumped), number(k.count), when})
	}
	if n := uint64(len(kinds) - len(list)); n > 0 {
		text += " " + plural(n, "more kind of end is", "more kinds of ends are") + " not listed."
	}
	return text, list
}

// severity puts what crashed first.
func severity(k *endCount) int {
	switch {
	case k.dumped:
		return 3
	case k.signal != 0 && k.signal != int32(unix.SIGTERM) && k.signal != int32(unix.SIGPIPE) && k.signal != int32(unix.SIGINT):
		return 2
	case k.signal != 0:
		return 1
	}
	return 0
}

// cgroupRow tells of a control group.
type cgroupRow struct {
	Name, Path           string
	Memory, Limit, CPU   string
	Throttled, PIDs, FDs string
	Kills                string
	Share                float64
	Spark                string
}

func (v *view) cgroupRows() []cgroupRow {
	list := slices.DeleteFunc(v.cgroups.all(), func(c *cgroup) bool {
		return c.path == "/" || !c.memory.known && c.cpu.value() == 0
	})
	slices.SortStableFunc(list, func(a, b *cgroup) int {
		return cmp.Or(cmp.Compare(b.memory.value, a.memory.value), cmp.Compare(b.cpu.value(), a.cpu.value()))
	})
	var rows []cgroupRow
	for _, c := range list[:min(len(list), shownCgroups)] {
		rows = append(rows, v.cgroupRow(c, list[0].memory.value))
	}
	return rows
}

func (v *view) cgroupRow(c *cgroup, top float64) cgroupRow {
	row := cgroupRow{Path: human.Text(c.path), Name: human.Text(c.unit), Spark: v.plot.spark(c.memorySeries, c.memory.value)}
	if c.container != "" {
		row.Name = "container " + human.Text(c.container[:min(12, len(c.container))])
	}
	value := func(p peak, u unit) string {
		if !p.known {
			return ""
		}
		return u.format(p.value)
	}
	row.Memory, row.PIDs, row.FDs = value(c.memory, unitBytes), value(c.pids, unitCount), value(c.fds, unitCount)
	if c.memoryLimit > 0 {
		row.Limit = percent(c.memory.value/float64(c.memoryLimit)) + " of " + human.Bytes(float64(c.memoryLimit))
	}
	if c.cpu.known {
		row.CPU = seconds(c.cpu.value())
	}
	if c.throttled.value() > 0 {
		row.Throttled = seconds(c.throttled.value())
	}
	if c.kills.value() > 0 {
		row.Kills = count(c.kills.value())
	}
	if top > 0 {
		row.Share = round(c.memory.value / top * 100)
	}
	return row
}

// gapRow tells of missing records.
type gapRow struct{ From, Length, Text string }

func (v *view) gapRows() []gapRow {
	list := v.gaps.sorted()
	var rows []gapRow
	for _, g := range list[:min(len(list), shownGaps)] {
		rows = append(rows, gapRow{v.clock.format(g.from), seconds(float64(g.to-g.from) / 1000), g.text()})
	}
	if n := uint64(len(list)-len(rows)) + v.gaps.cut; n > 0 {
		rows = append(rows, gapRow{Text: number(n) + " more"})
	}
	return rows
}
