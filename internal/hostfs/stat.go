package hostfs

import (
	"bytes"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

const nanosPerTick = 1e9 / sample.UserHz

// parseCPU reads the CPU lines of /proc/stat: user nice system idle iowait irq
// softirq steal guest guest_nice. Guest time is within user and nice already.
// Stolen time counts as busy: it is not there to be used. Lines of single CPUs
// are printed for those that are online.
func parseCPU(b []byte, dst *sample.Host) {
	line, b := kfile.Line(b)
	rest, ok := bytes.CutPrefix(line, []byte("cpu "))
	if !ok {
		return
	}
	var ticks [8]uint64
	for i := range ticks {
		if ticks[i], rest, ok = kfile.NextUint(rest); !ok {
			return
		}
	}
	const idle, iowait = 3, 4
	var all uint64
	for _, t := range ticks {
		all += t
	}
	dst.CPUAllNanos = some(all * nanosPerTick)
	dst.CPUBusyNanos = some((all - ticks[idle] - ticks[iowait]) * nanosPerTick)
	dst.CPUCount = some(countCPUs(b))
}

func countCPUs(b []byte) (n uint64) {
	for bytes.HasPrefix(b, []byte("cpu")) {
		_, b = kfile.Line(b)
		n++
	}
	return n
}
