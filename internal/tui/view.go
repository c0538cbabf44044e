package tui

import (
	"fmt"
	"slices"
	"strings"

	"rmagent/internal/human"
	"rmagent/internal/report"
	"rmagent/record"
)

// View returns the screen: as many lines as the terminal has, each as wide at most.
func (m *Model) View() string {
	var lines []string
	switch {
	case m.screen == help:
		lines = append(m.header()[:1], append([]string{""}, keysHelp()...)...)
	case m.reading == nil:
		lines = []string{m.title(), "", "reading " + human.Text(m.options.Source) + " ..."}
		if m.err != nil {
			lines = append(lines, "", red.in(human.Text(m.err.Error())))
		}
	case m.screen == detail:
		lines = m.detailLines()
	default:
		lines = m.tableLines()
	}
	lines = lines[:min(len(lines), m.height-1)]
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines, m.footer())
	for i := range lines {
		lines[i] = m.characters(strings.TrimRight(fit(m.characters(lines[i]), m.width), " "))
	}
	return strings.Join(lines, "\n")
}

// characters leaves those that the terminal can show. They may take more cells than
// those that were there: a combining mark took none.
func (m *Model) characters(text string) string {
	if !m.options.ASCII {
		return text
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '…':
			return '+'
		case r > '~':
			return '?'
		}
		return r
	}, text)
}

// title is the first line.
func (m *Model) title() string {
	parts := []string{bold.in("rmagent top")}
	r := m.reading
	if r == nil {
		return parts[0]
	}
	parts = append(parts, human.Text(r.HostName), clock(r.Time.UTC())+" UTC")
	switch { // before what is old then, so that it is not cut off
	case m.err != nil:
		parts = append(parts, red.in("no answer: "+human.Text(m.err.Error())))
	case m.paused:
		parts = append(parts, reverse.in(" paused "))
	}
	parts = append(parts, fmt.Sprintf("%d processes", len(r.Processes)))
	leaking := 0
	for i := range r.Leaks {
		if r.Leaks[i].Verdict == record.VerdictLeaking {
			leaking++
		}
	}
	if leaking > 0 {
		parts = append(parts, red.in(fmt.Sprintf("%d leaking", leaking)))
	}
	parts = append(parts, counted(r.States)...)
	return strings.Join(parts, "  ")
}

// counted says how many are at a state.
func counted(list []record.StateChange) (parts []string) {
	for _, s := range []struct {
		state record.State
		style style
	}{{record.StateCritical, red}, {record.StateWarning, yellow}} {
		n := 0
		for i := range list {
			if list[i].State == s.state {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, s.style.in(fmt.Sprintf("%d %s", n, s.state)))
		}
	}
	return parts
}

// header is what stands above the table.
func (m *Model) header() []string {
	lines := []string{m.title()}
	if m.reading == nil {
		return lines
	}
	h := &m.reading.Host
	barWidth := max(10, min(30, m.width/4))
	sparkWidth := max(0, min(historyLength, m.width-barWidth-38))
	lines = append(lines,
		m.gauge("CPU", h.CPURatio, fmt.Sprintf("of %s, load %s", countOf(h.CPUCount), loadOf(h.Load1)), barWidth, m.cpu, sparkWidth),
		m.gauge("MEM", memoryRatio(h), "of "+sizeOf(h.MemoryTotalBytes)+swapOf(h), barWidth, m.mem, sparkWidth))
	lines = append(lines, m.flows(h), m.stalls(h))
	lines = append(lines, m.alerts()...)
	return lines[:min(len(lines), max(1, m.height/2-2))] // the table comes first
}

func (m *Model) gauge(name string, ratio record.Opt[float64], of string, width int, past history, sparkWidth int) string {
	v, ok := ratio.Get()
	drawn := strings.Repeat(" ", width)
	if ok {
		drawn = m.glyphs.bar(v, width)
	}
	line := bold.in(name) + " " + drawn + " " + right(percentOf(ratio), 4) + " " + fit(of, 25)
	return line + " " + blue.in(m.glyphs.spark(past, sparkWidth, 1))
}

func loadOf(o record.Opt[float64]) string {
	v, ok := o.Get()
	if !ok {
		return unknown
	}
	return fmt.Sprintf("%.2f", v)
}

func swapOf(h *record.Host) string {
	if used, ok := h.SwapUsedBytes.Get(); ok && used > 0 {
		return ", swap " + size(float64(used))
	}
	return ""
}

