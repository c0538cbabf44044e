package hostfs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// openLiveCgroups opens the machine's cgroups; where none are mounted, it mounts
// version 2 for itself.
func openLiveCgroups(t *testing.T) *CgroupReader {
	t.Helper()
	c := openCgroups(t, "")
	if c.Mode() == "none" {
		point := t.TempDir()
		if err := unix.Mount("cgroup2", point, "cgroup2", 0, ""); err != nil {
			t.Skipf("the kernel lacks cgroups: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(point, unix.MNT_DETACH) })
		c = openCgroups(t, "")
	}
	if c.Mode() == "v2" {
		for _, controller := range []string{"+memory", "+pids", "+cpu"} {
			if fd, err := unix.Openat(c.unified.dir, "cgroup.subtree_control", unix.O_WRONLY, 0); err == nil {
				unix.Write(fd, []byte(controller))
				unix.Close(fd)
			}
		}
	}
	return c
}

// makeCgroup makes a cgroup of the test's own in every hierarchy that c reads,
// and returns its path and directories.
func makeCgroup(t *testing.T, c *CgroupReader) (path string, dirs []string) {
	t.Helper()
	name := "rmagent-test-" + strconv.Itoa(os.Getpid())
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	eachMount(b, func(m mount) {
		if m.kind != "cgroup" && m.kind != "cgroup2" || m.root != "/" || strings.Contains(string(m.options), "cpuset") {
			return
		}
		dir := filepath.Join(m.point, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			return
		}
		t.Cleanup(func() { os.Remove(dir) })
		dirs = append(dirs, dir)
	})
	path = "/" + name
	if fd := c.main().open(path); fd < 0 {
		t.Skip("may not make cgroups here")
	} else {
		unix.Close(fd)
	}
	return path, dirs
}

// set writes a file of a cgroup in whichever hierarchy has it.
func set(t *testing.T, dirs []string, file, value string) (done bool) {
	t.Helper()
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, file)); err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(d, file), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		done = true
	}
	return done
}

