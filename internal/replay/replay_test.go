package replay

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"rmagent/internal/config"
	"rmagent/record"
)

var begin = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// tape is a recording that is being made.
type tape struct {
	t      *testing.T
	lines  []byte
	seq    uint64
	second float64
	boot   string
	wall   bool // there is no monotonic clock in it
	starts []int
}

func newTape(t *testing.T, settings string) *tape {
	tp := &tape{t: t, boot: "boot-1"}
	tp.config(settings)
	return tp
}

func (tp *tape) config(settings string) {
	l, err := config.Load(config.Inputs{Path: "c", File: []byte(settings)})
	if err != nil {
		tp.t.Fatal(err)
	}
	tp.add(&record.Config{Values: l.Values(), AgentPID: record.Some(int32(99))})
}

func (tp *tape) add(r record.Record) {
	tp.seq++
	h := r.Head()
	h.Time = begin.Add(time.Duration(tp.second * float64(time.Second)))
	h.Host, h.BootID, h.Seq, h.Schema = "vm", tp.boot, tp.seq, record.Schema
	tp.starts = append(tp.starts, len(tp.lines))
	var err error
	if tp.lines, err = record.Append(tp.lines, r); err != nil {
		tp.t.Fatal(err)
	}
}

func some[T any](v T) record.Opt[T] { return record.Some(v) }

// host begins the reading of the next second.
func (tp *tape) host(change ...func(*record.Host)) {
	tp.second++
	h := &record.Host{MonotonicSeconds: record.SomeIf(1000+tp.second, !tp.wall), Processes: some(uint64(1))}
	for _, f := range change {
		f(h)
	}
	tp.add(h)
}

func process(pid int32, open uint64) *record.Process {
	return &record.Process{ProcessFacts: record.ProcessFacts{
		PID: pid, StartTicks: 7, PPID: some(int32(1)), Comm: "leaky", Exe: some("/bin/leaky"), FDOpen: some(open), FDLimit: some(uint64(1000)),
		FDRatio: some(float64(open) / 1000), CPUSecondsTotal: some(1.0), CPUCores: some(1.0),
	}}
}

// play plays recordings and returns what was decided, as "second target state" or
// "second prune".
func play(t *testing.T, inputs ...[]byte) ([]string, *Result) {
	t.Helper()
	list := make([]Input, len(inputs))
	for i, b := range inputs {
		list[i] = Input{fmt.Sprint("file", i), bytes.NewReader(b)}
	}
	var got []string
	seq := uint64(0)
	p := New(Options{Write: func(r record.Record) error {
		seq++
		h := r.Head()
		if h.Seq != seq || h.Schema != record.Schema || h.Host == "" || h.BootID == "" {
			t.Errorf("header %+v", h)
		}
		at := fmt.Sprintf("%.0f ", h.Time.Sub(begin).Seconds())
		switch r := r.(type) {
		case *record.StateChange:
			got = append(got, at+r.Target+" "+string(r.State))
		case *record.Prune:
			text := at + fmt.Sprint("prune ", r.ShouldPrune)
			for _, c := range r.Candidates {
				text += fmt.Sprint(" ", c.PID)
			}
			got = append(got, text)
		case *record.Leak:
			got = append(got, at+"leak")
		}
		return nil
	}})
	result, err := p.Play(list...)
	if err != nil {
		t.Fatal(err)
	}
	return got, result
}

func equal(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		t.Errorf("%q, want %q", got, want)
	}
}

func told(t *testing.T, r *Result, words string) {
	t.Helper()
	if all := strings.Join(r.Summary(), "\n"); !strings.Contains(all, words) {
		t.Errorf("nothing tells of %q:\n%s", words, all)
	}
}

// A process without a record has the values of its last one: it falls when its hold is
// over, though nothing was written of it.
func TestQuietProcesses(t *testing.T) {
	tp := newTape(t, "")
	tp.host()
	tp.add(process(5, 950))
	tp.host()
	tp.add(process(5, 10))
	for range 12 {
		tp.host()
	}
	got, r := play(t, tp.lines)
	equal(t, got, "1 pid:5@7 critical", "12 pid:5@7 normal")
	if r.Readings != 14 || r.Processes != 2 || r.Lines != r.Records || r.States != 2 || r.Runs != 1 {
		t.Errorf("%+v", r)
	}
}

func TestExits(t *testing.T) {
	tp := newTape(t, "")
	exit := func(inferred bool) *record.Exit {
		return &record.Exit{ProcessFacts: process(5, 10).ProcessFacts, Inferred: inferred}
	}
	tp.host()
	tp.add(process(5, 950))
	tp.add(exit(false))
	tp.host() // it was gone
	tp.host()
	tp.add(process(5, 950)) // as if it had come again
	tp.host()
	tp.add(exit(true)) // it is not there any more
	tp.host()
	tp.add(process(5, 950))
	got, _ := play(t, tp.lines)
	equal(t, got, "1 pid:5@7 critical", "2 pid:5@7 normal", "3 pid:5@7 critical", "4 pid:5@7 normal", "5 pid:5@7 critical")
}

