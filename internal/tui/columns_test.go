package tui

import (
	"testing"

	"rmagent/record"
)

func TestFullIn(t *testing.T) {
	for _, c := range []struct {
		ratio, seconds record.Opt[float64]
		want           string
	}{
		{record.Some(1.0), record.Opt[float64]{}, "now"},
		{record.Some(1.5), record.Some(9.0), "now"}, // the limit was lowered
		{record.Some(0.9), record.Some(9.0), "9 s"},
		{record.Some(0.9), record.Opt[float64]{}, unknown},
		{record.Opt[float64]{}, record.Opt[float64]{}, unknown},
	} {
		r := &row{Process: &record.Process{}}
		r.FDRatio, r.FDSecondsToLimit = c.ratio, c.seconds
		if got := leftCell(r); got != c.want {
			t.Errorf("used %v, %v s left: %q, want %q", c.ratio, c.seconds, got, c.want)
		}
	}
}
