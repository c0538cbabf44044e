package tui

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"rmagent/internal/human"
	"rmagent/internal/report"
	"rmagent/record"
)

// detailLines are all that is known of the process, from the line on that was
// scrolled to.
func (m *Model) detailLines() []string {
	head := []string{m.title()}
	r := m.find(m.cursor)
	if r == nil {
		return append(head, "", fmt.Sprintf("process %d has ended; esc: back", m.cursor.pid))
	}
	body := m.who(r)
	body = append(body, m.usage(r)...)
	parts := [][]string{m.limits(), m.holds()}
	if r.leak != nil { // what leaks comes first
		slices.Reverse(parts)
	}
	body = append(body, slices.Concat(parts...)...)
	height := m.height - 2
	m.scroll = max(0, min(m.scroll, len(body)-height))
	return append(head, body[m.scroll:]...)
}

// find returns a process of the present reading, filtered away or not.
func (m *Model) find(who id) *row {
	for i := range m.reading.Processes {
		p := &m.reading.Processes[i]
		if (id{p.PID, p.StartTicks}) != who {
			continue
		}
		r := &row{Process: p, name: human.Text(p.Comm), where: where(&p.ProcessFacts)}
		for j := range m.reading.Leaks {
			if l := &m.reading.Leaks[j]; l.PID == p.PID && l.StartTicks == p.StartTicks {
				r.leak = l
			}
		}
		return r
	}
	return nil
}

func (m *Model) who(r *row) []string {
	line := bold.in(fmt.Sprintf("%s (pid %d)", r.name, r.PID))
	if r.leak != nil {
		s := yellow
		if r.leak.Verdict == record.VerdictLeaking {
			s = red
		}
		line += "  " + s.in(strings.ToUpper(string(r.leak.Verdict)))
		if rule, ok := r.leak.Rule.Get(); ok {
			line += " " + s.in("("+human.Text(report.RuleText(rule))+")")
		}
	}
	var facts []string
	add := func(name, value string) {
		if value != "" && value != unknown {
			facts = append(facts, dim.in(name)+" "+value)
		}
	}
	add("uid", uid(r))
	add("parent", opt(r.PPID))
	add("threads", countOf(r.Threads))
	add("state", human.Text(r.State.Or("")))
	if t, ok := r.StartTime.Get(); ok {
		add("since", t.UTC().Format("2 Jan 15:04:05")+" ("+human.Seconds(max(m.reading.Time.Sub(t), 0).Seconds())+")")
	}
	lines := []string{"", line, strings.Join(facts, "  ")}
	for _, f := range [...]struct{ name, value string }{
		{"exe", r.Exe.Or("")}, {"unit", r.Unit.Or("")}, {"container", r.ContainerID.Or("")}, {"cgroup", r.Cgroup.Or("")},
	} {
		if f.value != "" {
			lines = append(lines, dim.in(f.name)+" "+human.Text(f.value))
		}
	}
	return lines
}

func opt(o record.Opt[int32]) string {
	v, ok := o.Get()
	if !ok {
		return unknown
	}
	return fmt.Sprint(v)
}

// usage has a line with its past for each resource.
func (m *Model) usage(r *row) []string {
	p := m.pasts[r.id()]
	if p == nil {
		p = &past{}
	}
	width := max(0, min(historyLength, m.width-54))
	line := func(name, value, more string, h history) string {
		return bold.in(fit(name, 7)) + fit(value, 10) + fit(more, 36) + blue.in(m.glyphs.spark(h, width, 0))
	}
	limit := "no limit known"
	if n, ok := r.FDLimit.Get(); ok {
		limit = fmt.Sprintf("%s of %d", percentOf(r.FDRatio), n)
		if seconds, ok := timeLeft(r).Get(); ok {
			limit += ", full in " + left(seconds)
		}
	}
	memory := fmt.Sprintf("anon %s file %s swap %s", sizeOf(r.RSSAnonBytes), sizeOf(r.RSSFileBytes), sizeOf(r.SwapBytes))
	cpu := "total unknown"
	if v, ok := r.CPUSecondsTotal.Get(); ok {
		cpu = fmt.Sprintf("%.1f s in all", v)
	}
	lines := []string{"",
		line("CPU", cpuCell(r.CPUCores)+"%", cpu, p.cpu),
		line("MEM", sizeOf(r.RSSBytes), memory, p.memory),
		line("FDS", countOf(r.FDOpen), limit, p.files),
		line("DISK/s", rateOf(disk(r)), fmt.Sprintf("in all read %s written %s", sizeOf(r.DiskReadBytesTotal), sizeOf(r.DiskWrittenBytesTotal)), nil),
		line("NET/s", rateOf(network(r)), fmt.Sprintf("in all in %s out %s", sizeOf(r.NetReceivedBytesTotal), sizeOf(r.NetSentBytesTotal)), nil),
	}
	if r.GPUMemoryBytes.Known() {
		lines = append(lines, line("GPU", sizeOf(r.GPUMemoryBytes), "memory; busy "+percentOf(r.GPUUtilizationRatio), nil))
	}
	return lines
}

