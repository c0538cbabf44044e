package policy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// world is a host at one second after another.
type world struct {
	engine *Engine
	table  *aggregate.Table
	second int
}

func newWorld() *world { return &world{engine: New(Default()), table: aggregate.NewTable()} }

// tick judges these processes one second later, and writes what crossed as
// "target previous>state".
func (w *world) tick(procs ...sample.Process) []string {
	return w.judge(Facts{}, procs...)
}

func (w *world) judge(f Facts, procs ...sample.Process) []string {
	w.second++
	f.Monotonic = time.Duration(w.second) * time.Second
	w.table.Update(&sample.Snapshot{Monotonic: f.Monotonic, Processes: procs})
	f.Processes = w.table
	var got []string
	for _, c := range w.engine.Judge(&f) {
		got = append(got, fmt.Sprintf("%s %s %s>%s", c.Resource, c.Target, c.Previous, c.State))
	}
	return got
}

func holder(pid int32, open, limit uint64) sample.Process {
	return sample.Process{
		ID: sample.ID{PID: pid, StartTicks: 7}, Comm: sample.MakeComm([]byte("nginx")),
		Known:  sample.SetOf(sample.FDOpen, sample.FDLimit, sample.FDHardLimit),
		FDOpen: open, FDLimit: limit, FDHardLimit: limit,
	}
}

func equal(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestEachCrossingIsToldOnceUpAndOnceDown(t *testing.T) {
	w := newWorld()
	equal(t, "69 %", w.tick(holder(1, 699, 1000)))
	equal(t, "70 %", w.tick(holder(1, 700, 1000)), "fd pid:1@7 normal>info")
	equal(t, "still", w.tick(holder(1, 700, 1000)))
	equal(t, "79.9 %", w.tick(holder(1, 799, 1000)))
	equal(t, "80 %", w.tick(holder(1, 800, 1000)), "fd pid:1@7 info>warning")
	equal(t, "full", w.tick(holder(1, 1000, 1000)), "fd pid:1@7 warning>critical")
	for range 10 { // the hold is ten seconds
		equal(t, "fallen, held", w.tick(holder(1, 10, 1000)))
	}
	equal(t, "fallen", w.tick(holder(1, 10, 1000)), "fd pid:1@7 critical>normal")
	equal(t, "stays", w.tick(holder(1, 10, 1000)))
}

func TestItFallsOnlyAsFarAsItStayed(t *testing.T) {
	w := newWorld()
	w.tick(holder(1, 950, 1000))
	w.tick(holder(1, 10, 1000))
	for range 9 {
		equal(t, "under the hold", w.tick(holder(1, 760, 1000)))
	}
	// Ten seconds below: at 76 % info is what it never left.
	equal(t, "held", w.tick(holder(1, 760, 1000)), "fd pid:1@7 critical>warning")
}

func TestHysteresis(t *testing.T) {
	w := newWorld()
	w.tick(holder(1, 900, 1000))
	for range 60 {
		equal(t, "within the hysteresis", w.tick(holder(1, 851, 1000)))
	}
	for range 10 {
		equal(t, "below it", w.tick(holder(1, 849, 1000)))
	}
	equal(t, "below it long enough", w.tick(holder(1, 849, 1000)), "fd pid:1@7 critical>warning")
}

// Noise around a threshold crosses it once: it is always above threshold -
// hysteresis, or never there for as long as the hold.
func TestNoiseDoesNotFlap(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 2))
		w := newWorld()
		crossings := 0
		for range 1000 {
			open := 800 + rng.IntN(81) - 40
			if rng.IntN(10) == 0 {
				open = 600 // a dip of a second
			}
			crossings += len(w.tick(holder(1, uint64(open), 1000)))
		}
		if crossings > 2 { // to info and to warning
			t.Errorf("seed %d: %d crossings", seed, crossings)
		}
	}
}

func TestUnknownAndUnlimitedNeverTrigger(t *testing.T) {
	unknown := holder(1, 1000, 1000)
	unknown.Known = sample.SetOf(sample.FDOpen)
	unlimited := holder(2, 1<<40, sample.Unlimited)
	zero := holder(3, 5, 0)
	equal(t, "unknown", newWorld().tick(unknown, unlimited, zero))
}

func TestAStateOutlivesAnUnknownReading(t *testing.T) {
	w := newWorld()
	w.tick(holder(1, 1000, 1000))
	unknown := holder(1, 0, 1000)
	unknown.Known = 0
	for range 30 {
		equal(t, "unknown", w.tick(unknown))
	}
	equal(t, "known again", w.tick(holder(1, 1000, 1000)))
}

func TestAProcessTakesItsStatesWithIt(t *testing.T) {
	w := newWorld()
	w.tick(holder(1, 1000, 1000))
	equal(t, "gone", w.tick())
	if n := len(w.engine.processes); n != 0 {
		t.Errorf("%d states are kept of processes that are gone", n)
	}
	next := holder(1, 10, 1000)
	next.ID.StartTicks = 99
	equal(t, "the next of the same PID", w.tick(next))
}

