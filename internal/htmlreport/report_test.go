package htmlreport

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"rmagent/record"
)

var begin = time.Date(2026, 11, 25, 13, 0, 0, 0, time.UTC)

// recorder writes JSON lines as an agent does.
type recorder struct {
	bytes.Buffer
	seq  uint64
	host string
	boot string
	now  time.Time
}

func newRecorder() *recorder { return &recorder{host: "web-1", boot: "boot-1", now: begin} }

func (w *recorder) write(r record.Record) {
	w.seq++
	*r.Head() = record.Header{Time: w.now, Host: w.host, BootID: w.boot, Seq: w.seq, Schema: record.Schema}
	line, err := record.Append(nil, r)
	if err != nil {
		panic(err)
	}
	w.Write(line)
}

// reading returns the report of what was written.
func (w *recorder) reading(t *testing.T) *Report {
	t.Helper()
	r := New()
	if err := r.Read("a.jsonl", &w.Buffer); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *Report) machine(t *testing.T, name string) *machine {
	t.Helper()
	m := r.machines.index[name]
	if m == nil {
		t.Fatalf("no machine %q", name)
	}
	return m
}

func text(t *testing.T, r *Report) string {
	t.Helper()
	var out bytes.Buffer
	if err := r.Write(&out, begin); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestRankingsAreExact holds the rankings of processes that come and go against sums
// of everything that was recorded.
func TestRankingsAreExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	w := newRecorder()
	type life struct {
		pid                int32
		start              time.Time
		cpu, base, rss, fd float64
		disk, diskBase     float64
	}
	var living []*life
	var all []*life
	next := int32(1)
	for tick := range 300 {
		w.now = begin.Add(time.Duration(tick) * time.Second)
		w.write(&record.Host{CPURatio: record.Some(0.5)})
		for range rng.IntN(6) {
			l := &life{pid: next, start: w.now.Add(-100 * time.Millisecond)}
			if tick == 0 {
				l.start = begin.Add(-time.Hour)
				l.cpu, l.disk = float64(rng.IntN(1000)), float64(rng.IntN(1<<20))
				l.base, l.diskBase = l.cpu, l.disk
			}
			if tick > 0 {
				l.start = w.now
			}
			next++
			living, all = append(living, l), append(all, l)
		}
		living = slices.DeleteFunc(living, func(l *life) bool {
			l.cpu += float64(rng.IntN(1000)) / 1000
			l.disk += float64(rng.IntN(4096))
			rss, fd := float64(rng.IntN(1<<30)), float64(rng.IntN(1000))
			l.rss, l.fd = max(l.rss, rss), max(l.fd, fd)
			facts := record.ProcessFacts{
				PID: l.pid, StartTicks: uint64(l.pid) * 7, Comm: fmt.Sprintf("p%d", l.pid), StartTime: record.Some(l.start),
				CPUSecondsTotal: record.Some(l.cpu), DiskReadBytesTotal: record.Some(uint64(l.disk)),
				RSSBytes: record.Some(uint64(rss)), FDOpen: record.Some(uint64(fd)),
			}
			if rng.IntN(20) == 0 {
				w.write(&record.Exit{ProcessFacts: facts, ExitCode: record.Some[int32](0)})
				return true
			}
			w.write(&record.Process{ProcessFacts: facts})
			return false
		})
	}
	m := w.reading(t).machine(t, "web-1")
	m.processes.finish()
	for i, value := range map[int]func(*life) float64{
		byCPU:    func(l *life) float64 { return l.cpu - l.base },
		byMemory: func(l *life) float64 { return l.rss },
		byFDs:    func(l *life) float64 { return l.fd },
		byDisk:   func(l *life) float64 { return l.disk - l.diskBase },
	} {
		slices.SortFunc(all, func(a, b *life) int { return cmp.Compare(value(b), value(a)) })
		r := m.processes.rankings[i]
		if len(r.list) != topProcesses {
			t.Fatalf("%s: %d processes", r.title, len(r.list))
		}
		for j, p := range r.list {
			if got, want := r.value(p), value(all[j]); got < want-1e-6 || got > want+1e-6 {
				t.Errorf("%s %d: got %s with %g, want pid %d with %g", r.title, j, p.comm, got, all[j].pid, want)
			}
		}
	}
	if n := uint64(len(all)); m.processes.seen != n {
		t.Errorf("%d processes seen, %d were there", m.processes.seen, n)
	}
}