// flows is the line of disk, network and files.
func (m *Model) flows(h *record.Host) string {
	diskTrend, netTrend := "", ""
	if m.width >= 110 {
		diskTrend, netTrend = " "+blue.in(m.glyphs.spark(m.disk, 15, 0)), " "+blue.in(m.glyphs.spark(m.traffic, 15, 0))
	}
	return fmt.Sprintf("%s read %s written %s%s   %s in %s out %s%s   %s %s",
		bold.in("disk/s"), rateOf(h.DiskReadBytesPerSecond), rateOf(h.DiskWrittenBytesPerSecond), diskTrend,
		bold.in("net/s"), rateOf(h.NetReceivedBytesPerSecond), rateOf(h.NetSentBytesPerSecond), netTrend,
		bold.in("files"), countOf(h.FilesOpen))
}

// stalls is the line of pressure and GPUs.
func (m *Model) stalls(h *record.Host) string {
	text := fmt.Sprintf("%s cpu %s memory %s io %s", bold.in("waiting for"),
		percentOf(h.PressureCPUSomeRatio), percentOf(h.PressureMemorySomeRatio), percentOf(h.PressureIOSomeRatio))
	var busiest, fullest record.Opt[float64]
	for i := range m.reading.GPUs {
		g := &m.reading.GPUs[i]
		busiest = greater(busiest, g.UtilizationRatio)
		total := g.MemoryTotalBytes.Or(0)
		fullest = greater(fullest, record.SomeIf(float64(g.MemoryUsedBytes.Or(0))/float64(max(total, 1)), total > 0 && g.MemoryUsedBytes.Known()))
	}
	if n := len(m.reading.GPUs); n > 0 {
		text += fmt.Sprintf("   %s %d, busiest %s, fullest %s", bold.in("GPUs"), n, percentOf(busiest), percentOf(fullest))
	}
	return text
}

func greater(a, b record.Opt[float64]) record.Opt[float64] {
	if !a.Known() || b.Known() && b.Or(0) > a.Or(0) {
		return b
	}
	return a
}

// alerts are the worst of what is wrong, a line each.
func (m *Model) alerts() []string {
	most := max(1, (m.height-14)/5)
	var list []string
	for i := range m.reading.Leaks {
		l := &m.reading.Leaks[i]
		if l.Verdict == record.VerdictLeaking {
			list = append(list, red.in("! "+leakText(l)))
		}
	}
	if p := m.reading.Prune; p != nil && p.ShouldPrune {
		list = append(list, yellow.in("> "+pruneText(p)))
	}
	for i := range m.reading.States {
		s := &m.reading.States[i]
		switch {
		case s.State == record.StateCritical:
			list = append(list, red.in("! "+human.Text(s.Message)))
		case s.State == record.StateWarning:
			list = append(list, yellow.in("> "+human.Text(s.Message)))
		}
	}
	if len(list) > most {
		list = list[:most]
	}
	return list
}

// leakText says in a line who leaks, where in the code, and how long it lasts.
func leakText(l *record.Leak) string {
	text := fmt.Sprintf("%s (pid %d) leaks", l.Comm, l.PID)
	for i := range l.Sites {
		if place := report.Place(l.Sites[i].Stack); place != "" {
			text += ": " + place
			break
		}
	}
	if seconds, ok := l.SecondsToLimit.Get(); ok {
		text += ", full in " + left(seconds)
	}
	text += fmt.Sprintf(", %s", countOf(l.FDOpen))
	if limit, ok := l.FDLimit.Get(); ok {
		text += fmt.Sprintf("/%d", limit)
	}
	return human.Text(text + " open, " + human.Rate(l.GrowthPerSecond.Or(0)) + " more")
}

func pruneText(p *record.Prune) string {
	text := "work should be taken off"
	for i := range p.Reasons {
		text += fmt.Sprintf("; %s of %s", p.Reasons[i].Resource, p.Reasons[i].Target)
	}
	if len(p.Candidates) > 0 {
		text += fmt.Sprintf("; first %s (pid %d)", p.Candidates[0].Comm, p.Candidates[0].PID)
	}
	return human.Text(text)
}

// tableHeight is how many rows the table has room for.
func (m *Model) tableHeight() int {
	return max(1, m.height-len(m.header())-2)
}

func (m *Model) tableLines() []string {
	lines := append(m.header(), m.columnHeads())
	height := max(1, m.height-len(lines)-1)
	at := m.at
	if m.cursor == (id{}) {
		at = 0
	}
	m.top = max(0, min(m.top, len(m.rows)-height))
	m.top = max(min(m.top, at), at-height+1)
	for i := m.top; i < min(len(m.rows), m.top+height); i++ {
		lines = append(lines, m.rowLine(&m.rows[i], i == at))
	}
	return append(lines, m.missing()...)
}

