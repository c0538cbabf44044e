package worker

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/record"
)

// write puts a program's source where it can be compiled.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func functions(site *Site) (names []string) {
	for _, f := range site.Frames {
		name := f.Function.Or("?")
		if g, ok := f.Guess.Get(); ok {
			name += "(" + g + ")"
		}
		if l, ok := f.Language.Get(); ok {
			name += "[" + l + "]"
		}
		names = append(names, name)
	}
	return names
}

const generatedSource = `
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static volatile int sink;
__attribute__((noinline)) void inner(void) { char c; int r = read(0, &c, 1); sink = r; }
__attribute__((noinline)) void caller(void (*generated)(void (*)(void))) { generated(inner); sink++; }
int main(void) {
	// push %rbp; mov %rsp, %rbp; call *%rdi; pop %rbp; ret
	static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
	void *p = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(p, code, sizeof code);
	char path[64];
	snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
	FILE *f = fopen(path, "w");
	fprintf(f, "%lx %lx LazyCompile:~generated test.js:1\n", (long)p, (long)sizeof code);
	fclose(f);
	puts("ready");
	fflush(stdout);
	for (;;) caller((void (*)(void (*)(void)))p);
}
`

func TestGeneratedCode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	run(t, "gcc", "-O2", "-o", path, write(t, "p.c", generatedSource))
	p := start(t, path)
	perf := fmt.Sprintf("/tmp/perf-%d.map", p.id.PID)
	t.Cleanup(func() { os.Remove(perf) })
	site := walk(t, newClient(t), Image{ID: p.id}, &p.raw)
	names := strings.Join(functions(site), " ")
	if !strings.Contains(names, " inner generated[javascript] caller(frame_pointer) main(frame_pointer) ") || site.End != "" {
		t.Errorf("frames %s, end %q", names, site.End)
	}

	whole, err := os.ReadFile(perf)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range badPerfMaps(t, perf, whole) {
		if err := os.RemoveAll(perf); err != nil {
			t.Fatal(err)
		}
		tt.make()
		c := newClient(t)
		site := walk(t, c, Image{ID: p.id}, &p.raw)
		names := strings.Join(functions(site), " ")
		if !strings.Contains(names, " inner ? caller(frame_pointer) main(frame_pointer) ") || site.End != "" {
			t.Errorf("%s: frames %s, end %q", tt.name, names, site.End)
		}
		if s := c.Stats(); s.Killed != 0 || s.Failed != 0 {
			t.Errorf("%s: stats = %+v", tt.name, s)
		}
	}
}

// badPerfMaps are what else than a process's own regular file may be where its perf map
// should be, and with what is in it: none of them is read, or waited for.
func badPerfMaps(t *testing.T, perf string, whole []byte) []struct {
	name string
	make func()
} {
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	aside := filepath.Join(t.TempDir(), "map")
	must(os.WriteFile(aside, whole, 0o600))
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(unix.Mkfifo(fifo, 0o600))
	beside := perf + ".test" // of one file system
	must(os.WriteFile(beside, whole, 0o600))
	t.Cleanup(func() { os.Remove(beside) })
	bad := []struct {
		name string
		make func()
	}{
		{"a FIFO", func() { must(unix.Mkfifo(perf, 0o600)) }},
		{"a link to a FIFO", func() { must(os.Symlink(fifo, perf)) }},
		{"a link to a device", func() { must(os.Symlink("/dev/zero", perf)) }},
		{"a link to a map", func() { must(os.Symlink(aside, perf)) }},
		{"a second name of a map", func() { must(os.Link(beside, perf)) }},
		{"a link to itself", func() { must(os.Symlink(perf, perf)) }},
		{"a directory", func() { must(os.Mkdir(perf, 0o700)) }},
		{"nonsense", func() {
			must(os.WriteFile(perf, []byte("\xff\x00 1 2\n\n7fffffffffffffff ffffffffffffffff x\n"), 0o600))
		}},
	}
	if os.Geteuid() == 0 {
		bad = append(bad, struct {
			name string
			make func()
		}{"another user's", func() {
			must(os.WriteFile(perf, whole, 0o644))
			must(os.Chown(perf, 12345, 12345))
		}})
	}
	return bad
}

const goSource = `package main

import (
	"os"
	"sync"
	"syscall"
)

//go:noinline
func inner() { var b [1]byte; syscall.Read(0, b[:]) }

//go:noinline
func starter(wg *sync.WaitGroup, n int) {
	go func() { // line 14
		for {
			inner()
		}
	}()
}

func main() {
	var wg sync.WaitGroup
	wg.Add(1)
	starter(&wg, 1)
	os.Stdout.WriteString("ready\n")
	wg.Wait()
}
`

