package dwarf

import (
	"context"
	"testing"
	"time"
)

// FuzzLookup changes bytes all over a real program's sections and looks addresses up.
func FuzzLookup(f *testing.F) {
	var programs []Sections
	var pcs [][]uint64
	for _, args := range [][]string{{"gcc", "-O2", "-g"}, {"gcc", "-O2", "-gdwarf-4"}, {"clang", "-O2", "-g"}} {
		sections, file := load(f, compile(f, args[0], append(args[1:], "program.c")...))
		text := file.Section(".text")
		var list []uint64
		for pc := text.Addr; pc < text.Addr+text.Size; pc += 7 {
			list = append(list, pc)
		}
		programs, pcs = append(programs, sections), append(pcs, list)
	}
	f.Add(uint8(0), uint32(0), uint32(0), byte(0xff))
	f.Add(uint8(1), uint32(40), uint32(7), byte(0x80))
	f.Add(uint8(2), uint32(99), uint32(1013), byte(1))
	f.Fuzz(func(t *testing.T, which uint8, at, stride uint32, change byte) {
		i := int(which) % len(programs)
		s := programs[i]
		for n, section := range []*[]byte{&s.Info, &s.Abbrev, &s.Line, &s.LineStr, &s.Ranges, &s.RngLists, &s.Addr, &s.StrOffsets, &s.ARanges} {
			if len(*section) == 0 || which>>4&1 != 0 && n != int(which>>5) {
				continue
			}
			mutated := append([]byte(nil), *section...)
			for k := range uint32(4) {
				mutated[(at+k*stride)%uint32(len(mutated))] ^= change
			}
			*section = mutated
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		d := New(s, nil)
		d.alt = d
		err := d.Lookup(ctx, pcs[i], func(i int, frames []Frame) {
			if len(frames) > maxInlined {
				t.Errorf("%d frames", len(frames))
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// FuzzSections takes everything from the fuzzer.
func FuzzSections(f *testing.F) {
	sections, _ := load(f, compile(f, "gcc", "-O2", "-g", "program.c"))
	f.Add(sections.Info, sections.Abbrev, sections.Line)
	f.Fuzz(func(t *testing.T, info, abbrev, line []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s := Sections{Info: info, Abbrev: abbrev, Line: line, Str: info, LineStr: line, RngLists: line, Ranges: info, Addr: abbrev, StrOffsets: line, ARanges: info}
		if err := New(s, nil).Lookup(ctx, []uint64{1, 0x1100, 1 << 40}, func(int, []Frame) {}); err != nil {
			t.Error(err)
		}
	})
}
