package elffile

import (
	"debug/elf"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t testing.TB, path string) *File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file, err := Open(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	return file
}

// compile builds a C program and returns its path.
func compile(t testing.TB, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	source, program := filepath.Join(dir, "p.c"), filepath.Join(dir, "p")
	if err := os.WriteFile(source, []byte("int main(void) { return 0; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("gcc", append([]string{"-o", program, source}, flags...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return program
}

// The standard library's reader is the truth: it parses everything at once.
func TestAgreesWithDebugELF(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	stripped := compile(t)
	if out, err := exec.Command("strip", stripped).CombinedOutput(); err != nil {
		t.Fatalf("strip: %v\n%s", err, out)
	}
	for name, path := range map[string]string{
		"go": own, "pie": compile(t), "static": compile(t, "-static"), "compressed": compile(t, "-g", "-gz"),
		"stripped": stripped, "object": compile(t, "-c"), "shared": compile(t, "-shared", "-fPIC"),
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, path)
			want, err := elf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()
			if f.Machine != want.Machine || f.Type != want.Type || f.Entry != want.Entry {
				t.Errorf("header = %v %v %#x, want %v %v %#x", f.Machine, f.Type, f.Entry, want.Machine, want.Type, want.Entry)
			}
			compareSections(t, f, want)
			compareSegments(t, f, want)
		})
	}
}

func compareSections(t *testing.T, f *File, want *elf.File) {
	if f.NumSections() != len(want.Sections) {
		t.Fatalf("%d sections, want %d", f.NumSections(), len(want.Sections))
	}
	for i, w := range want.Sections {
		s, ok := f.SectionAt(i)
		if !ok || f.SectionName(i) != w.Name || s.Type != w.Type || s.Flags != w.Flags || s.Vaddr != w.Addr ||
			s.Offset != w.Offset || s.Link != w.Link || s.Info != w.Info || s.Entry != w.Entsize {
			t.Errorf("section %d = %+v %v, want %+v", i, s, ok, w.SectionHeader)
		}
		if s.Compressed != (w.Flags&elf.SHF_COMPRESSED != 0) {
			t.Errorf("section %s: compressed = %v", w.Name, s.Compressed)
		}
		if w.Type != elf.SHT_NOBITS && w.Type != elf.SHT_NULL && uint64(len(s.Data)) != w.FileSize {
			t.Errorf("section %s has %d bytes, want %d", w.Name, len(s.Data), w.FileSize)
		}
		if w.Name == "" {
			continue
		}
		if byName, ok := f.Section(w.Name); !ok || (byName.Offset != w.Offset && want.Section(w.Name) == w) {
			t.Errorf("section %s by name = %v %v", w.Name, byName.Offset, ok)
		}
	}
	if _, ok := f.Section(".tex"); ok {
		t.Error("the beginning of a name finds a section")
	}
}

func compareSegments(t *testing.T, f *File, want *elf.File) {
	if len(f.Segments()) != len(want.Progs) {
		t.Fatalf("%d segments, want %d", len(f.Segments()), len(want.Progs))
	}
	for i, w := range want.Progs {
		s := f.Segments()[i]
		if s.Type != w.Type || s.Flags != w.Flags || s.Offset != w.Off || s.Vaddr != w.Vaddr || s.FileSize != w.Filesz || s.MemSize != w.Memsz {
			t.Errorf("segment %d = %+v, want %+v", i, s, w.ProgHeader)
		}
		if w.Type != elf.PT_LOAD || w.Filesz == 0 {
			continue
		}
		last := w.Filesz - 1
		if off, ok := f.Offset(w.Vaddr + last); !ok || off != w.Off+last {
			t.Errorf("offset of %#x = %#x %v, want %#x", w.Vaddr+last, off, ok, w.Off+last)
		}
		if rest, ok := f.AtVaddr(w.Vaddr + last); !ok || len(rest) != 1 {
			t.Errorf("at %#x: %d bytes %v, want 1", w.Vaddr+last, len(rest), ok)
		}
		if va, ok := f.Vaddr(w.Off+last, w.Flags, 4096); !ok || va != w.Vaddr+last {
			t.Errorf("address of %#x = %#x %v, want %#x", w.Off+last, va, ok, w.Vaddr+last)
		}
		if va, ok := f.Vaddr(w.Off&^4095, w.Flags, 4096); !ok || va != w.Vaddr&^4095 {
			t.Errorf("address of page %#x = %#x %v, want %#x", w.Off&^4095, va, ok, w.Vaddr&^4095)
		}
	}
}

