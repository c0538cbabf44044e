// Package dwarf reads of DWARF what names the code at an address: the function, the
// calls inlined there, files and lines. It reads versions 2 to 5 from memory, only
// the compile units that have the addresses asked for, and keeps nothing of them:
// the standard library's reader parses the abbreviations of every unit at once,
// which takes seconds and hundreds of megabytes on a browser's debug file.
//
// The bytes are foreign: every offset is checked, work ends with the context, and
// what can't be read is left out.
package dwarf

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
)

const (
	maxUnits   = 1 << 18 // compile units of a file that are looked through
	maxName    = 16 << 10
	maxPath    = 4096
	maxInlined = 64
	maxHops    = 8 // references followed for a name
)

// ErrCorrupt is why a unit can't be read on.
var ErrCorrupt = errors.New("corrupt DWARF")

// Sections are the contents of a file's debug sections, uncompressed; nil where it
// has none.
type Sections struct {
	Info, Abbrev, Line, Str, LineStr, Ranges, RngLists, Addr, StrOffsets, ARanges []byte
}

// Data is the debug information of one file. It is for one goroutine at a time.
type Data struct {
	Sections
	alt   *Data    // what dwz moved out of several files (.gnu_debugaltlink)
	units []uint64 // offsets of unit headers, ascending; read when first needed
	table abbrevs  // of the unit read last
	ctx   context.Context
	steps int
	ended error // the context's, once seen
}

// Frame is one function at an address.
type Frame struct {
	// Function is its linkage name where Mangled says so, else its name in the source;
	// "" where unknown.
	Function string
	Mangled  bool
	File     string // "" where unknown
	Line     uint64 // 0 where unknown
	Inlined  bool   // into the frame that follows
}

// New makes Data of sections, and of the file that they refer to by
// .gnu_debugaltlink where there is one, else nil.
func New(s Sections, alt *Data) *Data { return &Data{Sections: s, alt: alt} }

// Lookup calls found for each of the addresses that a compile unit has, with its
// index in pcs and what is there, innermost first. The frames' last may be without a
// function: then only file and line are told. It ends early with the context's error;
// what it could not read is not found.
func (d *Data) Lookup(ctx context.Context, pcs []uint64, found func(i int, frames []Frame)) error {
	d.ctx, d.steps, d.ended = ctx, 0, nil
	defer func() { d.ctx, d.table = nil, abbrevs{} }()
	want := make([]query, len(pcs))
	for i, pc := range pcs {
		want[i] = query{pc: pc, index: i, unit: noUnit}
	}
	slices.SortFunc(want, func(a, b query) int { return compare(a.pc, b.pc) })
	d.findByARanges(want)
	if err := d.findByUnits(want); err != nil {
		return err
	}
	slices.SortStableFunc(want, func(a, b query) int { return compare(a.unit, b.unit) })
	for len(want) > 0 && want[0].unit != noUnit {
		n := 1
		for n < len(want) && want[n].unit == want[0].unit {
			n++
		}
		if err := d.lookupIn(want[:n]); err != nil && !errors.Is(err, ErrCorrupt) {
			return err
		}
		for i := range want[:n] {
			if frames := d.frames(&want[i]); len(frames) > 0 {
				found(want[i].index, frames)
			}
		}
		want = want[n:]
	}
	return d.ended
}

const noUnit = ^uint64(0)

// query is an address that is looked for, and what is known of it so far.
type query struct {
	pc    uint64
	index int // in the caller's list
	unit  uint64

	place place  // by the line table
	chain []call // outermost first: the function, and what is inlined into what
}

type place struct {
	file string
	line uint64
}

