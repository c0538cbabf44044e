package htmlreport

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// chart is a drawing of series over time. Positions are shares of the plot in
// percent, from the left and from the top.
type chart struct {
	ID      string
	Title   string
	Note    string
	Unit    unit
	Y, X    []tick
	Limit   *tick
	Lines   []line
	Shades  []span
	Summary string // for those who can't see it
	Data    chartData
}

type tick struct {
	At    float64
	Label string
}

// line is a series in a chart.
type line struct {
	Class   string
	Label   string
	Numbers string // mean and peak
	Path    string // of the mean
	Band    string // between the least and the greatest
}

// span is a stretch of time in a plot.
type span struct {
	Left, Width float64
	Class       string
	Title       string
}

// chartData is what the page's script shows where one points.
type chartData struct {
	Begin int64        `json:"begin"` // Unix milliseconds
	End   int64        `json:"end"`
	Top   float64      `json:"top"` // value of the upper edge
	Unit  unit         `json:"unit"`
	Lines []seriesData `json:"lines"`
}

type seriesData struct {
	Label string `json:"label"`
	Class string `json:"class"`
	Width int64  `json:"width"` // of a bucket, in milliseconds
	First int64  `json:"first"` // time of the first / Width
	Mean  values `json:"mean"`
	Max   values `json:"max"`
}

// values are numbers of four digits in JSON, null where nothing is known.
type values []float64

// MarshalJSON writes them.
func (v values) MarshalJSON() ([]byte, error) {
	out := []byte{'['}
	for i, x := range v {
		if i > 0 {
			out = append(out, ',')
		}
		if math.IsNaN(x) {
			out = append(out, "null"...)
			continue
		}
		out = strconv.AppendFloat(out, x, 'g', 4, 64)
	}
	return append(out, ']'), nil
}

// Size of a plot in the units of its paths; the page stretches it.
const (
	plotWidth  = 1000
	plotHeight = 200
)

// plot lays out charts over one stretch of time.
type plot struct {
	begin, end int64 // Unix milliseconds
	clock      clock
	shades     []span
	x          []tick
	charts     int
	prefix     string
}

func newPlot(prefix string, first, last int64) *plot {
	if last-first < 1000 {
		last = first + 1000
	}
	p := &plot{begin: first, end: last, clock: newClock(first, last), prefix: prefix}
	p.x = timeTicks(first, last)
	return p
}

// left is where a time is, in percent.
func (p *plot) left(ms int64) float64 {
	v := float64(ms-p.begin) / float64(p.end-p.begin) * 100
	return round(min(max(v, 0), 100))
}

func (p *plot) span(from, to int64, class, title string) span {
	left := p.left(from)
	return span{left, round(p.left(to) - left), class, title}
}

func round(v float64) float64 { return math.Round(v*100) / 100 }

// drawn is a series to be drawn under a name.
type drawn struct {
	label string
	*series
}

// limitLine is a value that can't be passed. It is drawn where it does not flatten the rest.
type limitLine struct {
	value float64 // 0: none
	label string
}

// chart draws those of the series that have values; nil where none has. least is a
// value that the axis reaches at least.
func (p *plot) chart(title string, u unit, least float64, limit limitLine, list ...drawn) *chart {
	c := &chart{Title: title, Unit: u, X: p.x, Shades: p.shades}
	top := least
	for _, d := range list {
		if !d.empty() {
			top = max(top, d.peak)
		}
	}
	if limit.value > 0 && limit.value <= 4*top {
		top = max(top, limit.value)
	}
	c.Y, top = valueTicks(u, top)
	c.Data = chartData{Begin: p.begin, End: p.end, Top: top, Unit: u}
	if limit.value > 0 && limit.value <= top {
		c.Limit = &tick{round(100 - limit.value/top*100), limit.label + " " + u.format(limit.value)}
	}
	for i, d := range list {
		if d.empty() {
			continue
		}
		class := fmt.Sprintf("c%d", i%colours+1)
		c.Lines = append(c.Lines, p.line(d, class, u, top))
		c.Data.Lines = append(c.Data.Lines, dataOf(d, class))
	}
	if len(c.Lines) == 0 {
		return nil
	}
	p.charts++
	c.ID = fmt.Sprintf("%s-%d", p.prefix, p.charts)
	var parts []string
	for _, l := range c.Lines {
		parts = append(parts, l.Label+": "+l.Numbers)
	}
	c.Summary = title + ". " + strings.Join(parts, "; ")
	return c
}

// colours is how many the page has for lines.
const colours = 8

func (p *plot) line(d drawn, class string, u unit, top float64) line {
	l := line{Class: class, Label: d.label}
	l.Numbers = fmt.Sprintf("mean %s, peak %s at %s", u.format(d.mean()), u.format(d.peak), p.clock.format(d.peakAt))
	var path, band strings.Builder
	for _, run := range d.runs() {
		p.trace(&path, &band, d.series, run, top)
	}
	l.Path, l.Band = path.String(), band.String()
	return l
}

