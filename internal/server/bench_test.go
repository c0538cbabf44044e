package server

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// clients ask at a steady pace, all together rate times a second, and returns how long
// the answers took: at a pace, so that what is measured is the server and not a queue
// of the clients' own.
func clients(b *testing.B, n int, rate float64, ask func() error) []time.Duration {
	var mu sync.Mutex
	var took []time.Duration
	var wait sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(max(b.N, n)))
	every := time.Duration(float64(n) / rate * float64(time.Second))
	for i := range n {
		wait.Go(func() {
			time.Sleep(every * time.Duration(i) / time.Duration(n)) // spread over one turn
			tick := time.NewTicker(every)
			defer tick.Stop()
			for left.Add(-1) >= 0 {
				begin := time.Now()
				if err := ask(); err != nil {
					b.Error(err)
					return
				}
				d := time.Since(begin)
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
				<-tick.C
			}
		})
	}
	wait.Wait()
	slices.Sort(took)
	return took
}

func report(b *testing.B, took []time.Duration) {
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// cpuTime is what this process has used: the server's half and the clients'.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkClients has 200 clients ask at once while there is a new view each second.
func BenchmarkClients(b *testing.B) {
	for _, c := range []struct {
		name, path string
		processes  int
		rate       float64
	}{
		{"resources_all", "/resources/all", 5000, 400},
		{"processes_5000", "/v1/processes", 5000, 10},
		{"processes_5000_top", "/v1/processes?sort=rss_bytes&limit=20", 5000, 100},
	} {
		b.Run(c.name, func(b *testing.B) {
			view := machine(c.processes)
			views := newFake(view)
			s := serve(b, views, nil)
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				tick := time.NewTicker(time.Second)
				defer tick.Stop()
				for {
					select {
					case <-stop:
						return
					case <-tick.C:
						next := *views.Latest() // of what costs something at a tick, only what the server does is measured
						next.Tick++
						views.tick(&next)
					}
				}
			}()
			client := &http.Client{Transport: &http.Transport{
				DialContext:         s.unix.Transport.(*http.Transport).DialContext,
				MaxIdleConnsPerHost: 200,
				DisableCompression:  true,
			}}
			defer client.CloseIdleConnections()
			before := cpuTime(b)
			took := clients(b, 200, c.rate, func() error {
				resp, err := client.Get("http://rmagent" + c.path)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if resp.StatusCode != 200 {
					return fmt.Errorf("status %d", resp.StatusCode)
				}
				_, err = io.Copy(io.Discard, resp.Body)
				return err
			})
			b.ReportMetric((cpuTime(b)-before).Seconds()*1e6/float64(len(took)), "cpu-us/op")
			report(b, took)
		})
	}
}

// BenchmarkNumbers is the cost of one answer on one connection, in and out.
func BenchmarkNumbers(b *testing.B) {
	s := serve(b, newFake(machine(100)), nil)
	c, err := net.Dial("tcp", strings.TrimPrefix(s.tcp, "http://"))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 4096)
	for b.Loop() {
		if _, err := io.WriteString(c, "GET /resources/all HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkListing is what encoding all processes of one view costs, once for all who
// ask, in the memory of the one before.
func BenchmarkListing(b *testing.B) {
	v := machine(5000)
	s := New(Options{Views: newFake(v)})
	b.ReportAllocs()
	for b.Loop() {
		next := *v
		next.Tick++
		v = &next
		l, err := s.list(v)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(l.plain.buf)))
		s.listings.release(l)
	}
}
