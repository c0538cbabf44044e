package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rmagent/internal/sample"
	"rmagent/record"
)

// Below the root of a cgroup namespace is not what is outside of it.
func TestInside(t *testing.T) {
	for _, tt := range []struct {
		cgroup, parent string
		want           bool
	}{
		{"/a", "/", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/", "/", true}, {"/", "/a", false}, {"/..a", "/", true},
		{"/..", "/", false}, {"/../a", "/", false}, {"/../a", "/a", false},
	} {
		if got := inside(tt.cgroup, tt.parent); got != tt.want {
			t.Errorf("%s in %s: %v", tt.cgroup, tt.parent, got)
		}
	}
}

func TestPruneDefaults(t *testing.T) {
	want := Prune{
		ObservationPeriod: 10 * time.Second, CheckInterval: time.Second, Samples: 20, Target: 0.9, Candidates: 10,
		MemoryBytes: 8192 * 1048576, CPUPercent: 90, GPUPercent: 90, NetworkBytesPerSecond: 10485760,
	}
	if diff := cmp.Diff(want, Default().Prune); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// withoutStates leaves only the prune rule.
func withoutStates(c *Config) { c.Thresholds = nil }

// network is a reading of bytes a second; the prune rule's maximum is 100 in what
// follows.
func network(v float64) facts {
	return facts{host: record.Host{NetReceivedBytesPerSecond: some(v), NetSentBytesPerSecond: some(0.0)}}
}

func pruneAt100(c *Config) {
	withoutStates(c)
	c.Prune.NetworkBytesPerSecond = 100
}

// The rule: current > max and mean(over the observation period) / max > target. Each
// line is what was measured, a second each; the decision is the one after the last.
func TestPruneRule(t *testing.T) {
	times := func(n int, v float64) []float64 { return slices.Repeat([]float64{v}, n) }
	for _, tt := range []struct {
		what   string
		values []float64
		prune  bool
	}{
		{"above for a period", times(11, 101), true},
		{"at the maximum, which is not above", times(30, 100), false},
		{"a mean above the target, but now below", append(times(20, 200), 99), false},
		{"above now, a mean at the target", append(times(20, 0), 100, 100, 100, 100, 100, 0, 99, 100, 100, 101), false}, // 900 / 10
		{"above now, a mean just above it", append(times(20, 0), 100, 100, 100, 100, 100, 0, 100, 100, 100, 101), true}, // 901 / 10
		{"a spike of nine seconds", append(times(20, 0), times(9, 99)...), false},
		{"a spike of one second as high as nine", append(times(20, 0), 901), true}, // the rule speaks of the mean
		{"less than a period was seen", times(10, 500), false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			w := newWorld(pruneAt100)
			pruned := false
			for _, v := range tt.values {
				pruned = false
				for _, c := range w.changes(network(v)) {
					pruned = c.Prune != nil && c.Prune.ShouldPrune
				}
			}
			if pruned = pruned || len(w.engine.pressed) > 0 && w.engine.pressed[0].unmet == 0; pruned != tt.prune {
				t.Errorf("%v, want %v", pruned, tt.prune)
			}
		})
	}
}

// A decision is told when it changes, once a minute while it holds, and when it is
// over: when the rule has not been met for an observation period.
func TestPruneIsToldOnChangeAndOnceAMinute(t *testing.T) {
	w := newWorld(pruneAt100)
	told := map[int]string{}
	for second := 1; second <= 300; second++ {
		v := 0.0
		if second <= 200 {
			v = 150
		}
		for _, s := range w.judge(network(v)) {
			told[second] = s
		}
	}
	want := map[int]string{
		11: "prune network host: ", 71: "again prune network host: ", 131: "again prune network host: ", 191: "again prune network host: ",
		210: "no prune",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Each crossing has a number of its own, and a reminder has that of its crossing.
func TestCrossingsAreNumbered(t *testing.T) {
	w := newWorld(func(c *Config) { c.Prune.NetworkBytesPerSecond = 100 })
	var got []string
	for second := 1; second <= 100; second++ {
		f := network(150)
		if second > 20 {
			f.processes = append(f.processes, holder(3, 950, 1000), holder(2, 750, 1000))
		}
		for _, c := range w.changes(f) {
			got = append(got, fmt.Sprintf("%d:%d %v %v %v", second, c.Crossing, c.Prune != nil, c.Again, c.Worse()))
			if c.State != nil && c.State.Target != c.Process.String() {
				t.Errorf("%s is said of %s", c.State.Target, c.Process)
			}
		}
	}
	want := []string{"11:1 true false true", "21:2 false false true", "21:3 false false true", "71:1 true true true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPruneEvidence(t *testing.T) {
	w := newWorld(func(c *Config) {
		withoutStates(c)
		c.Prune.MemoryBytes, c.Prune.CPUPercent, c.Prune.Target = 1000, 50, 0.8
	})
	var last *record.Prune
	for range 12 {
		for _, c := range w.changes(facts{host: record.Host{
			CPURatio: some(0.625), CPUCount: some(uint64(4)), MemoryUsedBytes: some(uint64(1200)), MemoryTotalBytes: some(uint64(2000)),
		}}) {
			last = c.Prune
		}
	}
	want := &record.Prune{
		ShouldPrune: true,
		Reasons: []record.PruneReason{
			{Resource: "cpu", Target: "host", Value: some(62.5), Max: some(50.0), Unit: "percent", AverageRatio: some(1.25), TargetRatio: some(0.8)},
			{Resource: "memory", Target: "host", Value: some(1200.0), Max: some(1000.0), Unit: "bytes", AverageRatio: some(1.2), TargetRatio: some(0.8)},
		},
		Candidates: []record.PruneCandidate{},
	}
	if diff := cmp.Diff(want, last, cmp.AllowUnexported(record.Opt[float64]{}, record.Opt[string]{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Every maximum that there is, with who relieves it. The first of the processes has
// most of it.
func TestEveryMaximum(t *testing.T) {
	hog := record.ProcessFacts{
		PID: 100, StartTicks: 5, PPID: some(int32(1)), Comm: "hog", Exe: some("/bin/hog"), Cgroup: some("/a/b"),
		FDOpen: some(uint64(600)), FDLimit: some(uint64(1000)), FDRatio: some(0.6), RSSAnonBytes: some(uint64(600)), Threads: some(uint64(600)), CPUCores: some(1.5),
		NetReceivedBytesPerSecond: some(300.0), NetSentBytesPerSecond: some(300.0), IOWrittenBytesTotal: some(uint64(600)),
		DiskReadBytesPerSecond: some(6.0), DiskWrittenBytesPerSecond: some(0.0), GPUMemoryBytes: some(uint64(600)), GPUUtilizationRatio: some(0.6),
	}
	small := hog
	small.PID, small.FDOpen, small.FDRatio, small.RSSAnonBytes, small.Threads, small.CPUCores = 101, some(uint64(100)), some(0.1), some(uint64(100)), some(uint64(100)), some(0.25)
	small.NetReceivedBytesPerSecond, small.IOWrittenBytesTotal, small.DiskReadBytesPerSecond = some(0.0), some(uint64(100)), some(1.0)
	small.GPUMemoryBytes, small.GPUUtilizationRatio = some(uint64(100)), some(0.1)
	thousand := some(uint64(1000))
	eight := some(uint64(800))
	// Of the card that is full, the hog has nothing; of the others, most. Another program
	// had a PID before.
	onCard := []record.GPUProcess{
		{PID: 101, StartTicks: some(uint64(5)), MemoryBytes: some(uint64(100)), UtilizationRatio: some(0.1)},
		{PID: 100, StartTicks: some(uint64(4)), MemoryBytes: some(uint64(600)), UtilizationRatio: some(0.6)},
		{PID: 100, MemoryBytes: some(uint64(600)), UtilizationRatio: some(0.6)},
	}
	// Of a card that tells of its instances, the hog has most of the one that is not full.
	onInstances := []record.GPUProcess{
		{PID: 100, StartTicks: some(uint64(5)), MemoryBytes: some(uint64(600)), GPUInstanceID: some(uint64(1))},
		{PID: 101, StartTicks: some(uint64(5)), MemoryBytes: some(uint64(100)), GPUInstanceID: some(uint64(2))},
	}
	waiting := func(path string) record.Cgroup {
		return record.Cgroup{Path: path, MemoryBytes: thousand, Pressure: record.Pressure{
			PressureCPUSomeRatio: some(0.8), PressureMemorySomeRatio: some(0.8), PressureIOSomeRatio: some(0.8),
		}}
	}
	allowed := record.JobReading{
		Job: "pid:100@5", MemoryBytes: eight, FDOpen: eight, GPUMemoryBytes: eight, Processes: some(uint64(8)), Members: []record.JobMember{{PID: 101, StartTicks: 5}, {PID: 100, StartTicks: 5}},
		Limits: []record.JobAllowance{{Resource: "memory", Limit: 1000}, {Resource: "open_files", Limit: 1000}, {Resource: "gpu_memory", Limit: 1000}, {Resource: "max_concurrent_processes", Limit: 10}},
	}
	for _, tt := range []struct {
		reason string
		set    func(p *Prune)
		facts  facts
		who    string
	}{
		{"cpu host", func(p *Prune) { p.CPUPercent = 70 }, facts{host: record.Host{CPURatio: some(0.8), CPUCount: some(uint64(2))}}, "100, 101"},
		{"memory host", func(p *Prune) { p.MemoryBytes = 700 }, facts{host: record.Host{MemoryUsedBytes: eight, MemoryTotalBytes: thousand}}, "100, 101"},
		{"network host", func(p *Prune) { p.NetworkBytesPerSecond = 700 }, facts{host: record.Host{NetReceivedBytesPerSecond: some(800.0), NetSentBytesPerSecond: some(0.0)}}, "100, 101"},
		{"gpu gpu:x", func(p *Prune) { p.GPUPercent = 70 }, facts{gpus: []record.GPU{{UUID: some("x"), UtilizationRatio: some(0.8), Processes: onCard}}}, "101"},
		{"gpu gpu:unread", func(p *Prune) { p.GPUPercent = 70 }, facts{gpus: []record.GPU{{UUID: some("unread"), UtilizationRatio: some(0.8)}}}, ""},
		{"gpu_memory gpu:x", func(p *Prune) { p.GPUMemoryPercent = 70 }, facts{gpus: []record.GPU{{UUID: some("x"), MemoryUsedBytes: eight, MemoryTotalBytes: thousand, Processes: onCard}}}, "101"},
		{"gpu_memory gpu:MIG-x", func(p *Prune) { p.GPUMemoryPercent = 70 }, facts{gpus: []record.GPU{{UUID: some("x"), Processes: onCard,
			MIGInstances: []record.GPUInstance{{UUID: some("MIG-x"), MemoryUsedBytes: eight, MemoryTotalBytes: thousand}}}}}, "101"},
		{"gpu_memory gpu:MIG-y", func(p *Prune) { p.GPUMemoryPercent = 70 }, facts{gpus: []record.GPU{{UUID: some("x"), Processes: onInstances,
			MIGInstances: []record.GPUInstance{
				{UUID: some("MIG-x"), GPUInstanceID: some(uint64(1)), MemoryUsedBytes: some(uint64(600)), MemoryTotalBytes: thousand},
				{UUID: some("MIG-y"), GPUInstanceID: some(uint64(2)), MemoryUsedBytes: eight, MemoryTotalBytes: thousand}}}}}, "101"},
		{"fd host", func(p *Prune) { p.FDPercent = 70 }, facts{host: record.Host{FilesOpen: eight, FilesLimit: thousand}}, "100, 101"},
		{"fd pid:100@5", func(p *Prune) { p.FDPercent = 50 }, facts{}, "100"},
		{"pids host", func(p *Prune) { p.PIDsPercent = 70 }, facts{host: record.Host{Threads: eight, PIDLimit: thousand}}, "100, 101"},
		{"disk mount:/d", func(p *Prune) { p.DiskPercent = 70 }, facts{host: record.Host{Filesystems: []record.Filesystem{{Path: "/d", TotalBytes: thousand, FreeBytes: some(uint64(200)), AvailableBytes: some(uint64(200))}}}}, "100, 101"},
		{"memory cgroup:/a", func(p *Prune) { p.CgroupMemoryPercent = 70 }, facts{cgroups: []record.Cgroup{{Path: "/a", MemoryBytes: eight, MemoryLimitBytes: thousand}}}, "100, 101"},
		{"memory cgroup:/other", func(p *Prune) { p.CgroupMemoryPercent = 70 }, facts{cgroups: []record.Cgroup{{Path: "/other", MemoryBytes: eight, MemoryLimitBytes: thousand}}}, ""},
		{"memory job:pid:100@5", func(p *Prune) { p.CgroupMemoryPercent = 70 }, facts{jobs: []record.JobReading{allowed}}, "100, 101"},
		{"gpu_memory job:pid:100@5", func(p *Prune) { p.GPUMemoryPercent = 70 }, facts{jobs: []record.JobReading{allowed}}, "100, 101"},
		{"fd job:pid:100@5", func(p *Prune) { p.FDPercent = 70 }, facts{jobs: []record.JobReading{allowed}}, "100, 101"},
		{"pids job:pid:100@5", func(p *Prune) { p.PIDsPercent = 70 }, facts{jobs: []record.JobReading{allowed}}, "101, 100"},
		{"pressure_cpu cgroup:/a", func(p *Prune) { p.PressureCPUPercent = 70 }, facts{cgroups: []record.Cgroup{waiting("/a")}}, "100, 101"},
		{"pressure_memory cgroup:/a", func(p *Prune) { p.PressureMemoryPercent = 70 }, facts{cgroups: []record.Cgroup{waiting("/a")}}, "100, 101"},
		{"pressure_io cgroup:/a", func(p *Prune) { p.PressureIOPercent = 70 }, facts{host: record.Host{DiskReadBytesPerSecond: some(8.0), DiskWrittenBytesPerSecond: some(0.0)}, cgroups: []record.Cgroup{waiting("/a")}}, "100, 101"},
		{"pressure_memory cgroup:/other", func(p *Prune) { p.PressureMemoryPercent = 70 }, facts{cgroups: []record.Cgroup{waiting("/other")}}, ""},
		{"pids cgroup:/a", func(p *Prune) { p.PIDsPercent = 70 }, facts{cgroups: []record.Cgroup{{Path: "/a", PIDs: eight, PIDsLimit: thousand}}}, "100, 101"},
		{"pressure_cpu host", func(p *Prune) { p.PressureCPUPercent = 70 }, facts{host: record.Host{CPUCount: some(uint64(2)), Pressure: record.Pressure{PressureCPUSomeRatio: some(0.8)}}}, "100, 101"},
		{"pressure_memory host", func(p *Prune) { p.PressureMemoryPercent = 70 }, facts{host: record.Host{MemoryTotalBytes: thousand, Pressure: record.Pressure{PressureMemorySomeRatio: some(0.8)}}}, "100, 101"},
		{"pressure_io host", func(p *Prune) { p.PressureIOPercent = 70 }, facts{host: record.Host{DiskReadBytesPerSecond: some(8.0), DiskWrittenBytesPerSecond: some(0.0), Pressure: record.Pressure{PressureIOSomeRatio: some(0.8)}}}, "100, 101"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			w := newWorld(func(c *Config) {
				withoutStates(c)
				c.Prune.MemoryBytes, c.Prune.CPUPercent, c.Prune.GPUPercent, c.Prune.NetworkBytesPerSecond = 0, 0, 0, 0
			})
			f := tt.facts
			f.processes = []record.ProcessFacts{small, hog}
			judge := func() []string {
				for i := range f.cgroups { // two CPUs are busy
					f.cgroups[i].CPUSecondsTotal = some(2 * w.second)
				}
				return w.judge(f)
			}
			for range 30 {
				equal(t, "without a maximum", judge())
			}
			c := w.engine.Config()
			tt.set(&c.Prune)
			w.engine.Configure(c)
			var got []string
			for range 13 {
				got = append(got, judge()...)
			}
			equal(t, "with one", got, "prune "+tt.reason+": "+tt.who)
			c.Prune = Prune{ObservationPeriod: 10 * time.Second, CheckInterval: time.Second, Samples: 20, Target: 0.9}
			w.engine.Configure(c)
			equal(t, "without again", judge(), "no prune")
		})
	}
}

// Who goes first: the lowest priority, then the largest share of what presses, then
// the youngest. Some never go.
func TestCandidates(t *testing.T) {
	proc := func(pid int32, comm string, anon uint64, change ...func(*record.ProcessFacts)) record.ProcessFacts {
		p := record.ProcessFacts{
			PID: pid, StartTicks: uint64(pid), PPID: some(int32(1)), Comm: comm, Exe: some("/bin/" + comm), RSSAnonBytes: some(anon),
			Cgroup: some("/user.slice"), Unit: some(comm + ".service"), StartTime: some(start.Add(-time.Hour)),
		}
		for _, f := range change {
			f(&p)
		}
		return p
	}
	parent := func(pid int32) func(*record.ProcessFacts) {
		return func(p *record.ProcessFacts) { p.PPID = some(pid) }
	}
	noExe := func(p *record.ProcessFacts) { p.Exe = record.Opt[string]{} }
	list := []record.ProcessFacts{
		proc(1, "init", 900), proc(2, "kthreadd", 900, parent(0), noExe), proc(3, "kswapd0", 900, parent(2), noExe),
		proc(50, "rmagent", 900), proc(51, "rmagent-nvml", 900, parent(50)), proc(60, "sshd", 900),
		proc(61, "guarded", 900, func(p *record.ProcessFacts) { p.Cgroup = some("/keep/sub") }),
		proc(70, "big", 500), proc(71, "old", 100, func(p *record.ProcessFacts) { p.StartTicks = 1 }), proc(72, "young", 100), proc(73, "tiny", 9),
		proc(74, "batch-1", 20), proc(75, "precious", 800), proc(76, "unknown", 0, func(p *record.ProcessFacts) { p.RSSAnonBytes = record.Opt[uint64]{} }),
	}
	configure := func(c *Config) {
		withoutStates(c)
		c.Prune.MemoryBytes = 500
		c.Agent = 50
		c.Protected = []Selector{{Name: "sshd"}, {Cgroup: "/keep"}, {}}
		c.Priorities = []Priority{{Selector{Unit: "batch-*.service"}, -5}, {Selector{Name: "precious"}, 10}, {Selector{Name: "precious"}, -10}}
	}
	host := record.Host{MemoryUsedBytes: some(uint64(1000)), MemoryTotalBytes: some(uint64(2000))}
	var first *record.Prune
	for seed := range uint64(20) { // in whatever order they come
		w := newWorld(configure)
		rng := rand.New(rand.NewPCG(seed, 1))
		var got record.Prune
		for range 12 {
			rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			for _, c := range w.changes(facts{host: host, processes: list}) {
				got = *c.Prune
				got.Candidates = slices.Clone(got.Candidates)
				got.Reasons = slices.Clone(got.Reasons)
			}
		}
		if first == nil {
			first = &got
		}
		if diff := cmp.Diff(first.Candidates, got.Candidates, cmp.AllowUnexported(record.Opt[float64]{}, record.Opt[string]{})); diff != "" {
			t.Fatalf("the order matters:\n%s", diff)
		}
	}
	var who []string
	for _, c := range first.Candidates {
		who = append(who, fmt.Sprintf("%s %.0f: %s", c.Comm, c.Value.Or(-1), c.Why))
	}
	want := []string{
		"batch-1 20: 2.0% of the memory in use of the host, priority -5, started 60 min ago",
		"big 500: 50% of the memory in use of the host, started 60 min ago",
		"young 100: 10% of the memory in use of the host, started 60 min ago",
		"old 100: 10% of the memory in use of the host, started 60 min ago",
		"precious 800: 80% of the memory in use of the host, priority 10, started 60 min ago",
	}
	if diff := cmp.Diff(want, who); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	w := newWorld(configure, func(c *Config) { c.Prune.Candidates = 2 })
	var got []string
	for range 12 {
		got = append(got, w.judge(facts{host: host, processes: list})...)
	}
	equal(t, "two are enough", got, "prune memory host: 74, 70")
}

// Whoever wrote about what a filesystem gained goes before whoever wrote far more, and
// that one before whoever wrote before only.
func TestWhoFillsADisk(t *testing.T) {
	w := newWorld(withoutStates, func(c *Config) { c.Prune.DiskPercent = 80 })
	writer := func(pid int32, total uint64) record.ProcessFacts {
		return record.ProcessFacts{PID: pid, PPID: some(int32(1)), Comm: "w", Exe: some("/bin/w"), IOWrittenBytesTotal: some(total)}
	}
	var got []string
	for second := range uint64(20) {
		used, filler, other := uint64(500), uint64(0), uint64(0)
		if second >= 5 {
			filler, other = second*4, second*100
			used = 850 + filler
		}
		got = append(got, w.judge(facts{
			host:      record.Host{Filesystems: []record.Filesystem{{Path: "/d", TotalBytes: some(uint64(1000)), FreeBytes: some(1000 - used), AvailableBytes: some(1000 - used)}}},
			processes: []record.ProcessFacts{writer(10, 1<<10), writer(11, filler), writer(12, 0), writer(13, other)},
		})...)
	}
	equal(t, "a full disk", got, "prune disk mount:/d: 11, 13, 10")
}

// One writer fills a filesystem, in the ways that writers do; others write elsewhere, and
// one wrote more than all of it before. The first to go is the writer.
func TestTheOneWriterGoesFirst(t *testing.T) {
	for _, tt := range []struct {
		what   string
		writes func(second uint64) uint64 // in all until then
	}{
		{"steadily", func(s uint64) uint64 { return s * 30 }},
		{"in one second, and is done", func(s uint64) uint64 { return 850 * min(s/10, 1) }},
		{"in three seconds, and is done", func(s uint64) uint64 { return 290 * min(s-min(s, 9), 3) }},
		{"nearly all at once, and goes on slowly", func(s uint64) uint64 { return 820*min(s/10, 1) + 3*(s-min(s, 10)) }},
	} {
		for _, crowded := range []bool{false, true} { // another filesystem is full all the time
			w := newWorld(withoutStates, func(c *Config) { c.Prune.DiskPercent = 80; c.Prune.Candidates = 1 })
			writer := func(pid int32, total uint64) record.ProcessFacts {
				return record.ProcessFacts{PID: pid, PPID: some(int32(1)), Comm: "w", Exe: some("/bin/w"), IOWrittenBytesTotal: some(total)}
			}
			mount := func(path string, used uint64) record.Filesystem {
				return record.Filesystem{Path: path, TotalBytes: some(uint64(1000)), FreeBytes: some(1000 - used), AvailableBytes: some(1000 - used)}
			}
			var last string
			for second := range uint64(45) {
				wrote := min(tt.writes(second), 990)
				list := []record.Filesystem{mount("/d", wrote)}
				if crowded {
					list = append(list, mount("/full", 900))
				}
				for _, c := range w.changes(facts{
					host:      record.Host{Filesystems: list},
					processes: []record.ProcessFacts{writer(10, 1<<20), writer(11, wrote), writer(12, second), writer(13, 1<<30+second*500)},
				}) {
					if slices.ContainsFunc(c.Prune.Reasons, func(r record.PruneReason) bool { return r.Target == "mount:/d" }) {
						last = fmt.Sprint(c.Prune.Candidates[0].PID, " ", c.Prune.Candidates[0].Why)
					}
				}
			}
			if !strings.HasPrefix(last, "11 an estimate: ") {
				t.Errorf("%s, another full %v: the first to go is %q", tt.what, crowded, last)
			}
		}
	}
}

// What swings around a maximum is one decision, not many.
func TestPruneDoesNotFlap(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(pruneAt100)
		changes, last := 0, -1000.0
		for range 3000 {
			w.step = 0.3 + rng.Float64()
			for _, c := range w.changes(network(90 + rng.NormFloat64()*20)) {
				if c.Again {
					continue
				}
				changes++
				if !c.Prune.ShouldPrune && w.second-last < 10 {
					t.Errorf("seed %d: it was over %.1f s after it began", seed, w.second-last)
				}
				last = w.second
			}
		}
		if changes > 400 {
			t.Errorf("seed %d: %d changes", seed, changes)
		}
	}
}

// What is not known any more neither ends a decision nor begins one.
func TestPruneAndTheUnknown(t *testing.T) {
	w := newWorld(pruneAt100)
	var got []string
	for range 11 {
		got = append(got, w.judge(network(150))...)
	}
	for range 40 {
		got = append(got, w.judge(facts{})...)
	}
	equal(t, "unknown", got, "prune network host: ")
	w.lost = true
	got = nil
	for range 20 { // after a loss the mean begins anew, and the decision stands
		got = append(got, w.judge(network(150))...)
	}
	equal(t, "records were lost", got, "again prune network host: ")
}

// An hour of which nothing is known is no hour of whatever was before and after it.
func TestGapsAndClocks(t *testing.T) {
	w := newWorld(func(c *Config) { c.Prune.NetworkBytesPerSecond, c.Prune.CPUPercent = 100, 0 })
	busy := network(150)
	busy.host.CPURatio = some(0.95)
	for range 6 {
		equal(t, "not long enough", w.judge(busy))
	}
	w.second += 3600
	w.lost = true
	for range 10 {
		equal(t, "after an hour", w.judge(busy))
	}
	equal(t, "ten seconds after it", w.judge(busy), "cpu host normal>critical", "prune network host: ")

	w.second -= 1800 // the clock steps back
	for range 8 {
		equal(t, "after the step", w.judge(network(150)))
	}
	idle := network(0)
	idle.host.CPURatio = some(0.0)
	var got []string
	for range 30 {
		got = append(got, w.judge(idle)...)
	}
	equal(t, "idle", got, "no prune", "cpu host critical>normal")
}

func TestTrackedLimits(t *testing.T) {
	const mb = 1 << 20
	busy := record.ProcessFacts{
		PID: 4711, StartTicks: 5, PPID: some(int32(1)), Comm: "worker", Unit: some("work.service"), Cgroup: some("/work/a"),
		CPUCores: some(0.6), RSSBytes: some(uint64(600 * mb)), FDOpen: some(uint64(60)), GPUUtilizationRatio: some(0.6), GPUMemoryBytes: some(uint64(60 * mb)),
		DiskReadBytesPerSecond: some(30.0 * mb), DiskWrittenBytesPerSecond: some(30.0 * mb), NetReceivedBytesPerSecond: some(6.0 * mb), NetSentBytesPerSecond: some(0.0),
	}
	kept := record.ProcessFacts{PID: 4711, StartTicks: 5, Comm: "worker", CPUCores: some(0.1), RSSBytes: some(uint64(1)), FDOpen: some(uint64(1)),
		GPUUtilizationRatio: some(0.0), GPUMemoryBytes: some(uint64(0)), DiskReadBytesPerSecond: some(0.0), DiskWrittenBytesPerSecond: some(0.0),
		NetReceivedBytesPerSecond: some(0.0), NetSentBytesPerSecond: some(0.0), Unit: some("work.service"), Cgroup: some("/work/a")}
	for _, tt := range []struct {
		limits   Limits
		resource string
		message  string
		back     string
	}{
		{Limits{CPUPercent: 50}, "cpu", "Process 4711 exceeded CPU limit: 60.00% > 50.00%", "Process 4711 is back under its CPU limit: 10.00% <= 50.00%"},
		{Limits{MemoryBytes: 512 * mb}, "memory", "Process 4711 exceeded memory limit: 600.00 MB > 512.00 MB", "Process 4711 is back under its memory limit: 0.00 MB <= 512.00 MB"},
		{Limits{FDs: 50}, "fd", "Process 4711 exceeded FD limit: 60 > 50", "Process 4711 is back under its FD limit: 1 <= 50"},
		{Limits{DiskBytesPerSecond: 50 * mb}, "disk", "Process 4711 exceeded disk limit: 60.00 MB/s > 50.00 MB/s", "Process 4711 is back under its disk limit: 0.00 MB/s <= 50.00 MB/s"},
		{Limits{NetworkBytesPerSecond: 5 * mb}, "network", "Process 4711 exceeded network limit: 6.00 MB/s > 5.00 MB/s", "Process 4711 is back under its network limit: 0.00 MB/s <= 5.00 MB/s"},
		{Limits{GPUPercent: 50}, "gpu", "Process 4711 exceeded GPU limit: 60.00% > 50.00%", "Process 4711 is back under its GPU limit: 0.00% <= 50.00%"},
		{Limits{GPUMemoryBytes: 50 * mb}, "gpu_memory", "Process 4711 exceeded GPU memory limit: 60.00 MB > 50.00 MB", "Process 4711 is back under its GPU memory limit: 0.00 MB <= 50.00 MB"},
	} {
		w := newWorld(withoutStates, func(c *Config) {
			c.Tracked = []Rule{{Label: "work", Selector: Selector{Name: "work*", Unit: "work.service", Cgroup: "/work"}, Limits: tt.limits, Actions: []string{"tell"}}}
		})
		w.tick(kept)
		changes := w.changes(facts{processes: []record.ProcessFacts{busy}})
		equal(t, tt.resource, words(changes), tt.resource+" pid:4711@5 normal>critical")
		if len(changes) == 1 {
			c := changes[0]
			if c.State.Message != tt.message || c.Rule != "work" || len(c.Actions) != 1 || c.Process.PID != 4711 || !strings.Contains(c.State.Advice, "work") {
				t.Errorf("%+v, %q, %q", c, c.State.Message, c.State.Advice)
			}
		}
		for range 30 {
			equal(t, "still", w.tick(busy))
		}
		for range 10 {
			equal(t, "held", w.tick(kept))
		}
		changes = w.changes(facts{processes: []record.ProcessFacts{kept}})
		equal(t, tt.resource, words(changes), tt.resource+" pid:4711@5 critical>normal")
		if len(changes) == 1 && changes[0].State.Message != tt.back {
			t.Errorf("%q, want %q", changes[0].State.Message, tt.back)
		}
		other := busy
		other.Comm = "other"
		equal(t, "another", w.tick(kept, other))
	}
}

// A limit is broken by what is above it, in every unit.
func TestALimitItselfIsKept(t *testing.T) {
	w := newWorld(withoutStates, func(c *Config) {
		c.Tracked = []Rule{{Selector: Selector{Name: "*"}, Limits: Limits{MemoryBytes: 1 << 40}}}
	})
	p := record.ProcessFacts{PID: 5, Comm: "x", RSSBytes: some(uint64(1 << 40))}
	equal(t, "at the limit", w.tick(p))
	p.RSSBytes = some(uint64(1<<40 + 1))
	equal(t, "a byte above", w.tick(p), "memory pid:5@0 normal>critical")
}

func TestRules(t *testing.T) {
	proc := func(pid int32, ticks uint64, cores float64) record.ProcessFacts {
		return record.ProcessFacts{PID: pid, StartTicks: ticks, Comm: "x", Exe: some("/x"), PPID: some(int32(1)), CPUCores: some(cores)}
	}
	rule := func(s Selector) Rule { return Rule{Selector: s, Limits: Limits{CPUPercent: 50}} }
	w := newWorld(withoutStates, func(c *Config) { c.Tracked = []Rule{rule(Selector{PID: 7})} })
	equal(t, "who has the PID", w.tick(proc(7, 1, 1)), "cpu pid:7@1 normal>critical")
	equal(t, "gone", w.tick(), "cpu pid:7@1 critical>normal")
	equal(t, "the next with the same PID is another", w.tick(proc(7, 2, 1)))

	c := w.engine.Config()
	c.Tracked = append([]Rule{rule(Selector{Name: "x"})}, c.Tracked...)
	w.engine.Configure(c)
	equal(t, "a rule more", w.tick(proc(7, 2, 1)), "cpu pid:7@2 normal>critical")
	c.Tracked = append([]Rule{rule(Selector{Unit: "none"})}, c.Tracked...)
	w.engine.Configure(c)
	equal(t, "the same rule at another place", w.tick(proc(7, 2, 1)))
	c.Tracked = nil
	w.engine.Configure(c)
	equal(t, "no rule", w.tick(proc(7, 2, 1)), "cpu pid:7@2 critical>normal")
	w.tick()
	if len(w.engine.processes) != 0 {
		t.Errorf("%d processes are remembered", len(w.engine.processes))
	}

	// The limits of a rule may be maxima of the prune rule, too.
	w = newWorld(withoutStates, func(c *Config) {
		r := rule(Selector{Name: "x"})
		r.Prune = true
		c.Tracked = []Rule{r}
	})
	var got []string
	for range 12 {
		got = append(got, w.tick(proc(7, 2, 1), proc(8, 2, 0.1))...)
	}
	equal(t, "with prune", got, "cpu pid:7@2 normal>critical", "prune cpu pid:7@2: 7")
	equal(t, "when it ends", w.tick(proc(8, 2, 0.1)), "cpu pid:7@2 critical>normal", "no prune")
}

// A rule whose limits change is the same rule: what it found goes on, but for a limit that
// is taken out.
func TestARuleWhoseLimitsChange(t *testing.T) {
	rule := Rule{Label: "a", Selector: Selector{Name: "x"}, Limits: Limits{CPUPercent: 50, FDs: 10}, Prune: true}
	w := newWorld(withoutStates, func(c *Config) { c.Tracked = []Rule{rule} })
	p := record.ProcessFacts{PID: 7, Comm: "x", Exe: some("/x"), PPID: some(int32(1)), CPUCores: some(1.0), FDOpen: some(uint64(60))}
	for range 12 {
		w.tick(p)
	}
	change := func(l Limits) {
		c := w.engine.Config()
		rule.Limits = l
		c.Tracked = []Rule{rule}
		w.engine.Configure(c)
	}
	change(Limits{CPUPercent: 60, FDs: 500})
	var got []string
	for range 20 {
		got = append(got, w.tick(p)...)
	}
	equal(t, "a higher limit", got, "fd pid:7@0 critical>normal", "again prune cpu pid:7@0: 7")
	change(Limits{CPUPercent: 60, FDs: 50})
	equal(t, "a lower limit", w.tick(p), "fd pid:7@0 normal>critical")
	change(Limits{FDs: 50})
	got = nil
	for range 12 {
		got = append(got, w.tick(p)...)
	}
	equal(t, "a limit less", got, "cpu pid:7@0 critical>normal", "prune fd pid:7@0: 7")
}

// Rules keep what they found, and whom they select, wherever they stand.
func TestRulesThatChangePlaces(t *testing.T) {
	one := Rule{Selector: Selector{Name: "x"}, Limits: Limits{CPUPercent: 50}}
	two := Rule{Selector: Selector{Name: "y"}, Limits: Limits{FDs: 10}}
	same := Rule{Selector: Selector{Name: "x"}, Limits: Limits{MemoryBytes: 1}}
	w := newWorld(withoutStates, func(c *Config) { c.Tracked = []Rule{one, two, same} })
	p := record.ProcessFacts{PID: 7, Comm: "x", CPUCores: some(1.0), FDOpen: some(uint64(60)), RSSBytes: some(uint64(5))}
	equal(t, "at first", w.tick(p), "cpu pid:7@0 normal>critical", "memory pid:7@0 normal>critical")
	c := w.engine.Config()
	c.Tracked = []Rule{same, two, one}
	w.engine.Configure(c)
	for range 12 {
		equal(t, "in another order", w.tick(p))
	}
	c.Tracked = []Rule{two, same, one}
	w.engine.Configure(c)
	for range 12 {
		equal(t, "in a third", w.tick(p))
	}
}

// Of two rules that say the same the second says nothing: what is measured is not weighed
// twice.
func TestTheSameRuleTwice(t *testing.T) {
	rule := Rule{Selector: Selector{Name: "x"}, Limits: Limits{CPUPercent: 50}, Prune: true}
	w := newWorld(withoutStates, func(c *Config) { c.Tracked = []Rule{rule, rule} })
	var got []string
	for range 12 {
		got = append(got, w.tick(record.ProcessFacts{PID: 7, Comm: "x", Exe: some("/x"), PPID: some(int32(1)), CPUCores: some(1.0)})...)
	}
	equal(t, "twice", got, "cpu pid:7@0 normal>critical", "prune cpu pid:7@0: 7")
}

// Who is selected no more, for a process has another name after an exec, is judged no more.
func TestARuleThatSelectsAProcessNoMore(t *testing.T) {
	rule := Rule{Label: "workers", Selector: Selector{Name: "work*"}, Limits: Limits{CPUPercent: 50}, Prune: true, Actions: []string{"tell"}}
	other := Rule{Selector: Selector{Name: "*"}, Limits: Limits{CPUPercent: 70}}
	w := newWorld(withoutStates, func(c *Config) { c.Tracked = []Rule{rule, other} })
	p := record.ProcessFacts{PID: 7, Comm: "worker", Exe: some("/x"), PPID: some(int32(1)), CPUCores: some(1.0)}
	for range 12 {
		w.tick(p)
	}
	p.Comm = "idle"
	got := w.changes(facts{processes: []record.ProcessFacts{p}})
	equal(t, "after the exec", words(got), "cpu pid:7@0 critical>normal", "no prune")
	if c := got[0]; c.Rule != "workers" || !c.Tracked || len(c.Actions) != 1 || c.Worse() ||
		c.State.Message != "Process 7 (idle) no longer exceeds CPU limit: the rule selects it no more" {
		t.Errorf("%+v %+v", c, c.State)
	}
	p.CPUCores = some(0.1)
	got = nil
	for range 20 {
		got = append(got, w.changes(facts{processes: []record.ProcessFacts{p}})...)
	}
	equal(t, "the other rule's limit", words(got), "cpu pid:7@0 critical>normal")
}

// A value that is unknown now is not shown as it was last.
func TestReasonsOfWhichNothingIsKnown(t *testing.T) {
	w := newWorld(withoutStates, func(c *Config) { c.Prune.GPUPercent = 90 })
	card := record.GPU{UUID: some("x"), UtilizationRatio: some(1.0)}
	for range 11 {
		w.judge(facts{gpus: []record.GPU{card}})
	}
	card.UtilizationRatio = record.Opt[float64]{}
	reminders := 0
	for range 70 {
		for _, c := range w.changes(facts{gpus: []record.GPU{card}}) {
			reminders++
			if r := c.Prune.Reasons[0]; r.Value.Known() || r.AverageRatio.Known() || r.Max != some(90.0) {
				t.Errorf("%+v", r)
			}
		}
	}
	if reminders == 0 {
		t.Error("no reminder")
	}
}

// Only those need to be handed in of which something moved, or that are watched.
func TestWatches(t *testing.T) {
	w := newWorld()
	p := holder(5, 10, 1000)
	id := p.PID
	watches := func() bool {
		w.second++
		h := record.Host{MonotonicSeconds: some(w.second), Processes: some(uint64(1))}
		w.engine.Begin(&h, true)
		defer w.engine.End()
		got := w.engine.Watches(sample.ID{PID: id, StartTicks: 7})
		w.engine.Process(&p)
		return got
	}
	watches()
	if watches() {
		t.Error("it is watched far from its limit")
	}
	p = holder(5, 950, 1000)
	watches()
	if !watches() {
		t.Error("it is not watched near its limit")
	}
}

func BenchmarkJudge(b *testing.B) {
	track := func(c *Config) {
		c.Tracked = []Rule{{Selector: Selector{Name: "ngin*"}, Limits: Limits{CPUPercent: 50, MemoryBytes: 1 << 40, FDs: 1e6}}}
	}
	press := func(c *Config) { c.Prune.NetworkBytesPerSecond = 100 }
	for _, bb := range []struct {
		name string
		hot  int
		set  []func(*Config)
	}{
		{"calm", 0, nil}, {"hot=100", 100, nil}, {"tracked=10000", 0, []func(*Config){track}}, {"ranked", 0, []func(*Config){press}},
	} {
		b.Run("processes=10000/"+bb.name, func(b *testing.B) {
			procs := crowd(10000, bb.hot)
			w := newWorld(bb.set...)
			f := network(150)
			f.host.MemoryUsedBytes, f.host.MemoryTotalBytes = some(uint64(10)), some(uint64(100))
			f.processes = procs
			f.host.Processes = some(uint64(len(procs)))
			now := 0.0
			tick := func() {
				now++
				f.host.MonotonicSeconds = some(now)
				w.engine.Begin(&f.host, true)
				w.engine.prune.rankNext = bb.name == "ranked" // at every reading, not once a minute
				for i := range procs {
					w.engine.Process(&procs[i])
				}
				w.engine.End()
			}
			for range 30 {
				tick()
			}
			b.ReportAllocs()
			for b.Loop() {
				tick()
			}
			if per := b.Elapsed() / time.Duration(b.N); per > 5*time.Millisecond {
				b.Errorf("%v for 10,000 processes, at most 5 ms", per)
			}
			if bb.name == "ranked" { // the decision is told, with who could go
				return
			}
			if n := testing.AllocsPerRun(10, tick); n != 0 {
				b.Errorf("%v allocations a reading", n)
			}
		})
	}
}

func TestJudgingAllocatesNothingInSteadyState(t *testing.T) {
	procs := crowd(1000, 50)
	w := newWorld(func(c *Config) {
		c.Tracked = []Rule{{Selector: Selector{Name: "ngin*"}, Limits: Limits{CPUPercent: 50, FDs: 1e6}, Prune: true}}
		c.Prune.FDPercent = 99
	})
	f := network(150)
	f.host.Processes = some(uint64(len(procs)))
	f.host.Filesystems = []record.Filesystem{{Path: "/", TotalBytes: some(uint64(100)), FreeBytes: some(uint64(50)), AvailableBytes: some(uint64(50))}}
	cgroup := record.Cgroup{Path: "/a", MemoryBytes: some(uint64(1)), MemoryLimitBytes: some(uint64(100)), CPUSecondsTotal: some(1.0), CPULimitCores: some(1.0)}
	now := 0.0
	tick := func() {
		now++
		f.host.MonotonicSeconds = some(now)
		w.engine.Begin(&f.host, true)
		w.engine.Cgroup(&cgroup)
		for i := range procs {
			w.engine.Process(&procs[i])
		}
		w.engine.End()
	}
	for range 20 {
		tick()
	}
	if n := testing.AllocsPerRun(20, tick); n != 0 {
		t.Errorf("%v allocations a reading", n)
	}
}
