package hostfs

import (
	"bytes"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// parseLoad reads /proc/loadavg: three loads, then the tasks that run and all
// tasks, kernel threads included.
func parseLoad(b []byte, dst *sample.Host) {
	first, b := kfile.Word(b)
	if load, ok := kfile.Decimal(first); ok {
		dst.Load1 = some(float64(load) / 100)
	}
	_, b = kfile.Word(b)
	_, b = kfile.Word(b)
	tasks, _ := kfile.Word(b)
	if _, all, ok := bytes.Cut(tasks, []byte{'/'}); ok {
		dst.Threads = someIf(kfile.Uint(all))
	}
}
