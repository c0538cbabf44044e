package act

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/config"
	"rmagent/internal/policy"
	"rmagent/record"
)

// queueLength bounds what waits for each action.
const queueLength = 16

// remembered bounds the crossings of which an action remembers that it acted.
const remembered = 4096

// Options say how a Runner works.
type Options struct {
	Log *zap.Logger
	// Emit is given the record of each attempt, by any goroutine. It must not wait.
	Emit      func(*record.Action)
	UserAgent string // of webhooks
	// Backoff is the pause before a webhook tries again the first time; 0: a second.
	Backoff time.Duration
	Now     func() time.Time // nil: the wall clock
}

// Runner does what actions say. Its methods may be called by many goroutines, and none
// but Close waits for anything.
type Runner struct {
	Options
	http    *http.Client
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup
	dropped atomic.Uint64

	mu     sync.Mutex
	closed bool
	dryRun bool
	order  []*worker
}

// worker is one action, and the goroutine that does it.
type worker struct {
	action config.Action
	queue  chan job
	times  []time.Time      // of what was queued within the last hour
	acted  map[uint64]bool  // crossings
	oldest []uint64         // of them, in their order
	told   map[subject]bool // what began and is not over
}

// job is one thing that is to be done.
type job struct {
	action config.Action
	dryRun bool
	event  event
	input  []byte // JSON for commands and webhooks
	id     string // tells it from all others
}

// New returns a Runner that does nothing until it is configured.
func New(o Options) *Runner {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Backoff == 0 {
		o.Backoff = time.Second
	}
	r := &Runner{Options: o, http: newHTTPClient()}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Configure has these actions in force from now on. What waits already is done as it
// was meant. An action of the same name remembers what it has acted on.
func (r *Runner) Configure(actions []config.Action, dryRun bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.dryRun = dryRun
	before := r.order
	r.order = make([]*worker, 0, len(actions))
	for _, a := range actions {
		i := slices.IndexFunc(before, func(w *worker) bool { return w.action.Name == a.Name })
		if i >= 0 {
			before[i].action = a
			r.order = append(r.order, before[i])
			continue
		}
		w := &worker{action: a, queue: make(chan job, queueLength), acted: map[uint64]bool{}, told: map[subject]bool{}}
		r.order = append(r.order, w)
		r.running.Go(func() { r.work(w) })
	}
	for _, w := range before {
		if !slices.Contains(r.order, w) {
			close(w.queue)
		}
	}
}

// Changed tells of a decision; p is the process that it is about, nil where it is about
// none or that has ended.
func (r *Runner) Changed(c *policy.Change, p *Process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tell(ofChange(c, p))
}

// Leak tells of a verdict on a process, which may be protected.
func (r *Runner) Leak(l *record.Leak, protected bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.order) == 0 || l.Verdict == record.VerdictGrowing {
		return
	}
	e := ofLeak(l)
	e.who[0].Protected = protected
	r.tell(e)
}

// OOM tells of a process that the kernel has killed.
func (r *Runner) OOM(o *record.OOM) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.order) > 0 {
		r.tell(ofOOM(o))
	}
}

// ErrNoAction is a name that no action has.
var ErrNoAction = errors.New("there is no such action")

// Ask has an action act that somebody named, who says why.
func (r *Runner) Ask(name, why string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.order, func(w *worker) bool { return w.action.Name == name })
	if i < 0 {
		return fmt.Errorf("%w: %s", ErrNoAction, name)
	}
	r.queue(r.order[i], event{cause: asked, message: why})
	return nil
}

// Names are those of the actions in force.
func (r *Runner) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, len(r.order))
	for i, w := range r.order {
		names[i] = w.action.Name
	}
	return names
}

// Dropped counts what did not fit into a queue.
func (r *Runner) Dropped() uint64 { return r.dropped.Load() }

// tell queues an event for every action that it is for. Of an end an action is told only if
// it acted on the beginning. mu is held.
func (r *Runner) tell(e event) {
	for _, w := range r.order {
		if e.recovery && !w.told[e.subject] { // dropped, or not its business
			continue
		}
		if chooses(&w.action, &e) && !w.acted[e.crossing] && r.queue(w, e) && !e.recovery && e.subject != (subject{}) {
			w.told[e.subject] = true
		}
		if e.over {
			delete(w.told, e.subject)
		}
	}
}

// queue hands an event to an action, if its limits allow it, and says so. mu is held.
func (r *Runner) queue(w *worker, e event) bool {
	j := job{action: w.action, dryRun: r.dryRun || w.action.DryRun, event: e}
	now := r.Now()
	if why := w.limited(now); why != "" {
		r.emit(&j, result{outcome: record.OutcomeRateLimited, detail: why, attempt: 1})
		return false
	}
	if err := j.prepare(); err != nil {
		r.emit(&j, result{outcome: record.OutcomeFailed, detail: err.Error(), attempt: 1})
		return false
	}
	select {
	case w.queue <- j:
		w.times = append(w.times, now)
		w.remember(e.crossing)
		return true
	default:
		r.dropped.Add(1)
		r.emit(&j, result{outcome: record.OutcomeDropped, detail: fmt.Sprintf("%d wait already", queueLength), attempt: 1})
		return false
	}
}

