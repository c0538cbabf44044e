package engine

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"rmagent/internal/sample"
	"rmagent/internal/stack"
	"rmagent/internal/stack/worker"
	"rmagent/record"
)

func stackOf(end string, functions ...string) *worker.Site {
	s := &worker.Site{End: end}
	for i, f := range functions {
		s.Frames = append(s.Frames, record.Frame{Function: record.Some(f), Offset: record.Some(uint64(len(f)*100 + i))})
	}
	return s
}

func always(int) bool { return true }

func newTraced() *traced { return &traced{room: always, joined: map[*worker.Site]*worker.Site{}} }

func TestStacksOfOnePlaceAreOneSite(t *testing.T) {
	long := stackOf("", "open", "leak", "serve", "main", "_start")
	short := stackOf(stack.EndWindow, "open", "leak", "serve")
	for name, order := range map[string][]*worker.Site{"long first": {long, short}, "short first": {short, long}} {
		tr := newTraced()
		a, b := tr.canonical(order[0]), tr.canonical(order[1])
		if a != b || len(a.Frames) != 5 || a.End != "" {
			t.Errorf("%s: %v and %v", name, a, b)
		}
	}
}

// Where a short stack may be either of two, no site claims callers that it may not have.
func TestAnAmbiguousStackClaimsNothing(t *testing.T) {
	one := stackOf("", "open", "leak", "serve", "one", "main")
	other := stackOf("", "open", "leak", "serve", "other", "main")
	short := stackOf(stack.EndWindow, "open", "leak", "serve")
	tr := newTraced()
	a, b, c := tr.canonical(one), tr.canonical(other), tr.canonical(short)
	if a == b || b == c || a == c {
		t.Errorf("%p, %p and %p", a, b, c)
	}
	tr = newTraced()
	a, c = tr.canonical(one), tr.canonical(short)
	b = tr.canonical(other)
	if a != c || a == b || len(a.Frames) != 3 || a.End != stack.EndWindow || len(b.Frames) != 5 {
		t.Errorf("%v, %v and %v", a, b, c)
	}
}

// Frames of CPython come from code objects that are made anew, and the native ones around
// them are copied to any depth: it is one site all the same.
func TestPythonStacksOfOnePlaceAreOneSite(t *testing.T) {
	long := stackOf("", "open", "leak.py", "module.py", "run_main", "main")
	again := stackOf("", "open", "leak.py", "module.py", "run_main", "main")
	short := stackOf(stack.EndWindow, "open", "leak.py", "module.py", "run_main")
	other := stackOf("", "open", "leak.py", "another.py", "run_main", "main")
	for name, order := range map[string][]*worker.Site{"again": {long, again}, "long first": {long, short}, "short first": {short, long}} {
		var set siteSet
		a, b := set.add(order[0], always), set.add(order[1], always)
		if a != b || len(a.Frames) != 5 || a.End != "" || !set.has(a) || set.add(other, always) == a {
			t.Errorf("%s: %v and %v", name, a, b)
		}
	}
}

// Frames of C between those of CPython, as asyncio's has them, are only in what was
// copied; CPython's are read one by one, and all there. None needs to be a program's own.
func TestPythonStacksCutBetweenItsFramesAreOneSite(t *testing.T) {
	python := func(s *worker.Site, at ...int) *worker.Site {
		for _, i := range at {
			s.Frames[i].Language, s.Frames[i].Offset = record.Some("python"), record.Opt[uint64]{}
			s.Frames[i].File = record.Some("/usr/lib/python3.11/" + s.Frames[i].Function.Or(""))
		}
		return s
	}
	long := python(stackOf("", "socket", "poke", "task_step_impl", "task_step", "run", "main"), 1, 4)
	short := python(stackOf(stack.EndWindow, "socket", "poke", "task_step_impl", "run"), 1, 3)
	shorter := python(stackOf(stack.EndWindow, "socket", "poke", "run"), 1, 2)
	other := python(stackOf(stack.EndWindow, "socket", "prod", "run"), 1, 2)
	for name, order := range map[string][]*worker.Site{"long first": {long, short, shorter}, "short first": {shorter, short, long}} {
		var set siteSet
		a := set.add(order[0], always)
		if b, c := set.add(order[1], always), set.add(order[2], always); a != b || a != c || len(a.Frames) != 6 || set.add(other, always) == a {
			t.Errorf("%s: %v, %v and %v", name, a, b, c)
		}
	}
}

// functions makes a stack of functions that are called at as many places as their names
// have variants: "visit:2" is the function visit at another place.
func functions(end string, calls ...string) *worker.Site {
	s := &worker.Site{End: end}
	for _, call := range calls {
		name, n := call, uint64(0)
		if at := strings.LastIndexByte(call, ':'); at > 0 {
			name = call[:at]
			n, _ = strconv.ParseUint(call[at+1:], 10, 64)
		}
		s.Frames = append(s.Frames, record.Frame{Function: record.Some(name), Line: record.Some(n), Module: record.Some("/srv/walk")})
	}
	return s
}

