package htmlreport

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"rmagent/internal/human"
	"rmagent/record"
)

// page is what the template shows.
type page struct {
	Title    string
	Made     string
	Machines []section
	Inputs   []inputRow
	LeftOut  []string
}

// inputRow says what became of an input.
type inputRow struct {
	Name, Text string
	Troubles   []string
}

// section is one machine.
type section struct {
	ID, Name  string
	When      string
	Facts     []string
	Findings  []finding
	Tiles     []tile
	Lanes     []lane
	LaneTicks []tick
	Charts    []*chart
	Pruned    bool // plots are tinted
	Leaks     []leakCard
	Growths   []growthRow
	MoreLeaks string
	States    []stateRow
	MoreState string
	Prunes    []pruneRow
	MorePrune string
	OOMs      []oomRow
	Near      []nearRow
	MoreNear  string
	Jobs      *jobTable
	Actions   *actionTable
	Rankings  []rankingTable
	Ended     string
	Ends      []endRow
	Cgroups   []cgroupRow
	Gaps      []gapRow
	Notes     []string
}

// finding is one thing that a reader should know first.
type finding struct {
	Level string // critical, warning, info, good
	Text  string
	Link  string
}

// tile is a peak.
type tile struct{ Name, Value, Detail string }

// lane is a row of the timeline.
type lane struct {
	Label string
	Spans []span
}

// page makes the page of what was read.
func (r *Report) page(now time.Time) *page {
	p := &page{Made: now.UTC().Format("2 Jan 2006 15:04 UTC")}
	var names []string
	for i, m := range r.machines.all() {
		p.Machines = append(p.Machines, m.section(fmt.Sprintf("m%d", i+1)))
		names = append(names, human.Text(clip(m.name, maxName)))
	}
	p.Title = "rmagent report: " + strings.Join(names[:min(len(names), 3)], ", ")
	for _, in := range r.inputs {
		p.Inputs = append(p.Inputs, in.row())
	}
	if r.machines.more > 0 {
		p.LeftOut = append(p.LeftOut, fmt.Sprintf("%s of more than %d hosts are left out.", plural(r.machines.more, "record", "records"), maxMachines))
	}
	return p
}

func (in *input) row() inputRow {
	row := inputRow{Name: human.Text(in.name)}
	parts := []string{plural(in.records, "record", "records"), human.Bytes(float64(in.bytes))}
	for _, kind := range slices.Sorted(maps.Keys(in.unknown)) {
		parts = append(parts, fmt.Sprintf("%s of kind %s, which this version does not draw", number(in.unknown[kind]), kind))
	}
	if in.torn {
		parts = append(parts, "it ends within a line, as a file does that is still written")
	}
	if in.bad > 0 {
		parts = append(parts, plural(in.bad, "line is no record", "lines are no records"))
		row.Troubles = in.troubles
	}
	row.Text = strings.Join(parts, "; ")
	return row
}

// view is a machine while its section is made.
type view struct {
	*machine
	plot  *plot
	clock clock
}

// view ends what is kept of a machine, to be looked at.
func (m *machine) view(id string) *view {
	m.processes.finish()
	for _, b := range m.boots {
		m.agents.ended(b)
	}
	v := &view{machine: m, plot: newPlot(id, m.first, m.last)}
	v.clock = v.plot.clock
	return v
}

func (m *machine) section(id string) section {
	v := m.view(id)
	v.shade()
	s := section{ID: id, Name: human.Text(clip(m.name, maxName)), LaneTicks: v.plot.x}
	s.When, s.Facts = v.when()
	s.Tiles = v.tiles()
	s.Charts, s.Pruned = v.charts(), len(v.prunes.list) > 0
	s.Leaks, s.Growths, s.MoreLeaks = v.leakCards()
	s.States, s.MoreState = v.stateRows()
	s.Prunes, s.MorePrune = v.pruneRows()
	s.OOMs = v.oomRows()
	s.Near, s.MoreNear = v.nearRows()
	s.Jobs, s.Actions = v.jobTable(), v.actionTable()
	s.Rankings = v.rankingTables()
	s.Ended, s.Ends = v.endRows()
	s.Cgroups = v.cgroupRows()
	s.Gaps = v.gapRows()
	s.Lanes = v.lanes()
	s.Findings = v.findings()
	s.Notes = v.notes()
	return s
}