// shownLimits is how many limits the detail lists, nearest first.
const shownLimits = 6

// limits lists the limits that are nearest.
func (m *Model) limits() []string {
	lines := []string{"", bold.in("Limits, the nearest first")}
	if m.details.PID == 0 {
		return append(lines, dim.in("reading ..."))
	}
	if m.details.HeadroomErr != nil {
		return append(lines, red.in(human.Text(m.details.HeadroomErr.Error())))
	}
	list := slices.DeleteFunc(slices.Clone(m.details.Headroom.Limits), func(l record.HeadroomLimit) bool {
		return !l.UsedRatio.Known() || strings.HasSuffix(l.Scope, ", hard")
	})
	slices.SortStableFunc(list, func(a, b record.HeadroomLimit) int {
		return int(1e6 * (b.UsedRatio.Or(0) - a.UsedRatio.Or(0)))
	})
	for i, l := range list {
		if first := m.details.Headroom.FirstInTime; i >= shownLimits && (first == nil || l.Name != first.Name || l.Scope != first.Scope) {
			continue // but what is full first is shown, however much is left of it
		}
		ratio := l.UsedRatio.Or(0)
		text := fit(human.Text(l.Name), 22) + " " + m.glyphs.bar(ratio, 10) + " " + right(human.Percent(ratio), 4) +
			right(amount(l.Available, l.Unit), 8) + " left"
		if seconds, ok := l.SecondsToLimit.Get(); ok {
			text += ", " + red.in("full in "+left(seconds))
		}
		lines = append(lines, text+"  "+dim.in(human.Text(l.Scope)))
	}
	if len(list) == 0 {
		lines = append(lines, dim.in("none is known"))
	}
	return lines
}

func amount(o record.Opt[float64], unit string) string {
	v, ok := o.Get()
	switch {
	case !ok:
		return unknown
	case unit == "bytes":
		return size(v)
	case v >= 1e7:
		return count(v)
	case v != float64(int64(v)):
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// holds lists what the process holds, and who opened it.
func (m *Model) holds() []string {
	lines := []string{"", bold.in("Open descriptors")}
	if m.details.PID == 0 {
		return append(lines, dim.in("reading ..."))
	}
	if m.details.HoldsErr != nil {
		return append(lines, red.in(human.Text(m.details.HoldsErr.Error())))
	}
	h := &m.details.Holds
	if rate := h.GrowthPerSecond.Or(0); rate > 0 {
		lines[1] += "  " + yellow.in(human.Rate(rate)+" more")
	}
	for i := range h.Sites {
		lines = append(lines, m.site(&h.Sites[i])...)
	}
	for _, reason := range report.Unlisted {
		if n := h.Unattributed[reason]; n > 0 {
			lines = append(lines, fmt.Sprintf("%7d more %s", n, report.UnlistedText(reason)))
		}
	}
	if len(h.Sites) == 0 {
		lines = append(lines, dim.in("none are listed"))
	}
	return lines
}

func (m *Model) site(s *record.Site) []string {
	head := right(fmt.Sprint(s.Held), 7) + " " + fit(human.Text(s.Type), 12) + " " + human.Text(s.Target.Or(""))
	var notes []string
	if opened, ok := s.OpenedTotal.Get(); ok {
		notes = append(notes, fmt.Sprintf("opened %d, closed %d", opened, s.ClosedTotal.Or(0)))
	}
	if age, ok := s.OldestSeconds.Get(); ok {
		notes = append(notes, "oldest "+human.Seconds(age))
	}
	lines := []string{head + "  " + dim.in(strings.Join(notes, ", "))}
	culprit := report.Culprit(s.Stack)
	for i := range s.Stack {
		f := &s.Stack[i]
		text := "          " + frame(f)
		switch {
		case i == culprit:
			text = bold.in(text)
		case report.Runtime(f) || !f.Function.Known():
			continue // the culprit and what called it are what one looks for
		}
		lines = append(lines, text)
	}
	return lines
}

func frame(f *record.Frame) string {
	name := human.Text(report.FrameName(f))
	switch {
	case f.File.Known() && f.Line.Known():
		return fmt.Sprintf("%s  %s:%d", name, human.Text(path.Base(f.File.Or(""))), f.Line.Or(0))
	case f.File.Known():
		return name + "  " + human.Text(path.Base(f.File.Or("")))
	case f.Module.Known():
		return name + "  " + human.Text(path.Base(f.Module.Or("")))
	}
	return name
}

// stripped takes the styles out.
func stripped(text string) string { return ansi.Strip(text) }