// call is an entry of .debug_info that covers an address: a function, or one that
// was inlined.
type call struct {
	entry   entry
	unit    *unit
	depth   int
	inlined bool
	from    place // where an inlined one is called
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// step counts work and says whether it must end.
func (d *Data) step() error {
	if d.steps++; d.steps&0xfff == 0 && d.ended == nil {
		d.ended = d.ctx.Err()
	}
	return d.ended
}

// mark calls yes for the queries within [low, high); want is sorted by address.
func mark(want []query, low, high uint64, yes func(*query)) {
	// Address 0 and the highest ones are what linkers write for code they dropped.
	if low == 0 || low >= high || len(want) == 0 || want[0].pc >= high || want[len(want)-1].pc < low {
		return
	}
	i, _ := slices.BinarySearchFunc(want, low, func(q query, pc uint64) int { return compare(q.pc, pc) })
	for ; i < len(want) && want[i].pc < high; i++ {
		yes(&want[i])
	}
}

// findByARanges finds units by the index that some compilers write (DWARF 5, section
// 6.1.2).
func (d *Data) findByARanges(want []query) {
	for all := (cursor{b: d.ARanges}); all.left() > 0; {
		length, is64 := all.length()
		set := all.sub(length)
		version := set.u16()
		info := set.offset(is64)
		addrSize, segSize := set.u8(), set.u8()
		if set.bad || version != 2 || addrSize != 8 || segSize != 0 || d.step() != nil {
			if all.bad {
				return
			}
			continue
		}
		// Tuples are aligned by their size from the header's first byte, of which the
		// length took 4 or 12.
		set.at += -(set.at + lengthSize(is64)) & 15
		for set.left() >= 16 {
			low, size := set.u64(), set.u64()
			mark(want, low, low+size, func(q *query) { q.unit = info })
		}
	}
}

// findByUnits finds units by their first entry, for addresses that have none yet.
func (d *Data) findByUnits(want []query) error {
	missing := 0
	var low, high uint64 = noUnit, 0
	for i := range want {
		if q := &want[i]; q.unit == noUnit {
			missing++
			low, high = min(low, q.pc), max(high, q.pc)
		}
	}
	if missing == 0 {
		return nil
	}
	return d.eachUnit(func(u *unit) (bool, error) {
		if u.isType {
			return true, d.step()
		}
		e, ok := u.first()
		if !ok || (e.tag != tagCompileUnit && e.tag != tagSkeletonUnit) {
			return true, d.step()
		}
		u.ranges(&e, func(low, high uint64) {
			mark(want, low, high, func(q *query) {
				if q.unit == noUnit {
					q.unit = u.start
					missing--
				}
			})
		})
		return missing > 0, d.step()
	})
}

// lookupIn finds out about addresses of one unit, sorted.
func (d *Data) lookupIn(want []query) error {
	u, ok := d.unit(want[0].unit)
	if !ok {
		return ErrCorrupt
	}
	root, ok := u.first()
	if !ok {
		return ErrCorrupt
	}
	table, ok := u.lineTable(&root)
	if ok {
		if err := table.lookup(want); err != nil && !errors.Is(err, ErrCorrupt) {
			return err
		}
	}
	return u.walk(want, table)
}

// frames makes frames of what was found for an address.
func (d *Data) frames(q *query) []Frame {
	if len(q.chain) == 0 {
		if q.place.file == "" && q.place.line == 0 {
			return nil
		}
		return []Frame{{File: q.place.file, Line: q.place.line}}
	}
	frames := make([]Frame, 0, len(q.chain))
	at := q.place
	for i := len(q.chain) - 1; i >= 0; i-- {
		c := &q.chain[i]
		name, mangled := c.unit.functionName(&c.entry)
		frames = append(frames, Frame{Function: name, Mangled: mangled, File: at.file, Line: at.line, Inlined: c.inlined})
		at = c.from
	}
	return frames
}

// cursor reads little-endian numbers and remembers when there were none left.
type cursor struct {
	b   []byte
	at  int
	bad bool
}

func (c *cursor) left() int {
	if c.bad || c.at > len(c.b) {
		return 0
	}
	return len(c.b) - c.at
}

func (c *cursor) take(n uint64) []byte {
	if n > uint64(c.left()) {
		c.bad = true
		return nil
	}
	b := c.b[c.at : c.at+int(n)]
	c.at += int(n)
	return b
}

func (c *cursor) u8() uint8 {
	if c.left() < 1 {
		c.bad = true
		return 0
	}
	c.at++
	return c.b[c.at-1]
}

func (c *cursor) u16() uint16 {
	if b := c.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// uint reads a number of 1, 2, 3, 4 or 8 bytes.
func (c *cursor) uint(size int) (v uint64) {
	for i, b := range c.take(uint64(size)) {
		v |= uint64(b) << (8 * i)
	}
	return v
}

func (c *cursor) uleb() (v uint64) {
	for shift := 0; shift < 70; shift += 7 {
		b := c.u8()
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	c.bad = true
	return 0
}

func (c *cursor) sleb() (v int64) {
	for shift := 0; shift < 70; shift += 7 {
		b := c.u8()
		v |= int64(b&0x7f) << shift
		if b < 0x80 {
			if b&0x40 != 0 && shift+7 < 64 {
				v |= -1 << (shift + 7)
			}
			return v
		}
	}
	c.bad = true
	return 0
}

// text reads bytes that end with a zero, without it.
func (c *cursor) text() []byte {
	if c.left() == 0 {
		c.bad = true
		return nil
	}
	n := bytes.IndexByte(c.b[c.at:], 0)
	if n < 0 {
		c.bad = true
		return nil
	}
	c.at += n + 1
	return c.b[c.at-n-1 : c.at-1]
}

// length reads an initial length, which says also whether offsets have 64 bits
// (DWARF 5, section 7.4).
func (c *cursor) length() (n uint64, is64 bool) {
	n = uint64(c.u32())
	if n == 0xffffffff {
		return c.u64(), true
	}
	if n >= 0xfffffff0 {
		c.bad = true
	}
	return n, false
}

func lengthSize(is64 bool) int {
	if is64 {
		return 12
	}
	return 4
}

func (c *cursor) offset(is64 bool) uint64 {
	if is64 {
		return c.u64()
	}
	return uint64(c.u32())
}

// sub returns a cursor over the next n bytes and moves behind them. Where there are
// less, both are bad.
func (c *cursor) sub(n uint64) cursor {
	b := c.take(n)
	return cursor{b: b, bad: c.bad}
}

// textAt returns the string at an offset of a section.
func textAt(section []byte, at uint64, limit int) []byte {
	if at >= uint64(len(section)) {
		return nil
	}
	section = section[at:]
	section = section[:min(len(section), limit)]
	if end := bytes.IndexByte(section, 0); end >= 0 {
		return section[:end]
	}
	return section
}
