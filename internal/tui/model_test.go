package tui

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"rmagent/record"
)

// update writes the golden screens anew; look at each of them before it is committed.
var update = flag.Bool("update", false, "write the golden screens")

var begin = time.Date(2026, 11, 25, 14, 22, 7, 0, time.UTC)

func process(pid, ppid int32, comm, unit string, cpu float64, rss, fds, limit uint64) record.Process {
	p := record.Process{ProcessFacts: record.ProcessFacts{
		PID: pid, StartTicks: uint64(pid) * 100, PPID: record.Some(ppid), Comm: comm, UID: record.Some[uint32](1000),
		Unit: record.SomeIf(unit, unit != ""), State: record.Some("S"), Threads: record.Some[uint64](4), StartTime: record.Some(begin.Add(-3 * time.Hour)),
		CPUCores: record.Some(cpu), CPUSecondsTotal: record.Some(cpu * 1000), RSSBytes: record.Some(rss << 20), RSSAnonBytes: record.Some(rss << 19),
		RSSFileBytes: record.Some(rss << 19), SwapBytes: record.Some[uint64](0),
		DiskReadBytesTotal: record.Some[uint64](3 << 20), DiskWrittenBytesTotal: record.Some[uint64](700 << 20),
		NetReceivedBytesTotal: record.Some[uint64](5 << 30), NetSentBytesTotal: record.Some[uint64](1 << 30),
		FDOpen: record.Some(fds), FDLimit: record.Some(limit), FDRatio: record.Some(float64(fds) / float64(limit)),
		DiskReadBytesPerSecond: record.Some(0.0), DiskWrittenBytesPerSecond: record.Some(cpu * 1e6),
		NetReceivedBytesPerSecond: record.Some(cpu * 3e5), NetSentBytesPerSecond: record.Some(1e3),
		Exe: record.Some("/usr/bin/" + comm), Cgroup: record.Some("/system.slice/" + unit),
	}}
	return p
}

// busy is a machine on which something leaks, and something is near a limit. n counts
// the seconds.
func busy(n int) *Reading {
	r := &Reading{Time: begin.Add(time.Duration(n) * time.Second), Interval: time.Second, HostName: "web-1"}
	wave := 0.3 + 0.2*float64(n%7)/7
	r.Host = record.Host{
		CPURatio: record.Some(wave), CPUCount: record.Some[uint64](8), Load1: record.Some(2.53),
		MemoryTotalBytes: record.Some[uint64](32 << 30), MemoryUsedBytes: record.Some(uint64(24<<30 + n<<26)), SwapUsedBytes: record.Some[uint64](1 << 28),
		DiskReadBytesPerSecond: record.Some(1.2e6), DiskWrittenBytesPerSecond: record.Some(3.4e5),
		NetReceivedBytesPerSecond: record.Some(8e6), NetSentBytesPerSecond: record.Some(512.0), FilesOpen: record.Some[uint64](12345),
		Pressure: record.Pressure{PressureCPUSomeRatio: record.Some(0.12), PressureMemorySomeRatio: record.Some(0.0), PressureIOSomeRatio: record.Some(0.004)},
	}
	held := uint64(400 + 10*n)
	api := process(4711, 1, "api", "api.service", 0.35, 310, held, 1024)
	nginx := process(28712, 1200, "nginx", "nginx.service", 0.6, 85, 3800, 4096)
	r.Processes = []record.Process{
		process(1, 0, "systemd", "init.scope", 0, 12, 150, 1024),
		process(1200, 1, "nginx", "nginx.service", 0, 5, 20, 4096),
		nginx,
		process(28713, 1200, "nginx", "nginx.service", 0.4, 80, 900, 4096),
		process(911, 1, "postgres", "postgresql.service", 0.01, 250, 60, 1024),
		process(912, 911, "postgres", "postgresql.service", 1.51, 1800, 44, 1024),
		process(913, 911, "postgres", "postgresql.service", 12.5, 900, 44, 1024),
		api,
		process(5000, 4711, "worker", "api.service", 0.02, 30, 12, 1024),
	}
	thread := process(2, 0, "kthreadd", "", 0, 0, 0, 1)
	thread.FDOpen, thread.FDLimit, thread.FDRatio, thread.RSSBytes, thread.CPUCores = record.Opt[uint64]{}, record.Opt[uint64]{}, record.Opt[float64]{}, record.Opt[uint64]{}, record.Opt[float64]{}
	thread.Cgroup, thread.DiskWrittenBytesPerSecond, thread.NetSentBytesPerSecond, thread.NetReceivedBytesPerSecond = record.Opt[string]{}, record.Some(0.0), record.Opt[float64]{}, record.Opt[float64]{}
	r.Processes = append(r.Processes, thread)
	r.Leaks = []record.Leak{{
		PID: 4711, StartTicks: 471100, Comm: "api", Verdict: record.VerdictLeaking, Rule: record.Some("never_closed"),
		FDOpen: record.Some(held), FDLimit: record.Some[uint64](1024), GrowthPerSecond: record.Some(10.0), SecondsToLimit: record.Some(float64(1024-held) / 10),
		Sites: sites(held),
	}}
	r.States = []record.StateChange{{
		Resource: "fd", Target: "pid:28712@2871200", State: record.StateCritical, Ratio: record.Some(0.93),
		Message: "High FD usage: 3800/4096 (93%) in nginx (pid 28712), full in 52 s",
	}}
	return r
}

