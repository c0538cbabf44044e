package server

import (
	"context"
	"testing"
	"time"
)

// tickOf is the tick of the listing that who asks now gets.
func tickOf(t *testing.T, s *Server) uint64 {
	t.Helper()
	l, err := s.listed(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer s.listings.release(l)
	return l.view.Tick
}

func (f *fakeViews) next() {
	v := *f.Latest()
	v.Tick++
	f.tick(&v)
}

func TestWhoAsksDoesNotWaitForANewReadingToBeEncoded(t *testing.T) {
	views := newFake(machine(3))
	s := New(Options{Views: views})
	defer s.Close(context.Background())
	first := views.Latest().Tick
	if got := tickOf(t, s); got != first {
		t.Fatalf("the first who asks gets tick %d, want %d", got, first)
	}
	slow := make(chan struct{})
	views.mu.Lock()
	views.slow = slow
	views.mu.Unlock()
	views.next()
	<-slow // it is being made ahead
	if got := tickOf(t, s); got != first {
		t.Errorf("meanwhile who asks gets tick %d, want %d", got, first)
	}
	views.mu.Lock()
	views.slow = nil
	views.mu.Unlock()
	slow <- struct{}{}
	for tickOf(t, s) == first { // it does not wait: it asks until the other is there
		time.Sleep(time.Millisecond)
	}
	if got := tickOf(t, s); got != first+1 {
		t.Errorf("then who asks gets tick %d, want %d", got, first+1)
	}
}

func TestAReadingTooOldIsNotGiven(t *testing.T) {
	views := newFake(machine(3))
	s := New(Options{Views: views})
	tickOf(t, s)
	s.Close(context.Background()) // nobody encodes ahead any more
	views.next()
	views.next()
	if got, want := tickOf(t, s), views.Latest().Tick; got != want {
		t.Errorf("got tick %d, want %d", got, want)
	}
}

func TestListingsGoWhenNobodyAsks(t *testing.T) {
	views := newFake(machine(3))
	s := New(Options{Views: views})
	defer s.Close(context.Background())
	tickOf(t, s)
	deadline := time.After(10 * time.Second)
	for {
		views.next()
		s.listings.mu.Lock()
		kept, gone := s.listings.kept, s.listings.latest == nil && s.listings.encoded == nil
		s.listings.mu.Unlock()
		if !kept && gone {
			break
		}
		select {
		case <-deadline:
			t.Fatal("a listing that nobody asks for is kept")
		case <-time.After(time.Millisecond):
		}
	}
	if got, want := tickOf(t, s), views.Latest().Tick; got != want {
		t.Errorf("who asks again gets tick %d, want %d", got, want)
	}
}
