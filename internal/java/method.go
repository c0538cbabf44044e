package java

import (
	"encoding/binary"
	"errors"
	"strings"
)

// Place is what a frame is at.
type Place struct {
	Function string // with its class: "java.io.FileInputStream.open"
	File     string // without its directory; "" where the class does not tell
	Line     int    // 0 where it is not known, and for native methods
}

// Interpreted returns where a frame of the interpreter is: by its Method, and the
// bytecode that it is at, 0 in native methods.
func (v *VM) Interpreted(method, bytecode uint64) (Place, error) {
	m, err := v.method(method)
	if err != nil {
		return Place{}, err
	}
	if bytecode == 0 {
		return m.Place, nil
	}
	if bytecode < m.code || bytecode-m.code >= m.codeSize {
		return Place{}, errors.New("the instruction is not of this method")
	}
	return v.placeAt(m, bytecode-m.code)
}

// Compiled returns where a compiled method is that an address returns to: what was
// inlined there first, then what it was inlined in.
func (v *VM) Compiled(pc uint64) ([]Place, error) {
	c, err := v.Code(pc)
	if err != nil {
		return nil, err
	}
	if c.Kind != Compiled {
		return nil, errors.New("not a compiled method")
	}
	if places, err := v.scopes(&c, pc); err == nil && len(places) > 0 {
		return places, nil
	}
	method, err := v.word(c.blob + v.methodField())
	if err != nil {
		return nil, err
	}
	m, err := v.method(method)
	if err != nil {
		return nil, err
	}
	return []Place{m.Place}, nil
}

// methodField is where a compiled method has its own Method; in JDK 11 to 22 its base
// class has it.
func (v *VM) methodField() uint64 {
	if offset, ok := v.fields["nmethod._method"]; ok {
		return offset
	}
	return v.fields["CompiledMethod._method"]
}

// method is a Method as it was read.
type method struct {
	Place
	code, codeSize uint64 // bytecode
	lines          uint64 // address of the table of lines; 0 where there is none
	end            uint64
}

// method reads a Method, and makes sure that it is one: its class has it.
func (v *VM) method(addr uint64) (*method, error) {
	constant, err := v.field(addr, "Method._constMethod")
	if err != nil {
		return nil, err
	}
	b := make([]byte, v.constMethod)
	if err := v.memory.ReadAt(b, constant); err != nil {
		return nil, err
	}
	short := func(field string) uint64 {
		offset := v.fields["ConstMethod."+field]
		if offset+2 > uint64(len(b)) {
			return 0
		}
		return uint64(binary.LittleEndian.Uint16(b[offset:]))
	}
	pool, err := v.field(constant, "ConstMethod._constants")
	if err != nil {
		return nil, err
	}
	holder, err := v.field(pool, "ConstantPool._pool_holder")
	if err != nil {
		return nil, err
	}
	if back, err := v.field(holder, "InstanceKlass._constants"); err != nil || back != pool {
		return nil, errors.Join(err, errors.New("not a method of a class that is in use"))
	}
	if err := v.hasMethod(holder, addr, short("_method_idnum")); err != nil {
		return nil, err
	}
	m := &method{code: constant + v.constMethod, codeSize: short("_code_size")}
	class, err := v.className(holder)
	if err != nil {
		return nil, err
	}
	name, err := v.poolSymbol(pool, short("_name_index"))
	if err != nil {
		return nil, err
	}
	m.Function = class + "." + name
	m.File = v.sourceFile(pool, holder)
	size, err := v.half(constant + v.fields["ConstMethod._constMethod_size"])
	if err != nil {
		return nil, err
	}
	m.end = constant + 8*uint64(min(size, 2*maxLineTable/8))
	if short(v.flagsField())&1 != 0 { // has_linenumber_table, in all versions
		m.lines = m.code + m.codeSize
	}
	return m, nil
}

// flagsField is where a ConstMethod has its flags: a field, and since JDK 21 a class.
func (v *VM) flagsField() string {
	if _, ok := v.fields["ConstMethod._flags._flags"]; ok {
		return "_flags._flags"
	}
	return "_flags"
}

