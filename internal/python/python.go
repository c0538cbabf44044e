// Package python reads what names the frames of CPython 3.11 to 3.13 in the memory of
// another process: where an interpreter keeps them, and what function, file and line a
// frame is at.
//
// The frames themselves are read in the kernel, by the thread that they belong to
// (bpf/python.h). What is read here is read later and is the other process's own:
// everything is checked to be what it should be, is bounded, and else is an error.
package python

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"

	"rmagent/internal/sample"
)

const (
	maxName      = 4096    // characters of a name
	maxLineTable = 1 << 20 // bytes
	maxCode      = 1 << 24
)

// Memory reads a process's memory: all of p, or it is an error.
type Memory interface {
	ReadAt(p []byte, addr uint64) error
}

// Image is where a process has what is needed in its memory.
type Image struct {
	Runtime  uint64 // _PyRuntime
	CodeType uint64 // PyCode_Type
	Version  uint64 // Py_Version, from 3.11 on
}

// imageSymbols name what Image has.
var imageSymbols = []string{"_PyRuntime", "PyCode_Type", "Py_Version"}

// Interpreter is one process's CPython. It is for one goroutine at a time.
type Interpreter struct {
	Version string // "3.11"
	Layout  sample.PythonLayout

	memory   Memory
	codeType uint64
	objects  objects
	codes    map[uint64]*code
	words    int // of lines remembered
}

// objects are offsets in what frames refer to.
type objects struct {
	firstLine, file, qualname, lineTable, instructions uint32 // PyCodeObject
	ascii, compact                                     uint32 // sizes of PyASCIIObject, PyCompactUnicodeObject
	size                                               uint32 // bytes read of a code object
}

// Offsets of versions that don't tell them themselves; Include/internal/pycore_*.h.
var (
	layout311 = sample.PythonLayout{
		NextInterpreter: 0, Threads: 16, NextThread: 8, ThreadID: 152, Current: 56, Indirect: 1 + 8,
		Code: 32, Instruction: 56, Previous: 48, Owner: 69, Entry: 68,
	}
	objects311 = objects{firstLine: 72, file: 112, qualname: 128, lineTable: 136, instructions: 184, ascii: 48, compact: 72, size: 184}
	layout312  = sample.PythonLayout{
		NextInterpreter: 0, Threads: 72, NextThread: 8, ThreadID: 136, Current: 56, Indirect: 1 + 0,
		Code: 0, Instruction: 56, Previous: 8, Owner: 70, Shim: 3,
	}
	objects312 = objects{firstLine: 68, file: 112, qualname: 128, lineTable: 136, instructions: 192, ascii: 40, compact: 56, size: 192}
)

const interpretersHead = 40 // of _PyRuntime, before 3.13

// Open finds out about the CPython of a process.
func Open(m Memory, im Image) (*Interpreter, error) {
	if im.Runtime == 0 || im.CodeType == 0 || im.Version == 0 {
		return nil, errors.New("no CPython that tells its version: 3.11 is the first")
	}
	p := &Interpreter{memory: m, codeType: im.CodeType, codes: map[uint64]*code{}}
	version, err := p.word(im.Version)
	if err != nil {
		return nil, err
	}
	runtime := im.Runtime
	p.Version = fmt.Sprintf("%d.%d", version>>24&0xff, version>>16&0xff)
	switch p.Version {
	case "3.11":
		p.Layout, p.objects = layout311, objects311
		p.Layout.Interpreters = runtime + interpretersHead
	case "3.12":
		p.Layout, p.objects = layout312, objects312
		p.Layout.Interpreters = runtime + interpretersHead
	case "3.13":
		return p, p.useDebugOffsets(runtime)
	default:
		return nil, fmt.Errorf("CPython %s: the frames of 3.11 to 3.13 can be read", p.Version)
	}
	return p, nil
}

