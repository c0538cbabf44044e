package dwarf

const (
	maxAbbrevs    = 1 << 16 // of a unit
	maxAttributes = 1 << 20
	maxDepth      = 1 << 12
)

// abbrevs are the abbreviations of one unit.
type abbrevs struct {
	at    uint64
	is64  bool
	valid bool
	list  []abbrev
	attrs []attribute
	// first maps codes to the list where they don't count from 1, as they nearly
	// always do; nil where they do.
	byCode map[uint64]int
}

type abbrev struct {
	tag      uint16
	children bool
	attrs    []attribute
	size     int // bytes of an entry after its code, or -1 where that shows only there
}

type attribute struct {
	name, form uint16
	implicit   int64
}

// readAbbrev reads a declaration at the cursor (DWARF 5, section 7.5.3); code 0 ends
// a table.
func (c *cursor) readAbbrev(attrs []attribute, version uint16, is64 bool) (code uint64, a abbrev, rest []attribute) {
	code = c.uleb()
	if code == 0 || c.bad {
		return 0, a, attrs
	}
	a.tag = uint16(min(c.uleb(), 0xffff))
	a.children = c.u8() != 0
	start := len(attrs)
	for !c.bad && len(attrs) < maxAttributes {
		name, form := c.uleb(), c.uleb()
		attr := attribute{name: uint16(min(name, 0xffff)), form: uint16(min(form, 0xffff))}
		if form == formImplicitConst {
			attr.implicit = c.sleb()
		}
		if name == 0 && form == 0 {
			break
		}
		attrs = append(attrs, attr)
		if size := fixedSize(attr.form, version, is64); size < 0 || a.size < 0 {
			a.size = -1
		} else {
			a.size += size
		}
	}
	a.attrs = attrs[start:len(attrs):len(attrs)]
	return code, a, attrs
}

// useAbbrevs reads the unit's table of abbreviations into d.table.
func (u *unit) useAbbrevs() bool {
	t := &u.d.table
	if t.valid && t.at == u.abbrev && t.is64 == u.is64 {
		return true
	}
	if u.abbrev > uint64(len(u.d.Abbrev)) {
		return false
	}
	*t = abbrevs{at: u.abbrev, is64: u.is64, list: t.list[:0], attrs: t.attrs[:0]}
	c := cursor{b: u.d.Abbrev, at: int(u.abbrev)}
	for len(t.list) < maxAbbrevs {
		code, a, attrs := c.readAbbrev(t.attrs, u.version, u.is64)
		if t.attrs = attrs; code == 0 {
			t.valid = !c.bad
			return t.valid
		}
		if code != uint64(len(t.list))+1 && t.byCode == nil {
			t.byCode = make(map[uint64]int)
			for i := range t.list {
				t.byCode[uint64(i)+1] = i
			}
		}
		if t.byCode != nil {
			t.byCode[code] = len(t.list)
		}
		t.list = append(t.list, a)
	}
	return false
}

func (t *abbrevs) find(code uint64) (*abbrev, bool) {
	if t.byCode != nil {
		i, ok := t.byCode[code]
		if !ok {
			return nil, false
		}
		return &t.list[i], true
	}
	if code > uint64(len(t.list)) {
		return nil, false
	}
	return &t.list[code-1], true
}

// entryAt reads one entry without its unit's whole table of abbreviations.
func (u *unit) entryAt(at uint64) (e entry, ok bool) {
	if at >= u.end || u.abbrev > uint64(len(u.d.Abbrev)) {
		return e, false
	}
	c := cursor{b: u.d.Info[:u.end], at: int(at)}
	want := c.uleb()
	if want == 0 || c.bad {
		return e, false
	}
	var scratch [32]attribute
	table := cursor{b: u.d.Abbrev, at: int(u.abbrev)}
	for range maxAbbrevs {
		code, a, _ := table.readAbbrev(scratch[:0], u.version, u.is64)
		if code == 0 {
			return e, false
		}
		if code == want {
			return e, c.readEntry(&e, &a, u)
		}
	}
	return e, false
}

