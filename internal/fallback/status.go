package fallback

import (
	"math"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// parseStatus reads /proc/PID/status. The kernel escapes newlines in the name
// there, so that no name can forge a line. A task without Vm lines has no memory
// (kernel threads, zombies): its sizes are known to be 0, but not its peak.
func parseStatus(b []byte, p *sample.Process) {
	hasMemory := false
lines:
	for key, value := range kfile.Pairs(b) {
		switch string(key) {
		case "Uid":
			if v, _, ok := kfile.NextUint(value); ok && v <= math.MaxUint32 {
				p.UID = uint32(v)
				p.Known |= 1 << sample.UID
			}
		case "NSpid":
			parseNSPID(value, p)
		case "VmSize":
			hasMemory = true
		case "VmHWM":
			kibibytes(value, &p.RSSPeakBytes, sample.RSSPeak, p)
		case "RssAnon":
			kibibytes(value, &p.RSSAnonBytes, sample.RSSAnon, p)
		case "RssFile":
			kibibytes(value, &p.RSSFileBytes, sample.RSSFile, p)
		case "RssShmem":
			kibibytes(value, &p.RSSShmemBytes, sample.RSSShmem, p)
		case "VmSwap":
			kibibytes(value, &p.SwapBytes, sample.Swap, p)
		case "Threads": // nothing wanted comes after it
			break lines
		}
	}
	if !hasMemory {
		p.Known |= memoryFields &^ (1 << sample.RSSPeak)
	}
}

// parseNSPID takes the last PID: the one in the process's own namespace.
func parseNSPID(value []byte, p *sample.Process) {
	for {
		var word []byte
		word, value = kfile.Word(value)
		if len(word) == 0 {
			return
		}
		pid, ok := kfile.PID(word)
		if !ok {
			p.Known &^= 1 << sample.NSPID
			return
		}
		p.NSPID = pid
		p.Known |= 1 << sample.NSPID
	}
}

func kibibytes(value []byte, dst *uint64, f sample.Field, p *sample.Process) {
	v, rest, ok := kfile.NextUint(value)
	unit, _ := kfile.Word(rest)
	if ok && v < 1<<54 && string(unit) == "kB" {
		*dst = v << 10
		p.Known |= 1 << f
	}
}
