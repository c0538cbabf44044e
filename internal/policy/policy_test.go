package policy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/record"
)

// world is a host at one second after another.
type world struct {
	engine *Engine
	second float64
	step   float64 // 1 unless set
	lost   bool    // before the next reading
}

// facts is what one reading has.
type facts struct {
	host      record.Host
	cgroups   []record.Cgroup
	gpus      []record.GPU
	jobs      []record.JobReading
	processes []record.ProcessFacts
	partly    bool // it may have missed processes
}

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func newWorld(change ...func(*Config)) *world {
	c := Default()
	for _, f := range change {
		f(&c)
	}
	return &world{engine: New(c), step: 1}
}

// changes hands in one reading, a step later.
func (w *world) changes(f facts) []Change {
	w.second += w.step
	h := f.host
	h.Time = start.Add(time.Duration(w.second * float64(time.Second)))
	h.MonotonicSeconds = record.Some(w.second)
	h.Processes = record.SomeIf(uint64(len(f.processes)), !f.partly)
	w.engine.Begin(&h, !w.lost)
	w.lost = false
	for i := range f.cgroups {
		w.engine.Cgroup(&f.cgroups[i])
	}
	for i := range f.gpus {
		w.engine.GPU(&f.gpus[i])
	}
	for i := range f.jobs {
		w.engine.Job(&f.jobs[i])
	}
	for i := range f.processes {
		w.engine.Process(&f.processes[i])
	}
	return w.engine.End()
}

// judge hands in one reading, and writes what was decided: states as "resource target
// previous>state", prune decisions as "prune resource target, ...: pid, ..." or
// "no prune".
func (w *world) judge(f facts) []string { return words(w.changes(f)) }

func words(changes []Change) (list []string) {
	for i := range changes {
		c := &changes[i]
		switch {
		case c.State != nil:
			list = append(list, fmt.Sprintf("%s %s %s>%s", c.State.Resource, c.State.Target, c.State.Previous, c.State.State))
		case !c.Prune.ShouldPrune:
			list = append(list, "no prune")
		default:
			var reasons, pids []string
			for _, r := range c.Prune.Reasons {
				reasons = append(reasons, r.Resource+" "+r.Target)
			}
			for _, p := range c.Prune.Candidates {
				pids = append(pids, fmt.Sprint(p.PID))
			}
			text := "prune " + strings.Join(reasons, ", ") + ": " + strings.Join(pids, ", ")
			if c.Again {
				text = "again " + text
			}
			list = append(list, text)
		}
	}
	return list
}

// tick judges these processes one second later.
func (w *world) tick(procs ...record.ProcessFacts) []string { return w.judge(facts{processes: procs}) }

func some[T any](v T) record.Opt[T] { return record.Some(v) }