// shade marks in every plot where records are missing and where work should have
// been taken off.
func (v *view) shade() {
	for _, g := range v.gaps.sorted() {
		v.plot.shades = append(v.plot.shades, v.plot.span(g.from, g.to, "gap", ""))
	}
	for _, x := range v.prunes.list {
		v.plot.shades = append(v.plot.shades, v.plot.span(x.from, v.until(x.to, x.open), "prune", ""))
	}
}

// until is the end of something, or of the records where it did not end.
func (v *view) until(to int64, open bool) int64 {
	if open {
		return v.last
	}
	return to
}

func (v *view) when() (string, []string) {
	first, last := at(v.first), at(v.last)
	to := last.Format("15:04:05")
	if v.clock.days {
		to = last.Format("2 Jan 2006, 15:04:05")
	}
	when := fmt.Sprintf("%s to %s UTC", first.Format("2 Jan 2006, 15:04:05"), to)
	facts := []string{length(v.last - v.first), plural(v.host.readings, "reading", "readings")}
	if v.host.cpus > 0 {
		facts = append(facts, plural(v.host.cpus, "CPU", "CPUs"))
	}
	if v.host.memoryTotal > 0 {
		facts = append(facts, human.Bytes(float64(v.host.memoryTotal))+" memory")
	}
	if n := len(v.gpus.order); n > 0 {
		facts = append(facts, plural(uint64(n), "GPU", "GPUs"))
	}
	facts = append(facts, plural(v.processes.seen, "process", "processes"))
	if n := len(v.boots); n > 1 {
		facts = append(facts, plural(uint64(n), "boot", "boots"))
	}
	return when, facts
}