func TestHostAndCgroups(t *testing.T) {
	host := func(available, files uint64) *aggregate.Host {
		h := &aggregate.Host{}
		h.MemoryTotalBytes, h.MemoryAvailableBytes = record.Some(uint64(1000)), record.Some(available)
		h.FilesOpen, h.FilesLimit = record.Some(files), record.Some(uint64(100))
		return h
	}
	cgroup := func(used, limit uint64) []sample.Cgroup {
		return []sample.Cgroup{{Path: "/a", MemoryBytes: record.Some(used), MemoryLimit: sample.Limit{Value: record.Some(limit)}}}
	}
	w := newWorld()
	equal(t, "calm", w.judge(Facts{Host: host(900, 10), Cgroups: cgroup(10, 100)}))
	equal(t, "full", w.judge(Facts{Host: host(50, 85), Cgroups: cgroup(95, 100)}),
		"memory host normal>critical", "fd host normal>warning", "memory cgroup:/a normal>critical")
	equal(t, "unlimited", w.judge(Facts{Host: host(50, 85), Cgroups: cgroup(1<<50, sample.Unlimited)}))
	equal(t, "not read", w.judge(Facts{Host: host(50, 85)}))
	equal(t, "still there", w.judge(Facts{Host: host(50, 85), Cgroups: cgroup(95, 100), AllCgroups: true}))
	equal(t, "removed", w.judge(Facts{Host: host(50, 85), AllCgroups: true}))
	if n := len(w.engine.others); n != 2 { // the host's
		t.Errorf("%d states are kept", n)
	}
	equal(t, "made again", w.judge(Facts{Host: host(50, 85), Cgroups: cgroup(95, 100)}), "memory cgroup:/a normal>critical")
}

func TestWordsForProcessFDs(t *testing.T) {
	w := newWorld()
	p := holder(28712, 3277, 4096)
	p.FDHardLimit = 524288
	w.tick(p)
	c := w.engine.changes[0]
	if want := "High FD usage: 3277/4096 (80%) in nginx (pid 28712)"; c.Message != want {
		t.Errorf("message %q, want %q", c.Message, want)
	}
	for _, want := range []string{"EMFILE", "/proc/28712/fd", "prlimit --pid 28712 --nofile=524288", "LimitNOFILE="} {
		if !strings.Contains(c.Advice, want) {
			t.Errorf("advice %q does not name %s", c.Advice, want)
		}
	}
	if c.Unit != "files" || c.Value.Or(0) != 3277 || c.Limit.Or(0) != 4096 {
		t.Errorf("%v of %v %s", c.Value, c.Limit, c.Unit)
	}
	p.FDOpen = 1
	for range 11 {
		w.tick(p)
	}
	c = w.engine.changes[0]
	if want := "FD usage of nginx (pid 28712) fell: 1/4096 (0%)"; c.Message != want || c.Advice != "" {
		t.Errorf("message %q, advice %q, want %q and none", c.Message, c.Advice, want)
	}
}

func TestValidate(t *testing.T) {
	good := Threshold{Info: 0.5, Warning: 0.6, Critical: 0.7, Hysteresis: 0.1, Hold: time.Second}
	change := func(f func(*Threshold)) Threshold { t := good; f(&t); return t }
	for _, tt := range []struct {
		resource Resource
		t        Threshold
		wrong    string // the key that the error names; empty: none is wrong
	}{
		{FD, good, ""},
		{"disc", good, "thresholds.disc:"},
		{FD, change(func(t *Threshold) { t.Warning = 0.4 }), "thresholds.fd:"},
		{FD, change(func(t *Threshold) { t.Critical = 1.1 }), "thresholds.fd:"},
		{Memory, change(func(t *Threshold) { t.Info = 0 }), "thresholds.memory:"},
		{FD, change(func(t *Threshold) { t.Hysteresis = 0.5 }), "thresholds.fd.hysteresis:"},
		{FD, change(func(t *Threshold) { t.Warning = math.NaN() }), "thresholds.fd:"},
		{FD, change(func(t *Threshold) { t.Hysteresis = math.NaN() }), "thresholds.fd.hysteresis:"},
		{FD, change(func(t *Threshold) { t.Hold = -1 }), "thresholds.fd.hold:"},
	} {
		err := (&Config{Thresholds: map[Resource]Threshold{tt.resource: tt.t}}).Validate()
		switch {
		case tt.wrong == "" && err != nil:
			t.Errorf("%+v: %v", tt.t, err)
		case tt.wrong != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.wrong) || !strings.Contains(err.Error(), "allowed")):
			t.Errorf("%+v: %v, want an error that begins with %s and says what is allowed", tt.t, err, tt.wrong)
		}
	}
	d := Default()
	if err := d.Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
}

func crowd(n, hot int) *aggregate.Table {
	table := aggregate.NewTable()
	var procs []sample.Process
	for i := range n {
		open := uint64(10)
		if i < hot {
			open = 950
		}
		procs = append(procs, holder(int32(i+1), open, 1000))
	}
	table.Update(&sample.Snapshot{Monotonic: time.Second, Processes: procs})
	return table
}

func TestJudgingAllocatesNothingInSteadyState(t *testing.T) {
	f := Facts{Monotonic: time.Second, Processes: crowd(1000, 50)}
	e := New(Default())
	e.Judge(&f)
	if n := testing.AllocsPerRun(20, func() {
		f.Monotonic += time.Second
		e.Judge(&f)
	}); n != 0 {
		t.Errorf("%v allocations per judgment", n)
	}
}

func BenchmarkJudge(b *testing.B) {
	for _, hot := range []int{0, 100} {
		b.Run(fmt.Sprintf("processes=10000/hot=%d", hot), func(b *testing.B) {
			f := Facts{Monotonic: time.Second, Processes: crowd(10000, hot)}
			e := New(Default())
			b.ReportAllocs()
			for b.Loop() {
				f.Monotonic += time.Second
				e.Judge(&f)
			}
		})
	}
}