// holder is a process with so many descriptors open.
func holder(pid int32, open, limit uint64) record.ProcessFacts {
	return record.ProcessFacts{
		PID: pid, StartTicks: 7, PPID: some(int32(1)), Comm: "nginx", Exe: some("/usr/sbin/nginx"), Cgroup: some("/web"),
		FDOpen: some(open), FDLimit: some(limit), FDHardLimit: some(limit),
		FDRatio: some(aggregate.Round(float64(open) / float64(limit))),
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
	if n := len(w.engine.processes); n != 0 {
		t.Errorf("%d processes are remembered that are far from their limits", n)
	}
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

// The edges: the hysteresis itself is not below it, and the hold is over when it is
// over.
func TestEdgesOfHysteresisAndHold(t *testing.T) {
	w := newWorld()
	w.tick(holder(1, 900, 1000))
	for range 60 {
		equal(t, "within the hysteresis", w.tick(holder(1, 851, 1000)))
	}
	for range 60 {
		equal(t, "at the hysteresis", w.tick(holder(1, 850, 1000)))
	}
	for range 10 {
		equal(t, "below it", w.tick(holder(1, 849, 1000)))
	}
	equal(t, "below it long enough", w.tick(holder(1, 849, 1000)), "fd pid:1@7 critical>warning")

	w = newWorld(func(c *Config) {
		c.Thresholds[FD] = Threshold{Info: 0.5, Warning: 0.6, Critical: 0.7} // neither
	})
	w.tick(holder(1, 700, 1000))
	equal(t, "without hysteresis and hold", w.tick(holder(1, 699, 1000)), "fd pid:1@7 critical>warning")
}

func cpu(ratio float64) facts { return facts{host: record.Host{CPURatio: some(ratio)}} }

// With "after" a spike is no state, and what lasts is.
func TestSpikesOfCPU(t *testing.T) {
	w := newWorld(func(c *Config) { c.Prune.CPUPercent = 0 })
	for range 5 {
		w.judge(cpu(0.1))
	}
	for range 9 {
		equal(t, "a spike", w.judge(cpu(1)))
	}
	equal(t, "over", w.judge(cpu(0.1)))
	for range 9 {
		equal(t, "again", w.judge(cpu(1)))
	}
	equal(t, "again", w.judge(cpu(0.75))) // what it had throughout is the warning's
	equal(t, "ten seconds", w.judge(cpu(1)), "cpu host normal>warning")
	for range 10 {
		equal(t, "higher", w.judge(cpu(1)))
	}
	equal(t, "higher for ten seconds", w.judge(cpu(1)), "cpu host warning>critical")
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

// Whatever a value does, two crossings of one target are never nearer than the hold,
// unless both are for the worse, and states follow each other.
func TestCrossingsOfAnyValue(t *testing.T) {
	order := []record.State{record.StateNormal, record.StateInfo, record.StateWarning, record.StateCritical}
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 7))
		w := newWorld()
		last, at, open := record.StateNormal, -math.MaxFloat64, 500.0
		for range 2000 {
			open = min(max(open+rng.NormFloat64()*float64(1+seed*4), 0), 1000)
			w.step = 0.2 + rng.Float64()*2
			for _, c := range w.changes(facts{processes: []record.ProcessFacts{holder(1, uint64(open), 1000)}}) {
				if c.State.Previous != last || c.State.State == last {
					t.Fatalf("seed %d: %s>%s after %s", seed, c.State.Previous, c.State.State, last)
				}
				if w.second-at < 10 && slices.Index(order, c.State.State) < slices.Index(order, last) {
					t.Fatalf("seed %d: it fell %.1f s after it crossed", seed, w.second-at)
				}
				last, at = c.State.State, w.second
			}
		}
	}
}

func TestUnknownAndUnlimitedNeverTrigger(t *testing.T) {
	unknown := holder(1, 1000, 1000)
	unknown.FDRatio = record.Opt[float64]{}
	w := newWorld(func(c *Config) {
		c.Prune.FDPercent, c.Prune.DiskPercent, c.Prune.PIDsPercent, c.Prune.GPUMemoryPercent, c.Prune.CgroupMemoryPercent = 1, 1, 1, 1, 1
		c.Tracked = []Rule{{Selector: Selector{Name: "*"}, Prune: true, Limits: Limits{
			CPUPercent: 1, MemoryBytes: 1, FDs: 1, DiskBytesPerSecond: 1, NetworkBytesPerSecond: 1, GPUPercent: 1, GPUMemoryBytes: 1,
		}}}
	})
	unknown.FDOpen = record.Opt[uint64]{}
	for range 30 {
		equal(t, "unknown", w.judge(facts{
			host: record.Host{
				MemoryUsedBytes: some(uint64(1)), Threads: some(uint64(1 << 40)), FilesOpen: some(uint64(1 << 40)), FilesLimit: some(uint64(0)),
				Filesystems: []record.Filesystem{{Path: "/hung"}, {Path: "/empty", TotalBytes: some(uint64(0)), FreeBytes: some(uint64(0)), AvailableBytes: some(uint64(0))}},
			},
			cgroups: []record.Cgroup{
				{Path: "/unlimited", MemoryBytes: some(uint64(1 << 50)), PIDs: some(uint64(1 << 40)), CPUSecondsTotal: some(1e9)},
				{Path: "/unknown", MemoryLimitBytes: some(uint64(1)), PIDsLimit: some(uint64(1)), CPULimitCores: some(1e-9)},
			},
			gpus:      []record.GPU{{UUID: some("a"), MemoryTotalBytes: some(uint64(1))}, {UtilizationRatio: some(1.0)}},
			processes: []record.ProcessFacts{unknown},
		}))
	}
}

