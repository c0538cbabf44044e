package hostfs

import (
	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// parseMeminfo reads /proc/meminfo. MemAvailable came with 3.14; without it
// nobody can say, so it stays unknown.
func parseMeminfo(b []byte, dst *sample.Host) {
	for key, value := range kfile.Pairs(b) {
		switch string(key) {
		case "MemTotal":
			dst.MemoryTotalBytes = kibibytes(value)
		case "MemAvailable":
			dst.MemoryAvailableBytes = kibibytes(value)
		case "SwapTotal":
			dst.SwapTotalBytes = kibibytes(value)
		case "SwapFree": // the last of them
			dst.SwapFreeBytes = kibibytes(value)
			return
		}
	}
}

func kibibytes(value []byte) sample.Opt[uint64] {
	v, rest, ok := kfile.NextUint(value)
	unit, _ := kfile.Word(rest)
	return someIf(v<<10, ok && v < 1<<54 && string(unit) == "kB")
}