// TestAReadingThatBeganBeforeTheEnd: a process record may follow the exit record.
func TestAReadingThatBeganBeforeTheEnd(t *testing.T) {
	w := newRecorder()
	facts := record.ProcessFacts{PID: 7, StartTicks: 1, Comm: "x", StartTime: record.Some(begin), CPUSecondsTotal: record.Some(2.0)}
	w.write(&record.Exit{ProcessFacts: facts, ExitSignal: record.Some[int32](9)})
	facts.CPUSecondsTotal = record.Some(1.5)
	w.write(&record.Process{ProcessFacts: facts})
	m := w.reading(t).machine(t, "web-1")
	m.processes.finish()
	list := m.processes.rankings[byCPU].list
	if m.processes.seen != 1 || len(list) != 1 || list[0].cpu.value() != 2 || list[0].exit == nil {
		t.Errorf("%d processes, ranking %+v", m.processes.seen, list)
	}
}

func TestGapsAreCounted(t *testing.T) {
	w := newRecorder()
	host := func(at int) {
		w.now = begin.Add(time.Duration(at) * time.Second)
		w.write(&record.Host{})
	}
	w.seq = 41 // the file begins within a run
	host(0)
	host(1)
	w.seq += 5
	host(2)
	w.seq = 0 // a new run, a minute later
	host(62)
	w.seq += 2
	host(63)
	w.seq = 1 // a number again
	host(64)
	host(65)
	g := w.reading(t).machine(t, "web-1").gaps
	if g.lost != 7 || g.count != 2 || g.midway != 1 || g.missed != 41 || g.backwards != 2 {
		t.Errorf("got %+v", g)
	}
	want := []gap{
		{begin.UnixMilli() + 1000, begin.UnixMilli() + 2000, 5},
		{begin.UnixMilli() + 2000, begin.UnixMilli() + 62000, 0},
		{begin.UnixMilli() + 62000, begin.UnixMilli() + 63000, 2},
	}
	if got := g.sorted(); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestAStateEndsWithItsProcess, which has its name though it is long forgotten.
func TestAStateEndsWithItsProcess(t *testing.T) {
	w := newRecorder()
	facts := record.ProcessFacts{PID: 7, StartTicks: 9, Comm: "leaky", StartTime: record.Some(begin)}
	w.write(&record.Process{ProcessFacts: facts})
	w.now = begin.Add(time.Second)
	w.write(&record.StateChange{Resource: "fd", Target: "pid:7@9", State: record.StateWarning})
	w.now = begin.Add(5 * time.Second)
	w.write(&record.Exit{ProcessFacts: facts})
	w.now = begin.Add(time.Minute)
	w.write(&record.Host{})
	page := text(t, w.reading(t))
	if want := "fd of leaky (pid 7): warning for 4.0 s."; !strings.Contains(page, want) {
		t.Errorf("the page lacks %q", want)
	}
}

func TestStatesAndPrunesAreTimed(t *testing.T) {
	w := newRecorder()
	state := func(at int, s record.State) {
		w.now = begin.Add(time.Duration(at) * time.Second)
		w.write(&record.StateChange{Resource: "memory", Target: "host", State: s, Message: "Memory of the host"})
	}
	state(0, record.StateWarning)
	state(10, record.StateCritical)
	w.write(&record.Prune{ShouldPrune: true, Reasons: []record.PruneReason{{Resource: "memory", Target: "host", Value: record.Some(9.0), Max: record.Some(8.0), Unit: "bytes"}},
		Candidates: []record.PruneCandidate{{PID: 4, Comm: "java", Why: "3.0 GiB"}}})
	state(13, record.StateWarning)
	w.write(&record.Prune{})
	state(20, record.StateNormal)
	w.now = begin.Add(time.Minute)
	w.write(&record.Host{})
	r := w.reading(t)
	m := r.machine(t, "web-1")
	target := m.states.targets["memory host"]
	if c, wn := target.seconds(record.StateCritical, m.last), target.seconds(record.StateWarning, m.last); c != 3 || wn != 17 {
		t.Errorf("critical for %g s, warning for %g s", c, wn)
	}
	if p := m.prunes.list; len(p) != 1 || p[0].to-p[0].from != 3000 || p[0].candidate.Comm != "java" {
		t.Errorf("prunes: %+v", p)
	}
	page := text(t, r)
	for _, want := range []string{"Memory of the host: critical for 3.0 s.", "java (pid 4): 3.0 GiB", "Work should have been taken off for 3.0 s (1 time): memory of host."} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

// hostile are names that would break out of every context of a page, if they could.
var hostile = []string{
	`</script><script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `<!--`, `]]>`, "\x1b[2J\x9b1m\u202e\u2028",
	`{{.Page}}`, `</style><style>*{display:none}</style>`, `\u003c/script\u003e`, `javascript:alert(1)`, `</title>`, "\xff\xfe", strings.Repeat("A", 100000),
}

// TestHostileNames puts them wherever a record has text, and takes the page apart.
func TestHostileNames(t *testing.T) {
	for _, name := range hostile {
		page := text(t, nastyRecorder(name, 3).reading(t))
		checkPage(t, page)
	}
}

func nastyRecorder(name string, rounds int) *recorder {
	w := newRecorder()
	w.host = name
	s, n := record.Some(name), record.Some[uint64](5)
	f := record.Some(0.5)
	for i := range rounds {
		w.now = begin.Add(time.Duration(i) * time.Second)
		facts := record.ProcessFacts{PID: 7, StartTicks: 1, Comm: name, Exe: s, Cgroup: s, Unit: s, ContainerID: s, StartTime: record.Some(begin),
			CPUSecondsTotal: record.Some(float64(i)), RSSBytes: n, FDOpen: n, CPUCores: f, DiskReadBytesTotal: n}
		w.write(&record.Config{Hash: name + fmt.Sprint(i)})
		w.write(&record.Host{CPURatio: f, MemoryUsedBytes: n, Filesystems: []record.Filesystem{{Path: name, TotalBytes: n, FreeBytes: record.Some[uint64](2), AvailableBytes: record.Some[uint64](2)}}})
		w.write(&record.GPU{UUID: s, Name: s, UtilizationRatio: f})
		w.write(&record.Cgroup{Path: name, Unit: s, ContainerID: s, MemoryBytes: n})
		w.write(&record.Process{ProcessFacts: facts})
		w.write(&record.StateChange{Resource: name, Target: name, State: record.StateCritical, Message: name, Advice: name, Unit: name})
		w.write(&record.Leak{PID: 7, StartTicks: 1, Comm: name, Verdict: record.VerdictLeaking, Rule: s, FDOpen: n, Unattributed: map[string]uint64{name: 3},
			Sites: []record.Site{{Held: 5, Type: name, Target: s, Thread: s, StackEnd: s, Stack: []record.Frame{{Function: s, File: s, Line: n, Module: s, Language: s}}}, {StackEnd: s}}})
		w.write(&record.OOM{Comm: name, Cgroup: s})
		w.write(&record.Action{Action: name, Type: name, Cause: name, Target: s, Comm: s, PID: record.Some[int32](7), Why: name, What: name,
			Outcome: record.Outcome(name), Detail: name, Attempt: 2})
		w.write(&record.Action{Action: name, Outcome: record.OutcomeFailed, Target: s, Detail: name})
		w.write(&record.JobReading{Job: name + "2", Category: s, TaskID: s, CPUSecondsTotal: f, MemoryBytes: n, FDOpen: n})
		w.write(&record.Job{Job: name, JobFacts: record.JobFacts{PID: int32(i), Category: s, TaskID: s, Command: s, Cause: s, ExitType: name},
			Limits: []record.JobLimit{{Resource: name, Unit: name}}})
		w.write(&record.Prune{ShouldPrune: true, Reasons: []record.PruneReason{{Resource: name, Target: name, Unit: name, Value: f, Max: f}}, Candidates: []record.PruneCandidate{{Comm: name, Why: name}}})
		w.write(&record.Agent{Version: name, Source: record.Source(name), RecordsLost: map[string]uint64{name: 1}})
		facts.PID = int32(100 + i)
		w.write(&record.Exit{ProcessFacts: facts, ExitSignal: record.Some[int32](77), CoreDumped: record.Some(true)})
	}
	kind, _ := json.Marshal(name)
	fmt.Fprintf(w, "{\"kind\":%s,\"schema\":1}\n", kind)
	fmt.Fprintf(w, "{\"kind\":\"host\",%s}\n", name)
	return w
}

// checkPage fails unless the page has only the elements, attributes and scripts that
// the template has.
func checkPage(t *testing.T, page string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	scripts, styles := 0, 0
	for n := range doc.Descendants() {
		if n.Type == html.TextNode || n.Type == html.CommentNode {
			for _, r := range n.Data {
				if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r == '\u202e' || r == '\u2028' {
					t.Fatalf("%U in %.100q", r, n.Data)
				}
			}
		}
		if n.Type == html.CommentNode {
			t.Errorf("a comment: %.100q", n.Data)
		}
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script":
			scripts++
			if n.FirstChild.Data != pageJS && !json.Valid([]byte(n.FirstChild.Data)) {
				t.Errorf("a script: %.100q", n.FirstChild.Data)
			}
		case "style":
			styles++
		case "img", "link", "iframe", "object", "base", "form", "input", "use", "image":
			t.Errorf("an element %s", n.Data)
		}
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") || a.Key == "src" || a.Key == "href" && !strings.HasPrefix(a.Val, "#m1") || strings.Contains(a.Val, "ZgotmplZ") {
				t.Errorf("attribute %s=%.100q", a.Key, a.Val)
			}
		}
	}
	if scripts != 2 || styles != 1 {
		t.Errorf("%d scripts and %d styles, want 2 and 1", scripts, styles)
	}
	if strings.Contains(page, "http://") || strings.Contains(page, "https://") || strings.Contains(page, "url(") || strings.Contains(page, "@import") {
		t.Error("the page refers to something outside")
	}
}

// TestJobs: those whose end is recorded, those that run, and those that are read no more.
func TestJobs(t *testing.T) {
	w := newRecorder()
	reading := func(pid, second int, cpu float64) {
		w.write(&record.JobReading{Job: fmt.Sprintf("pid:%d@1", pid), Category: record.Some("align"), TaskID: record.Some(fmt.Sprint(pid)),
			ElapsedSeconds: record.Some(float64(second)), CPUSecondsTotal: record.Some(cpu), MemoryBytes: record.Some(uint64(pid) << 20), FDOpen: record.Some[uint64](9)})
	}
	end := func(pid int, facts record.JobFacts, use record.JobUse, limits ...record.JobLimit) {
		facts.PID, facts.Category = int32(pid), record.Some("align")
		w.write(&record.Job{Job: fmt.Sprintf("pid:%d@1", pid), JobFacts: facts, JobUse: use, Limits: limits})
	}
	for second := range 30 {
		w.now = begin.Add(time.Duration(second) * time.Second)
		w.write(&record.Host{CPURatio: record.Some(0.5)})
		if second < 10 {
			reading(1, second, float64(second)) // its end is told
			reading(2, second, float64(second)) // its end is told elsewhere
		}
		reading(3, second, float64(second)/2) // runs to the end
		if second == 10 {
			end(1, record.JobFacts{ExitType: "limits", Signal: record.Some[int32](9), Command: record.Some("sort big")},
				record.JobUse{WallTimeSeconds: record.Some(10.0), CPUTimeSeconds: record.Some(9.5), MemoryBytes: record.Some[uint64](300 << 20)},
				record.JobLimit{Resource: "memory", Value: 300 << 20, Limit: 256 << 20, Unit: "bytes", Seconds: 9})
		}
	}
	for pid := range 100 {
		end(100+pid, record.JobFacts{ExitStatus: record.Some(int32(pid % 2))}, record.JobUse{CPUTimeSeconds: record.Some(float64(pid))})
	}
	v := w.reading(t).machine(t, "web-1").view("m1")
	table := v.jobTable()
	if got := table.Text; got != "101 jobs ended: 1 broke a limit, 50 failed otherwise. "+
		"Of 1 job there are readings, but how they ended was recorded elsewhere (rmagent exec --jsonl). 1 job ran at the end of the records." {
		t.Error(got)
	}
	if n := len(table.Jobs); n != 1+shownJobs+1 || table.More != "76 jobs are not listed: those that took less CPU time than others that ended alike." {
		t.Errorf("%d jobs, %s", n, table.More)
	}
	runs, broke, failed, gone := table.Jobs[0], table.Jobs[1], table.Jobs[2], table.Jobs[1+shownJobs]
	if runs.What != "align task 3" || runs.End != "runs" || runs.CPU != "14 s" {
		t.Errorf("%+v", runs)
	}
	if broke.Who != "sort big (pid 1)" || broke.Class != "critical" || broke.Memory != "300 MiB" || len(broke.Limits) != 1 || broke.Limits[0] != "memory 300 MiB > 256 MiB after 9.0 s" {
		t.Errorf("%+v", broke)
	}
	if failed.Who != "pid 199" || failed.End != "status 1 at 13:00:29" {
		t.Errorf("%+v", failed)
	}
	if gone.What != "align task 2" || gone.End != "last read at 13:00:09" || gone.Memory != "2.0 MiB" || gone.File != "9" {
		t.Errorf("%+v", gone)
	}
	if c := table.Categories; len(c) != 1 || c[0].Who != "align" || c[0].Processes != "101" || c[0].Memory != "300 MiB" {
		t.Errorf("%+v", c)
	}
}

// TestActions: the last are listed, all are counted, and what went wrong is said first.
func TestActions(t *testing.T) {
	w := newRecorder()
	for i := range 300 {
		w.now = begin.Add(time.Duration(i) * time.Second)
		outcome := []record.Outcome{record.OutcomeDone, record.OutcomeRateLimited, record.OutcomeTimedOut}[min(i%100, 2)]
		w.write(&record.Action{Action: "page", Type: "webhook", Why: fmt.Sprintf("reason %d", i), PID: record.Some[int32](7), Comm: record.Some("nginx"),
			Attempt: uint64(i%2 + 1), Outcome: outcome, Detail: "status 503"})
	}
	v := w.reading(t).machine(t, "web-1").view("m1")
	table := v.actionTable()
	if table.Text != "300 attempts: 3 done, 3 rate limited, 294 timed out." || len(table.Rows) != shownActions || table.More != "260 earlier attempts are not listed." {
		t.Errorf("%s %d %s", table.Text, len(table.Rows), table.More)
	}
	want := actionRow{At: "13:04:59", Name: "page (webhook)", Who: "nginx (pid 7)", Why: "reason 299", Class: "critical", Outcome: "timed out", Detail: "status 503; attempt 2"}
	if last := table.Rows[shownActions-1]; last != want {
		t.Errorf("%+v", last)
	}
	if f := v.actionFinding(); len(f) != 1 || f[0].Text != "294 actions went wrong, last page at 13:04:59: timed out, status 503." {
		t.Errorf("%+v", f)
	}
	if n := len(v.actions.list); n != maxActions {
		t.Errorf("%d are kept", n)
	}
}

// TestNearestLimits holds the greatest share of each limit against what was recorded.
func TestNearestLimits(t *testing.T) {
	w := newRecorder()
	n := record.Some[uint64]
	for i := range uint64(20) {
		w.now = begin.Add(time.Duration(i) * time.Second)
		w.write(&record.Host{CPURatio: record.Some(0.5), MemoryUsedBytes: n(10 + i%10), MemoryTotalBytes: n(100), FilesOpen: n(5), FilesLimit: n(1000),
			Filesystems: []record.Filesystem{{Path: "/srv", TotalBytes: n(1050), FreeBytes: n(350 - 10*i), AvailableBytes: n(300 - 10*i), InodesTotal: n(100), InodesAvailable: n(99)}}})
		w.write(&record.Cgroup{Path: "/a", MemoryBytes: n(500 - 20*i), MemoryLimitBytes: n(1000), PIDs: n(3)})
		w.write(&record.Process{ProcessFacts: record.ProcessFacts{PID: 7, Comm: "nginx", FDOpen: n(900 + i), FDOpenMax: n(902 + i), FDLimit: n(1000),
			FDSecondsToLimit: record.Some(float64(80 - i))}})
		w.write(&record.Process{ProcessFacts: record.ProcessFacts{PID: 8, Comm: "free", FDOpen: n(7)}})
	}
	v := w.reading(t).machine(t, "web-1").view("m1")
	rows, more := v.nearRows()
	var got []string
	for _, r := range rows {
		got = append(got, strings.Join([]string{r.What, r.Who, r.Share, r.Used, r.At, r.Then, r.Class}, ", "))
	}
	want := []string{
		"descriptors (RLIMIT_NOFILE), nginx (pid 7), 92%, 921 of 1,000, 13:00:19, full in 61 s, critical",
		"space, /srv, 89%, 890 B of 1000 B, 13:00:19, 89%, warning",
		"memory.max, /a, 50%, 500 B of 1000 B, 13:00:00, , ",
		"memory, the machine, 19%, 19 B of 100 B, 13:00:09, 19%, ",
		"inodes, /srv, 1%, 1 of 100, 13:00:00, , ",
		"open files (fs.file-max), the machine, 0.5%, 5 of 1,000, 13:00:00, 0.5%, ",
	}
	if !slices.Equal(got, want) || more != "" {
		t.Errorf("got\n%s\n%s", strings.Join(got, "\n"), more)
	}
}

func TestInputs(t *testing.T) {
	whole := func() *bytes.Buffer {
		w := newRecorder()
		for range 10 {
			w.write(&record.Host{CPURatio: record.Some(0.25)})
		}
		return &w.Buffer
	}
	zipped := func(cut int) *bytes.Buffer {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		z.Write(whole().Bytes())
		z.Close()
		return bytes.NewBuffer(out.Bytes()[:out.Len()-cut])
	}
	long := append([]byte(`{"kind":"host","schema":1,"x":"`), bytes.Repeat([]byte("x"), maxLine)...)
	for _, c := range []struct {
		name    string
		in      io.Reader
		records uint64
		bad     uint64
		torn    bool
		trouble string
	}{
		{"plain", whole(), 10, 0, false, ""},
		{"gzip", zipped(0), 10, 0, false, ""},
		{"gzip that is still written", zipped(12), 9, 0, true, ""},
		{"a torn last line", io.MultiReader(whole(), strings.NewReader(`{"time":"20`)), 10, 1, true, "line 11: "},
		{"no newline at the end", bytes.NewReader(bytes.TrimRight(whole().Bytes(), "\n")), 10, 0, true, ""},
		{"nonsense between", io.MultiReader(strings.NewReader("hello\n\n"), whole(), strings.NewReader("[]\n")), 10, 2, false, "line 1: "},
		{"too long a line", io.MultiReader(whole(), bytes.NewReader(long), strings.NewReader("\"}\nx\n")), 10, 2, false, "line 11: longer than"},
		{"a newer kind", io.MultiReader(whole(), strings.NewReader(`{"kind":"unicorn","schema":1}`+"\n")), 10, 0, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := New()
			if err := r.Read("x", c.in); err != nil {
				t.Fatal(err)
			}
			in := r.inputs[0]
			if c.name == "gzip that is still written" {
				c.records = in.records // as many as came through
			}
			if in.records != c.records || in.bad != c.bad || in.torn != c.torn {
				t.Errorf("%d records, %d bad, torn %v", in.records, in.bad, in.torn)
			}
			if c.trouble != "" && (len(in.troubles) == 0 || !strings.HasPrefix(in.troubles[0], c.trouble)) {
				t.Errorf("troubles: %q", in.troubles)
			}
			if c.name == "too long a line" && !strings.HasPrefix(in.troubles[1], "line 12: ") {
				t.Errorf("troubles: %.200q", in.troubles)
			}
			if c.name == "a newer kind" && in.unknown["unicorn"] != 1 {
				t.Errorf("unknown: %v", in.unknown)
			}
			checkPage(t, text(t, r))
		})
	}
}

