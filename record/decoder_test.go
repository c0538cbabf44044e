package record

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sameRecord compares what two decoders made of a line.
func sameRecord(t *testing.T, line []byte, d *Decoder) {
	t.Helper()
	want, wantErr := Decode(line)
	got, err := d.Decode(line)
	if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
		t.Fatalf("error %v, want %v, of %q", err, wantErr, line)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(
		Opt[uint64]{}, Opt[uint32]{}, Opt[int32]{}, Opt[float64]{}, Opt[string]{}, Opt[bool]{}), cmp.Comparer(sameOptTime)); diff != "" {
		t.Fatalf("(-want +got):\n%s\nof %q", diff, line)
	}
}

func TestDecoderReadsWhatDecodeReads(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	d := NewDecoder()
	for range 100 {
		for _, kind := range kinds {
			line, err := Append(nil, randomRecord(rng, kind))
			if err != nil {
				t.Fatal(err)
			}
			sameRecord(t, line, d)
		}
	}
	for _, r := range golden() {
		line, _ := Append(nil, r)
		sameRecord(t, line, d)
		sameRecord(t, bytes.TrimSuffix(line, []byte("\n")), d)
		for range 300 { // and what it can't read
			broken := bytes.Clone(line)
			broken[rng.IntN(len(broken))] = byte(rng.IntN(256))
			sameRecord(t, broken, d)
			sameRecord(t, line[:rng.IntN(len(line))], d)
		}
	}
}

func FuzzDecoder(f *testing.F) {
	for _, r := range golden() {
		line, _ := Append(nil, r)
		f.Add(line)
	}
	d := NewDecoder()
	f.Fuzz(func(t *testing.T, line []byte) { sameRecord(t, line, d) })
}

// A line of a process as Append writes it never goes the slow way.
func TestDecoderIsFastForWhatAppendWrites(t *testing.T) {
	d := NewDecoder()
	p := typical()
	p.Header = Header{Time: time.Now(), Host: "web-1", BootID: "b", Schema: Schema}
	line, err := Append(nil, p)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := d.Decode(line); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecoder(b *testing.B) {
	d := NewDecoder()
	p := typical()
	p.Header = Header{Time: time.Now(), Host: "web-1", BootID: "b", Schema: Schema}
	line, _ := Append(nil, p)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Decode(line); err != nil {
			b.Fatal(err)
		}
	}
}
