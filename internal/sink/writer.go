package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The causes of a loss.
const (
	LostQueueFull   = "queue_full"   // the target is slower than what is said
	LostDiskFull    = "disk_full"    // ENOSPC, EDQUOT
	LostWriteError  = "write_error"  // any other error, EFBIG among them
	LostClosed      = "closed"       // the reader has gone, or the sink was closed
	LostEncodeError = "encode_error" // a record that is no JSON
)

// ErrReaderGone means that whoever read the output has closed it (EPIPE):
// nothing that is written can arrive any more.
var ErrReaderGone = errors.New("the reader of the output has closed it")

var errSlow = errors.New("it takes them more slowly than they come")

// wakeAt is how many bytes gather before they are written without waiting for a
// flush.
const wakeAt = 64 << 10

// keepAt is the largest buffer that is kept whatever it is needed for.
const keepAt = 1 << 20

// How long a target may keep one write before it counts as hanging when the sink is
// closed. A reader that doesn't read may never do so; a disk is only slow.
const (
	streamHangs = 250 * time.Millisecond
	fileHangs   = 5 * time.Second
)

// noTurn is how soon a goroutine that had no turn yet is looked at again.
const noTurn = 10 * time.Millisecond

// writer takes lines without ever waiting for the target.
//
// Memory: what waits and what is being written are never more than limit bytes
// together, in two buffers whose capacity is at most twice that.
type writer struct {
	target *target // the goroutine's alone while busy, else under mu
	limit  int
	wake   chan struct{}
	done   chan struct{} // the goroutine has ended
	cancel context.CancelFunc

	mu       sync.Mutex
	idle     *sync.Cond    // inFlight and buf are empty
	buf      []byte        // whole lines that wait
	inFlight int           // bytes that are being written
	reopenAt int           // lines before here go to the old file; -1: no reopening
	busy     bool          // the goroutine writes or reopens
	since    time.Time     // from when on the target has what it was given last; zero: it has nothing
	hangs    time.Duration // after which it is said to hang
	flush    bool          // buf is to be written now
	closing  bool
	gone     bool        // ErrReaderGone
	failed   *WriteError // since the last flush
	need     int         // bytes that a buffer held lately, at most: it falls a little with each flush
	written  uint64      // lines
	lost     map[string]uint64
}

func newWriter(t *target, limit int) *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{
		target: t, limit: limit, cancel: cancel, reopenAt: -1,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		lost: map[string]uint64{},
	}
	w.idle = sync.NewCond(&w.mu)
	go w.run(ctx)
	return w
}

// add lets encode append one line. A line for which there is no room is counted
// as lost; the error is encode's. full says that the goroutine was woken because
// much has gathered.
func (w *writer) add(encode func(dst []byte) ([]byte, error)) (full bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing || w.gone {
		w.lost[LostClosed]++
		return false, nil
	}
	before := len(w.buf)
	next, err := encode(w.buf)
	if err != nil {
		w.lost[LostEncodeError]++
		return false, err
	}
	if w.inFlight+len(next) > w.limit {
		w.buf = next[:before]
		w.lost[LostQueueFull]++
		w.fail(LostQueueFull, 1, errSlow)
		return false, nil
	}
	w.buf = next
	if len(w.buf) < wakeAt || w.inFlight > 0 {
		return false, nil
	}
	w.writeNow()
	full = len(w.buf) >= wakeAt
	if full {
		w.signal()
	}
	return full, nil
}

// signal wakes the goroutine; mu is held.
func (w *writer) signal() {
	w.flush = true
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// flushNow has all lines so far written, and returns what went wrong since the
// last time. It does not wait.
func (w *writer) flushNow() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.need -= w.need / 64
	w.writeNow()
	if len(w.buf) > 0 {
		w.signal()
	}
	if w.gone {
		return ErrReaderGone
	}
	if w.failed == nil {
		return nil
	}
	err := w.failed
	w.failed = nil
	return err
}

// writeNow writes what can be written without waiting, if the goroutine has nothing to
// do: waking it, and the runtime's monitor with it, costs more than the write. mu is
// held.
func (w *writer) writeNow() {
	if w.busy || w.flush || w.closing || w.gone || w.reopenAt >= 0 || len(w.buf) == 0 {
		return
	}
	n := w.target.writeNow(w.buf)
	w.written += lines(w.buf[:n])
	held := len(w.buf)
	w.buf = append(w.buf[:0], w.buf[n:]...)
	if len(w.buf) == 0 {
		w.buf = w.keep(w.buf, held)
	}
}

// keep returns an empty buffer that held so many bytes, or nil where it is far larger than
// what was needed of late: growing one anew each time costs several times what writing its
// lines does. mu is held.
func (w *writer) keep(empty []byte, held int) []byte {
	w.need = max(held, w.need)
	if cap(empty) > max(keepAt, 4*w.need) {
		return nil
	}
	return empty
}

// reopen has the lines so far written to the old file and later ones to a new
// one. It does not wait.
func (w *writer) reopen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reopenAt = len(w.buf)
	w.signal()
}

// sync waits until all lines so far are written or lost.
func (w *writer) sync(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.idle.Broadcast()
	})
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing {
		return nil // close has waited
	}
	w.signal()
	for w.flush || w.inFlight > 0 {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for the output: %w", err)
		}
		w.idle.Wait()
	}
	return nil
}

