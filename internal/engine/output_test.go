package engine

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"rmagent/internal/sink"
)

// A disk that stays full for an hour, with room for a line now and then, is told when it
// begins, once a minute, and when it is over, with all that was lost.
func TestAFullDiskIsToldOnceAMinute(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	var o output
	start := time.Now()
	full := &sink.WriteError{Cause: sink.LostDiskFull, Lost: 7, Err: unix.ENOSPC}
	lost := uint64(0)
	for s := range 3600 {
		var err error
		if s%9 != 8 { // a reading for which there is room
			err, lost = full, lost+7
		}
		o.flushed(zap.New(core), err, start.Add(time.Duration(s)*time.Second))
	}
	if n := logs.FilterMessage("output_failed").Len(); n != 60 || logs.Len() != n {
		t.Errorf("%d lines, %d of them of failures, in an hour; want 60", logs.Len(), n)
	}
	if got := o.outage.Load(); got == nil || *got != (Outage{start, lost, sink.LostDiskFull}) {
		t.Errorf("the outage is %+v, %d were lost", got, lost)
	}
	for s := range 12 {
		o.flushed(zap.New(core), nil, start.Add(time.Duration(3600+s)*time.Second))
	}
	over := logs.FilterMessage("output_works_again").All()
	if len(over) != 1 || over[0].ContextMap()["lost"] != lost || o.outage.Load() != nil {
		t.Errorf("when it is over: %v", over)
	}
}

// What could not be reopened is told each time, and is no loss: the old file stays in use.
func TestAFileThatIsNotReopenedIsNoOutage(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	var o output
	for range 2 {
		o.flushed(zap.New(core), &sink.WriteError{Err: fmt.Errorf("open: %w", unix.EISDIR)}, time.Now())
	}
	if logs.FilterMessage("output_failed").Len() != 2 || o.outage.Load() != nil {
		t.Errorf("%v, outage %v", logs.All(), o.outage.Load())
	}
}
