package hostfs

import (
	"bytes"

	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// ReadMachine reads what the kernel and the machine as a whole limit. What the
// kernel lacks stays unknown.
func ReadMachine(o Options, buf *[]byte) (m sample.Machine) {
	text := func(path string) []byte {
		b, errno := kfile.Read(unix.AT_FDCWD, kfile.MakeName(o.Root+path), kfile.Whole, buf)
		if errno != 0 {
			return nil
		}
		return b
	}
	parseMachineMemory(text("/proc/meminfo"), &m)
	m.OvercommitMode = parseNumber(text("/proc/sys/vm/overcommit_memory"))
	m.AdminReserveBytes = kibi(parseNumber(text("/proc/sys/vm/admin_reserve_kbytes")))
	m.UserReserveBytes = kibi(parseNumber(text("/proc/sys/vm/user_reserve_kbytes")))
	var h sample.Host
	parseFileNr(text("/proc/sys/fs/file-nr"), &h)
	load := text("/proc/loadavg")
	parseLoad(load, &h)
	m.LastPID = lastPID(load)
	m.FilesOpen, m.FilesLimit, m.Tasks = h.FilesOpen, h.FilesLimit, h.Threads
	m.NROpen = parseNumber(text("/proc/sys/fs/nr_open"))
	m.PIDMax = parseNumber(text("/proc/sys/kernel/pid_max"))
	m.ThreadsMax = parseNumber(text("/proc/sys/kernel/threads-max"))
	m.MaxMapCount = parseNumber(text("/proc/sys/vm/max_map_count"))
	m.InotifyWatches = parseNumber(text("/proc/sys/fs/inotify/max_user_watches"))
	m.InotifyInstances = parseNumber(text("/proc/sys/fs/inotify/max_user_instances"))
	m.CPUs = countList(text("/sys/devices/system/cpu/online"))
	return m
}

// lastPID reads the last word of /proc/loadavg.
func lastPID(b []byte) sample.Opt[uint64] {
	fields := bytes.Fields(b)
	if len(fields) != 5 {
		return sample.Opt[uint64]{}
	}
	return someIf(kfile.Uint(fields[4]))
}

func kibi(o sample.Opt[uint64]) sample.Opt[uint64] {
	v, ok := o.Get()
	return someIf(v<<10, ok && v < 1<<54)
}

// parseMachineMemory reads /proc/meminfo down to Committed_AS.
func parseMachineMemory(b []byte, m *sample.Machine) {
	for key, value := range kfile.Pairs(b) {
		switch string(key) {
		case "MemTotal":
			m.MemoryTotalBytes = kibibytes(value)
		case "MemAvailable":
			m.MemoryAvailableBytes = kibibytes(value)
		case "SwapTotal":
			m.SwapTotalBytes = kibibytes(value)
		case "SwapFree":
			m.SwapFreeBytes = kibibytes(value)
		case "CommitLimit":
			m.CommitLimitBytes = kibibytes(value)
		case "Committed_AS":
			m.CommittedBytes = kibibytes(value)
		}
	}
}
