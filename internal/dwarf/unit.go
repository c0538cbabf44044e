package dwarf

import (
	"encoding/binary"
	"slices"
)

// unit is the header of a unit of .debug_info, and what its first entry says.
type unit struct {
	d            *Data
	start, end   uint64 // in .debug_info
	entries      uint64 // where its entries begin
	abbrev       uint64
	version      uint16
	is64, isType bool

	read                                           bool // what follows
	low                                            uint64
	strOffsetsBase, addrBase, rngListsBase, lineAt uint64
	hasLine                                        bool
	dir, name                                      string
}

// Types of unit (DWARF 5, section 7.5.1).
const (
	unitType      = 2
	unitSkeleton  = 4
	unitSplit     = 5
	unitSplitType = 6
)

// unit reads the header at an offset.
func (d *Data) unit(at uint64) (*unit, bool) {
	if at >= uint64(len(d.Info)) {
		return nil, false
	}
	c := cursor{b: d.Info, at: int(at)}
	length, is64 := c.length()
	u := &unit{d: d, start: at, is64: is64}
	if c.bad || length > uint64(c.left()) {
		return nil, false
	}
	u.end = uint64(c.at) + length
	u.version = c.u16()
	var kind, addrSize uint8
	switch u.version {
	case 2, 3, 4:
		u.abbrev = c.offset(is64)
		addrSize = c.u8()
	case 5:
		kind, addrSize = c.u8(), c.u8()
		u.abbrev = c.offset(is64)
		switch kind {
		case unitType, unitSplitType:
			c.take(uint64(8 + offsetSize(is64)))
			u.isType = true
		case unitSkeleton, unitSplit:
			c.take(8)
		}
	}
	u.entries = uint64(c.at)
	return u, !c.bad && addrSize == 8 && u.entries <= u.end
}

func offsetSize(is64 bool) int {
	if is64 {
		return 8
	}
	return 4
}

// eachUnit calls f for the units until it returns false or an error. A unit of an
// unknown kind is left out.
func (d *Data) eachUnit(f func(*unit) (bool, error)) error {
	for at, n := uint64(0), 0; at < uint64(len(d.Info)) && n < maxUnits; n++ {
		if u, ok := d.unit(at); ok {
			if more, err := f(u); err != nil || !more {
				return err
			}
		}
		c := cursor{b: d.Info, at: int(at)}
		length, _ := c.length()
		if c.bad || length == 0 || length > uint64(c.left()) {
			return nil
		}
		at = uint64(c.at) + length
	}
	return nil
}

// unitOf returns the unit that an offset of .debug_info is in.
func (d *Data) unitOf(at uint64) (*unit, bool) {
	if d.units == nil {
		_ = d.eachUnit(func(u *unit) (bool, error) {
			d.units = append(d.units, u.start)
			return true, nil
		})
	}
	i, exact := slices.BinarySearch(d.units, at)
	if !exact {
		i--
	}
	if i < 0 {
		return nil, false
	}
	u, ok := d.unit(d.units[i])
	return u, ok && at >= u.entries && at < u.end
}

// first reads the unit's first entry, and from it what the others need.
func (u *unit) first() (entry, bool) {
	e, ok := u.entryAt(u.entries)
	if !ok || u.read {
		return e, ok
	}
	u.read = true
	// Where the indirect values are must be known before one is read.
	number := func(v value) uint64 {
		if v.form == 0 {
			return 0
		}
		return v.n
	}
	u.strOffsetsBase = number(e.strOffsetsBase)
	u.addrBase = number(e.addrBase)
	u.rngListsBase = number(e.rngListsBase)
	u.low, _ = u.address(e.low)
	if e.stmtList.form != 0 {
		u.lineAt, u.hasLine = e.stmtList.n, true
	}
	u.dir, u.name = string(u.text(e.compDir, maxPath)), string(u.text(e.name, maxPath))
	return e, true
}

// Tags (DWARF 5, section 7.5.3).
const (
	tagCompileUnit       = 0x11
	tagInlinedSubroutine = 0x1d
	tagSubprogram        = 0x2e
	tagSkeletonUnit      = 0x4a
)

// Attributes (DWARF 5, section 7.5.4).
const (
	atName           = 0x03
	atStmtList       = 0x10
	atLowPC          = 0x11
	atHighPC         = 0x12
	atCompDir        = 0x1b
	atAbstractOrigin = 0x31
	atSpecification  = 0x47
	atRanges         = 0x55
	atCallFile       = 0x58
	atCallLine       = 0x59
	atLinkageName    = 0x6e
	atStrOffsetsBase = 0x72
	atAddrBase       = 0x73
	atRngListsBase   = 0x74
	atMIPSLinkage    = 0x2007
	atGNUAddrBase    = 0x2133
)

