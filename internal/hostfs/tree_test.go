package hostfs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"rmagent/internal/sample"
)

const trees = "../../testdata/proc/"

// needTrees skips where the copies of /proc are not: see testdata/proc/README.md.
func needTrees(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(trees); err != nil {
		t.Skip("the copies of /proc are not here: this is no source tree")
	}
}

func readHost(t testing.TB, root string) *sample.Host {
	t.Helper()
	r := OpenHost(Options{Root: root})
	defer r.Close()
	h := &sample.Host{}
	r.Read(h)
	return h
}

func openCgroups(t testing.TB, root string) *CgroupReader {
	t.Helper()
	c, err := OpenCgroups(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// readCgroups reads all and returns them by path.
func readCgroups(t testing.TB, c *CgroupReader) map[string]sample.Cgroup {
	t.Helper()
	all := map[string]sample.Cgroup{}
	for _, g := range c.Read(nil, &sample.Host{}, nil) {
		if _, twice := all[g.Path]; twice {
			t.Errorf("%q twice", g.Path)
		}
		all[g.Path] = g
	}
	return all
}

func paths(h *sample.Host) (p []string) {
	for _, f := range h.Filesystems {
		p = append(p, f.Path)
	}
	return p
}

func TestHostOfTrees(t *testing.T) {
	needTrees(t)
	n := some[uint64]
	for _, c := range []struct {
		tree  string
		want  sample.Host
		paths []string
	}{
		{
			"vm-6.18-hybrid",
			sample.Host{}, // filled below: the files are what they were that day
			[]string{"/", "/dev/shm"},
		},
		{
			"written-v2-kubernetes",
			sample.Host{
				CPUBusyNanos: n(171e7), CPUAllNanos: n(4221e7), CPUCount: n(2), Load1: some(12.34),
				MemoryTotalBytes: n(8069640 << 10), MemoryAvailableBytes: n(5120000 << 10),
				SwapTotalBytes: n(2097148 << 10), SwapFreeBytes: n(1 << 30),
				FilesOpen: n(4032), FilesLimit: n(9223372036854775807), Threads: n(1234), PIDLimit: n(62854),
				// nvme0n1, nvme1n1, nbd0 and cciss/c0d0
				DiskReadBytes: n((100 + 1000 + 7 + 10000) * 512), DiskWrittenBytes: n((200 + 2000 + 9 + 20000) * 512),
				// eth0, eth1 and net0
				NetReceivedBytes: n(1000 + 30000 + 500000), NetSentBytes: n(2000 + 40000 + 600000),
				Pressure: sample.Pressure{
					PressureCPUSomeRatio: some(0.125), PressureMemorySomeRatio: some(1.0),
					PressureMemoryFullRatio: some(0.9999), PressureIOSomeRatio: some(0.0), PressureIOFullRatio: some(0.0),
				},
			},
			[]string{"/", "/boot/efi", "/dev/shm", "/home", "/mnt/nfs", "/mnt/with blank\\and\nnewline", "/run", "/tank", "/var/lib/containerd"},
		},
		{
			"written-v1-docker",
			sample.Host{
				MemoryTotalBytes: n(1000 << 10), SwapTotalBytes: n(0), SwapFreeBytes: n(0),
				NetReceivedBytes: n(111), NetSentBytes: n(222),
			},
			[]string{"/"},
		},
		{"written-hostile", sample.Host{}, []string{"/", "/mnt/- - tmpfs", "/mnt/a\nb\x1b[2J\xff"}},
	} {
		t.Run(c.tree, func(t *testing.T) {
			h := readHost(t, trees+c.tree)
			if d := cmp.Diff(c.paths, paths(h)); d != "" {
				t.Errorf("filesystems: %s", d)
			}
			if c.tree == "vm-6.18-hybrid" {
				checkCaptured(t, h)
				return
			}
			ignore := cmpopts.IgnoreFields(sample.Host{}, "Time", "Monotonic", "Filesystems")
			if d := cmp.Diff(c.want, *h, optional, ignore); d != "" {
				t.Error(d)
			}
		})
	}
}

// checkCaptured compares with the captured text, cut by hand.
func checkCaptured(t *testing.T, h *sample.Host) {
	t.Helper()
	line := func(file, prefix string) []string {
		b, err := os.ReadFile(trees + "vm-6.18-hybrid/proc/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(strings.TrimSpace(l), prefix); ok {
				return strings.Fields(rest)
			}
		}
		t.Fatalf("no %q in %s", prefix, file)
		return nil
	}
	number := func(s string) uint64 { v, _ := parseNumber([]byte(s)).Get(); return v }
	for name, v := range map[string]struct {
		got  sample.Opt[uint64]
		want uint64
	}{
		"received": {h.NetReceivedBytes, number(line("net/dev", "eth0:")[0])},
		"sent":     {h.NetSentBytes, number(line("net/dev", "eth0:")[8])},
		"read":     {h.DiskReadBytes, number(line("diskstats", "254       0 vda")[2]) * 512},
		"written":  {h.DiskWrittenBytes, number(line("diskstats", "254       0 vda")[6]) * 512},
		"total":    {h.MemoryTotalBytes, number(line("meminfo", "MemTotal:")[0]) << 10},
		"CPUs":     {h.CPUCount, 2},
		"pids":     {h.PIDLimit, 32768},
	} {
		if got, ok := v.got.Get(); !ok || got != v.want || got == 0 {
			t.Errorf("%s: %d, want %d", name, got, v.want)
		}
	}
	if h.Processes.Known() || h.Pressure.PressureCPUFullRatio.Known() {
		t.Error("knows what nobody said")
	}
}

func TestCgroupsOfTrees(t *testing.T) {
	needTrees(t)
	a := strings.Repeat("a", 64)
	n, u := some[uint64], sample.Limit{Value: some(uint64(sample.Unlimited))}
	scope := "cri-containerd-" + a + ".scope"
	pod := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0.slice/"
	for _, c := range []struct {
		tree, mode string
		want       []sample.Cgroup
	}{
		{
			"written-v2-kubernetes", "v2",
			[]sample.Cgroup{
				{
					Path: pod + scope, ContainerID: a, Unit: scope,
					MemoryBytes: n(104857600), MemoryLimit: sample.Limit{Value: n(268435456)}, SwapBytes: n(4096),
					PIDs: n(17), PIDsLimit: sample.Limit{Value: n(100)}, CPUNanos: n(1234567000), ThrottledNanos: n(5000000),
					CPULimitCores: some(1.5), OOMKills: n(2),
					Pressure: sample.Pressure{
						PressureCPUSomeRatio: some(0.015), PressureCPUFullRatio: some(0.0025),
						PressureMemorySomeRatio: some(0.02), PressureMemoryFullRatio: some(0.01),
						PressureIOSomeRatio: some(0.0), PressureIOFullRatio: some(0.0),
					},
				},
				{
					Path: "/system.slice/ssh.service", Unit: "ssh.service", MemoryBytes: n(8192), MemoryLimit: u, SwapBytes: n(0),
					PIDs: n(1), PIDsLimit: u, CPUNanos: n(5000), ThrottledNanos: n(0), OOMKills: n(0),
				},
			},
		},
		{
			"written-v1-docker", "v1",
			[]sample.Cgroup{
				{
					Path: "/docker/" + a, ContainerID: a,
					MemoryBytes: n(300000), MemoryLimit: sample.Limit{Value: n(536870912)}, SwapBytes: n(8192),
					PIDs: n(33), PIDsLimit: u, CPUNanos: n(7777777), ThrottledNanos: n(987654321), CPULimitCores: some(0.5), OOMKills: n(4),
				},
				{Path: "/docker", MemoryBytes: n(400000), MemoryLimit: u, CPUNanos: n(8888888), ThrottledNanos: n(0)},
			},
		},
		{"vm-6.18-hybrid", "hybrid", nil},
	} {
		t.Run(c.tree, func(t *testing.T) {
			r := openCgroups(t, trees+c.tree)
			if got := r.Mode(); got != c.mode {
				t.Errorf("mode %s, want %s", got, c.mode)
			}
			all := readCgroups(t, r)
			for _, want := range c.want {
				got := all[want.Path]
				if d := cmp.Diff(want, got, optional, cmpopts.IgnoreFields(sample.Cgroup{}, "ID")); d != "" {
					t.Errorf("%s: %s", want.Path, d)
				}
			}
			if c.tree == "vm-6.18-hybrid" {
				if _, ok := all["/jobs/build"]; !ok || !all["/jobs"].MemoryBytes.Known() {
					t.Errorf("read %d cgroups", len(all))
				}
				if all["/jobs"].CPUNanos.Known() || all["/jobs"].PIDs.Known() {
					t.Error("knows of a cgroup what its path has in no other hierarchy")
				}
			}
		})
	}
}

func identify(t *testing.T, root string, p *sample.Process) *sample.Identity {
	t.Helper()
	i, err := NewIdentifier(Options{Root: root}, openCgroups(t, root), true)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	return i.Identify(p)
}

func TestIdentitiesOfTrees(t *testing.T) {
	needTrees(t)
	a, b, c, d := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64), strings.Repeat("d", 64)
	pod := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0.slice/"
	user := "/user.slice/user-1000.slice/user@1000.service/"
	deep := "/" + strings.Repeat(strings.Repeat("d", 50)+"/", 60) + "x.service"
	for _, x := range []struct {
		tree string
		pid  int32
		want sample.Identity
	}{
		{"written-v2-kubernetes", 101, sample.Identity{Exe: "/usr/sbin/nginx", Cgroup: pod + "cri-containerd-" + a + ".scope", ContainerID: a, Unit: "cri-containerd-" + a + ".scope"}},
		{"written-v2-kubernetes", 102, sample.Identity{Exe: "/usr/bin/java", Cgroup: pod + "crio-" + b + ".scope", ContainerID: b, Unit: "crio-" + b + ".scope"}},
		{"written-v2-kubernetes", 103, sample.Identity{Exe: "/usr/bin/redis", Cgroup: "/system.slice/docker-" + c + ".scope", ContainerID: c, Unit: "docker-" + c + ".scope"}},
		{"written-v2-kubernetes", 104, sample.Identity{Exe: "/usr/bin/python3 (deleted)", Cgroup: user + "user.slice/libpod-" + d + ".scope/container", ContainerID: d, Unit: "libpod-" + d + ".scope"}},
		{"written-v2-kubernetes", 105, sample.Identity{Exe: "/usr/bin/conmon", Cgroup: user + "user.slice/libpod-conmon-" + d + ".scope", Unit: "libpod-conmon-" + d + ".scope"}},
		{"written-v2-kubernetes", 106, sample.Identity{Exe: "/usr/sbin/sshd", Cgroup: "/system.slice/ssh.service", Unit: "ssh.service"}},
		{"written-v2-kubernetes", 107, sample.Identity{Exe: "/usr/libexec/gvfsd", Cgroup: user + "app.slice/gvfs-daemon.service", Unit: "gvfs-daemon.service"}},
		{"written-v2-kubernetes", 108, sample.Identity{Exe: "/usr/bin/old", Cgroup: "/system.slice/gone.service", Unit: "gone.service"}},
		{"written-v1-docker", 201, sample.Identity{Exe: "/usr/sbin/mysqld", Cgroup: "/docker/" + a, ContainerID: a}},
		{"written-v1-docker", 202, sample.Identity{Exe: "/pause", Cgroup: "/kubepods/burstable/pod12345678-1234-1234-1234-123456789abc/" + b, ContainerID: b}},
		{"written-v1-docker", 203, sample.Identity{Exe: "/odd", Cgroup: "/system.slice/containerd.service/kubepods-besteffort-pod1.slice:cri-containerd:" + c, ContainerID: c, Unit: "containerd.service"}},
		{"written-hostile", 301, sample.Identity{Exe: "/tmp/a\nb (deleted)", Cgroup: "/x"}},
		{"written-hostile", 302, sample.Identity{Exe: "/tmp/\x1b]0;owned\x07", Cgroup: "/we:ird/1:memory:/x\x1b[2J\xff"}},
		{"written-hostile", 303, sample.Identity{Cgroup: "/../../outside/foo.service", Unit: "foo.service"}},
		{"written-hostile", 304, sample.Identity{Cgroup: "/name (deleted)"}},
		{"written-hostile", 305, sample.Identity{}},
		{"written-hostile", 306, sample.Identity{Cgroup: deep, Unit: "x.service"}},
		{"written-hostile", 999, sample.Identity{}},
	} {
		p := &sample.Process{ID: sample.ID{PID: x.pid, StartTicks: uint64(x.pid) * 10}}
		got := identify(t, trees+x.tree, p)
		if d := cmp.Diff(&x.want, got); d != "" {
			t.Errorf("%s %d: %s", x.tree, x.pid, d)
		}
		p.ID.StartTicks++
		if d := cmp.Diff(&sample.Identity{}, identify(t, trees+x.tree, p)); d != "" {
			t.Errorf("%s %d after its PID was reused: %s", x.tree, x.pid, d)
		}
	}
}

func TestIdentityOfCaptured(t *testing.T) {
	needTrees(t)
	files, err := filepath.Glob(trees + "vm-6.18-hybrid/proc/[0-9]*/stat")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var exes []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		start, _ := parseStart(b)
		v, _ := parseNumber([]byte(filepath.Base(filepath.Dir(f)))).Get()
		id := identify(t, trees+"vm-6.18-hybrid", &sample.Process{ID: sample.ID{PID: int32(v), StartTicks: start}})
		exes = append(exes, id.Exe+" "+id.Cgroup+" "+strings.Join(id.Cmdline[:min(1, len(id.Cmdline))], " "))
	}
	slices.Sort(exes)
	want := []string{" / ", " / ", "/usr/bin/python3.11 /jobs/build python3", "/usr/bin/sleep /jobs/build sleep"}
	if d := cmp.Diff(want, exes); d != "" {
		t.Error(d)
	}
}
