package record

import (
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// encoder appends keys and values. The methods take the key with its comma,
// quotes and colon, as it stands in the line.
type encoder struct {
	buf []byte
	err error // the first thing that could not be encoded
}

func (e *encoder) raw(s string) { e.buf = append(e.buf, s...) }

func (e *encoder) uint(key string, v uint64) {
	e.buf = strconv.AppendUint(append(e.buf, key...), v, 10)
}

func (e *encoder) int(key string, v int64) {
	e.buf = strconv.AppendInt(append(e.buf, key...), v, 10)
}

func (e *encoder) bool(key string, v bool) {
	e.buf = strconv.AppendBool(append(e.buf, key...), v)
}

func (e *encoder) float(key string, v float64) {
	e.buf = appendFloat(append(e.buf, key...), v)
}

func (e *encoder) str(key, v string) {
	e.buf = appendString(append(e.buf, key...), v)
}

func (e *encoder) strs(key string, list []string) {
	e.list(key, list == nil, len(list), func(i int) { e.str("", list[i]) })
}

// list writes n elements, which write themselves, or null.
func (e *encoder) list(key string, null bool, n int, element func(i int)) {
	if null {
		e.null(key)
		return
	}
	e.raw(key)
	e.raw("[")
	for i := range n {
		if i > 0 {
			e.raw(",")
		}
		element(i)
	}
	e.raw("]")
}

func (e *encoder) timeIn(key string, t time.Time) {
	e.raw(key)
	b, ok := appendTime(e.buf, t)
	if !ok && e.err == nil {
		e.err = ErrTime
	}
	e.buf = b
}

func (e *encoder) null(key string) {
	e.buf = append(append(e.buf, key...), "null"...)
}

func (e *encoder) optUint(key string, v Opt[uint64]) {
	if !v.known {
		e.null(key)
		return
	}
	e.uint(key, v.value)
}

func (e *encoder) optUint32(key string, v Opt[uint32]) {
	e.optUint(key, Opt[uint64]{uint64(v.value), v.known})
}

func (e *encoder) optInt(key string, v Opt[int32]) {
	if !v.known {
		e.null(key)
		return
	}
	e.int(key, int64(v.value))
}

func (e *encoder) optBool(key string, v Opt[bool]) {
	if !v.known {
		e.null(key)
		return
	}
	e.bool(key, v.value)
}

func (e *encoder) optFloat(key string, v Opt[float64]) {
	if !v.known {
		e.null(key)
		return
	}
	e.float(key, v.value)
}

func (e *encoder) optStr(key string, v Opt[string]) {
	if !v.known {
		e.null(key)
		return
	}
	e.str(key, v.value)
}

// optTime writes a time that RFC 3339 can't hold as unknown.
func (e *encoder) optTime(key string, v Opt[time.Time]) {
	e.raw(key)
	if v.known {
		var ok bool
		if e.buf, ok = appendTime(e.buf, v.value); ok {
			return
		}
	}
	e.raw("null")
}

// escapeControls appends what encoding/json made, with DEL and the C1 controls
// escaped: it leaves them as they are. They can only stand inside strings.
func (e *encoder) escapeControls(json []byte) {
	for i := 0; i < len(json); i++ {
		switch c := json[i]; {
		case c == 0x7f:
			e.buf = appendUnicode(e.buf, rune(c))
		case c == 0xc2 && i+1 < len(json) && json[i+1] < 0xa0: // U+0080 to U+009F
			i++
			e.buf = appendUnicode(e.buf, rune(json[i]))
		default:
			e.buf = append(e.buf, c)
		}
	}
}

// appendFloat writes the shortest number that reads back as v, in the form that
// encoding/json gives it: ES6's.
func appendFloat(b []byte, v float64) []byte {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return append(b, "null"...)
	}
	// Most rates are 0 and many values are whole: an integer is written five
	// times faster.
	if i := int64(v); float64(i) == v && i > -1<<53 && i < 1<<53 && (i != 0 || !math.Signbit(v)) {
		return strconv.AppendInt(b, i, 10)
	}
	abs := math.Abs(v)
	if short, ok := appendShort(b, v, abs); ok {
		return short
	}
	if abs >= 1e-6 && abs < 1e21 || abs == 0 {
		return strconv.AppendFloat(b, v, 'f', -1, 64)
	}
	b = strconv.AppendFloat(b, v, 'e', -1, 64)
	if n := len(b); n >= 4 && b[n-4] == 'e' && b[n-3] == '-' && b[n-2] == '0' { // e-09 is e-9
		b[n-2] = b[n-1]
		b = b[:n-1]
	}
	return b
}

