package leak

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// life is one descriptor: opened by a site, closed later or never.
type life struct {
	site  int
	open  time.Duration
	close time.Duration // never: 0
	inode uint64
	used  time.Duration // how often; 0: never
}

// world is a process that does what its lives say, watched as the agent does: a
// snapshot a second, ten looks a second and tracing where the judge wishes for them.
type world struct {
	lives  []life
	limit  uint64
	base   uint64             // descriptors from before
	length time.Duration      // of the simulation
	kind   sample.FDKind      // of every descriptor
	blind  bool               // nothing can be traced
	phase  time.Duration      // of the ticks
	place  func(site int) int // in the code; nil: each site is of its own
}

// event is a change of verdict.
type event struct {
	at time.Duration
	Change
}

func (e event) String() string {
	return fmt.Sprintf("%v %s %s %.2f/s", e.at, e.Verdict, e.Rule, e.PerSecond)
}

var simulated = sample.ID{PID: 42, StartTicks: 7}

// run plays the world and returns every change.
func (w *world) run() (events []event) {
	lives := slices.Clone(w.lives)
	slices.SortFunc(lives, func(a, b life) int { return cmp.Compare(a.open, b.open) })
	const step = 100 * time.Millisecond
	var (
		table  = aggregate.NewTable()
		judge  = NewJudge()
		open   = map[int]bool{}
		next   int
		traced bool
		from   time.Duration
		seqs   = map[int]uint64{}
		seq    uint64
		ends   []int // open ones that will be closed, by when
		ids    []sample.ID
		now    time.Duration
		snap   sample.Snapshot
		fds    []sample.FD
	)
	limit := w.limit
	if limit == 0 {
		limit = 20000
	}
	for now = w.phase; now < w.length; now += step {
		for next < len(lives) && lives[next].open <= now {
			open[next] = true
			if lives[next].close != 0 {
				i, _ := slices.BinarySearchFunc(ends, lives[next].close, func(e int, at time.Duration) int { return cmp.Compare(lives[e].close, at) })
				ends = slices.Insert(ends, i, next)
			}
			if traced && lives[next].open > from {
				seq++
				seqs[next] = seq
				judge.Ledger(simulated).Open(lives[next].site, seq, lives[next].open)
				if w.place != nil {
					judge.Ledger(simulated).SetPlace(lives[next].site, w.place(lives[next].site))
				}
			}
			next++
		}
		for len(ends) > 0 && lives[ends[0]].close <= now {
			delete(open, ends[0])
			delete(seqs, ends[0])
			ends = ends[1:]
		}
		count := w.base + uint64(len(open))
		if (now-w.phase)%time.Second != 0 {
			ids = judge.Watch(ids[:0])
			if len(ids) > 0 {
				table.At(0).ObserveFD(count, now)
			}
			continue
		}
		if traced {
			fds = fds[:0]
			for i, s := range seqs {
				fd := sample.FD{Kind: w.kind, Birth: s, Inode: lives[i].inode}
				if every := lives[i].used; every > 0 {
					fd.Used = uint64((now - lives[i].open) / every)
				}
				fds = append(fds, fd)
			}
			judge.Ledger(simulated).Hold(now, fds)
		}
		snap.Reset()
		snap.Monotonic = now + time.Duration(now/time.Second%3)*10*time.Millisecond // no clock ticks evenly
		snap.Processes = append(snap.Processes, sample.Process{ID: simulated, FDOpen: count, FDLimit: limit,
			Known: sample.SetOf(sample.FDOpen, sample.FDLimit)})
		table.Update(&snap)
		judge.Observe(table)
		for _, c := range judge.Changes() {
			events = append(events, event{now, c})
		}
		ids = judge.Trace(ids[:0])
		if want := len(ids) > 0 && !w.blind; want && !traced {
			traced, from = true, now
		}
	}
	return events
}

// first is when a verdict came first; never: a negative time.
func first(events []event, v record.Verdict) time.Duration {
	for _, e := range events {
		if e.Verdict == v {
			return e.at
		}
	}
	return -1
}

