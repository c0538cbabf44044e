package rmagent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"rmagent/internal/headroom"
	"rmagent/record"
)

// BackpressureOptions say when requests are refused. The zero value is useful.
type BackpressureOptions struct {
	// MinMemoryBytes is how much memory must be available ([Memory]); 0: a tenth of
	// the limit.
	MinMemoryBytes uint64
	// MinFiles is how many descriptors must be left; 0: a twentieth of the soft limit.
	MinFiles uint64
	// RetryAfter is what refused clients are told, rounded up to seconds; 0: 1 s.
	RetryAfter time.Duration
	// Interval is the time between readings, each of which takes about half a
	// millisecond; 0: 100 ms.
	Interval time.Duration
	// OnChange, if not nil, is called by the reading goroutine when shortage begins
	// (with what is short) and ends (with nil).
	OnChange func(*ShortageError)
}

// ShortageError says what there is too little of.
type ShortageError struct {
	Resource  string // memory or open_files
	LimitedBy string // the limit and its scope
	Available uint64 // bytes or files
	Min       uint64 // how much must be available
}

// Error describes the shortage in one line.
func (e *ShortageError) Error() string {
	return fmt.Sprintf("short of %s: %d available, %d wanted (%s)", e.Resource, e.Available, e.Min, e.LimitedBy)
}

// Backpressure refuses HTTP requests while the program is short of memory or
// descriptors: better a 503 at the door than a kill in the middle of the work. A
// goroutine reads what is left; a request costs one atomic load. What can't be read
// refuses nobody: see Err.
type Backpressure struct {
	options    BackpressureOptions
	retryAfter []string
	reader     *headroom.Reader

	short   atomic.Pointer[ShortageError]
	failure atomic.Pointer[error]
	refused atomic.Uint64
	cancel  context.CancelFunc
	done    chan struct{}
}

// NewBackpressure takes a first reading and starts to read; Close ends it.
func NewBackpressure(o BackpressureOptions) (*Backpressure, error) {
	if o.Interval < 0 || o.RetryAfter < 0 {
		return nil, errors.New("backpressure: Interval and RetryAfter must not be negative")
	}
	if o.Interval == 0 {
		o.Interval = 100 * time.Millisecond
	}
	if o.RetryAfter == 0 {
		o.RetryAfter = time.Second
	}
	r, err := headroom.Open()
	if err != nil {
		return nil, fmt.Errorf("backpressure: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &Backpressure{
		options: o, reader: r, cancel: cancel, done: make(chan struct{}),
		retryAfter: []string{strconv.Itoa(int(math.Ceil(o.RetryAfter.Seconds())))},
	}
	b.read(ctx)
	go b.run(ctx)
	return b, nil
}

// Close ends the readings. Handlers go on with the last one.
func (b *Backpressure) Close() error {
	b.cancel()
	<-b.done
	return b.reader.Close()
}

func (b *Backpressure) run(ctx context.Context) {
	defer close(b.done)
	t := time.NewTicker(b.options.Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			b.read(ctx)
		}
	}
}

// read takes one reading and judges it.
func (b *Backpressure) read(ctx context.Context) {
	f, err := b.reader.Read(ctx, int32(os.Getpid()), headroom.Own)
	if err != nil {
		b.failure.Store(&err)
		b.set(nil)
		return
	}
	b.failure.Store(nil)
	b.set(b.shortage(memoryOf(f, readHeap()), headroom.Descriptors(f)))
}

// shortage judges a reading; what is unknown is not short.
func (b *Backpressure) shortage(m Memory, files *record.HeadroomLimit) *ShortageError {
	least := b.options.MinMemoryBytes
	if limit, ok := m.Limit.Get(); ok && least == 0 {
		least = limit / 10
	}
	if a, ok := m.Available.Get(); ok && a < least {
		return &ShortageError{"memory", m.LimitedBy, a, least}
	}
	least = b.options.MinFiles
	if limit, ok := files.Limit.Get(); ok && least == 0 {
		least = uint64(limit) / 20
	}
	if a, ok := whole(files.Available).Get(); ok && a < least {
		return &ShortageError{"open_files", files.Name + " of " + files.Scope, a, least}
	}
	return nil
}

// set publishes what is short, and tells of a change.
func (b *Backpressure) set(e *ShortageError) {
	before := b.short.Swap(e)
	if (before == nil) != (e == nil) && b.options.OnChange != nil {
		b.options.OnChange(e)
	}
}

// Short returns what there is too little of by the last reading, a
// *[ShortageError], or nil.
func (b *Backpressure) Short() error {
	if e := b.short.Load(); e != nil {
		return e
	}
	return nil
}

// Err returns why the last reading failed, or nil.
func (b *Backpressure) Err() error {
	if err := b.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Refused counts the requests that were refused.
func (b *Backpressure) Refused() uint64 { return b.refused.Load() }

// Handler returns a handler that answers 503 Service Unavailable with Retry-After
// while the program is short of something, and else calls next.
func (b *Backpressure) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.short.Load() == nil {
			next.ServeHTTP(w, r)
			return
		}
		b.refused.Add(1)
		w.Header()["Retry-After"] = b.retryAfter
		w.WriteHeader(http.StatusServiceUnavailable)
	})
}