// trace draws a stretch of buckets: the mean as a line, and the band from the least
// to the greatest around it.
func (p *plot) trace(path, band *strings.Builder, s *series, run [2]int, top float64) {
	x := func(i int) float64 {
		ms := min(max(s.middle(i), p.begin), p.end)
		return float64(ms-p.begin) / float64(p.end-p.begin) * plotWidth
	}
	y := func(v float64) float64 { return plotHeight - min(max(v/top, 0), 1)*plotHeight }
	begin := true
	var upper, lower []point
	for i := run[0]; i < run[1]; i++ {
		b := &s.buckets[i]
		if b.n == 0 {
			continue
		}
		upper = append(upper, point{x(i), y(float64(b.max))})
		lower = append(lower, point{x(i), y(float64(b.min))})
		command := "L"
		if begin {
			command, begin = "M", false
		}
		fmt.Fprintf(path, "%s%.1f %.1f", command, x(i), y(b.mean()))
	}
	if len(upper) == 1 {
		path.WriteString("h0.1") // a lone value is a dot
		return
	}
	for i, q := range upper {
		command := "L"
		if i == 0 {
			command = "M"
		}
		fmt.Fprintf(band, "%s%.1f %.1f", command, q.x, q.y)
	}
	for i := len(lower) - 1; i >= 0; i-- {
		fmt.Fprintf(band, "L%.1f %.1f", lower[i].x, lower[i].y)
	}
	band.WriteString("Z")
}

type point struct{ x, y float64 }

func dataOf(d drawn, class string) seriesData {
	data := seriesData{Label: d.label, Class: class, Width: d.width, First: d.first}
	for i := range d.buckets {
		b := &d.buckets[i]
		if b.n == 0 {
			data.Mean, data.Max = append(data.Mean, math.NaN()), append(data.Max, math.NaN())
			continue
		}
		data.Mean, data.Max = append(data.Mean, b.mean()), append(data.Max, float64(b.max))
	}
	return data
}

// valueTicks chooses round values from 0 to at least top, and the upper edge.
func valueTicks(u unit, top float64) (list []tick, edge float64) {
	if !(top > 0) {
		top = 1
		if u == unitRatio {
			top = 0.01
		}
	}
	step := roundStep(top/4, u)
	edge = math.Ceil(top/step-1e-9) * step
	for v := 0.0; v <= edge*(1+1e-9); v += step {
		list = append(list, tick{round(100 - v/edge*100), strings.Replace(u.format(v), ".0 ", " ", 1)})
	}
	return list, edge
}

// roundStep is the least round number that is not less than v.
func roundStep(v float64, u unit) float64 {
	if (u == unitBytes || u == unitRate) && v >= 1 {
		scale := math.Pow(1024, math.Floor(math.Log2(v)/10))
		for _, f := range [...]float64{1, 2, 4, 5, 8, 10, 16, 20, 32, 40, 50, 64, 80, 100, 128, 200, 256, 400, 512, 1024} {
			if f*scale >= v {
				return f * scale
			}
		}
	}
	scale := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range [...]float64{1, 2, 2.5, 5} {
		if f*scale >= v && (f != 2.5 || u == unitRatio || scale >= 10) {
			if u == unitCount && f*scale < 1 {
				return 1
			}
			return f * scale
		}
	}
	return 10 * scale
}

// timeTicks chooses about six round times.
func timeTicks(begin, end int64) []tick {
	const day = 24 * time.Hour
	step := 365 * day
	span := time.Duration(end-begin) * time.Millisecond
	for _, s := range [...]time.Duration{
		time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
		time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
		day, 2 * day, 7 * day, 14 * day, 28 * day, 91 * day,
	} {
		if span <= 7*s {
			step = s
			break
		}
	}
	layout := "15:04:05"
	switch {
	case step >= day:
		layout = "2 Jan"
	case span > 20*time.Hour:
		layout = "2 Jan 15:04"
	case step >= time.Minute:
		layout = "15:04"
	}
	ms := step.Milliseconds()
	var list []tick
	for t := (floorDiv(begin, ms) + 1) * ms; t < end && len(list) < 12; t += ms {
		list = append(list, tick{round(float64(t-begin) / float64(end-begin) * 100), at(t).Format(layout)})
	}
	return list
}

// Size of a sparkline.
const (
	sparkWidth  = 120
	sparkHeight = 26
)

// spark draws a series small, by its greatest values from 0 to top.
func (p *plot) spark(s *series, top float64) string {
	if s.empty() || !(top > 0) {
		return ""
	}
	var path strings.Builder
	for _, run := range s.runs() {
		command, n := "M", 0
		for i := run[0]; i < run[1]; i++ {
			b := &s.buckets[i]
			if b.n == 0 {
				continue
			}
			ms := min(max(s.middle(i), p.begin), p.end)
			fmt.Fprintf(&path, "%s%.1f %.1f", command, float64(ms-p.begin)/float64(p.end-p.begin)*sparkWidth,
				sparkHeight-1-min(max(float64(b.max)/top, 0), 1)*(sparkHeight-3))
			command = "L"
			n++
		}
		if n == 1 {
			path.WriteString("h1")
		}
	}
	return path.String()
}