func TestAStateOutlivesAnUnknownReading(t *testing.T) {
	w := newWorld()
	w.tick(holder(1, 1000, 1000))
	unknown := holder(1, 0, 1000)
	unknown.FDOpen, unknown.FDRatio = record.Opt[uint64]{}, record.Opt[float64]{}
	for range 30 {
		equal(t, "unknown", w.tick(unknown))
	}
	equal(t, "known again", w.tick(holder(1, 1000, 1000)))
}

func TestAStateEndsWithItsProcess(t *testing.T) {
	w := newWorld()
	w.tick(holder(1, 1000, 1000))
	equal(t, "missed", w.judge(facts{partly: true}))
	equal(t, "there again", w.tick(holder(1, 1000, 1000)))
	gone := w.changes(facts{})
	equal(t, "gone", words(gone), "fd pid:1@7 critical>normal")
	if c := gone[0].State; c.Message != "FD usage of nginx (pid 1) is over: it has ended" || c.Value.Known() || c.Limit.Known() || c.Ratio.Known() || c.Advice != "" {
		t.Errorf("%+v", c)
	}
	if n := len(w.engine.processes); n != 0 {
		t.Errorf("%d processes are remembered that are gone", n)
	}
	next := holder(1, 10, 1000)
	next.StartTicks = 99
	equal(t, "the next of the same PID", w.tick(next))
	zombie := holder(2, 1000, 1000)
	zombie.State, zombie.Threads = some("Z"), some(uint64(1))
	equal(t, "a zombie", w.tick(next, zombie))
	zombie.Threads = some(uint64(2))
	equal(t, "only its first thread ended", w.tick(next, zombie), "fd pid:2@7 normal>critical")
}

