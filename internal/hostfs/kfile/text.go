package kfile

import (
	"bytes"
	"iter"
)

// Line cuts the first line off b, without its newline.
func Line(b []byte) (line, rest []byte) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// Pairs goes through the lines of b that have a colon: what is before it, and behind.
func Pairs(b []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		for len(b) > 0 {
			var line []byte
			line, b = Line(b)
			if key, value, ok := bytes.Cut(line, []byte{':'}); ok && !yield(key, value) {
				return
			}
		}
	}
}

// Word cuts the first word off b: what stands between blanks and tabs. It is
// empty where nothing is left.
func Word(b []byte) (word, rest []byte) {
	i := 0
	for i < len(b) && isBlank(b[i]) {
		i++
	}
	j := i
	for j < len(b) && !isBlank(b[j]) {
		j++
	}
	return b[i:j], b[j:]
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' }

// Uint reads b, which must be nothing but a decimal number that fits.
func Uint(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	var v uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		digit := uint64(c - '0')
		if v > (1<<64-1-digit)/10 {
			return 0, false
		}
		v = v*10 + digit
	}
	return v, true
}

// NextUint reads the first word of b as a number.
func NextUint(b []byte) (v uint64, rest []byte, ok bool) {
	word, rest := Word(b)
	v, ok = Uint(word)
	return v, rest, ok
}

// PID reads b as a process id: a number from 1 that an int32 holds. Else it is 0.
func PID(b []byte) (int32, bool) {
	v, ok := Uint(b)
	if !ok || v > 1<<31-1 {
		return 0, false
	}
	return int32(v), v > 0
}

// Decimal reads b, which must be digits, a point and two digits more
// (as the kernel prints loads and pressure), in hundredths.
func Decimal(b []byte) (hundredths uint64, ok bool) {
	whole, fraction, found := bytes.Cut(b, []byte{'.'})
	w, ok := Uint(whole)
	if !ok || w > 1<<40 || !found || len(fraction) != 2 {
		return 0, false
	}
	f, ok := Uint(fraction)
	return w*100 + f, ok
}
