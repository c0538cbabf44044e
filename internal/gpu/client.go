package gpu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"rmagent/internal/clock"
	"rmagent/internal/sample"
)

// Options say how a client works.
type Options struct {
	// Root is put before /proc and /dev when it looks for a driver; for tests.
	Root string
	// Helper is the child's program; empty: it is looked for.
	Helper string
	// Processes says that PIDs here are the machine's: the agent is in the initial
	// PID namespace. Elsewhere what processes hold is unknown.
	Processes bool
	Log       *slog.Logger
}

// timing is what tests shorten.
type timing struct {
	look     time.Duration // between looks for a driver
	first    time.Duration // for the first answer: the library may have to wake every card
	answer   time.Duration // for each later one
	backoff  time.Duration // after the first failure; doubles
	slowest  time.Duration // the longest wait between two children
	healthy  time.Duration // a child that lived so long ends a row of failures
	patience time.Duration // for a child that was killed
}

var usual = timing{
	look: time.Minute, first: time.Minute, answer: 10 * time.Second,
	backoff: time.Second, slowest: time.Minute, healthy: time.Minute, patience: 300 * time.Millisecond,
}

// State is how a client fares.
type State string

// The states.
const (
	Looking State = "looking" // it has not found out yet
	Absent  State = "absent"  // there is nothing to watch
	Failing State = "failing" // there is, but it can't be read
	Reading State = "reading"
)

// Status is what a client found, for people.
type Status struct {
	State   State
	Why     string // unless reading
	Helper  string // path of the child's program; empty: not found, or not needed
	Driver  string // version; empty: unknown
	Library string // NVML's version
	// Failures are the cards that can't be read in full, by index.
	Failures map[int]string
}

// Client watches the GPUs. Its methods may be called by several goroutines.
type Client struct {
	o    Options
	t    timing
	stop context.CancelFunc
	done chan struct{}
	wake chan struct{}

	mu      sync.Mutex
	wanted  time.Duration // when the last reading was asked for, monotonic
	latest  *sample.GPUs
	status  Status
	changed chan struct{} // closed at the next change of latest or status
	ended   time.Duration // CPU time of the children that have ended
	running time.Duration // and of the one that runs

	birth sync.Mutex // held while a child is started
	child int32      // PID of the last one; 0: there was none

	stuck *child // that could not be killed; only the goroutine's
}

// Open starts a client. Close ends it.
func Open(o Options) *Client { return open(o, usual) }

func open(o Options, t timing) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{
		o: o, t: t, stop: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1),
		status: Status{State: Looking}, changed: make(chan struct{}),
	}
	go c.run(ctx)
	return c
}

// Close ends the child and the client. A child that can't be killed is left to the
// kernel.
func (c *Client) Close() error {
	c.stop()
	<-c.done
	return nil
}

// Poll returns the latest complete reading, nil where there are no cards, and asks
// for the next. It never waits. A reading that is polled before processes are read
// tells of those that have their PIDs then.
func (c *Client) Poll() *sample.GPUs {
	now := clock.Monotonic()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = now
	select {
	case c.wake <- struct{}{}:
	default: // it was asked already
	}
	return c.latest
}

// Read asks for a reading and waits for it, or until it is known that there will be
// none, or ctx ends.
func (c *Client) Read(ctx context.Context) (*sample.GPUs, Status) {
	asked := clock.Monotonic()
	c.Poll()
	for {
		c.mu.Lock()
		latest, status, changed := c.latest, c.status, c.changed
		c.mu.Unlock()
		if status.State == Absent || status.State == Failing || latest != nil && latest.Monotonic >= asked {
			return latest, status
		}
		select {
		case <-changed:
		case <-ctx.Done():
			status.Why = fmt.Sprintf("no answer yet: %v", context.Cause(ctx))
			return latest, status
		}
	}
}

// Latest returns the latest complete reading, nil where there is none, and how the
// client fares. It asks for nothing and never waits.
func (c *Client) Latest() (*sample.GPUs, Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest, c.status
}

