// Package gotab reads the table that Go's linker leaves in every program, stripped
// or not (.gopclntab): which function, file and line an instruction belongs to,
// what was inlined there, and how far the stack pointer is from the frame's top.
//
// It knows the layouts of Go 1.16 to 1.27 for 64-bit little-endian machines. The
// bytes are foreign: every offset is checked, nothing is allocated by what a table
// claims, and a value that can't be read is said to be unknown. Read inside
// elffile.Guard.
package gotab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"sort"
	"strings"

	"rmagent/internal/elffile"
)

// The layouts, by the first word of the table (internal/abi.PCLnTabMagic).
const (
	magic116 = 0xfffffffa
	magic118 = 0xfffffff0
	magic120 = 0xfffffff1
)

const (
	maxName    = 4096 // bytes of a function's or file's name
	maxInlined = 64   // calls inlined into each other

	pcdataInlineTree   = 2 // internal/abi.PCDATA_InlTreeIndex
	funcdataInlineTree = 3 // internal/abi.FUNCDATA_InlTree

	flagTopFrame = 1 // internal/abi.FuncFlagTopFrame
)

// ErrNotGo is why a file has no Table.
var ErrNotGo = errors.New("no function table of a known Go version")

// Table is the function table of one file. Its methods may be called from several
// goroutines at once, for as long as the file is mapped.
type Table struct {
	magic   uint32
	quantum uint64 // bytes of the smallest instruction
	count   int

	names, units, files, values, functions []byte

	text, end uint64
	file      *elffile.File
	// inlines is the address that offsets of inline trees count from; 0 where they
	// are addresses themselves (before Go 1.18) or where it is not known.
	inlines uint64
}

// Frame is one function at an instruction, inlined or not.
type Frame struct {
	Function string
	File     string // as compiled in; "" where unknown
	Line     int    // 0 where unknown
	Inlined  bool   // into the frame that follows
}

// Func is one function of a Table.
type Func struct {
	Entry, End uint64

	table  *Table
	record []byte // runtime._func, to the end of the table
	fields fields
}

// fields are the offsets in runtime._func, which differ between layouts.
type fields struct {
	name, sp, file, line, numPCData, unit, flag, numFuncData, size uint32
}

var (
	fields116 = fields{name: 8, sp: 20, file: 24, line: 28, numPCData: 32, unit: 36, flag: 41, numFuncData: 43, size: 44}
	fields118 = fields{name: 4, sp: 16, file: 20, line: 24, numPCData: 28, unit: 32, flag: 37, numFuncData: 39, size: 40}
	fields120 = fields{name: 4, sp: 16, file: 20, line: 24, numPCData: 28, unit: 32, flag: 41, numFuncData: 43, size: 44}
)

// Open finds the table of a file; ErrNotGo where there is none. The file stays the
// caller's and must outlive the Table.
func Open(f *elffile.File) (*Table, error) {
	for _, name := range []string{".gopclntab", ".data.rel.ro.gopclntab"} {
		if s, ok := f.Section(name); ok && len(s.Data) > 0 && !s.Compressed {
			return open(f, s.Vaddr, s.Data)
		}
	}
	if f.NumSections() == 0 {
		return openSectionless(f)
	}
	// Where another linker made a position-independent program, the table is somewhere
	// in a section that it shares.
	_, isGo := f.Section(".go.buildinfo")
	shared, ok := f.Section(".data.rel.ro")
	if !isGo || !ok || shared.Compressed {
		return nil, ErrNotGo
	}
	return search(f, shared.Vaddr, shared.Data)
}

// openSectionless looks for the table in what is loaded and not code: somebody took
// the section headers from the file.
func openSectionless(f *elffile.File) (*Table, error) {
	const most = 256 << 20 // bytes of a segment that are searched
	for _, s := range f.Segments() {
		if s.Type != elf.PT_LOAD || s.Flags&elf.PF_X != 0 {
			continue
		}
		data, ok := f.Bytes(s.Offset, min(s.FileSize, most))
		if !ok {
			continue
		}
		if t, err := search(f, s.Vaddr, data); err == nil {
			return t, nil
		}
	}
	return nil, ErrNotGo
}

