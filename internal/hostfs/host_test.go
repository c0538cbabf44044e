package hostfs

import (
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/procfs/blockdevice"
	"golang.org/x/sys/unix"

	"rmagent/internal/clock"
	"rmagent/internal/sample"
)

func value[T any](t *testing.T, name string, o sample.Opt[T]) T {
	t.Helper()
	v, ok := o.Get()
	if !ok {
		t.Errorf("%s is unknown", name)
	}
	return v
}

// TestHostAgainstSystemCalls compares with what no file says.
func TestHostAgainstSystemCalls(t *testing.T) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	h := readHost(t, "")
	unit := uint64(info.Unit)
	if got := value(t, "memory", h.MemoryTotalBytes); got != uint64(info.Totalram)*unit {
		t.Errorf("memory %d, sysinfo says %d", got, uint64(info.Totalram)*unit)
	}
	if got := value(t, "swap", h.SwapTotalBytes); got != uint64(info.Totalswap)*unit {
		t.Errorf("swap %d, sysinfo says %d", got, uint64(info.Totalswap)*unit)
	}
	if got := value(t, "available", h.MemoryAvailableBytes); got == 0 || got > uint64(info.Totalram)*unit {
		t.Errorf("available %d", got)
	}
	if got := value(t, "CPUs", h.CPUCount); got < uint64(runtime.NumCPU()) {
		t.Errorf("%d CPUs, at least %d are there", got, runtime.NumCPU())
	}
	// Load and the number of tasks move; sysinfo's are of a moment before.
	load := float64(info.Loads[0]) / (1 << 16)
	if got := value(t, "load", h.Load1); got < load*0.8-0.1 || got > load*1.2+0.2 {
		t.Errorf("load %v, sysinfo says %v", got, load)
	}
	if got := value(t, "threads", h.Threads); got == 0 {
		t.Error("no threads")
	}
	if h.Processes.Known() {
		t.Error("knows the number of processes")
	}
	if d := clock.Boottime() - h.Monotonic; d < 0 {
		t.Errorf("boottime %v behind monotonic", d)
	}
}

// TestCPUTime compares with the idle time of /proc/uptime, which the kernel sums
// over CPUs too.
func TestCPUTime(t *testing.T) {
	h := readHost(t, "")
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(b))
	up, _ := strconv.ParseFloat(words[0], 64)
	idle, _ := strconv.ParseFloat(words[1], 64)
	cpus := float64(value(t, "CPUs", h.CPUCount))
	all := float64(value(t, "all", h.CPUAllNanos)) / 1e9
	busy := float64(value(t, "busy", h.CPUBusyNanos)) / 1e9
	// Ticks lose a little; time counts from a little after the boot.
	if want := up * cpus; all < want*0.9-5 || all > want*1.02 {
		t.Errorf("%v CPU seconds, %v CPUs are up for %v s", all, cpus, up)
	}
	if notIdle := all - idle; busy > notIdle+1 || busy <= 0 {
		t.Errorf("busy for %v s of %v, idle for %v", busy, all, idle)
	}
}

// TestDisksAgainstStat brackets the sum between two readings of the disks' own
// files.
func TestDisksAgainstStat(t *testing.T) {
	fs, err := blockdevice.NewDefaultFS()
	if err != nil {
		t.Fatal(err)
	}
	sum := func() (read, written uint64) {
		devices, err := fs.SysBlockDevices()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range devices {
			if _, err := os.Stat("/sys/block/" + d + "/device"); err != nil {
				continue
			}
			s, _, err := fs.SysBlockDeviceStat(d)
			if err != nil {
				t.Fatal(err)
			}
			read, written = read+s.ReadSectors*512, written+s.WriteSectors*512
		}
		return read, written
	}
	r0, w0 := sum()
	h := readHost(t, "")
	r1, w1 := sum()
	if got := value(t, "read", h.DiskReadBytes); got < r0 || got > r1 {
		t.Errorf("read %d, not within %d to %d", got, r0, r1)
	}
	if got := value(t, "written", h.DiskWrittenBytes); got < w0 || got > w1 {
		t.Errorf("written %d, not within %d to %d", got, w0, w1)
	}
}