func TestLiveCgroup(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	c := openLiveCgroups(t)
	path, dirs := makeCgroup(t, c)
	const limit = 64 << 20
	hasMemory := set(t, dirs, "memory.max", fmt.Sprint(limit)) || set(t, dirs, "memory.limit_in_bytes", fmt.Sprint(limit))
	hasPIDs := set(t, dirs, "pids.max", "123")
	hasCPU := set(t, dirs, "cpu.cfs_quota_us", "50000") || set(t, dirs, "cpu.max", "50000 100000")
	pid, goOn := startTouch(t)
	set(t, dirs, "cgroup.procs", strconv.Itoa(pid))
	t.Cleanup(func() { // before the cgroups are removed
		for _, d := range dirs {
			os.WriteFile(filepath.Join(filepath.Dir(d), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		}
	})
	before := readCgroups(t, c)[path]
	goOn()
	after := readCgroups(t, c)[path]
	if hasMemory {
		grown := value(t, "memory", after.MemoryBytes) - value(t, "memory", before.MemoryBytes)
		if grown < touchedBytes || grown > touchedBytes+4<<20 { // page tables and Go's runtime
			t.Errorf("memory grew by %d, touched were %d", grown, touchedBytes)
		}
		if after.MemoryLimit.Get() != some[uint64](limit) {
			t.Errorf("memory limit %v", after.MemoryLimit)
		}
		value(t, "OOM kills", after.OOMKills)
	}
	if hasPIDs {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			t.Fatal(err)
		}
		if after.PIDs != some(uint64(len(tasks))) || after.PIDsLimit.Get() != some[uint64](123) {
			t.Errorf("pids %v of %v, tasks %d", after.PIDs, after.PIDsLimit, len(tasks))
		}
	}
	if hasCPU {
		if after.CPULimitCores != some(0.5) || value(t, "throttled", after.ThrottledNanos) < value(t, "throttled", before.ThrottledNanos) {
			t.Errorf("cpu limit %v, throttled %v", after.CPULimitCores, after.ThrottledNanos)
		}
		if value(t, "cpu", after.CPUNanos) <= value(t, "cpu", before.CPUNanos) {
			t.Errorf("cpu %v, was %v", after.CPUNanos, before.CPUNanos)
		}
	}
	checkIdentity(t, c, pid, path, after.ID)
}

// checkIdentity reads who the helper is: by its file, and by its cgroup's id.
func checkIdentity(t *testing.T, c *CgroupReader, pid int, path string, id uint64) {
	t.Helper()
	i, err := NewIdentifier(Options{}, c, false)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	start, _ := parseStart(b)
	p := &sample.Process{ID: sample.ID{PID: int32(pid), StartTicks: start}}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	byFile := i.Identify(p)
	if byFile.Exe != exe || byFile.Cgroup != path || byFile.Cmdline != nil {
		t.Errorf("%+v, want %q %q", byFile, exe, path)
	}
	p.CgroupID, p.Known = id, 1<<sample.CgroupID
	if byID := i.Identify(p); byID.Exe != exe || byID.Cgroup != path {
		t.Errorf("%+v, want %q %q", byID, exe, path)
	}
	p.ID.StartTicks--
	if gone := i.Identify(p); gone.Exe != "" || gone.Cgroup != path {
		t.Errorf("of another process with the PID: %+v", gone)
	}
}

// TestCgroupsComeAndGo proves that only those are read that exist and are
// wanted, and that none keeps a descriptor behind.
func TestCgroupsComeAndGo(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	c := openLiveCgroups(t)
	readCgroups(t, c)
	path, dirs := makeCgroup(t, c)
	wanted := func(_ uint64, p string) bool { return p == path }
	if got := c.Read(nil, &sample.Host{}, wanted); len(got) != 0 {
		t.Errorf("knows of %d before it looked", len(got))
	}
	if g := c.find([]byte(path)); g == nil {
		t.Fatal("not found")
	}
	got := c.Read(nil, &sample.Host{}, wanted)
	if len(got) != 1 || got[0].Path != path {
		t.Fatalf("read %+v", got)
	}
	var st unix.Stat_t
	fd := c.main().open(path)
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != got[0].ID {
		t.Errorf("id %d, inode %d", got[0].ID, st.Ino)
	}
	unix.Close(fd)
	checkKeptFiles(t, c, path, dirs)
	open, files := c.open, c.files
	for _, d := range dirs {
		if err := os.Remove(d); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.Read(nil, &sample.Host{}, wanted); len(got) != 0 {
		t.Errorf("still there: %+v", got)
	}
	if c.open >= open || c.files >= files || c.byPath[path] != nil || c.byID[st.Ino] != nil {
		t.Errorf("%d directories and %d files open, before %d and %d", c.open, c.files, open, files)
	}
	if _, ok := readCgroups(t, c)[path]; ok {
		t.Error("listed after its end")
	}
}

// A new cgroup's limit may be that of one above it, as a pod's is: they become known with
// it, and not at the next listing.
func TestThoseAboveANewCgroupAreKnown(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	c := openLiveCgroups(t)
	pod, _ := makeCgroup(t, c)
	container := pod + "/container"
	dir := filepath.Join(c.main().point, container)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if g := c.find([]byte(container)); g == nil {
		t.Fatal("not found")
	}
	got := c.Read(nil, &sample.Host{}, func(_ uint64, p string) bool { return p == pod })
	if len(got) != 1 || got[0].Path != pod {
		t.Errorf("of the pod %+v is read", got)
	}
}

// checkKeptFiles proves that the files of a cgroup that is wanted again and again stay
// open, that they say what is the case now, and that they are closed once it is not
// wanted.
func checkKeptFiles(t *testing.T, c *CgroupReader, path string, dirs []string) {
	t.Helper()
	read := func() sample.Cgroup {
		t.Helper()
		got := c.Read(nil, &sample.Host{}, func(_ uint64, p string) bool { return p == path })
		if len(got) != 1 {
			t.Fatalf("read %+v", got)
		}
		return got[0]
	}
	g := c.byPath[path]
	read()
	kept := slices.Clone(g.files)
	if len(kept) == 0 || c.files < len(kept) {
		t.Fatalf("%d files are kept, %d in all", len(kept), c.files)
	}
	for _, most := range []uint64{11, 22} {
		if set(t, dirs, "pids.max", strconv.FormatUint(most, 10)) {
			if l := read().PIDsLimit; l.Get() != some(most) {
				t.Errorf("at most %d processes, read %v", most, l)
			}
		}
	}
	if !slices.Equal(g.files, kept) {
		t.Errorf("files %v, before %v", g.files, kept)
	}
	readCgroups(t, c)
	if !slices.Equal(g.files, kept) {
		t.Errorf("files %v after a reading of all, before %v", g.files, kept)
	}
	c.Read(nil, &sample.Host{}, func(uint64, string) bool { return false })
	if g.files != nil || c.files != 0 {
		t.Errorf("files %v of a cgroup that nobody wants", g.files)
	}
	if read(); c.Mode() != "v2" {
		return
	}
	for _, has := range []bool{false, true} { // the controller goes, and is another when it comes back
		value := map[bool]string{false: "-pids", true: "+pids"}[has]
		if err := os.WriteFile(filepath.Join(filepath.Dir(dirs[0]), "cgroup.subtree_control"), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		if known := read().PIDsLimit.Value.Known(); known != has {
			t.Errorf("after %s the limit of processes is known: %v", value, known)
		}
	}
}

func TestWithoutSpareDescriptors(t *testing.T) {
	needTrees(t)
	c := openCgroups(t, trees+"written-v1-docker")
	c.most = 0
	for range 2 {
		all := readCgroups(t, c)
		if v, _ := all["/docker"].MemoryBytes.Get(); v != 400000 || c.open != 0 {
			t.Errorf("memory %d, %d directories open", v, c.open)
		}
	}
}

func TestHierarchyBelow(t *testing.T) {
	for _, c := range []struct {
		root, path, want string
		ok               bool
	}{
		{"/", "/", ".", true},
		{"/", "/a/b", "a/b", true},
		{"/docker/x", "/docker/x", ".", true},
		{"/docker/x", "/docker/x/y", "y", true},
		{"/docker/x", "/docker/xy", "", false},
		{"/docker/x", "/other", "", false},
		{"/", "/../outside", "", false},
		{"/", "/..", "", false},
		{"/", "/..hidden", "..hidden", true},
		{"/../../a", "/b", "b", true},
		{"/", "relative", "", false},
		{"/", "", "", false},
	} {
		h := hierarchy{dir: 0, root: c.root}
		if got, ok := h.below(c.path); got != c.want || ok != c.ok {
			t.Errorf("%s below %s: %q %v", c.path, c.root, got, ok)
		}
	}
	if _, ok := (&hierarchy{dir: -1}).below("/"); ok {
		t.Error("below what is not mounted")
	}
}

// TestSharedStrings proves that equal names are one string.
func TestSharedStrings(t *testing.T) {
	a := openCgroups(t, "")
	i, err := NewIdentifier(Options{}, a, false)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	pid, _ := startTouch(t)
	p := processOf(t, pid)
	x, y := i.Identify(p), i.Identify(p)
	if x == y || !sameString(x.Exe, y.Exe) || !sameString(x.Cgroup, y.Cgroup) {
		t.Errorf("%+v and %+v", x, y)
	}
}

// TestHostileCgroup identifies by a cgroup whose name looks like lines of the
// file, which no module can hold, so it is made here.
func TestHostileCgroup(t *testing.T) {
	needTrees(t)
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(trees+"written-hostile")); err != nil {
		t.Fatal(err)
	}
	const path = "/we:ird/1:memory:/x\x1b[2J\xff"
	if err := os.MkdirAll(root+"/sys/fs/cgroup"+path, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cgroup.procs": "", "memory.current": "4096\n"} {
		if err := os.WriteFile(root+"/sys/fs/cgroup"+path+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := readCgroups(t, openCgroups(t, root))[path].MemoryBytes; got != some[uint64](4096) {
		t.Errorf("memory %v", got)
	}
	id := identify(t, root, &sample.Process{ID: sample.ID{PID: 302, StartTicks: 3020}})
	if id.Cgroup != path {
		t.Errorf("cgroup %q", id.Cgroup)
	}
}

func TestSelf(t *testing.T) {
	c := openCgroups(t, "")
	c.Self() // opens its cgroup
	before := c.Self()
	for range 10 {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	after := c.Self()
	if grown := value(t, "FDs", after.FDOpen) - value(t, "FDs", before.FDOpen); grown != 10 {
		t.Errorf("%d FDs more, opened were 10", grown)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := value(t, "FDs", c.Self().FDOpen), uint64(len(entries)-1); got != want {
		t.Errorf("%d FDs, want %d", got, want)
	}
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	used := uint64(u.Utime.Nano() + u.Stime.Nano())
	if got := value(t, "CPU", after.CPUNanos); got > used+20e6 || got+500e6 < used {
		t.Errorf("CPU %d, rusage says %d", got, used)
	}
	if got := value(t, "RSS", after.RSSBytes); got < 1<<20 || got > uint64(u.Maxrss)<<10+1<<20 {
		t.Errorf("RSS %d, peak %d", got, u.Maxrss<<10)
	}
	if c.Mode() != "none" && (c.controller != "" || c.self != "/") { // version 2's root counts none
		value(t, "memory", after.MemoryBytes)
	}
}

func TestNoCgroups(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(root+"/proc/self", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/proc/self/mountinfo", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := openCgroups(t, root)
	if got := c.Read(nil, &sample.Host{}, nil); c.Mode() != "none" || len(got) != 0 {
		t.Errorf("%s, %d", c.Mode(), len(got))
	}
}

// What is not asked of a root is what its files say.
func TestRootIsAsItsFilesSay(t *testing.T) {
	c := openCgroups(t, "")
	root := c.byPath["/"]
	if root == nil || root.id != rootID {
		t.Skip("needs the root of the hierarchies: no cgroups, or a cgroup namespace")
	}
	var got sample.Cgroup
	host := readHost(t, "")
	if !c.read(root, host, &got) {
		t.Fatal("the root is gone")
	}
	d := &root.dirs
	if c.controller == "" && !d.rootUnified || c.controller == "memory" && !d.rootMemory {
		t.Errorf("not told to be the root: %+v", *d)
	}
	if d.rootCPU {
		if quota := string(c.file(root, d.cpu, cfsQuota)); quota != "-1\n" || got.CPULimitCores.Known() {
			t.Errorf("%v cores, its quota is %q", got.CPULimitCores, quota)
		}
		if throttled := parseKeyed(c.file(root, d.cpu, cpuStat), "throttled_time"); got.ThrottledNanos != throttled {
			t.Errorf("throttled %v, its file says %v", got.ThrottledNanos, throttled)
		}
	}
	if d.rootMemory && got.MemoryLimit != parseLimit(c.file(root, d.memory, memoryLimit)) {
		t.Errorf("limited to %v", got.MemoryLimit)
	}
	if d.rootPIDs && c.file(root, d.pids, pidsCurrent) != nil {
		t.Error("it counts PIDs")
	}
	if !d.rootUnified {
		return
	}
	for _, name := range []kfile.Name{memoryCurrent, pidsCurrent, cpuMax} {
		if c.file(root, d.unified, name) != nil {
			t.Errorf("it has %s", name)
		}
	}
	// The averages change every two seconds: between two equal ones none did.
	for range 100 {
		before := readHost(t, "").Pressure
		some, _ := parsePressure(c.file(root, d.unified, cpuPressure))
		memory, memoryFull := parsePressure(c.file(root, d.unified, memPressure))
		if readHost(t, "").Pressure != before {
			continue
		}
		if some != before.PressureCPUSomeRatio || memory != before.PressureMemorySomeRatio || memoryFull != before.PressureMemoryFullRatio {
			t.Errorf("its files say %v %v %v, the host's %+v", some, memory, memoryFull, before)
		}
		return
	}
	t.Error("the host's pressure never stood still")
}

// What has no swap to be in is not asked for; where there is swap, or none knows, it is.
func TestSwapIsReadWhereThereIsSome(t *testing.T) {
	asked := func() sample.Opt[uint64] { return some[uint64](7) }
	for total, want := range map[sample.Opt[uint64]]sample.Opt[uint64]{
		some[uint64](0): some[uint64](0), some[uint64](4096): some[uint64](7), {}: some[uint64](7),
	} {
		if got := swapOf(&sample.Host{SwapTotalBytes: total}, asked); got != want {
			t.Errorf("%v of a swap of %v", got, total)
		}
	}
}

func BenchmarkCgroups(b *testing.B) {
	c := openCgroups(b, "")
	host := readHost(b, "")
	dst := c.Read(nil, host, nil)
	if len(dst) == 0 {
		b.Skip("no cgroups are mounted")
	}
	per := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(dst)), "ns/cgroup")
	}
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = c.Read(dst[:0], host, func(uint64, string) bool { return true })
		}
		per(b)
	})
	b.Run("list", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.list()
		}
		per(b)
	})
	b.Run("none wanted", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = c.Read(dst[:0], host, func(uint64, string) bool { return false })
		}
	})
}

func BenchmarkIdentify(b *testing.B) {
	i, err := NewIdentifier(Options{}, openCgroups(b, ""), false)
	if err != nil {
		b.Fatal(err)
	}
	defer i.Close()
	p := processOf(b, os.Getpid())
	b.ReportAllocs()
	for b.Loop() {
		i.Identify(p)
	}
}

// TestCgroupsByPIDs reads a host whose memory controller is switched off.
func TestCgroupsByPIDs(t *testing.T) {
	needTrees(t)
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(trees+"written-v1-docker")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/proc/self/cgroup", []byte("10:pids:/\n4:cpu,cpuacct:/\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(root + "/sys/fs/cgroup/memory"); err != nil {
		t.Fatal(err)
	}
	g := readCgroups(t, openCgroups(t, root))["/docker/"+strings.Repeat("a", 64)]
	if g.PIDs != some[uint64](33) || g.CPUNanos != some[uint64](7777777) || g.MemoryBytes.Known() {
		t.Errorf("%+v", g)
	}
}