// appendShort writes a v that is a whole number of billionths or millionths, of at most 15
// digits, as nearly all are here: nanoseconds in seconds, and what was rounded. Decimals of
// so many digits are all of them different float64s, so that there is none shorter.
func appendShort(b []byte, v, abs float64) ([]byte, bool) {
	const limit = 1e15
	digits, unit := 9, uint64(1e9)
	if abs >= limit/1e9 {
		digits, unit = 6, 1e6
	}
	scaled := abs*float64(unit) + 0.5
	if abs < 1e-6 || scaled >= limit { // of the smaller ones encoding/json writes an exponent
		return b, false
	}
	n := uint64(scaled)
	if float64(n)/float64(unit) != abs {
		return b, false
	}
	if v < 0 {
		b = append(b, '-')
	}
	whole, rest := n/unit, n%unit
	for rest%10 == 0 { // it is not 0: v is not whole
		rest /= 10
		digits--
	}
	b = append(strconv.AppendUint(b, whole, 10), '.')
	return appendDigits(b, int(rest), digits), true
}

// appendTime writes t in UTC with nine digits of a second, or nothing if its
// year has no four digits.
func appendTime(b []byte, t time.Time) ([]byte, bool) {
	t = t.UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return b, false
	}
	hour, minute, second := t.Clock()
	b = append(b, '"')
	b = appendDigits(b, year, 4)
	b = append(b, '-')
	b = appendDigits(b, int(month), 2)
	b = append(b, '-')
	b = appendDigits(b, day, 2)
	b = append(b, 'T')
	b = appendDigits(b, hour, 2)
	b = append(b, ':')
	b = appendDigits(b, minute, 2)
	b = append(b, ':')
	b = appendDigits(b, second, 2)
	b = append(b, '.')
	b = appendDigits(b, t.Nanosecond(), 9)
	return append(b, 'Z', '"'), true
}

func appendDigits(b []byte, v, width int) []byte {
	const zeros = "000000000"
	b = append(b, zeros[:width]...)
	for i := len(b) - 1; v > 0; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
	return b
}

const hex = "0123456789abcdef"

// plain marks the bytes that stand for themselves in a JSON string.
var plain = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0 // of what has not been copied yet
	for i := 0; i < len(s); {
		if plain[s[i]] {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		foreign := r == utf8.RuneError && n == 1
		if foreign || mustEscape(r) {
			b = append(b, s[start:i]...)
			b = appendEscaped(b, r, s[i], foreign)
			start = i + n
		}
		i += n
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// mustEscape reports whether r can't stand in a JSON string, would act on a
// terminal, or ends a line in JavaScript.
func mustEscape(r rune) bool {
	return r < 0xa0 && (r >= 0x7f || !plain[r]) || r == '\u2028' || r == '\u2029'
}

// appendEscaped writes the character r, or the byte c if it is not UTF-8.
func appendEscaped(b []byte, r rune, c byte, foreign bool) []byte {
	switch {
	case foreign:
		return append(b, '\\', '\\', 'x', hex[c>>4], hex[c&15])
	case r == '"' || r == '\\':
		return append(b, '\\', c)
	case r == '\n':
		return append(b, '\\', 'n')
	case r == '\r':
		return append(b, '\\', 'r')
	case r == '\t':
		return append(b, '\\', 't')
	}
	return appendUnicode(b, r)
}

// appendUnicode writes the JSON escape of a character below U+10000.
func appendUnicode(b []byte, r rune) []byte {
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}
