package hostfs

import (
	"bytes"

	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// parsePressure reads avg10 from the lines of a pressure file, "some avg10=0.12
// avg60=...", as ratios.
func parsePressure(b []byte) (some, full sample.Opt[float64]) {
	for len(b) > 0 {
		var line []byte
		line, b = kfile.Line(b)
		kind, line := kfile.Word(line)
		first, _ := kfile.Word(line)
		value, _ := bytes.CutPrefix(first, []byte("avg10="))
		percent, ok := kfile.Decimal(value)
		ok = ok && percent <= 100_00
		switch string(kind) {
		case "some":
			some = someIf(float64(percent)/100_00, ok)
		case "full":
			full = someIf(float64(percent)/100_00, ok)
		}
	}
	return some, full
}