// steadily opens rate descriptors a second from one instant to another, each for as
// long as life says; 0 is for ever.
func steadily(site int, rate float64, from, to time.Duration, life_ func() time.Duration) (lives []life) {
	gap := time.Duration(float64(time.Second) / rate)
	for at := from; at < to; at += gap {
		lives = append(lives, one(site, at, life_))
	}
	return lives
}

// randomly does the same at random instants.
func randomly(rng *rand.Rand, site int, rate float64, from, to time.Duration, life_ func() time.Duration) (lives []life) {
	at := float64(from)
	for {
		at += rng.ExpFloat64() / rate * float64(time.Second)
		if at >= float64(to) {
			return lives
		}
		lives = append(lives, one(site, time.Duration(at), life_))
	}
}

func one(site int, at time.Duration, life_ func() time.Duration) life {
	l := life{site: site, open: at}
	if d := life_(); d > 0 {
		l.close = at + d
	}
	return l
}

func forever() time.Duration { return 0 }

func lasting(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// about is exponential with a mean.
func about(rng *rand.Rand, mean time.Duration) func() time.Duration {
	return func() time.Duration { return max(1, time.Duration(rng.ExpFloat64()*float64(mean))) }
}

// honest is what twenty sites do that open and close properly.
func honest(rng *rand.Rand, perSecond float64, length time.Duration) (lives []life) {
	for site := 1; site <= 20; site++ {
		lives = append(lives, randomly(rng, site, perSecond, 0, length, about(rng, 20*time.Millisecond))...)
	}
	return lives
}

const sec = time.Second

// A leak of ten descriptors a second among twenty sites that close properly grows
// within five seconds, and leaks within a minute.
func TestLeaks(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		begin := 20*sec + time.Duration(rng.IntN(1000))*time.Millisecond
		w := &world{base: 12, length: 140 * sec, kind: sample.FDFile, phase: time.Duration(rng.IntN(10)) * 100 * time.Millisecond}
		w.lives = append(honest(rng, 5, w.length), steadily(0, 10, begin, w.length, forever)...)
		events := w.run()
		if at := first(events, record.VerdictGrowing); at < begin || at > begin+5*sec {
			t.Errorf("seed %d: it began at %v and grew at %v", seed, begin, at)
		}
		if at := first(events, record.VerdictLeaking); at < begin || at > begin+60*sec {
			t.Errorf("seed %d: it began at %v and leaked at %v", seed, begin, at)
		}
		for _, e := range events {
			if e.Verdict == record.VerdictLeaking && (e.Rule != RuleNeverClosed || !slices.Equal(e.Sites, []int{0})) {
				t.Errorf("seed %d: %s by sites %v", seed, e.Rule, e.Sites)
			}
		}
	}
}

// scenario is what a process does, and what must come of it.
type scenario struct {
	name  string
	world func(rng *rand.Rand) *world

	growing time.Duration // within; 0: whenever it likes
	leaking time.Duration // within; 0: never
	rule    string
	over    time.Duration // of whatever was said, by this time
	said    int           // how often at most it grows; 0: as often as it likes
}