// readEntry reads the values of an entry, after its code.
func (c *cursor) readEntry(e *entry, a *abbrev, u *unit) bool {
	*e = entry{tag: a.tag, children: a.children}
	for _, attr := range a.attrs {
		v := c.readValue(attr.form, u.version, u.is64, attr.implicit)
		if field := e.field(attr.name); field != nil {
			*field = v
		}
	}
	return !c.bad
}

// walk reads the unit's entries and notes which functions, inlined ones too, the
// addresses are in.
func (u *unit) walk(want []query, lines *lineTable) error {
	if !u.useAbbrevs() {
		return ErrCorrupt
	}
	d := u.d
	c := cursor{b: d.Info[:u.end], at: int(u.entries)}
	depth := 0
	var e entry
	for c.left() > 0 {
		if err := d.step(); err != nil {
			return err
		}
		code := c.uleb()
		if code == 0 {
			if depth--; depth <= 0 {
				break
			}
			continue
		}
		a, ok := d.table.find(code)
		if !ok || c.bad {
			return ErrCorrupt
		}
		if a.tag != tagSubprogram && a.tag != tagInlinedSubroutine {
			c.skip(a, u)
		} else if c.readEntry(&e, a, u) {
			u.note(want, &e, depth, lines)
		}
		if c.bad {
			return ErrCorrupt
		}
		if a.children {
			if depth++; depth > maxDepth {
				return ErrCorrupt
			}
		}
	}
	return nil
}

func (c *cursor) skip(a *abbrev, u *unit) {
	if a.size >= 0 {
		c.take(uint64(a.size))
		return
	}
	for _, attr := range a.attrs {
		c.readValue(attr.form, u.version, u.is64, 0)
	}
}

// note adds an entry to the chains of the addresses that it covers. Entries come in
// an order in which the outer ones are before the inner ones; what comes later and is
// not deeper is another copy of code that the linker put into one place.
func (u *unit) note(want []query, e *entry, depth int, lines *lineTable) {
	inlined := e.tag == tagInlinedSubroutine
	u.ranges(e, func(low, high uint64) {
		mark(want, low, high, func(q *query) {
			n := len(q.chain)
			switch {
			case n == 0 && inlined: // into what is not known
				return
			case n > 0 && (q.chain[n-1].depth >= depth || n == maxInlined):
				return
			case n > 0 && !inlined: // a function inside a function: its own
				q.chain = q.chain[:0]
			}
			c := call{entry: *e, unit: u, depth: depth, inlined: inlined}
			if inlined {
				c.from = place{file: lines.file(number(e.callFile)), line: number(e.callLine)}
			}
			q.chain = append(q.chain, c)
		})
	})
}

func number(v value) uint64 {
	if v.form == 0 {
		return 0
	}
	return v.n
}

// functionName returns the linkage name of a function, or else its name; entries
// that have neither refer to one that has.
func (u *unit) functionName(e *entry) (name string, mangled bool) {
	for range maxHops {
		if b := u.text(e.linkageName, maxName); len(b) > 0 {
			return string(b), true
		}
		if name == "" {
			name = string(u.text(e.name, maxName))
		}
		next := e.origin
		if next.form == 0 {
			next = e.specification
		}
		var ok bool
		if u, e, ok = u.follow(next); !ok {
			break
		}
	}
	return name, false
}

// follow reads the entry that a value refers to, in this unit or another.
func (u *unit) follow(v value) (*unit, *entry, bool) {
	d, at := u.d, v.n
	switch v.form {
	case formRef1, formRef2, formRef4, formRef8, formRefUData:
		if at += u.start; at < v.n {
			return nil, nil, false
		}
	case formRefAddr:
	case formGNURefAlt, formRefSup4, formRefSup8:
		d = d.alt
	default:
		return nil, nil, false
	}
	if d == nil {
		return nil, nil, false
	}
	to := u
	if d != u.d || at < u.entries || at >= u.end {
		var ok bool
		if to, ok = d.unitOf(at); !ok {
			return nil, nil, false
		}
		to.first()
	}
	e, ok := to.entryAt(at)
	return to, &e, ok
}