// close writes the rest. From the end of ctx on a target that hangs is left behind, and
// what it did not take counts as lost; one that merely is slow to get its turn is not.
func (w *writer) close(ctx context.Context) error {
	w.mu.Lock()
	again := w.closing
	w.closing = true
	w.signal()
	w.mu.Unlock()
	if again {
		return nil
	}
	defer w.cancel()
	select {
	case <-w.done:
		return w.flushNow()
	case <-ctx.Done():
	}
	for left := w.patience(); left > 0; left = w.patience() {
		select {
		case <-w.done:
			return w.flushNow()
		case <-time.After(left):
		}
	}
	// The goroutine is in a write that may never return. It is left behind: a write of
	// a blocking descriptor can't be called off.
	w.mu.Lock()
	defer w.mu.Unlock()
	n := lines(w.buf)
	w.lost[LostClosed] += n
	w.buf = w.buf[:0]
	return fmt.Errorf("write the rest of the output: it takes nothing any more: %d lines are lost, and whether the %d bytes before them arrive is unknown: %w",
		n, w.inFlight, ctx.Err())
}

// patience is how much longer to wait for the target.
func (w *writer) patience() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since.IsZero() {
		return noTurn
	}
	return w.hangs - time.Since(w.since)
}

func (w *writer) counters() (written uint64, lost map[string]uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written, maps.Clone(w.lost)
}

// run is the goroutine: it swaps the full buffer for an empty one and writes it.
func (w *writer) run(ctx context.Context) {
	defer close(w.done)
	var spare []byte
	for range w.wake {
		for {
			batch, split, more := w.takeBatch(spare)
			if !more {
				break
			}
			spare = w.deliver(ctx, batch, split)
		}
		if w.ended() {
			w.given()
			w.settle(0, 0, "", w.target.close())
			return
		}
	}
}

// takeBatch swaps buffers. split is where in the batch the file changes, or -1.
func (w *writer) takeBatch(spare []byte) (batch []byte, split int, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.flush || len(w.buf) == 0 && w.reopenAt < 0 {
		w.flush = false
		w.idle.Broadcast()
		return nil, 0, false
	}
	batch, split = w.buf, w.reopenAt
	w.buf, w.inFlight = spare, len(w.buf)
	w.busy, w.flush, w.reopenAt = true, false, -1
	return batch, split, true
}

func (w *writer) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closing && len(w.buf) == 0
}

// deliver writes a batch, and returns its memory for another if that is worth keeping.
func (w *writer) deliver(ctx context.Context, batch []byte, split int) (spare []byte) {
	rest := batch
	if split >= 0 {
		w.put(ctx, batch[:split])
		w.given()
		w.settle(0, 0, "", w.target.reopen())
		rest = batch[split:]
	}
	w.put(ctx, rest)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy, w.inFlight, w.since = false, 0, time.Time{}
	w.idle.Broadcast()
	return w.keep(batch[:0], len(batch))
}

// put writes lines and counts what became of them.
func (w *writer) put(ctx context.Context, batch []byte) {
	if len(batch) == 0 {
		return
	}
	w.given()
	err := w.target.ready(ctx)
	whole := 0
	if err == nil {
		whole, err = w.target.write(batch)
	}
	w.settle(lines(batch[:whole]), lines(batch[whole:]), causeOf(err), err)
}

// given notes that the target gets something to do. Only the goroutine, whose the target
// is, calls it.
func (w *writer) given() {
	hangs := streamHangs
	if w.target.regular {
		hangs = fileHangs
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since, w.hangs = time.Now(), hangs
}

func (w *writer) settle(written, lost uint64, cause string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written += written
	if lost > 0 {
		w.lost[cause] += lost
	}
	if err == nil {
		return
	}
	if errors.Is(err, unix.EPIPE) {
		w.gone = true
	}
	w.fail(cause, lost, err)
}

// fail notes what the next flush tells: the first failure, and how much all lost. mu is
// held.
func (w *writer) fail(cause string, lost uint64, err error) {
	switch {
	case w.failed == nil:
		w.failed = &WriteError{Cause: cause, Err: err}
	case w.failed.Cause == "": // a file that could not be reopened
		w.failed.Cause, w.failed.Err = cause, errors.Join(w.failed.Err, err)
	}
	w.failed.Lost += lost
}

// WriteError is writes that failed, or a file that could not be reopened.
type WriteError struct {
	Cause string // one of the causes of a loss; empty: nothing was lost
	Lost  uint64 // lines
	Err   error
}

func (e *WriteError) Error() string {
	if e.Lost == 0 {
		return fmt.Sprintf("write the output: %v", e.Err)
	}
	return fmt.Sprintf("write the output: %d lines lost: %v", e.Lost, e.Err)
}

func (e *WriteError) Unwrap() error { return e.Err }

func causeOf(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return LostDiskFull
	case errors.Is(err, unix.EPIPE) || errors.Is(err, context.Canceled):
		return LostClosed
	}
	return LostWriteError
}

func lines(b []byte) uint64 { return uint64(bytes.Count(b, []byte("\n"))) }