// useDebugOffsets takes the offsets from where 3.13 tells them: _Py_DebugOffsets, at
// the beginning of _PyRuntime.
func (p *Interpreter) useDebugOffsets(runtime uint64) error {
	const (
		freeThreaded                                                           = 2
		interpretersHeadAt                                                     = 5
		interpreterNext, interpreterThreads                                    = 8, 9
		threadNext, threadFrame, threadID                                      = 21, 23, 24
		framePrevious, frameCode, frameInstr, frameOwner                       = 29, 30, 31, 33
		codeFile, codeQualname, codeLineTable, codeFirstLine, codeInstructions = 35, 37, 38, 39, 43
		words                                                                  = 48
	)
	b := make([]byte, 8*words)
	if err := p.memory.ReadAt(b, runtime); err != nil {
		return err
	}
	if string(b[:8]) != "xdebugpy" {
		return errors.New("CPython 3.13: its offsets are not where they should be")
	}
	at := func(i int) uint32 { return uint32(binary.LittleEndian.Uint64(b[8*i:])) }
	if at(freeThreaded) != 0 {
		return errors.New("CPython 3.13: the frames of a free-threaded build can't be read")
	}
	p.Layout = sample.PythonLayout{
		Interpreters:    runtime + uint64(at(interpretersHeadAt)),
		NextInterpreter: at(interpreterNext), Threads: at(interpreterThreads),
		NextThread: at(threadNext), ThreadID: at(threadID), Current: at(threadFrame),
		Code: at(frameCode), Instruction: at(frameInstr), Previous: at(framePrevious), Owner: at(frameOwner), Shim: 3,
	}
	p.objects = objects312
	p.objects.firstLine, p.objects.file, p.objects.qualname = at(codeFirstLine), at(codeFile), at(codeQualname)
	p.objects.lineTable, p.objects.instructions = at(codeLineTable), at(codeInstructions)
	p.objects.size = 0
	for _, offset := range []uint32{p.objects.firstLine, p.objects.file, p.objects.qualname, p.objects.lineTable, p.objects.instructions} {
		if offset > 1024 {
			return errors.New("CPython 3.13: its offsets are not what they should be")
		}
		p.objects.size = max(p.objects.size, offset+8)
	}
	return nil
}

func (p *Interpreter) word(addr uint64) (uint64, error) {
	var b [8]byte
	err := p.memory.ReadAt(b[:], addr)
	return binary.LittleEndian.Uint64(b[:]), err
}

// Place is what a frame is at.
type Place struct {
	Function string // qualified
	File     string
	Line     int // 0 where the instruction has none
}

// code is a code object that was read, and the words by which it is known again.
type code struct {
	header     string
	name, file string
	lines      []byte
	first      int
}

const (
	maxCodes     = 4096    // code objects remembered
	maxCodeBytes = 1 << 20 // of them: there may be as many interpreters as are traced, 64
)

// Place returns where a frame is, by its code object and the instruction that it is
// at. The code object may be gone, or another in its place: then it is an error, or
// the other's, which has the instruction in it.
func (p *Interpreter) Place(object, instruction uint64) (Place, error) {
	c, err := p.code(object)
	if err != nil {
		return Place{}, err
	}
	offset := int64(instruction - object - uint64(p.objects.instructions))
	if offset < -2 || offset > maxCode {
		return Place{}, errors.New("the instruction is not of this code")
	}
	place := Place{Function: c.name, File: c.file}
	if offset < 0 { // nothing began yet
		place.Line = c.first
		return place, nil
	}
	line, known := lineAt(c.lines, c.first, int(offset))
	if !known {
		return Place{}, errors.New("the instruction is not of this code")
	}
	place.Line = line
	return place, nil
}