// missing says who was asked for and is not there.
func (m *Model) missing() (lines []string) {
	for _, pid := range m.options.PIDs {
		if !slices.ContainsFunc(m.reading.Processes, func(p record.Process) bool { return p.PID == pid }) {
			lines = append(lines, yellow.in(fmt.Sprintf("pid %d has ended", pid)))
		}
	}
	switch {
	case len(m.rows) > 0 || m.filter == "" && m.options.PIDs != nil:
	case m.filter == "":
		lines = append(lines, dim.in("there is no such process"))
	default:
		lines = append(lines, dim.in("no process matches "+m.filter))
	}
	return lines
}

// columnHeads is the line of titles; the column that is sorted by stands out.
func (m *Model) columnHeads() string {
	var out strings.Builder
	out.WriteString("  ")
	for i := range columns {
		c := &columns[i]
		if c.wide > m.width {
			continue
		}
		title := c.title
		if i == m.sort {
			title += map[bool]string{false: "v", true: "^"}[m.turned]
		}
		text := right(title, c.width)
		if c.width == 0 {
			text = title
		}
		if i == m.sort {
			text = bold.in(text)
		} else {
			text = dim.in(text)
		}
		out.WriteString(text + " ")
	}
	return out.String()
}

// mark says in one character what is wrong with a process.
func (r *row) mark() (string, style) {
	switch r.urgency() {
	case 4, 3:
		return "!", red
	case 2:
		return "~", yellow
	case 1:
		return ">", yellow
	}
	return " ", plain
}

func (m *Model) rowLine(r *row, chosen bool) string {
	mark, style := r.mark()
	var out strings.Builder
	out.WriteString(mark + " ")
	for i := range columns {
		c := &columns[i]
		switch {
		case c.wide > m.width:
			continue
		case c.width == 0:
			out.WriteString(m.nameCell(r, style == plain && !chosen))
		case c.cell == nil:
			out.WriteString(fit(m.trend(c.title, r), c.width) + " ")
		default:
			out.WriteString(right(c.cell(r), c.width) + " ")
		}
	}
	text := fit(out.String(), m.width)
	switch {
	case chosen:
		return selected.in(text)
	default:
		return style.in(text)
	}
}

// nameCell is the name, behind its branch of the tree, with its service.
func (m *Model) nameCell(r *row, dimmed bool) string {
	text := m.branch(r.depth) + r.name
	if r.why != "" {
		text += " [" + r.why + " " + string(r.state) + "]"
	}
	if r.where == "" {
		return text
	}
	if dimmed {
		return text + "  " + dim.in(r.where)
	}
	return text + "  " + r.where
}

// branch draws where a process hangs; deep trees are cut at the left.
func (m *Model) branch(depth []bool) string {
	if len(depth) < 2 {
		return ""
	}
	depth = depth[1:] // roots need no branch
	const deepest = 8
	depth = depth[max(0, len(depth)-deepest):]
	var out strings.Builder
	for _, more := range depth[:len(depth)-1] {
		if more {
			out.WriteString(m.glyphs.pipe)
		} else {
			out.WriteString(m.glyphs.gap)
		}
	}
	if depth[len(depth)-1] {
		out.WriteString(m.glyphs.branch)
	} else {
		out.WriteString(m.glyphs.end)
	}
	return out.String()
}

// trend is a column that draws.
func (m *Model) trend(title string, r *row) string {
	p := m.pasts[r.id()]
	if p == nil {
		return ""
	}
	if title == cpuTrend {
		return m.glyphs.spark(p.cpu, 10, 0)
	}
	return m.glyphs.spark(p.files, 10, 0)
}

// footer is the last line.
func (m *Model) footer() string {
	switch {
	case m.typing:
		return bold.in("filter: ") + m.filter + reverse.in(" ") + dim.in("  enter: keep, esc: all")
	case m.screen == help:
		return dim.in("any key: back")
	case m.screen == detail:
		return dim.in("esc back  up down scroll  space pause  ? help   " + human.Text(m.options.Source))
	}
	text := "enter look  / filter  t tree  space pause  ? help  q end"
	if m.filter != "" {
		text = fmt.Sprintf("filter %q: %d  esc: all   ", m.filter, len(m.rows)) + text
	}
	return dim.in(text + "   " + human.Text(m.options.Source))
}

// Once returns the whole table for a reader that is no terminal: no colours, every
// row, so wide.
func (m *Model) Once(width int) string {
	m.width, m.height = width, 24
	lines := append(m.header(), m.columnHeads())
	for i := range m.rows {
		lines = append(lines, m.rowLine(&m.rows[i], false))
	}
	lines = append(lines, m.missing()...)
	for i := range lines {
		lines[i] = strings.TrimRight(stripped(lines[i]), " ")
	}
	return m.characters(strings.Join(lines, "\n")) + "\n"
}
