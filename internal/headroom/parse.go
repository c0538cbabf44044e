package headroom

import (
	"bytes"
	"math"
	"strconv"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
	"rmagent/record"
)

// status is what /proc/PID/status says beyond what sources read of it.
type status struct {
	realUID, effectiveUID           sample.Opt[uint32]
	threads                         sample.Opt[uint64]
	data, stack, locked, anon, swap sample.Opt[uint64]
	virtual                         sample.Opt[uint64]
	descriptorTable                 sample.Opt[uint64] // places in it
	signals                         sample.Opt[uint64]
	capabilities                    sample.Opt[uint64]
}

// parseStatus reads /proc/PID/status. The kernel escapes newlines in the name
// there, so that no name can forge a line.
func parseStatus(b []byte) (s status) {
	for key, value := range kfile.Pairs(b) {
		switch string(key) {
		case "Uid":
			s.parseUIDs(value)
		case "FDSize":
			s.descriptorTable = number(value)
		case "VmSize":
			s.virtual = kibibytes(value)
		case "VmLck":
			s.locked = kibibytes(value)
		case "VmData":
			s.data = kibibytes(value)
		case "VmStk":
			s.stack = kibibytes(value)
		case "RssAnon":
			s.anon = kibibytes(value)
		case "VmSwap":
			s.swap = kibibytes(value)
		case "Threads":
			s.threads = number(value)
		case "SigQ":
			queued, _, _ := bytes.Cut(bytes.TrimSpace(value), []byte{'/'})
			s.signals = number(queued)
		case "CapEff":
			v, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
			s.capabilities = record.SomeIf(v, err == nil)
		}
	}
	return s
}

func (s *status) parseUIDs(value []byte) {
	first, rest, okReal := kfile.NextUint(value)
	second, _, okEffective := kfile.NextUint(rest)
	s.realUID = record.SomeIf(uint32(first), okReal && first <= math.MaxUint32)
	s.effectiveUID = record.SomeIf(uint32(second), okEffective && second <= math.MaxUint32)
}

func number(value []byte) sample.Opt[uint64] {
	v, _, ok := kfile.NextUint(value)
	return record.SomeIf(v, ok)
}

func kibibytes(value []byte) sample.Opt[uint64] {
	v, rest, ok := kfile.NextUint(value)
	unit, _ := kfile.Word(rest)
	return record.SomeIf(v<<10, ok && v < 1<<54 && string(unit) == "kB")
}

// limitLines are how /proc/PID/limits calls the limits (fs/proc/base.c).
var limitLines = [numRlimits]string{
	nofile: "Max open files", nproc: "Max processes", addressSpace: "Max address space", data: "Max data size",
	stack: "Max stack size", fileSize: "Max file size", memlock: "Max locked memory", cpuTime: "Max cpu time",
	sigpending: "Max pending signals",
}

// parseLimits reads /proc/PID/limits.
func parseLimits(b []byte, dst *[numRlimits]Rlimit) {
	for len(b) > 0 {
		var line []byte
		line, b = kfile.Line(b)
		for i, name := range limitLines {
			rest, ok := bytes.CutPrefix(line, []byte(name+" "))
			if !ok {
				continue
			}
			soft, rest, okSoft := limitWord(rest)
			hard, _, okHard := limitWord(rest)
			dst[i] = Rlimit{soft, hard, okSoft && okHard}
		}
	}
}

func limitWord(b []byte) (uint64, []byte, bool) {
	word, rest := kfile.Word(b)
	if string(word) == "unlimited" {
		return sample.Unlimited, rest, true
	}
	v, ok := kfile.Uint(word)
	return v, rest, ok
}

// descriptor is what /proc/PID/fdinfo/N says.
type descriptor struct {
	mount   int32 // mnt_id
	writing bool
	watches uint64 // of an inotify instance
}

// parseDescriptor reads a /proc/PID/fdinfo/N; flags are octal (proc(5)).
func parseDescriptor(b []byte) (d descriptor, ok bool) {
	for key, value := range kfile.Pairs(b) {
		switch string(key) {
		case "flags":
			word, _ := kfile.Word(value)
			flags, err := strconv.ParseUint(string(word), 8, 32)
			const accessMode, readOnly, path = 3, 0, 0o10000000 // O_ACCMODE, O_RDONLY, O_PATH
			d.writing = flags&accessMode != readOnly && flags&path == 0
			ok = err == nil
		case "mnt_id":
			word, _ := kfile.Word(value)
			d.mount, _ = kfile.PID(word)
		default:
			if bytes.HasPrefix(key, []byte("inotify wd")) {
				d.watches++
			}
		}
	}
	return d, ok
}

// countMappings counts the lines of a /proc/PID/maps, but not vsyscall's, which
// is the kernel's own on every process (get_gate_vma).
func countMappings(b []byte) uint64 {
	n := uint64(bytes.Count(b, []byte{'\n'}))
	if bytes.HasSuffix(b, []byte("[vsyscall]\n")) {
		n--
	}
	return n
}
