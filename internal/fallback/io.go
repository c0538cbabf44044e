package fallback

import (
	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// parseIO reads /proc/PID/io: of the whole process, its dead threads included.
func parseIO(b []byte, p *sample.Process) {
	for key, value := range kfile.Pairs(b) {
		v, _, ok := kfile.NextUint(value)
		if !ok {
			continue
		}
		switch string(key) {
		case "rchar":
			p.IOReadBytes = v
			p.Known |= 1 << sample.IORead
		case "wchar":
			p.IOWrittenBytes = v
			p.Known |= 1 << sample.IOWritten
		case "read_bytes":
			p.DiskReadBytes = v
			p.Known |= 1 << sample.DiskRead
		case "write_bytes":
			p.DiskWrittenBytes = v
			p.Known |= 1 << sample.DiskWritten
		}
	}
}
