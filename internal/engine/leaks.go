package engine

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/aggregate"
	"rmagent/internal/held"
	"rmagent/internal/leak"
	"rmagent/internal/python"
	"rmagent/internal/sample"
	"rmagent/internal/stack/worker"
	"rmagent/record"
)

// FDTracer tells who opens descriptors: loader.FDTracer.
type FDTracer interface {
	held.Lister
	// Start makes ids those who are traced, instead of whoever was; nil: nobody.
	Start(ids []sample.ID) error
	// Drain replaces dst with the births since the last one. Stacks are valid until
	// the next.
	Drain(dst *sample.FDBirths) error
	// SetPython has the frames of CPython read at each birth of who is traced.
	SetPython(id sample.ID, p sample.PythonLayout) error
	// NeedDeep has more of the stacks of who is traced copied deeply.
	NeedDeep(id sample.ID) error
	// Remember has births of who is traced told as as, which is not 0, where their stacks have
	// the words of a walk; false where that can't be. ForgetWalks ends it.
	Remember(id sample.ID, execID uint64, words sample.WalkWords, as uint32) bool
	ForgetWalks(id sample.ID)
	// ExecID is FDBirth.ExecID of who is traced, now; 0 where nobody knows.
	ExecID(id sample.ID) uint64
	Counts(id sample.ID) (sample.FDCounts, error)
	Balance() (sample.FDBalance, error)
	// Cost estimates the CPU time that the hooks took from everybody since the start.
	Cost() time.Duration
}

// StackResolver says where births came from, without waiting: worker.Client.
type StackResolver interface {
	// Site returns where a stack came from. A nil one is told of by Answers, under
	// seq; where that is false it is not told at all.
	Site(image worker.Image, seq uint64, raw *sample.RawStack) (site *worker.Site, ok bool)
	Answers(dst []worker.Answer) []worker.Answer
	// Words appends all that the walk of a stack to a site depends on to dst, for as long as Epoch
	// is the same; false where there is more, or it does not lead to that site any more.
	Words(image worker.Image, raw *sample.RawStack, to *worker.Site, dst sample.WalkWords) (words sample.WalkWords, epoch uint64, ok bool)
	Epoch(image worker.Image) uint64
	Stats() worker.Stats
	Forget(id sample.ID)
	// CPU is the CPU time of the children that walk stacks.
	CPU() time.Duration
}

// Tracing says when opens are traced.
type Tracing string

// The ways.
const (
	TraceAuto   Tracing = "auto"   // those that are suspect, while they are
	TraceAlways Tracing = "always" // those that hold most, too
	TraceOff    Tracing = "off"
)

const (
	lookEvery = 100 * time.Millisecond // at who is watched between ticks
	maxLooked = 256                    // processes
	maxTraced = 64
	// keepTracing is for how long tracing stays once it is attached, and maxAttaches
	// how often it is in an hour: attaching costs everybody.
	keepTracing = time.Minute
	maxAttaches = 6
	// namePatience bounds how long the verdict "growing" waits for the site's name.
	namePatience = 1500 * time.Millisecond
	// walkPatience is how much longer it waits where opens are traced: on a machine with
	// too much work, who walks their stacks has to wait for a CPU.
	walkPatience    = 10 * time.Second
	maxNamePatience = 3 * time.Minute
	maxWaiting      = 1 << 13 // births whose stacks are being walked
	// listBudget is how many descriptors of a process are listed in a second, and
	// quietBudget where it has opened and closed none since: then only when each was used
	// last can be told anew, of which minutes count.
	listBudget  = 50_000
	quietBudget = 2_000
)

// LeakOptions are what a Leaks works with. It closes none of it.
type LeakOptions struct {
	Tracer  FDTracer          // nil: opens can't be traced
	Stacks  StackResolver     // nil: stacks stay unknown
	Pythons *python.Processes // nil: frames of CPython stay unknown
	Proc    *held.Proc
	Tracing Tracing
	Always  []int32 // PIDs that are traced whatever they do
	// CPUBudget is the share of one core that the hooks may take; 0: no limit.
	CPUBudget float64
	Log       *zap.Logger
	Now       func() time.Duration // CLOCK_MONOTONIC
	// Self is the PID of the agent, which is no suspect; 0 where somebody else asks.
	Self int32
}

