package hostfs

import (
	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// parseNumber reads a file of one number.
func parseNumber(b []byte) sample.Opt[uint64] {
	v, rest, ok := kfile.NextUint(b)
	more, _ := kfile.Word(rest)
	return someIf(v, ok && len(more) == 0)
}

// parseFileNr reads fs.file-nr: the open file descriptions, a constant 0, and
// fs.file-max. Linux 6.18 sums the CPUs' counters; 6.12 and before may be off by the
// 32 that each CPU keeps to itself (percpu_counter_read_positive).
func parseFileNr(b []byte, dst *sample.Host) {
	open, b, okOpen := kfile.NextUint(b)
	_, b, _ = kfile.NextUint(b)
	limit, _, okLimit := kfile.NextUint(b)
	if okOpen && okLimit {
		dst.FilesOpen, dst.FilesLimit = some(open), some(limit)
	}
}
