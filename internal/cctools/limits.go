package cctools

import (
	"fmt"
	"strings"
)

// Limits are what a job may use at most, in the units of the measures. The zero
// Limits has none. A limit of 0 is broken by the least use.
type Limits struct{ Measures }

// coresForgiven is what cctools forgives above the limit of cores: a short peak of
// threads is no theft.
const coresForgiven = 0.25

// Broken returns the limits that values are above, in the order of the measures,
// or nil. Unknown values break no limit. Values are compared as they are, not as a
// summary rounds them.
func (l *Limits) Broken(values *Measures) []Exceeded {
	if l.known&values.known == 0 {
		return nil
	}
	var broken []Exceeded
	for id := range Measure(NumMeasures) {
		limit, limited := l.Get(id)
		v, known := values.Get(id)
		if limited && known && l.above(id, v) {
			broken = append(broken, Exceeded{Measure: id, Limit: limit, Value: v})
		}
	}
	return broken
}

// above reports whether v is more than the limit of a measure that has one.
func (l *Limits) above(id Measure, v float64) bool {
	limit := l.values[id]
	if id == Cores {
		limit += coresForgiven
	}
	return v > limit
}

// Merge takes the limits of other over, where it has any.
func (l *Limits) Merge(other *Limits) {
	for id := range Measure(NumMeasures) {
		if v, ok := other.Get(id); ok {
			l.Set(id, v)
		}
	}
}

// Names returns the measures that are limited.
func (l *Limits) Names() []Measure {
	var names []Measure
	for id := range Measure(NumMeasures) {
		if l.Known(id) {
			names = append(names, id)
		}
	}
	return names
}

// Exceeded is a limit that was broken.
type Exceeded struct {
	Measure Measure
	Limit   float64
	Value   float64 // what was measured then
	Seconds float64 // since the job's start
}

// String says what was broken, by how much and when.
func (e Exceeded) String() string {
	m, v := e.Measure, e.Measure.Text(e.Value)
	if m.Round(e.Value) <= e.Limit { // what a summary rounds away broke the limit
		v = trimZeros(e.Value)
	}
	return fmt.Sprintf("%s: %s %s > %s %s after %.3f s", m, v, m.Unit(), trimZeros(e.Limit), m.Unit(), e.Seconds)
}

// LimitsText is the text of a broken limit in errors: "Limits broken: a: 1,b: 2".
func LimitsText(broken []Exceeded) string {
	parts := make([]string, len(broken))
	for i, e := range broken {
		parts[i] = fmt.Sprintf("%s: %s", e.Measure, trimZeros(e.Limit))
	}
	return "Limits broken: " + strings.Join(parts, ",")
}