// A directory is opened by a walk at any depth, which is cut off at some depth, too.
func TestAFunctionThatCallsItselfIsOneSite(t *testing.T) {
	tr := newTraced()
	deepest := functions("", "open", "visit:1", "visit:2", "visit:2", "visit:3", "main")
	visit := tr.canonical(deepest)
	for _, s := range []*worker.Site{
		functions("", "open", "visit:1", "main"),
		functions("", "open", "visit:1", "visit:2", "main"),
	} {
		if got := tr.canonical(s); got != visit {
			t.Errorf("%v and %v", got, visit)
		}
	}
	if len(deepest.Frames) != 6 {
		t.Errorf("the stack itself was folded to %d frames", len(deepest.Frames))
	}
	scan := tr.canonical(functions(stack.EndFrames, "open", "scan", "visit:1", "visit:2", "visit:2", "visit:3"))
	for _, s := range []*worker.Site{
		functions(stack.EndWindow, "open", "scan", "visit:1", "visit:2"),
		functions("", "open", "scan", "visit:1", "visit:2", "main"),
	} {
		if got := tr.canonical(s); got != scan || got == visit {
			t.Errorf("%v and %v", got, scan)
		}
	}
}

// Who began a walk over a tree is told, and so is who it calls on its way, however deep it was.
func TestRecursionKeepsWhoBeganIt(t *testing.T) {
	tr := newTraced()
	backup := tr.canonical(functions("", "open", "visit:1", "visit:2", "visit:2", "backup", "main"))
	index := tr.canonical(functions("", "open", "visit:1", "visit:2", "index", "main"))
	archive := tr.canonical(functions("", "open", "visit:1", "archive", "visit:2", "backup", "main"))
	if backup == index || backup == archive || backup != tr.canonical(functions("", "open", "visit:1", "backup", "main")) {
		t.Errorf("%v, %v and %v", backup, index, archive)
	}
	if tr.place(backup) != tr.place(index) || tr.place(backup) == 0 {
		t.Error("one function is two places")
	}
	if cut := tr.canonical(functions(stack.EndWindow, "open", "visit:1", "visit:2", "visit:2")); cut == backup || cut == index {
		t.Error("who began what was cut off is claimed to be known")
	}
}

// A parser opens in any order of its rules, however deep: there are few sites.
func TestFunctionsThatCallEachOtherAreFewSites(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	tr, sites := newTraced(), map[*worker.Site]bool{}
	for range 300 {
		calls := []string{"open", "expression:1"}
		for range random.IntN(40) {
			calls = append(calls, "term")
			if random.IntN(2) == 0 {
				calls = append(calls, "paren")
			}
			calls = append(calls, "expression:2")
		}
		sites[tr.canonical(functions("", append(calls, "main")...))] = true
	}
	if len(sites) > 3 {
		t.Errorf("%d sites", len(sites))
	}
}

// Functions between the calls of another are all there, and nobody knows whether functions
// without names are the same.
func TestNoFunctionIsLost(t *testing.T) {
	wrapped := folded(functions("", "open", "fetch", "wrap:1", "service", "wrap:1", "handle", "wrap:2", "main"))
	var names []string
	for _, f := range wrapped.Frames {
		names = append(names, f.Function.Or(""))
	}
	if want := "open fetch wrap service handle main"; strings.Join(names, " ") != want {
		t.Errorf("%q, want %s", names, want)
	}
	closures := functions("", "open", "main::{{closure}}:1", "run", "main::{{closure}}:2", "main")
	if got := folded(closures); got != closures {
		t.Errorf("%v became %v", closures.Frames, got.Frames)
	}
	nobody := &worker.Site{Frames: make([]record.Frame, 5)} // generated code
	if got := folded(nobody); len(got.Frames) != 5 {
		t.Errorf("of 5 frames that nothing is known of, %d are left", len(got.Frames))
	}
	inlined := functions("", "open", "visit:1", "helper", "visit:2", "main")
	inlined.Frames[2].Inlined = true // into what is left out
	if got := folded(inlined); len(got.Frames) != 4 || got.Frames[2].Inlined {
		t.Errorf("%v", got.Frames)
	}
}

// Of a program with more sites than are kept, each further stack is compared with all of
// them once, and not at each of its calls.
func TestAStackTooManyIsComparedOnce(t *testing.T) {
	tr := newTraced()
	for i := range maxSitesTraced {
		tr.canonical(stackOf("", "open", strconv.Itoa(i), "main"))
	}
	another := stackOf("", "open", "another", "main")
	if got := tr.canonical(another); got != nil {
		t.Fatalf("%v of more than %d", got, maxSitesTraced)
	}
	if _, met := tr.joined[another]; !met {
		t.Error("it is not remembered that there is no room for it")
	}
}