// A reading says who left before the exit was told.
func TestGone(t *testing.T) {
	tp := newTape(t, "")
	tp.host()
	tp.add(process(5, 950))
	tp.host(func(h *record.Host) { h.Gone = []string{"pid:5@7", "nonsense"} })
	tp.add(&record.Exit{ProcessFacts: process(5, 10).ProcessFacts})
	tp.host()
	tp.host()
	tp.host()
	tp.add(process(5, 950))
	got, _ := play(t, tp.lines)
	equal(t, got, "1 pid:5@7 critical", "2 pid:5@7 normal", "5 pid:5@7 critical")
}

// A reading says who lives and is not recorded any more.
func TestNoLongerChosen(t *testing.T) {
	tp := newTape(t, "")
	tp.host()
	tp.add(process(5, 950))
	tp.host(func(h *record.Host) { h.NoLongerChosen = []string{"pid:5@7", "nonsense"} })
	tp.host()
	tp.add(process(5, 950))
	got, _ := play(t, tp.lines)
	equal(t, got, "1 pid:5@7 critical", "2 pid:5@7 normal", "3 pid:5@7 critical")
}

// The recorded configuration is what is judged by, and a reload changes it.
func TestConfigurationIsInTheStream(t *testing.T) {
	tp := newTape(t, "thresholds: {fd: {info: 0.1, warning: 0.2, critical: 0.3}}")
	tp.host()
	tp.add(process(5, 350))
	tp.config("thresholds: {fd: {info: 0.1, warning: 0.2, critical: 0.9}, disk: {hold: 0s}}")
	for range 12 {
		tp.host()
	}
	got, r := play(t, tp.lines)
	equal(t, got, "1 pid:5@7 critical", "12 pid:5@7 warning")
	if uint64(len(r.Notes)) != r.Different { // the tape has no decisions
		t.Errorf("%q", r.Notes)
	}

	none := newTape(t, "")
	none.lines = none.lines[:0]
	none.host()
	none.add(process(5, 950))
	got, r = play(t, none.lines)
	equal(t, got, "1 pid:5@7 critical")
	told(t, r, "file0:1: there is no config record before the first reading: judged by the default policy")

	newer := newTape(t, "")
	newer.lines = bytes.Replace(newer.lines, []byte(`"values":{`), []byte(`"values":{"astrology":true,`), 1)
	newer.host()
	_, r = play(t, newer.lines)
	told(t, r, "file0:1: the configuration has astrology, which this version does not know")

	wrong := newTape(t, "")
	wrong.lines = bytes.Replace(wrong.lines, []byte(`"target_utilization":0.9`), []byte(`"target_utilization":9`), 1)
	_, err := New(Options{}).Play(Input{"f", bytes.NewReader(wrong.lines)})
	if err == nil || !strings.Contains(err.Error(), "the recorded configuration can't be used: f:1: target_utilization: 9 is out of range") &&
		!strings.Contains(err.Error(), "target_utilization: 9 is out of range") {
		t.Errorf("%v", err)
	}
}

func TestPruneIsReplayed(t *testing.T) {
	tp := newTape(t, "{max_cpu_usage_percent: 50, observation_period: 3s, thresholds: {cpu: {after: 1h}}}")
	busy := func(h *record.Host) { h.CPURatio, h.CPUCount = some(0.9), some(uint64(2)) }
	for range 5 {
		tp.host(busy)
		tp.add(process(5, 10))
		agent := process(99, 10) // the recording says that this is the agent
		agent.CPUCores = some(2.0)
		tp.add(agent)
	}
	got, _ := play(t, tp.lines)
	equal(t, got, "4 prune true 5")
}

// broken makes a recording of 30 seconds: a process is full in the second 20.
func recording(t *testing.T) *tape {
	tp := newTape(t, "")
	for second := 1; second <= 30; second++ {
		tp.host()
		open := uint64(10 + second)
		if second >= 20 {
			open = 950
		}
		tp.add(process(5, open))
	}
	return tp
}

func TestTruncatedLine(t *testing.T) {
	tp := recording(t)
	for _, cut := range []int{1, 2, 100} { // the newline only, a brace, more
		got, r := play(t, tp.lines[:len(tp.lines)-cut])
		equal(t, got, "20 pid:5@7 critical")
		told(t, r, "the last line is cut off")
		if r.Truncated != 1 || len(r.Refused) != 0 {
			t.Errorf("%+v", r)
		}
	}
	// In the very reading that decides: it may lack anything, so it decides nothing.
	at := tp.starts[2*20] // the process's record of the second 20
	got, r := play(t, tp.lines[:at+50])
	equal(t, got)
	told(t, r, "a reading that one of them belongs to was not judged")
}

