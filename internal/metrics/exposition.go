package metrics

import (
	"math"
	"strconv"
	"strings"
)

// exposition is the text of a scrape, in Prometheus's format, version 0.0.4, or in
// OpenMetrics, version 1.0:
// https://prometheus.io/docs/instrumenting/exposition_formats/ and
// https://prometheus.io/docs/specs/om/open_metrics_spec/. Families are written one after
// the other, each with all its series, so nothing has to be gathered and sorted.
type exposition struct {
	buf  []byte
	open bool // OpenMetrics
}

// labelEscapes is the same in both formats. What is not UTF-8 is not in records.
var labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// family begins a metric. The help has nothing that would have to be escaped.
func (e *exposition) family(name, help string, counter bool) {
	kind := "gauge"
	if counter {
		kind = "counter"
		if e.open { // there the family's name is without what its series end with
			name = strings.TrimSuffix(name, "_total")
		}
	}
	for _, s := range [...]string{"# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"} {
		e.buf = append(e.buf, s...)
	}
}

func (e *exposition) sample(name, labels string, v float64) {
	e.buf = append(append(append(e.buf, name...), labels...), ' ')
	switch {
	case math.IsInf(v, 1):
		e.buf = append(e.buf, "+Inf"...)
	case v == math.Trunc(v) && math.Abs(v) < 1<<53:
		e.buf = strconv.AppendInt(e.buf, int64(v), 10)
	default:
		e.buf = strconv.AppendFloat(e.buf, v, 'g', -1, 64)
	}
	e.buf = append(e.buf, '\n')
}

// end returns the text.
func (e *exposition) end() []byte {
	if e.open {
		e.buf = append(e.buf, "# EOF\n"...)
	}
	return e.buf
}