// length writes a time in milliseconds in two units.
func length(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days %d h", int(d.Hours())/24, int(d.Hours())%24)
	case d >= time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

func (v *view) tiles() []tile {
	h := &v.host
	var list []tile
	add := func(name string, u unit, s *series, notes ...string) {
		if s.empty() {
			return
		}
		notes = append(notes, "at "+v.clock.format(s.peakAt), "mean "+u.format(s.mean()))
		list = append(list, tile{name, u.format(s.peak), strings.Join(notes, ", ")})
	}
	add("CPU", unitRatio, h.cpu)
	if h.memoryTotal > 0 {
		add("Memory", unitBytes, h.memory, percent(h.memory.peak/float64(h.memoryTotal))+" of "+human.Bytes(float64(h.memoryTotal)))
	}
	if !h.swap.empty() && h.swap.peak > 0 {
		add("Swap", unitBytes, h.swap)
	}
	add("Disk read", unitRate, h.read)
	add("Disk written", unitRate, h.written)
	add("Net received", unitRate, h.received)
	add("Net sent", unitRate, h.sent)
	add("Open files", unitCount, h.files)
	add("Processes", unitCount, h.processes)
	if c := fullest(v.gpus.all(), (*card).use); c != nil {
		add("GPU", unitRatio, c.utilization, fmt.Sprintf("GPU %d", c.index))
	}
	if c := fullest(v.gpus.all(), (*card).filling); c != nil {
		add("GPU memory", unitRatio, c.memory, fmt.Sprintf("GPU %d of %s", c.index, human.Bytes(float64(c.total))))
	}
	return list
}

func (c *card) use() *series     { return c.utilization }
func (c *card) filling() *series { return c.memory }

func fullest(cards []*card, of func(*card) *series) *card {
	var best *card
	for _, c := range cards {
		if !of(c).empty() && (best == nil || of(c).peak > of(best).peak) {
			best = c
		}
	}
	return best
}

func (v *view) charts() []*chart {
	h, p := &v.host, v.plot
	total := limitLine{float64(h.memoryTotal), "total"}
	list := []*chart{
		p.chart("CPU", unitRatio, 1, limitLine{}, drawn{"busy", h.cpu}),
		p.chart("Memory", unitBytes, total.value, total, drawn{"used", h.memory}, drawn{"swap", h.swapUsed()}),
		p.chart("Disk", unitRate, 0, limitLine{}, drawn{"read", h.read}, drawn{"written", h.written}),
		p.chart("Network", unitRate, 0, limitLine{}, drawn{"received", h.received}, drawn{"sent", h.sent}),
		v.gpuChart("GPU use", (*card).use),
		v.gpuChart("GPU memory", (*card).filling),
		v.pressureChart("Pressure: some task waited", drawn{"for CPU", h.cpuSome}, drawn{"for memory", h.memorySome}, drawn{"for I/O", h.ioSome}),
		v.pressureChart("Pressure: all tasks waited", drawn{"for memory", h.memoryFull}, drawn{"for I/O", h.ioFull}),
		p.chart("Load", unitCount, float64(h.cpus), limitLine{float64(h.cpus), "CPUs:"}, drawn{"over one minute", h.load}),
		p.chart("Open files", unitCount, 0, limitLine{float64(h.filesLimit), "limit"}, drawn{"open", h.files}),
		p.chart("Processes and threads", unitCount, 0, limitLine{float64(h.pidLimit), "limit"}, drawn{"processes", h.processes}, drawn{"threads", h.threads}),
		v.filesystemChart(),
	}
	return slices.DeleteFunc(list, func(c *chart) bool { return c == nil })
}

// swapUsed is nil where there is no swap.
func (h *hostSeries) swapUsed() *series {
	if h.swapTotal == 0 {
		return nil
	}
	return h.swap
}

// pressureChart is nil where nothing ever waited, too.
func (v *view) pressureChart(title string, list ...drawn) *chart {
	for _, d := range list {
		if !d.empty() && d.peak > 0 {
			return v.plot.chart(title, unitRatio, 0.1, limitLine{}, list...)
		}
	}
	return nil
}

func (v *view) gpuChart(title string, of func(*card) *series) *chart {
	cards := slices.DeleteFunc(v.gpus.all(), func(c *card) bool { return of(c).empty() })
	slices.SortStableFunc(cards, func(a, b *card) int { return cmp.Compare(of(b).peak, of(a).peak) })
	note := ""
	if len(cards) > colours {
		note = fmt.Sprintf("the %d fullest of %d", colours, len(cards))
		cards = cards[:colours]
	}
	slices.SortStableFunc(cards, func(a, b *card) int { return cmp.Compare(a.index, b.index) })
	var lines []drawn
	for _, c := range cards {
		lines = append(lines, drawn{human.Text(strings.TrimSpace(fmt.Sprintf("%d %s", c.index, c.name))), of(c)})
	}
	return v.noted(note, v.plot.chart(title, unitRatio, 1, limitLine{}, lines...))
}

func (v *view) filesystemChart() *chart {
	list := slices.DeleteFunc(v.filesystems.all(), func(f *filesystem) bool { return f.used.empty() })
	slices.SortStableFunc(list, func(a, b *filesystem) int { return cmp.Compare(b.used.peak, a.used.peak) })
	note := ""
	if len(list) > colours {
		note = fmt.Sprintf("the %d fullest of %d", colours, len(list))
		list = list[:colours]
	}
	var lines []drawn
	for _, f := range list {
		lines = append(lines, drawn{human.Text(f.path), f.used})
	}
	return v.noted(note, v.plot.chart("Filesystems", unitRatio, 1, limitLine{}, lines...))
}

func (v *view) noted(note string, c *chart) *chart {
	if c != nil {
		c.Note = note
	}
	return c
}

// name says who a target is.
func (v *view) name(t *target) string {
	pid, _, ok := processOf(t.name)
	switch {
	case !ok:
		return human.Text(clip(t.name, maxPath))
	case t.who != "":
		return fmt.Sprintf("%s (pid %d)", human.Text(t.who), pid)
	}
	return fmt.Sprintf("pid %d", pid)
}

// sortedTargets has the most severe first, of those the longest.
func (v *view) sortedTargets() []*target {
	return slices.SortedFunc(maps.Values(v.states.targets), func(a, b *target) int {
		level := a.worst.State
		return cmp.Or(
			cmp.Compare(rank(b.worst.State), rank(a.worst.State)),
			cmp.Compare(b.seconds(level, v.last), a.seconds(level, v.last)),
			cmp.Compare(a.first, b.first),
			cmp.Compare(a.resource+" "+a.name, b.resource+" "+b.name))
	})
}

const (
	leakLanes  = 5
	stateLanes = 10
)

func (v *view) lanes() []lane {
	list := v.leakLanes()
	add := func(label string, spans []span) {
		if len(spans) > 0 {
			list = append(list, lane{label, spans})
		}
	}
	var kills, prunes, changes, missing []span
	for i := range v.ooms.list {
		o := &v.ooms.list[i]
		ms := o.Time.UnixMilli()
		kills = append(kills, v.plot.span(ms, ms, "critical", fmt.Sprintf("%s (pid %d) at %s", human.Text(clip(o.Comm, maxName)), o.PID, v.clock.format(ms))))
	}
	for _, x := range v.prunes.list {
		prunes = append(prunes, v.stretch(x.from, v.until(x.to, x.open), "warning", "should prune: "+reasons(x.reasons)))
	}
	for _, ms := range v.configs.changes {
		changes = append(changes, v.plot.span(ms, ms, "info", "at "+v.clock.format(ms)))
	}
	for _, g := range v.gaps.sorted() {
		missing = append(missing, v.stretch(g.from, g.to, "gap", g.text()))
	}
	add("OOM kills", kills)
	add("should prune", prunes)
	list = append(list, v.stateLanes()...)
	add("actions", v.actionSpans())
	add("configuration changed", changes)
	add("no records", missing)
	return list
}

func (v *view) stateLanes() []lane {
	var list []lane
	for _, t := range v.sortedTargets() {
		if len(list) == stateLanes || rank(t.worst.State) < 1 {
			break
		}
		var spans []span
		for _, x := range t.stretches {
			spans = append(spans, v.stretch(x.from, v.until(x.to, x.open), string(x.level), string(x.level)))
		}
		list = append(list, lane{human.Text(clip(t.resource, maxName)) + " of " + v.name(t), spans})
	}
	return list
}

func (v *view) leakLanes() []lane {
	var list []lane
	for _, s := range v.sortedLeaks() {
		if len(list) == leakLanes {
			break
		}
		var spans []span
		end := v.until(s.until(), s.until() == 0)
		if s.growing > 0 {
			to := end
			if s.leaking > s.growing {
				to = s.leaking
			}
			spans = append(spans, v.stretch(s.growing, to, "warning", "growing"))
		}
		if s.leaking > 0 {
			spans = append(spans, v.stretch(s.leaking, end, "critical", "leaking"))
		}
		list = append(list, lane{"descriptors of " + s.who(), spans})
	}
	return list
}

// stretch is a span that says how long it is.
func (v *view) stretch(from, to int64, class, what string) span {
	return v.plot.span(from, to, class, fmt.Sprintf("%s from %s for %s", what, v.clock.format(from), seconds(float64(max(to-from, 0))/1000)))
}

func (g gap) text() string {
	if g.lost > 0 {
		return plural(g.lost, "record is missing", "records are missing")
	}
	return "the agent did not run"
}

// stateFindings tell of the targets that came to a state.
func (v *view) stateFindings(level record.State) []finding {
	var list []finding
	more := uint64(0)
	for _, t := range v.sortedTargets() {
		if t.worst.State != level {
			continue
		}
		if len(list) == mostFindings {
			more++
			continue
		}
		text := human.Text(strings.TrimSuffix(clip(t.worst.Message, maxPath), "."))
		if text == "" {
			text = human.Text(clip(t.resource, maxName)) + " of " + v.name(t)
		}
		list = append(list, finding{string(level), fmt.Sprintf("%s: %s for %s.", text, level, seconds(t.seconds(level, v.last))), "states"})
	}
	if more > 0 {
		list = append(list, finding{"info", fmt.Sprintf("%s at %s.", plural(more, "more target was", "more targets were"), level), "states"})
	}
	return list
}
