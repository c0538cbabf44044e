package sink

import (
	"context"
	"os"
	"runtime"

	"rmagent/record"
)

// DefaultQueueBytes is the bound of what waits to be written: about four ticks of
// a thousand processes.
const DefaultQueueBytes = 8 << 20

// Stdout is the path that means the standard output.
const Stdout = "-"

// JSONLOptions says where records go, and what all of them say of themselves.
type JSONLOptions struct {
	Path   string // Stdout, or a file, which is made with mode 0640
	Stdout *os.File
	Host   string
	BootID string
	// QueueBytes bounds what waits, 0: DefaultQueueBytes. The memory for it is at
	// most twice that.
	QueueBytes int
}

// JSONL writes records as JSON lines. Its methods may be called by many
// goroutines.
type JSONL struct {
	w            *writer
	host, bootID string
	seq          uint64 // of the last record; under the writer's lock
}

// OpenJSONL opens the output. A FIFO that nobody reads yet is opened when
// somebody does; until then records wait.
func OpenJSONL(o JSONLOptions) (*JSONL, error) {
	t, err := openPath(o.Path, o.Stdout)
	if err != nil {
		return nil, err
	}
	limit := o.QueueBytes
	if limit == 0 {
		limit = DefaultQueueBytes
	}
	return &JSONL{w: newWriter(t, limit), host: o.Host, bootID: o.BootID}, nil
}

func openPath(path string, stdout *os.File) (*target, error) {
	if path == Stdout {
		return inheritTarget(stdout)
	}
	return openTarget(path)
}

// Write fills in r's header, but for its time, and appends it to what waits. It
// never waits. A record that is lost has used up its seq, and Counters has it; an
// error is only ever a record that can't be encoded.
func (s *JSONL) Write(r record.Record) error {
	full, err := s.w.add(func(dst []byte) ([]byte, error) {
		s.seq++
		h := r.Head()
		h.Host, h.BootID, h.Seq, h.Schema = s.host, s.bootID, s.seq, record.Schema
		if kind, err := record.KindOf(r); err == nil {
			h.Kind = kind
		}
		return record.Append(dst, r)
	})
	if full {
		// On a single CPU the writer would get no turn before the queue is full.
		runtime.Gosched()
	}
	return err
}

// Flush has everything written that waits, without waiting for it. It returns
// what went wrong since the last call: a [*WriteError], or [ErrReaderGone], which
// stays.
func (s *JSONL) Flush() error { return s.w.flushNow() }

// Sync is Flush that waits.
func (s *JSONL) Sync(ctx context.Context) error { return s.w.sync(ctx) }

// Reopen has the path opened anew, after the records so far have gone to the old
// file: for logrotate, which has renamed it. It does not wait; where it fails,
// the old file stays in use and Flush says so. The standard output stays as it is.
func (s *JSONL) Reopen() { s.w.reopen() }

// Close writes the rest. From the end of ctx on, an output that hangs is left behind, for
// a reader that is stuck must not keep the agent from ending: a stream that took nothing
// for a quarter of a second, a file for five. What is left then is counted as lost.
func (s *JSONL) Close(ctx context.Context) error { return s.w.close(ctx) }

// Counters is what became of the records.
type Counters struct {
	Written uint64
	Lost    map[string]uint64 // by cause
}

// Counters returns the sums so far. Records that wait are in neither.
func (s *JSONL) Counters() Counters {
	written, lost := s.w.counters()
	return Counters{written, lost}
}