// hasMethod makes sure that a class has a method, mostly at the place of its number.
func (v *VM) hasMethod(class, method, number uint64) error {
	array, err := v.field(class, "InstanceKlass._methods")
	if err != nil {
		return err
	}
	n, err := v.half(array + v.fields["Array<Klass*>._length"])
	if err != nil {
		return err
	}
	if n > maxMethods {
		return errors.New("a class with too many methods")
	}
	data := array + v.fields["Array<Method*>._data"]
	if number < uint64(n) {
		if there, err := v.word(data + 8*number); err == nil && there == method {
			return nil
		}
	}
	b := make([]byte, 8*n)
	if err := v.memory.ReadAt(b, data); err != nil {
		return err
	}
	for ; len(b) > 0; b = b[8:] {
		if binary.LittleEndian.Uint64(b) == method {
			return nil
		}
	}
	return errors.New("its class does not have the method")
}

func (v *VM) className(class uint64) (string, error) {
	name, err := v.field(class, "Klass._name")
	if err != nil {
		return "", err
	}
	text, err := v.symbol(name)
	return strings.ReplaceAll(text, "/", "."), err
}

// poolSymbol reads a name of a class's constants.
func (v *VM) poolSymbol(pool, index uint64) (string, error) {
	n, err := v.half(pool + v.fields["ConstantPool._length"])
	if err != nil {
		return "", err
	}
	if index == 0 || index >= uint64(n) {
		return "", errors.New("no such constant")
	}
	symbol, err := v.word(pool + v.pool + 8*index)
	if err != nil {
		return "", err
	}
	return v.symbol(symbol)
}

// sourceFile returns the name of a class's source; "" where it has none.
func (v *VM) sourceFile(pool, class uint64) string {
	at, ok := v.fields["ConstantPool._source_file_name_index"]
	object := pool
	if !ok { // before JDK 16
		object = class
		if at, ok = v.fields["InstanceKlass._source_file_name_index"]; !ok {
			return ""
		}
	}
	index, err := v.half(object + at)
	if err != nil {
		return ""
	}
	name, err := v.poolSymbol(pool, uint64(index&0xffff))
	if err != nil {
		return ""
	}
	return name
}

// placeAt finds the line of a bytecode.
func (v *VM) placeAt(m *method, bytecode uint64) (Place, error) {
	if m.lines == 0 || m.lines >= m.end {
		return m.Place, nil
	}
	b := make([]byte, min(m.end-m.lines, maxLineTable))
	if err := v.memory.ReadAt(b, m.lines); err != nil {
		return Place{}, err
	}
	p := m.Place
	p.Line = lineAt(&numbers{b: b, excluded: uint32(v.lines)}, bytecode)
	return p, nil
}

// lineAt goes over a compressed table of lines (compressedStream.hpp,
// CompressedLineNumberReadStream); 0 where it has none for a bytecode.
func lineAt(n *numbers, bytecode uint64) int {
	at, line, best, found := int64(0), int64(0), int64(-1), int64(0)
	for {
		next, ok := n.byte()
		if !ok || next == 0 {
			break
		}
		if next == 0xff {
			at, line = at+n.signed(), line+n.signed()
		} else {
			at, line = at+int64(next>>3), line+int64(next&7)
		}
		if n.bad {
			return 0
		}
		if at >= best && at <= int64(bytecode) { // the nearest before holds: entries may be in any order
			best, found = at, line
		}
	}
	if found < 0 || found > 1<<24 {
		return 0
	}
	return int(found)
}

// numbers reads compressed numbers (UNSIGNED5): up to five bytes, each of which but the
// last is large. Since JDK 20, none of them is 0 (excluded is 1).
type numbers struct {
	b        []byte
	excluded uint32
	bad      bool
}

func (n *numbers) byte() (byte, bool) {
	if len(n.b) == 0 {
		n.bad = true
		return 0, false
	}
	c := n.b[0]
	n.b = n.b[1:]
	return c, true
}

func (n *numbers) unsigned() uint32 {
	const shift, longest = 6, 5
	low := 256 - n.excluded - 1<<shift
	sum := uint32(0)
	for i := range longest {
		c, ok := n.byte()
		if !ok || uint32(c) < n.excluded {
			n.bad = true
			return 0
		}
		digit := uint32(c) - n.excluded
		sum += digit << (shift * i)
		if digit < low {
			break
		}
	}
	return sum
}

func (n *numbers) signed() int64 {
	u := n.unsigned()
	return int64(int32(u>>1) ^ -int32(u&1))
}

