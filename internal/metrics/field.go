package metrics

import (
	"strings"

	"rmagent/record"
)

type num = record.Opt[float64]

// field is one metric of things of type T. Unknown values have no series.
type field[T any] struct {
	name, help string
	counter    bool
	get        func(*T) num
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

func (t *table[T]) gauge(name, help string, get func(*T) num) {
	t.fields = append(t.fields, field[T]{t.prefix + name, help, false, get})
}

// counter adds a metric whose name ends with _total.
func (t *table[T]) counter(name, help string, get func(*T) num) {
	t.fields = append(t.fields, field[T]{t.prefix + name, help, true, get})
}

// names lists the table's metrics.
func (t *table[T]) names() []string {
	list := make([]string, len(t.fields))
	for i := range t.fields {
		list[i] = t.fields[i].name
	}
	return list
}

// row is one thing with its labels, encoded.
type row[T any] struct {
	of     *T
	labels string
}

// row makes a row; the labels come in the order of the table's.
func (t *table[T]) row(of *T, labels ...string) row[T] {
	if len(labels) == 0 {
		return row[T]{of: of}
	}
	var b strings.Builder
	for i, value := range labels {
		b.WriteByte(",{"[b2i(i == 0)])
		b.WriteString(t.labels[i])
		b.WriteString(`="`)
		_, _ = labelEscapes.WriteString(&b, value) // a Builder takes everything
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return row[T]{of, b.String()}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// write adds what is known of the rows, a metric at a time.
func (t *table[T]) write(e *exposition, rows ...row[T]) {
	for i := range t.fields {
		f := &t.fields[i]
		begun := false
		for j := range rows {
			x, ok := f.get(rows[j].of).Get()
			if !ok {
				continue
			}
			if !begun {
				e.family(f.name, f.help, f.counter)
				begun = true
			}
			e.sample(f.name, rows[j].labels, x)
		}
	}
}

func ratio(part, whole record.Opt[uint64]) num {
	p, ok1 := part.Get()
	w, ok2 := whole.Get()
	if !ok1 || !ok2 || w == 0 {
		return num{}
	}
	return record.Some(float64(p) / float64(w))
}
