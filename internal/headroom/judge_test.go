package headroom

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
	"rmagent/record"
)

func n(v uint64) sample.Opt[uint64] { return record.Some(v) }

func limitAt(v uint64) sample.Limit { return sample.Limit{Value: n(v)} }

// example is a process of which everything is known.
func example() *Facts {
	f := &Facts{
		At: 10 * time.Second, ID: sample.ID{PID: 911, StartTicks: 7}, Comm: "server", HasMemory: true,
		RealUID: record.Some[uint32](1000), EffectiveUID: record.Some[uint32](1000), Capabilities: n(0),
		Cgroup: "/system.slice/server.service",
		FDOpen: n(100), FDBelowSoft: n(100), FDBelowHard: n(100),
		VirtualBytes: n(1 << 30), DataBytes: n(512 << 20), StackBytes: n(1 << 20), LockedBytes: n(0),
		AnonBytes: n(100 << 20), SwapBytes: n(0), CPUNanos: n(5e9), Mappings: n(50), Signals: n(3),
		User:     UserFacts{Read: true, Tasks: n(40), InotifyWatches: n(1), InotifyInstances: n(1)},
		LowTasks: n(100),
		Machine: sample.Machine{
			MemoryTotalBytes: n(8 << 30), MemoryAvailableBytes: n(4 << 30), SwapTotalBytes: n(0), SwapFreeBytes: n(0),
			OvercommitMode: n(0), CommitLimitBytes: n(4 << 30), CommittedBytes: n(2 << 30),
			AdminReserveBytes: n(8 << 20), UserReserveBytes: n(128 << 20),
			FilesOpen: n(1000), FilesLimit: n(100000), NROpen: n(1 << 20), Tasks: n(300), LastPID: n(5000), PIDMax: n(32768),
			ThreadsMax: n(60000), MaxMapCount: n(65530), InotifyWatches: n(8192), InotifyInstances: n(128), CPUs: n(4),
		},
		Cgroups: sample.CgroupChain{Memory: []sample.MemoryLevel{{
			CgroupLevel: sample.CgroupLevel{Path: "/system.slice/server.service", Dir: "/sys/fs/cgroup/system.slice/server.service", Version: 2},
			Max:         limitAt(1 << 30), High: limitAt(sample.Unlimited), SwapMax: limitAt(sample.Unlimited),
			UsageBytes: n(300 << 20), ReclaimableBytes: n(100 << 20), SwapBytes: n(0),
		}}},
	}
	for i := range f.Rlimits {
		f.Rlimits[i] = Rlimit{sample.Unlimited, sample.Unlimited, true}
	}
	f.Rlimits[nofile] = Rlimit{1024, 4096, true}
	return f
}

func TestFirstInSpaceAndTime(t *testing.T) {
	before, now := example(), example()
	now.At += 2 * time.Second
	h := Evaluate(nil, now)
	if h.FirstInSpace.Name != "MemAvailable" || h.FirstInTime != nil { // half of it is gone
		t.Errorf("%+v, %+v", h.FirstInSpace, h.FirstInTime)
	}
	for _, l := range h.Limits {
		if l.RatePerSecond.Known() || l.SecondsToLimit.Known() {
			t.Errorf("a rate after one reading: %+v", l)
		}
	}
	before.FDOpen, before.FDBelowSoft = n(80), n(80) // 10 a second, 924 left
	before.Cgroups.Memory[0].UsageBytes = n(298 << 20)
	h = Evaluate(before, now)
	l := h.FirstInTime
	if l == nil || l.Name != "RLIMIT_NOFILE" || l.RatePerSecond.Or(0) != 10 || l.SecondsToLimit.Or(0) != 92.4 {
		t.Errorf("%+v", l)
	}
	other := example()
	other.ID.StartTicks++
	other.FDOpen = n(1)
	if l := find(t, Evaluate(other, now), "RLIMIT_NOFILE", "process"); l.RatePerSecond.Known() {
		t.Error("a rate between two processes of one PID")
	}
	shrinking := example()
	shrinking.FDOpen = n(200)
	if l := find(t, Evaluate(shrinking, now), "RLIMIT_NOFILE", "process"); l.RatePerSecond.Or(0) != -50 || l.SecondsToLimit.Known() {
		t.Errorf("%+v", l)
	}
}

