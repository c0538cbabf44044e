package record

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files; read the difference before committing it")

func head(seq uint64) Header {
	return Header{
		Time: time.Date(2026, 11, 23, 14, 0, 0, 500000000, time.FixedZone("CET", 3600)),
		Host: "web-1", BootID: "0b5f4d3c-6d0e-4b6e-9a53-3f1d2c1b0a99", Seq: seq, Schema: Schema,
	}
}

// golden has one record of each kind, hostile names included.
func golden() []Record {
	started := time.Date(2026, 11, 23, 12, 59, 0, 1, time.UTC)
	process := *typical()
	process.Header = head(2)
	process.Comm, process.Cmdline = "foo) Z\n", &[]string{"foo) Z\n", Text([]byte("--name=\xff<&>")), "\x1b[2J\u009b1m\u2028"}
	return []Record{
		&Config{Header: head(1), Hash: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", Values: map[string]any{"interval": "1s", "hooks": []string{"exit"}, "jsonl": "/tmp/<a&b>\u009b"}, AgentPID: Some[int32](4242)},
		&process,
		&Exit{Header: head(3), ProcessFacts: ProcessFacts{
			PID: 4711, StartTicks: 99, PPID: Some[int32](1), StartTime: Some(started), Comm: "true", Source: SourceEBPF,
			CPUSecondsTotal: Some(0.000412345), RSSPeakBytes: Some[uint64](1 << 20),
		}, ExitTime: Some(started.Add(time.Second)), ExitSignal: Some[int32](9), CoreDumped: Some(false), CPUFinal: true},
		&Host{Header: head(4), MonotonicSeconds: Some(3600.000001), CPURatio: Some(0.25), CPUCount: Some[uint64](2), Load1: Some(1.5),
			MemoryTotalBytes: Some[uint64](8 << 30), MemoryAvailableBytes: Some[uint64](6 << 30), MemoryUsedBytes: Some[uint64](2 << 30),
			Pressure: Pressure{PressureCPUSomeRatio: Some(0.0), PressureIOFullRatio: Some(0.0312)},
			Filesystems: []Filesystem{
				{Path: "/", TotalBytes: Some[uint64](1 << 40), FreeBytes: Some[uint64](1<<39 + 1<<35), AvailableBytes: Some[uint64](1 << 39), InodesTotal: Some[uint64](1 << 26), InodesAvailable: Some[uint64](1 << 25)},
				{Path: "/mnt/hung nfs"},
			}, Gone: []string{"pid:4711@99"}, NoLongerChosen: []string{"pid:4713@99"}},
		&Cgroup{Header: head(5), Path: "/system.slice/ssh.service", Unit: Some("ssh.service"), MemoryBytes: Some[uint64](4096), PIDs: Some[uint64](3),
			CPUSecondsTotal: Some(12.5), CPULimitCores: Some(0.5), OOMKillsTotal: Some[uint64](0), FDOpen: Some[uint64](42)},
		&GPU{Header: head(9), Index: 3, UUID: Some("GPU-5a1f0c52-8f6e-4f3c-9a63-6f1c3b1f0e11"), Name: Some("NVIDIA A100-SXM4-40GB"), UtilizationRatio: Some(0.97),
			MemoryTotalBytes: Some[uint64](40 << 30), MemoryUsedBytes: Some[uint64](38 << 30), TemperatureCelsius: Some(71.0), PowerWatts: Some(312.4), EncoderRatio: Some(0.0), AgeSeconds: Some(1.0),
			MIGInstances: []GPUInstance{{UUID: Some("MIG-0b5f4d3c-6d0e-4b6e-9a53-3f1d2c1b0a99"), GPUInstanceID: Some[uint64](1), ComputeInstanceID: Some[uint64](0), MemoryTotalBytes: Some[uint64](5 << 30)}, {}},
			Processes:    []GPUProcess{{PID: 4711, StartTicks: Some[uint64](99), Comm: Some("train\n"), MemoryBytes: Some[uint64](36 << 30), UtilizationRatio: Some(0.95), GPUInstanceID: Some[uint64](1)}, {PID: 4713}}},
		&StateChange{Header: head(6), Resource: "fd", Target: "pid:4711@99", State: StateWarning, Previous: StateNormal,
			Value: Some(900.0), Limit: Some(1024.0), Ratio: Some(0.87890625), Unit: "files",
			Message: `process 4711 ("true") has 900 of 1024 files open`, Advice: "raise RLIMIT_NOFILE or close files"},
		&Prune{Header: head(10), ShouldPrune: true, Reasons: []PruneReason{
			{Resource: "memory", Target: "host", Value: Some(9e9), Max: Some(8589934592.0), Unit: "bytes", AverageRatio: Some(1.012345), TargetRatio: Some(0.9)}, {}},
			Candidates: []PruneCandidate{{PID: 4711, StartTicks: 99, Comm: "java\n", Cgroup: Some("/user.slice"), Resource: "memory", Value: Some(3e9), Why: "3.0 GiB, 36% of what is used"}, {}}},
		&OOM{Header: head(7), PID: 4711, StartTicks: 99, Comm: "java", UID: Some[uint32](1000), Cgroup: Some("/user.slice"),
			RSSBytes: Some[uint64](3 << 30), RSSAnonBytes: Some[uint64](3 << 30), OOMScoreAdj: Some[int32](-500)},
		&Leak{Header: head(9), PID: 4711, StartTicks: 99, Comm: "api\n", Verdict: VerdictLeaking, Rule: Some("never_closed"), FDOpen: Some[uint64](612), FDLimit: Some[uint64](1024),
			GrowthPerSecond: Some(10.0), SecondsToLimit: Some(41.2), ConfidenceRatio: Some(0.98), Sites: []Site{
				{Held: 598, OpenedTotal: Some[uint64](598), ClosedTotal: Some[uint64](0), FailedTotal: Some[uint64](0), Type: "tcp4", Target: Some("10.0.0.5:443"), OldestSeconds: Some(59.8), Thread: Some("worker\x1b"), Stack: []Frame{
					{Function: Some("socket"), Module: Some("/usr/lib/libc.so.6"), Offset: Some[uint64](1130903), BuildID: Some("c047672cae7964324658491e7dee26748ae5d2f8")},
					{Function: Some("dial<&>"), File: Some("/src/net.c"), Line: Some[uint64](57), Module: Some("/usr/bin/api"), Offset: Some[uint64](4502), Inlined: true, Guess: Some("frame_pointer")},
					{Function: Some("Main.run"), File: Some("Main.java"), Line: Some[uint64](12), Language: Some("java")},
				}, StackEnd: Some("no_unwind_table")},
				{Held: 3, Type: "pipe", Stack: []Frame{}},
			}, Unattributed: map[string]uint64{"untraced_call": 2, "before_tracing": 11}},
		goldenJob(started),
		&Limit{Header: head(11), Job: "7", PID: 4711, StartTicks: 99, Category: Some("render"), Enforced: true, Message: "memory: 302 MB > 200 MB after 0.412 s",
			JobLimit: JobLimit{Resource: "memory", Value: 317194240, Limit: 209715200, Unit: "bytes", Seconds: 0.4123}},
		&JobReading{Header: head(12), Job: "pid:4711@99", UID: Some[uint32](1000), Category: Some("render\n"), ElapsedSeconds: Some(12.5), Processes: Some[uint64](3),
			CPUSecondsTotal: Some(7.25), CPUCores: Some(0.5), MemoryBytes: Some[uint64](1 << 30), MemoryAtLeast: true, FDOpen: Some[uint64](12),
			Limits: []JobAllowance{{Resource: "memory", Limit: 2 << 30, Unit: "bytes"}}, Members: []JobMember{{PID: 4711, StartTicks: 99}, {PID: 4712, StartTicks: 100}}},
		&Action{Header: head(11), Action: "tell-ops", Type: "webhook", Cause: "state", Resource: Some("fd"), Target: Some("pid:4711@99"), Crossing: Some[uint64](7),
			PID: Some[int32](4711), StartTicks: Some[uint64](99), Comm: Some("api\x1b"), Why: "High FD usage: 900/1024 (88%)", What: "POST https://ops.example.org",
			Attempt: 2, Outcome: OutcomeFailed, Detail: "503 Service Unavailable", DurationSeconds: 0.25},
		&Agent{Header: head(8), Version: "v0.1.0", Source: SourceEBPF, CPUSecondsTotal: Some(0.75), CPUCores: Some(0.0125), RSSBytes: Some[uint64](25 << 20),
			IntervalSeconds: 1, EventsSeen: Some[uint64](10), EventsDelivered: Some[uint64](7), EventsLost: map[string]uint64{"ring_full": 2}, EventsPending: Some[uint64](1), Uncounted: map[string]uint64{"net_bytes": 1500},
			RecordsWritten: 7, RecordsLost: map[string]uint64{"queue_full": 3, "disk_full": 1}, ScanSeconds: Some(1.25e-7)},
	}
}

// goldenJob is a job that broke a limit.
func goldenJob(started time.Time) *Job {
	return &Job{Header: head(10), Job: "7",
		JobFacts: JobFacts{PID: 4711, StartTicks: 99, Category: Some("render\n"), Command: Some("render \u009b"), MeasuredBy: "ebpf", StartTime: Some(started),
			EndTime: Some(started.Add(time.Second)), ExitType: "limits", ExitStatus: Some[int32](143), Signal: Some[int32](15), OOMKills: Some[uint64](0)},
		JobUse: JobUse{WallTimeSeconds: Some(1.0), CPUTimeSeconds: Some(0.25), MemoryBytes: Some[uint64](317194240), Cores: Some(0.25), CoresAvg: Some(0.25),
			TotalProcesses: Some[uint64](501), MaxConcurrentProcesses: Some[uint64](2), OpenFiles: Some[uint64](300)},
		Measured: []JobValue{{Resource: "memory", Exactness: "sampled", Why: Some("ten readings a second"), PeakSeconds: Some(0.4123)}, {Resource: "gpus", Exactness: "unknown"}},
		Limits:   []JobLimit{{Resource: "memory", Value: 317194240, Limit: 209715200, Unit: "bytes", Seconds: 0.4123}},
	}
}

func TestGolden(t *testing.T) {
	for _, r := range golden() {
		kind, err := KindOf(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(string(kind), func(t *testing.T) {
			got, err := Append(nil, r)
			if err != nil {
				t.Fatal(err)
			}
			checkLine(t, got)
			path := filepath.Join("testdata", string(kind)+".json")
			if *update {
				writeGolden(t, path, got)
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func writeGolden(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestGoldenDecodes reads the golden files back, as a reader of the records does.
func TestGoldenDecodes(t *testing.T) {
	for _, want := range golden() {
		kind, _ := KindOf(want)
		line, err := os.ReadFile(filepath.Join("testdata", string(kind)+".json"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		want.Head().Kind = kind
		// Through encoding/json, because a time's zone and the Go type of a
		// configuration value do not survive, and need not.
		want.Head().Time = want.Head().Time.UTC()
		w, _ := json.Marshal(want)
		g, _ := json.Marshal(got)
		if diff := cmp.Diff(string(w), string(g)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
	}
}
