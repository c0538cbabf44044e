package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"rmagent/internal/cmdline"
	"rmagent/internal/human"
	"rmagent/record"
)

// headroomPage writes headroom for people, for a terminal of 80 columns.
type headroomPage struct {
	w       io.Writer
	all     bool // also what is unlimited or hard
	colours bool
	err     error
}

func newHeadroomPage(c *cli.Context) *headroomPage {
	return &headroomPage{w: c.App.Writer, all: c.Bool("all"), colours: cmdline.WantsColours(c.App.Writer)}
}

func (p *headroomPage) printf(format string, args ...any) {
	if p.err == nil {
		text := fmt.Sprintf(format, args...)
		if line, ok := strings.CutSuffix(text, "\n"); ok { // columns may be empty
			text = strings.TrimRight(line, " ") + "\n"
		}
		_, p.err = io.WriteString(p.w, text)
	}
}

// process writes every limit of one process.
func (p *headroomPage) process(h *record.Headroom) error {
	p.who(h)
	p.first("first in space", h.FirstInSpace, "no limit is known")
	if timed(h) {
		p.first("first in time", h.FirstInTime, "nothing grows towards a limit")
	}
	p.untouched(h.Overcommit)
	p.printf("\n%-31s %-16s %9s %10s %9s\n", "", "TAKEN", "USED", "LEFT", "FULL IN")
	scope := ""
	for i := range h.Limits {
		l := &h.Limits[i]
		if !p.shows(l) {
			continue
		}
		if l.Scope != scope {
			scope = l.Scope
			p.printf("%s\n", human.Text(scope))
		}
		p.limit(l)
	}
	p.rest(h.Limits)
	return p.err
}

func (p *headroomPage) who(h *record.Headroom) {
	p.printf("%s (pid %d)", human.Text(h.Comm), h.PID)
	if uid, ok := h.UID.Get(); ok {
		p.printf(", uid %d", uid)
	}
	if t, ok := h.StartTime.Get(); ok {
		p.printf(", since %s", t.Local().Format("2006-01-02 15:04:05"))
	}
	if cgroup, ok := h.Cgroup.Get(); ok && cgroup != "/" {
		p.printf(", in\n%s", human.Text(cgroup))
	}
	p.printf("\n\n")
}

// timed reports whether there were two readings.
func timed(h *record.Headroom) bool {
	for i := range h.Limits {
		if h.Limits[i].RatePerSecond.Known() {
			return true
		}
	}
	return false
}

const indent = "                "

func (p *headroomPage) first(what string, l *record.HeadroomLimit, none string) {
	if l == nil {
		p.printf("%-15s %s\n", what, none)
		return
	}
	p.printf("%-15s %s\n", what, p.colour(l, l.Name+" of "+human.Text(l.Scope)))
	ratio, _ := l.UsedRatio.Get()
	text := fmt.Sprintf("%s taken, %s left of %s", human.Percent(ratio), amount(l.Available, l.Unit), amount(l.Limit, l.Unit))
	if s, ok := l.SecondsToLimit.Get(); ok {
		rate, _ := l.RatePerSecond.Get()
		text += fmt.Sprintf("; full in %s at %s/s", human.Seconds(s), amount(record.Some(rate), l.Unit))
	}
	p.wrapped("", text)
	p.wrapped("then:  ", l.Consequence)
	p.wrapped("raise: ", l.Raise)
}

// wrapped writes text after the indentation.
func (p *headroomPage) wrapped(label, text string) {
	if text == "" {
		return
	}
	p.printf("%s", cmdline.Wrap(indent+label, text))
}

func (p *headroomPage) untouched(o *record.Overcommit) {
	if o == nil || o.Risk == "" {
		return
	}
	p.printf("%-15s %s of memory is promised and was never touched\n", "at risk", human.Bytes(float64(o.UntouchedBytes)))
	p.wrapped("", o.Risk)
}

// shows tells what is in the table: limits that hold.
func (p *headroomPage) shows(l *record.HeadroomLimit) bool {
	if p.all {
		return true
	}
	return l.Known && l.Limit.Known() && !strings.HasSuffix(l.Scope, ", hard")
}

func (p *headroomPage) limit(l *record.HeadroomLimit) {
	ratio, ok := l.UsedRatio.Get()
	taken := ""
	switch {
	case ok:
		taken = p.colour(l, fmt.Sprintf("%s %4s", bar(ratio), human.Percent(ratio)))
	case !l.Known:
		taken = fmt.Sprintf("%-16s", "unknown")
	case !l.Limit.Known():
		taken = fmt.Sprintf("%-16s", "unlimited")
	default:
		taken = fmt.Sprintf("%-16s", "none allowed")
	}
	full := ""
	if s, ok := l.SecondsToLimit.Get(); ok {
		full = human.Seconds(s)
	}
	p.printf("  %-29s %s %9s %10s %9s\n", l.Name, taken, amount(l.Used, l.Unit), amount(l.Available, l.Unit), full)
}

