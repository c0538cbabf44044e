package gotab

import (
	"debug/elf"
	"encoding/binary"
)

// inlinedCall is one entry of a function's inline tree (runtime.inlinedCall).
type inlinedCall struct {
	name     string
	first    bool   // the name is the first of all, as it would be of an empty entry
	parentPC uint32 // an instruction at the call's place, from the function's entry
}

// inlineIndex returns the entry of the function's inline tree that an instruction
// belongs to; false where it was not inlined.
func (f *Func) inlineIndex(pc uint64) (uint32, bool) {
	if f.field(f.fields.numPCData) <= pcdataInlineTree {
		return 0, false
	}
	at := int(f.fields.size) + 4*pcdataInlineTree
	if at+4 > len(f.record) {
		return 0, false
	}
	index, ok := f.value(f.field(uint32(at)), pc)
	return uint32(index), ok && index >= 0
}

// inlineTree returns the address of the function's inline tree; false where it has none.
func (f *Func) inlineTree() (uint64, bool) {
	if f.record[f.fields.numFuncData] <= funcdataInlineTree {
		return 0, false
	}
	at := uint64(f.fields.size) + 4*uint64(f.field(f.fields.numPCData))
	le := binary.LittleEndian
	if f.table.magic == magic116 {
		at = (at+7)&^7 + 8*funcdataInlineTree
		if at+8 > uint64(len(f.record)) {
			return 0, false
		}
		addr := le.Uint64(f.record[at:])
		return addr, addr != 0
	}
	at += 4 * funcdataInlineTree
	if at+4 > uint64(len(f.record)) || f.table.inlines == 0 {
		return 0, false
	}
	offset := le.Uint32(f.record[at:])
	return f.table.inlines + uint64(offset), offset != ^uint32(0)
}

func (f *Func) inlinedCall(index uint32) (inlinedCall, bool) {
	tree, ok := f.inlineTree()
	if !ok {
		return inlinedCall{}, false
	}
	size, name, parent := uint64(16), 4, 8
	if f.table.magic != magic120 {
		size, name, parent = 20, 12, 16
	}
	entry, ok := f.table.file.AtVaddr(tree + uint64(index)*size)
	if !ok || uint64(len(entry)) < size {
		return inlinedCall{}, false
	}
	le := binary.LittleEndian
	nameAt := uint64(le.Uint32(entry[name:]))
	call := inlinedCall{parentPC: le.Uint32(entry[parent:])}
	// A name begins after another one's end: what does not was no inline tree.
	if nameAt >= uint64(len(f.table.names)) || (nameAt > 0 && f.table.names[nameAt-1] != 0) ||
		uint64(call.parentPC) >= f.End-f.Entry {
		return inlinedCall{}, false
	}
	call.first, call.name = nameAt == 0, f.table.name(nameAt)
	return call, call.name != ""
}

// What is used of runtime.moduledata, by offset.
const (
	moduleFuncCount = 136 // len(ftab): the number of functions and one
	moduleText      = 176
	moduleSize      = 352

	maxModuleSearch = 256 << 20 // bytes
)

// moduleGoFunc is where runtime.moduledata has the base of inline trees: the layouts
// of Go 1.18, 1.20 and 1.27. The first word of the table tells the first from the
// others; which of those it is shows in what the inline trees look like.
var moduleGoFunc = map[uint32][]int{magic118: {304}, magic120: {320, 344}}

// useModule takes from runtime.moduledata what the table lacks: where the text
// begins (since Go 1.26) and where inline trees are.
func (t *Table) useModule(table uint64) {
	if t.magic == magic116 {
		return
	}
	relocations := t.relocations()
	module, ok := t.findModule(table, relocations)
	if !ok {
		return
	}
	word := func(at int) uint64 {
		addr := module + uint64(at)
		if v, ok := relocated(relocations, addr); ok {
			return v
		}
		if b, ok := t.file.AtVaddr(addr); ok && len(b) >= 8 {
			return binary.LittleEndian.Uint64(b)
		}
		return 0
	}
	if text := word(moduleText); text != 0 {
		t.text = text
	}
	for _, at := range moduleGoFunc[t.magic] {
		t.inlines = word(at)
		if t.inlines != 0 && t.inlinesPlausible() {
			return
		}
	}
	t.inlines = 0
}

// inlinesPlausible says whether inline trees are where they should be: the first
// entries of the first functions that have one can be read as such.
func (t *Table) inlinesPlausible() bool {
	const enough = 16
	seen := 0
	for i := 0; i < t.count && seen < enough; i++ {
		f, ok := t.function(i)
		if !ok {
			continue
		}
		if _, ok := f.inlineTree(); !ok {
			continue
		}
		call, ok := f.inlinedCall(0)
		if !ok {
			return false
		}
		if !call.first {
			seen++
		}
	}
	return seen > 0
}

// findModule returns the address of runtime.moduledata: what begins with the
// address of the table and has its number of functions.
func (t *Table) findModule(table uint64, relocations []byte) (uint64, bool) {
	le := binary.LittleEndian
	// A position-independent program that another linker made has its addresses only
	// in its relocations.
	for r := relocations; len(r) >= relaSize; r = r[relaSize:] {
		if le.Uint64(r[16:]) == table && isRelative(r) && t.isModule(le.Uint64(r)) {
			return le.Uint64(r), true
		}
	}
	for _, s := range t.file.Segments() {
		if s.Type != elf.PT_LOAD || s.Flags&elf.PF_W == 0 {
			continue
		}
		data, ok := t.file.Bytes(s.Offset, min(s.FileSize, maxModuleSearch))
		if !ok {
			continue
		}
		for at := 0; at+moduleSize <= len(data); at += 8 {
			if le.Uint64(data[at:]) == table && t.isModule(s.Vaddr+uint64(at)) {
				return s.Vaddr + uint64(at), true
			}
		}
	}
	return 0, false
}

func (t *Table) isModule(addr uint64) bool {
	b, ok := t.file.AtVaddr(addr)
	return ok && len(b) >= moduleSize && binary.LittleEndian.Uint64(b[moduleFuncCount:]) == uint64(t.count)+1
}

const relaSize = 24 // of Elf64_Rela: offset, info, addend

// relocations returns the Elf64_Rela entries that the loader applies.
func (t *Table) relocations() []byte {
	s, _ := t.file.Section(".rela.dyn")
	if s.Compressed {
		return nil
	}
	return s.Data
}

func isRelative(rela []byte) bool {
	kind := binary.LittleEndian.Uint32(rela[8:])
	return kind == uint32(elf.R_X86_64_RELATIVE) || kind == uint32(elf.R_AARCH64_RELATIVE)
}

// relocated returns what the loader writes to an address.
func relocated(relocations []byte, addr uint64) (uint64, bool) {
	le := binary.LittleEndian
	for r := relocations; len(r) >= relaSize; r = r[relaSize:] {
		if le.Uint64(r) == addr && isRelative(r) {
			return le.Uint64(r[16:]), true
		}
	}
	return 0, false
}