// TestUplinksAgainstClass brackets the sum between two readings of the hardware
// interfaces' statistics.
func TestUplinksAgainstClass(t *testing.T) {
	hardware := 0
	sum := func() (n uint64) {
		dirs, err := os.ReadDir("/sys/class/net")
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dirs {
			if _, err := os.Stat("/sys/class/net/" + d.Name() + "/device"); err != nil {
				continue
			}
			hardware++
			v, err := strconv.ParseUint(firstLine("/sys/class/net/"+d.Name()+"/statistics/rx_bytes"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			n += v
		}
		return n
	}
	before := sum()
	h := readHost(t, "")
	after := sum()
	if hardware == 0 {
		t.Skip("the kernel shows no hardware interface here")
	}
	if got := value(t, "received", h.NetReceivedBytes); got < before || got > after {
		t.Errorf("received %d, not within %d to %d", got, before, after)
	}
}

func TestPressureIsKnownWhereThereIsAny(t *testing.T) {
	_, err := os.ReadFile("/proc/pressure/memory")
	h := readHost(t, "")
	if known := h.Pressure.PressureMemorySomeRatio.Known(); known != (err == nil) {
		t.Errorf("known %v, file: %v", known, err)
	}
}

// TestFilesOpenGrowsWithOpens tries some times, for others open and close files
// meanwhile.
func TestFilesOpenGrowsWithOpens(t *testing.T) {
	r := OpenHost(Options{})
	defer r.Close()
	const many = 2000
	var seen []int64
	for range 20 {
		grown := filesOpened(t, r, many)
		if grown > many*9/10 && grown < many*11/10 {
			return
		}
		seen = append(seen, grown)
	}
	t.Errorf("%d more files are open, each time %d were opened", seen, many)
}

// filesOpened opens n files and returns by how many the host's number grew.
func filesOpened(t *testing.T, r *HostReader, n int) int64 {
	t.Helper()
	var before, after sample.Host
	r.Read(&before)
	for range n {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	r.Read(&after)
	return int64(value(t, "open", after.FilesOpen)) - int64(value(t, "open", before.FilesOpen))
}

// TestFilesystemsAgainstDf compares the sizes with df's.
func TestFilesystemsAgainstDf(t *testing.T) {
	if _, err := exec.LookPath("df"); err != nil {
		t.Skip("there is no df here")
	}
	h := readHost(t, "")
	if !slices.Contains(paths(h), "/") {
		t.Fatalf("no / in %q", paths(h))
	}
	for _, f := range h.Filesystems {
		out, err := exec.Command("df", "-B1", "--output=size,itotal", f.Path).Output()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		words := strings.Fields(lines[len(lines)-1])
		if want := words[0]; strconv.FormatUint(f.TotalBytes.Or(0), 10) != want {
			t.Errorf("%s: %d bytes, df says %s", f.Path, f.TotalBytes.Or(0), want)
		}
		if want := strings.Trim(words[1], "-"); want != "" && want != "0" && strconv.FormatUint(f.InodesTotal.Or(0), 10) != want {
			t.Errorf("%s: %d inodes, df says %s", f.Path, f.InodesTotal.Or(0), want)
		}
	}
}

func TestStartTime(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	if got, want := StartTime(12345, now, 1000*time.Second), now.Add(-1000*time.Second+123450*time.Millisecond); !got.Equal(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestStartTimeOfOwnChild brackets a start between two looks at the clock.
func TestStartTimeOfOwnChild(t *testing.T) {
	before := time.Now()
	pid, _ := startTouch(t)
	after := time.Now()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	ticks, ok := parseStart(b)
	if !ok {
		t.Fatal("no start")
	}
	const tick = 10 * time.Millisecond
	if got := StartTime(ticks, time.Now(), clock.Boottime()); got.Before(before.Add(-2*tick)) || got.After(after.Add(2*tick)) {
		t.Errorf("started at %v, not within %v to %v", got, before, after)
	}
}

func TestFacts(t *testing.T) {
	f, err := ReadFacts(Options{})
	if err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	comm, _ := os.ReadFile("/proc/2/comm") // of the kernel, so in the initial one only
	if f.Host != host || len(f.BootID) != 36 || f.InitialPID != (string(comm) == "kthreadd\n") {
		t.Errorf("%+v", f)
	}
	if _, err := ReadFacts(Options{Root: t.TempDir()}); err == nil {
		t.Error("no error where there is nothing")
	}
}

func TestEmptyRoot(t *testing.T) {
	h := readHost(t, t.TempDir())
	if h.CPUAllNanos.Known() || h.MemoryTotalBytes.Known() || h.DiskReadBytes.Known() || h.NetSentBytes.Known() ||
		h.PIDLimit.Known() || len(h.Filesystems) != 0 {
		t.Errorf("knows of nothing: %+v", h)
	}
}

func TestHostReadAllocatesNothing(t *testing.T) {
	r := OpenHost(Options{})
	defer r.Close()
	if slices.ContainsFunc(r.filesystems.list, func(f *filesystem) bool { return f.remote }) {
		t.Skip("a filesystem that may hang is asked by a goroutine, which allocates")
	}
	var h sample.Host
	r.Read(&h)
	if n := testing.AllocsPerRun(20, func() { r.Read(&h) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHost(b *testing.B) {
	r := OpenHost(Options{})
	defer r.Close()
	var h sample.Host
	b.Run("all", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Read(&h)
		}
	})
	for _, f := range []struct {
		name string
		file file
	}{
		{"stat", r.stat}, {"loadavg", r.loadavg}, {"meminfo", r.meminfo}, {"file-nr", r.fileNr}, {"pid_max", r.pidMax},
		{"pressure", r.pressureCPU}, {"diskstats", r.disks.file}, {"net", r.uplinks.file},
	} {
		b.Run(f.name, func(b *testing.B) {
			for b.Loop() {
				f.file.read(&r.buf)
			}
		})
	}
	b.Run("filesystems", func(b *testing.B) {
		for b.Loop() {
			h.Filesystems = r.filesystems.read(&r.buf, h.Filesystems[:0])
		}
	})
	b.Run("meminfo by open", func(b *testing.B) {
		for b.Loop() {
			f := openFile("/proc/meminfo", r.meminfo.extent)
			f.read(&r.buf)
			f.close()
		}
	})
}
