package filewatch

import (
	"maps"
	"path/filepath"
	"sync"
	"time"

	"rmagent/internal/cctools"
)

// every is how often files are looked at.
const every = 100 * time.Millisecond

// Watcher watches files until it is closed.
type Watcher struct {
	files []*file
	stop  chan struct{}
	final chan chan struct{} // one more turn, the last
	ended chan struct{}

	mu    sync.Mutex
	due   []string         // labels of the snapshot to take
	opens map[string]int64 // of files, by path, by the Watcher itself
}

// Start begins to watch files, whose paths begin at dir where they are not absolute.
// How they are now is no event.
func Start(files []cctools.WatchedFile, dir string) *Watcher {
	w := &Watcher{stop: make(chan struct{}), final: make(chan chan struct{}), ended: make(chan struct{}), opens: map[string]int64{}}
	for _, spec := range files {
		path := spec.Path
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		w.files = append(w.files, newFile(spec, path))
	}
	go w.loop()
	return w
}

// Due returns the name of the snapshot that is to be taken now, which it takes as
// taken; empty: none.
func (w *Watcher) Due() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := join(w.due)
	w.due = nil
	return name
}

// Opens returns how often the Watcher itself opened and closed which file, to read it.
func (w *Watcher) Opens() map[string]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.opens)
}

// Final looks a last time, at what the job did before it ended, and returns the name
// of the snapshot that is due. It waits no longer than a time.
func (w *Watcher) Final(wait time.Duration) string {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	done := make(chan struct{})
	select {
	case w.final <- done:
	case <-w.ended:
	case <-timeout.C:
		return w.Due()
	}
	select {
	case <-done:
	case <-w.ended:
	case <-timeout.C:
	}
	return w.Due()
}

// Close ends the watching. It does not wait for a filesystem that hangs.
func (w *Watcher) Close() {
	close(w.stop)
	select {
	case <-w.ended:
	case <-time.After(every):
	}
}

func (w *Watcher) loop() {
	defer close(w.ended)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.look(false)
		case done := <-w.final:
			w.look(true)
			close(done)
			return
		case <-w.stop:
			return
		}
	}
}

func (w *Watcher) look(last bool) {
	for _, f := range w.files {
		labels := f.look(last)
		w.mu.Lock()
		w.due = append(w.due, labels...)
		if f.opens > 0 {
			w.opens[f.path] = f.opens
		}
		w.mu.Unlock()
	}
}