func TestUnknownIsNeverFirst(t *testing.T) {
	f := example()
	f.FDOpen, f.FDBelowSoft, f.FDBelowHard, f.Denied = sample.Opt[uint64]{}, sample.Opt[uint64]{}, sample.Opt[uint64]{}, "not yours"
	f.Cgroups.Memory[0].ReclaimableBytes = sample.Opt[uint64]{}
	f.Machine.MemoryAvailableBytes = sample.Opt[uint64]{}
	f.Filesystems = []Filesystem{{FilesystemUse: hostfs.FilesystemUse{Filesystem: record.Filesystem{Path: "/net"}}, Why: "the filesystem does not answer"}}
	f.Cgroups.Hidden = []sample.HiddenCgroups{{Controller: "memory", Path: "/", Why: "hidden", MemoryMax: limitAt(123)}}
	h := Evaluate(nil, f)
	for _, c := range []struct{ name, scope, why string }{
		{"RLIMIT_NOFILE", "process", "not yours"},
		{"memory.max", "cgroup /system.slice/server.service", "the kernel does not say"},
		{"MemAvailable", "machine", "this kernel has no MemAvailable"},
		{"disk_bytes", "mount /net", "the filesystem does not answer"},
		{"memory.max", "above cgroup /", "hidden"},
	} {
		l := find(t, h, c.name, c.scope)
		if l.Known || l.Why != c.why || l.UsedRatio.Known() || l.Available.Known() {
			t.Errorf("%+v", l)
		}
	}
	if l := find(t, h, "memory.max", "above cgroup /"); l.Limit.Or(0) != 123 {
		t.Errorf("the kernel's word of a limit above is lost: %+v", l)
	}
	if h.FirstInSpace == nil || !h.FirstInSpace.Known {
		t.Errorf("%+v", h.FirstInSpace)
	}
}

func TestExemptions(t *testing.T) {
	f := example()
	f.Rlimits[nproc] = Rlimit{10, 10, true}
	f.Rlimits[memlock] = Rlimit{10, 10, true}
	h := Evaluate(nil, f)
	if l := h.FirstInSpace; l.Name != "RLIMIT_NPROC" || l.UsedRatio.Or(0) != 1 {
		t.Errorf("%+v", l)
	}
	f.Capabilities = n(1<<capSysResource | 1<<capIPCLock | 1<<capSysAdmin)
	h = Evaluate(nil, f)
	for name, scope := range map[string]string{"RLIMIT_NPROC": "uid 1000", "RLIMIT_MEMLOCK": "process", "fs.file-max": "machine"} {
		if l := find(t, h, name, scope); l.Limit.Known() || !l.Known || !strings.HasPrefix(l.Consequence, "none: ") || l.Raise != "" {
			t.Errorf("%+v", l)
		}
	}
	for _, l := range Machine(nil, &Facts{Machine: f.Machine}) {
		if l.Name == "fs.file-max" && !l.Limit.Known() {
			t.Error("nobody is exempt where it is about all")
		}
	}
}

func TestLimitOfZero(t *testing.T) {
	f := example()
	f.Rlimits[memlock] = Rlimit{0, 0, true}
	if l := find(t, Evaluate(nil, f), "RLIMIT_MEMLOCK", "process"); l.UsedRatio.Known() || !l.Known || l.Limit.Or(1) != 0 {
		t.Errorf("nothing is allowed, nothing is used: %+v", l)
	}
	f.LockedBytes = n(4096)
	if l := find(t, Evaluate(nil, f), "RLIMIT_MEMLOCK", "process"); l.UsedRatio.Or(0) != 1 {
		t.Errorf("%+v", l)
	}
}

