package main

import (
	"context"
	"fmt"
	"time"

	"rmagent/internal/engine"
	"rmagent/internal/headroom"
	"rmagent/internal/sample"
	"rmagent/record"
)

// headroomDesk answers questions for headroom, one at a time: each looks at one
// process, and at the names of all others of its user, or at the limits of all.
type headroomDesk struct {
	turn   chan struct{}
	reader *headroom.Reader // opened by the first who asks
	gpus   func() *sample.GPUs
	views  *engine.Views
	looks  map[int32]look // at the processes that somebody keeps asking about
}

// look is what was read of a process that somebody keeps asking about.
type look struct{ before, last *headroom.Facts }

const (
	maxLooks = 32
	lookAge  = time.Minute            // older readings say nothing of the present rate
	lookStep = 500 * time.Millisecond // closer ones say little
)

func newHeadroomDesk() *headroomDesk {
	return &headroomDesk{turn: make(chan struct{}, 1), looks: map[int32]look{}}
}

// Process looks at one process, twice if between is not 0.
func (d *headroomDesk) Process(ctx context.Context, pid int32, between time.Duration) (record.Headroom, error) {
	var before *headroom.Facts
	if between > 0 {
		var err error
		if before, err = d.read(ctx, pid, nil); err != nil {
			return record.Headroom{}, err
		}
		if err := pause(ctx, between); err != nil {
			return record.Headroom{}, err
		}
	}
	now, err := d.read(ctx, pid, nil)
	if err != nil {
		return record.Headroom{}, err
	}
	return headroom.Evaluate(before, now), nil
}

// Follow looks at one process; rates are those since the last look that it remembers.
func (d *headroomDesk) Follow(ctx context.Context, pid int32) (record.Headroom, error) {
	var before *headroom.Facts
	now, err := d.read(ctx, pid, func(now *headroom.Facts) { before = d.remember(now) })
	if err != nil {
		return record.Headroom{}, err
	}
	return headroom.Evaluate(before, now), nil
}

// remember keeps a look, and returns the one that it is to be compared with, nil where
// there is none.
func (d *headroomDesk) remember(now *headroom.Facts) (before *headroom.Facts) {
	for pid, l := range d.looks {
		if now.At-l.last.At > lookAge {
			delete(d.looks, pid)
		}
	}
	pid := now.ID.PID
	l, there := d.looks[pid]
	switch {
	case there && l.last.ID == now.ID && now.At-l.last.At < lookStep:
		return l.before
	case there && l.last.ID == now.ID:
		before = l.last
	case len(d.looks) >= maxLooks:
		return nil
	}
	d.looks[pid] = look{before, now}
	return before
}

// Nearest looks at the limits of all processes that a filter chooses, twice if between
// is not 0, as of two readings of the agent's own.
func (d *headroomDesk) Nearest(ctx context.Context, f engine.Filter, between time.Duration, most int) (list record.HeadroomList, err error) {
	var before *headroom.Survey
	if between > 0 {
		// What is not in the agent's reading is read beside it, so both must be of one
		// moment: just when it is made.
		if err := d.views.AwaitTick(ctx); err != nil {
			return list, err
		}
		if before, err = d.survey(ctx, f); err != nil {
			return list, err
		}
		if err := pause(ctx, between); err != nil {
			return list, err
		}
		if err := d.views.AwaitTick(ctx); err != nil {
			return list, err
		}
	}
	now, err := d.survey(ctx, f)
	if err != nil {
		return list, err
	}
	return headroom.Nearest(before, now, most), nil
}

func (d *headroomDesk) survey(ctx context.Context, f engine.Filter) (*headroom.Survey, error) {
	r, err := d.views.Reading(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	defer d.leave()
	return d.reader.Survey(ctx, &r.Snapshot, d.gpus(),
		func(p *sample.Process) bool { return r.Chosen(&f, p) },
		func(p *sample.Process) string { return record.Text([]byte(r.Identity(p).Cgroup)) })
}

// read reads one process; then, if it is not nil, runs while nobody else asks.
func (d *headroomDesk) read(ctx context.Context, pid int32, then func(*headroom.Facts)) (*headroom.Facts, error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	defer d.leave()
	f, err := d.reader.Read(ctx, pid, headroom.Full)
	if err != nil {
		return nil, err
	}
	f.GPUs = headroom.GPUsOf(d.gpus(), f.ID)
	if then != nil {
		then(f)
	}
	return f, nil
}

// enter waits until nobody else is at the desk, and opens the reader for the first.
func (d *headroomDesk) enter(ctx context.Context) (err error) {
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.reader == nil {
		if d.reader, err = headroom.Open(); err != nil {
			d.leave()
			return fmt.Errorf("read limits: %w", err)
		}
	}
	return nil
}

func (d *headroomDesk) leave() { <-d.turn }

func (d *headroomDesk) close() error {
	d.turn <- struct{}{}
	if d.reader == nil {
		return nil
	}
	return d.reader.Close()
}
