package rmagent

import (
	"context"
	"fmt"
	"os"
	"sync"

	"rmagent/internal/headroom"
	"rmagent/record"
)

// ErrNoProcess is a PID that no process has, or that may not be seen. Errors of
// this package wrap it: test with errors.Is.
var ErrNoProcess = headroom.ErrNoProcess

// Headroom reads every limit that applies to process pid, and what is left of
// each. After one reading, rates and times are unknown: [Watch] knows them. It
// looks at each of the process's descriptors and mappings and at every process of
// its user, which takes milliseconds; a filesystem that hangs is waited for 10 ms
// and then unknown.
func Headroom(pid int) (record.Headroom, error) {
	w, err := Watch(pid)
	if err != nil {
		return record.Headroom{}, err
	}
	defer w.Close()
	return w.Read(context.Background())
}

// HeadroomSelf is Headroom of the calling process. The Go runtime's own limit,
// GOMEMLIMIT, is among the limits.
func HeadroomSelf() (record.Headroom, error) { return Headroom(os.Getpid()) }

// Watcher reads one process again and again, so that each reading knows how fast
// it moves since the reading before. It may be used by many goroutines.
type Watcher struct {
	mu     sync.Mutex
	pid    int32
	reader *headroom.Reader
	before *headroom.Facts
}

// Watch opens what a Watcher of process pid reads; Close closes it. That there is
// such a process, the first Read finds out.
func Watch(pid int) (*Watcher, error) {
	if pid < 1 || pid > 1<<22 {
		return nil, fmt.Errorf("PID %d: %w", pid, ErrNoProcess)
	}
	r, err := headroom.Open()
	if err != nil {
		return nil, fmt.Errorf("open headroom: %w", err)
	}
	return &Watcher{pid: int32(pid), reader: r}, nil
}

// Read reads the process. Rates are those since the Read before; if another process
// has taken the PID since, they are unknown.
func (w *Watcher) Read(ctx context.Context) (record.Headroom, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, err := w.reader.Read(ctx, w.pid, headroom.Full)
	if err != nil {
		return record.Headroom{}, fmt.Errorf("read headroom: %w", err)
	}
	if int(w.pid) == os.Getpid() {
		now.Go = readHeap().facts()
	}
	h := headroom.Evaluate(w.before, now)
	w.before = now
	return h, nil
}

// Close closes the Watcher, which can't be used any more.
func (w *Watcher) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reader.Close()
}