var scenarios = []scenario{
	{name: "pool", world: func(*rand.Rand) *world {
		return &world{base: 10, length: 1200 * sec, lives: steadily(0, 5, 0, 60*sec, forever)}
	}, over: 100 * sec, said: 1},
	{name: "pool beside churn", world: func(rng *rand.Rand) *world {
		return &world{base: 10, length: 600 * sec, lives: append(honest(rng, 5, 600*sec), steadily(0, 5, 10*sec, 70*sec, forever)...)}
	}, over: 110 * sec, said: 1},
	{name: "pool at random", world: func(rng *rand.Rand) *world {
		lives := append(honest(rng, 5, 600*sec), randomly(rng, 0, 5, 10*sec, 70*sec, forever)...)
		return &world{base: 10, length: 600 * sec, lives: lives}
	}, said: 1},
	{name: "pool in a limit of 1024", world: func(rng *rand.Rand) *world {
		return &world{limit: 1024, base: 10, length: 600 * sec, lives: append(honest(rng, 5, 600*sec), steadily(0, 5, 10*sec, 70*sec, forever)...)}
	}},
	{name: "pool that renews a tenth", world: func(rng *rand.Rand) *world {
		lives := append(honest(rng, 5, 600*sec), steadily(0, 5, 10*sec, 70*sec, forever)...)
		lives = append(lives, randomly(rng, 0, 0.5, 10*sec, 600*sec, about(rng, 100*time.Millisecond))...)
		return &world{base: 10, length: 600 * sec, lives: lives}
	}},
	{name: "keep-alive clients", world: func(rng *rand.Rand) *world {
		return &world{base: 20, length: 600 * sec, limit: 1024, kind: sample.FDTCP4, lives: steadily(0, 10, 10*sec, 30*sec, forever)}
	}, said: 1},
	{name: "keep-alive clients among short ones", world: func(rng *rand.Rand) *world {
		lives := append(steadily(0, 10, 10*sec, 30*sec, forever), randomly(rng, 0, 50, 0, 300*sec, about(rng, 5*time.Millisecond))...)
		return &world{base: 20, length: 300 * sec, limit: 1024, kind: sample.FDTCP4, lives: lives}
	}},
	{name: "lazy file cache", world: func(rng *rand.Rand) *world {
		w := &world{base: 20, length: 1200 * sec, kind: sample.FDFile}
		const files, rate = 700, 20.0
		seen := map[int]bool{}
		for _, l := range randomly(rng, 0, rate, 5*sec, w.length, forever) {
			if f := rng.IntN(files); !seen[f] {
				seen[f] = true
				l.inode = uint64(f + 1)
				w.lives = append(w.lives, l)
			}
		}
		return w
	}, said: 1},
	{name: "server whose count swings", world: func(rng *rand.Rand) *world {
		w := &world{base: 20, length: 1800 * sec}
		for s := time.Duration(0); s < w.length; s += 20 * sec {
			w.lives = append(w.lives, randomly(rng, 0, 40, s, s+10*sec, about(rng, 4*sec))...)
		}
		return w
	}, said: 6},
	{name: "server under steady load", world: func(rng *rand.Rand) *world {
		return &world{base: 20, length: 1800 * sec, lives: randomly(rng, 0, 50, 0, 1800*sec, about(rng, 3*sec))}
	}, said: 6},
	{name: "server by day", world: func(rng *rand.Rand) *world {
		w := &world{base: 20, length: 3 * time.Hour}
		for m := time.Duration(0); m < w.length; m += time.Minute {
			rate := 5 + 4*math.Sin(float64(m)/float64(3*time.Hour)*2*math.Pi)
			w.lives = append(w.lives, randomly(rng, 0, rate, m, m+time.Minute, about(rng, 20*sec))...)
		}
		return w
	}},
	{name: "build", world: func(rng *rand.Rand) *world {
		w := &world{base: 5, length: 600 * sec}
		for s := time.Duration(0); s < w.length; s += sec {
			w.lives = append(w.lives, randomly(rng, rng.IntN(3), 30, s, s+sec, about(rng, time.Duration(1+rng.IntN(3000))*time.Millisecond))...)
		}
		return w
	}, said: 6},
	{name: "start of a large program", world: func(rng *rand.Rand) *world {
		return &world{length: 300 * sec, lives: append(randomly(rng, 0, 60, 0, 8*sec, forever), honest(rng, 2, 300*sec)...)}
	}, said: 1},
	{name: "idle connections of a client", world: func(rng *rand.Rand) *world {
		w := &world{base: 8, length: 900 * sec, kind: sample.FDTCP4}
		for s := time.Duration(0); s < w.length; s += 100 * sec {
			w.lives = append(w.lives, steadily(0, 20, s, s+5*sec, lasting(90*sec))...)
		}
		return w
	}, said: 1},

	{name: "large pool in use", world: func(rng *rand.Rand) *world {
		w := &world{base: 20, length: 600 * sec, kind: sample.FDTCP4, lives: randomly(rng, 0, 10, 10*sec, 130*sec, forever)}
		for i := range w.lives {
			w.lives[i].used = time.Duration(1+rng.IntN(20)) * sec
		}
		return w
	}, said: 1},
	{name: "leak of what was used at first", world: func(rng *rand.Rand) *world {
		w := &world{base: 20, length: 120 * sec, kind: sample.FDTCP4, lives: randomly(rng, 0, 10, 10*sec, 120*sec, forever)}
		for i := range w.lives {
			if w.lives[i].used = time.Duration(1+rng.IntN(4)) * sec; i%3 > 0 { // a third goes on being used
				w.lives[i].used = 100 * sec
			}
		}
		return w
	}, growing: 18 * sec, leaking: 75 * sec, rule: RuleSurvivors, said: 1},
	{name: "large leak of what is in use", world: func(rng *rand.Rand) *world {
		w := &world{base: 20, length: 300 * sec, kind: sample.FDTCP4, lives: randomly(rng, 0, 10, 10*sec, 300*sec, forever)}
		for i := range w.lives {
			w.lives[i].used = 5 * sec
		}
		return w
	}, growing: 18 * sec, leaking: 200 * sec, rule: RuleSurvivors, said: 1},

	{name: "one a minute", world: func(rng *rand.Rand) *world {
		return &world{base: 20, length: 5 * time.Hour, lives: steadily(0, 1.0/60, 10*sec, 5*time.Hour, forever)}
	}, growing: 30 * time.Minute, leaking: 3 * time.Hour, rule: RuleSurvivors, said: 1},
	{name: "one a minute at random beside churn", world: func(rng *rand.Rand) *world {
		lives := append(randomly(rng, 0, 1.0/60, 10*sec, 3*time.Hour, forever), randomly(rng, 1, 5, 0, 3*time.Hour, about(rng, 30*time.Millisecond))...)
		return &world{base: 20, length: 3 * time.Hour, lives: lives}
	}, growing: 45 * time.Minute, leaking: 3 * time.Hour, rule: RuleNeverClosed},
	{name: "error path of an accept loop", world: func(rng *rand.Rand) *world {
		lives := append(steadily(0, 10, 10*sec, 120*sec, forever), randomly(rng, 0, 100, 0, 120*sec, about(rng, 10*time.Millisecond))...)
		return &world{base: 20, length: 120 * sec, kind: sample.FDTCP4, lives: lives}
	}, growing: 18 * sec, leaking: 70 * sec, rule: RuleSurvivors, said: 1},
	{name: "leak under a swinging count", world: func(rng *rand.Rand) *world {
		lives := append(steadily(0, 10, 60*sec, 180*sec, forever), randomly(rng, 1, 60, 0, 180*sec, about(rng, sec))...)
		return &world{base: 20, length: 180 * sec, lives: lives}
	}, growing: 100 * sec, leaking: 130 * sec, rule: RuleNeverClosed},
	{name: "slow leak under a swinging count", world: func(rng *rand.Rand) *world {
		lives := append(steadily(0, 0.5, 60*sec, time.Hour, forever), randomly(rng, 1, 30, 0, time.Hour, about(rng, sec))...)
		return &world{base: 20, length: time.Hour, lives: lives}
	}, growing: 10 * time.Minute, leaking: 45 * time.Minute, rule: RuleNeverClosed},
	{name: "leak that many ways lead to", world: func(rng *rand.Rand) *world {
		w := &world{base: 20, length: 200 * sec, kind: sample.FDFile, lives: honest(rng, 5, 200*sec), place: func(site int) int { return site / 100 }}
		for _, l := range steadily(0, 10, 10*sec, w.length, forever) {
			l.site = 100 + rng.IntN(60)
			w.lives = append(w.lives, l)
		}
		return w
	}, growing: 18 * sec, leaking: 120 * sec, rule: RuleNeverClosed, said: 1},
	{name: "pools that one place fills", world: func(rng *rand.Rand) *world {
		w := &world{base: 20, length: 300 * sec, kind: sample.FDTCP4, lives: honest(rng, 5, 300*sec), place: func(site int) int { return 1 }}
		for pool := range 25 {
			w.lives = append(w.lives, randomly(rng, 100+pool, 0.5, 10*sec, 70*sec, forever)...)
		}
		return w
	}, said: 1},
	{name: "caches of files that one place fills", world: func(rng *rand.Rand) *world {
		w := &world{base: 20, length: 300 * sec, kind: sample.FDFile, lives: honest(rng, 5, 300*sec), place: func(site int) int { return 1 }}
		for i := range w.lives {
			w.lives[i].inode = 1
		}
		for i, l := range randomly(rng, 0, 10, 10*sec, 100*sec, forever) {
			l.site, l.inode = 100+rng.IntN(60), uint64(10+i)
			w.lives = append(w.lives, l)
		}
		return w
	}, said: 1},
	{name: "sessions that many ways open, as long as those of one", world: func(rng *rand.Rand) *world {
		w := &world{base: 20, length: 1100 * sec, kind: sample.FDTCP4, place: func(site int) int { return 1 + site/1000 }}
		session := func() time.Duration { return 280*sec + time.Duration(rng.IntN(40))*sec }
		w.lives = randomly(rng, 0, 0.3, 5*sec, w.length, session)
		for _, l := range randomly(rng, 0, 6, 900*sec, w.length, session) {
			l.site = 1 + rng.IntN(60)
			w.lives = append(w.lives, l)
		}
		for _, l := range honest(rng, 0.1, w.length) {
			l.site += 1000
			w.lives = append(w.lives, l)
		}
		return w
	}},
	{name: "fast leak in a small limit", world: func(rng *rand.Rand) *world {
		return &world{base: 20, limit: 1024, length: 30 * sec, lives: steadily(0, 100, 10*sec, 20*sec, forever)}
	}, growing: 15 * sec, leaking: 20 * sec, rule: RuleLimitNear},
	{name: "leak that nobody can trace", world: func(rng *rand.Rand) *world {
		return &world{base: 20, limit: 1024, blind: true, length: 200 * sec, lives: steadily(0, 10, 10*sec, 110*sec, forever)}
	}, growing: 15 * sec, leaking: 100 * sec, rule: RuleLimitNear},
	{name: "leak that ends", world: func(rng *rand.Rand) *world {
		return &world{base: 20, length: 300 * sec, lives: steadily(0, 10, 10*sec, 90*sec, forever)}
	}, growing: 15 * sec, leaking: 70 * sec, rule: RuleSurvivors, over: 180 * sec, said: 1},
}