// rest names what the table leaves out.
func (p *headroomPage) rest(limits []record.HeadroomLimit) {
	reasons := []string{}
	names := map[string][]string{}
	add := func(reason, name string) {
		if names[reason] == nil {
			reasons = append(reasons, reason)
		}
		for _, n := range names[reason] {
			if n == name {
				return
			}
		}
		names[reason] = append(names[reason], name)
	}
	for i := range limits {
		switch l := &limits[i]; {
		case !l.Known && l.Limit.Known() || !l.Known && l.Why != "":
			add("unknown: "+l.Why, l.Name)
		case p.shows(l) || strings.HasSuffix(l.Scope, ", hard"):
		case strings.HasPrefix(l.Consequence, "none: "):
			add("no limit here: "+strings.TrimPrefix(l.Consequence, "none: "), l.Name)
		default:
			add("unlimited", l.Name)
		}
	}
	if len(reasons) > 0 {
		p.printf("\n")
	}
	for _, reason := range reasons {
		p.paragraph(reason + ": " + strings.Join(names[reason], ", "))
	}
}

// paragraph writes text in lines of 80 columns.
func (p *headroomPage) paragraph(text string) {
	line := ""
	for word := range strings.SplitSeq(human.Text(text), " ") {
		if line != "" && len(line)+1+len(word) > 80 {
			p.printf("%s\n", line)
			line = " "
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	p.printf("%s\n", line)
}

// list writes the processes nearest to a limit.
func (p *headroomPage) list(h *record.HeadroomList) error {
	p.printf("%-31s %-16s %9s %10s %9s\n", "machine", "TAKEN", "USED", "LEFT", "FULL IN")
	for i := range h.Machine {
		if l := &h.Machine[i]; p.shows(l) {
			p.limit(l)
		}
	}
	if len(h.Processes) == 0 {
		p.printf("\nno process to show\n")
		return p.err
	}
	p.printf("\n%7s %-15s %-13s %-16s %10s %s\n", "PID", "NAME", "NEAREST", "TAKEN", "LEFT", "FULL IN")
	for i := range h.Processes {
		p.line(&h.Processes[i])
	}
	if len(h.Processes) < h.Evaluated {
		p.printf("\n%d of %d processes. All limits of one: rmagent headroom --pid PID\n", len(h.Processes), h.Evaluated)
	}
	return p.err
}

func (p *headroomPage) line(h *record.Headroom) {
	l := h.FirstInSpace
	if l == nil {
		p.printf("%7d %-15s %s\n", h.PID, human.Text(h.Comm), "no limit is known")
		return
	}
	ratio, _ := l.UsedRatio.Get()
	full := ""
	if t := h.FirstInTime; t != nil {
		if s, ok := t.SecondsToLimit.Get(); ok && s < (24*time.Hour).Seconds() {
			full = human.Seconds(s)
		}
		if full != "" && t.Name != l.Name {
			full += ": " + short(t.Name)
		}
	}
	taken := p.colour(l, fmt.Sprintf("%s %4s", bar(ratio), human.Percent(ratio)))
	p.printf("%7d %-15s %-13s %s %10s %s\n", h.PID, human.Text(h.Comm), short(l.Name), taken, amount(l.Available, l.Unit), full)
}

// short is a limit's name without what all of its kind have in common.
func short(name string) string {
	return strings.TrimSuffix(strings.TrimPrefix(name, "RLIMIT_"), ".limit_in_bytes")
}

const barWidth = 11

func bar(ratio float64) string {
	n := min(barWidth, max(0, int(ratio*barWidth+0.5)))
	return strings.Repeat("#", n) + strings.Repeat(".", barWidth-n)
}

func amount(o record.Opt[float64], unit string) string {
	v, ok := o.Get()
	if !ok {
		return "-"
	}
	switch unit {
	case "bytes":
		if v < 0 {
			return "-" + human.Bytes(-v)
		}
		return human.Bytes(v)
	case "cores":
		return fmt.Sprintf("%.2f", v)
	case "seconds":
		return fmt.Sprintf("%.1f s", v)
	}
	if v != float64(int64(v)) {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// colour marks what is nearly gone, on a terminal.
func (p *headroomPage) colour(l *record.HeadroomLimit, s string) string {
	ratio, _ := l.UsedRatio.Get()
	switch {
	case !p.colours || ratio < 0.8:
		return s
	case ratio < 0.9:
		return "\x1b[33m" + s + "\x1b[0m"
	}
	return "\x1b[31m" + s + "\x1b[0m"
}