func TestBuildID(t *testing.T) {
	path := compile(t, "-Wl,--build-id")
	out, err := exec.Command("readelf", "-n", path).CombinedOutput()
	if err != nil {
		t.Fatalf("readelf: %v\n%s", err, out)
	}
	want := regexp.MustCompile(`Build ID: ([0-9a-f]+)`).FindSubmatch(out)
	if got := open(t, path).BuildID(); want == nil || got != string(want[1]) {
		t.Errorf("build id = %q, readelf says %q", got, want)
	}
	debug := path + ".debug"
	if out, err := exec.Command("objcopy", "--only-keep-debug", path, debug).CombinedOutput(); err != nil {
		t.Fatalf("objcopy: %v\n%s", err, out)
	}
	if got := open(t, debug).BuildID(); got != string(want[1]) {
		t.Errorf("build id of the debug file = %q, want %q", got, want[1])
	}
	if got := open(t, compile(t, "-Wl,--build-id=none")).BuildID(); got != "" {
		t.Errorf("build id = %q where there is none", got)
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	huge := write("huge", "\x7fELF")
	if err := os.Truncate(huge, MaxSize+1); err != nil {
		t.Fatal(err)
	}
	header32 := "\x7fELF\x01\x01" + strings.Repeat("\x00", 58)
	for path, want := range map[string]string{
		fifo: "not a regular file", dir: "not a regular file", "/dev/null": "not a regular file",
		write("empty", ""): "not a 64-bit", write("text", strings.Repeat("hello ", 99)): "not a 64-bit",
		write("32", header32): "not a 64-bit", huge: "more than",
	} {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := Open(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error = %v, want %q", path, err, want)
		}
	}
}

// A sparse file of 2 GB is opened and searched without reading it.
func TestHugeFileCostsNothing(t *testing.T) {
	path := compile(t)
	if err := os.Truncate(path, 2<<30); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f := open(t, path)
	if _, ok := f.Section(".text"); !ok || f.Size() != 2<<30 {
		t.Errorf("no .text, or size %d", f.Size())
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

func TestTruncatedWhileMapped(t *testing.T) {
	path := compile(t, "-static")
	f := open(t, path)
	text, ok := f.Section(".text")
	if !ok {
		t.Fatal("no .text")
	}
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	var sum int
	err := Guard(func() error {
		for _, b := range text.Data {
			sum += int(b)
		}
		return nil
	})
	var fault runtime.Error
	if !errors.As(err, &fault) {
		t.Errorf("error = %v, want a run-time error", err)
	}
}

func TestGuardLetsOthersThrough(t *testing.T) {
	want := errors.New("an error")
	if err := Guard(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("error = %v", err)
	}
	defer func() {
		if r := recover(); r != "mine" {
			t.Errorf("recovered %v", r)
		}
	}()
	_ = Guard(func() error { panic("mine") })
}

func FuzzNew(f *testing.F) {
	for _, flags := range [][]string{{}, {"-static"}, {"-c"}} {
		data, err := os.ReadFile(compile(f, flags...))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[:min(len(data), 20000)])
	}
	f.Add([]byte("\x7fELF\x02\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := New(data)
		if err != nil {
			return
		}
		if _, err := hex.DecodeString(file.BuildID()); err != nil {
			t.Error(err)
		}
		for i := range file.NumSections() {
			s, ok := file.SectionAt(i)
			if !ok || len(s.Data) > len(data) {
				t.Errorf("section %d: %v, %d bytes", i, ok, len(s.Data))
			}
			if name := file.SectionName(i); name != "" {
				if _, ok := file.Section(name); !ok {
					t.Errorf("section %q is not found by its name", name)
				}
			}
		}
		for _, s := range file.Segments() {
			for _, va := range []uint64{s.Vaddr, s.Vaddr + s.FileSize - 1, s.Vaddr + s.MemSize} {
				off, ok := file.Offset(va)
				rest, ok2 := file.AtVaddr(va)
				if ok != ok2 || (ok && (off >= file.Size() || len(rest) == 0)) {
					t.Errorf("address %#x: offset %#x %v, %d bytes %v", va, off, ok, len(rest), ok2)
				}
			}
			file.Vaddr(s.Offset, s.Flags, 4096)
		}
	})
}