func TestStrictOvercommit(t *testing.T) {
	f := example()
	f.Machine.OvercommitMode = n(2)
	l := find(t, Evaluate(nil, f), "CommitLimit", "machine")
	// admin_reserve and, as it is less than user_reserve, a 32nd of its own memory.
	if want := float64(2<<30 - 8<<20 - 32<<20); l.Available.Or(0) != want {
		t.Errorf("available %v, not %v", l.Available, want)
	}
	f.Machine.OvercommitMode = n(1)
	for _, l := range Evaluate(nil, f).Limits {
		if l.Name == "CommitLimit" {
			t.Error("it is no limit then")
		}
	}
}

func TestOvercommitRisk(t *testing.T) {
	f := example()
	o := Evaluate(nil, f).Overcommit
	if o == nil || o.UntouchedBytes != 413<<20 || o.AvailableBytes.Or(0) != 824<<20 || o.Risk != "" || o.Mode != "heuristic" {
		t.Errorf("%+v", o)
	}
	f.DataBytes = n(2 << 30)
	o = Evaluate(nil, f).Overcommit
	if !strings.Contains(o.Risk, "memory.max") || !strings.Contains(o.Risk, "OOM kill") {
		t.Errorf("%+v", o)
	}
}

func TestSwapComesBeforeTheKill(t *testing.T) {
	f := example()
	f.Machine.SwapFreeBytes = n(1 << 30)
	f.Cgroups.Memory[0].SwapMax, f.Cgroups.Memory[0].SwapBytes = limitAt(256<<20), n(56<<20)
	h := Evaluate(nil, f)
	l := find(t, h, "memory.max", "cgroup /system.slice/server.service")
	if !strings.HasPrefix(l.Consequence, "swaps out, up to 200 MiB more; then OOM kill") {
		t.Errorf("%q", l.Consequence)
	}
	if l := find(t, h, "memory.swap.max", l.Scope); l.Available.Or(0) != 200<<20 {
		t.Errorf("%+v", l)
	}
	f.Cgroups.Memory[0].OOMGroup = true
	if l := find(t, Evaluate(nil, f), l.Name, l.Scope); !strings.Contains(l.Consequence, "every process") {
		t.Errorf("%q", l.Consequence)
	}
}

func TestCPU(t *testing.T) {
	facts := func(at time.Duration, cpu uint64) *Facts {
		f := example()
		f.At, f.CPUNanos = at, n(cpu)
		level := sample.CgroupLevel{Path: "/a", Version: 2}
		f.Cgroups.CPU = []sample.CPULevel{
			{CgroupLevel: level, LimitCores: record.Some(2.0), CPUNanos: n(cpu)},
			{CgroupLevel: sample.CgroupLevel{Path: "/"}, LimitCores: record.Some(math.Inf(1)), CPUNanos: n(cpu)},
		}
		f.Cgroups.CPUSet = []sample.CPUSetLevel{
			{CgroupLevel: sample.CgroupLevel{Path: "/a/b"}, CPUs: n(3)}, {CgroupLevel: level, CPUs: n(3)},
			{CgroupLevel: sample.CgroupLevel{Path: "/"}, CPUs: n(4)},
		}
		return f
	}
	now := facts(12*time.Second, 8e9)
	if l := find(t, Evaluate(nil, now), "cpu.max", "cgroup /a"); l.Known || l.Used.Known() || l.Why == "" {
		t.Errorf("after one reading: %+v", l)
	}
	h := Evaluate(facts(10*time.Second, 5e9), now)
	if l := find(t, h, "cpu.max", "cgroup /a"); l.Used.Or(0) != 1.5 || l.UsedRatio.Or(0) != 0.75 || !l.Known || l.Why != "" || l.RatePerSecond.Known() {
		t.Errorf("%+v", l)
	}
	if l := find(t, h, "cpu.max", "cgroup /"); l.Limit.Known() || !l.Known {
		t.Errorf("no quota: %+v", l)
	}
	if l := find(t, h, "cpuset.cpus", "cgroup /a"); l.Limit.Or(0) != 3 { // the topmost that is so narrow
		t.Errorf("%+v", l)
	}
}

