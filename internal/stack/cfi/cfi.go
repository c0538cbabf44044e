// Package cfi reads the call frame information that compilers leave in .eh_frame:
// for an instruction, where the frame began and where the caller's registers are.
//
// Nothing is parsed ahead of a look-up but where a file lacks .eh_frame_hdr, the
// sorted table of its functions (gcc -static); its beginnings are then collected
// once. The bytes are foreign: every read is checked, nothing is allocated by what
// the file claims, and what can't be read is not covered. Call within elffile.Guard.
//
// The format is in the Linux Standard Base, "Exception Frames", and DWARF 5, 6.4.
package cfi

import (
	"debug/elf"
	"encoding/binary"
	"slices"
	"sort"

	"rmagent/internal/elffile"
)

const (
	maxEntry    = 1 << 20 // bytes of one function's record
	maxIndex    = 1 << 20 // functions collected where there is no table
	maxRemember = 4       // states remembered within each other
)

// Table is the call frame information of one file. Its methods may be called from
// several goroutines at once, for as long as the file is mapped.
type Table struct {
	file *elffile.File
	arch Arch

	sorted []byte // pairs of int32: function, record; both from base
	base   uint64

	index []function // where there is no sorted table, by begin
}

type function struct {
	begin  uint64
	record uint64 // address of its FDE
}

// Open finds the call frame information of a file; false where it has none that can
// be read. The file stays the caller's and must outlive the Table.
func Open(f *elffile.File) (*Table, bool) {
	t := &Table{file: f, arch: archOf(f.Machine)}
	if t.useHeader() {
		return t, true
	}
	if s, ok := f.Section(".eh_frame"); ok && s.Vaddr != 0 && !s.Compressed {
		t.collect(s.Vaddr, s.Data)
	}
	return t, len(t.index) > 0
}

// useHeader finds .eh_frame_hdr in the encoding that all linkers write: relative to
// itself, four bytes each.
func (t *Table) useHeader() bool {
	for _, s := range t.file.Segments() {
		if s.Type != elf.PT_GNU_EH_FRAME {
			continue
		}
		const version, size = 1, 12
		h, ok := t.file.AtVaddr(s.Vaddr)
		if !ok || len(h) < size || h[0] != version || h[2] != encUdata4 || h[3] != encDataRel|encSdata4 {
			return false
		}
		switch h[1] & 0x0f { // how .eh_frame's own address is written
		case encUdata4, encSdata4:
		default:
			return false
		}
		n := uint64(binary.LittleEndian.Uint32(h[8:])) * 8
		if n == 0 || n > uint64(len(h)-size) {
			return false
		}
		t.base, t.sorted = s.Vaddr, h[size:size+n]
		return true
	}
	return false
}

// collect walks all of .eh_frame once.
func (t *Table) collect(vaddr uint64, data []byte) {
	for at := 0; at+8 <= len(data) && len(t.index) < maxIndex; {
		n := int(binary.LittleEndian.Uint32(data[at:]))
		if n == 0 { // a terminator; an object file that was linked later may follow
			at += 4
			continue
		}
		if n < 4 || n > maxEntry || n > len(data)-at-4 {
			break
		}
		if binary.LittleEndian.Uint32(data[at+4:]) != 0 {
			if e, ok := t.entry(vaddr + uint64(at)); ok && e.begin != 0 {
				t.index = append(t.index, function{e.begin, vaddr + uint64(at)})
			}
		}
		at += 4 + n
	}
	slices.SortFunc(t.index, func(a, b function) int {
		switch {
		case a.begin < b.begin:
			return -1
		case a.begin > b.begin:
			return 1
		}
		return 0
	})
}

// find returns the address of the record that may cover an instruction.
func (t *Table) find(pc uint64) (uint64, bool) {
	if t.sorted == nil {
		i := sort.Search(len(t.index), func(i int) bool { return t.index[i].begin > pc })
		if i == 0 {
			return 0, false
		}
		return t.index[i-1].record, true
	}
	distance := int64(pc - t.base)
	if distance != int64(int32(distance)) {
		return 0, false
	}
	key, lo, hi := int32(distance), 0, len(t.sorted)/8
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if int32(binary.LittleEndian.Uint32(t.sorted[8*mid:])) <= key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return 0, false
	}
	return t.base + uint64(int64(int32(binary.LittleEndian.Uint32(t.sorted[8*lo-4:])))), true
}

// entry is a function's record (FDE) with what it shares with others (CIE).
type entry struct {
	begin, end uint64
	shared     common
	program    reader // the function's own instructions
}

type common struct {
	codeAlign uint64
	dataAlign int64
	pointers  byte // how addresses are written
	augmented bool
	signal    bool
	program   reader
}

func (t *Table) entry(vaddr uint64) (entry, bool) {
	var e entry
	body, ok := t.body(vaddr)
	if !ok {
		return e, false
	}
	back := uint64(binary.LittleEndian.Uint32(body.b))
	if back == 0 { // a CIE
		return e, false
	}
	body.at = 4
	if e.shared, ok = t.common(vaddr + 4 - back); !ok {
		return e, false
	}
	e.begin = body.address(e.shared.pointers, vaddr+8)
	e.end = e.begin + body.address(e.shared.pointers&0x0f, 0)
	if e.shared.augmented {
		body.skip(body.uleb())
	}
	e.program = body
	return e, !body.bad && e.end > e.begin
}

func (t *Table) common(vaddr uint64) (common, bool) {
	var c common
	r, ok := t.body(vaddr)
	if !ok || r.u32() != 0 {
		return c, false
	}
	if version := r.u8(); version != 1 && version != 3 {
		return c, false
	}
	augmentation := r.text()
	c.codeAlign, c.dataAlign = r.uleb(), r.sleb()
	r.uleb() // the return address's register: that of the architecture
	if len(augmentation) > 0 {
		if augmentation[0] != 'z' {
			return c, false
		}
		c.augmented = true
		data := reader{b: r.block(r.uleb())}
		for _, a := range augmentation[1:] {
			switch a {
			case 'R':
				c.pointers = data.u8()
			case 'L':
				data.u8()
			case 'P':
				data.address(data.u8()&0x0f, 0)
			case 'S':
				c.signal = true
			case 'B': // arm64: return addresses are signed with key B
			default:
				return c, false
			}
		}
		if data.bad {
			return c, false
		}
	}
	c.program = r
	return c, !r.bad
}

// body returns what follows the length of a record.
func (t *Table) body(vaddr uint64) (reader, bool) {
	b, ok := t.file.AtVaddr(vaddr)
	if !ok || len(b) < 8 {
		return reader{}, false
	}
	n := binary.LittleEndian.Uint32(b)
	if n < 4 || n > maxEntry || uint64(n) > uint64(len(b)-4) {
		return reader{}, false
	}
	return reader{b: b[4 : 4+n], vaddr: vaddr + 4}, true
}