// Leaks watches the descriptors of processes: who is worth a closer look, who is
// traced, what was opened where, and what comes of it. One goroutine uses it.
type Leaks struct {
	LeakOptions
	judge  *leak.Judge
	traced map[sample.ID]*traced
	births sample.FDBirths
	// waiting are the births whose stack is being walked.
	waiting  map[uint64]waiting
	attaches []time.Duration // within the last hour
	cost     time.Duration   // of the hooks at the last tick
	costAt   time.Duration
	paused   time.Duration // until when tracing is too expensive
	drained  uint64

	unsaid []announcement
	said   []Announcement

	answers []worker.Answer
	words   sample.WalkWords
	past    worker.Site // of births whose program is not there any more
	// walkFailed is the last failure of the child that walks stacks, as it was logged.
	walkFailed string
	looked     sample.Snapshot
	ids, who   []sample.ID
	pids       []int32
}

// traced is a process that is traced.
type traced struct {
	since       time.Duration
	until       time.Duration // worth tracing at least until then
	list        sample.FDList
	listed      time.Duration
	had         had    // when it was listed
	execID      uint64 // of the program that runs
	sites       []siteInfo
	bySite      map[*worker.Site]int
	joined      map[*worker.Site]*worker.Site // by the stacks as they were walked
	native      siteSet
	room        func(bytes int) bool // for frames of one more site
	places      map[record.Frame]int // the program's own functions that opened something
	pythons     map[string]*pythonStack
	runsPython  bool    // its births have the frames of CPython from now on
	pythonSites siteSet // with such frames
	// pythonFrames is how many frames pythons has.
	pythonFrames int
	failed       error // why it can't be listed; nil: it can
	lossy        bool  // stacks of births were lost: totals by site are too small

	// epoch is the worker's of the walks that the tracer knows; 0: it knows none.
	epoch   uint64
	offered int // walks that it was offered at this drain
}

// had is by what a process's table is known to be as it was.
type had struct {
	known        bool
	opened, open uint64
}

// siteInfo is what is known of a site beside its counts, by its number in the ledger.
type siteInfo struct {
	stack  *worker.Site // nil: it could not be walked
	thread sample.Comm  // that called last
}

type waiting struct {
	id     sample.ID
	at     time.Duration
	failed bool
	thread sample.Comm
	python *pythonStack
}

// announcement is a change that waits for a name.
type announcement struct {
	leak.Change
	until time.Duration
}

// Announcement is a verdict to be told.
type Announcement struct {
	Change leak.Change
	Record record.Leak // but for its header
}

// NewLeaks returns a Leaks that has seen nothing.
func NewLeaks(o LeakOptions) *Leaks {
	judge := leak.NewJudge()
	judge.Except(o.Self)
	return &Leaks{LeakOptions: o, judge: judge, traced: map[sample.ID]*traced{}, waiting: map[uint64]waiting{}, past: worker.Site{End: endPast}}
}

// Tick takes the processes of the last snapshot, and returns the verdicts that are to
// be told now. They are valid until the next Tick or Look.
func (l *Leaks) Tick(t *aggregate.Table) []Announcement {
	l.said = l.said[:0]
	l.hold(t)
	l.judge.Observe(t)
	l.queue()
	l.choose(t)
	l.announce(t)
	return l.said
}

// Busy says that somebody is to be looked at between ticks.
func (l *Leaks) Busy() bool {
	l.who = l.judge.Watch(l.who[:0])
	return len(l.who) > 0 || len(l.traced) > 0 || len(l.unsaid) > 0
}

// Look reads the counts of who is watched, and the births since the last time. It
// returns the verdicts that are to be told now.
func (l *Leaks) Look(ctx context.Context, r sample.Reader, t *aggregate.Table) []Announcement {
	l.said = l.said[:0]
	l.count(ctx, r, t)
	l.drain()
	l.announce(t)
	return l.said
}

func (l *Leaks) count(ctx context.Context, r sample.Reader, t *aggregate.Table) {
	l.who = l.judge.Watch(l.who[:0])
	l.pids = l.pids[:0]
	for _, id := range l.who[:min(len(l.who), maxLooked)] {
		l.pids = append(l.pids, id.PID)
	}
	if len(l.pids) == 0 {
		return
	}
	scope := sample.Scope{PIDs: l.pids, Fields: sample.SetOf(sample.FDOpen)}
	if err := r.Read(ctx, scope, &l.looked); err != nil {
		return // the next snapshot fails too, and tells
	}
	for i := range l.looked.Processes {
		p := &l.looked.Processes[i]
		if q := t.Find(p.ID); q != nil && p.Known.Has(sample.FDOpen) {
			q.ObserveFD(p.FDOpen, l.looked.Monotonic)
		}
	}
}