func TestScenarios(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			for seed := range uint64(6) {
				rng := rand.New(rand.NewPCG(seed, 2))
				w := s.world(rng)
				w.phase = time.Duration(rng.IntN(10)) * 100 * time.Millisecond
				s.check(t, seed, w.run())
			}
		})
	}
}

func (s *scenario) check(t *testing.T, seed uint64, events []event) {
	t.Helper()
	growing, leaking := first(events, record.VerdictGrowing), first(events, record.VerdictLeaking)
	if s.growing != 0 && (growing < 0 || growing > s.growing) {
		t.Errorf("seed %d: growing at %v, want it by %v", seed, growing, s.growing)
	}
	if s.leaking == 0 && leaking >= 0 {
		t.Errorf("seed %d: leaking at %v: %v", seed, leaking, events)
	}
	if s.leaking != 0 && (leaking < 0 || leaking > s.leaking) {
		t.Errorf("seed %d: leaking at %v, want it by %v", seed, leaking, s.leaking)
	}
	for _, e := range events {
		if e.Verdict == record.VerdictLeaking && e.Rule != s.rule {
			t.Errorf("seed %d: rule %s, want %s", seed, e.Rule, s.rule)
		}
	}
	said := 0
	for _, e := range events {
		if e.Verdict == record.VerdictGrowing {
			said++
		}
	}
	if s.said != 0 && said > s.said {
		t.Errorf("seed %d: it grew %d times: %v", seed, said, events)
	}
	if n := len(events); s.over != 0 && (n == 0 || events[n-1].Verdict != record.VerdictOver || events[n-1].at > s.over) {
		t.Errorf("seed %d: not over by %v: %v", seed, s.over, events)
	}
	if testing.Verbose() && seed < 3 {
		for _, e := range events {
			t.Logf("seed %d: %v", seed, e)
		}
	}
}

