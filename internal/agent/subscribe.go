package agent

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"rmagent/record"
)

// subscriberQueue bounds the records that wait for each subscriber.
const subscriberQueue = 256

// Subscription says what a subscriber wants. Lists that are empty choose everything.
type Subscription struct {
	Kinds     []record.Kind
	States    []record.State // of state records: those that reach or leave one of these
	Resources []string       // of state records
	// Func is called with each record, one after another, by a goroutine of the
	// subscriber's own. The record is its own, too.
	Func func(record.Record)
}

// wants tells whether a record is for the subscription.
func (s *Subscription) wants(r record.Record) bool {
	if kind, err := record.KindOf(r); err != nil || len(s.Kinds) > 0 && !slices.Contains(s.Kinds, kind) {
		return false
	}
	c, ok := r.(*record.StateChange)
	if !ok {
		return true
	}
	return (len(s.States) == 0 || slices.Contains(s.States, c.State) || slices.Contains(s.States, c.Previous)) &&
		(len(s.Resources) == 0 || slices.Contains(s.Resources, c.Resource))
}

// Subscribers hand records to functions of others, which may be slow, hang or panic: it
// costs them records, and nobody else anything.
type Subscribers struct {
	log     *zap.Logger
	list    atomic.Pointer[[]*Subscriber]
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// NewSubscribers returns Subscribers without any.
func NewSubscribers(log *zap.Logger) *Subscribers {
	s := &Subscribers{log: log}
	s.list.Store(&[]*Subscriber{})
	return s
}

// Subscriber is one subscription that is in force.
type Subscriber struct {
	Subscription
	all     *Subscribers
	queue   chan []byte // encoded: a record's memory is used again by who wrote it
	dropped atomic.Uint64
	panics  atomic.Uint64
}

// Dropped counts the records that did not fit into the queue.
func (s *Subscriber) Dropped() uint64 { return s.dropped.Load() }

// Panics counts the calls that panicked.
func (s *Subscriber) Panics() uint64 { return s.panics.Load() }

// Subscribe puts a subscription in force, until Cancel. It does nothing once the
// subscribers are closed.
func (s *Subscribers) Subscribe(sub Subscription) *Subscriber {
	x := &Subscriber{Subscription: sub, all: s, queue: make(chan []byte, subscriberQueue)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return x
	}
	list := append(slices.Clone(*s.list.Load()), x)
	s.list.Store(&list)
	s.running.Go(x.run)
	return x
}

// Cancel ends the subscription. What waits is still delivered; Cancel does not wait for
// it.
func (s *Subscriber) Cancel() {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	list := slices.Clone(*s.all.list.Load())
	i := slices.Index(list, s)
	if i < 0 {
		return
	}
	list = slices.Delete(list, i, i+1)
	s.all.list.Store(&list)
	close(s.queue)
}

// Observe hands a record to whoever wants it, without waiting.
func (s *Subscribers) Observe(r record.Record) {
	var line []byte
	for _, x := range *s.list.Load() {
		if !x.wants(r) {
			continue
		}
		if line == nil {
			var err error
			if line, err = record.Append(nil, r); err != nil {
				return // the output has said so
			}
		}
		x.hand(line)
	}
}

func (s *Subscriber) hand(line []byte) {
	s.all.mu.Lock() // or Cancel closes the queue meanwhile
	defer s.all.mu.Unlock()
	if !slices.Contains(*s.all.list.Load(), s) {
		return
	}
	select {
	case s.queue <- line:
	default:
		s.dropped.Add(1)
	}
}

func (s *Subscriber) run() {
	for line := range s.queue {
		r, err := record.Decode(line)
		if err != nil {
			s.all.log.Error("subscriber_record", zap.Error(err))
			continue
		}
		s.call(r)
	}
}

// call calls the function, and lives on if it panics.
func (s *Subscriber) call(r record.Record) {
	defer func() {
		if p := recover(); p != nil {
			s.panics.Add(1)
			s.all.log.Error("subscriber_panicked", zap.Any("panic", p), zap.Stack("stack"))
		}
	}()
	s.Func(r)
}

// Close ends all subscriptions, and waits for those that are being called until ctx
// ends: one that hangs is left behind.
func (s *Subscribers) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for _, x := range *s.list.Load() {
		close(x.queue)
	}
	s.list.Store(&[]*Subscriber{})
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
