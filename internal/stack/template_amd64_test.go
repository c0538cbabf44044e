package stack

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"rmagent/internal/elffile"
	"rmagent/internal/sample"
)

// summary is what a walk says, without what it depended on.
func summary(w *Walk) string {
	s := w.End
	for _, f := range w.Frames {
		s += fmt.Sprintf(" %x/%x/%v/%v", f.PC, f.Address, f.Known, f.Guess)
	}
	return fmt.Sprintf("%s start %x", s, w.GoStart)
}

// captures are stacks of several kinds of program.
func captures(t testing.TB) []*captured {
	c := build(t, "gcc", "-O2", "-pthread", "testdata/c/chain.c")
	pointers := build(t, "gcc", "-O1", "-fno-omit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-pthread", "testdata/c/chain.c")
	bare := build(t, "gcc", "-O2", "-fno-asynchronous-unwind-tables", "-pthread", "testdata/c/chain.c")
	cgo := buildGo(t, true)
	var list []*captured
	for _, args := range [][]string{
		{c, "direct"}, {c, "realigned"}, {c, "signal"}, {c, "deep"}, {c, "thread"},
		{pointers, "direct"}, {pointers, "deep"}, {bare, "callback"}, {bare, "alloca"}, {bare, "tail"}, {cgo, "deep"}, {cgo, "goroutine"}, {cgo, "cgo"},
	} {
		path := marker(t)
		list = append(list, capture(t, 4096, path, append(args, path)...))
	}
	return list
}

// wordsOf is what a walk read, and what it said.
type wordsOf struct {
	words sample.WalkWords
	walk  string
}

// fit tells whether a stack has all words.
func (w *wordsOf) fit(raw *sample.RawStack) bool {
	for _, word := range w.words {
		value, there := read(raw, Place(word.Offset))
		if word.Relative {
			value -= raw.SP
		}
		if !there || value != word.Value {
			return false
		}
	}
	return true
}

// A stack that matches the template of another has the walk of the other: whatever
// is changed in it, moved with it or cut off. So has one that only has the words that the
// other's walk read.
func TestMatchingMeansTheSameWalk(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range captures(t) {
		var templates Templates[string]
		templates.Reset(c.space.Executable())
		walks, matched, refused, fitted, longest := 0, 0, 0, 0, 0
		var known []wordsOf
		for range 4000 {
			raw := mutate(random, &c.raw)
			w := c.space.WalkStack(&raw)
			walks++
			for i := range known {
				if !known[i].fit(&raw) {
					continue
				}
				fitted++
				if want := summary(&w); known[i].walk != want {
					t.Fatalf("a stack has the words of the walk\n%s\nbut its own is\n%s\nwords %v", known[i].walk, want, known[i].words)
				}
			}
			got, ok := templates.Match(&raw)
			if want := summary(&w); ok && got != want {
				t.Fatalf("a stack matches the walk\n%s\nbut its own is\n%s\ndeps %v", got, want, w.Deps)
			}
			if ok {
				matched++
				if as, words, ok := templates.Words(&raw, nil); ok && len(known) < 30 {
					known = append(known, wordsOf{words, as})
					longest = max(longest, len(words))
				}
				continue
			}
			if w.Deps == nil {
				continue
			}
			if !templates.Add(w.Deps, summary(&w)) {
				refused++
				if !templates.Full() {
					t.Fatalf("the template of a walk is refused: %v, %s", w.Deps, summary(&w))
				}
				continue
			}
			if got, ok := templates.Match(&raw); !ok || got != summary(&w) {
				// Only where zero stands for an address does a template not match itself.
				t.Fatalf("a stack does not match its own template: %v, %s, got %v %q", w.Deps, summary(&w), ok, got)
			}
		}
		t.Logf("%d walks, %d matched a template, %d nodes, %d refused, %d had the up to %d words of one", walks, matched, templates.Nodes(), refused, fitted, longest)
		if _, _, whole := templates.Words(&c.raw, nil); whole && fitted < walks/20 {
			t.Errorf("only %d of %d had the words of another", fitted, walks)
		}
		if matched < walks/20 {
			t.Errorf("only %d of %d matched", matched, walks)
		}
	}
}