// Owns tells whether a child of this process is the client's program. While that is
// being started it waits for the end of it, so that no child of the client goes for
// another's.
func (c *Client) Owns(pid int32) bool {
	c.birth.Lock()
	defer c.birth.Unlock()
	return c.child == pid
}

// CPU is the CPU time of all children so far.
func (c *Client) CPU() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended + c.running
}

// run is the client's goroutine.
func (c *Client) run(ctx context.Context) {
	defer close(c.done)
	wait := c.t.backoff
	for ctx.Err() == nil {
		if why := WhyNone(c.o.Root); why != "" {
			c.publish(nil, Status{State: Absent, Why: why})
			wait = c.t.backoff
			sleep(ctx, c.t.look)
			continue
		}
		began := time.Now()
		helper, err := c.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		c.fail(helper, err)
		if time.Since(began) >= c.t.healthy {
			wait = c.t.backoff
		}
		sleep(ctx, wait)
		wait = min(2*wait, c.t.slowest)
	}
}

// serve is the life of one child. It returns why it ended.
func (c *Client) serve(ctx context.Context) (helper string, err error) {
	if c.stuck != nil {
		select {
		case <-c.stuck.exited:
			c.stuck = nil
		default:
			return "", fmt.Errorf("a %s that was killed hangs in the driver and does not end", HelperName)
		}
	}
	if helper = c.o.Helper; helper == "" {
		if helper, err = find(); err != nil {
			return "", err
		}
	}
	ch, err := c.start(helper)
	if err != nil {
		return helper, err
	}
	err = c.poll(ctx, ch, helper)
	why, gone := ch.end(err, c.t.patience)
	c.mu.Lock()
	if gone {
		c.ended, c.running = c.ended+ch.cpu(), 0
	} else {
		c.ended, c.running, c.stuck = c.ended+c.running, 0, ch
	}
	c.mu.Unlock()
	return helper, why
}

func (c *Client) start(helper string) (*child, error) {
	c.birth.Lock()
	defer c.birth.Unlock()
	ch, err := start(helper)
	if err == nil {
		c.child = int32(ch.cmd.Process.Pid)
	}
	return ch, err
}

// poll has the child read when it is asked to, until something fails.
func (c *Client) poll(ctx context.Context, ch *child, helper string) error {
	timeout := c.t.first
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ch.exited:
			return io.EOF
		case <-c.wake:
		}
		c.mu.Lock()
		asked := c.wanted
		c.mu.Unlock()
		ticks := uint64(clock.Boottime() / (time.Second / sample.UserHz))
		r, err := ch.ask(ctx, timeout)
		if err != nil {
			return err
		}
		if r.Failure != "" {
			return errors.New(clip(r.Failure))
		}
		s, err := convert(r, c.o.Processes)
		if err != nil {
			return err
		}
		s.Monotonic, s.ListedTicks = asked, ticks
		c.mu.Lock()
		c.running = time.Duration(min(r.CPUNanos, 1<<62))
		c.mu.Unlock()
		c.publish(s, Status{State: Reading, Helper: helper, Driver: clip(r.Driver), Library: clip(r.Library), Failures: failures(r)})
		timeout = c.t.answer
	}
}

// fail says that the cards can't be read now. They are remembered: what was there
// is unknown, not gone.
func (c *Client) fail(helper string, why error) {
	var unread *sample.GPUs
	if c.latest != nil {
		unread = &sample.GPUs{Monotonic: c.latest.Monotonic, ListedTicks: c.latest.ListedTicks}
		for i := range c.latest.Devices {
			unread.Devices = append(unread.Devices, c.latest.Devices[i].Unread())
		}
	}
	c.publish(unread, Status{State: Failing, Why: why.Error(), Helper: helper})
}

// publish makes a reading and a status known, and logs what changed.
func (c *Client) publish(s *sample.GPUs, status Status) {
	c.tell(s, &status)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest, c.status = s, status
	close(c.changed)
	c.changed = make(chan struct{})
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
