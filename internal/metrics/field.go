package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"rmagent/record"
)

type num = record.Opt[float64]

// field is one metric of things of type T. Unknown values have no series.
type field[T any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	get  func(*T) num
}

// table makes fields whose names begin alike and which have the same labels.
type table[T any] struct {
	prefix string
	labels []string
	fields []field[T]
}

func newTable[T any](prefix string, labels ...string) *table[T] {
	return &table[T]{prefix: prefix, labels: labels}
}

func (t *table[T]) add(kind prometheus.ValueType, name, help string, get func(*T) num) {
	t.fields = append(t.fields, field[T]{prometheus.NewDesc(t.prefix+name, help, t.labels, nil), kind, get})
}

func (t *table[T]) gauge(name, help string, get func(*T) num) {
	t.add(prometheus.GaugeValue, name, help, get)
}

func (t *table[T]) counter(name, help string, get func(*T) num) {
	t.add(prometheus.CounterValue, name, help, get)
}

func (t *table[T]) describe(out chan<- *prometheus.Desc) {
	for i := range t.fields {
		out <- t.fields[i].desc
	}
}

// collect sends what is known of v.
func (t *table[T]) collect(out chan<- prometheus.Metric, v *T, labels ...string) {
	for i := range t.fields {
		f := &t.fields[i]
		if x, ok := f.get(v).Get(); ok {
			out <- prometheus.MustNewConstMetric(f.desc, f.kind, x, labels...)
		}
	}
}

func float(o record.Opt[uint64]) num {
	v, ok := o.Get()
	return record.SomeIf(float64(v), ok)
}

func ratio(part, whole record.Opt[uint64]) num {
	p, ok1 := part.Get()
	w, ok2 := whole.Get()
	if !ok1 || !ok2 || w == 0 {
		return num{}
	}
	return record.Some(float64(p) / float64(w))
}
