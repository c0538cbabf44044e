package main

import (
	"context"
	"os"
	"runtime"
	"sync"
	"time"
)

// threads owns how many threads run Go code at a time: one, unless the environment says
// otherwise. An agent that works for a millisecond a second has nothing to do on a second
// one, and each goroutine that becomes ready would wake one, and the runtime's monitor with
// it (a quarter of the context switches remain). While many ask, there are two, so that
// nobody waits for the end of a tick (docs/decisions/second-thread.md).
type threads struct {
	fixed bool // the environment says how many, or there is one CPU

	mu     sync.Mutex
	demand demand
	busy   bool // there are two
}

func newThreads() *threads {
	t := &threads{fixed: os.Getenv("GOMAXPROCS") != ""}
	if !t.fixed {
		t.fixed = runtime.GOMAXPROCS(1) == 1
	}
	return t
}

// asked counts a request. The second thread stays until they are few again, or ctx ends.
func (t *threads) asked(ctx context.Context) {
	if t.fixed {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.demand.asked(time.Now()) || t.busy {
		return
	}
	t.busy = true
	go t.second(ctx)
}

// second has a second thread for as long as many ask.
func (t *threads) second(ctx context.Context) {
	looks := time.NewTicker(calmTime)
	defer looks.Stop()
	for {
		runtime.GOMAXPROCS(2)
		for t.high() {
			select {
			case <-looks.C:
			case <-ctx.Done():
				return
			}
		}
		runtime.GOMAXPROCS(1)
		if !t.busyAgain() {
			return
		}
	}
}

func (t *threads) high() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.demand.high(time.Now())
}

// busyAgain tells whether many have asked while the second thread was taken away.
func (t *threads) busyAgain() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy = t.demand.high(time.Now())
	return t.busy
}

// demand counts requests by the second.
type demand struct {
	since time.Time // when the second began
	count int
	many  time.Time // when there were many, last
}

const (
	manyRequests = 10              // in a second
	calmTime     = 5 * time.Second // after which they are few again
)

// asked counts one, and tells whether there are many.
func (d *demand) asked(now time.Time) bool {
	if now.Sub(d.since) >= time.Second {
		d.since, d.count = now, 0
	}
	d.count++
	if d.count >= manyRequests {
		d.many = now
	}
	return d.high(now)
}

func (d *demand) high(now time.Time) bool {
	return !d.many.IsZero() && now.Sub(d.many) < calmTime
}