// queue takes the judge's changes. A growth waits until its site has a name; what
// follows does not overtake it.
func (l *Leaks) queue() {
	for _, c := range l.judge.Changes() {
		until := time.Duration(0)
		if c.Verdict == record.VerdictGrowing && l.Tracer != nil && l.Tracing != TraceOff {
			wait := time.Duration(3 / c.PerSecond * float64(time.Second))
			until = l.Now() + min(max(wait, namePatience), maxNamePatience)
		}
		l.unsaid = append(l.unsaid, announcement{c, until})
	}
}

// announce tells what has a name, or waited long enough for one.
func (l *Leaks) announce(t *aggregate.Table) {
	if len(l.unsaid) == 0 {
		return
	}
	now := l.Now()
	left := l.unsaid[:0]
	for i, a := range l.unsaid {
		followed := slices.ContainsFunc(l.unsaid[i+1:], func(b announcement) bool { return b.ID == a.ID })
		waits := now < a.until || now < a.until+walkPatience && l.Stacks != nil && l.traced[a.ID] != nil
		if waits && !followed && !l.named(a.ID) {
			left = append(left, a)
			continue
		}
		l.said = append(l.said, Announcement{Change: a.Change, Record: l.describe(&a.Change, t.Find(a.ID))})
	}
	l.unsaid = left
}

// named tells whether the stack is known of what a process opened since it is traced and
// held most of when it was listed last. One that ends before anybody who is no runtime
// says nothing yet, and in a process that runs CPython one without its frames: so are
// those from before that was found out.
func (l *Leaks) named(id sample.ID) bool {
	t := l.traced[id]
	if t == nil || l.Pythons != nil && !l.Pythons.Looked(id) {
		return false
	}
	const unknown = -1 // its stack is being walked
	held := map[int]int{}
	most, worst := 0, unknown
	for i := range t.list.FDs {
		birth := t.list.FDs[i].Birth
		if birth == 0 {
			continue
		}
		n, _, ok := l.judge.Ledger(id).Find(birth)
		if !ok {
			n = unknown
		}
		if held[n]++; held[n] > most {
			most, worst = held[n], n
		}
	}
	if most < 3 || worst == unknown {
		return false
	}
	s := t.sites[worst].stack
	return s != nil && len(s.Frames) > 0 && !tooShort(s) && (!t.runsPython || t.pythonSites.has(s))
}

// hold lists what the traced processes hold, and then takes the births: they may be
// younger than the list, and never older than what is not in it any more.
func (l *Leaks) hold(table *aggregate.Table) {
	type held struct {
		id sample.ID
		at time.Duration
	}
	var lists []held
	for id, t := range l.traced {
		p := table.Find(id)
		if p == nil {
			continue
		}
		now, size := l.Now(), time.Duration(len(t.list.FDs))
		if now-t.listed < size*time.Second/listBudget {
			continue
		}
		has := l.has(p)
		if has.known && has == t.had && now-t.listed < size*time.Second/quietBudget {
			continue
		}
		if t.failed = l.Tracer.List(id, &t.list); t.failed != nil {
			continue
		}
		t.listed, t.had = now, has
		lists = append(lists, held{id, now})
	}
	l.drain()
	for _, h := range lists {
		l.judge.Ledger(h.id).Hold(h.at, l.traced[h.id].list.FDs)
	}
}

// has counts what a process has opened since it is traced, and has open.
func (l *Leaks) has(p *aggregate.Process) had {
	c, err := l.Tracer.Counts(p.ID)
	if err != nil || !p.Known.Has(sample.FDOpen) {
		return had{}
	}
	return had{known: true, opened: c.Opened, open: p.FDOpen}
}

