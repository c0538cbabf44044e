package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var kinds = []Kind{KindProcess, KindExit, KindHost, KindCgroup, KindGPU, KindState, KindPrune, KindAction, KindOOM, KindLeak, KindJob, KindLimit, KindJobReading, KindConfig, KindAgent}

// TestAppendAgreesWithTags compares the encoder with encoding/json, which goes by
// the struct tags: same fields, same order, same values.
func TestAppendAgreesWithTags(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, kind := range kinds {
		for range 500 {
			r := randomRecord(rng, kind)
			line, err := Append(nil, r)
			if err != nil {
				t.Fatalf("Append: %v", err)
			}
			want, err := json.Marshal(r)
			if err != nil {
				t.Fatalf("encoding/json: %v", err)
			}
			if diff := cmp.Diff(tokens(t, want), tokens(t, line)); diff != "" {
				t.Fatalf("%s differs from encoding/json (-want +got):\n%s", kind, diff)
			}
		}
	}
}

// TestAppendUnknown: the zero value of every record has all its fields, with
// null for every Opt.
func TestAppendUnknown(t *testing.T) {
	for _, kind := range kinds {
		r := newRecord(kind)
		line, err := Append(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		r.Head().Kind = kind
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		want = bytes.ReplaceAll(want, []byte("00:00:00Z"), []byte("00:00:00.000000000Z"))
		if diff := cmp.Diff(tokens(t, want), tokens(t, line)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
	}
}

// TestAppendOneSafeLine throws every byte and many characters at the encoder.
func TestAppendOneSafeLine(t *testing.T) {
	var all strings.Builder
	for c := range 256 {
		all.WriteByte(byte(c)) // 0x80 and up are not UTF-8 in this order
	}
	for r := range rune(0x3000) {
		all.WriteRune(r)
	}
	all.WriteString("\U0001F600\xff")
	text := all.String()
	records := []Record{
		&Process{ProcessFacts: ProcessFacts{Comm: text, Exe: Some(text), Cmdline: &[]string{text, ""}}},
		&StateChange{Target: text, Message: text},
		&Cgroup{Path: text},
		&Host{Filesystems: []Filesystem{{Path: text}}},
		&Config{Values: map[string]any{"key": text}},
		&Agent{RecordsLost: map[string]uint64{text: 1}},
	}
	for _, r := range records {
		line, err := Append(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		checkLine(t, line)
	}

	line, _ := Append(nil, records[0])
	back, err := Decode(bytes.Replace(line, []byte(`"schema":0`), []byte(`"schema":1`), 1))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := back.(*Process).Comm, Text([]byte(text)); got != want {
		t.Errorf("comm did not survive: %s", cmp.Diff(want, got))
	}
}

// checkLine fails unless line is one line of valid JSON and UTF-8 without a
// character that acts on a terminal.
func checkLine(t *testing.T, line []byte) {
	t.Helper()
	if !json.Valid(line) {
		t.Fatalf("not JSON: %.200q", line)
	}
	if !utf8.Valid(line) {
		t.Fatalf("not UTF-8: %.200q", line)
	}
	if n := len(line); n == 0 || line[n-1] != '\n' {
		t.Fatalf("no newline at the end: %.200q", line)
	}
	for _, r := range string(line[:len(line)-1]) {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			t.Fatalf("%U is not escaped", r)
		}
	}
}

func TestAppendFloat(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	values := []float64{0, math.Copysign(0, -1), 1, -1, 0.1, 1e-6, 9.99e-7, 1e-9, 1e-10, 1e20, 1e21, 1e22, -1e21,
		1<<53 - 1, 1 << 53, 1<<53 + 2, -(1 << 53), math.MaxFloat64, math.SmallestNonzeroFloat64, 1 << 62, 1 << 63, -(1 << 63), 1 << 64}
	for range 10000 {
		values = append(values, math.Float64frombits(rng.Uint64()), rng.Float64(), float64(rng.Int64()))
		short := float64(rng.Uint64()>>rng.UintN(64)) / []float64{1e3, 1e6, 1e9, 1e10}[rng.IntN(4)]
		values = append(values, short, -short, math.Nextafter(short, 0), math.Nextafter(short, 1e18))
	}
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		want, _ := json.Marshal(v)
		if got := appendFloat(nil, v); string(got) != string(want) {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		if got := appendFloat(nil, v); string(got) != "null" {
			t.Errorf("%v: got %s, want null", v, got)
		}
		if got, err := json.Marshal(Some(v)); err != nil || string(got) != "null" {
			t.Errorf("Opt of %v: got %s, %v, want null", v, got, err)
		}
	}
}

func TestAppendTime(t *testing.T) {
	for _, v := range []time.Time{
		{},
		time.Unix(0, 0),
		time.Unix(1<<31, 1),
		time.Date(2024, 2, 29, 23, 59, 59, 999999999, time.FixedZone("", -3600)),
		time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		want := `"` + v.UTC().Format("2006-01-02T15:04:05.000000000Z") + `"`
		if got, ok := appendTime(nil, v); !ok || string(got) != want {
			t.Errorf("got %s, %v, want %s", got, ok, want)
		}
	}
	far := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	before := []byte("before")
	if got, err := Append(before, &Host{Header: Header{Time: far}}); !errors.Is(err, ErrTime) || string(got) != "before" {
		t.Errorf("a header in the year 10000: got %q, %v, want ErrTime and dst as it was", got, err)
	}
	line, err := Append(nil, &Exit{ExitTime: Some(far)})
	if err != nil || !bytes.Contains(line, []byte(`"exit_time":null`)) {
		t.Errorf("an exit in the year 10000: got %s, %v, want null", line, err)
	}
}

func TestAppendRefuses(t *testing.T) {
	if _, err := Append(nil, &struct{ Header }{}); !errors.Is(err, ErrKind) {
		t.Errorf("a type that is no record: %v, want ErrKind", err)
	}
	if _, err := Append(nil, &Config{Values: map[string]any{"f": func() {}}}); err == nil {
		t.Error("a function as a value: no error")
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	dst := make([]byte, 0, 1<<16)
	for _, kind := range kinds[:6] {
		r := randomRecord(rng, kind)
		if n := testing.AllocsPerRun(100, func() { _, _ = Append(dst, r) }); n != 0 {
			t.Errorf("%s: %v allocations", kind, n)
		}
	}
}

func TestImportsOnlyTheStandardLibrary(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(out)); !slices.Equal(got, []string{"rmagent/record"}) {
		t.Errorf("packages outside the standard library: %v", got)
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                 "",
		"plain":            "plain",
		"naïve \u2028":     "naïve \u2028",
		"a\xffb\xc3":       `a\xffb\xc3`,
		"\xed\xa0\x80":     `\xed\xa0\x80`, // a surrogate
		"\xf4\x90\x80\x80": `\xf4\x90\x80\x80`,
		`\xff`:             `\xff`,
		"\x1b[31m\x00":     "\x1b[31m\x00",
		"\ufffd":           "\ufffd",
	} {
		if got := Text([]byte(in)); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
}

// tokens returns the JSON tokens of b, which keep the order of keys.
func tokens(t *testing.T, b []byte) []string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var list []string
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		list = append(list, fmt.Sprintf("%T %v", tok, tok))
	}
}

// randomRecord fills every field of a record, known or unknown by chance.
func randomRecord(rng *rand.Rand, kind Kind) Record {
	r := newRecord(kind)
	fill(rng, reflect.ValueOf(r).Elem())
	h := r.Head()
	h.Kind, h.Schema = kind, Schema
	return r
}

func fill(rng *rand.Rand, v reflect.Value) {
	known := rng.IntN(4) > 0
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		*p = randomTime(rng)
	case *Opt[time.Time]:
		*p = SomeIf(randomTime(rng), known)
	case *Opt[uint64]:
		*p = SomeIf(rng.Uint64()>>rng.IntN(64), known)
	case *Opt[uint32]:
		*p = SomeIf(rng.Uint32(), known)
	case *Opt[int32]:
		*p = SomeIf(int32(rng.Uint32()), known)
	case *Opt[bool]:
		*p = SomeIf(rng.IntN(2) == 0, known)
	case *Opt[float64]:
		*p = SomeIf(rng.NormFloat64()*math.Pow(10, float64(rng.IntN(40)-15)), known)
	case *Opt[string]:
		*p = SomeIf(randomString(rng), known)
	case **[]string:
		if known {
			*p = &[]string{randomString(rng), randomString(rng)}
		}
	case *map[string]uint64:
		if known {
			*p = map[string]uint64{}
			for range rng.IntN(4) {
				(*p)[randomString(rng)] = rng.Uint64()
			}
		}
	case *map[string]any:
		*p = map[string]any{randomString(rng): randomString(rng), "n": 1.5, "list": []string{"a"}, "nested": map[string]any{"b": nil}}
	default:
		fillPlain(rng, v)
	}
}