// Forms (DWARF 5, section 7.5.6).
const (
	formAddr          = 0x01
	formBlock2        = 0x03
	formBlock4        = 0x04
	formData2         = 0x05
	formData4         = 0x06
	formData8         = 0x07
	formString        = 0x08
	formBlock         = 0x09
	formBlock1        = 0x0a
	formData1         = 0x0b
	formFlag          = 0x0c
	formSData         = 0x0d
	formStrp          = 0x0e
	formUData         = 0x0f
	formRefAddr       = 0x10
	formRef1          = 0x11
	formRef2          = 0x12
	formRef4          = 0x13
	formRef8          = 0x14
	formRefUData      = 0x15
	formIndirect      = 0x16
	formSecOffset     = 0x17
	formExprloc       = 0x18
	formFlagPresent   = 0x19
	formStrx          = 0x1a
	formAddrx         = 0x1b
	formRefSup4       = 0x1c
	formStrpSup       = 0x1d
	formData16        = 0x1e
	formLineStrp      = 0x1f
	formRefSig8       = 0x20
	formImplicitConst = 0x21
	formLocListx      = 0x22
	formRngListx      = 0x23
	formRefSup8       = 0x24
	formStrx1         = 0x25
	formStrx2         = 0x26
	formStrx3         = 0x27
	formStrx4         = 0x28
	formAddrx1        = 0x29
	formAddrx2        = 0x2a
	formAddrx3        = 0x2b
	formAddrx4        = 0x2c
	formGNUAddrIndex  = 0x1f01
	formGNUStrIndex   = 0x1f02
	formGNURefAlt     = 0x1f20
	formGNUStrpAlt    = 0x1f21
)

// value is an attribute as it stands there; form is 0 where there is none.
type value struct {
	form  uint16
	n     uint64
	bytes []byte // of formString, and of blocks
}

// entry is what is of interest in an entry of .debug_info.
type entry struct {
	tag      uint16
	children bool

	name, linkageName, low, high, ranges, origin, specification value
	callFile, callLine, stmtList, compDir                       value
	strOffsetsBase, addrBase, rngListsBase                      value
}

func (e *entry) field(attribute uint16) *value {
	switch attribute {
	case atName:
		return &e.name
	case atLinkageName, atMIPSLinkage:
		return &e.linkageName
	case atLowPC:
		return &e.low
	case atHighPC:
		return &e.high
	case atRanges:
		return &e.ranges
	case atAbstractOrigin:
		return &e.origin
	case atSpecification:
		return &e.specification
	case atCallFile:
		return &e.callFile
	case atCallLine:
		return &e.callLine
	case atStmtList:
		return &e.stmtList
	case atCompDir:
		return &e.compDir
	case atStrOffsetsBase:
		return &e.strOffsetsBase
	case atAddrBase, atGNUAddrBase:
		return &e.addrBase
	case atRngListsBase:
		return &e.rngListsBase
	}
	return nil
}

// fixedSize returns the bytes that a value takes, or -1 where that shows only there.
func fixedSize(form, version uint16, is64 bool) int {
	switch form {
	case formFlagPresent, formImplicitConst:
		return 0
	case formData1, formRef1, formFlag, formStrx1, formAddrx1:
		return 1
	case formData2, formRef2, formStrx2, formAddrx2:
		return 2
	case formStrx3, formAddrx3:
		return 3
	case formData4, formRef4, formRefSup4, formStrx4, formAddrx4:
		return 4
	case formAddr, formData8, formRef8, formRefSig8, formRefSup8:
		return 8
	case formData16:
		return 16
	case formSecOffset, formStrp, formLineStrp, formStrpSup, formGNURefAlt, formGNUStrpAlt:
		return offsetSize(is64)
	case formRefAddr:
		if version == 2 { // of an address's size then
			return 8
		}
		return offsetSize(is64)
	}
	return -1
}

// readValue reads a value of a form; implicit is its value where the form has it in
// the abbreviation.
func (c *cursor) readValue(form, version uint16, is64 bool, implicit int64) value {
	if form == formIndirect {
		form = uint16(min(c.uleb(), 0xffff))
		if form == formIndirect || form == formImplicitConst {
			c.bad = true
		}
	}
	v := value{form: form}
	if size := fixedSize(form, version, is64); size >= 0 {
		switch form {
		case formFlagPresent:
			v.n = 1
		case formImplicitConst:
			v.n = uint64(implicit)
		case formData16:
			v.bytes = c.take(16)
		default:
			v.n = c.uint(size)
		}
		return v
	}
	switch form {
	case formString:
		v.bytes = c.text()
	case formUData, formRefUData, formStrx, formAddrx, formLocListx, formRngListx, formGNUAddrIndex, formGNUStrIndex:
		v.n = c.uleb()
	case formSData:
		v.n = uint64(c.sleb())
	case formBlock, formExprloc:
		v.bytes = c.take(c.uleb())
	case formBlock1:
		v.bytes = c.take(uint64(c.u8()))
	case formBlock2:
		v.bytes = c.take(uint64(c.u16()))
	case formBlock4:
		v.bytes = c.take(uint64(c.u32()))
	default:
		c.bad = true
	}
	return v
}

