package engine

import (
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/sink"
)

const (
	// outputHold is for how long nothing must be lost until the output is said to take all
	// again: a disk that is full has room for a line now and then.
	outputHold = 10 * time.Second
	// outputReminder is how often it is told that records are being lost.
	outputReminder = time.Minute
)

// Outage says that the output does not take all records.
type Outage struct {
	Since time.Time
	Lost  uint64 // records, so far
	Cause string // one of sink's
}

// output is how the output of the records does. The engine's goroutine changes it; others
// may ask for the outage.
type output struct {
	outage       atomic.Pointer[Outage] // nil: all is written
	failed, told time.Time              // when it last was
}

// flushed takes what a flush said. A loss is told when it begins, once a minute, and when
// it is over: a full disk would else fill the log, too, often on the same disk.
func (o *output) flushed(log *zap.Logger, err error, now time.Time) {
	var w *sink.WriteError
	before := o.outage.Load()
	switch {
	case err == nil && before != nil && now.Sub(o.failed) >= outputHold:
		o.outage.Store(nil)
		log.Info("output_works_again", zap.Uint64("lost", before.Lost), zap.Time("since", before.Since), zap.Time("until", o.failed))
	case err == nil:
	case !errors.As(err, &w) || w.Lost == 0: // the file could not be reopened
		log.Error("output_failed", zap.Error(err))
	default:
		o.lose(log, before, w, now)
	}
}

func (o *output) lose(log *zap.Logger, before *Outage, w *sink.WriteError, now time.Time) {
	next := &Outage{Since: now, Lost: w.Lost, Cause: w.Cause}
	if before != nil {
		next.Since, next.Lost = before.Since, before.Lost+w.Lost
	}
	o.outage.Store(next)
	o.failed = now
	if before != nil && now.Sub(o.told) < outputReminder {
		return
	}
	o.told = now
	log.Error("output_failed", zap.NamedError("error", w.Err), zap.Uint64("lost", next.Lost), zap.Time("since", next.Since))
}

// Outage returns how records are being lost now, nil where all are written. Any goroutine
// may ask.
func (e *Engine) Outage() *Outage { return e.output.outage.Load() }
