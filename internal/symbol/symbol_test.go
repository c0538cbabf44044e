package symbol

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rmagent/internal/elffile"
	"rmagent/record"
)

const sources = "../dwarf/testdata/"

// compile builds a program and returns its path.
func compile(t testing.TB, compiler string, args ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	run(t, compiler, append(args, "-o", program)...)
	return program
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return string(out)
}

func open(t testing.TB, path string) *elffile.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file, err := elffile.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// texts returns addresses all over the program's text.
func textOf(t testing.TB, f *elffile.File, count uint64) (pcs []uint64) {
	t.Helper()
	text, ok := f.Section(".text")
	if !ok {
		t.Fatal("no .text")
	}
	size := uint64(len(text.Data))
	for pc := text.Vaddr; pc < text.Vaddr+size; pc += max(1, size/count) {
		pcs = append(pcs, pc)
	}
	return pcs
}

func describe(frames []record.Frame) string {
	var b strings.Builder
	for _, f := range frames {
		fmt.Fprintf(&b, "%s %s:%d", f.Function.Or("?"), filepath.Base(f.File.Or("?")), f.Line.Or(0))
		if f.Inlined {
			b.WriteString(" < ")
		}
	}
	return b.String()
}

func describeAll(s *File, pcs []uint64) (all []string) {
	for _, frames := range s.Frames(context.Background(), pcs) {
		all = append(all, describe(frames))
	}
	return all
}

// What is read of a program says the same wherever its debug information is. (That it
// is right is tested in the package dwarf.)
func TestSeparateAndCompressed(t *testing.T) {
	const flags = "-Wl,--build-id"
	plain := compile(t, "g++", "-O2", "-g", flags, sources+"program.cc")
	f := open(t, plain)
	pcs := textOf(t, f, 1000)
	want := describeAll(Open(f, nil, nil), pcs)
	known := 0
	for _, w := range want {
		if strings.Contains(w, "<") {
			known++
		}
	}
	if known < 500 {
		t.Fatalf("%d of %d addresses in inlined calls", known, len(pcs))
	}
	copyOf := func(change func(path string)) string {
		path := filepath.Join(t.TempDir(), "copy")
		run(t, "cp", plain, path)
		change(path)
		return path
	}
	check := func(name string, s *File) {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(want, describeAll(s, pcs)); diff != "" {
				t.Errorf("frames differ (-whole +%s):\n%s", name, diff)
			}
			if again := describeAll(s, pcs); !slices.Equal(want, again) {
				t.Error("the second answer differs")
			}
			if s.Memory() == 0 || s.Memory() > 16<<20 {
				t.Errorf("%d bytes held", s.Memory())
			}
		})
	}
	for _, how := range []string{"zlib", "zlib-gnu", "zstd"} {
		path := copyOf(func(p string) { run(t, "objcopy", "--compress-debug-sections="+how, p) })
		check(how, Open(open(t, path), nil, nil))
	}

	debug := filepath.Join(t.TempDir(), "program.debug")
	run(t, "objcopy", "--only-keep-debug", plain, debug)
	stripped := copyOf(func(p string) { run(t, "strip", p) })
	s := Open(open(t, stripped), open(t, debug), nil)
	if !s.Uses() {
		t.Fatal("the debug file is not used")
	}
	check("separate", s)

	id := f.BuildID()
	if got := DebugPaths(open(t, stripped), "/usr/bin/x"); len(got) != 1 || got[0] != "/usr/lib/debug/.build-id/"+id[:2]+"/"+id[2:]+".debug" {
		t.Errorf("debug paths = %q", got)
	}

	other := compile(t, "g++", "-O1", "-g", flags, sources+"program.cc")
	s = Open(open(t, stripped), open(t, other), nil)
	if s.Uses() {
		t.Error("the debug file of another program is used")
	}

	moved := copyOf(func(string) {})
	alt := filepath.Join(filepath.Dir(moved), "common.debug")
	run(t, "dwz", "-m", alt, "-M", "/usr/lib/debug/.dwz/common.debug", moved, copyOf(func(string) {}))
	altFile := open(t, alt)
	if got := AltPath(open(t, moved), "/x"); got != "/usr/lib/debug/.dwz/common.debug" {
		t.Errorf("alt path = %q", got)
	}
	check("dwz", Open(open(t, moved), nil, altFile))
}