// code reads a code object, or what is remembered of it.
func (p *Interpreter) code(object uint64) (*code, error) {
	b := make([]byte, max(p.objects.size, 144))
	if err := p.memory.ReadAt(b, object); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if le.Uint64(b[8:]) != p.codeType {
		return nil, errors.New("not a code object")
	}
	// Reference counts change; the rest does not while it is the same.
	file, name, table := le.Uint64(b[p.objects.file:]), le.Uint64(b[p.objects.qualname:]), le.Uint64(b[p.objects.lineTable:])
	first := int(int32(le.Uint32(b[p.objects.firstLine:])))
	header := fmt.Sprint(file, name, table, first)
	if c := p.codes[object]; c != nil && c.header == header {
		return c, nil
	}
	c := &code{header: header, first: first}
	var err error
	if c.name, err = p.text(name); err != nil {
		return nil, err
	}
	if c.file, err = p.text(file); err != nil {
		return nil, err
	}
	if c.lines, err = p.bytes(table); err != nil {
		return nil, err
	}
	if size := len(c.lines) + len(c.name) + len(c.file); len(p.codes) >= maxCodes || p.words+size > maxCodeBytes {
		clear(p.codes)
		p.words = 0
	}
	p.words += len(c.lines) + len(c.name) + len(c.file)
	p.codes[object] = c
	return c, nil
}

// bytes reads a bytes object.
func (p *Interpreter) bytes(object uint64) ([]byte, error) {
	const size, data = 16, 32
	n, err := p.word(object + size)
	if err != nil {
		return nil, err
	}
	if n > maxLineTable {
		return nil, fmt.Errorf("%d bytes of lines", n)
	}
	b := make([]byte, n)
	return b, p.memory.ReadAt(b, object+data)
}

// text reads a str object (PEP 393).
func (p *Interpreter) text(object uint64) (string, error) {
	const length, state = 16, 32
	var b [40]byte
	if err := p.memory.ReadAt(b[:], object); err != nil {
		return "", err
	}
	n, flags := binary.LittleEndian.Uint64(b[length:]), binary.LittleEndian.Uint32(b[state:])
	width, compact, ascii := uint64(flags>>2&7), flags>>5&1 != 0, flags>>6&1 != 0
	if !compact || (width != 1 && width != 2 && width != 4) || n > maxName {
		return "", errors.New("not a name")
	}
	at := object + uint64(p.objects.compact)
	if ascii {
		at = object + uint64(p.objects.ascii)
	}
	data := make([]byte, n*width)
	if err := p.memory.ReadAt(data, at); err != nil {
		return "", err
	}
	runes := make([]rune, n)
	for i := range runes {
		switch width {
		case 1:
			runes[i] = rune(data[i])
		case 2:
			runes[i] = rune(binary.LittleEndian.Uint16(data[2*i:]))
		case 4:
			runes[i] = rune(binary.LittleEndian.Uint32(data[4*i:]))
		}
	}
	// Bytes that were no UTF-8 are lone surrogates (PEP 383).
	for i, r := range runes {
		if utf16.IsSurrogate(r) {
			runes[i] = 0xfffd
		}
	}
	return string(runes), nil
}

// lineAt looks an instruction up in a location table (Objects/locations.md of
// CPython): its line, 0 where it has none; false where it is past the table's end.
func lineAt(table []byte, first, offset int) (line int, ok bool) {
	const (
		noLocation = 15
		long       = 14
		noColumns  = 13
		oneLine0   = 10
	)
	varint := func() (v int) {
		for shift := 0; len(table) > 0 && shift < 36; shift += 6 {
			b := table[0]
			table = table[1:]
			v |= int(b&63) << shift
			if b&64 == 0 {
				break
			}
		}
		return v
	}
	signed := func() int {
		v := varint()
		if v&1 != 0 {
			return -(v >> 1)
		}
		return v >> 1
	}
	skip := func(n int) { table = table[min(n, len(table)):] }
	line = first
	for end := 0; len(table) > 0; {
		b := table[0]
		table = table[1:]
		end += 2 * (int(b&7) + 1)
		kind, has := int(b>>3&15), true
		switch {
		case kind == noLocation:
			has = false
		case kind == long:
			line += signed()
			varint()
			varint()
			varint()
		case kind == noColumns:
			line += signed()
		case kind >= oneLine0:
			line += kind - oneLine0
			skip(2)
		default:
			skip(1)
		}
		if offset < end {
			if !has {
				return 0, true
			}
			return line, true
		}
	}
	return 0, false
}