// limited says why an action must not act now, or nothing.
func (w *worker) limited(now time.Time) string {
	hourAgo := now.Add(-time.Hour)
	w.times = slices.DeleteFunc(w.times, func(t time.Time) bool { return t.Before(hourAgo) })
	n := len(w.times)
	if n >= w.action.MaxPerHour {
		return fmt.Sprintf("%d times within an hour", n)
	}
	if n == 0 {
		return ""
	}
	if since := now.Sub(w.times[n-1]); since < w.action.MinInterval {
		return fmt.Sprintf("%v after the time before", since.Round(time.Millisecond))
	}
	return ""
}

func (w *worker) remember(crossing uint64) {
	if crossing == 0 {
		return
	}
	if len(w.oldest) == remembered {
		delete(w.acted, w.oldest[0])
		w.oldest = w.oldest[1:]
	}
	w.acted[crossing] = true
	w.oldest = append(w.oldest, crossing)
}

// prepare takes from the event's record what is needed later: its memory is used again.
func (j *job) prepare() error {
	e := &j.event
	if e.record != nil {
		h := e.record.Head()
		j.id = fmt.Sprintf("%s-%d-%s", h.BootID, h.Seq, j.action.Name)
	}
	if j.action.Kind == config.ActionCommand || j.action.Kind == config.ActionWebhook {
		in := record.ActionInput{
			Action: j.action.Name, Cause: e.cause, Recovery: e.recovery, DryRun: j.dryRun, Message: e.message,
			Resource: known(e.resource), Target: known(e.target),
		}
		if p, ok := j.first(); ok {
			in.PID, in.StartTicks, in.Comm = record.Some(p.ID.PID), record.Some(p.ID.StartTicks), record.Some(p.Comm)
		}
		if e.record != nil {
			line, err := record.Append(nil, e.record)
			if err != nil {
				return err
			}
			in.Record = line
		}
		var err error
		if j.input, err = json.Marshal(&in); err != nil {
			return err
		}
	}
	e.who = slices.Clone(meant(&j.action, e))
	e.record = nil
	return nil
}

// first is the process that the action is about before others.
func (j *job) first() (Process, bool) {
	who := meant(&j.action, &j.event)
	if len(who) == 0 {
		return Process{}, false
	}
	return who[0], true
}

func known(s string) record.Opt[string] { return record.SomeIf(s, s != "") }

// result is how an attempt ended.
type result struct {
	outcome record.Outcome
	detail  string
	attempt uint64
	took    time.Duration
	who     *Process // of the attempt; nil: the first that the event is about
}

// emit makes a record of an attempt.
func (r *Runner) emit(j *job, res result) {
	e := &j.event
	a := &record.Action{
		Action: j.action.Name, Type: j.action.Kind, Cause: e.cause, Resource: known(e.resource), Target: known(e.target),
		Crossing: record.SomeIf(e.crossing, e.crossing != 0), Recovery: e.recovery,
		Why: e.message, What: j.what(res.who), Attempt: res.attempt, Outcome: res.outcome, Detail: res.detail,
		DurationSeconds: res.took.Seconds(),
	}
	a.Time = r.Now().UTC()
	if res.who == nil {
		if p, ok := j.first(); ok {
			res.who = &p
		}
	}
	if p := res.who; p != nil {
		a.PID, a.StartTicks, a.Comm = record.Some(p.ID.PID), record.Some(p.ID.StartTicks), record.Some(p.Comm)
	}
	r.Emit(a)
}

// work does one job after another until the queue is closed.
func (r *Runner) work(w *worker) {
	for j := range w.queue {
		if r.ctx.Err() != nil {
			r.dropped.Add(1)
			r.emit(&j, result{outcome: record.OutcomeDropped, detail: "the agent ended", attempt: 1})
			continue
		}
		r.do(&j)
	}
}

// do does one job.
func (r *Runner) do(j *job) {
	switch j.action.Kind {
	case config.ActionLog:
		r.log(j)
	case config.ActionCommand:
		r.command(j)
	case config.ActionWebhook:
		r.webhook(j)
	case config.ActionSignal:
		r.signal(j)
	}
}

func (r *Runner) log(j *job) {
	outcome := record.OutcomeDryRun
	if !j.dryRun {
		outcome = record.OutcomeDone
		r.Log.Warn("action", zap.String("action", j.action.Name), zap.String("cause", j.event.cause), zap.String("target", j.event.target),
			zap.String("message", j.event.message), zap.Bool("recovery", j.event.recovery))
	}
	r.emit(j, result{outcome: outcome, attempt: 1})
}

// Close ends what is being done, drops what waits, and returns when that is recorded,
// or ctx ends.
func (r *Runner) Close(ctx context.Context) error {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		for _, w := range r.order {
			close(w.queue)
		}
		r.order = nil
	}
	r.mu.Unlock()
	r.cancel()
	done := make(chan struct{})
	go func() {
		r.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		r.http.CloseIdleConnections()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the actions: %w", ctx.Err())
	}
}