// Every threshold that there is: below it nothing, at it a state.
func TestEveryThreshold(t *testing.T) {
	percent := func(v float64) record.Opt[float64] { return some(v) }
	of1000 := func(v float64) record.Opt[uint64] { return some(uint64(math.Round(v * 1000))) }
	free := func(v float64) record.Opt[uint64] { return some(1000 - uint64(math.Round(v*1000))) }
	thousand := some(uint64(1000))
	second := 0.0
	for _, tt := range []struct {
		what                  string
		group                 Resource
		of                    func(v float64) facts
		warning, critical, by float64
		words                 string // in the message
	}{
		{"cpu host", CPU, func(v float64) facts { return facts{host: record.Host{CPURatio: percent(v)}} }, 0.7, 0.9, 0.01, "CPU of the host: high use, 70%"},
		{"memory host", Memory, func(v float64) facts {
			return facts{host: record.Host{MemoryUsedBytes: of1000(v), MemoryTotalBytes: thousand}}
		}, 0.7, 0.9, 0.001, "Memory of the host: high use, 700 B of 1000 B (70%)"},
		{"fd host", FD, func(v float64) facts {
			return facts{host: record.Host{FilesOpen: of1000(v), FilesLimit: thousand}}
		}, 0.8, 0.9, 0.001, "Open files of the host: high use, 800/1000 (80%)"},
		{"fd pid:1@7", FD, func(v float64) facts {
			return facts{processes: []record.ProcessFacts{holder(1, uint64(math.Round(v*1000)), 1000)}}
		}, 0.8, 0.9, 0.001, "High FD usage: 800/1000 (80%) in nginx (pid 1)"},
		{"pids host", PIDs, func(v float64) facts { return facts{host: record.Host{Threads: of1000(v), PIDLimit: thousand}} }, 0.8, 0.9, 0.001,
			"Threads of the host: high use, 800/1000 (80%)"},
		{"disk mount:/data", Disk, func(v float64) facts {
			return facts{host: record.Host{Filesystems: []record.Filesystem{{Path: "/data", TotalBytes: thousand, FreeBytes: free(v), AvailableBytes: free(v)}}}}
		}, 0.8, 0.95, 0.001, "Space on /data: high use, 800 B of 1000 B (80%)"},
		{"disk_inodes mount:/data", Disk, func(v float64) facts {
			return facts{host: record.Host{Filesystems: []record.Filesystem{{Path: "/data", InodesTotal: thousand, InodesAvailable: free(v)}}}}
		}, 0.8, 0.95, 0.001, "Inodes of /data: high use, 800/1000 (80%)"},
		{"network host", Network, func(v float64) facts {
			return facts{host: record.Host{NetReceivedBytesPerSecond: percent(v * 1000), NetSentBytesPerSecond: percent(0)}}
		}, 0.7, 0.9, 0.001, "Network of the host: high use, 700 B/s of 1000 B/s (70%)"},
		{"pressure_cpu host", Pressure, func(v float64) facts {
			return facts{host: record.Host{Pressure: record.Pressure{PressureCPUSomeRatio: percent(v)}}}
		}, 0.4, 0.7, 0.01, "Waiting for CPU on the host: high use, 40%"},
		{"pressure_memory host", Pressure, func(v float64) facts {
			return facts{host: record.Host{Pressure: record.Pressure{PressureMemorySomeRatio: percent(v)}}}
		}, 0.4, 0.7, 0.01, "Waiting for memory on the host: high use, 40%"},
		{"pressure_io host", Pressure, func(v float64) facts {
			return facts{host: record.Host{Pressure: record.Pressure{PressureIOSomeRatio: percent(v)}}}
		}, 0.4, 0.7, 0.01, "Waiting for I/O on the host: high use, 40%"},
		{"pressure_cpu cgroup:/a", Pressure, func(v float64) facts {
			return facts{cgroups: []record.Cgroup{{Path: "/a", Pressure: record.Pressure{PressureCPUSomeRatio: percent(v)}}}}
		}, 0.4, 0.7, 0.01, "Waiting for CPU in cgroup:/a: high use, 40%"},
		{"pressure_memory cgroup:/a", Pressure, func(v float64) facts {
			return facts{cgroups: []record.Cgroup{{Path: "/a", Pressure: record.Pressure{PressureMemorySomeRatio: percent(v)}}}}
		}, 0.4, 0.7, 0.01, "Waiting for memory in cgroup:/a: high use, 40%"},
		{"pressure_io cgroup:/a", Pressure, func(v float64) facts {
			return facts{cgroups: []record.Cgroup{{Path: "/a", Pressure: record.Pressure{PressureIOSomeRatio: percent(v)}}}}
		}, 0.4, 0.7, 0.01, "Waiting for I/O in cgroup:/a: high use, 40%"},
		{"memory cgroup:/a", Memory, func(v float64) facts {
			return facts{cgroups: []record.Cgroup{{Path: "/a", MemoryBytes: of1000(v), MemoryLimitBytes: thousand}}}
		}, 0.7, 0.9, 0.001, "Memory of cgroup:/a: high use, 700 B of 1000 B (70%)"},
		{"pids cgroup:/a", PIDs, func(v float64) facts {
			return facts{cgroups: []record.Cgroup{{Path: "/a", PIDs: of1000(v), PIDsLimit: thousand}}}
		}, 0.8, 0.9, 0.001, "Threads of cgroup:/a: high use, 800/1000 (80%)"},
		{"cpu cgroup:/a", CPU, func(v float64) facts { // whose time goes by between readings
			second += v * 2
			return facts{cgroups: []record.Cgroup{{Path: "/a", CPUSecondsTotal: percent(second), CPULimitCores: percent(2)}}}
		}, 0.7, 0.9, 0.001, "CPU of cgroup:/a: high use, 1.40 of 2.00 CPUs (70%)"},
		{"memory job:pid:7@9", Memory, func(v float64) facts {
			return facts{jobs: []record.JobReading{{Job: "pid:7@9", MemoryBytes: of1000(v), Limits: []record.JobAllowance{{Resource: "memory", Limit: 1000}}}}}
		}, 0.7, 0.9, 0.001, "Memory of job pid:7@9: high use, 700 B of 1000 B (70%)"},
		{"cpu job:pid:7@9", CPU, func(v float64) facts {
			return facts{jobs: []record.JobReading{{Job: "pid:7@9", Category: some("render\n"), CPUCores: percent(v * 2), Limits: []record.JobAllowance{{Resource: "cores", Limit: 2}}}}}
		}, 0.7, 0.9, 0.001, "CPU of job pid:7@9 (render?): high use, 1.40 of 2.00 CPUs (70%)"},
		{"fd job:pid:7@9", FD, func(v float64) facts {
			return facts{jobs: []record.JobReading{{Job: "pid:7@9", FDOpen: of1000(v), Limits: []record.JobAllowance{{Resource: "open_files", Limit: 1000}}}}}
		}, 0.8, 0.9, 0.001, "Open files of job pid:7@9: high use, 800/1000 (80%)"},
		{"gpu_memory job:pid:7@9", GPUMemory, func(v float64) facts {
			return facts{jobs: []record.JobReading{{Job: "pid:7@9", GPUMemoryBytes: of1000(v), Limits: []record.JobAllowance{{Resource: "gpu_memory", Limit: 1000}}}}}
		}, 0.7, 0.9, 0.001, "GPU memory of job pid:7@9: high use, 700 B of 1000 B (70%)"},
		{"pids job:pid:7@9", PIDs, func(v float64) facts {
			return facts{jobs: []record.JobReading{{Job: "pid:7@9", Processes: of1000(v), Limits: []record.JobAllowance{{Resource: "max_concurrent_processes", Limit: 1000}}}}}
		}, 0.8, 0.9, 0.001, "Processes of job pid:7@9: high use, 800/1000 (80%)"},
		{"network job:pid:7@9", Network, func(v float64) facts {
			return facts{jobs: []record.JobReading{{Job: "pid:7@9", NetReceivedBytesPerSecond: percent(v * 1000), NetSentBytesPerSecond: percent(0),
				Limits: []record.JobAllowance{{Resource: "bandwidth", Limit: 8000}}}}}
		}, 0.7, 0.9, 0.001, "Network of job pid:7@9: high use, 700 B/s of 1000 B/s (70%)"},
		{"gpu gpu:GPU-1", GPU, func(v float64) facts {
			return facts{gpus: []record.GPU{{Index: 3, UUID: some("GPU-1"), Name: some("A100"), UtilizationRatio: percent(v)}}}
		}, 0.7, 0.9, 0.01, "GPU 3 (A100): high use, 70%"},
		{"gpu_memory gpu:GPU-1", GPUMemory, func(v float64) facts {
			return facts{gpus: []record.GPU{{Index: 3, UUID: some("GPU-1"), MemoryUsedBytes: of1000(v), MemoryTotalBytes: thousand}}}
		}, 0.7, 0.9, 0.001, "Memory of GPU 3: high use, 700 B of 1000 B (70%)"},
		{"gpu_memory gpu:MIG-1", GPUMemory, func(v float64) facts {
			return facts{gpus: []record.GPU{{Index: 3, UUID: some("GPU-1"), MIGInstances: []record.GPUInstance{
				{UUID: some("MIG-1"), Name: some("1g.5gb"), MemoryUsedBytes: of1000(v), MemoryTotalBytes: thousand}, {MemoryTotalBytes: thousand}}}}}
		}, 0.7, 0.9, 0.001, "Memory of GPU 3 (1g.5gb): high use, 700 B of 1000 B (70%)"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			w := newWorld(func(c *Config) {
				c.NetworkLimit = 1000
				th := c.Thresholds[tt.group]
				if th.Warning != tt.warning || th.Critical != tt.critical || !(th.Info < th.Warning) {
					t.Errorf("the default is %+v", th)
				}
				th.After, th.Info = 0, th.Warning
				c.Thresholds[tt.group] = th
				c.Prune = Prune{ObservationPeriod: time.Second, CheckInterval: time.Second, Samples: 1, Target: 1}
			})
			w.judge(tt.of(0)) // rates begin
			equal(t, "below", w.judge(tt.of(tt.warning-tt.by)))
			changes := w.changes(tt.of(tt.warning))
			equal(t, "at the warning", words(changes), tt.what+" normal>warning")
			if len(changes) == 1 && (changes[0].State.Message != tt.words || changes[0].State.Advice == "") {
				t.Errorf("message %q, want %q; advice %q", changes[0].State.Message, tt.words, changes[0].State.Advice)
			}
			equal(t, "below critical", w.judge(tt.of(tt.critical-tt.by)))
			equal(t, "at critical", w.judge(tt.of(tt.critical)), tt.what+" warning>critical")
			for range 10 {
				equal(t, "held", w.judge(tt.of(0)))
			}
			changes = w.changes(tt.of(0))
			equal(t, "over", words(changes), tt.what+" critical>normal")
			if len(changes) == 1 && (!strings.Contains(changes[0].State.Message, "fell") || changes[0].State.Advice != "") {
				t.Errorf("%q, advice %q", changes[0].State.Message, changes[0].State.Advice)
			}
		})
	}
}

