package stack

import (
	"os"
	"slices"
	"strings"
	"testing"
)

const window = 2048

func TestC(t *testing.T) {
	library := build(t, "gcc", "-O2", "-shared", "-fPIC", "testdata/c/library.c")
	cases := []struct {
		how, chain string
		deeper     bool // than the window
		signalled  bool
	}{
		{how: "direct", chain: "open_here middle outer main"},
		{how: "alloca", chain: "open_here middle outer with_alloca main"},
		{how: "realigned", chain: "open_here middle outer realigned main"},
		{how: "callback", chain: "open_here middle outer compare"},
		{how: "signal", chain: "open_here middle outer handler", signalled: true},
		{how: "fault", chain: "open_here middle outer on_segv", signalled: true},
		{how: "altstack", chain: "open_here middle outer handler", signalled: true},
		{how: "thread", chain: "open_here middle outer thread"},
		{how: "dlopen", chain: "open_here middle outer library_inner library_calls main"},
		{how: "deep", chain: "open_here middle outer recursive recursive", deeper: true},
	}
	for name, flags := range map[string][]string{
		"O2":            {"-O2", "-DDLOPEN", "-fcf-protection=none"},
		"O0":            {"-O0", "-DDLOPEN"},
		"no-pie":        {"-O2", "-no-pie", "-DDLOPEN"},
		"static":        {"-O2", "-static"},
		"static-pie":    {"-O2", "-static-pie"},
		"frame-pointer": {"-O2", "-fno-omit-frame-pointer", "-DDLOPEN"},
		"lazy-plt":      {"-O1", "-Wl,-z,lazy", "-DDLOPEN"},
	} {
		program := build(t, "gcc", append(flags, "-pthread", "testdata/c/chain.c")...)
		for _, c := range cases {
			if c.how == "dlopen" && !slices.Contains(flags, "-DDLOPEN") {
				continue
			}
			t.Run(name+"/"+c.how, func(t *testing.T) {
				path := marker(t)
				got := capture(t, window, path, program, c.how, path, library)
				end := ""
				switch {
				case c.deeper:
					end = EndWindow
				case c.signalled:
					end = EndSignal
				}
				checkWalkTo(t, got, c.chain, end)
			})
		}
	}
}

// A function that ended with a call has no frame, and was called all the same.
func TestTailCalls(t *testing.T) {
	for name, c := range map[string]struct {
		flags []string
		chain string
	}{
		"O2":        {[]string{"-O2"}, "wrapper" + tailCalled + " main"},
		"O2 static": {[]string{"-O2", "-static"}, "wrapper" + tailCalled + " main"},
		"O2 lazy":   {[]string{"-O2", "-Wl,-z,lazy", "-fcf-protection=none"}, "wrapper" + tailCalled + " main"},
		"O3 plt":    {[]string{"-O3", "-fno-plt"}, "wrapper" + tailCalled + " main"},
		"O0":        {[]string{"-O0"}, "wrapped wrapper main"},
	} {
		t.Run(name, func(t *testing.T) {
			program, path := build(t, "gcc", append(c.flags, "-pthread", "testdata/c/chain.c")...), marker(t)
			checkWalk(t, capture(t, window, path, program, "tail", path), c.chain)
		})
	}
}

// Without call frame information, as musl is built and assembly often is, the code says
// where its callers are.
func TestCWithoutTables(t *testing.T) {
	library := build(t, "gcc", "-O2", "-shared", "-fPIC", "testdata/c/library.c")
	for name, flags := range map[string][]string{
		"O2":            {"-O2", "-DDLOPEN"},
		"smallest":      {"-Os", "-DDLOPEN"},
		"static":        {"-O3", "-fstack-protector-all", "-static", "-no-pie"},
		"frame-pointer": {"-O2", "-fno-omit-frame-pointer", "-DDLOPEN"},
	} {
		program := build(t, "gcc", append(flags, "-fno-asynchronous-unwind-tables", "-pthread", "testdata/c/chain.c")...)
		for how, chain := range map[string]string{
			"direct": "main", "alloca": "with_alloca main", "callback": "compare", "thread": "thread",
			"signal": "handler", "altstack": "handler", "dlopen": "library_inner library_calls main",
		} {
			if how == "dlopen" && name == "static" {
				continue
			}
			t.Run(name+"/"+how, func(t *testing.T) {
				path := marker(t)
				c := capture(t, window, path, program, how, path, library)
				w := c.space.WalkStack(&c.raw)
				names := c.functions(&w)
				doubt := false
				for i := range names {
					name, guess := strings.CutSuffix(names[i], guessed)
					if doubt = doubt || guess; doubt && !guess && !strings.HasSuffix(name, tailCalled) {
						t.Errorf("%s is certain, though %s, which led there, is not", name, names[i-1])
					}
					names[i] = name
				}
				signalled := w.End == EndSignal && chain == "handler"
				if !hasChain(names, "open_here middle outer "+chain) || w.End != "" && !signalled {
					t.Errorf("%v (end %q), want %s in it", names, w.End, chain)
				}
			})
		}
	}
}

