package cctools

import (
	"bytes"
	"strconv"
	"strings"

	"rmagent/record"
)

// object is a JSON object that keeps the order of its names. Values are strings,
// ints, numbers (already text), values with units, and objects.
type object []member

type member struct {
	name  string
	value any
}

// number is a number as it stands in the file.
type number string

// quantity is [value, "unit"].
type quantity struct {
	value number
	unit  string
}

func (o *object) add(name string, value any) { *o = append(*o, member{name, value}) }

// numberOf writes v, rounded already, without zeros that say nothing.
func numberOf(v float64) number {
	return number(strconv.FormatFloat(v, 'f', -1, 64))
}

// compact writes o in one line, without spaces.
func (o object) compact(b *bytes.Buffer) {
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		writeString(b, m.name)
		b.WriteByte(':')
		compactValue(b, m.value)
	}
	b.WriteByte('}')
}

func compactValue(b *bytes.Buffer, v any) {
	switch v := v.(type) {
	case object:
		v.compact(b)
	case []object:
		b.WriteByte('[')
		for i, o := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			o.compact(b)
		}
		b.WriteByte(']')
	case quantity:
		b.WriteByte('[')
		b.WriteString(string(v.value))
		b.WriteByte(',')
		writeString(b, v.unit)
		b.WriteByte(']')
	default:
		scalar(b, v)
	}
}

// pretty writes o as cctools lays it out: each brace and bracket in a line of its
// own, two spaces a level, and an empty line before the first.
func (o object) pretty(b *bytes.Buffer, level int) {
	newline(b, level)
	b.WriteString("{\n")
	for i, m := range o {
		indent(b, level+1)
		writeString(b, m.name)
		b.WriteByte(':')
		prettyValue(b, m.value, level+2)
		endOfItem(b, i == len(o)-1)
	}
	indent(b, level)
	b.WriteByte('}')
}

func prettyValue(b *bytes.Buffer, v any, level int) {
	switch v := v.(type) {
	case object:
		v.pretty(b, level)
	case []object:
		newline(b, level)
		b.WriteString("[\n")
		for i, o := range v {
			indent(b, level+1)
			o.pretty(b, level+1)
			endOfItem(b, i == len(v)-1)
		}
		indent(b, level)
		b.WriteByte(']')
	case quantity:
		newline(b, level)
		b.WriteString("[\n")
		indent(b, level+1)
		b.WriteString(string(v.value))
		b.WriteString(",\n")
		indent(b, level+1)
		writeString(b, v.unit)
		b.WriteByte('\n')
		indent(b, level)
		b.WriteByte(']')
	default:
		scalar(b, v)
	}
}

func newline(b *bytes.Buffer, level int) {
	b.WriteByte('\n')
	indent(b, level)
}

func indent(b *bytes.Buffer, level int) { b.WriteString(strings.Repeat("  ", level)) }

func endOfItem(b *bytes.Buffer, last bool) {
	if !last {
		b.WriteByte(',')
	}
	b.WriteByte('\n')
}

func scalar(b *bytes.Buffer, v any) {
	switch v := v.(type) {
	case string:
		writeString(b, v)
	case number:
		b.WriteString(string(v))
	case int:
		b.WriteString(strconv.Itoa(v))
	case uint64:
		b.WriteString(strconv.FormatUint(v, 10))
	default:
		panic("cctools: no JSON for this type")
	}
}

// writeString writes a string that is safe to show on a terminal and that cctools
// reads, which knows \u only up to 7f: what is above and acts on a terminal, and
// bytes that are not UTF-8, appear as \xNN, the four characters.
func writeString(b *bytes.Buffer, s string) {
	const hex = "0123456789abcdef"
	b.WriteByte('"')
	for _, r := range record.Text([]byte(s)) {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r > 0 && r < ' ' || r == 0x7f:
			b.WriteString(`\u00`)
			b.WriteByte(hex[r>>4])
			b.WriteByte(hex[r&15])
		case r == 0 || r >= 0x80 && r < 0xa0:
			b.WriteString(`\\x`)
			b.WriteByte(hex[r>>4])
			b.WriteByte(hex[r&15])
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}
