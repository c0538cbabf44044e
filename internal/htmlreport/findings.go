package htmlreport

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"rmagent/internal/human"
	"rmagent/internal/report"
	"rmagent/record"
)

// mostFindings of one sort are told at the top; the rest is in the tables.
const mostFindings = 4

// levels are those of findings, the worst first.
var levels = []string{"critical", "warning", "info", "good"}

// findings are what a reader should know first, worst first.
func (v *view) findings() []finding {
	list := v.leakFindings()
	list = append(list, v.oomFinding()...)
	list = append(list, v.stateFindings(record.StateCritical)...)
	list = append(list, v.pruneFinding()...)
	list = append(list, v.stateFindings(record.StateWarning)...)
	list = append(list, v.jobFinding()...)
	list = append(list, v.actionFinding()...)
	if v.ends.dumped > 0 {
		list = append(list, finding{"warning", plural(v.ends.dumped, "process", "processes") + " dumped core.", "ends"})
	}
	if v.gaps.lost > 0 {
		list = append(list, finding{"warning", fmt.Sprintf("%s in %s: what happened then is not on this page.",
			plural(v.gaps.lost, "record is missing", "records are missing"), plural(v.gaps.count, "place", "places")), "gaps"})
	}
	slices.SortStableFunc(list, func(a, b finding) int {
		return slices.Index(levels, a.Level) - slices.Index(levels, b.Level)
	})
	if len(list) == 0 {
		list = append(list, finding{"good", "Nothing leaked, nothing was killed for memory, and nothing crossed a threshold.", ""})
	}
	return list
}

// leakFindings tell of leaks and of what still grows at the end. What grew for a while
// is a pool or a cache more often than not: it is counted.
func (v *view) leakFindings() []finding {
	var list []finding
	more, passed := uint64(0), uint64(0)
	for _, s := range v.sortedLeaks() {
		switch {
		case s.passed():
			passed++
		case len(list) == mostFindings:
			more++
		default:
			list = append(list, v.leakFinding(s))
		}
	}
	if more > 0 {
		list = append(list, finding{"warning", plural(more, "more process leaks or gathers", "more processes leak or gather") + " descriptors.", "leaks"})
	}
	if passed > 0 {
		list = append(list, finding{"info", plural(passed, "process", "processes") + " gathered descriptors for a while and no longer did.", "leaks"})
	}
	return list
}

func (v *view) leakFinding(s *leakStory) finding {
	f := finding{"warning", human.Text(report.LeakMessage(&s.shown)) + " (at " + v.clock.format(s.shown.Time.UnixMilli()), "leaks"}
	if s.leaking > 0 {
		f.Level = "critical"
	}
	switch {
	case s.ended > 0:
		f.Text += "; it ended at " + v.clock.format(s.ended)
	case s.over > 0:
		f.Text += "; it was over at " + v.clock.format(s.over)
	}
	f.Text += ")."
	return f
}

func (v *view) oomFinding() []finding {
	if v.ooms.count == 0 {
		return nil
	}
	last := &v.ooms.list[len(v.ooms.list)-1]
	return []finding{{"critical", fmt.Sprintf("The OOM killer ended %s, last %s (pid %d) at %s.", plural(v.ooms.count, "process", "processes"),
		human.Text(clip(last.Comm, maxName)), last.PID, v.clock.format(last.Time.UnixMilli())), "ooms"}}
}

func (v *view) pruneFinding() []finding {
	if len(v.prunes.list) == 0 {
		return nil
	}
	var ms int64
	what := map[string]bool{}
	for i := range v.prunes.list {
		x := &v.prunes.list[i]
		ms += v.until(x.to, x.open) - x.from
		for j := range x.reasons {
			what[human.Text(clip(x.reasons[j].Resource, maxName)+" of "+clip(x.reasons[j].Target, maxName))] = true
		}
	}
	names := slices.Sorted(maps.Keys(what))
	if len(names) > mostFindings {
		names = append(names[:mostFindings], "others")
	}
	return []finding{{"warning", fmt.Sprintf("Work should have been taken off for %s (%s): %s.",
		seconds(float64(ms)/1000), plural(uint64(len(v.prunes.list))+v.prunes.more, "time", "times"), strings.Join(names, ", ")), "prunes"}}
}

// notes say what the records themselves are worth.
func (v *view) notes() []string {
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if a := &v.agents; a.version != "" {
		list = append(list, a.text())
	}
	if v.gaps.midway > 0 {
		add("The files begin within a run of the agent: %s before.", plural(v.gaps.missed, "record was", "records were"))
	}
	if v.gaps.backwards > 0 {
		add("%s a number that was there before: is a file given twice, or do two agents write to one?", plural(v.gaps.backwards, "record has", "records have"))
	}
	for _, cause := range slices.Sorted(maps.Keys(v.agents.lost)) {
		if n := v.agents.lost[cause]; n > 0 {
			add("The agent says that it lost %s: %s.", plural(n, "record", "records"), human.Text(clip(strings.ReplaceAll(cause, "_", " "), maxName)))
		}
	}
	if n := v.agents.events; n > 0 {
		add("The agent says that %s of the kernel.", plural(n, "event was lost", "events were lost"))
	}
	if n := v.agents.skipped; n > 0 {
		add("The agent left out %s.", plural(n, "reading", "readings"))
	}
	if n := v.processes.evicted; n > 0 {
		add("More than %s processes were there at once, or their ends are not recorded: %s forgotten early, so rankings may lack some.", number(maxProcesses), plural(n, "was", "were"))
	}
	if v.cgroups.more > 0 {
		add("Of more than %s control groups, those that came later are left out.", number(maxCgroups))
	}
	if v.filesystems.more > 0 || v.gpus.more > 0 || v.uncounted > 0 {
		add("Of more than %d filesystems, %d GPUs or %d boots, those that came later are left out.", maxFilesystems, maxGPUs, maxBoots)
	}
	return list
}

// text says who recorded, and what that took.
func (a *agents) text() string {
	text := fmt.Sprintf("Recorded by rmagent %s (%s)", human.Text(clip(a.version, maxName)), human.Text(clip(string(a.source), maxName)))
	if !a.cores.empty() {
		text += fmt.Sprintf(", which took %s of one CPU", percent(a.cores.mean()))
	}
	switch {
	case a.memory.known:
		text += " and at most " + human.Bytes(a.memory.value) + " of memory, BPF maps included"
	case a.rss.known:
		text += " and at most " + human.Bytes(a.rss.value) + " resident"
	}
	return text + "."
}