// search tries whatever looks like the beginning of a table.
func search(f *elffile.File, vaddr uint64, data []byte) (*Table, error) {
	for at := 0; at+headerSize <= len(data); at += 8 {
		if isHeader(data[at:]) {
			if t, err := open(f, vaddr+uint64(at), data[at:]); err == nil {
				return t, nil
			}
		}
	}
	return nil, ErrNotGo
}

const headerSize = 72 // runtime.pcHeader; 64 before Go 1.18

func isHeader(b []byte) bool {
	switch binary.LittleEndian.Uint32(b) {
	case magic116, magic118, magic120:
		return b[4] == 0 && b[5] == 0 && (b[6] == 1 || b[6] == 4) && b[7] == 8
	}
	return false
}

func open(f *elffile.File, vaddr uint64, data []byte) (*Table, error) {
	if len(data) < headerSize || !isHeader(data) {
		return nil, ErrNotGo
	}
	le := binary.LittleEndian
	t := &Table{magic: le.Uint32(data), quantum: uint64(data[6]), file: f}
	count, offsets := le.Uint64(data[8:]), data[24:]
	if t.magic != magic116 {
		t.text = le.Uint64(offsets) // 0 since Go 1.26
		offsets = offsets[8:]
	}
	part := func(i int) []byte {
		at := le.Uint64(offsets[8*i:])
		return data[min(at, uint64(len(data))):]
	}
	t.names, t.units, t.files, t.values, t.functions = part(0), part(1), part(2), part(3), part(4)
	if count == 0 || count >= uint64(len(t.functions)/t.entrySize()) {
		return nil, ErrNotGo
	}
	t.count = int(count)
	t.useModule(vaddr)
	if t.text == 0 && t.magic != magic116 {
		return nil, ErrNotGo
	}
	first, end := t.entry(0), t.entry(t.count)
	if first == 0 || end <= first {
		return nil, ErrNotGo // before Go 1.18, where the loader relocates the table
	}
	t.text, t.end = min(first, nonZero(t.text, first)), end
	return t, nil
}

func nonZero(a, b uint64) uint64 {
	if a != 0 {
		return a
	}
	return b
}

func (t *Table) entrySize() int {
	if t.magic == magic116 {
		return 16
	}
	return 8
}

// entry returns the address of the i'th function; that of the last one's end for i == count.
func (t *Table) entry(i int) uint64 {
	if t.magic == magic116 {
		return binary.LittleEndian.Uint64(t.functions[16*i:])
	}
	return t.text + uint64(binary.LittleEndian.Uint32(t.functions[8*i:]))
}

// Covers says whether an address is in the text that the table describes.
func (t *Table) Covers(pc uint64) bool { return pc >= t.text && pc < t.end }

// Func returns the function that an instruction belongs to; false where there is none.
func (t *Table) Func(pc uint64) (Func, bool) {
	if !t.Covers(pc) {
		return Func{}, false
	}
	i := sort.Search(t.count, func(i int) bool { return t.entry(i) > pc }) - 1
	if i < 0 {
		return Func{}, false
	}
	return t.function(i)
}

func (t *Table) function(i int) (Func, bool) {
	f := Func{Entry: t.entry(i), End: t.entry(i + 1), table: t}
	var at uint64
	switch t.magic {
	case magic116:
		at, f.fields = binary.LittleEndian.Uint64(t.functions[16*i+8:]), fields116
	case magic118:
		at, f.fields = uint64(binary.LittleEndian.Uint32(t.functions[8*i+4:])), fields118
	default:
		at, f.fields = uint64(binary.LittleEndian.Uint32(t.functions[8*i+4:])), fields120
	}
	if at >= uint64(len(t.functions)) {
		return Func{}, false
	}
	f.record = t.functions[at:]
	return f, len(f.record) >= int(f.fields.size) && f.End > f.Entry
}

func (f *Func) field(at uint32) uint32 { return binary.LittleEndian.Uint32(f.record[at:]) }

// Name returns the function's name as Go's own stack traces write it, or "" where it
// can't be read.
func (f *Func) Name() string { return f.table.name(uint64(f.field(f.fields.name))) }

