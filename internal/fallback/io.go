package fallback

import (
	"bytes"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// parseIO reads /proc/PID/io: of the whole process, its dead threads included.
func parseIO(b []byte, p *sample.Process) {
	for len(b) > 0 {
		var line []byte
		line, b = kfile.Line(b)
		key, value, _ := bytes.Cut(line, []byte{':'})
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