// mutate changes what a walk may or may not depend on.
func mutate(random *rand.Rand, raw *sample.RawStack) sample.RawStack {
	m := sample.RawStack{Registers: raw.Registers, Window: append([]byte(nil), raw.Window...), Chain: append([]uint64(nil), raw.Chain...)}
	if random.IntN(2) == 0 { // the same stack elsewhere: what points into it, too
		by := uint64(random.IntN(1<<20)) * 16
		shift := func(v uint64) uint64 {
			if v-raw.SP < 1<<20 {
				return v + by
			}
			return v
		}
		m.SP += by
		for _, r := range []*uint64{&m.BP, &m.BX, &m.R12, &m.R13, &m.R14, &m.R15} {
			*r = shift(*r)
		}
		for i := 0; i+8 <= len(m.Window); i += 8 {
			binary.LittleEndian.PutUint64(m.Window[i:], shift(binary.LittleEndian.Uint64(m.Window[i:])))
		}
	}
	values := []uint64{0, raw.IP, raw.SP, raw.SP + uint64(random.IntN(6000)), random.Uint64(), raw.BP, 8, raw.SP + 1<<40}
	value := func() uint64 { return values[random.IntN(len(values))] }
	for range random.IntN(3) {
		switch random.IntN(8) {
		case 0:
			m.BP = value()
		case 1:
			m.BX = value()
		case 2:
			m.Window = m.Window[:random.IntN(len(m.Window)+1)]
		case 3:
			m.Chain = m.Chain[:random.IntN(len(m.Chain)+1)]
		case 4:
			if len(m.Chain) > 0 {
				m.Chain[random.IntN(len(m.Chain))] = value()
			}
		default:
			if len(m.Window) >= 8 {
				binary.LittleEndian.PutUint64(m.Window[random.IntN(len(m.Window)/8)*8:], value())
			}
		}
	}
	return m
}

func TestMatchAllocatesNothing(t *testing.T) {
	path := marker(t)
	c := capture(t, window, path, build(t, "gcc", "-O2", "-pthread", "testdata/c/chain.c"), "direct", path)
	w := c.space.WalkStack(&c.raw)
	var templates Templates[*Walk]
	templates.Reset(c.space.Executable())
	if !templates.Add(w.Deps, &w) {
		t.Fatal("refused")
	}
	if n := testing.AllocsPerRun(100, func() { templates.Match(&c.raw) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	path := marker(b)
	c := capture(b, window, path, build(b, "gcc", "-O2", "-pthread", "testdata/c/chain.c"), "direct", path)
	w := c.space.WalkStack(&c.raw)
	var templates Templates[*Walk]
	templates.Reset(c.space.Executable())
	templates.Add(w.Deps, &w)
	b.ReportAllocs()
	for b.Loop() {
		templates.Match(&c.raw)
	}
}

func BenchmarkWalk(b *testing.B) {
	path := marker(b)
	c := capture(b, window, path, build(b, "gcc", "-O2", "-pthread", "testdata/c/chain.c"), "direct", path)
	b.ReportAllocs()
	for b.Loop() {
		c.space.WalkStack(&c.raw)
	}
}

// BenchmarkWalkWithoutTables walks what has no call frame information, and forgets what it
// found out about the code.
func BenchmarkWalkWithoutTables(b *testing.B) {
	path := marker(b)
	program := build(b, "gcc", "-O2", "-static", "-fno-asynchronous-unwind-tables", "-pthread", "testdata/c/chain.c")
	c := capture(b, window, path, program, "direct", path)
	b.ReportAllocs()
	for b.Loop() {
		for i := range c.space.Regions {
			if m := c.space.Regions[i].Module; m != nil {
				m.rows, m.approaches = nil, nil
			}
		}
		c.space.WalkStack(&c.raw)
	}
}

// Answers that contradict each other, as a child that was taken over may give, are refused.
func TestContradictingTemplates(t *testing.T) {
	var templates Templates[int]
	raw := sample.RawStack{Window: make([]byte, 16)}
	raw.IP = 5
	for _, c := range []struct {
		deps []Dep
		want bool
	}{
		{nil, false},
		{[]Dep{{regIP, Equals, 5}, {0, Zero, 0}}, true},
		{[]Dep{{regIP, Equals, 5}}, false},                             // ends where another goes on
		{[]Dep{{regIP, Equals, 5}, {0, Zero, 0}, {8, Zero, 0}}, false}, // goes on where another ends
		{[]Dep{{regIP, Equals, 5}, {8, Equals, 1}}, false},             // asks another place
		{[]Dep{{regIP, EqualsSP, 5}}, false},                           // asks another question
		{[]Dep{{regIP, numConditions, 5}}, false},
		{[]Dep{{regIP, Equals, 6}, {1 << 30, Missing, 0}}, true},
		{make([]Dep, MaxDeps+1), false},
	} {
		if got := templates.Add(c.deps, len(c.deps)); got != c.want {
			t.Errorf("Add(%.3v) = %v", c.deps, got)
		}
	}
	if got, ok := templates.Match(&raw); !ok || got != 2 {
		t.Errorf("Match = %v %v", got, ok)
	}
}

func FuzzWalk(f *testing.F) {
	list := captures(f)
	for i, c := range list {
		f.Add(uint8(i), c.raw.Window, c.raw.IP, c.raw.BP)
	}
	f.Fuzz(func(t *testing.T, which uint8, window []byte, ip, bp uint64) {
		c := list[int(which)%len(list)]
		raw := c.raw
		raw.Window, raw.IP, raw.BP = window, ip, bp
		var w, again Walk
		if err := elffile.Guard(func() error {
			w, again = c.space.WalkStack(&raw), c.space.WalkStack(&raw)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(w, again) || len(w.Frames) > MaxFrames {
			t.Errorf("%d frames, or not the same twice", len(w.Frames))
		}
	})
}
