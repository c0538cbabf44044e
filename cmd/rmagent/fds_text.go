package main

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/cmdline"
	"rmagent/internal/human"
	"rmagent/internal/report"
	"rmagent/internal/sample"
	"rmagent/record"
)

// progress says on a terminal how long the watching still takes.
type progress struct {
	length time.Duration
	on     bool
}

func newProgress(length time.Duration) *progress {
	p := &progress{length, cmdline.IsTerminal(os.Stderr) && length >= 2*time.Second}
	p.show(0)
	return p
}

func (p *progress) show(done time.Duration) {
	if p.on {
		fmt.Fprintf(os.Stderr, "\r\x1b[Kwatching for %s more (Ctrl-C: show what there is)", human.Seconds(max(p.length-done, 0).Seconds()))
	}
}

func (p *progress) end() {
	if p.on {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}

var verdictColours = map[record.Verdict]string{record.VerdictLeaking: cmdline.Red, record.VerdictGrowing: cmdline.Yellow}

// fdPage writes what is held for people.
type fdPage struct {
	*cmdline.Painter
	watched  time.Duration // 0: nobody says how long
	age      time.Duration // of what the host's page counts
	untraced error         // why nobody can tell who opened what; nil: it can be told
}

// processes shows what each process holds.
func (p *fdPage) processes(list []record.Leak) {
	slices.SortStableFunc(list, func(a, b record.Leak) int { return cmp.Compare(b.FDOpen.Or(0), a.FDOpen.Or(0)) })
	for i := range list {
		if i > 0 {
			p.Line("")
		}
		p.process(&list[i])
	}
	if len(list) == 0 {
		p.Line("no process matches")
	}
}

// head says who holds how many, and until when it can go on.
func (p *fdPage) head(r *record.Leak) {
	p.Line("%s", p.Paint(cmdline.Bold, fmt.Sprintf("%s (pid %d)", human.Text(r.Comm), r.PID))+"  "+
		p.Paint(verdictColours[r.Verdict], verdictText(r)))
	p.Line("%s%s", usageText(r), report.GrowthText(r))
}

// briefSites is how many sites of a process the host's page shows.
const briefSites = 3

// brief shows what a process holds most of, and the code that opened it, without stacks.
func (p *fdPage) brief(r *record.Leak) {
	p.head(r)
	openers := report.ByPlace(r.Sites)
	openers = openers[:min(briefSites, len(openers))]
	var widths siteWidths
	for i := range openers {
		widths.fit(openers[i].Held, openers[i].Type)
	}
	for i := range openers {
		o := &openers[i]
		by := report.NoStackText(o.StackEnd.Or(""))
		if o.Place != "" {
			by = "by " + human.Text(o.Place)
		}
		held := "-"
		if o.Held > 0 {
			held = fmt.Sprint(o.Held)
		}
		p.Line("  %*s  %-*s  %s%s", widths[0], held, widths[1], o.Type, by, targetText(o.Site))
	}
	p.Line("  %s", p.Paint(cmdline.Dim, fmt.Sprintf("%*s  all of it, with stacks: rmagent fds --pid %d", widths[0], "", r.PID)))
}

func targetText(s *record.Site) string {
	if target, ok := s.Target.Get(); ok {
		return "  " + human.Text(target)
	}
	return ""
}

// siteWidths are those of the columns with numbers and types.
type siteWidths [2]int

func (w *siteWidths) fit(held uint64, kind string) {
	w[0], w[1] = max(w[0], len(fmt.Sprint(held))), max(w[1], len(kind))
}

func (p *fdPage) process(r *record.Leak) {
	p.head(r)
	if r.Verdict == record.VerdictUnknown && p.watched > 0 {
		p.Line("  %s", p.Paint(cmdline.Dim, fmt.Sprintf("watched for %s: too short to say whether it grows; --for 10s is enough", human.Seconds(p.watched.Seconds()))))
	}
	if p.untraced != nil {
		p.Line("  %s", p.Paint(cmdline.Dim, "who opened them is unknown: "+human.Text(p.untraced.Error())))
	}
	var widths siteWidths
	for i := range r.Sites {
		widths.fit(r.Sites[i].Held, r.Sites[i].Type)
	}
	for i := range r.Sites {
		p.site(&r.Sites[i], widths)
	}
	for _, reason := range report.Unlisted {
		if n := r.Unattributed[reason]; n > 0 {
			p.Line("  %*d more %s", widths[0], n, report.UnlistedText(reason))
		}
	}
}

func verdictText(r *record.Leak) string {
	text := strings.ToUpper(string(r.Verdict))
	if rule, ok := r.Rule.Get(); ok {
		text += " (" + report.RuleText(rule) + ")"
	}
	return text
}

func usageText(r *record.Leak) string {
	open, ok := r.FDOpen.Get()
	if !ok {
		return "how many are open is unknown"
	}
	limit, limited := r.FDLimit.Get()
	if !limited {
		return fmt.Sprintf("%d open, no limit", open)
	}
	return fmt.Sprintf("%d of %d open (%s)", open, limit, human.Percent(float64(open)/float64(max(limit, 1))))
}

func (p *fdPage) site(s *record.Site, widths siteWidths) {
	head := fmt.Sprintf("  %*d  %-*s", widths[0], s.Held, widths[1], s.Type) + targetText(s)
	var notes []string
	if age, ok := s.OldestSeconds.Get(); ok {
		notes = append(notes, "oldest "+human.Seconds(age))
	}
	if opened, ok := s.OpenedTotal.Get(); ok {
		notes = append(notes, fmt.Sprintf("opened %d, closed %d", opened, s.ClosedTotal.Or(0)))
	}
	if failed := s.FailedTotal.Or(0); failed > 0 {
		notes = append(notes, fmt.Sprintf("%d failed at the limit", failed))
	}
	if thread, ok := s.Thread.Get(); ok && thread != "" {
		notes = append(notes, "thread "+human.Text(thread))
	}
	if len(s.Stack) == 0 && p.untraced == nil {
		notes = append(notes, report.NoStackText(s.StackEnd.Or("")))
	}
	if len(notes) > 0 {
		head += "  " + p.Paint(cmdline.Dim, strings.Join(notes, ", "))
	}
	p.Line("%s", head)
	printStack(p.Painter, s, widths[0]+4)
}

// printStack shows a stack, runtimes dimmed and the culprit bold.
func printStack(p *cmdline.Painter, s *record.Site, indent int) {
	culprit := report.Culprit(s.Stack)
	width := 0
	for i := range s.Stack {
		width = min(max(width, len(frameName(&s.Stack[i]))), 48)
	}
	for i := 0; i < len(s.Stack); i++ {
		f := &s.Stack[i]
		if n := report.Generated(s.Stack[i:]); n > 0 {
			p.Line("%*s%s", indent, "", p.Paint(cmdline.Dim, report.GeneratedText(n, s.Stack)))
			i += n - 1
			continue
		}
		code, guess := "", ""
		switch {
		case i == culprit:
			code, guess = cmdline.Bold, report.GuessText(f)
		case report.Runtime(f) || !f.Function.Known():
			code = cmdline.Dim
		}
		text := fmt.Sprintf("%-*s  %s", width, frameName(f), framePlace(f)+guess)
		p.Line("%*s%s", indent, "", p.Paint(code, strings.TrimRight(text, " ")))
	}
	if end, ok := s.StackEnd.Get(); ok && len(s.Stack) > 0 {
		p.Line("%*s%s", indent, "", p.Paint(cmdline.Dim, "... the walk ends: "+strings.ReplaceAll(end, "_", " ")))
	}
}

func frameName(f *record.Frame) string { return human.Text(report.FrameName(f)) }

// framePlace is where a frame's function is. Static functions of one name are told apart by
// their offsets where nothing tells of their files.
func framePlace(f *record.Frame) string {
	switch {
	case f.File.Known() && f.Line.Known():
		return fmt.Sprintf("%s:%d", human.Text(path.Base(f.File.Or(""))), f.Line.Or(0))
	case f.File.Known():
		return human.Text(path.Base(f.File.Or("")))
	case f.Module.Known() && f.Function.Known() && f.Offset.Known():
		return fmt.Sprintf("%s+0x%x", human.Text(path.Base(f.Module.Or(""))), f.Offset.Or(0))
	case f.Module.Known():
		return human.Text(path.Base(f.Module.Or("")))
	}
	return ""
}

// hostRows is how many processes the table of the host has at least, where there are
// as many.
const hostRows = 15

// summaries are the processes that are shown, without their sites.
func (w *fdWatch) summaries() []record.Leak {
	var rows []record.Leak
	for i := range w.table.Len() {
		if q := w.table.At(i); !q.KernelThread && q.Known.Has(sample.FDOpen) && w.filter.Match(&q.Process, q.Identity) {
			rows = append(rows, w.leaks.Summary(q, w.watched))
		}
	}
	return rows
}

// grown tells whether a process grows or leaks, or has no descriptor left.
func (w *fdWatch) grown(q *aggregate.Process) bool {
	v := w.leaks.Verdict(q.ID)
	return v == record.VerdictLeaking || v == record.VerdictGrowing ||
		q.Known.Has(sample.FDOpen) && q.Known.Has(sample.FDLimit) && q.FDOpen >= q.FDLimit
}

// host shows who is at a limit, who leaks and hits it first, who holds most, and what
// those hold who grew.
func (p *fdPage) host(rows, grown []record.Leak) {
	slices.SortFunc(rows, func(a, b record.Leak) int {
		return cmp.Or(severity(&b)-severity(&a), cmp.Compare(left(&a), left(&b)), cmp.Compare(b.FDOpen.Or(0), a.FDOpen.Or(0)), cmp.Compare(a.PID, b.PID))
	})
	total := uint64(0)
	for i := range rows {
		total += rows[i].FDOpen.Or(0)
	}
	p.Line("%d processes hold %d descriptors%s%s", len(rows), total, p.watchedText(), p.ageText())
	p.Line("")
	p.Line("%s", p.Paint(cmdline.Bold, fmt.Sprintf(hostRow, "PID", "NAME", "OPEN", "LIMIT", "USED", "FULL IN", "GROWTH", "VERDICT")))
	for i := range rows {
		if i >= hostRows && severity(&rows[i]) == 0 {
			p.Line("%s", p.Paint(cmdline.Dim, fmt.Sprintf("%d more hold fewer; rmagent fds --pid P shows what one holds", len(rows)-i)))
			break
		}
		printRow(p.Painter, &rows[i])
	}
	byUrgency(grown)
	for i := range grown[:min(hostDetails, len(grown))] {
		p.Line("")
		p.brief(&grown[i])
	}
}

// ageText says that numbers are not those of now.
func (p *fdPage) ageText() string {
	if p.age < 2*time.Second {
		return ""
	}
	return fmt.Sprintf(", as of %s ago", human.Seconds(p.age.Seconds()))
}

// hostDetails is of how many processes the page of a host shows what they hold.
const hostDetails = 16

// byUrgency has those first who are full or hit their limit next.
func byUrgency(list []record.Leak) {
	slices.SortStableFunc(list, func(a, b record.Leak) int {
		return cmp.Or(severity(&b)-severity(&a), cmp.Compare(left(&a), left(&b)))
	})
}

// left is how long the limit lasts, in seconds. Of who does not gather, nobody knows.
func left(r *record.Leak) float64 {
	if r.Verdict != record.VerdictLeaking && r.Verdict != record.VerdictGrowing {
		return math.Inf(1)
	}
	return r.SecondsToLimit.Or(math.Inf(1))
}

func (p *fdPage) watchedText() string {
	if p.watched < time.Second {
		return ""
	}
	return ", watched for " + human.Seconds(p.watched.Seconds())
}

// severity ranks who comes first in the table.
func severity(r *record.Leak) int {
	switch share, ok := fdShare(r); {
	case report.Full(r):
		return 4
	case r.Verdict == record.VerdictLeaking:
		return 3
	case r.Verdict == record.VerdictGrowing:
		return 2
	case ok && share >= 0.7:
		return 1
	}
	return 0
}

// fdShare is the share of the limit that is open.
func fdShare(r *record.Leak) (share float64, ok bool) {
	limit, limited := r.FDLimit.Get()
	return float64(r.FDOpen.Or(0)) / float64(max(limit, 1)), limited
}

// hostRow has room in 80 columns.
const hostRow = "%7s  %-15s %7s %10s %4s  %-8s %-12s %s"

func printRow(p *cmdline.Painter, r *record.Leak) {
	limit, used := "-", "-"
	if share, ok := fdShare(r); ok {
		limit = fmt.Sprint(r.FDLimit.Or(0))
		used = human.Percent(share)
	}
	lasts, growth, colour := "-", "-", verdictColours[r.Verdict]
	switch seconds := left(r); {
	case report.Full(r):
		lasts, colour = "now", cmdline.Red
	case !math.IsInf(seconds, 1):
		lasts = human.Seconds(seconds)
	}
	if rate := r.GrowthPerSecond.Or(0); rate > 0 {
		growth = human.Rate(rate)
	}
	text := fmt.Sprintf(hostRow, fmt.Sprint(r.PID), human.Text(r.Comm), fmt.Sprint(r.FDOpen.Or(0)), limit, used, lasts, growth, string(r.Verdict))
	p.Line("%s", p.Paint(colour, text))
}
