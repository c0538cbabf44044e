package footprint

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Options say what a Meter measures.
type Options struct {
	Dirs []string // what is measured
	// Follow measures the working directories of the processes that are told of instead,
	// or Dirs while there are none.
	Follow bool
	// Every is the time from a measurement to the next, at least; 0: a second.
	Every time.Duration
	// Share is the part of the time that may be spent on measuring, as 10 for a tenth;
	// 0: a tenth.
	Share int
}

// Meter measures directories until it is closed.
type Meter struct {
	options Options
	cancel  context.CancelFunc
	ended   chan struct{}
	wake    chan struct{} // one more measurement, now

	mu      sync.Mutex
	pids    []int32
	full    Exhausted
	last    Size
	known   bool // one measurement was finished
	begun   int  // measurements
	done    int
	changed chan struct{} // closed at the end of each measurement
}

// Start begins to measure.
func Start(o Options) *Meter {
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.Share <= 0 {
		o.Share = 10
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Meter{options: o, cancel: cancel, ended: make(chan struct{}), wake: make(chan struct{}, 1), changed: make(chan struct{})}
	go m.loop(ctx)
	return m
}

// Processes tells the Meter which processes' working directories to follow.
func (m *Meter) Processes(each func(yield func(pid int32) bool)) {
	if !m.options.Follow {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pids = m.pids[:0]
	for pid := range each {
		m.pids = append(m.pids, pid)
	}
}

// Last returns the last measurement; false: none is finished.
func (m *Meter) Last() (Size, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last, m.known
}

// Final waits for a measurement that begins now, but no longer than a time. False:
// it did not come in time, and the last one is returned, whole or not.
func (m *Meter) Final(wait time.Duration) (Size, bool) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	m.mu.Lock()
	first := m.begun + 1 // the next to begin
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
	for {
		m.mu.Lock()
		done, changed, last := m.done >= first, m.changed, m.last
		m.mu.Unlock()
		if done {
			return last, true
		}
		select {
		case <-changed:
		case <-m.ended:
			return last, false
		case <-timeout.C:
			return last, false
		}
	}
}

// Close ends the measuring. It does not wait for a filesystem that hangs.
func (m *Meter) Close() {
	m.cancel()
	select {
	case <-m.ended:
	case <-time.After(100 * time.Millisecond):
	}
}

func (m *Meter) loop(ctx context.Context) {
	defer close(m.ended)
	for ctx.Err() == nil {
		m.mu.Lock()
		m.begun++
		dirs := m.dirs()
		m.mu.Unlock()
		begin := time.Now()
		m.lookForSpace(dirs)
		size, err := Measure(ctx, dirs)
		if err != nil {
			return
		}
		m.publish(size)
		m.rest(ctx, dirs, max(m.options.Every, time.Duration(m.options.Share-1)*time.Since(begin)))
	}
}

// spaceEvery is how often filesystems are asked what they have left, between the walks.
const spaceEvery = 100 * time.Millisecond

// rest passes the time until the next measurement.
func (m *Meter) rest(ctx context.Context, dirs []string, rest time.Duration) {
	over := time.NewTimer(rest)
	defer over.Stop()
	look := time.NewTicker(spaceEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
			return
		case <-over.C:
			return
		case <-look.C:
			m.lookForSpace(dirs)
		}
	}
}

// dirs is what is to be measured now.
func (m *Meter) dirs() []string {
	if !m.options.Follow || len(m.pids) == 0 {
		return m.options.Dirs
	}
	dirs := make([]string, 0, len(m.pids))
	for _, pid := range slices.Compact(slices.Sorted(slices.Values(m.pids))) {
		// Opening the link leads to the directory itself, also in a mount namespace.
		dirs = append(dirs, "/proc/"+strconv.Itoa(int(pid))+"/cwd")
	}
	return dirs
}

func (m *Meter) publish(size Size) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.known = size, true
	m.done++
	close(m.changed)
	m.changed = make(chan struct{})
}