// checkWalk walks what was captured, to the first function, and compares it with the
// chain that the source has.
func checkWalk(t *testing.T, c *captured, chain string) {
	t.Helper()
	checkWalkTo(t, c, chain, "")
}

// checkWalkTo is checkWalk of what ends before.
func checkWalkTo(t *testing.T, c *captured, chain, end string) {
	t.Helper()
	w := c.space.WalkStack(&c.raw)
	names := c.functions(&w)
	if !hasChain(names, chain) {
		t.Errorf("chain = %v (end %q), want %q in it", names, w.End, chain)
	}
	if w.End != end {
		t.Errorf("end = %q, want %q, of %v", w.End, end, names)
	}
	if len(w.Deps) == 0 {
		t.Error("the walk makes no template")
		return
	}
	var templates Templates[int]
	templates.Reset(c.space.Executable())
	if !templates.Add(w.Deps, 7) {
		t.Fatal("the template is refused")
	}
	if got, ok := templates.Match(&c.raw); !ok || got != 7 {
		t.Errorf("the stack does not match its own template: %v", w.Deps)
	}
	t.Logf("%d frames, %d deps: %v", len(w.Frames), len(w.Deps), names)
}

func TestCxx(t *testing.T) {
	const opener = "open_here _ZN6OpenerIlE6middleEl _ZN6OpenerIlE5outerEl "
	for name, flags := range map[string][]string{"O2": {"-O2"}, "O0": {"-O0"}, "static": {"-O2", "-static"}} {
		program := build(t, "g++", append(flags, "testdata/c/chain.cc")...)
		for how, chain := range map[string]string{
			"virtual": opener + "main", "catch": opener + "_Z7catcherR6OpenerIlE main", "function": opener[:len(opener)-1],
			"cleanup": opener + "_ZN5GuardD2Ev _Z7unwoundR6OpenerIlE",
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				path := marker(t)
				checkWalk(t, capture(t, window, path, program, how, path), chain)
			})
		}
	}
}

func TestRust(t *testing.T) {
	for name, flags := range map[string][]string{"O": {"-O"}, "debug": {"-g"}} {
		program := build(t, "rustc", append(flags, "testdata/c/chain.rs")...)
		for _, how := range []string{"direct", "thread", "closure", "panic"} {
			t.Run(name+"/"+how, func(t *testing.T) {
				path := marker(t)
				checkWalk(t, capture(t, 4096, path, program, how, path), "open_here middle outer")
			})
		}
	}
}

func TestGo(t *testing.T) {
	for name, b := range map[string]struct {
		cgo        bool
		flags      []string
		noSections bool
	}{
		"plain": {}, "stripped": {flags: []string{"-ldflags=-s -w"}},
		"pie": {flags: []string{"-buildmode=pie"}}, "cgo": {cgo: true},
		"sectionless":     {flags: []string{"-ldflags=-s -w"}, noSections: true},
		"sectionless pie": {flags: []string{"-ldflags=-s -w", "-buildmode=pie"}, noSections: true},
		"unoptimised":     {flags: []string{"-gcflags=all=-N -l"}},
	} {
		program := buildGo(t, b.cgo, b.flags...)
		if b.noSections {
			dropSections(t, program)
		}
		for how, chain := range map[string]string{
			"direct":    "main.openHere main.middle main.outer main.main runtime.main runtime.goexit",
			"interface": "main.openHere main.middle main.outer main.file.open",
			"panic":     "main.openHere main.middle main.outer main.deferred.func1",
			"goroutine": "main.openHere main.middle main.outer main.worker",
			"deep":      "main.recursive main.recursive main.main runtime.main runtime.goexit",
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				path := marker(t)
				c := capture(t, window, path, program, how, path)
				checkWalk(t, c, chain)
				w := c.space.WalkStack(&c.raw)
				checkCreator(t, c, &w, how)
			})
		}
	}
}

func checkCreator(t *testing.T, c *captured, w *Walk, how string) {
	pc, ok := Creator(c.g, w.GoStart)
	if how != "goroutine" {
		return
	}
	if !ok {
		t.Fatalf("no creator; the goroutine began at %#x", w.GoStart)
	}
	_, fn, ok := c.space.FindCreator(pc)
	if !ok || fn.Name() != "main.starter" {
		t.Errorf("creator = %v %v, want main.starter", fn.Name(), ok)
	}
}

func TestCgo(t *testing.T) {
	program := buildGo(t, true)
	path := marker(t)
	c := capture(t, window, path, program, "cgo", path)
	w := c.space.WalkStack(&c.raw)
	names := c.functions(&w)
	t.Log(names, w.End)
	// The goroutine's stack is another one, which was not copied; the C compiler keeps
	// something else in the frame pointer.
	if !hasChain(names, "open_here outer") || names[len(names)-1] != "runtime.asmcgocall" || w.End != EndStack {
		t.Errorf("chain = %v (end %q)", names, w.End)
	}
}

// dropSections takes the section headers from a file, as sstrip does.
func dropSections(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, field := range []struct{ offset, size int64 }{{40, 8}, {60, 2}, {62, 2}} { // e_shoff, e_shnum, e_shstrndx
		if _, err := f.WriteAt(make([]byte, field.size), field.offset); err != nil {
			t.Fatal(err)
		}
	}
}
