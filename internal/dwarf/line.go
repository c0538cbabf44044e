package dwarf

import "path"

// lineTable is the header of a unit's line number program (DWARF 5, section 6.2.4).
type lineTable struct {
	u       *unit
	version uint16
	is64    bool

	minInstruction, opcodeBase, lineRange uint8
	lineBase                              int8
	lengths                               []byte
	dirs, files                           int // where the tables are in b
	b                                     []byte
	program                               cursor
}

// lineTable reads the header; nil, which has no files, and false where there is none.
func (u *unit) lineTable(root *entry) (*lineTable, bool) {
	if !u.hasLine || u.lineAt >= uint64(len(u.d.Line)) {
		return nil, false
	}
	all := cursor{b: u.d.Line, at: int(u.lineAt)}
	length, is64 := all.length()
	c := all.sub(length)
	t := &lineTable{u: u, is64: is64, b: c.b, version: c.u16()}
	if t.version < 2 || t.version > 5 {
		return nil, false
	}
	if t.version == 5 && (c.u8() != 8 || c.u8() != 0) { // sizes of addresses and of segment selectors
		return nil, false
	}
	header := c.offset(is64)
	if c.bad || header > uint64(c.left()) {
		return nil, false
	}
	t.program = cursor{b: c.b, at: c.at + int(header)}
	t.minInstruction = c.u8()
	operations := uint8(1)
	if t.version >= 4 {
		operations = c.u8()
	}
	c.u8() // default_is_stmt
	t.lineBase, t.lineRange, t.opcodeBase = int8(c.u8()), c.u8(), c.u8()
	if c.bad || t.lineRange == 0 || t.opcodeBase == 0 || operations > 1 { // more only on VLIW machines
		return nil, false
	}
	t.lengths = c.take(uint64(t.opcodeBase) - 1)
	t.dirs = c.at
	if !t.findFiles(&c) || c.bad {
		return nil, false
	}
	return t, true
}

// findFiles moves over the directories.
func (t *lineTable) findFiles(c *cursor) bool {
	if t.version < 5 {
		for len(c.text()) > 0 {
			if t.u.d.step() != nil {
				return false
			}
		}
	} else if ok := t.eachEntry(c, func(uint64, []byte, uint64) bool { return true }); !ok {
		return false
	}
	t.files = c.at
	return true
}

// Content types of the tables of version 5 (DWARF 5, section 6.2.4.1).
const (
	contentPath      = 1
	contentDirectory = 2
)

// eachEntry calls f for the entries of a table of version 5 until it returns false.
func (t *lineTable) eachEntry(c *cursor, f func(i uint64, name []byte, dir uint64) bool) bool {
	var formats [16][2]uint16
	n := int(c.u8())
	if n > len(formats) {
		return false
	}
	for i := range n {
		formats[i] = [2]uint16{uint16(min(c.uleb(), 0xffff)), uint16(min(c.uleb(), 0xffff))}
	}
	count := c.uleb()
	for i := uint64(0); i < count && !c.bad; i++ {
		if n == 0 || t.u.d.step() != nil {
			return false
		}
		var name []byte
		var dir uint64
		for _, format := range formats[:n] {
			v := c.readValue(format[1], 5, t.is64, 0)
			switch format[0] {
			case contentPath:
				name = t.u.text(v, maxPath)
			case contentDirectory:
				dir = v.n
			}
		}
		if !f(i, name, dir) {
			break
		}
	}
	return !c.bad
}

// file returns the path of a file by its number, absolute where the compiler told
// its directory; "" where there is none.
func (t *lineTable) file(number uint64) string {
	if t == nil {
		return ""
	}
	c := cursor{b: t.b, at: t.files}
	var name []byte
	var dir uint64
	if t.version >= 5 {
		t.eachEntry(&c, func(i uint64, n []byte, d uint64) bool {
			if i == number {
				name, dir = n, d
			}
			return i != number
		})
	} else if number > 0 {
		for i := uint64(1); t.u.d.step() == nil; i++ {
			n := c.text()
			d := c.uleb()
			c.uleb() // time
			c.uleb() // length
			if c.bad || len(n) == 0 {
				break
			}
			if i == number {
				name, dir = n, d
				break
			}
		}
	}
	if len(name) == 0 || len(name) > maxPath {
		return ""
	}
	return t.join(string(name), dir)
}

func (t *lineTable) join(name string, dir uint64) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	d := t.directory(dir)
	if !path.IsAbs(d) {
		d = path.Join(t.u.dir, d)
	}
	return path.Join(d, name)
}

func (t *lineTable) directory(number uint64) string {
	c := cursor{b: t.b, at: t.dirs}
	var name []byte
	if t.version >= 5 {
		t.eachEntry(&c, func(i uint64, n []byte, _ uint64) bool {
			if i == number {
				name = n
			}
			return i != number
		})
	} else if number > 0 {
		for i := uint64(1); t.u.d.step() == nil; i++ {
			n := c.text()
			if c.bad || len(n) == 0 {
				break
			}
			if i == number {
				name = n
				break
			}
		}
	}
	return string(name[:min(len(name), maxPath)])
}

// Opcodes of line number programs (DWARF 5, sections 6.2.5.2 and 6.2.5.3).
const (
	lnsCopy           = 1
	lnsAdvancePC      = 2
	lnsAdvanceLine    = 3
	lnsSetFile        = 4
	lnsConstAddPC     = 8
	lnsFixedAdvancePC = 9
	lneEndSequence    = 1
	lneSetAddress     = 2
)

// row is what a line number program says of the addresses from its own on.
type row struct {
	addr, file, line uint64
}

// lookup runs the program and notes the places of the addresses, which are sorted.
func (t *lineTable) lookup(want []query) error {
	c := t.program
	start := row{file: 1, line: 1}
	now, last := start, row{}
	inSequence := false
	left := len(want)
	file, path := uint64(0), "" // of the row noted last
	emit := func(end bool) {
		if inSequence {
			mark(want, last.addr, now.addr, func(q *query) {
				if q.place.file != "" || q.place.line != 0 {
					return
				}
				if path == "" || file != last.file {
					file, path = last.file, t.file(last.file)
				}
				q.place = place{file: path, line: last.line}
				left--
			})
		}
		last, inSequence = now, !end
	}
	for c.left() > 0 && left > 0 {
		if err := t.u.d.step(); err != nil {
			return err
		}
		switch op := c.u8(); {
		case op >= t.opcodeBase:
			op -= t.opcodeBase
			now.addr += uint64(op/t.lineRange) * uint64(t.minInstruction)
			now.line += uint64(int64(t.lineBase) + int64(op%t.lineRange))
			emit(false)
		case op == 0:
			size := c.uleb()
			ext := c.sub(size)
			switch ext.u8() {
			case lneEndSequence:
				emit(true)
				now = start
			case lneSetAddress:
				if size == 9 {
					now.addr = ext.u64()
				}
			}
		case op == lnsCopy:
			emit(false)
		case op == lnsAdvancePC:
			now.addr += c.uleb() * uint64(t.minInstruction)
		case op == lnsAdvanceLine:
			now.line += uint64(c.sleb())
		case op == lnsSetFile:
			now.file = c.uleb()
		case op == lnsConstAddPC:
			now.addr += uint64((255-t.opcodeBase)/t.lineRange) * uint64(t.minInstruction)
		case op == lnsFixedAdvancePC:
			now.addr += uint64(c.u16())
		default:
			for range t.lengths[op-1] {
				c.uleb()
			}
		}
	}
	if c.bad {
		return ErrCorrupt
	}
	return nil
}