// scopes reads what was inlined where a compiled method is: of the position with that
// very address, the chain of scopes (debugInfoRec.cpp, scopeDesc.cpp).
func (v *VM) scopes(c *Code, pc uint64) ([]Place, error) {
	l, err := v.layout(c)
	if err != nil {
		return nil, err
	}
	const most = 16 << 20
	if pc < l.code || l.scopesEnd-l.scopes > most || l.positionsEnd-l.positions > most {
		return nil, errors.New("not a compiled method")
	}
	table := make([]byte, l.scopesEnd-l.scopes)
	if err := v.memory.ReadAt(table, l.scopes); err != nil {
		return nil, err
	}
	at, err := v.position(l.positions, l.positionsEnd, pc-l.code)
	if err != nil {
		return nil, err
	}
	return v.decode(table, at, l.metadata)
}

// layout is where a compiled method has what it is told by.
type layout struct {
	code, metadata          uint64
	scopes, scopesEnd       uint64
	positions, positionsEnd uint64
}

// layout finds that: in JDK 11 to 22 all of it is in the method itself, since 25 the rest
// has memory of its own. Of those between, only the method is known.
func (v *VM) layout(c *Code) (l layout, err error) {
	word := func(name string) (x uint64) {
		at, ok := v.fields[name]
		if !ok && err == nil {
			err = errors.New("this HotSpot keeps them elsewhere")
		}
		if err == nil {
			x, err = v.word(c.blob + at)
		}
		return x
	}
	offset := func(name string) uint64 { return word(name) & (1<<32 - 1) }
	if _, ok := v.fields["CompiledMethod._scopes_data_begin"]; ok {
		l = layout{
			code: word("CodeBlob._code_begin"), metadata: c.blob + offset("nmethod._metadata_offset"),
			scopes: word("CompiledMethod._scopes_data_begin"), scopesEnd: c.blob + offset("nmethod._scopes_pcs_offset"),
			positions: c.blob + offset("nmethod._scopes_pcs_offset"), positionsEnd: c.blob + offset("nmethod._dependencies_offset"),
		}
		return l, err
	}
	data := word("nmethod._immutable_data")
	l = layout{
		code: c.blob + offset("CodeBlob._code_offset"), metadata: word("CodeBlob._mutable_data") + offset("CodeBlob._relocation_size"),
		scopes: data + offset("nmethod._scopes_data_offset"), scopesEnd: data + offset("nmethod._immutable_data_size"),
		positions: data + offset("nmethod._scopes_pcs_offset"), positionsEnd: data + offset("nmethod._scopes_data_offset"),
	}
	return l, err
}

// position finds where the scope of a position is.
func (v *VM) position(from, to, offset uint64) (uint32, error) {
	const size = 16 // of PcDesc
	n := (to - from) / size
	if n > maxDescs {
		return 0, errors.New("too many positions")
	}
	b := make([]byte, n*size)
	if err := v.memory.ReadAt(b, from); err != nil {
		return 0, err
	}
	pc, scope := v.fields["PcDesc._pc_offset"], v.fields["PcDesc._scope_decode_offset"]
	if pc > size-4 || scope > size-4 {
		return 0, errors.New("not a position")
	}
	for ; len(b) > 0; b = b[size:] {
		if uint64(binary.LittleEndian.Uint32(b[pc:])) == offset {
			return binary.LittleEndian.Uint32(b[scope:]), nil
		}
	}
	return 0, errors.New("nothing is told of this position")
}

func (v *VM) decode(table []byte, at uint32, metadata uint64) (places []Place, err error) {
	for at != 0 {
		if uint64(at) >= uint64(len(table)) || len(places) == maxInlined {
			return nil, errors.New("a scope out of its table")
		}
		n := numbers{b: table[at:], excluded: uint32(v.lines)}
		sender, index, bytecode := n.unsigned(), n.unsigned(), int64(n.unsigned())-1
		if n.bad || index == 0 || index > 1<<16 || sender >= at {
			return nil, errors.New("not a scope")
		}
		addr, err := v.word(metadata + 8*uint64(index-1))
		if err != nil {
			return nil, err
		}
		m, err := v.method(addr)
		if err != nil {
			return nil, err
		}
		p := m.Place
		if bytecode >= 0 {
			if uint64(bytecode) >= m.codeSize {
				return nil, errors.New("the instruction is not of this method")
			}
			if p, err = v.placeAt(m, uint64(bytecode)); err != nil {
				return nil, err
			}
		}
		places = append(places, p)
		at = sender
	}
	return places, nil
}