func sites(held uint64) []record.Site {
	return []record.Site{
		{
			Held: held - 20, Type: "tcp4", Target: record.Some("10.0.0.5:443"), OpenedTotal: record.Some(held * 9), ClosedTotal: record.Some(held * 8), OldestSeconds: record.Some(59.0),
			Stack: []record.Frame{
				{Function: record.Some("socket"), Module: record.Some("/usr/lib/libc.so.6")},
				{Function: record.Some("dial_upstream"), File: record.Some("/src/net.c"), Line: record.Some[uint64](57), Module: record.Some("/usr/bin/api")},
				{Function: record.Some("serve"), File: record.Some("/src/main.c"), Line: record.Some[uint64](12), Module: record.Some("/usr/bin/api")},
			},
		},
		{Held: 20, Type: "file", StackEnd: record.Some("before_tracing")},
	}
}

func detailOf(pid int32) Detail {
	limit := func(name, scope, unit string, used, limit float64) record.HeadroomLimit {
		return record.HeadroomLimit{Name: name, Scope: scope, Unit: unit, Used: record.Some(used), Limit: record.Some(limit),
			Available: record.Some(limit - used), UsedRatio: record.Some(used / limit), Known: true}
	}
	files := limit("RLIMIT_NOFILE", "process", "files", 590, 1024)
	files.SecondsToLimit = record.Some(43.4)
	return Detail{
		PID:   pid,
		Holds: record.Leak{PID: pid, Verdict: record.VerdictLeaking, GrowthPerSecond: record.Some(10.0), Sites: sites(590), Unattributed: map[string]uint64{"not_read": 3}},
		Headroom: record.Headroom{Limits: []record.HeadroomLimit{
			limit("memory.max", "cgroup /system.slice/api.service", "bytes", 400<<20, 512<<20), files, limit("RLIMIT_NOFILE", "process, hard", "files", 590, 4096),
			limit("pids.max", "cgroup /system.slice/api.service", "tasks", 12, 512),
		}},
	}
}

// watched is a model that has watched the busy machine for 20 seconds.
func watched(o Options, width, height int) *Model {
	m := New(o)
	m.Resize(width, height)
	for n := range 20 {
		m.Take(busy(n))
	}
	return m
}

