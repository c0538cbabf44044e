package dwarf

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// compile builds a program of testdata and returns its path.
func compile(t testing.TB, compiler string, args ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command(compiler, append(args, "-o", program)...)
	cmd.Dir = "testdata"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return program
}

func load(t testing.TB, program string) (Sections, *elf.File) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	section := func(name string) []byte {
		s := f.Section(name)
		if s == nil {
			return nil
		}
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	return Sections{
		Info: section(".debug_info"), Abbrev: section(".debug_abbrev"), Line: section(".debug_line"),
		Str: section(".debug_str"), LineStr: section(".debug_line_str"), Ranges: section(".debug_ranges"),
		RngLists: section(".debug_rnglists"), Addr: section(".debug_addr"), StrOffsets: section(".debug_str_offsets"),
		ARanges: section(".debug_aranges"),
	}, f
}

// LLVM is the truth for every third address of the program's text. (binutils up to
// 2.40 loses names in other units and calls inlined by clang.)
func TestAgreesWithLLVM(t *testing.T) {
	const c, cc, rs = "program.c", "program.cc", "program.rs"
	for _, v := range []struct {
		compiler string
		args     []string
		inlined  int // at least so many addresses in inlined calls
	}{
		{"gcc", []string{"-O2", "-g", c}, 70},
		{"gcc", []string{"-O0", "-g", c}, 20},
		{"gcc", []string{"-O2", "-gdwarf-2", c}, 70},
		{"gcc", []string{"-O2", "-gdwarf-3", c}, 70},
		{"gcc", []string{"-O2", "-gdwarf-4", c}, 70},
		{"gcc", []string{"-O2", "-g", "-gdwarf64", c}, 70},
		{"gcc", []string{"-O2", "-g", "-flto", c}, 70},
		{"gcc", []string{"-O2", "-g", "-gz", "-no-pie", "-ffunction-sections", "-Wl,--gc-sections", c}, 70},
		{"g++", []string{"-O2", "-g", cc}, 1400},
		{"g++", []string{"-O1", "-gdwarf-4", cc}, 1400},
		{"clang", []string{"-O2", "-g", c}, 70},
		{"clang", []string{"-O2", "-gdwarf-4", c}, 70},
		{"clang", []string{"-O1", "-gline-tables-only", c}, 70},
		{"rustc", []string{"-O", "-g", rs}, 200},
		{"rustc", []string{"-C", "debuginfo=1", "-C", "opt-level=1", rs}, 200},
	} {
		t.Run(v.compiler+" "+strings.Join(v.args, " "), func(t *testing.T) {
			program := compile(t, v.compiler, v.args...)
			sections, f := load(t, program)
			text := f.Section(".text")
			step := max(3, text.Size/20000)
			var pcs []uint64
			for pc := text.Addr; pc < text.Addr+text.Size; pc += step {
				pcs = append(pcs, pc)
			}
			got := make([][]Frame, len(pcs))
			inlined := 0
			err := New(sections, nil).Lookup(context.Background(), pcs, func(i int, frames []Frame) {
				got[i] = frames
				if len(frames) > 1 {
					inlined++
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			bad := 0
			for i, want := range symbolizer(t, program, pcs) {
				if !agree(got[i], want) {
					if bad++; bad <= 5 {
						t.Logf("%#x = %+v\n\twant %+v", pcs[i], got[i], want)
					}
				}
			}
			t.Logf("%d addresses, %d in inlined calls, %d differ", len(pcs), inlined, bad)
			// Of functions that are equal the linker may keep one, under either's name.
			if bad > 0 && (v.compiler != "rustc" || bad*100 > len(pcs)) {
				t.Errorf("%d differ", bad)
			}
			if inlined < v.inlined {
				t.Errorf("%d of %d are in inlined calls, want %d or more", inlined, len(pcs), v.inlined)
			}
		})
	}
}

// agree says whether two say the same. The other takes the outermost function's name
// from the symbol table, where clones have a suffix.
func agree(got, want []Frame) bool {
	if len(got) == 0 {
		return !path.IsAbs(want[0].File)
	}
	if len(got) != len(want) {
		return false
	}
	for i, g := range got {
		w := want[i]
		outermost := i == len(got)-1
		base, _, _ := strings.Cut(w.Function, ".")
		sameName := g.Function == w.Function || (outermost && (!g.Mangled || strings.HasPrefix(g.Function, base)))
		samePlace := g.Line == w.Line && (g.File == path.Clean(w.File) || w.Line == 0)
		if !sameName || !samePlace || g.Inlined == outermost {
			return false
		}
	}
	return true
}

// symbolizer asks LLVM for every address at once.
func symbolizer(t testing.TB, program string, pcs []uint64) (all [][]Frame) {
	t.Helper()
	var in bytes.Buffer
	for _, pc := range pcs {
		fmt.Fprintf(&in, "%#x\n", pc)
	}
	cmd := exec.Command("llvm-symbolizer", "--obj="+program, "--output-style=GNU", "--functions=linkage", "--no-demangle", "--inlining", "--addresses")
	cmd.Stdin, cmd.Stderr = &in, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i := 0; i+1 < len(lines); {
		if strings.HasPrefix(lines[i], "0x") {
			all = append(all, nil)
			i++
			continue
		}
		place, _, _ := strings.Cut(lines[i+1], " (discriminator")
		colon := strings.LastIndexByte(place, ':')
		line, _ := strconv.ParseUint(place[colon+1:], 10, 64)
		frame := Frame{Function: strings.TrimPrefix(lines[i], "??"), File: place[:colon], Line: line}
		all[len(all)-1] = append(all[len(all)-1], frame)
		i += 2
	}
	if len(all) != len(pcs) {
		t.Fatalf("%d answers of %d", len(all), len(pcs))
	}
	return all
}
