package fallback

import (
	"bytes"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

var openFiles = []byte("Max open files")

// parseLimits reads RLIMIT_NOFILE from /proc/PID/limits.
func parseLimits(b []byte, p *sample.Process) {
	for len(b) > 0 {
		var line []byte
		line, b = kfile.Line(b)
		value, ok := bytes.CutPrefix(line, openFiles)
		if !ok {
			continue
		}
		word, value := kfile.Word(value)
		soft, ok := limit(word)
		if !ok {
			return
		}
		word, _ = kfile.Word(value)
		hard, ok := limit(word)
		if !ok {
			return
		}
		p.FDLimit, p.FDHardLimit = soft, hard
		p.Known |= limitFields
		return
	}
}

func limit(word []byte) (uint64, bool) {
	if string(word) == "unlimited" {
		return sample.Unlimited, true
	}
	return kfile.Uint(word)
}