// TestRaise says how to raise a limit where the process runs.
func TestRaise(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	level := func(path string, version int) *sample.CgroupLevel {
		return &sample.CgroupLevel{Path: path, Dir: "/sys/fs/cgroup" + path, Version: version}
	}
	pod := "/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope"
	for _, c := range []struct {
		cgroup, name string
		version      int
		want         string
	}{
		{"/system.slice/a b.service", "memory.max", 2, `systemctl set-property 'a b.service' MemoryMax=200`},
		{"/user.slice", "pids.max", 2, "systemctl set-property user.slice TasksMax=200"},
		{"/docker/" + id, "memory.max", 1, "docker update --memory=200 0123456789ab"},
		{"/system.slice/docker-" + id + ".scope", "pids.max", 2, "docker update --pids-limit=200 0123456789ab"},
		{"/machine.slice/libpod-" + id + ".scope", "memory.max", 2, "podman update --memory=200 0123456789ab"},
		{pod, "memory.max", 2, "resources.limits.memory in the pod's spec"},
		{"/jobs/it's", "memory.max", 2, `echo 200 > '/sys/fs/cgroup/jobs/it'\''s/memory.max'`},
		{"/jobs", "memory.max", 1, "echo 200 > /sys/fs/cgroup/jobs/memory.limit_in_bytes"},
	} {
		if got := raiseCgroup(&Facts{}, c.name, level(c.cgroup, c.version), 100); got != c.want {
			t.Errorf("%s of %s: %s", c.name, c.cgroup, got)
		}
	}
	for _, c := range []struct {
		cgroup string
		hard   uint64
		want   string
	}{
		{"/system.slice/a.service", 4096, "prlimit --pid 911 --nofile=4096:; to keep: LimitNOFILE=2048 by systemctl edit a.service, then restart it"},
		{"/user.slice/session-1.scope", 1024, "to keep: ulimit -n 2048 in the shell that starts it, or /etc/security/limits.conf"},
		{"/docker/" + id, 1024, "to keep: docker run --ulimit nofile=2048 (a new container for 0123456789ab)"},
		{pod, 1024, "to keep: LimitNOFILE= of the node's containerd.service or crio.service (pods inherit it)"},
	} {
		f := example()
		f.Cgroup, f.Rlimits[nofile] = c.cgroup, Rlimit{1024, c.hard, true}
		if got := raiseRlimit(f, nofile); got != c.want {
			t.Errorf("%s: %s", c.cgroup, got)
		}
	}
	if got := sysctl("fs.file-max", 1<<63-1); got != "" {
		t.Errorf("beyond all bounds: %s", got)
	}
}

// TestJSON holds the names that others rely on, and what is unknown is null.
func TestJSON(t *testing.T) {
	f := example()
	f.Comm = "a\u009b31m\x7f"
	b, err := json.Marshal(Evaluate(nil, f))
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(string(b), "\u009b\x7f") {
		t.Error("a control character comes through")
	}
	var h map[string]any
	if err := json.Unmarshal(b, &h); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pid", "start_time", "comm", "first_in_space", "first_in_time", "limits"} {
		if _, ok := h[name]; !ok {
			t.Errorf("no %s", name)
		}
	}
	if h["first_in_time"] != nil {
		t.Error("first_in_time is not null")
	}
	row := h["limits"].([]any)[0].(map[string]any)
	for _, name := range []string{"resource", "name", "scope", "used", "limit", "available", "used_ratio", "rate_per_second",
		"seconds_to_limit", "consequence", "raise", "known"} {
		if _, ok := row[name]; !ok {
			t.Errorf("no %s in a row", name)
		}
	}
	if row["rate_per_second"] != nil {
		t.Error("an unknown rate is not null")
	}
	var back record.Headroom
	if err := json.Unmarshal(b, &back); err != nil || back.FirstInSpace.Name != "MemAvailable" || back.Comm != f.Comm {
		t.Errorf("read back: %+v, %v", back.FirstInSpace, err)
	}
}
