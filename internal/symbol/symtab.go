package symbol

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"encoding/binary"
	"slices"

	"rmagent/internal/elffile"
)

// symbolQuery is an address whose function is looked for, and the best found so far.
type symbolQuery struct {
	vaddr uint64
	index int // of the answer

	name []byte
	size uint64
	rank int
}

// symbolTable is the entries of a symbol table and their names, in the mapped file.
type symbolTable struct{ entries, names []byte }

const symbolSize = 24 // of Elf64_Sym

// symbolTables returns the tables to look in, best first.
func (s *File) symbolTables() []symbolTable {
	var tables []symbolTable
	_ = elffile.Guard(func() error {
		add := func(f *elffile.File, kind elf.SectionType) {
			if t, ok := tableOf(f, kind); ok {
				tables = append(tables, t)
			}
		}
		add(s.elf, elf.SHT_SYMTAB)
		if s.debug != nil {
			add(s.debug, elf.SHT_SYMTAB)
		}
		if len(tables) == 0 {
			if mini := s.miniDebug(); mini != nil {
				add(mini, elf.SHT_SYMTAB)
			}
		}
		add(s.elf, elf.SHT_DYNSYM)
		return nil
	})
	return tables
}

func tableOf(f *elffile.File, kind elf.SectionType) (symbolTable, bool) {
	for i := range f.NumSections() {
		s, ok := f.SectionAt(i)
		if !ok || s.Type != kind || s.Compressed || len(s.Data) < symbolSize {
			continue
		}
		names, ok := f.SectionAt(int(s.Link))
		return symbolTable{s.Data, names.Data}, ok && !names.Compressed
	}
	return symbolTable{}, false
}

// lookup goes once over the table for all addresses, which are sorted and keep what
// they have from a table before.
func (t symbolTable) lookup(ctx context.Context, want []symbolQuery) error {
	done := make([]bool, len(want))
	for i := range want {
		done[i] = want[i].name != nil
	}
	lowest, highest := want[0].vaddr, want[len(want)-1].vaddr
	le := binary.LittleEndian
	entries := t.entries
	for n := 0; len(entries) >= symbolSize; n, entries = n+1, entries[symbolSize:] {
		if n&0xffff == 0xffff && ctx.Err() != nil {
			return ctx.Err()
		}
		value, size := le.Uint64(entries[8:]), le.Uint64(entries[16:])
		if value > highest || value+size <= lowest || size == 0 || value+size < value {
			continue
		}
		rank, ok := symbolRank(entries)
		if !ok {
			continue
		}
		i, _ := slices.BinarySearchFunc(want, value, func(q symbolQuery, v uint64) int { return cmp.Compare(q.vaddr, v) })
		for ; i < len(want) && want[i].vaddr-value < size; i++ {
			if q := &want[i]; !done[i] {
				q.offer(t.name(le.Uint32(entries)), size, rank)
			}
		}
	}
	return nil
}

// symbolRank says how good a symbol is as a function's name, less being better;
// false where it names no code.
func symbolRank(entry []byte) (int, bool) {
	if section := elf.SectionIndex(binary.LittleEndian.Uint16(entry[6:])); section == elf.SHN_UNDEF {
		return 0, false
	}
	rank := 0
	switch elf.ST_TYPE(entry[4]) {
	case elf.STT_FUNC, elf.STT_GNU_IFUNC:
	case elf.STT_NOTYPE:
		rank = 4
	default:
		return 0, false
	}
	switch elf.ST_BIND(entry[4]) {
	case elf.STB_GLOBAL:
	case elf.STB_WEAK:
		rank++
	default:
		rank += 2
	}
	return rank, true
}

func (t symbolTable) name(at uint32) []byte {
	if uint64(at) >= uint64(len(t.names)) {
		return nil
	}
	name := t.names[at:]
	name = name[:min(len(name), maxMangled)]
	if end := bytes.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	return name
}

// offer keeps the better of two symbols that cover the address: the one of the
// smaller function; of a function's several names the one that people write, which
// has fewer underscores at its beginning.
func (q *symbolQuery) offer(name []byte, size uint64, rank int) {
	if len(name) == 0 {
		return
	}
	if q.name != nil {
		better := cmp.Or(cmp.Compare(size, q.size), cmp.Compare(rank, q.rank),
			cmp.Compare(underscores(name), underscores(q.name)), cmp.Compare(len(name), len(q.name)), bytes.Compare(name, q.name))
		if better >= 0 {
			return
		}
	}
	q.name, q.size, q.rank = name, size, rank
}

func underscores(name []byte) int { return len(name) - len(bytes.TrimLeft(name, "_")) }

// Addresses looks symbols up by their names in the dynamic symbols, or else in the
// others, and returns how many it found.
func Addresses(f *elffile.File, names map[string]*uint64) (found int) {
	_ = elffile.Guard(func() error {
		for _, kind := range []elf.SectionType{elf.SHT_DYNSYM, elf.SHT_SYMTAB} {
			t, ok := tableOf(f, kind)
			if !ok {
				continue
			}
			le := binary.LittleEndian
			for e := t.entries; len(e) >= symbolSize && found < len(names); e = e[symbolSize:] {
				to := names[string(t.name(le.Uint32(e)))]
				if to != nil && *to == 0 && elf.SectionIndex(le.Uint16(e[6:])) != elf.SHN_UNDEF {
					*to = le.Uint64(e[8:])
					found++
				}
			}
		}
		return nil
	})
	return found
}