// text returns the string that a value stands for, without allocating.
func (u *unit) text(v value, limit int) []byte {
	d := u.d
	switch v.form {
	case formString:
		return v.bytes[:min(len(v.bytes), limit)]
	case formStrp:
		return textAt(d.Str, v.n, limit)
	case formLineStrp:
		return textAt(d.LineStr, v.n, limit)
	case formStrpSup, formGNUStrpAlt:
		if d.alt != nil {
			return textAt(d.alt.Str, v.n, limit)
		}
	case formStrx, formStrx1, formStrx2, formStrx3, formStrx4, formGNUStrIndex:
		size := uint64(offsetSize(u.is64))
		if at, ok := indexed(d.StrOffsets, u.strOffsetsBase, v.n, size); ok {
			return textAt(d.Str, at, limit)
		}
	}
	return nil
}

// indexed reads the i'th number of a table of numbers of 4 or 8 bytes.
func indexed(section []byte, base, i, size uint64) (uint64, bool) {
	if i >= uint64(len(section)) || base > uint64(len(section)) {
		return 0, false
	}
	at := base + i*size
	if at+size > uint64(len(section)) {
		return 0, false
	}
	if size == 4 {
		return uint64(binary.LittleEndian.Uint32(section[at:])), true
	}
	return binary.LittleEndian.Uint64(section[at:]), true
}

// address returns the address that a value stands for.
func (u *unit) address(v value) (uint64, bool) {
	switch v.form {
	case formAddr:
		return v.n, true
	case formAddrx, formAddrx1, formAddrx2, formAddrx3, formAddrx4, formGNUAddrIndex:
		return indexed(u.d.Addr, u.addrBase, v.n, 8)
	}
	return 0, false
}

// ranges calls f for each range of addresses that an entry covers.
func (u *unit) ranges(e *entry, f func(low, high uint64)) {
	if e.ranges.form != 0 {
		if u.version >= 5 {
			u.rngList(e.ranges, f)
		} else {
			u.oldRanges(e.ranges.n, f)
		}
		return
	}
	low, ok := u.address(e.low)
	if !ok || e.high.form == 0 {
		return
	}
	if high, ok := u.address(e.high); ok {
		f(low, high)
	} else if high := low + e.high.n; high > low {
		f(low, high)
	}
}

// oldRanges reads .debug_ranges (DWARF 4, section 2.17.3).
func (u *unit) oldRanges(at uint64, f func(low, high uint64)) {
	if at > uint64(len(u.d.Ranges)) {
		return
	}
	c := cursor{b: u.d.Ranges, at: int(at)}
	for base := u.low; ; {
		from, to := c.u64(), c.u64()
		switch {
		case c.bad || (from == 0 && to == 0) || u.d.step() != nil:
			return
		case from == ^uint64(0):
			base = to
		case base+from < base+to:
			f(base+from, base+to)
		}
	}
}

// Entries of a range list (DWARF 5, section 7.25).
const (
	rleEnd = iota
	rleBaseAddrx
	rleStartxEndx
	rleStartxLength
	rleOffsetPair
	rleBaseAddr
	rleStartEnd
	rleStartLength
)

// rngList reads .debug_rnglists (DWARF 5, section 2.17.3).
func (u *unit) rngList(v value, f func(low, high uint64)) {
	at := v.n
	if v.form == formRngListx {
		offset, ok := indexed(u.d.RngLists, u.rngListsBase, v.n, uint64(offsetSize(u.is64)))
		if !ok {
			return
		}
		at = u.rngListsBase + offset
	}
	if at > uint64(len(u.d.RngLists)) {
		return
	}
	addrx := func(i uint64) uint64 {
		addr, _ := indexed(u.d.Addr, u.addrBase, i, 8)
		return addr
	}
	c := cursor{b: u.d.RngLists, at: int(at)}
	base := u.low
	for !c.bad && u.d.step() == nil {
		var low, high uint64
		switch c.u8() {
		case rleBaseAddrx:
			base = addrx(c.uleb())
			continue
		case rleBaseAddr:
			base = c.u64()
			continue
		case rleStartxEndx:
			low, high = addrx(c.uleb()), addrx(c.uleb())
		case rleStartxLength:
			low = addrx(c.uleb())
			high = low + c.uleb()
		case rleOffsetPair:
			low, high = base+c.uleb(), base+c.uleb()
		case rleStartEnd:
			low, high = c.u64(), c.u64()
		case rleStartLength:
			low = c.u64()
			high = low + c.uleb()
		default: // rleEnd, or unknown
			return
		}
		if !c.bad && low < high {
			f(low, high)
		}
	}
}
