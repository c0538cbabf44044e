package engine

import (
	"strconv"
	"strings"
	"testing"

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

func newTraced() *traced { return &traced{joined: map[*worker.Site]*worker.Site{}} }

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
		a, b := set.add(order[0]), set.add(order[1])
		if a != b || len(a.Frames) != 5 || a.End != "" || !set.has(a) || set.add(other) == a {
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
		a := set.add(order[0])
		if b, c := set.add(order[1]), set.add(order[2]); a != b || a != c || len(a.Frames) != 6 || set.add(other) == a {
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

// A directory is opened by a walk at any depth, and by a parser in any order of its rules;
// how deep that was is cut off at some depth, too.
func TestAFunctionThatCallsItselfIsOneSite(t *testing.T) {
	for name, stacks := range map[string][]*worker.Site{
		"itself": {
			functions("", "open", "visit:1", "main"),
			functions("", "open", "visit:1", "visit:2", "main"),
			functions("", "open", "visit:1", "visit:2", "visit:2", "visit:3", "main"),
			functions(stack.EndFrames, "open", "scan", "visit:1", "visit:2", "visit:2", "visit:3"),
			functions(stack.EndWindow, "open", "scan", "visit:1", "visit:2"),
			functions("", "open", "scan", "visit:1", "visit:2", "main"),
		},
		"others": {
			functions("", "open", "expression:1", "main"),
			functions("", "open", "expression:1", "term", "expression:2", "term", "expression:2", "main"),
			functions("", "open", "expression:1", "paren", "term", "expression:3", "main"),
			functions("", "open", "number", "expression:1", "main"),
			functions("", "open", "number", "expression:1", "term", "expression:2", "main"),
			functions("", "open", "number", "expression:1", "paren", "term", "expression:2", "term", "expression:3", "main"),
		},
	} {
		tr := newTraced()
		var got []*worker.Site
		for _, s := range stacks {
			got = append(got, tr.canonical(s))
		}
		if got[0] != got[1] || got[0] != got[2] || got[3] != got[4] || got[3] != got[5] || got[0] == got[3] {
			t.Errorf("%s: %v", name, got)
		}
		deep := tr.canonical(functions(stack.EndFrames, "open", "descend:1", "descend:2", "descend:2"))
		if deeper := tr.canonical(functions(stack.EndWindow, "open", "descend:1", "descend:2")); deep != deeper {
			t.Errorf("%v and %v are cut off at different depths", deep, deeper)
		}
		if n := len(stacks[1].Frames); n < 4 {
			t.Errorf("%s: the stack itself was folded to %d frames", name, n)
		}
	}
}

// What is between two calls of a function of an interpreter's is no call of its own; and
// nobody knows whether functions without names are the same.
func TestWhatCallsNotItselfStaysWhole(t *testing.T) {
	python := func(s *worker.Site, at ...int) *worker.Site {
		for _, i := range at {
			s.Frames[i].Language = record.Some("python")
		}
		return s
	}
	for _, s := range []*worker.Site{
		python(functions("", "open", "fetch", "map_next", "each", "map_next", "main"), 1, 3, 5),
		functions("", "open", "main::{{closure}}:1", "run", "main::{{closure}}:2", "main"),
	} {
		if got := folded(s); got != s {
			t.Errorf("%v became %v", s.Frames, got.Frames)
		}
	}
	created := functions("", "open", "visit:1", "visit:2", "visit:2", "run")
	created.Frames[4].Language = record.Some(worker.LanguageCreator)
	if got := folded(created); len(got.Frames) != 3 {
		t.Errorf("of a goroutine: %v", got.Frames)
	}
	nobody := &worker.Site{Frames: make([]record.Frame, 5)} // generated code
	if got := folded(nobody); len(got.Frames) != 5 {
		t.Errorf("of 5 frames that nothing is known of, %d are left", len(got.Frames))
	}
	recursive := python(functions("", "open", "walk:1", "map_next", "walk:2", "map_next", "walk:2", "main"), 1, 3, 5, 6)
	if got := folded(recursive); len(got.Frames) != 3 || got.Frames[1].Line.Or(0) != 1 {
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
