package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, kind := range kinds {
		for range 200 {
			want := randomRecord(rng, kind)
			line, err := Append(nil, want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Decode(line)
			if err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			if kind == KindConfig { // a []string comes back as []any
				got.(*Config).Values, want.(*Config).Values = nil, nil
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(
				Opt[uint64]{}, Opt[uint32]{}, Opt[int32]{}, Opt[float64]{}, Opt[string]{}, Opt[bool]{}), cmp.Comparer(sameOptTime)); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", kind, diff)
			}
		}
	}
}

func sameOptTime(a, b Opt[time.Time]) bool {
	return a.known == b.known && a.value.Equal(b.value)
}

func TestDecodeNewer(t *testing.T) {
	r, err := Decode([]byte(`{"schema":1,"kind":"oom","pid":7,"gills":{"a":[1]},"comm":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	if o := r.(*OOM); o.PID != 7 || o.Comm != "x" || o.UID.Known() {
		t.Errorf("got %+v", o)
	}
}

func TestDecodeRefuses(t *testing.T) {
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	for line, is := range map[string]func(error) bool{
		`{"kind":"unicorn","schema":1}`:                  func(err error) bool { return errors.Is(err, ErrKind) },
		`{"schema":1}`:                                   func(err error) bool { return errors.Is(err, ErrKind) },
		`{"kind":null,"schema":1}`:                       func(err error) bool { return errors.Is(err, ErrKind) },
		`null`:                                           func(err error) bool { return errors.Is(err, ErrKind) },
		`{"kind":"process","schema":2}`:                  func(err error) bool { return errors.Is(err, ErrSchema) },
		`{"kind":"process"}`:                             func(err error) bool { return errors.Is(err, ErrSchema) },
		``:                                               func(err error) bool { return errors.As(err, &syntax) },
		`{"kind":"process","schema":1`:                   func(err error) bool { return errors.As(err, &syntax) },
		`{"kind":"host","schema":1}{}`:                   func(err error) bool { return errors.As(err, &syntax) },
		`{"kind":7,"schema":1}`:                          func(err error) bool { return errors.As(err, &wrongType) },
		`{"kind":"host","schema":1,"threads":-1}`:        func(err error) bool { return errors.As(err, &wrongType) },
		`{"kind":"host","schema":1,"load1":"high"}`:      func(err error) bool { return errors.As(err, &wrongType) },
		`{"kind":"process","schema":1,"pid":2147483648}`: func(err error) bool { return errors.As(err, &wrongType) },
		`[]`: func(err error) bool { return errors.As(err, &wrongType) },
	} {
		r, err := Decode([]byte(line))
		if err == nil || !is(err) {
			t.Errorf("%s: got %v, %v", line, r, err)
		}
	}
}

// FuzzDecode: whatever decodes encodes to a safe line, which decodes to the same.
func FuzzDecode(f *testing.F) {
	for _, r := range golden() {
		line, err := Append(nil, r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
	}
	f.Add([]byte(`{"kind":"process","schema":1,"time":"0000-01-01T00:00:00+23:59","exit_time":"9999-12-31T23:59:59-23:59"}`))
	f.Add([]byte(`{"kind":"process","schema":1,"cmdline":null,"comm":"\ud800\u0000\u009b"}`))
	f.Add([]byte("{\"kind\":\"oom\",\"schema\":1,\"comm\":\"\xff\"}"))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := Decode(line)
		if err != nil {
			return
		}
		first, err := Append(nil, r)
		if errors.Is(err, ErrTime) {
			return // valid where it was written, not in UTC
		}
		if err != nil {
			t.Fatalf("Append refused what Decode gave: %v", err)
		}
		checkLine(t, first)
		again, err := Decode(first)
		if err != nil {
			t.Fatalf("Decode refused what Append wrote: %v in %s", err, first)
		}
		second, err := Append(nil, again)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Fatalf("not stable:\n%s\n%s", first, second)
		}
	})
}

// FuzzText: the result is UTF-8, and is the input where that was.
func FuzzText(f *testing.F) {
	f.Add([]byte("a\xff\xc3(\xe2\x80"))
	f.Fuzz(func(t *testing.T, b []byte) {
		text := Text(b)
		line := appendString(nil, string(b))
		var back string
		if err := json.Unmarshal(line, &back); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if back != text {
			t.Fatalf("the encoder says %q, Text %q", back, text)
		}
		checkLine(t, append(line, '\n'))
	})
}