// fillPlain fails for a type that the encoder has not been taught.
func fillPlain(rng *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if strings.HasPrefix(v.Type().Name(), "Opt[") {
			panic("teach fill the type " + v.Type().String())
		}
		for i := range v.NumField() {
			fill(rng, v.Field(i))
		}
	case reflect.Slice:
		n := rng.IntN(4)
		if n == 3 {
			return // nil
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(rng, v.Index(i))
		}
	case reflect.String:
		v.SetString(randomString(rng))
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int, reflect.Int32:
		v.SetInt(int64(int32(rng.Uint32())))
	case reflect.Uint64:
		v.SetUint(rng.Uint64())
	case reflect.Float64:
		v.SetFloat(rng.NormFloat64())
	default:
		panic("teach fill the type " + v.Type().String())
	}
}

// randomTime never ends in a zero, which encoding/json would leave out.
func randomTime(rng *rand.Rand) time.Time {
	return time.Unix(rng.Int64N(1<<34), rng.Int64N(1e8)*10+1).UTC()
}

func randomString(rng *rand.Rand) string {
	var s strings.Builder
	for range rng.IntN(20) {
		s.WriteRune([]rune{'a', '"', '\\', '<', '&', '\n', '\x00', '\x1b', 0x7f, 0x9b, 'é', 0x2028, 0x202e, '😀', rune(rng.IntN(0xd800))}[rng.IntN(15)])
	}
	return s.String()
}
