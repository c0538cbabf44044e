// Package shiptest is for tests only: what must be true of every program that ships the
// records, through both ways of rotating the file that they are written to.
package shiptest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rmagent/internal/sink"
	"rmagent/record"
)

// Shipper is a program that tails From.
type Shipper struct {
	From string
	// Arrived returns the records that came out at the other end, one a line, in order.
	Arrived func(t *testing.T) []byte
	// Halt has the program do nothing until resume is called.
	Halt func(t *testing.T) (resume func())
	// Unordered programs may send the end of an old file behind the beginning of the new.
	Unordered bool

	seqs   []uint64
	parsed int // bytes of what arrived
}

// Seqs are the numbers of the records that arrived. Each line must be a record: a hole
// that a truncated file would have is none.
func (s *Shipper) Seqs(t *testing.T) []uint64 {
	t.Helper()
	b := s.Arrived(t)
	b = b[s.parsed : bytes.LastIndexByte(b, '\n')+1]
	for line := range bytes.Lines(b) {
		if bytes.IndexByte(line, 0) >= 0 {
			t.Fatalf("a hole arrived: %.80q", line)
		}
		r, err := record.Decode(bytes.TrimSpace(line))
		if err != nil {
			t.Fatalf("%v: %.200q", err, line)
		}
		s.seqs = append(s.seqs, r.Head().Seq)
	}
	s.parsed += len(b)
	return slices.Clone(s.seqs)
}

// greatest is the number of the latest record that arrived.
func (s *Shipper) greatest(t *testing.T) uint64 {
	t.Helper()
	list := s.Seqs(t)
	return slices.Max(append(list, 0))
}

// LosesNothingAtRenames renames the file and has it opened again, as logrotate.conf
// does: every line arrives, once.
func (s *Shipper) LosesNothingAtRenames(t *testing.T) {
	w := write(t, s.From)
	for i := 3; i > 0; i-- {
		s.awaitMore(t, w)
		for old := 3 - i; old > 0; old-- { // records.jsonl.1 is the latest, as with logrotate
			rename(t, fmt.Sprintf("%s.%d", s.From, old), fmt.Sprintf("%s.%d", s.From, old+1))
		}
		rename(t, s.From, s.From+".1")
		before := w.written.Load()
		await(t, "a second of lines in the renamed file", func() bool { return w.written.Load() > before+2500 })
		w.out.Reopen()
	}
	list, n := s.end(t, w)
	for i, seq := range list {
		if seq != uint64(i)+1 {
			t.Fatalf("line %d has seq %d of %d", i+1, seq, n)
		}
	}
	if uint64(len(list)) != n {
		t.Errorf("%d of %d lines arrived", len(list), n)
	}
}

// ShowsGapsAtCopytruncate cuts the file while the program is slow: what it had not read
// is lost. No line is torn or comes twice, the file has no hole, and the gap shows in
// seq.
func (s *Shipper) ShowsGapsAtCopytruncate(t *testing.T) {
	w := write(t, s.From)
	for range 3 {
		s.awaitMore(t, w)
		resume := s.Halt(t)
		before := w.written.Load()
		await(t, "more lines", func() bool { return w.written.Load() > before+50 })
		if err := os.Truncate(s.From, 0); err != nil {
			t.Fatal(err)
		}
		resume()
	}
	list, n := s.end(t, w)
	last, gaps := uint64(0), uint64(0)
	for _, seq := range list {
		if seq <= last {
			t.Fatalf("seq %d comes after %d", seq, last)
		}
		gaps += seq - last - 1
		last = seq
	}
	if gaps == 0 || gaps+uint64(len(list)) != n {
		t.Errorf("%d of %d lines arrived, the gaps in seq are %d", len(list), n, gaps)
	}
	b, err := os.ReadFile(s.From)
	if err != nil {
		t.Fatal(err)
	}
	if line := b[:max(bytes.IndexByte(b, '\n'), 0)]; !json.Valid(line) || bytes.IndexByte(b, 0) >= 0 {
		t.Errorf("the cut file begins with %.80q", line)
	}
}

// end ends the writing, and returns what arrived, and the last that was written.
func (s *Shipper) end(t *testing.T, w *writing) (list []uint64, last uint64) {
	t.Helper()
	s.awaitMore(t, w)
	last = w.end(t)
	await(t, "the last line", func() bool { return s.greatest(t) == last })
	list = s.Seqs(t)
	if s.Unordered {
		slices.Sort(list)
	}
	return list, last
}

// awaitMore waits until a record has arrived that is written from now on.
func (s *Shipper) awaitMore(t *testing.T, w *writing) {
	t.Helper()
	before := w.written.Load()
	await(t, "lines to arrive", func() bool { return s.greatest(t) > before })
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, there func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !there(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// writing writes records until it is told to stop.
type writing struct {
	out     *sink.JSONL
	written atomic.Uint64
	stop    chan struct{}
	done    chan struct{}
}

func write(t *testing.T, path string) *writing {
	t.Helper()
	out, err := sink.OpenJSONL(sink.JSONLOptions{Path: path, Host: "h", BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	w := &writing{out: out, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-tick.C:
			}
			for range 5 {
				r := &record.StateChange{Resource: "fd", Target: "host", Message: strings.Repeat("m", 300) + " \x1b[2J \n"}
				r.Time = time.Now()
				if err := out.Write(r); err != nil {
					t.Error(err)
				}
				w.written.Add(1)
			}
			if err := out.Flush(); err != nil {
				t.Error(err)
			}
		}
	}()
	return w
}

func (w *writing) end(t *testing.T) (written uint64) {
	t.Helper()
	close(w.stop)
	<-w.done
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.out.Close(ctx); err != nil {
		t.Error(err)
	}
	return w.written.Load()
}