// The root cgroup's pressure is the host's, which is judged already, and a cgroup that
// doesn't wait leaves nothing behind.
func TestCgroupsThatAreNotRemembered(t *testing.T) {
	w := newWorld()
	waits := func(path string, ratio float64) record.Cgroup {
		return record.Cgroup{Path: path, Pressure: record.Pressure{PressureCPUSomeRatio: some(ratio)}}
	}
	equal(t, "the root", w.judge(facts{cgroups: []record.Cgroup{waits("/", 1), waits("/calm", 0.1)}}))
	for key := range w.engine.gauges {
		if key.target.kind == kindCgroup {
			t.Errorf("%v is remembered", key)
		}
	}
	watched := func(path string) bool {
		paths := map[string]bool{}
		w.engine.WatchedCgroups(paths)
		return paths[path]
	}
	if watched("/calm") {
		t.Error("a calm cgroup is watched")
	}
	equal(t, "one that waits", w.judge(facts{cgroups: []record.Cgroup{waits("/calm", 0.5)}}), "pressure_cpu cgroup:/calm normal>warning")
	if !watched("/calm") {
		t.Error("a cgroup that waits is not watched: nobody sees when it no longer does")
	}
}

func TestOneFullCardOfEight(t *testing.T) {
	eight := func(full ...int) (list []record.GPU) {
		for i := range 8 {
			g := record.GPU{Index: i, UUID: some(fmt.Sprint("GPU-", i)), UtilizationRatio: some(0.0), MemoryTotalBytes: some(uint64(1000)), MemoryUsedBytes: some(uint64(10))}
			who, bytes := int32(8), uint64(10) // of the idle cards, one has more than is used of the full one
			if slices.Contains(full, i) {
				g.UtilizationRatio, g.MemoryUsedBytes = some(1.0), some(uint64(990))
				who, bytes = 9, 40
			}
			g.Processes = []record.GPUProcess{{PID: who, StartTicks: some(uint64(0)), MemoryBytes: some(bytes)}}
			list = append(list, g)
		}
		return list
	}
	w := newWorld(func(c *Config) { c.Prune.GPUMemoryPercent = 90 })
	user := record.ProcessFacts{PID: 9, PPID: some(int32(1)), GPUMemoryBytes: some(uint64(40)), GPUUtilizationRatio: some(1.0)}
	other := record.ProcessFacts{PID: 8, PPID: some(int32(1)), GPUMemoryBytes: some(uint64(70))}
	reading := func(full ...int) []string {
		return w.judge(facts{gpus: eight(full...), processes: []record.ProcessFacts{user, other}})
	}
	equal(t, "idle", reading())
	equal(t, "full", reading(5), "gpu gpu:GPU-5 normal>critical", "gpu_memory gpu:GPU-5 normal>critical")
	for range 8 {
		equal(t, "on", reading(5))
	}
	equal(t, "ten seconds", reading(5), "prune gpu gpu:GPU-5, gpu_memory gpu:GPU-5: 9")
}