func TestForeignLines(t *testing.T) {
	tp := recording(t)
	var mixed []byte
	for i, at := range tp.starts {
		mixed = append(mixed, "\n{}\nhello\n"+`{"kind":"unicorn","schema":1}`+"\n"+`{"kind":"host","schema":2}`+"\n\xff\x00\n"...)
		end := len(tp.lines)
		if i+1 < len(tp.starts) {
			end = tp.starts[i+1]
		}
		mixed = append(mixed, tp.lines[at:end]...)
	}
	mixed = append(mixed, bytes.Repeat([]byte("x"), maxLine+100)...)
	mixed = append(mixed, '\n')
	got, r := play(t, mixed)
	equal(t, got, "20 pid:5@7 critical")
	n := uint64(len(tp.starts))
	if r.Refused["no record"] != 3*n || r.Refused["of a kind that this version does not know"] != 2*n || r.Refused["of another schema"] != n || r.Refused["longer than 16 MiB"] != 1 {
		t.Errorf("%+v", r.Refused)
	}
	told(t, r, "file0:1: a line is no record")
	told(t, r, fmt.Sprintf("skipped: %d lines: of another schema", n))
}

// What has no record at all was not what somebody meant to play.
func TestNoRecordAtAll(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "it is empty",
		"hello\nworld\n":            "file0:1: a line is no record",
		"{}\n":                      "file0:1: a line is of a kind that this version does not know",
		`{"kind":"unicorn"}` + "\n": "file0:1: a line is ",
		"hello":                     "cut off",
	} {
		_, r := play(t, []byte(text))
		if err := r.Empty(); err == nil || !strings.Contains(err.Error(), "no record in it: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	tp := newTape(t, "{}")
	tp.host()
	if _, r := play(t, append([]byte("hello\n"), tp.lines...)); r.Empty() != nil {
		t.Error(r.Empty())
	}
}

// Where records are missing, neither a mean nor a hold goes on, and what follows until
// the next reading belongs to none.
func TestMissingRecords(t *testing.T) {
	tp := newTape(t, "{max_cpu_usage_percent: 50, observation_period: 3s, thresholds: {cpu: {after: 4s}}}")
	busy := func(h *record.Host) { h.CPURatio, h.CPUCount = some(0.95), some(uint64(2)) }
	lost := 0
	for second := range 12 {
		tp.host(busy)
		tp.add(process(5, 10))
		if second == 2 { // the process's and the next host record
			lost = len(tp.starts) - 1
		}
	}
	whole, _ := play(t, tp.lines)
	equal(t, whole, "4 prune true 5", "5 host critical")
	holey := append(bytes.Clone(tp.lines[:tp.starts[lost]]), tp.lines[tp.starts[lost+2]:]...)
	got, r := play(t, holey)
	equal(t, got, "8 prune true 5", "9 host critical")
	if r.Gaps != 1 || r.Lost != 2 || r.Stray != 1 {
		t.Errorf("%+v", r)
	}
	told(t, r, "2 records are missing, seq 7 to 8")
}

func TestGapOfAnHour(t *testing.T) {
	for _, wall := range []bool{false, true} {
		tp := newTape(t, "{max_cpu_usage_percent: 50, observation_period: 3s, thresholds: {cpu: {after: 4s}}}")
		tp.wall = wall
		busy := func(h *record.Host) { h.CPURatio, h.CPUCount = some(0.95), some(uint64(2)) }
		tp.host(busy)
		tp.host(busy)
		tp.second += 3600
		for range 6 {
			tp.host(busy)
		}
		got, r := play(t, tp.lines)
		if wall { // nobody knows what happened meanwhile
			equal(t, got, "3606 prune true", "3607 host critical")
		} else { // the agent stood still, and its first ratio is that of the hour
			equal(t, got, "3603 host critical", "3603 prune true")
		}
		told(t, r, "nothing was read for 1h0m1s, from 2026-11-25T12:00:02Z on")
	}
}

func TestTimeRunsBackwards(t *testing.T) {
	for _, wall := range []bool{false, true} {
		tp := newTape(t, "")
		tp.wall = wall
		for range 10 {
			tp.host()
			tp.add(process(5, 950))
		}
		tp.second -= 7200
		for range 5 {
			tp.host()
			tp.add(process(5, 10))
		}
		got, _ := play(t, tp.lines)
		equal(t, got, "1 pid:5@7 critical")
		for range 7 { // the hold begins where the clock went back, and ends
			tp.host()
			tp.add(process(5, 10))
		}
		got, r := play(t, tp.lines)
		equal(t, got, "1 pid:5@7 critical", "-7179 pid:5@7 normal")
		told(t, r, "the clock goes back by 1h59m59s")
	}
}

// Another run or boot knows nothing of the one before.
func TestRuns(t *testing.T) {
	tp := recording(t)
	tp.seq = 0
	tp.config("")
	tp.host()
	tp.add(process(5, 950))
	tp.boot, tp.seq = "boot-2", 0
	tp.config("")
	tp.host()
	tp.add(process(5, 950))
	got, r := play(t, tp.lines)
	equal(t, got, "20 pid:5@7 critical", "31 pid:5@7 critical", "32 pid:5@7 critical")
	told(t, r, "another run of the agent begins")
	told(t, r, "another boot or host begins")
	if r.Runs != 3 {
		t.Errorf("%+v", r)
	}
}

// Rotated and compressed files are one recording, whatever their order.
func TestFiles(t *testing.T) {
	tp := recording(t)
	a, b := tp.lines[:tp.starts[21]], tp.lines[tp.starts[21]:]
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(a)
	z.Close()
	want, _ := play(t, tp.lines)
	got, r := play(t, b, packed.Bytes())
	equal(t, got, want...)
	if r.Gaps != 0 || r.Runs != 1 || uint64(len(r.Notes)) != r.Different {
		t.Errorf("%+v", r)
	}
	_, err := New(Options{}).Play(Input{"broken.gz", bytes.NewReader(packed.Bytes()[:packed.Len()/2])})
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "broken.gz") {
		t.Errorf("%v", err)
	}
}