// press types keys; words in angle brackets are named.
func press(m *Model, keys ...string) (last Effect) {
	for _, k := range keys {
		text := k
		if len([]rune(k)) > 1 {
			text = ""
		}
		last = m.Key(k, text)
		if last == AskDetail {
			m.TakeDetail(detailOf(m.Wanted()))
		}
	}
	return last
}

// TestScreens compares screens with those that somebody looked at.
func TestScreens(t *testing.T) {
	for _, c := range []struct {
		name          string
		options       Options
		width, height int
		keys          []string
	}{
		{"table", Options{Source: "the running agent"}, 80, 24, nil},
		{"wide", Options{Source: "the running agent"}, 160, 24, nil},
		{"ascii", Options{Source: "read here, ebpf", ASCII: true}, 80, 24, []string{"down"}},
		{"memory", Options{Source: "x"}, 80, 24, []string{"m"}},
		{"reversed", Options{Source: "x"}, 80, 24, []string{"a", "m", "r"}},
		{"tree", Options{Source: "x"}, 80, 24, []string{"t"}},
		{"filter", Options{Source: "x"}, 80, 24, []string{"/", "p", "o", "s", "t"}},
		{"filtered", Options{Source: "x"}, 80, 24, []string{"/", "n", "g", "i", "enter", "down"}},
		{"nothing", Options{Source: "x"}, 80, 24, []string{"/", "x", "y", "z", "enter"}},
		{"detail", Options{Source: "x"}, 80, 24, []string{"enter"}},
		{"detail-scrolled", Options{Source: "x"}, 80, 24, []string{"enter", "end"}},
		{"detail-wide", Options{Source: "x"}, 120, 40, []string{"enter"}},
		{"help", Options{Source: "x"}, 80, 24, []string{"?"}},
		{"paused", Options{Source: "x"}, 80, 24, []string{"space"}},
		{"narrow", Options{Source: "x"}, 40, 12, nil},
		{"tiny", Options{Source: "x"}, 20, 6, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := watched(c.options, c.width, c.height)
			press(m, c.keys...)
			if c.name == "paused" {
				m.Take(busy(33))
			}
			golden(t, c.name, fits(t, m))
		})
	}
}

// A great number of things is written whole, in fewer digits, where a column would cut it.
func TestGreatAmounts(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 375: "375", 0.5: "0.5", 9999999: "9999999", 16277267: "16.3M", 976562500: "977M", 1 << 63: "9.2E", 99950000: "100M"} {
		if got := amount(record.Some(v), "inodes"); got != want || len(got) > 7 {
			t.Errorf("%.0f is written as %q, want %q", v, got, want)
		}
	}
}

