package cfi

import (
	"debug/elf"
	"math"
)

// Arch names an architecture's registers by their places in a Row. On amd64 a place
// is the register's number in DWARF; on arm64 it is that of x16 to x31 less 16: no
// others are needed to find a caller.
type Arch struct {
	SP, FP uint8
	RA     uint8 // the return address: rip on amd64, x30 on arm64
	first  uint8 // DWARF's number of place 0
	count  uint8
}

// The architectures.
var (
	AMD64 = Arch{SP: 7, FP: 6, RA: 16, first: 0, count: 17}
	ARM64 = Arch{SP: 15, FP: 13, RA: 14, first: 16, count: 16}
)

func archOf(m elf.Machine) Arch {
	if m == elf.EM_AARCH64 {
		return ARM64
	}
	return AMD64
}

// Place returns where a register of DWARF's number is in a Row; false where it is not kept.
func (a Arch) Place(register uint64) (uint8, bool) {
	if register < uint64(a.first) || register >= uint64(a.first)+uint64(a.count) {
		return 0, false
	}
	return uint8(register) - a.first, true
}

// NumRegisters is the number of places in a Row.
const NumRegisters = 17

// RuleKind is how a value is found.
type RuleKind uint8

// The kinds of rule.
const (
	Same           RuleKind = iota // the register still has the caller's value
	Undefined                      // lost; of RA: nothing called this frame
	AtOffset                       // in memory at CFA + Offset
	IsOffset                       // CFA + Offset itself
	InRegister                     // Register + Offset; of a CFA, always so or an expression
	AtExpression                   // in memory at what the expression yields
	IsExpression                   // what the expression yields
	unreadableRule                 // it names a register that is not kept
)

// Rule says how to find one register of the caller, or the CFA.
type Rule struct {
	Kind     RuleKind
	Register uint8 // a place
	length   uint16
	Offset   int64 // of an expression, its address
}

// Expression returns a rule's DWARF expression. The CFA is pushed before it is
// evaluated, but for the CFA's own.
func (t *Table) Expression(r *Rule) []byte {
	b, ok := t.file.AtVaddr(uint64(r.Offset))
	if !ok || int(r.length) > len(b) {
		return nil
	}
	return b[:r.length]
}

// Row is what holds at one instruction.
type Row struct {
	CFA       Rule // InRegister or IsExpression
	Registers [NumRegisters]Rule
	Signal    bool // the frame that a signal interrupted is next: its address is no return address
}

// Row finds what holds when the instruction at an address of the file begins; false
// where no function covers it or what there is can't be read.
func (t *Table) Row(pc uint64, row *Row) bool {
	at, ok := t.find(pc)
	if !ok {
		return false
	}
	e, ok := t.entry(at)
	if !ok || pc < e.begin || pc >= e.end {
		return false
	}
	*row = Row{Signal: e.shared.signal}
	m := machine{arch: t.arch, shared: &e.shared, row: row, at: e.begin, until: pc}
	if !m.run(e.shared.program) {
		return false
	}
	initial := *row
	m.initial, m.at = &initial, e.begin
	return m.run(e.program) && (row.CFA.Kind == InRegister || row.CFA.Kind == IsExpression)
}

// Function returns where the function that an address is in begins and ends; false where
// no function covers it.
func (t *Table) Function(pc uint64) (begin, end uint64, ok bool) {
	at, ok := t.find(pc)
	if !ok {
		return 0, 0, false
	}
	e, ok := t.entry(at)
	return e.begin, e.end, ok && e.begin <= pc && pc < e.end
}

// machine executes call frame instructions until the row of an address is complete.
type machine struct {
	arch       Arch
	shared     *common
	row        *Row
	initial    *Row // after the instructions that functions share; nil while those run
	remembered [maxRemember]Row
	depth      int
	at, until  uint64
}

// Instructions (DWARF 5, 7.24, and the GNU extensions).
const (
	opAdvanceLoc       = 0x1 // in the upper two bits
	opOffset           = 0x2
	opRestore          = 0x3
	opNop              = 0x00
	opSetLoc           = 0x01
	opAdvanceLoc1      = 0x02
	opAdvanceLoc2      = 0x03
	opAdvanceLoc4      = 0x04
	opOffsetExtended   = 0x05
	opRestoreExtended  = 0x06
	opUndefined        = 0x07
	opSameValue        = 0x08
	opRegister         = 0x09
	opRememberState    = 0x0a
	opRestoreState     = 0x0b
	opDefCFA           = 0x0c
	opDefCFARegister   = 0x0d
	opDefCFAOffset     = 0x0e
	opDefCFAExpression = 0x0f
	opExpression       = 0x10
	opOffsetExtendedSF = 0x11
	opDefCFASF         = 0x12
	opDefCFAOffsetSF   = 0x13
	opValOffset        = 0x14
	opValOffsetSF      = 0x15
	opValExpression    = 0x16
	opNegateRAState    = 0x2d // arm64: the return address is signed from here on, or no longer
	opArgsSize         = 0x2e
)

