package gotab

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"rmagent/internal/elffile"
)

// toolchainsEnv names more Go toolchains to test with, as GOTOOLCHAIN takes them,
// separated by commas.
const toolchainsEnv = "RMAGENT_GO_TOOLCHAINS"

// build compiles the test program and returns its path.
func build(t testing.TB, toolchain string, cgo bool, flags ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", append([]string{"build", "-o", program}, flags...)...)
	cmd.Dir = "testdata/program"
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if toolchain == "" { // binutils before 2.43 do not read the DWARF 5 of Go
		cmd.Env = append(cmd.Env, "GOEXPERIMENT=nodwarf5")
	}
	if cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	if toolchain != "" {
		cmd.Env = append(cmd.Env, "GOTOOLCHAIN="+toolchain)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return program
}

func open1(t testing.TB, path string) (*elffile.File, *Table) {
	t.Helper()
	osFile, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer osFile.Close()
	f, err := elffile.Open(osFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	table, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return f, table
}

// dumped is one line of the test program: what the runtime says of one address.
type dumped struct {
	pc    uint64
	frame Frame
}

func run(t *testing.T, program string, f *elffile.File) (list []dumped) {
	t.Helper()
	out, err := exec.Command(program).Output()
	if err != nil {
		t.Fatal(err)
	}
	var bias uint64
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		if word == "base" {
			base, err := strconv.ParseUint(rest, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range f.Segments() {
				if s.Type == elf.PT_LOAD {
					bias = base - s.Vaddr&^4095
					break
				}
			}
			continue
		}
		pc, err := strconv.ParseUint(word, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		function, place, _ := strings.Cut(rest, " ")
		colon := strings.LastIndexByte(place, ':')
		line, err := strconv.Atoi(place[colon+1:])
		if err != nil {
			t.Fatal(err)
		}
		if bias == 0 && f.Type == elf.ET_DYN {
			t.Fatal("the program did not say where it is")
		}
		list = append(list, dumped{pc - bias - 1, Frame{Function: function, File: place[:colon], Line: line}})
	}
	return list
}

// The runtime of the program itself is the truth: runtime.Callers gives an address
// for each inlined call, too (since Go 1.21), and says what is there.
func TestAgreesWithRuntime(t *testing.T) {
	for name, v := range map[string]struct {
		cgo   bool
		flags []string
	}{
		"plain":         {},
		"stripped":      {flags: []string{"-ldflags=-s -w"}},
		"trimpath":      {flags: []string{"-trimpath"}},
		"pie":           {flags: []string{"-buildmode=pie", "-ldflags=-s -w"}},
		"cgo":           {cgo: true, flags: []string{"-ldflags=-s -w"}},
		"cgo pie":       {cgo: true, flags: []string{"-buildmode=pie", "-ldflags=-s -w"}},
		"not inlined":   {flags: []string{"-gcflags=-l"}},
		"not optimized": {flags: []string{"-gcflags=-N -l"}},
	} {
		t.Run(name, func(t *testing.T) {
			program := build(t, "", v.cgo, v.flags...)
			f, table := open1(t, program)
			list := run(t, program, f)
			if len(list) < 40 {
				t.Fatalf("%d addresses", len(list))
			}
			inlined := 0
			for i, d := range list {
				got := table.Frames(nil, d.pc)
				if len(got) == 0 || got[0].Function != d.frame.Function || got[0].File != d.frame.File || got[0].Line != d.frame.Line {
					t.Errorf("%#x = %+v, want %+v", d.pc, got, d.frame)
					continue
				}
				if got[0].Inlined {
					inlined++
					if next := list[i+1].frame; got[1].Function != next.Function || got[1].File != next.File || got[1].Line != next.Line {
						t.Errorf("%#x = %+v, want second %+v", d.pc, got, next)
					}
				}
				if len(got) > 1 != got[0].Inlined || got[len(got)-1].Inlined {
					t.Errorf("%#x = %+v", d.pc, got)
				}
			}
			if want := !strings.HasPrefix(name, "not "); inlined > 0 != want {
				t.Errorf("%d inlined calls", inlined)
			}
		})
	}
}

// DWARF, which the compiler writes apart from the table, is the truth for every
// instruction of package main and some of the runtime, with each toolchain.
func TestAgreesWithDWARF(t *testing.T) {
	toolchains := []string{""}
	if more := os.Getenv(toolchainsEnv); more != "" {
		toolchains = append(toolchains, strings.Split(more, ",")...)
	}
	for _, toolchain := range toolchains {
		for _, v := range []struct {
			name  string
			cgo   bool
			flags []string
		}{
			{"plain", false, nil},
			{"pie", false, []string{"-buildmode=pie"}},
			{"cgo pie", true, []string{"-buildmode=pie"}},
		} {
			t.Run(strings.TrimSpace(toolchain+" "+v.name), func(t *testing.T) {
				if v.name == "cgo pie" && (toolchain == "go1.16.15" || strings.HasPrefix(toolchain, "go1.17.")) {
					t.Skip("before Go 1.18 the loader relocates the table, and the file does not have it")
				}
				program := build(t, toolchain, v.cgo, v.flags...)
				compareWithDWARF(t, program)
			})
		}
	}
}

func compareWithDWARF(t *testing.T, program string) {
	_, table := open1(t, program)
	var pcs []uint64
	for i := range table.count {
		f, ok := table.function(i)
		if !ok {
			t.Fatalf("function %d can't be read", i)
		}
		if name := f.Name(); strings.HasPrefix(name, "main.") || strings.HasPrefix(name, "sort.") || strings.HasPrefix(name, "runtime.m") || strings.HasPrefix(name, "os.") {
			for pc := f.Entry; pc < f.End && pc < f.Entry+400; pc += 3 {
				pcs = append(pcs, pc)
			}
		}
	}
	if len(pcs) < 10000 {
		t.Fatalf("%d addresses", len(pcs))
	}
	truth := addr2line(t, program, pcs)
	bad, inlined := 0, 0
	for i, pc := range pcs {
		got := table.Frames(nil, pc)
		if len(got) > 1 {
			inlined++
		}
		if text := describe(got); text != truth[i] && got[0].Line != 0 {
			if bad++; bad <= 10 {
				t.Logf("%#x = %s\n\t want %s", pc, text, truth[i])
			}
		}
	}
	t.Logf("%d addresses, %d in inlined calls, %d differ", len(pcs), inlined, bad)
	if inlined < 1000 || bad*200 > len(pcs) {
		t.Errorf("%d of %d differ; %d in inlined calls", bad, len(pcs), inlined)
	}
}

func describe(frames []Frame) string {
	var b strings.Builder
	for i, f := range frames {
		name := strings.TrimSuffix(f.Function, ".abi0")
		if i < len(frames)-1 {
			name = "" // addr2line does not find names in other compile units
		}
		if i := strings.IndexByte(name, '['); i >= 0 { // a generic function's types
			name = name[:i]
		}
		fmt.Fprintf(&b, "%s %s:%d; ", name, filepath.Base(f.File), f.Line)
	}
	return b.String()
}

// addr2line asks binutils for every address at once.
func addr2line(t *testing.T, program string, pcs []uint64) []string {
	t.Helper()
	var in bytes.Buffer
	for _, pc := range pcs {
		fmt.Fprintf(&in, "%#x\n", pc)
	}
	cmd := exec.Command("addr2line", "-a", "-f", "-i", "-e", program)
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	var frames []Frame
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i := 0; i < len(lines); {
		if strings.HasPrefix(lines[i], "0x") {
			if i > 0 {
				all = append(all, describe(frames))
			}
			frames = frames[:0]
			i++
			continue
		}
		place, _, _ := strings.Cut(lines[i+1], " ") // "(discriminator 1)"
		colon := strings.LastIndexByte(place, ':')
		line, _ := strconv.Atoi(place[colon+1:])
		frames = append(frames, Frame{Function: lines[i], File: place[:colon], Line: line})
		i += 2
	}
	return append(all, describe(frames))
}

func TestNotGo(t *testing.T) {
	source, program := filepath.Join(t.TempDir(), "p.c"), filepath.Join(t.TempDir(), "p")
	if err := os.WriteFile(source, []byte("int main(void) { return 0; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	osFile, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer osFile.Close()
	f, err := elffile.Open(osFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Open(f); !errors.Is(err, ErrNotGo) {
		t.Errorf("error = %v", err)
	}
}
