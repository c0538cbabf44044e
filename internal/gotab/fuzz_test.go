package gotab

import (
	"debug/elf"
	"os"
	"testing"

	"rmagent/internal/elffile"
)

// FuzzFrames changes bytes of a real program's tables and looks its functions up.
func FuzzFrames(f *testing.F) {
	program := build(f, false, "-ldflags=-s -w")
	data, err := os.ReadFile(program)
	if err != nil {
		f.Fatal(err)
	}
	clean, table := openTable(f, program)
	section, _ := clean.Section(".gopclntab")
	pcs := []uint64{table.text, table.end - 1}
	for i := 0; i < table.count; i += table.count / 50 {
		entry, _ := table.function(i)
		pcs = append(pcs, entry.Entry, entry.Entry+20, entry.End-1)
	}
	f.Add(uint32(0), uint64(0))
	f.Add(uint32(8), ^uint64(0))
	f.Add(uint32(32), uint64(1)<<40)
	f.Add(uint32(len(section.Data)/2), uint64(0x8080808080808080))
	f.Fuzz(func(t *testing.T, at uint32, word uint64) {
		mutated := append([]byte(nil), data...)
		for i := range 64 { // the header, and places all over the table
			offset := uint64(at)
			if i > 0 {
				offset = (offset + uint64(i)*2654435761) % uint64(len(section.Data))
			}
			if offset < uint64(len(section.Data)) {
				mutated[section.Offset+offset] ^= byte(word >> (8 * (i % 8)))
			}
		}
		file, err := elffile.New(mutated)
		if err != nil {
			t.Fatal(err)
		}
		table, err := Open(file)
		if err != nil {
			return
		}
		var frames []Frame
		for _, pc := range pcs {
			if frames = table.Frames(frames[:0], pc); len(frames) > maxInlined+1 {
				t.Errorf("%d frames at %#x", len(frames), pc)
			}
			if f, ok := table.Func(pc); ok {
				f.SPDelta(pc)
				f.TopFrame()
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	_, table := openTable(f, build(f, false))
	section, _ := table.file.Section(".gopclntab")
	f.Add(section.Data[:4096])
	f.Fuzz(func(t *testing.T, table []byte) {
		header := make([]byte, 64)
		copy(header, elf.ELFMAG+"\x02\x01")
		header[18] = byte(elf.EM_X86_64)
		file, err := elffile.New(header)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := open(file, 0x1000, table); err == nil {
			for pc := got.text; pc < min(got.end, got.text+1000); pc += 16 {
				got.Frames(nil, pc)
			}
		}
	})
}

func BenchmarkFrames(b *testing.B) {
	_, table := openTable(b, build(b, false))
	var pcs []uint64
	for i := 0; i < table.count; i += 7 {
		f, _ := table.function(i)
		pcs = append(pcs, f.Entry+(f.End-f.Entry)/2)
	}
	var frames []Frame
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		frames = table.Frames(frames[:0], pcs[i%len(pcs)])
	}
}