func (m *machine) run(r reader) bool {
	for r.more() {
		op := r.u8()
		low := uint64(op & 0x3f)
		switch op >> 6 {
		case opAdvanceLoc:
			if m.advance(low) {
				return true
			}
		case opOffset:
			m.set(low, Rule{Kind: AtOffset, Offset: int64(r.uleb()) * m.shared.dataAlign})
		case opRestore:
			m.restore(low)
		default:
			done, ok := m.extended(op, &r)
			if done || !ok {
				return ok && !r.bad
			}
		}
	}
	return !r.bad
}

// advance moves on and says whether the row is complete.
func (m *machine) advance(delta uint64) bool {
	m.at += delta * m.shared.codeAlign
	return m.at > m.until
}

// extended executes an instruction that has its whole first byte as its code.
func (m *machine) extended(op byte, r *reader) (done, ok bool) {
	align := m.shared.dataAlign
	switch op {
	case opNop, opNegateRAState:
	case opArgsSize:
		r.uleb()
	case opSetLoc: // compilers don't write it where addresses are relative
		m.at = r.address(m.shared.pointers, 0)
		return m.at > m.until, m.shared.pointers&0xf0 == 0
	case opAdvanceLoc1:
		return m.advance(uint64(r.u8())), true
	case opAdvanceLoc2:
		return m.advance(uint64(r.u16())), true
	case opAdvanceLoc4:
		return m.advance(uint64(r.u32())), true
	case opOffsetExtended:
		m.set(r.uleb(), Rule{Kind: AtOffset, Offset: int64(r.uleb()) * align})
	case opOffsetExtendedSF:
		m.set(r.uleb(), Rule{Kind: AtOffset, Offset: r.sleb() * align})
	case opValOffset:
		m.set(r.uleb(), Rule{Kind: IsOffset, Offset: int64(r.uleb()) * align})
	case opValOffsetSF:
		m.set(r.uleb(), Rule{Kind: IsOffset, Offset: r.sleb() * align})
	case opRestoreExtended:
		m.restore(r.uleb())
	case opUndefined:
		m.set(r.uleb(), Rule{Kind: Undefined})
	case opSameValue:
		m.set(r.uleb(), Rule{Kind: Same})
	case opRegister:
		register := r.uleb()
		m.set(register, m.inRegister(r.uleb(), 0))
	case opExpression:
		m.set(r.uleb(), expression(AtExpression, r))
	case opValExpression:
		m.set(r.uleb(), expression(IsExpression, r))
	case opRememberState:
		if m.depth == maxRemember {
			return false, false
		}
		m.remembered[m.depth] = *m.row
		m.depth++
	case opRestoreState:
		if m.depth == 0 {
			return false, false
		}
		m.depth--
		*m.row = m.remembered[m.depth]
	case opDefCFA:
		m.row.CFA = m.inRegister(r.uleb(), int64(r.uleb()))
	case opDefCFASF:
		m.row.CFA = m.inRegister(r.uleb(), r.sleb()*align)
	case opDefCFARegister:
		m.row.CFA = m.inRegister(r.uleb(), m.row.CFA.Offset)
	case opDefCFAOffset:
		m.row.CFA.Offset = int64(r.uleb())
	case opDefCFAOffsetSF:
		m.row.CFA.Offset = r.sleb() * align
	case opDefCFAExpression:
		m.row.CFA = expression(IsExpression, r)
	default:
		return false, false
	}
	return false, true
}

func (m *machine) set(register uint64, rule Rule) {
	if place, ok := m.arch.Place(register); ok {
		m.row.Registers[place] = rule
	}
}

func (m *machine) restore(register uint64) {
	if place, ok := m.arch.Place(register); ok && m.initial != nil {
		m.row.Registers[place] = m.initial.Registers[place]
	}
}

func (m *machine) inRegister(register uint64, offset int64) Rule {
	place, ok := m.arch.Place(register)
	if !ok {
		return Rule{Kind: unreadableRule}
	}
	return Rule{Kind: InRegister, Register: place, Offset: offset}
}

func expression(kind RuleKind, r *reader) Rule {
	n := r.uleb()
	if n > math.MaxUint16 {
		r.bad = true
	}
	rule := Rule{Kind: kind, length: uint16(n), Offset: int64(r.vaddr + uint64(r.at))}
	r.skip(n)
	return rule
}