// drain takes the births since the last time.
func (l *Leaks) drain() {
	if len(l.traced) == 0 {
		return
	}
	l.followExecs()
	l.usePythons()
	l.followEpochs()
	if err := l.Tracer.Drain(&l.births); err != nil {
		l.Log.Error("drain_failed", zap.Error(err))
		return
	}
	l.drained += uint64(len(l.births.Births))
	if l.births.Lost > 0 {
		for _, t := range l.traced {
			t.lossy = true
		}
	}
	for i := range l.births.Births {
		b := &l.births.Births[i]
		t := l.traced[b.ID]
		if t == nil {
			continue
		}
		if b.Known != 0 {
			t.sites[b.Known-1].thread = b.Thread
			l.judge.Ledger(b.ID).Open(int(b.Known-1), b.Seq, b.At)
			continue
		}
		w := waiting{id: b.ID, at: b.At, failed: b.Errno != 0, thread: b.Thread, python: l.pythonStack(t, b)}
		if l.Stacks == nil || len(l.waiting) >= maxWaiting {
			l.open(b.Seq, nil, &w)
			continue
		}
		image := worker.Image{ID: b.ID, ExecID: b.ExecID}
		stack, ok := l.Stacks.Site(image, b.Seq, &b.Stack)
		if stack == nil && ok {
			l.waiting[b.Seq] = w
			continue
		}
		if n, ok := l.openIn(image, b.Seq, stack, &w); ok && w.python == nil {
			l.offer(t, image, &b.Stack, stack, n)
		}
	}
	l.walked()
}

// walked takes the births whose stacks were walked.
func (l *Leaks) walked() {
	if l.Stacks == nil {
		return
	}
	if why := l.Stacks.Stats().LastFail; why != l.walkFailed {
		l.walkFailed = why
		l.Log.Warn("stack_worker_failed", zap.String("why", record.Text([]byte(why))))
	}
	l.answers = l.Stacks.Answers(l.answers[:0])
	for i := range l.answers {
		a := &l.answers[i]
		if w, ok := l.waiting[a.Seq]; ok {
			delete(l.waiting, a.Seq)
			l.openIn(a.Image, a.Seq, a.Site, &w)
		}
	}
}

// openIn is open for a stack that was walked in what the process had mapped meanwhile:
// if it runs another program since, that was none of the birth's.
func (l *Leaks) openIn(image worker.Image, seq uint64, stack *worker.Site, w *waiting) (site int, ok bool) {
	if l.Tracer.ExecID(image.ID) != image.ExecID {
		w.python = nil
		l.open(seq, &l.past, w)
		return 0, false
	}
	return l.open(seq, stack, w)
}

// endPast is why the stacks of births from before an exec are unknown.
const endPast = "the process runs another program since"

// followExecs forgets what was found out of programs that others took the place of.
func (l *Leaks) followExecs() {
	for id, t := range l.traced {
		now := l.Tracer.ExecID(id)
		if now <= t.execID {
			continue
		}
		if t.execID != 0 && l.Pythons != nil {
			l.Pythons.Forget(id)
			t.runsPython = false
			t.forgetPythons()
		}
		clear(t.joined) // no stack of the program before comes again
		t.execID = now
	}
}

// open enters a birth whose stack is known, or never will be: nil. It returns the number of
// its site, false where nobody traces the process any more.
func (l *Leaks) open(seq uint64, stack *worker.Site, w *waiting) (site int, ok bool) {
	t := l.traced[w.id]
	if t == nil {
		return 0, false
	}
	if stack != nil && w.python == nil && tooShort(stack) {
		if err := l.Tracer.NeedDeep(w.id); err != nil {
			l.Log.Warn("deep_stacks_unavailable", zap.Error(err))
		}
	}
	if w.python != nil {
		stack = t.python(w.python, stack)
	} else {
		stack = t.canonical(stack)
	}
	n, ok := t.bySite[stack]
	if !ok {
		n = len(t.sites)
		t.bySite[stack] = n
		t.sites = append(t.sites, siteInfo{stack: stack})
		l.judge.Ledger(w.id).SetPlace(n, t.place(stack))
	}
	t.sites[n].thread = w.thread
	if w.failed {
		l.judge.Ledger(w.id).Fail(n)
		return n, true
	}
	l.judge.Ledger(w.id).Open(n, seq, w.at)
	return n, true
}

// gone says that an error means a process that has ended.
func gone(err error) bool { return errors.Is(err, held.ErrGone) || errors.Is(err, fs.ErrNotExist) }