// worlds is how many random worlds each property is held against: some hundred
// simulated hours, or some thousand where RMAGENT_TEST_LONG is set.
func worlds() uint64 {
	if os.Getenv("RMAGENT_TEST_LONG") != "" {
		return 4000
	}
	return 30
}

// Whatever fills within nine minutes to less than 400, beside whatever churn, and
// stays, is no leak.
func TestNoPoolIsALeak(t *testing.T) {
	hours := 0.0
	for seed := range worlds() {
		rng := rand.New(rand.NewPCG(seed, 3))
		size := 20 + rng.IntN(375)
		rate := float64(size) / (1 + rng.Float64()*530)
		begin := time.Duration(rng.IntN(300)) * sec
		w := &world{base: uint64(rng.IntN(100)), length: begin + 30*time.Minute, kind: sample.FDKind(rng.IntN(int(sample.NumFDKinds)))}
		w.phase = time.Duration(rng.IntN(10)) * 100 * time.Millisecond
		end := begin + time.Duration(float64(size)/rate*float64(sec))
		for _, l := range randomly(rng, 0, rate, begin, end, forever) {
			if len(w.lives) < size {
				w.lives = append(w.lives, l)
			}
		}
		for site := range rng.IntN(5) {
			mean := time.Duration(1+rng.IntN(2000)) * time.Millisecond
			w.lives = append(w.lives, randomly(rng, site+1, rng.Float64()*20, 0, w.length, about(rng, mean))...)
		}
		hours += w.length.Hours()
		if events := w.run(); first(events, record.VerdictLeaking) >= 0 {
			t.Errorf("seed %d: a pool of %d at %.1f/s: %v", seed, size, rate, events)
		}
	}
	t.Logf("%.0f simulated hours", hours)
}