// The goroutine's stack ends where it began; who began it follows. The thread that is in
// read(2) is found by its system call: goroutines move.
func TestGoCreator(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, write(t, "main.go", goSource))
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p := start(t, path)
	site := walk(t, newClient(t), Image{ID: p.id}, &p.raw)
	names := strings.Join(functions(site), " ")
	if !strings.Contains(names, "main.inner main.starter.func1 runtime.goexit main.starter[go_creator]") {
		t.Errorf("frames %s, end %q", names, site.End)
	}
	last := site.Frames[len(site.Frames)-1]
	if line, _ := last.Line.Get(); line != 14 || last.Guess.Known() {
		t.Errorf("creator = %+v", last)
	}
}

// A module that is no ELF file any more, or was cut off while it runs, costs names and
// steps, and nothing else.
func TestDamagedModule(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, f *os.File){
		"truncated": func(t *testing.T, f *os.File) {
			if err := f.Truncate(5000); err != nil {
				t.Skipf("the kernel keeps programs that run from change: %v", err)
			}
		},
		"header": func(t *testing.T, f *os.File) {
			if _, err := f.WriteAt([]byte("nonsense"), 0); err != nil {
				t.Fatal(err)
			}
		},
		"tables": func(t *testing.T, f *os.File) {
			if _, err := f.WriteAt([]byte(strings.Repeat("\xff", 40)), 32); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			// A library may be written to while it is mapped; a program may not.
			dir := t.TempDir()
			library, program := filepath.Join(dir, "liblocal.so"), filepath.Join(dir, "program")
			run(t, "gcc", "-O2", "-shared", "-fPIC", "-o", library, write(t, "l.c", `
#include <unistd.h>
static volatile int sink;
int outer(void) { char c; int r = read(0, &c, 1); sink = r; return r + 1; }
`))
			run(t, "gcc", "-O2", "-o", program, write(t, "p.c", `
#include <stdio.h>
int outer(void);
int main(void) { puts("ready"); fflush(stdout); return outer(); }
`), library)
			p := start(t, program)
			f, err := os.OpenFile(library, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			c := newClient(t)
			damage(t, f)
			site := walk(t, c, Image{ID: p.id}, &p.raw)
			if len(site.Frames) < 2 || site.Frames[1].Module.Or("") != library {
				t.Fatalf("frames %+v, end %q", site.Frames, site.End)
			}
			// What is left of the code may still say where its caller is.
			if site.End == "" && !slices.ContainsFunc(site.Frames, func(f record.Frame) bool { return f.Guess.Known() }) {
				t.Errorf("the walk is whole and certain: %v", functions(site))
			}
			if s := c.Stats(); s.Killed != 0 || s.Failed != 0 {
				t.Errorf("stats = %+v", s)
			}
			t.Logf("end %q", site.End)
		})
	}
}

// The size of a file costs nothing: what is not needed is not read.
func TestModuleOfTwoGigabytes(t *testing.T) {
	path := compile(t)
	if err := os.Truncate(path, 2<<30); err != nil {
		t.Fatal(err)
	}
	p := start(t, path)
	c := newClient(t)
	site := walk(t, c, Image{ID: p.id}, &p.raw)
	if site.End != "" || !strings.Contains(strings.Join(functions(site), " "), " main ") {
		t.Errorf("frames %v, end %q", functions(site), site.End)
	}
	if s := c.Stats(); s.Killed != 0 || s.Failed != 0 {
		t.Errorf("stats = %+v", s)
	}
}

func TestShortenedAnswerHasAddresses(t *testing.T) {
	f := record.Frame{Function: record.Some(strings.Repeat("x", 5000)), Offset: record.Some(uint64(7))}
	inlined := f
	inlined.Inlined = true
	short := shorten(&answer{Frames: []record.Frame{inlined, f}})
	if len(short.Frames) != 1 || short.Frames[0].Function.Known() || short.Frames[0].Offset.Or(0) != 7 {
		t.Errorf("short = %+v", short)
	}
}

func TestGeneratedFrames(t *testing.T) {
	for name, want := range map[string][3]string{
		"JS:*leak /srv/app.js:11:24":         {"leak", "/srv/app.js", "javascript"},
		"JS:^ /srv/my app/a.js:29:13":        {"(anonymous at 29:13)", "/srv/my app/a.js", "javascript"},
		"LazyCompile:~get name /a/b c.js:12": {"get name", "/a/b c.js", "javascript"},
		"JS:~openSync node:fs:570:18":        {"openSync", "node:fs", "javascript"},
		"Function:+x file:///srv/m.mjs:1:2":  {"x", "file:///srv/m.mjs", "javascript"},
		"JS:*":                               {"JS:*", "", ""},
		"JS:*alone":                          {"alone", "", "javascript"},
		"Builtin:ArrayMap":                   {"Builtin:ArrayMap", "", ""},
		"java.lang.String.length()I":         {"java.lang.String.length()I", "", ""},
		"LazyCompile:~generated test.js:1":   {"generated", "test.js", "javascript"},
		"Ljava/io/FileInputStream;::open(v)": {"Ljava/io/FileInputStream;::open(v)", "", ""},
		"JS:~ :":                             {"", ":", "javascript"},
	} {
		f := generatedFrame(name)
		if got := [3]string{f.Function.Or(""), f.File.Or(""), f.Language.Or("")}; got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