// What was removed is forgotten once it was not met for longer than anything that is
// there.
func TestWhatIsGoneIsForgotten(t *testing.T) {
	there := facts{
		cgroups: []record.Cgroup{{Path: "/a", MemoryBytes: some(uint64(95)), MemoryLimitBytes: some(uint64(100)), CPUSecondsTotal: some(1.0), CPULimitCores: some(1.0)}},
		gpus:    []record.GPU{{UUID: some("x"), MemoryUsedBytes: some(uint64(95)), MemoryTotalBytes: some(uint64(100))}},
		host:    record.Host{Filesystems: []record.Filesystem{{Path: "/", TotalBytes: some(uint64(100)), FreeBytes: some(uint64(1)), AvailableBytes: some(uint64(1))}}},
	}
	w := newWorld()
	equal(t, "there", w.judge(there), "memory cgroup:/a normal>critical", "disk mount:/ normal>critical", "gpu_memory gpu:x normal>critical")
	for range 70 { // cgroups in which nothing moves are read once a minute
		equal(t, "not met", w.judge(facts{}))
	}
	equal(t, "there still", w.judge(there))
	var over []string
	for range 200 {
		for _, c := range w.changes(facts{}) {
			over = append(over, c.State.Message)
		}
	}
	equal(t, "gone", over, "Memory of cgroup:/a: use is over, it was removed", "Space on /: use is over, it is mounted no more",
		"Memory of gpu:x: use is over, it is gone")
	if len(w.engine.gauges) != 0 || len(w.engine.cgroupCPU) != 0 {
		t.Errorf("%d gauges, %d counters are kept", len(w.engine.gauges), len(w.engine.cgroupCPU))
	}
	equal(t, "made again", w.judge(there), "memory cgroup:/a normal>critical", "disk mount:/ normal>critical", "gpu_memory gpu:x normal>critical")
}

