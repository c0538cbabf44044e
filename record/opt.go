package record

import (
	"encoding/json"
	"math"
	"strconv"
)

// Opt is a value that may be unknown. Its zero value is unknown, and unknown is
// null in JSON.
type Opt[T any] struct {
	value T
	known bool
}

// Some returns a known value.
func Some[T any](v T) Opt[T] { return Opt[T]{value: v, known: true} }

// SomeIf returns v if it is known, else the unknown value.
func SomeIf[T any](v T, known bool) Opt[T] {
	if !known {
		return Opt[T]{}
	}
	return Some(v)
}

// Float returns a whole number as a fraction, unknown where it is unknown.
func Float(o Opt[uint64]) Opt[float64] { return SomeIf(float64(o.value), o.known) }

// Get returns the value and whether it is known; an unknown value is T's zero.
func (o Opt[T]) Get() (T, bool) { return o.value, o.known }

// Known reports whether there is a value.
func (o Opt[T]) Known() bool { return o.known }

// Or returns the value, or fallback where it is unknown.
func (o Opt[T]) Or(fallback T) T {
	if o.known {
		return o.value
	}
	return fallback
}

// MarshalJSON writes null for an unknown value, and for a float that is not
// finite.
func (o Opt[T]) MarshalJSON() ([]byte, error) {
	f, float := any(o.value).(float64)
	if !o.known || float && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return []byte("null"), nil
	}
	return json.Marshal(o.value)
}

// UnmarshalJSON reads null as unknown.
func (o *Opt[T]) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*o = Opt[T]{}
		return nil
	}
	if !plainNumber(b, &o.value) {
		if err := json.Unmarshal(b, &o.value); err != nil {
			return err
		}
	}
	o.known = true
	return nil
}

// plainNumber reads what most values are without encoding/json, which takes most of
// the time that a record takes to be read. Anything that it does not take is left to
// encoding/json, whose errors say what was expected.
func plainNumber(b []byte, to any) bool {
	var err error
	switch p := to.(type) {
	case *uint64:
		*p, err = strconv.ParseUint(string(b), 10, 64)
	case *float64:
		*p, err = strconv.ParseFloat(string(b), 64)
	default:
		return false
	}
	return err == nil
}