// name leaves out the types that a generic function was compiled for, as
// runtime.funcNameForPrint does: they are shapes, not what the source says.
func (t *Table) name(at uint64) string {
	name := text(t.names, at)
	from, to := strings.IndexByte(name, '['), strings.LastIndexByte(name, ']')
	if from < 0 || to <= from {
		return name
	}
	return name[:from] + "[...]" + name[to+1:]
}

// TopFrame says that the function is the outermost of its stack: nothing called it.
// Go 1.16 does not tell.
func (f *Func) TopFrame() bool {
	return f.table.magic != magic116 && f.record[f.fields.flag]&flagTopFrame != 0
}

// SPDelta returns how many bytes the stack pointer is below where it was at the
// function's entry, when the instruction at pc begins; false where the table does not say.
func (f *Func) SPDelta(pc uint64) (int32, bool) { return f.value(f.field(f.fields.sp), pc) }

// value looks up a function's table of values by instruction: pairs of varints, the
// difference of the value (zig-zag, from -1) and of the address to which it holds.
func (f *Func) value(table uint32, pc uint64) (int32, bool) {
	values := f.table.values
	if table == 0 || uint64(table) >= uint64(len(values)) || pc < f.Entry {
		return 0, false
	}
	values = values[table:]
	value, to := int32(-1), f.Entry
	for first := true; ; first = false {
		change, n := uvarint32(values)
		if n == 0 || (change == 0 && !first) {
			return 0, false
		}
		length, m := uvarint32(values[n:])
		if m == 0 {
			return 0, false
		}
		values = values[n+m:]
		value += int32(change>>1) ^ -int32(change&1)
		to += uint64(length) * f.table.quantum
		if pc < to {
			return value, true
		}
		if to >= f.End {
			return 0, false
		}
	}
}

// uvarint32 reads a varint of at most 32 bits and returns its length, 0 where there is none.
func uvarint32(b []byte) (uint32, int) {
	var v uint32
	for i := 0; i < len(b) && i < 5; i++ {
		v |= uint32(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// text returns the string that begins at an offset, cut at maxName bytes.
func text(b []byte, at uint64) string {
	if at >= uint64(len(b)) {
		return ""
	}
	b = b[at:]
	b = b[:min(len(b), maxName)]
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	return string(b)
}

func (f *Func) fileAt(pc uint64) string {
	i, ok := f.value(f.field(f.fields.file), pc)
	if !ok || i < 0 {
		return ""
	}
	at := 4 * (uint64(f.field(f.fields.unit)) + uint64(i))
	if at+4 > uint64(len(f.table.units)) {
		return ""
	}
	name := binary.LittleEndian.Uint32(f.table.units[at:])
	if name == ^uint32(0) { // the linker dropped the file
		return ""
	}
	return text(f.table.files, uint64(name))
}

func (f *Func) lineAt(pc uint64) int {
	if line, ok := f.value(f.field(f.fields.line), pc); ok && line > 0 {
		return int(line)
	}
	return 0
}

// Frames appends what is at an instruction, innermost first, and returns the result;
// dst itself where the table does not have the address. Where something was inlined
// and the table of inlined calls can't be found, the line belongs to a function that
// is not known, so neither it nor the file is told.
func (t *Table) Frames(dst []Frame, pc uint64) []Frame {
	f, ok := t.Func(pc)
	if !ok {
		return dst
	}
	for range maxInlined {
		frame := Frame{Function: f.Name(), File: f.fileAt(pc), Line: f.lineAt(pc)}
		index, inlined := f.inlineIndex(pc)
		if !inlined {
			return append(dst, frame)
		}
		call, ok := f.inlinedCall(index)
		if !ok {
			return append(dst, Frame{Function: frame.Function})
		}
		frame.Function, frame.Inlined = call.name, true
		dst = append(dst, frame)
		pc = f.Entry + uint64(call.parentPC)
	}
	return append(dst, Frame{Function: f.Name()})
}

const flagSPWrite = 2 // internal/abi.FuncFlagSPWrite

// SPWrite says that the function sets the stack pointer to another stack, so that
// SPDelta does not hold where it calls. Go 1.16 does not tell.
func (f *Func) SPWrite() bool {
	return f.table.magic != magic116 && f.record[f.fields.flag]&flagSPWrite != 0
}