// A limit that is lifted leaves nothing that could be full.
func TestALimitThatIsLifted(t *testing.T) {
	w := newWorld(func(c *Config) {
		c.Prune.CgroupMemoryPercent, c.NetworkLimit, c.Prune.NetworkBytesPerSecond = 80, 100, 0
	})
	full := func(limit record.Opt[uint64]) facts {
		return facts{
			host:    record.Host{NetReceivedBytesPerSecond: some(99.0), NetSentBytesPerSecond: some(0.0)},
			cgroups: []record.Cgroup{{Path: "/a", MemoryBytes: some(uint64(95)), MemoryLimitBytes: limit, PIDs: some(uint64(99)), PIDsLimit: limit}},
		}
	}
	var got []string
	for range 12 {
		got = append(got, w.judge(full(some(uint64(100))))...)
	}
	equal(t, "full", got, "memory cgroup:/a normal>critical", "pids cgroup:/a normal>critical", "network host normal>critical", "prune memory cgroup:/a: ")
	c := w.engine.Config()
	c.NetworkLimit = 0
	w.engine.Configure(c)
	equal(t, "once", w.judge(full(record.Opt[uint64]{})))
	equal(t, "a limit that was not read", w.judge(full(some(uint64(100)))))
	var messages []string
	for range 12 {
		for _, c := range w.changes(full(record.Opt[uint64]{})) {
			if c.State == nil {
				messages = append(messages, words([]Change{c})...)
				continue
			}
			if messages = append(messages, c.State.Message); c.State.Limit.Known() || c.State.Ratio.Known() || !c.State.Value.Known() {
				t.Errorf("%+v", c.State)
			}
		}
	}
	const over = ": use is over, there is no limit any more"
	equal(t, "lifted", messages, "Network of the host"+over, "no prune", "Memory of cgroup:/a"+over, "Threads of cgroup:/a"+over)
	watched := map[string]bool{}
	w.engine.WatchedCgroups(watched)
	if watched["/a"] {
		t.Error("it is watched still")
	}
}