// A file that is played twice is another run, and is told.
func TestSameFileTwice(t *testing.T) {
	tp := recording(t)
	got, r := play(t, tp.lines, tp.lines)
	equal(t, got, "20 pid:5@7 critical", "20 pid:5@7 critical")
	told(t, r, "seq goes from 61 to 1, another run of the agent begins")
}

// What was recorded is compared with what is decided.
func TestDifferencesAreTold(t *testing.T) {
	tp := newTape(t, "")
	tp.host()
	tp.add(process(5, 950))
	tp.add(&record.StateChange{Resource: "fd", Target: "pid:5@7", State: record.StateCritical, Previous: record.StateNormal})
	tp.add(&record.StateChange{Resource: "fd", Target: "pid:6@7", State: record.StateCritical, Previous: record.StateNormal})
	tp.add(&record.Leak{PID: 5})
	tp.host()
	tp.add(process(7, 950))
	got, r := play(t, tp.lines)
	equal(t, got, "1 pid:5@7 critical", "1 leak", "2 pid:7@7 critical")
	if r.Same != 1 || r.Different != 2 || r.Leaks != 1 {
		t.Errorf("%+v", r)
	}
	told(t, r, "decided in the recording and not here: fd of pid:6@7 from normal to critical")
	told(t, r, "decided here and not in the recording: fd of pid:7@7 from normal to critical")
}

func TestFewProcesses(t *testing.T) {
	tp := newTape(t, "")
	for range 3 {
		tp.host(func(h *record.Host) { h.Processes = some(uint64(100)) })
		tp.add(process(5, 10))
	}
	_, r := play(t, tp.lines)
	told(t, r, "of 100 processes 1 are in the recording")
	if r.Unrecorded != 2 {
		t.Errorf("%+v", r)
	}
}

func TestNothing(t *testing.T) {
	got, r := play(t, nil)
	equal(t, got)
	told(t, r, "0 readings")
}

// FuzzPlay: no input makes it fail otherwise than by an error, or take more memory than
// the input is worth.
func FuzzPlay(f *testing.F) {
	f.Add([]byte("{}\n"))
	tp := &tape{t: &testing.T{}, boot: "b"}
	tp.add(&record.Host{MonotonicSeconds: some(-1e300), Processes: some(uint64(1))})
	tp.add(process(5, 950))
	tp.add(&record.Host{MonotonicSeconds: some(1e300), CPURatio: some(-1e300), CPUCount: some(uint64(0)), NetReceivedBytesPerSecond: some(1e308), NetSentBytesPerSecond: some(1e308)})
	tp.add(&record.Cgroup{Path: "/", MemoryBytes: some(uint64(1)), MemoryLimitBytes: some(uint64(1)), CPUSecondsTotal: some(1e300), CPULimitCores: some(1e-300)})
	f.Add(bytes.Clone(tp.lines))
	f.Fuzz(func(t *testing.T, lines []byte) {
		p := New(Options{Write: func(r record.Record) error {
			_, err := record.Append(nil, r)
			return err
		}})
		p.Play(Input{"f", bytes.NewReader(lines)})
	})
}