func TestNoRecords(t *testing.T) {
	for in, want := range map[string]string{
		"":                               "x: no record in it: it is empty",
		"hello\n":                        "x: no record in it: line 1: ",
		`{"kind":"host","schema":2}`:     "x: no record in it: line 1: ",
		"\x1f\x8b":                       "x: ",
		"\x1f\x8bnot gzip after all....": "x: gzip: ",
	} {
		err := New().Read("x", strings.NewReader(in))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
	if err := New().Write(io.Discard, begin); !errors.Is(err, errEmpty) {
		t.Errorf("a page of nothing: %v", err)
	}
	unknown := New()
	if err := unknown.Read("x", strings.NewReader("hello\n{\"kind\":\"new\"}\n")); err != nil {
		t.Fatal(err)
	}
	if err := unknown.Write(io.Discard, begin); err == nil || err.Error() != "x: no record in it that this version knows" {
		t.Errorf("a page of unknown records: %v", err)
	}
	broken := errors.New("the disk is on fire")
	if err := New().Read("x", io.MultiReader(strings.NewReader("{}\n"), failing{broken})); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestOneReadingAndHosts: the least that there can be, of several hosts.
func TestOneReadingAndHosts(t *testing.T) {
	w := newRecorder()
	for i := range maxMachines + 3 {
		w.host, w.seq = fmt.Sprintf("host-%d", i), 0
		w.write(&record.Host{CPURatio: record.Some(0.25), MemoryTotalBytes: record.Some[uint64](1 << 30), MemoryUsedBytes: record.Some[uint64](1 << 29)})
	}
	page := text(t, w.reading(t))
	for _, want := range []string{"host-0", "host-31", "3 records of more than 32 hosts are left out.", "512 MiB"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

// TestMemoryIsBounded reads ever new names of everything.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	pr, pw := io.Pipe()
	const processes = 80_000
	go func() {
		w := newRecorder()
		for i := range processes {
			w.now = begin.Add(time.Duration(i) * 10 * time.Millisecond)
			name := fmt.Sprintf("name-%d-%s", i, strings.Repeat("x", 100))
			w.write(&record.Process{ProcessFacts: record.ProcessFacts{PID: int32(i), Comm: name, Cgroup: record.Some(name), RSSBytes: record.Some(uint64(i)), FDOpen: record.Some[uint64](3)}})
			if i%10 == 0 {
				w.write(&record.StateChange{Resource: "fd", Target: name, State: record.StateCritical, Message: name})
				w.write(&record.Cgroup{Path: name, MemoryBytes: record.Some[uint64](1)})
				w.write(&record.Exit{ProcessFacts: record.ProcessFacts{PID: int32(i), Comm: name}, ExitSignal: record.Some[int32](11)})
				w.write(&record.Host{CPURatio: record.Some(0.1)})
			}
			w.write(&record.JobReading{Job: name, Category: record.Some(name)})
			if i%20 == 0 {
				w.write(&record.Job{Job: name, JobFacts: record.JobFacts{Category: record.Some(name), Command: record.Some(name)}, JobUse: record.JobUse{CPUTimeSeconds: record.Some(1.0)}})
				w.write(&record.Action{Action: name, Why: name, What: name, Outcome: record.Outcome(name)})
			}
			if i%100 == 0 {
				w.write(&record.Leak{PID: int32(i), Comm: name, Verdict: record.VerdictLeaking})
			}
			if w.Len() > 1<<16 {
				pw.Write(w.Bytes())
				w.Reset()
			}
		}
		pw.Write(w.Bytes())
		pw.Close()
	}()
	r := New()
	if err := r.Read("pipe", pr); err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 128<<20 {
		t.Errorf("%d MiB are kept", m.HeapAlloc>>20)
	}
	page := text(t, r)
	if len(page) > 4<<20 {
		t.Errorf("a page of %d bytes", len(page))
	}
	// Memory's ranking: the last processes are the largest.
	if want := fmt.Sprintf(">%d<", processes-1); !strings.Contains(page, want) {
		t.Errorf("the page lacks process %s", want)
	}
	if !strings.Contains(page, "were forgotten early") {
		t.Error("the page does not say what was left out")
	}
}

func FuzzRead(f *testing.F) {
	for line := range bytes.Lines(nastyRecorder(hostile[0], 1).Bytes()) { // one of each kind
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := New()
		if err := r.Read("fuzz", bytes.NewReader(in)); err != nil || !r.read {
			return
		}
		checkPage(t, text(t, r))
	})
}

func BenchmarkRead(b *testing.B) {
	w := newRecorder()
	for i := range 2000 {
		w.now = begin.Add(time.Duration(i) * 10 * time.Millisecond)
		w.write(&record.Process{ProcessFacts: record.ProcessFacts{PID: int32(i % 200), Comm: "postgres", RSSBytes: record.Some(uint64(i)), FDOpen: record.Some[uint64](3)}})
	}
	b.SetBytes(int64(w.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if err := New().Read("x", bytes.NewReader(w.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}