func TestWordsForProcessFDs(t *testing.T) {
	w := newWorld()
	p := holder(28712, 3277, 4096)
	p.FDHardLimit, p.FDSecondsToLimit = some(uint64(524288)), some(52.0)
	c := w.changes(facts{processes: []record.ProcessFacts{p}})[0].State
	if want := "High FD usage: 3277/4096 (80%) in nginx (pid 28712); at this rate the limit is reached in 52 s"; c.Message != want {
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
	p = holder(28712, 1, 4096)
	for range 10 {
		w.tick(p)
	}
	c = w.changes(facts{processes: []record.ProcessFacts{p}})[0].State
	if want := "FD usage of nginx (pid 28712) fell: 1/4096 (0%)"; c.Message != want || c.Advice != "" {
		t.Errorf("message %q, advice %q, want %q and none", c.Message, c.Advice, want)
	}
}

// What fills steadily says when it will be full, within the horizon; what stands
// still, or was hardly watched, says nothing.
func TestForetold(t *testing.T) {
	memory := func(used float64) facts {
		return facts{host: record.Host{MemoryUsedBytes: some(uint64(used)), MemoryTotalBytes: some(uint64(10000))}}
	}
	message := func(w *world, f facts) string {
		changes := w.changes(f)
		if len(changes) != 1 {
			t.Fatalf("%v", words(changes))
		}
		return changes[0].State.Message
	}
	w := newWorld()
	for i := range 20 {
		w.judge(memory(3000 + float64(i)*100))
	}
	for i := range 10 {
		w.judge(memory(5000 + float64(i)*100))
	}
	if got, want := message(w, memory(6000)), "Memory of the host: high use, 5.9 KiB of 9.8 KiB (60%); at this rate the limit is reached in 40 s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	w = newWorld(func(c *Config) { c.Horizon = 30 * time.Second })
	for i := range 30 {
		w.judge(memory(3000 + float64(i)*100))
	}
	if got := message(w, memory(6000)); strings.Contains(got, "rate") {
		t.Errorf("beyond the horizon: %q", got)
	}
	w = newWorld()
	for range 30 {
		w.judge(memory(3000))
	}
	w.lost = true
	w.judge(memory(3000))
	if got := message(w, memory(6000)); strings.Contains(got, "rate") {
		t.Errorf("after a second: %q", got)
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
		{FD, change(func(t *Threshold) { t.After = -1 }), "thresholds.fd.hold:"},
	} {
		c := Default()
		c.Thresholds = map[Resource]Threshold{tt.resource: tt.t}
		wants(t, c, tt.wrong)
	}
	wants(t, Default(), "")
	for wrong, f := range map[string]func(*Config){
		"prune: an observation period": func(c *Config) { c.Prune.ObservationPeriod = 0 },
		"prune: an observation":        func(c *Config) { c.Prune.CheckInterval = -1 },
		"prune: a target":              func(c *Config) { c.Prune.Target = 0 },
		"prune: a target utilization":  func(c *Config) { c.Prune.Target = 1.01 },
		"prune: a target utili":        func(c *Config) { c.Prune.Target = math.NaN() },
		"prune: a maximum of 101":      func(c *Config) { c.Prune.CPUPercent = 101 },
		"prune: a maximum of -1":       func(c *Config) { c.Prune.DiskPercent = -1 },
		"prune: a maximum of -2 bytes": func(c *Config) { c.Prune.MemoryBytes = -2 },
		"a limit of -1":                func(c *Config) { c.NetworkLimit = -1 },
	} {
		c := Default()
		f(&c)
		wants(t, c, wrong)
	}
	c := Default()
	c.Protected = []Selector{{Name: "["}}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), `"["`) {
		t.Errorf("%v", err)
	}
}

func wants(t *testing.T, c Config, wrong string) {
	t.Helper()
	err := c.Validate()
	switch {
	case wrong == "" && err != nil:
		t.Errorf("%v", err)
	case wrong != "" && (err == nil || !strings.HasPrefix(err.Error(), wrong) || !strings.Contains(err.Error(), "allowed")):
		t.Errorf("%v, want an error that begins with %s and says what is allowed", err, wrong)
	}
}

// crowd are n processes, of which hot are near their limits.
func crowd(n, hot int) []record.ProcessFacts {
	procs := make([]record.ProcessFacts, n)
	for i := range procs {
		open := uint64(10)
		if i < hot {
			open = 950
		}
		p := holder(int32(i+10), open, 1000)
		p.CPUCores, p.RSSAnonBytes, p.RSSBytes, p.Threads = some(0.01), some(uint64(i)<<20), some(uint64(i)<<20), some(uint64(3))
		p.DiskReadBytesPerSecond, p.DiskWrittenBytesPerSecond = some(10.0), some(10.0)
		p.NetReceivedBytesPerSecond, p.NetSentBytesPerSecond = some(10.0), some(10.0)
		procs[i] = p
	}
	return procs
}