// Of programs with many deep stacks so many are kept as there is room for, of all together.
func TestFramesAreBounded(t *testing.T) {
	deep := func(n int) *pythonStack {
		p := &pythonStack{named: make([]record.Frame, 32), sites: map[*worker.Site]*worker.Site{}}
		for i := range p.named {
			p.named[i] = record.Frame{Function: record.Some(fmt.Sprintf("f%04d.%02d", n, i)), File: record.Some(strings.Repeat("d", 1<<10))}
		}
		return p
	}
	l := NewLeaks(LeakOptions{})
	native, python, stacks := 0, 0, 0
	for pid := range int32(8) {
		tr := newTraced()
		tr.room = l.roomForSites
		l.traced[sample.ID{PID: pid + 1}] = tr
		for i := range maxSitesTraced {
			p := deep(i)
			if i%2 == 0 && tr.canonical(&worker.Site{Frames: p.named}) != nil {
				native++
			}
			if i%2 == 1 && tr.python(p, nil) != nil {
				python++
			}
			if l.roomForPython(len(p.named)) {
				tr.keepPython(fmt.Sprint(i), p)
				tr.keepPython(fmt.Sprint(i), p) // counts once
				stacks++
			}
		}
	}
	if want := maxSiteBytes / worker.FramesBytes(deep(0).named); native+python != want || native == 0 || python == 0 {
		t.Errorf("%d sites, and %d with Python's frames; want %d", native, python, want)
	}
	if want := maxPythonFrames / 32; stacks != want {
		t.Errorf("%d stacks of 32 frames are remembered, want %d", stacks, want)
	}
	delete(l.traced, sample.ID{PID: 1})
	if !l.roomForSites(1<<20) || !l.roomForPython(32) {
		t.Error("who is traced no more leaves no room")
	}
}

// execs is a tracer that knows how often a process became another program.
type execs struct {
	FDTracer
	n uint64
}

func (e *execs) ExecID(sample.ID) uint64 { return e.n }

// A process that becomes another program again and again has other stacks each time, and
// those from before are not kept.
func TestStacksOfProgramsBeforeAreForgotten(t *testing.T) {
	id, tracer := sample.ID{PID: 7, StartTicks: 1}, &execs{n: 1}
	l := NewLeaks(LeakOptions{Tracer: tracer})
	tr := newTraced()
	l.traced[id] = tr
	first := tr.canonical(stackOf("", "open", "leak", "main"))
	for range 1000 {
		tracer.n++
		l.followExecs()
		if got := tr.canonical(stackOf("", "open", "leak", "main")); got != first {
			t.Fatalf("%v is another site than %v", got, first)
		}
	}
	if len(tr.joined) != 1 {
		t.Errorf("%d stacks are remembered", len(tr.joined))
	}
	for range maxJoined + 10 { // walked anew each time
		tr.canonical(stackOf("", "open", "leak", "main"))
	}
	if len(tr.joined) > maxJoined {
		t.Errorf("%d stacks are remembered", len(tr.joined))
	}
}

func TestAStackThatSaysTooLittleJoinsNone(t *testing.T) {
	tr := newTraced()
	a := tr.canonical(stackOf("", "open", "leak", "main"))
	b := tr.canonical(stackOf(stack.EndWindow, "open", "leak"))
	if a == b {
		t.Error("a stack that ends with the culprit joined one of its callers'")
	}
}

// What a runtime does for everybody says nothing about who asked.
func TestAStackOfARuntimeJoinsNone(t *testing.T) {
	short := stackOf(stack.EndWindow, "open", "uv__fs_open", "node::fs::Open")
	long := stackOf("", "open", "uv__fs_open", "node::fs::Open", "serve", "main")
	for _, s := range []*worker.Site{short, long} {
		for i := range s.Frames[:3] {
			s.Frames[i].Module = record.Some("/usr/bin/node")
		}
	}
	tr := newTraced()
	if a, b := tr.canonical(long), tr.canonical(short); a == b {
		t.Error("a stack of the runtime alone joined one of its callers'")
	}
}

// BenchmarkDeepStacks has a program with as many sites as are kept, which differ only at
// their ends, and a stack of yet another each time.
func BenchmarkDeepStacks(b *testing.B) {
	for _, end := range []string{"", stack.EndWindow} {
		deep := func(n int) *worker.Site {
			calls := []string{"open", "leak"}
			for i := range 250 {
				calls = append(calls, "f"+strconv.Itoa(i))
			}
			return functions(end, append(calls, "last"+strconv.Itoa(n))...)
		}
		b.Run(end, func(b *testing.B) {
			tr := newTraced()
			for i := range maxSitesTraced {
				tr.canonical(deep(i))
			}
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				s := deep(maxSitesTraced + i)
				b.StartTimer()
				tr.canonical(s)
			}
		})
	}
}
