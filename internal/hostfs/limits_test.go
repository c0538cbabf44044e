package hostfs

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// tree writes files below a root that stands for /.
func tree(t *testing.T, files map[string]string) Options {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Options{Root: root}
}

func openLimits(t *testing.T, o Options) *LimitReader {
	t.Helper()
	r, err := OpenLimits(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

const (
	v2Mounts = "30 22 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	v1Mounts = "31 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"32 30 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
		"33 30 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n" +
		"34 30 0:31 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
)

func TestChainOfVersion2(t *testing.T) {
	files := map[string]string{"proc/self/mountinfo": v2Mounts}
	for path, limits := range map[string][3]string{"/a": {"1000", "max", "500 1000"}, "/a/b": {"max", "900", "max 1000"}, "/a/b/c": {"2000", "max", "max 1000"}} {
		dir := "sys/fs/cgroup" + path + "/"
		files[dir+"cgroup.procs"] = ""
		files[dir+"memory.max"], files[dir+"memory.high"], files[dir+"cpu.max"] = limits[0]+"\n", limits[1]+"\n", limits[2]+"\n"
		files[dir+"memory.current"] = "700\n"
		files[dir+"memory.stat"] = "anon 1\nfile 2\ninactive_file 30\nactive_file 4\nslab_reclaimable 5\n"
		files[dir+"cpu.stat"] = "usage_usec 7\nthrottled_usec 8\n"
		files[dir+"cpuset.cpus.effective"] = "0-3,8\n"
	}
	files["sys/fs/cgroup/a/b/pids.max"], files["sys/fs/cgroup/a/b/pids.current"] = "5\n", "3\n" // not enabled in the others
	files["sys/fs/cgroup/cgroup.procs"] = ""
	c := openLimits(t, tree(t, files)).Chain([]byte("0::/a/b/c\n"))
	if len(c.Memory) != 3 || len(c.PIDs) != 1 || len(c.CPU) != 3 || len(c.CPUSet) != 3 || len(c.Hidden) != 0 {
		t.Fatalf("%+v", c)
	}
	inner, outer := c.Memory[0], c.Memory[2]
	if inner.Path != "/a/b/c" || outer.Path != "/a" || outer.Dir != "/sys/fs/cgroup/a" || outer.Max.Get() != some[uint64](1000) ||
		c.Memory[1].High.Get() != some[uint64](900) || outer.High.Get().Known() || outer.ReclaimableBytes != some[uint64](39) || outer.UsageBytes != some[uint64](700) {
		t.Errorf("%+v", c.Memory)
	}
	if p := c.PIDs[0]; p.Path != "/a/b" || p.Tasks != some[uint64](3) || p.Max.Get() != some[uint64](5) {
		t.Errorf("%+v", p)
	}
	if c.CPU[2].LimitCores != some(0.5) || c.CPU[0].LimitCores != some(math.Inf(1)) || c.CPU[2].CPUNanos != some[uint64](7000) || c.CPU[2].ThrottledNanos != some[uint64](8000) {
		t.Errorf("%+v", c.CPU)
	}
	if c.CPUSet[0].CPUs != some[uint64](5) {
		t.Errorf("%+v", c.CPUSet)
	}
}

// TestChainOfVersion1 has a path of its own for each controller, a cgroup that
// counts nothing below it, absurd values for none, and swap.
func TestChainOfVersion1(t *testing.T) {
	none := "9223372036854771712\n"
	c := openLimits(t, tree(t, map[string]string{
		"proc/self/mountinfo":                                    v1Mounts,
		"sys/fs/cgroup/memory/top/cgroup.procs":                  "",
		"sys/fs/cgroup/memory/top/memory.limit_in_bytes":         "10\n",
		"sys/fs/cgroup/memory/top/memory.use_hierarchy":          "0\n",
		"sys/fs/cgroup/memory/top/m/cgroup.procs":                "",
		"sys/fs/cgroup/memory/top/m/memory.limit_in_bytes":       none,
		"sys/fs/cgroup/memory/top/m/memory.usage_in_bytes":       "800\n",
		"sys/fs/cgroup/memory/top/m/memory.stat":                 "inactive_file 9\ntotal_inactive_file 50\ntotal_active_file 50\n",
		"sys/fs/cgroup/memory/top/m/memory.oom_control":          "oom_kill_disable 1\nunder_oom 0\n",
		"sys/fs/cgroup/memory/top/m/memory.memsw.limit_in_bytes": "2000\n",
		"sys/fs/cgroup/memory/top/m/memory.memsw.usage_in_bytes": "900\n",
		"sys/fs/cgroup/cpu/c/cgroup.procs":                       "",
		"sys/fs/cgroup/cpu/c/cpu.cfs_quota_us":                   "-1\n",
		"sys/fs/cgroup/cpu/c/cpu.cfs_period_us":                  "100000\n",
		"sys/fs/cgroup/cpuacct/c/cpuacct.usage":                  "5\n",
		"sys/fs/cgroup/pids/p/cgroup.procs":                      "",
		"sys/fs/cgroup/pids/p/pids.max":                          "max\n",
		"sys/fs/cgroup/pids/p/pids.current":                      "4\n",
	})).Chain([]byte("4:memory:/top/m\n3:cpuacct:/elsewhere\n2:cpu:/c\n1:pids:/p\n0::/x\n"))
	if len(c.Memory) != 1 {
		t.Fatalf("%+v", c.Memory)
	}
	m := c.Memory[0]
	if m.Max.Get().Known() || !m.Max.Value.Known() || m.ReclaimableBytes != some[uint64](100) || !m.OOMOff ||
		m.SwapMax.Get() != some[uint64](2000) || m.SwapBytes != some[uint64](900) || m.High.Value.Known() {
		t.Errorf("%+v", m)
	}
	if len(c.CPU) != 1 || c.CPU[0].LimitCores != some(math.Inf(1)) || c.CPU[0].CPUNanos.Known() { // its CPU time is elsewhere
		t.Errorf("%+v", c.CPU)
	}
	if len(c.PIDs) != 1 || c.PIDs[0].Max.Get().Known() || c.PIDs[0].Tasks != some[uint64](4) {
		t.Errorf("%+v", c.PIDs)
	}
}

// TestHiddenCgroups: what can't be seen is told of, with why.
func TestHiddenCgroups(t *testing.T) {
	part := "31 30 0:28 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
	for name, c := range map[string]struct {
		files  map[string]string
		cgroup string
		path   string
		why    string
		max    sample.Limit
	}{
		"not mounted": {map[string]string{"proc/self/mountinfo": ""}, "4:memory:/a\n", "/a", "not mounted", sample.Limit{}},
		"removed":     {map[string]string{"proc/self/mountinfo": v1Mounts, "sys/fs/cgroup/memory/x": ""}, "4:memory:/a\n", "/a", "removed", sample.Limit{}},
		"elsewhere": {map[string]string{"proc/self/mountinfo": part, "sys/fs/cgroup/memory/x": ""}, "4:memory:/other\n", "/other",
			"outside", sample.Limit{}},
		"namespace": {map[string]string{"proc/self/mountinfo": v1Mounts, "sys/fs/cgroup/memory/x": ""}, "4:memory:/../a\n", "/../a",
			"outside", sample.Limit{}},
		"part": {map[string]string{"proc/self/mountinfo": part, "sys/fs/cgroup/memory/cgroup.procs": "",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n",
			"sys/fs/cgroup/memory/memory.stat":           "hierarchical_memory_limit 4000\n"}, "4:memory:/docker/x\n", "/docker/x",
			"can't be seen", sample.Limit{Value: some[uint64](4000)}},
	} {
		t.Run(name, func(t *testing.T) {
			chain := openLimits(t, tree(t, c.files)).Chain([]byte(c.cgroup))
			if len(chain.Hidden) != 1 {
				t.Fatalf("%+v", chain)
			}
			h := chain.Hidden[0]
			if h.Controller != "memory" || h.Path != c.path || !strings.Contains(h.Why, c.why) || h.MemoryMax != c.max {
				t.Errorf("%+v", h)
			}
		})
	}
	if c := openLimits(t, tree(t, map[string]string{"proc/self/mountinfo": ""})).Chain(nil); len(c.Hidden) != 0 {
		t.Errorf("a host without cgroups: %+v", c)
	}
}

// TestChainIsReadOnce until Refresh.
func TestChainIsReadOnce(t *testing.T) {
	o := tree(t, map[string]string{
		"proc/self/mountinfo": v2Mounts, "sys/fs/cgroup/a/cgroup.procs": "", "sys/fs/cgroup/a/pids.max": "5\n", "sys/fs/cgroup/a/pids.current": "1\n",
	})
	r := openLimits(t, o)
	tasks := func() sample.Opt[uint64] { return r.ChainAt("/a").PIDs[0].Tasks }
	first := tasks()
	if err := os.WriteFile(o.Root+"/sys/fs/cgroup/a/pids.current", []byte("2\n"), 0); err != nil {
		t.Fatal(err)
	}
	if second := tasks(); first != some[uint64](1) || second != first {
		t.Errorf("%v, then %v", first, second)
	}
	r.Refresh()
	if third := tasks(); third != some[uint64](2) {
		t.Errorf("after Refresh %v", third)
	}
	if c := r.ChainAt("/none"); len(c.Hidden) == 0 {
		t.Errorf("%+v", c)
	}
}

// TestAskerOfHungFilesystem asks a FUSE filesystem that nobody serves, and a good
// one beside it.
func TestAskerOfHungFilesystem(t *testing.T) {
	point, fuse, ok := mountHung(t)
	if !ok {
		return
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var questions []Question
	for _, m := range Mounts(b) {
		if m.Point == point || m.Point == "/" {
			if m.MayHang != (m.Point == point) || m.Pseudo {
				t.Errorf("%+v", m)
			}
			questions = append(questions, Question{m, m.Point})
		}
	}
	var a FilesystemAsker
	for range 3 {
		began := time.Now()
		answers := a.Ask(questions)
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		if len(answers) != 2 {
			t.Fatalf("%+v", answers)
		}
		for _, u := range answers {
			if u.Answered != (u.Path == "/") || u.FreeBytes.Known() != (u.Answered && u.TotalBytes.Known()) {
				t.Errorf("%+v", u)
			}
		}
	}
	unix.Close(fuse) // whoever waits gets ENOTCONN
	if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
}

func TestCountList(t *testing.T) {
	for text, want := range map[string]uint64{"0\n": 1, "0-3\n": 4, "0-3,8,10-11\n": 7} {
		if got := countList([]byte(text)); got != some(want) {
			t.Errorf("%q: %v", text, got)
		}
	}
	for _, text := range []string{"", "\n", "3-1", "-", "a", "0,", "0-99999999999"} {
		if got := countList([]byte(text)); got.Known() {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestReadMachine(t *testing.T) {
	var buf []byte
	m := ReadMachine(tree(t, map[string]string{
		"proc/meminfo":                         "MemTotal: 8 kB\nMemAvailable: 4 kB\nSwapFree: 1 kB\nCommitLimit: 5 kB\nCommitted_AS: 3 kB\n",
		"proc/loadavg":                         "0.00 0.00 0.00 1/77 4711\n",
		"proc/sys/fs/file-nr":                  "10\t0\t9223372036854775807\n",
		"proc/sys/vm/overcommit_memory":        "2\n",
		"proc/sys/vm/admin_reserve_kbytes":     "8192\n",
		"proc/sys/kernel/pid_max":              "4194304\n",
		"sys/devices/system/cpu/online":        "0-1\n",
		"proc/sys/fs/inotify/max_user_watches": "x\n",
	}), &buf)
	want := sample.Machine{
		MemoryTotalBytes: some[uint64](8 << 10), MemoryAvailableBytes: some[uint64](4 << 10), SwapFreeBytes: some[uint64](1 << 10),
		CommitLimitBytes: some[uint64](5 << 10), CommittedBytes: some[uint64](3 << 10), OvercommitMode: some[uint64](2),
		AdminReserveBytes: some[uint64](8 << 20), FilesOpen: some[uint64](10), FilesLimit: some[uint64](math.MaxInt64),
		Tasks: some[uint64](77), LastPID: some[uint64](4711), PIDMax: some[uint64](4194304), CPUs: some[uint64](2),
	}
	if m != want {
		t.Errorf("%+v", m)
	}
}

func FuzzCountList(f *testing.F) {
	f.Add([]byte("0-3,8\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, ok := countList(b).Get(); ok && v == 0 {
			t.Errorf("%q has none", b)
		}
	})
}

func FuzzMounts(f *testing.F) {
	seed(f, "proc/self/mountinfo")
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(Mounts(b)); n > bytes.Count(b, []byte{'\n'})+1 {
			t.Error(n)
		}
	})
}

// FuzzChain reads the chain of a process whose cgroup file is anything.
func FuzzChain(f *testing.F) {
	f.Add([]byte("4:memory:/../..\n0::/a/b\n1:pids:/"))
	r, err := OpenLimits(Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { r.Close() })
	f.Fuzz(func(t *testing.T, b []byte) {
		r.Refresh()
		c := r.Chain(b)
		for _, m := range c.Memory {
			if m.Path == "" || m.Path[0] != '/' {
				t.Errorf("%q: %+v", b, m)
			}
		}
	})
}
