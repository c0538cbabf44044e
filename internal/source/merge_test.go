package source

import (
	"context"
	"errors"
	"testing"

	"rmagent/internal/sample"
)

// fake is a reader of fixed processes that knows some fields.
type fake struct {
	known  sample.FieldSet
	procs  []sample.Process
	scopes []sample.Scope
	err    error
	closed int
}

func (f *fake) Read(_ context.Context, s sample.Scope, dst *sample.Snapshot) error {
	f.scopes = append(f.scopes, s)
	dst.Reset()
	dst.AsRead = 1
	dst.Processes = append(dst.Processes, f.procs...)
	for i := range dst.Processes {
		dst.Processes[i].Known = f.known
	}
	return f.err
}

func (f *fake) Capabilities() (c sample.Capabilities) {
	for i := range sample.NumFields {
		if f.known.Has(i) {
			c[i].Level = sample.Exact
		} else {
			c[i].Why = "the fake has none"
		}
	}
	return c
}

func (f *fake) Close() error { f.closed++; return nil }

func id(pid int32, start uint64) sample.ID { return sample.ID{PID: pid, StartTicks: start} }

func TestMergeFillsOnlyWhatThePrimaryLacks(t *testing.T) {
	p := &fake{known: sample.SetOf(sample.FDOpen), procs: []sample.Process{
		{ID: id(1, 10), FDOpen: 5}, {ID: id(2, 20), FDOpen: 6},
	}}
	s := &fake{known: sample.SetOf(sample.FDOpen, sample.Threads), procs: []sample.Process{
		{ID: id(2, 99), FDOpen: 70, Threads: 7}, // another process of the same PID
		{ID: id(1, 10), FDOpen: 50, Threads: 3},
		{ID: id(3, 30), FDOpen: 80, Threads: 8}, // only here
	}}
	r, err := Merge(p, s)
	if err != nil {
		t.Fatal(err)
	}
	var got sample.Snapshot
	if err := r.Read(t.Context(), sample.Scope{}, &got); err != nil {
		t.Fatal(err)
	}
	want := []sample.Process{
		{ID: id(1, 10), FDOpen: 5, Threads: 3, Known: sample.SetOf(sample.FDOpen, sample.Threads)},
		{ID: id(2, 20), FDOpen: 6, Known: sample.SetOf(sample.FDOpen)},
	}
	if len(got.Processes) != len(want) {
		t.Fatalf("got %d processes, want %d", len(got.Processes), len(want))
	}
	for i := range want {
		if got.Processes[i] != want[i] {
			t.Errorf("process %d:\n got %+v\nwant %+v", i, got.Processes[i], want[i])
		}
	}
	if got.AsRead != 0 {
		t.Error("the processes are said to be as the primary left them")
	}
	if f := s.scopes[0].Fields; f != sample.SetOf(sample.Threads) {
		t.Errorf("the secondary was asked for %b, want only the threads", f)
	}
	if c := r.Capabilities(); c[sample.Threads].Level != sample.Exact || c[sample.RSSAnon].Why == "" {
		t.Errorf("capabilities are not those of both: %+v", c)
	}
	if err := r.Close(); err != nil || p.closed != 1 || s.closed != 1 {
		t.Errorf("close: %v, primary %d, secondary %d times", err, p.closed, s.closed)
	}
}

func TestMergeAsksTheSecondaryForNothingItNeedNotRead(t *testing.T) {
	p := &fake{known: sample.SetOf(sample.FDOpen)}
	s := &fake{known: sample.SetOf(sample.Threads)}
	r, err := Merge(p, s)
	if err != nil {
		t.Fatal(err)
	}
	var got sample.Snapshot
	if err := r.Read(t.Context(), sample.Scope{Fields: sample.SetOf(sample.FDOpen)}, &got); err != nil {
		t.Fatal(err)
	}
	if len(s.scopes) != 0 {
		t.Errorf("the secondary was read for fields that the primary has")
	}
}

func TestMergeReturnsThePrimaryWhereItKnowsAll(t *testing.T) {
	p, s := &fake{known: sample.AllFields}, &fake{known: sample.SetOf(sample.Threads)}
	r, err := Merge(p, s)
	if err != nil {
		t.Fatal(err)
	}
	if r != sample.Reader(p) || s.closed != 1 {
		t.Errorf("got %T with the secondary closed %d times, want the primary itself", r, s.closed)
	}
}

func TestMergePassesErrorsOn(t *testing.T) {
	boom := errors.New("boom")
	for _, broken := range []string{"primary", "secondary"} {
		p, s := &fake{known: sample.SetOf(sample.FDOpen)}, &fake{known: sample.AllFields}
		if broken == "primary" {
			p.err = boom
		} else {
			s.err = boom
		}
		r, err := Merge(p, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Read(t.Context(), sample.Scope{}, new(sample.Snapshot)); !errors.Is(err, boom) {
			t.Errorf("a broken %s gives %v", broken, err)
		}
	}
}