// Who was asked for and has ended is named, beside those that are there, and alone.
func TestWhoHasEnded(t *testing.T) {
	m := New(Options{PIDs: []int32{4711, 4242}})
	m.Resize(80, 24)
	r := busy(0)
	r.Processes = slices.DeleteFunc(r.Processes, func(p record.Process) bool { return p.PID != 4711 })
	m.Take(r)
	if screen := fits(t, m); !strings.Contains(screen, "  4711 ") || !strings.Contains(screen, "\npid 4242 has ended\n") {
		t.Errorf("one of two:\n%s", screen)
	}
	r.Processes = nil
	m.Take(r)
	if screen := fits(t, m); !strings.Contains(screen, "\npid 4711 has ended\npid 4242 has ended\n") || strings.Contains(screen, "match") {
		t.Errorf("both:\n%s", screen)
	}
	nobody := New(Options{})
	nobody.Take(r)
	if text := nobody.Once(80); !strings.HasSuffix(text, "\nthere is no such process\n") {
		t.Errorf("nobody has that name:\n%s", text)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got+"\n"); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// fits returns the screen without its styles, and fails if it does not fit or could
// move the cursor.
func fits(t *testing.T, m *Model) string {
	t.Helper()
	view := m.View()
	lines := strings.Split(view, "\n")
	if len(lines) != m.height {
		t.Fatalf("%d lines, the terminal has %d", len(lines), m.height)
	}
	for _, line := range lines {
		if n := ansi.StringWidth(line); n > m.width {
			t.Fatalf("%d cells, the terminal has %d: %q", n, m.width, line)
		}
	}
	harmless(t, view)
	for i, line := range lines {
		lines[i] = strings.TrimRight(ansi.Strip(line), " ")
	}
	return strings.Join(lines, "\n")
}

// harmless fails if a text has anything but graphic characters, ends of lines and the
// styles that this package has.
func harmless(t *testing.T, text string) {
	t.Helper()
	for _, s := range []style{bold, dim, reverse, red, yellow, green, blue, ""} {
		text = strings.ReplaceAll(text, "\x1b["+string(s)+"m", "")
	}
	text = strings.ReplaceAll(text, "\x1b[0m", "")
	for _, r := range text {
		if r != '\n' && (unicode.IsControl(r) || !unicode.IsGraphic(r) || unicode.Is(unicode.Cf, r)) {
			t.Fatalf("%U on the screen: %q", r, text)
		}
	}
}

func TestBeforeTheFirstReading(t *testing.T) {
	m := New(Options{Source: "read here, ebpf"})
	if text := fits(t, m); !strings.Contains(text, "reading read here, ebpf ...") {
		t.Error(text)
	}
	for _, k := range []string{"down", "enter", "t", "m", "space", "end", "/", "x", "esc", "?", "x", "space"} {
		press(m, k)
		fits(t, m)
	}
	m.Fail(errors.New("the agent is gone\x1b[2J"))
	if text := fits(t, m); !strings.Contains(text, "the agent is gone?[2J") {
		t.Error(text)
	}
}

func names(m *Model) (list []int32) {
	for _, r := range m.rows {
		list = append(list, r.PID)
	}
	return list
}

func TestOrder(t *testing.T) {
	m := watched(Options{}, 80, 24)
	want := []int32{4711, 28712, 913, 912, 28713, 5000, 911, 1, 1200, 2} // what leaks and what is critical on top
	if got := names(m); !slices.Equal(got, want) {
		t.Errorf("by CPU: got %v, want %v", got, want)
	}
	press(m, "a")
	want = []int32{913, 912, 28712, 28713, 4711, 5000, 911, 1, 1200, 2}
	if got := names(m); !slices.Equal(got, want) {
		t.Errorf("by CPU alone: got %v, want %v", got, want)
	}
	press(m, "p")
	if got := names(m); !slices.IsSorted(got) {
		t.Errorf("by PID: %v", got)
	}
	press(m, "p") // again: the other way round
	if got := names(m); got[0] != 28713 {
		t.Errorf("by PID, reversed: %v", got)
	}
	for _, c := range columns {
		if c.key == "" {
			continue
		}
		press(m, c.key)
		if columns[m.sort].key != c.key {
			t.Errorf("key %q sorts by %s", c.key, columns[m.sort].title)
		}
		fits(t, m)
	}
}

// TestTheCursorStaysOnItsProcess, wherever the order takes it, until it ends.
func TestTheCursorStaysOnItsProcess(t *testing.T) {
	m := watched(Options{}, 80, 24)
	press(m, "down", "down", "down") // postgres 912
	if m.cursor.pid != 912 {
		t.Fatalf("the cursor is on %d", m.cursor.pid)
	}
	r := busy(21)
	r.Processes[5].CPUCores = record.Some(99.0)
	m.Take(r)
	if m.cursor.pid != 912 || m.at != 2 {
		t.Errorf("the cursor is on %d, row %d", m.cursor.pid, m.at)
	}
	r = busy(22)
	r.Processes = slices.Delete(r.Processes, 5, 6)
	m.Take(r)
	if m.at != 2 || m.cursor.pid == 912 {
		t.Errorf("the cursor is on %d, row %d", m.cursor.pid, m.at)
	}
	press(m, "home")
	r = busy(23)
	r.Leaks = nil // nobody moved since: the top stays selected
	m.Take(r)
	if s := m.selected(); s == nil || s.PID != m.rows[0].PID {
		t.Error("the first row is not selected")
	}
}

// TestAPIDIsNotAProcess: another process with the PID is another one.
func TestAPIDIsNotAProcess(t *testing.T) {
	m := watched(Options{}, 80, 24)
	press(m, "enter")
	r := busy(21)
	r.Processes[7].StartTicks++
	if e := m.Take(r); e != None {
		t.Errorf("effect %d", e)
	}
	if text := fits(t, m); !strings.Contains(text, "process 4711 has ended") {
		t.Error(text)
	}
}

func TestDetailIsAskedForOnceAtATime(t *testing.T) {
	m := watched(Options{}, 80, 24)
	if e := m.Key("enter", ""); e != AskDetail || m.Wanted() != 4711 {
		t.Fatalf("effect %d for %d", e, m.Wanted())
	}
	if e := m.Take(busy(21)); e != None {
		t.Error("asked again before the answer")
	}
	m.TakeDetail(detailOf(4711))
	if e := m.Take(busy(22)); e != AskDetail {
		t.Error("not asked again with the next reading")
	}
	m.TakeDetail(Detail{PID: 4711, HoldsErr: errors.New("only for root"), HeadroomErr: errors.New("gone")})
	if text := fits(t, m); !strings.Contains(text, "only for root") || !strings.Contains(text, "gone") {
		t.Error(text)
	}
	m.Key("esc", "")
	if e := m.Take(busy(23)); e != None {
		t.Error("asked without anybody looking")
	}
}

// Esc and a key that were read together arrive as the key with Alt.
func TestAltIsEscAndTheKey(t *testing.T) {
	m := watched(Options{}, 80, 24)
	d := &driver{ctx: t.Context(), model: m}
	m.Key("enter", "")
	d.Update(tea.KeyPressMsg{Code: 't', Mod: tea.ModAlt})
	if text := fits(t, m); !strings.Contains(text, "enter look") || !m.tree {
		t.Errorf("%v %s", m.tree, text)
	}
	_, cmd := d.Update(tea.KeyPressMsg{Code: 'c', Mod: tea.ModAlt | tea.ModCtrl})
	if cmd == nil || cmd() != tea.Quit() {
		t.Error("Esc and Ctrl-C don't end it")
	}
}

func TestPauseHoldsTheScreen(t *testing.T) {
	m := watched(Options{}, 80, 24)
	press(m, "space")
	before := fits(t, m)
	m.Take(busy(50))
	if fits(t, m) != before {
		t.Error("the screen moved")
	}
	press(m, "space")
	if text := fits(t, m); !strings.Contains(text, "14:22:57 UTC") {
		t.Error(text)
	}
}

func TestFailureIsShownUntilTheNextReading(t *testing.T) {
	m := watched(Options{}, 100, 24)
	m.Fail(errors.New("connection refused"))
	if text := fits(t, m); !strings.Contains(text, "no answer: connection refused") {
		t.Error(text)
	}
	m.Take(busy(21))
	if text := fits(t, m); strings.Contains(text, "refused") {
		t.Error(text)
	}
}

func TestQuit(t *testing.T) {
	m := watched(Options{}, 80, 24)
	for _, keys := range [][]string{{"q"}, {"ctrl+c"}, {"/", "ctrl+c"}, {"enter", "ctrl+c"}, {"?", "ctrl+c"}} {
		if press(m, keys...) != Quit {
			t.Errorf("%q does not end", keys)
		}
	}
	m = watched(Options{}, 80, 24)
	if press(m, "/", "q") == Quit || m.filter != "q" {
		t.Error("q ends while it is typed")
	}
	if press(m, "esc", "enter", "q") == Quit {
		t.Error("q in the detail ends; it should go back")
	}
}

// TestHistoriesEndWithTheirProcesses, and are bounded.
func TestHistoriesEndWithTheirProcesses(t *testing.T) {
	m := New(Options{})
	for n := range 200 {
		r := busy(n)
		r.Processes = append(r.Processes, process(int32(10000+n), 1, "short", "", 0, 1, 1, 10))
		m.Take(r)
		if len(m.pasts) != len(r.Processes) {
			t.Fatalf("%d histories of %d processes", len(m.pasts), len(r.Processes))
		}
	}
	if n := len(m.pasts[id{4711, 471100}].cpu); n != historyLength {
		t.Errorf("%d values", n)
	}
}

func TestTreeOfLoops(t *testing.T) {
	r := busy(0)
	r.Processes[0].PPID = record.Some[int32](5000) // systemd, a child of its grandchild
	m := New(Options{})
	m.Take(r)
	press(m, "t")
	if len(m.rows) != len(r.Processes) {
		t.Errorf("%d rows of %d processes", len(m.rows), len(r.Processes))
	}
	fits(t, m)
}

func TestOnce(t *testing.T) {
	m := watched(Options{Source: "x"}, 80, 24)
	text := m.Once(100)
	if strings.Contains(text, "\x1b") || strings.Count(text, "postgres") < 3 || !strings.HasSuffix(text, "\n") {
		t.Error(text)
	}
	golden(t, "once", strings.TrimSuffix(text, "\n"))
}

func FuzzScreen(f *testing.F) {
	f.Add("\x1b[2J\x1b[H", "\u202e\u2066", "m", 80, 24)
	f.Add("漢字漢字漢字漢字漢字漢字", "e\u0301\u0301\u0301\u0301", "t", 33, 9)
	f.Add("a\nb\r\tc", "\x9b1m\xff", "enter", 20, 6)
	f.Add("👨‍👩‍👧‍👦🏳️‍🌈", "\u200b\u00ad", "/", 160, 50)
	f.Fuzz(func(t *testing.T, name, other, key string, width, height int) {
		if width < 0 || width > 300 || height < 0 || height > 100 {
			return
		}
		r := busy(1)
		s := record.Some(other)
		for i := range r.Processes {
			p := &r.Processes[i]
			p.Comm, p.Exe, p.Unit, p.Cgroup, p.ContainerID, p.State = name, s, s, s, record.SomeIf(other, i%2 == 0), s
		}
		r.HostName = name
		r.Leaks[0].Comm, r.Leaks[0].Rule = name, s
		r.States[0].Message, r.States[0].Resource = name, other
		r.Prune = &record.Prune{ShouldPrune: true, Reasons: []record.PruneReason{{Resource: name, Target: other}}, Candidates: []record.PruneCandidate{{Comm: name}}}
		m := New(Options{Source: other, ASCII: len(name)%2 == 0})
		m.Resize(width, height)
		m.Take(r)
		fits(t, m)
		for _, k := range []string{key, "t", "enter", "down", "esc", "/", name, "enter", "?"} {
			if m.Key(k, k) == AskDetail {
				d := detailOf(m.Wanted())
				d.Holds.Sites[0].Type, d.Holds.Sites[0].Target, d.Holds.Sites[0].Stack[1].Function, d.Holds.Sites[0].Stack[1].File = name, s, s, s
				d.Headroom.Limits[0].Name, d.Headroom.Limits[0].Scope = name, other
				m.TakeDetail(d)
			}
			fits(t, m)
		}
		harmless(t, m.Once(100))
	})
}

func BenchmarkTake(b *testing.B) {
	for _, n := range []int{100, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := busy(0)
			for i := range n {
				r.Processes = append(r.Processes, process(int32(100000+i), 1, "x", "x.service", float64(i%17), uint64(i%99), 10, 1024))
			}
			m := New(Options{})
			for b.Loop() {
				m.Take(r)
				_ = m.View()
			}
		})
	}
}
