package hostfs

import (
	"time"

	"rmagent/internal/clock"
	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// HostReader reads the machine as a whole.
type HostReader struct {
	buf []byte
	// The kernel clears as much memory as a reader of a sysctl has room for
	// (proc_sys_call_handler).
	number []byte

	stat, loadavg, meminfo        file
	fileNr, pidMax, threadsMax    file
	pressureCPU, pressureMem, pio file
	disks                         diskReader
	uplinks                       uplinkReader
	filesystems                   filesystemReader
}

// OpenHost opens the machine's files. What the kernel lacks stays unknown.
func OpenHost(o Options) *HostReader {
	whole := func(path string) file { return openFile(o.Root+path, kfile.Whole) }
	return &HostReader{
		buf:         make([]byte, 16<<10),
		number:      make([]byte, 64),
		stat:        whole("/proc/stat"),
		loadavg:     whole("/proc/loadavg"),
		meminfo:     whole("/proc/meminfo"),
		fileNr:      whole("/proc/sys/fs/file-nr"),
		pidMax:      whole("/proc/sys/kernel/pid_max"),
		threadsMax:  whole("/proc/sys/kernel/threads-max"),
		pressureCPU: whole("/proc/pressure/cpu"),
		pressureMem: whole("/proc/pressure/memory"),
		pio:         whole("/proc/pressure/io"),
		disks:       openDisks(o.Root),
		uplinks:     openUplinks(o.Root),
		filesystems: openFilesystems(o.Root),
	}
}

// Close closes the files.
func (h *HostReader) Close() error {
	for _, f := range []file{
		h.stat, h.loadavg, h.meminfo, h.fileNr, h.pidMax, h.threadsMax,
		h.pressureCPU, h.pressureMem, h.pio, h.disks.file, h.uplinks.file, h.filesystems.mountinfo,
	} {
		f.close()
	}
	return nil
}

// Read fills dst, reusing its memory. Processes stays unknown: who scans them
// counts them. Counters begin with what the kernel counted since boot, and grow
// on whichever devices come and go.
func (h *HostReader) Read(dst *sample.Host) {
	*dst = sample.Host{
		Time: time.Now(), Monotonic: clock.Monotonic(), Filesystems: dst.Filesystems[:0],
	}
	parseCPU(h.stat.read(&h.buf), dst)
	parseLoad(h.loadavg.read(&h.buf), dst)
	parseMeminfo(h.meminfo.read(&h.buf), dst)
	parseFileNr(h.fileNr.read(&h.number), dst)
	dst.PIDLimit = lower(parseNumber(h.pidMax.read(&h.number)), parseNumber(h.threadsMax.read(&h.number)))
	h.disks.read(&h.buf, dst)
	h.uplinks.read(&h.buf, dst)
	p := &dst.Pressure
	// For the whole system the kernel defines no full CPU pressure and prints 0
	// (Documentation/accounting/psi.rst, since 5.13).
	p.PressureCPUSomeRatio, _ = parsePressure(h.pressureCPU.read(&h.buf))
	p.PressureMemorySomeRatio, p.PressureMemoryFullRatio = parsePressure(h.pressureMem.read(&h.buf))
	p.PressureIOSomeRatio, p.PressureIOFullRatio = parsePressure(h.pio.read(&h.buf))
	dst.Filesystems = h.filesystems.read(&h.buf, dst.Filesystems)
}

// lower returns the smaller of two limits that both apply; of one that is
// unknown the other says nothing.
func lower(a, b sample.Opt[uint64]) sample.Opt[uint64] {
	x, okA := a.Get()
	y, okB := b.Get()
	if !okA || !okB {
		return sample.Opt[uint64]{}
	}
	return some(min(x, y))
}

// StartTime is the wall clock's time at startTicks, given the wall clock and
// CLOCK_BOOTTIME of one instant. It moves with steps of the wall clock.
func StartTime(startTicks uint64, now time.Time, boottime time.Duration) time.Time {
	const tick = time.Second / sample.UserHz
	return now.Add(time.Duration(startTicks)*tick - boottime)
}
