package rmagent

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/headroom"
	"rmagent/internal/sample"
	"rmagent/record"
)

func TestHeadroomOfNobody(t *testing.T) {
	for _, pid := range []int{-1, 0, 1 << 22, 1<<22 + 1, math.MaxInt} {
		if _, err := Headroom(pid); !errors.Is(err, ErrNoProcess) {
			t.Errorf("%d: %v", pid, err)
		}
	}
	w, err := Watch(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.Read(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestGoMemoryLimit finds the limit that a Go program sets itself.
func TestGoMemoryLimit(t *testing.T) {
	const limit = 64 << 20
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(limit))
	debug.FreeOSMemory() // what tests before this one left may be more
	h, err := HeadroomSelf()
	if err != nil {
		t.Fatal(err)
	}
	var row *record.HeadroomLimit
	for i := range h.Limits {
		if h.Limits[i].Name == "GOMEMLIMIT" {
			row = &h.Limits[i]
		}
	}
	if row == nil || row.Limit.Or(0) != limit || !row.Known || row.Used.Or(0) < 1<<20 {
		t.Fatalf("%+v", row)
	}
	m, err := ReadMemory()
	if err != nil {
		t.Fatal(err)
	}
	if m.Heap.Limit.Or(0) != limit || m.Limit.Or(0) != limit || !strings.HasPrefix(m.LimitedBy, "GOMEMLIMIT") {
		t.Errorf("%+v", m)
	}
	used, _ := m.Used.Get()
	available, _ := m.Available.Get()
	if used+available != limit {
		t.Errorf("%d used and %d available of %d", used, available, limit)
	}
}

// TestMemoryOf puts together a cgroup and a heap whose numbers are given.
func TestMemoryOf(t *testing.T) {
	f := &headroom.Facts{Cgroups: sample.CgroupChain{Memory: []sample.MemoryLevel{{
		CgroupLevel: sample.CgroupLevel{Path: "/a", Version: 2},
		Max:         sample.Limit{Value: record.Some[uint64](1000)},
		UsageBytes:  record.Some[uint64](900), ReclaimableBytes: record.Some[uint64](100),
	}}}}
	heap := Heap{Used: 500, Idle: 50, Released: 70}
	m := memoryOf(f, heap)
	want := MemoryUse{record.Some[uint64](1000), record.Some[uint64](750), record.Some[uint64](250), "memory.max of cgroup /a"}
	if m.MemoryUse != want {
		t.Errorf("%+v", m.MemoryUse)
	}
	if m.OS.Available.Or(0) != 200 || m.OS.Used.Or(0) != 800 {
		t.Errorf("%+v", m.OS)
	}
	heap.Limit = record.Some[uint64](600) // tighter: 150 above what is not idle
	want = MemoryUse{record.Some[uint64](600), record.Some[uint64](450), record.Some[uint64](150), "GOMEMLIMIT of Go runtime"}
	if m := memoryOf(f, heap); m.MemoryUse != want {
		t.Errorf("%+v", m.MemoryUse)
	}
	if m := memoryOf(&headroom.Facts{}, Heap{}); m.Available.Known() || m.Limit.Known() {
		t.Errorf("of nothing known: %+v", m)
	}
}

// TestIdleHeapIsAvailable: memory that the runtime holds free is available without
// the kernel.
func TestIdleHeapIsAvailable(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	b := make([]byte, 64<<20)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	before := readHeap()
	runtime.KeepAlive(b)
	b = nil
	runtime.GC()
	if after := readHeap(); after.Idle+after.Released < before.Idle+before.Released+60<<20 {
		t.Errorf("idle and released %d, then %d", before.Idle+before.Released, after.Idle+after.Released)
	}
}

// TestBackpressureOnFiles opens descriptors until the program is short of them, and
// closes them again.
func TestBackpressureOnFiles(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	changes := make(chan *ShortageError, 8)
	// All but 40 of those that are free now must stay free.
	h, err := HeadroomSelf()
	if err != nil {
		t.Fatal(err)
	}
	free := uint64(0)
	for _, l := range h.Limits {
		if l.Name == "RLIMIT_NOFILE" && l.Scope == "process" {
			free = uint64(l.Available.Or(0))
		}
	}
	b, err := NewBackpressure(BackpressureOptions{
		MinMemoryBytes: 1, MinFiles: free - 40, Interval: 5 * time.Millisecond, RetryAfter: 1500 * time.Millisecond,
		OnChange: func(e *ShortageError) { changes <- e },
	})
	if err != nil {
		t.Fatal(err)
	}
	served := 0
	handler := b.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	ask := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		return w
	}
	if w := ask(); w.Code != http.StatusOK || served != 1 || b.Short() != nil {
		t.Fatalf("at first: %d, %v", w.Code, b.Short())
	}
	var held []*os.File
	for range 60 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, f)
	}
	if e := <-changes; e == nil || e.Resource != "open_files" || e.Available >= e.Min {
		t.Fatalf("%+v", e)
	}
	w := ask()
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "2" || served != 1 || b.Refused() != 1 {
		t.Errorf("short: %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
	}
	for _, f := range held {
		f.Close()
	}
	if e := <-changes; e != nil {
		t.Fatalf("%+v", e)
	}
	if w := ask(); w.Code != http.StatusOK || b.Short() != nil || b.Err() != nil {
		t.Errorf("in the end: %d, %v, %v", w.Code, b.Short(), b.Err())
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := NewBackpressure(BackpressureOptions{Interval: -1}); err == nil {
		t.Error("a negative interval is accepted")
	}
}

// nobody is a ResponseWriter that does nothing.
type nobody struct{ header http.Header }

func (n nobody) Header() http.Header         { return n.header }
func (n nobody) Write(b []byte) (int, error) { return len(b), nil }
func (n nobody) WriteHeader(int)             {}

// BenchmarkBackpressure is what a request costs, let through and refused.
func BenchmarkBackpressure(b *testing.B) {
	for name, least := range map[string]uint64{"served": 1, "refused": 1 << 62} {
		b.Run(name, func(b *testing.B) {
			p, err := NewBackpressure(BackpressureOptions{MinMemoryBytes: least, MinFiles: 1})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			handler := p.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			w, r := nobody{http.Header{}}, httptest.NewRequest(http.MethodGet, "/", nil)
			b.ReportAllocs()
			for b.Loop() {
				handler.ServeHTTP(w, r)
			}
			if perRequest := b.Elapsed() / time.Duration(b.N); perRequest > 200*time.Nanosecond && b.N > 10000 {
				b.Errorf("%v a request", perRequest)
			}
		})
	}
}

// BenchmarkReadMemory is one reading of a kept reader, as Backpressure takes.
func BenchmarkReadMemory(b *testing.B) {
	r, err := headroom.Open()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for b.Loop() {
		f, err := r.Read(context.Background(), int32(os.Getpid()), headroom.Own)
		if err != nil {
			b.Fatal(err)
		}
		memoryOf(f, readHeap())
	}
}