// Without a build id the debug file is known by its checksum.
func TestDebugLink(t *testing.T) {
	plain := compile(t, "gcc", "-O2", "-g", "-Wl,--build-id=none", sources+"program.c")
	f := open(t, plain)
	pcs := textOf(t, f, 200)
	want := describeAll(Open(f, nil, nil), pcs)
	debug, stripped := plain+".debug", plain+".stripped"
	run(t, "objcopy", "--only-keep-debug", plain, debug)
	run(t, "strip", "-o", stripped, plain)
	run(t, "objcopy", "--add-gnu-debuglink="+debug, stripped)
	s := Open(open(t, stripped), open(t, debug), nil)
	if got := describeAll(s, pcs); !s.Uses() || !slices.Equal(got, want) {
		t.Errorf("used %v; got %q, want %q", s.Uses(), got, want)
	}
	wantPaths := []string{"/opt/a/program.debug", "/opt/a/.debug/program.debug", "/usr/lib/debug/opt/a/program.debug"}
	if got := DebugPaths(open(t, stripped), "/opt/a/x"); !slices.Equal(got, wantPaths) {
		t.Errorf("debug paths = %q, want %q", got, wantPaths)
	}
	if err := os.WriteFile(debug, append([]byte(nil), mustRead(t, plain)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if Open(open(t, stripped), open(t, debug), nil).Uses() {
		t.Error("a debug file with another checksum is used")
	}
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// nm is what nm prints of code: start to names, and ends.
func nm(t testing.TB, path string, args ...string) (starts []uint64, ends, names map[uint64][]string) {
	t.Helper()
	names, ends = map[uint64][]string{}, map[uint64][]string{}
	for _, line := range strings.Split(run(t, "nm", append(args, "-S", "--defined-only", path)...), "\n") {
		w := strings.SplitN(line, " ", 4)
		if len(w) < 4 || !strings.Contains("TtWwi", w[2]) {
			continue
		}
		start, err := strconv.ParseUint(w[0], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(w[3], "@")
		if names[start] == nil {
			starts = append(starts, start)
		}
		names[start] = append(names[start], name)
		ends[start] = append(ends[start], w[1])
	}
	return starts, ends, names
}

// Programs without debug information: nm is the truth for the names.
func TestSymbolTables(t *testing.T) {
	cc := compile(t, "g++", "-O2", sources+"program.cc")
	exported := compile(t, "gcc", "-O2", "-rdynamic", "-s", sources+"program.c")
	libc := strings.TrimSpace(run(t, "gcc", "-print-file-name=libc.so.6"))
	for name, v := range map[string]struct {
		path string
		nm   []string
		want int
	}{
		"symtab": {cc, nil, 20},
		"dynsym": {exported, []string{"-D"}, 2},
		"libc":   {libc, []string{"-D"}, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			starts, sizes, names := nm(t, v.path, v.nm...)
			s := Open(open(t, v.path), nil, nil)
			var pcs []uint64
			for _, start := range starts {
				size, _ := strconv.ParseUint(sizes[start][0], 16, 64)
				pcs = append(pcs, start+size/2)
			}
			if len(pcs) < v.want {
				t.Fatalf("%d functions", len(pcs))
			}
			bad := 0
			for i, frames := range s.Frames(context.Background(), pcs) {
				if len(frames) != 1 || frames[0].Inlined || frames[0].File.Known() {
					t.Errorf("%#x = %+v", pcs[i], frames)
					continue
				}
				got := frames[0].Function.Or("")
				if !slices.ContainsFunc(names[starts[i]], func(n string) bool { return demangled(n) == got }) {
					// Another, smaller function may be inside.
					if bad++; bad > len(pcs)/50 {
						t.Errorf("%#x = %q, nm says %q", pcs[i], got, names[starts[i]])
					}
				}
			}
		})
	}
}

// The symbols of functions that are not dynamic, as Fedora adds them to programs
// (gdb's manual, "MiniDebugInfo").
func TestMiniDebugInfo(t *testing.T) {
	plain := compile(t, "g++", "-O2", sources+"program.cc")
	starts, _, names := nm(t, plain)
	dir := t.TempDir()
	mini, stripped := filepath.Join(dir, "mini"), filepath.Join(dir, "stripped")
	run(t, "objcopy", "--only-keep-debug", plain, mini)
	run(t, "strip", "-o", stripped, plain)
	run(t, "xz", mini)
	run(t, "objcopy", "--add-section", ".gnu_debugdata="+mini+".xz", stripped)
	s := Open(open(t, stripped), nil, nil)
	for i, frames := range s.Frames(context.Background(), starts) {
		if starts[i] == 0 || slices.Contains(names[starts[i]], "_init") || slices.Contains(names[starts[i]], "_fini") {
			continue // they have no size
		}
		if len(frames) != 1 || !slices.ContainsFunc(names[starts[i]], func(n string) bool { return demangled(n) == frames[0].Function.Or("") }) {
			t.Errorf("%#x = %q, want %q", starts[i], describe(frames), names[starts[i]])
		}
	}
}

// c++filt is the truth for names; it knows parameters, which are left out here.
func TestDemangled(t *testing.T) {
	for mangled, want := range map[string]string{
		"main": "main",
		"_ZN5outer7biggestIiEET_RKSt6vectorIS1_SaIS1_EE":       "outer::biggest<int>",
		"_ZNK5outer6square4areaEv":                             "outer::square::area",
		"_ZN4core3fmt9Formatter9write_str17h0123456789abcdefE": "core::fmt::Formatter::write_str",
		"_RNvNtCs1234_7mycrate3foo3bar":                        "mycrate::foo::bar",
		"_ZZ4mainENKUliE_clEi":                                 "main::{lambda(int)#1}::operator()",
		"_ZN4llvm5twiceIiEEvT_.constprop.0":                    "llvm::twice<int>",
		"_Znot_mangled":                                        "_Znot_mangled",
		"_Z" + strings.Repeat("x", maxMangled):                 ("_Z" + strings.Repeat("x", maxMangled))[:maxFunctionName],
	} {
		if got := demangled(mangled); got != want {
			t.Errorf("%.60q = %.60q, want %.60q", mangled, got, want)
		}
	}
	program := compile(t, "g++", "-O1", sources+"program.cc")
	_, _, names := nm(t, program)
	checked := 0
	for _, list := range names {
		for _, name := range list {
			filtered := strings.TrimSpace(run(t, "c++filt", "-p", name))
			got := demangled(name)
			if isMangled([]byte(name)) && !strings.Contains(name, ".") && !strings.Contains(name, "UlRK") {
				checked++
				if strip := strings.NewReplacer(" ", "", "[abi:cxx11]", "").Replace; strip(got) != strip(filtered) {
					t.Errorf("%s = %q, c++filt says %q", name, got, filtered)
				}
			}
		}
	}
	if checked < 10 {
		t.Errorf("%d names checked", checked)
	}
}

// A local function's name in DWARF lacks where it is.
func TestLambdaIsNamedWhole(t *testing.T) {
	program := compile(t, "g++", "-O0", "-g", sources+"program.cc")
	s := Open(open(t, program), nil, nil)
	starts, _, names := nm(t, program)
	for _, start := range starts {
		if slices.Contains(names[start], "_ZZ4mainENKUliE_clEi") {
			got := describe(s.Frames(context.Background(), []uint64{start})[0])
			want := fmt.Sprintf("main::{lambda(int)#1}::operator() program.cc:%d", lineOf(t, sources+"program.cc", "total += i"))
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			return
		}
	}
	t.Fatal("no lambda")
}

func lineOf(t testing.TB, path, text string) int {
	t.Helper()
	before, _, ok := strings.Cut(string(mustRead(t, path)), text)
	if !ok {
		t.Fatalf("%s has no %q", path, text)
	}
	return strings.Count(before, "\n") + 1
}

// Go's own table and DWARF, which the compiler writes apart from it, say the same.
// RMAGENT_GO_TOOLCHAINS names more toolchains to test with, separated by commas.
func TestGoTableAgreesWithDWARF(t *testing.T) {
	for _, toolchain := range strings.Split(","+os.Getenv("RMAGENT_GO_TOOLCHAINS"), ",") {
		for name, v := range map[string]struct{ cgo, mode string }{"plain": {"0", "exe"}, "pie": {"0", "pie"}, "cgo": {"1", "exe"}, "cgo pie": {"1", "pie"}} {
			if toolchain == "" && os.Getenv("RMAGENT_GO_TOOLCHAINS") != "" {
				continue
			}
			t.Run(strings.TrimSpace(toolchain+" "+name), func(t *testing.T) {
				program := filepath.Join(t.TempDir(), "program")
				cmd := exec.Command("go", "build", "-o", program, "-buildmode="+v.mode)
				cmd.Dir = "../gotab/testdata/program"
				cmd.Env = append(os.Environ(), "GOFLAGS=", "GOENV=off", "GOWORK=off", "CGO_ENABLED="+v.cgo)
				if toolchain != "" {
					cmd.Env = append(cmd.Env, "GOTOOLCHAIN="+toolchain)
				}
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %v\n%s", cmd, err, out)
				}
				compareGo(t, program)
			})
		}
	}
}

func compareGo(t *testing.T, program string) {
	f := open(t, program)
	table := Open(f, nil, nil)
	if table.goTable == nil {
		t.Fatal("no Go table")
	}
	dwarfOnly := Open(f, nil, nil)
	dwarfOnly.goTable = nil
	pcs := textOf(t, f, 20000)
	fromTable, fromDWARF := table.Frames(context.Background(), pcs), dwarfOnly.Frames(context.Background(), pcs)
	bad, inlined, c := 0, 0, 0
	for i := range pcs {
		if !table.goTable.Covers(pcs[i]) {
			if len(fromTable[i]) > 0 {
				c++
			}
			continue
		}
		if len(fromTable[i]) > 1 {
			inlined++
		}
		got, want := goText(fromTable[i]), goText(fromDWARF[i])
		if got != want && fromDWARF[i] != nil && fromTable[i][0].Line.Known() {
			if bad++; bad <= 5 {
				t.Logf("%#x = %s\n\tDWARF %s", pcs[i], got, want)
			}
		}
	}
	t.Logf("%d addresses, %d in inlined calls, %d of C, %d differ", len(pcs), inlined, c, bad)
	if inlined < 3000 || bad*100 > len(pcs) {
		t.Errorf("%d of %d differ; %d in inlined calls", bad, len(pcs), inlined)
	}
}

// goText leaves out what only one of the two says: the types of a generic function,
// and the calling convention.
func goText(frames []record.Frame) string {
	var b strings.Builder
	for _, f := range frames {
		name, _, _ := strings.Cut(strings.TrimSuffix(f.Function.Or("?"), ".abi0"), "[")
		fmt.Fprintf(&b, "%s %s:%d; ", name, filepath.Base(f.File.Or("?")), f.Line.Or(0))
	}
	return b.String()
}

func TestVDSO(t *testing.T) {
	maps := string(mustRead(t, "/proc/self/maps"))
	i := strings.Index(maps, "[vdso]")
	if i < 0 {
		t.Skip("this kernel maps no vDSO")
	}
	line := maps[strings.LastIndexByte(maps[:i], '\n')+1 : i]
	var from, to uint64
	if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	image := make([]byte, to-from)
	if _, err := mem.ReadAt(image, int64(from)); err != nil {
		t.Fatal(err)
	}
	f, err := elffile.New(image)
	if err != nil {
		t.Fatal(err)
	}
	want, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := want.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	s := Open(f, nil, nil)
	seen := false
	for _, symbol := range symbols {
		if strings.HasSuffix(symbol.Name, "clock_gettime") {
			seen = true
			got := s.Frames(context.Background(), []uint64{symbol.Value + symbol.Size/2})[0]
			if len(got) != 1 || !strings.HasSuffix(got[0].Function.Or(""), "clock_gettime") {
				t.Errorf("%s = %+v", symbol.Name, got)
			}
		}
	}
	if !seen {
		t.Errorf("no clock_gettime among %d symbols", len(symbols))
	}
}

// A file of 2 GB is no more work than a small one.
func TestHugeFile(t *testing.T) {
	program := compile(t, "gcc", "-O2", "-g", sources+"program.c")
	if err := os.Truncate(program, 2<<30); err != nil {
		t.Fatal(err)
	}
	f := open(t, program)
	pcs := textOf(t, f, 50)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := describeAll(Open(f, nil, nil), pcs)
	runtime.ReadMemStats(&after)
	if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "innermost program.c:") }) {
		t.Errorf("got %q", got)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

// A file that is truncated while it is read has no names, and does no harm.
func TestTruncatedWhileMapped(t *testing.T) {
	program := compile(t, "gcc", "-O2", "-g", sources+"program.c")
	f := open(t, program)
	pcs := textOf(t, f, 50)
	s := Open(f, nil, nil)
	if err := os.Truncate(program, 100); err != nil {
		t.Fatal(err)
	}
	for i, frames := range s.Frames(context.Background(), pcs) {
		if frames != nil {
			t.Errorf("%#x = %+v", pcs[i], frames)
		}
	}
}

// What claims to become large when uncompressed is refused or cut off.
func TestBombs(t *testing.T) {
	program := compile(t, "gcc", "-g", "-gz", sources+"program.c")
	f := open(t, program)
	s, _ := f.Section(".debug_info")
	for name, claim := range map[string]uint64{"more than there is": 1 << 62, "a little more": 60 << 20, "less": 5} {
		t.Run(name, func(t *testing.T) {
			data := mustRead(t, program)
			for i := range 8 {
				data[s.Offset+8+uint64(i)] = byte(claim >> (8 * i))
			}
			file, err := elffile.New(data)
			if err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			opened := Open(file, nil, nil)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 2<<20 || opened.dwarf != nil && claim > 5 {
				t.Errorf("%d bytes allocated, debug information %v", n, opened.dwarf != nil)
			}
		})
	}
}

func TestEndsWithContext(t *testing.T) {
	program := compile(t, "gcc", "-O2", "-g", sources+"program.c")
	f := open(t, program)
	pcs := textOf(t, f, 50)
	s := Open(f, nil, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Frames(ctx, pcs)
	if len(s.cache) > 0 {
		t.Error("what was not looked up is remembered as unknown")
	}
}
