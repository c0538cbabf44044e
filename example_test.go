package rmagent_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"rmagent/record"
	"time"

	"rmagent"
)

// The limits of any process, by its PID.
func ExampleHeadroom() {
	h, err := rmagent.Headroom(os.Getppid())
	if err != nil {
		fmt.Println(err)
		return
	}
	first := h.FirstInSpace
	fmt.Println(first.Known, first.Name != "", first.Consequence != "")

	_, err = rmagent.Headroom(1 << 22) // PIDs are smaller
	fmt.Println(errors.Is(err, rmagent.ErrNoProcess))
	// Output:
	// true true true
	// true
}

// What a program itself is near to; two readings tell how fast.
func ExampleWatch() {
	w, err := rmagent.Watch(os.Getpid())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()
	ctx := context.Background()
	if _, err := w.Read(ctx); err != nil {
		fmt.Println(err)
		return
	}
	var held []*os.File
	for range 10 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer f.Close()
		held = append(held, f)
	}
	h, err := w.Read(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, l := range h.Limits {
		if l.Name == "RLIMIT_NOFILE" && l.Scope == "process" {
			rate, known := l.RatePerSecond.Get()
			fmt.Println(len(held), "more:", known, rate > 0, l.SecondsToLimit.Known())
		}
	}
	// Output: 10 more: true true true
}

// How much memory a program can still take, before it takes it.
func ExampleReadMemory() {
	m, err := rmagent.ReadMemory()
	if err != nil {
		fmt.Println(err)
		return
	}
	available, known := m.Available.Get()
	const wanted = 1 << 20
	fmt.Println(known && available > wanted, m.LimitedBy != "", m.Heap.Used > 0)
	// Output: true true true
}

// A server that refuses requests while it is short of memory.
func ExampleNewBackpressure() {
	b, err := rmagent.NewBackpressure(rmagent.BackpressureOptions{
		MinMemoryBytes: 1 << 60, // more than there is, to show what happens
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	work := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "done") })
	server := httptest.NewServer(b.Handler(work))
	defer server.Close()

	reply, err := http.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	reply.Body.Close()
	fmt.Println(reply.Status, reply.Header.Get("Retry-After"))

	var short *rmagent.ShortageError
	fmt.Println(errors.As(b.Short(), &short), short.Resource)
	// Output:
	// 503 Service Unavailable 1
	// true memory
}

// Before a large transfer: do so many files fit?
func ExampleCheckFDs() {
	c, err := rmagent.CheckFDs(1_000_000_000)
	if err != nil {
		fmt.Println(err)
		return
	}
	if safe, known := c.Safe.Get(); known && !safe {
		fmt.Println("risky:", c.State.Or(""), c.Batch.Known()) // so transfer in batches of c.Batch
	}
	// Output: risky: critical true
}

// An agent inside a program: it is told when anything becomes critical.
func ExampleOpen() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	a, err := rmagent.Open(ctx, rmagent.Options{Settings: map[string]string{"interval": "200ms", "thresholds.fd.warning": "0.75"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer a.Close()
	_, err = a.Subscribe(rmagent.Subscription{
		Kinds:  []record.Kind{record.KindState},
		States: []record.State{record.StateCritical},
		Func:   func(r record.Record) { fmt.Println(r.(*record.StateChange).Message) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	go a.Run(ctx)

	report, err := a.Report(ctx) // waits for the first reading
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(report.Processes) > 0, report.Host.MemoryTotalBytes.Known())
}