// Whatever leaks two or more a second, however its process swings by up to forty,
// grows within half a minute and is a leak, by its own site, within five.
func TestEveryLeakIsFound(t *testing.T) {
	for seed := range worlds() {
		rng := rand.New(rand.NewPCG(seed, 4))
		rate := 2 + rng.ExpFloat64()*10
		begin := time.Duration(rng.IntN(600)) * sec
		w := &world{base: uint64(rng.IntN(40)), limit: 1 << 20, length: begin + 6*time.Minute, kind: sample.FDTCP4}
		w.phase = time.Duration(rng.IntN(10)) * 100 * time.Millisecond
		w.lives = randomly(rng, 0, rate, begin, w.length, forever)
		for site := range rng.IntN(5) {
			w.lives = append(w.lives, randomly(rng, site+1, rng.Float64()*20, 0, w.length, about(rng, time.Duration(1+rng.IntN(500))*time.Millisecond))...)
		}
		if rng.IntN(2) == 0 { // its own site closes most of what it opens
			w.lives = append(w.lives, randomly(rng, 0, 3*rate, 0, w.length, about(rng, 50*time.Millisecond))...)
		}
		events := w.run()
		growing, leaking := time.Duration(-1), time.Duration(-1)
		for _, e := range events {
			if e.at >= begin && e.Verdict != record.VerdictOver && growing < 0 {
				growing = e.at
			}
			if e.Verdict == record.VerdictLeaking && leaking < 0 {
				leaking = e.at
				if !slices.Equal(e.Sites, []int{0}) {
					t.Errorf("seed %d: leaking by sites %v", seed, e.Sites)
				}
			}
		}
		if leaking < begin || leaking > begin+5*time.Minute {
			t.Errorf("seed %d: %.1f/s from %v: leaking at %v: %v", seed, rate, begin, leaking, events)
		}
		if growing > begin+45*sec && growing != leaking {
			t.Errorf("seed %d: %.1f/s from %v: growing at %v: %v", seed, rate, begin, growing, events)
		}
	}
}
