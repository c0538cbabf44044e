package tui

import (
	"fmt"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"rmagent/internal/human"
	"rmagent/record"
)

// Styles, as ECMA-48 has them (console_codes(4)). Where colours are not wanted, Bubble
// Tea leaves them out and keeps the rest.
type style string

const (
	plain    style = ""
	bold     style = "1"
	dim      style = "2"
	reverse  style = "7"
	red      style = "1;31"
	yellow   style = "33"
	green    style = "32"
	blue     style = "36"
	selected style = "7"
)

// in paints a text.
func (s style) in(text string) string {
	if s == plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// fit makes a text of exactly so many cells: cut, or filled with blanks on the right.
func fit(text string, width int) string {
	if width <= 0 {
		return ""
	}
	n := ansi.StringWidth(text)
	if n > width {
		text = ansi.Truncate(text, width, "…")
		n = ansi.StringWidth(text) // a wide character may leave a cell over
	}
	return text + strings.Repeat(" ", max(width-n, 0))
}

// right is fit for numbers: what is short stands on the right.
func right(text string, width int) string {
	if n := ansi.StringWidth(text); n < width {
		return strings.Repeat(" ", width-n) + text
	}
	return fit(text, width)
}

// unknown is written where a value is not known.
const unknown = "-"

// size writes bytes in five cells: 17M, 1.2G.
func size(n float64) string {
	if n == 0 {
		return "0"
	}
	return scaled(n, 1024, "BKMGTPE")
}

// count writes a great number of things in five cells: 16.3M, 977M.
func count(n float64) string { return scaled(n, 1000, " kMGTPE") }

// scaled writes a number in the unit in which it is less than a thousand. Without one, it is
// whole.
func scaled(n, base float64, units string) string {
	i := 0
	for n >= 999.5 && i < len(units)-1 {
		n /= base
		i++
	}
	if i == 0 || n >= 99.95 {
		return fmt.Sprintf("%.0f%c", n, units[i])
	}
	return fmt.Sprintf("%.1f%c", n, units[i])
}

func sizeOf(o record.Opt[uint64]) string {
	n, ok := o.Get()
	if !ok {
		return unknown
	}
	return size(float64(n))
}

// sum adds two rates, of which one may be unknown.
func sum(a, b record.Opt[float64]) record.Opt[float64] {
	return record.SomeIf(a.Or(0)+b.Or(0), a.Known() || b.Known())
}

func rateOf(o record.Opt[float64]) string {
	n, ok := o.Get()
	if !ok {
		return unknown
	}
	return size(n)
}

func percentOf(o record.Opt[float64]) string {
	v, ok := o.Get()
	if !ok {
		return unknown
	}
	return human.Percent(v)
}

func countOf(o record.Opt[uint64]) string {
	n, ok := o.Get()
	switch {
	case !ok:
		return unknown
	case n >= 1<<62: // the kernel's way to say that there is no limit
		return "no limit"
	}
	return fmt.Sprint(n)
}

// left writes a time until something in eight cells.
func left(seconds float64) string {
	text := human.Seconds(seconds)
	return strings.Replace(text, "over a year", "> 1 year", 1)
}

// clock writes a time of day.
func clock(t time.Time) string { return t.Format("15:04:05") }

// glyphs are what bars and sparklines are made of.
type glyphs struct {
	full, empty string
	levels      []string
	branch, end string
	pipe, gap   string
}

var unicodeGlyphs = glyphs{
	full: "█", empty: "░", levels: []string{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"},
	branch: "├─", end: "└─", pipe: "│ ", gap: "  ",
}

var asciiGlyphs = glyphs{
	full: "#", empty: ".", levels: []string{"_", ".", "-", "=", "+", "*", "%", "#"},
	branch: "|-", end: "`-", pipe: "| ", gap: "  ",
}

// bar draws a share in so many cells.
func (g *glyphs) bar(ratio float64, width int) string {
	n := min(width, max(0, int(ratio*float64(width)+0.5)))
	return shareStyle(ratio).in(strings.Repeat(g.full, n)) + dim.in(strings.Repeat(g.empty, width-n))
}

// shareStyle warns as a share comes near to all.
func shareStyle(ratio float64) style {
	switch {
	case ratio >= 0.9:
		return red
	case ratio >= 0.7:
		return yellow
	}
	return green
}

// spark draws the last values in so many cells, from 0 to top; top 0: to the greatest.
func (g *glyphs) spark(h history, width int, top float64) string {
	values := h.last(width)
	for _, v := range values {
		if top == 0 || float64(v) > top {
			top = max(top, float64(v))
		}
	}
	var out strings.Builder
	for range width - len(values) {
		out.WriteByte(' ')
	}
	for _, v := range values {
		switch {
		case v < 0:
			out.WriteByte(' ') // unknown
		case top <= 0:
			out.WriteString(g.levels[0])
		default:
			out.WriteString(g.levels[min(len(g.levels)-1, int(float64(v)/top*float64(len(g.levels))))])
		}
	}
	return out.String()
}

// historyLength is how many readings are remembered.
const historyLength = 60

// history is the last values, oldest first; one that is unknown is negative.
type history []float32

func (h *history) add(o record.Opt[float64]) {
	v := float32(o.Or(-1))
	if len(*h) == historyLength {
		copy(*h, (*h)[1:])
		(*h)[historyLength-1] = v
		return
	}
	*h = append(*h, v)
}

func (h history) last(n int) history { return h[max(0, len(h)-n):] }
