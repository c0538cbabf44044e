package gotab

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"rmagent/internal/elffile"
)

// build compiles the test program and returns its path.
func build(t testing.TB, cgo bool, flags ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", append([]string{"build", "-o", program}, flags...)...)
	cmd.Dir = "testdata/program"
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return program
}

func openTable(t testing.TB, path string) (*elffile.File, *Table) {
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
			program := build(t, v.cgo, v.flags...)
			f, table := openTable(t, program)
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
