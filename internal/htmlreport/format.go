package htmlreport

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"rmagent/internal/human"
)

// unit says how the numbers of a chart are written. The page's script has the same.
type unit string

const (
	unitRatio unit = "ratio"
	unitBytes unit = "bytes"
	unitRate  unit = "rate" // bytes a second
	unitCount unit = "count"
)

// format writes a value as people read it.
func (u unit) format(v float64) string {
	switch u {
	case unitRatio:
		return percent(v)
	case unitBytes:
		return human.Bytes(v)
	case unitRate:
		return human.Bytes(v) + "/s"
	}
	return count(v)
}

// percent writes a share. It never says 100 % while something is left.
func percent(ratio float64) string {
	v := ratio * 100
	switch {
	case v > 99 && v < 100:
		return "99%"
	case v != 0 && math.Abs(v) < 10 && v != math.Trunc(v):
		return fmt.Sprintf("%.1f%%", v)
	}
	return fmt.Sprintf("%.0f%%", v)
}

// count writes a number with its thousands apart.
func count(v float64) string {
	if v != math.Trunc(v) && math.Abs(v) < 100 {
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	digits := strconv.FormatFloat(math.Abs(v), 'f', 0, 64)
	var out strings.Builder
	if v < 0 {
		out.WriteByte('-')
	}
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			out.WriteByte(',')
		}
		out.WriteRune(d)
	}
	return out.String()
}

func number(n uint64) string { return count(float64(n)) }

// plural writes how many there are.
func plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// seconds writes a length of time.
func seconds(s float64) string {
	switch {
	case s == 0:
		return "0 s"
	case s < 0.0995:
		return fmt.Sprintf("%.1f ms", s*1000)
	case s < 10:
		return fmt.Sprintf("%.1f s", s)
	}
	return human.Seconds(s)
}

// clock writes times: with the day where the records span more than one.
type clock struct{ days bool }

func newClock(first, last int64) clock {
	return clock{at(first).Format(time.DateOnly) != at(last).Format(time.DateOnly)}
}

func (c clock) format(ms int64) string {
	if c.days {
		return at(ms).Format("2 Jan 15:04:05")
	}
	return at(ms).Format("15:04:05")
}
