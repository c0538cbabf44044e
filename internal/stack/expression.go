package stack

import (
	"encoding/binary"

	"rmagent/internal/stack/cfi"
)

func littleEndian(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

const (
	maxExpressionSteps = 256
	maxExpressionStack = 32
)

// term is a value in an expression. Where it is relative, another stack with the same
// answers has it as far from its own SP.
type term struct {
	v        uint64
	relative bool
}

// evaluate computes a DWARF expression, pushing first where it is not nil. It does what
// occurs in call frame information: PLT entries, realigned stacks, the return from
// signal handlers.
func (w *walker) evaluate(expr []byte, first *value) (value, bool) {
	e := evaluator{w: w, code: expr}
	if first != nil {
		e.push(term{first.v, true})
	}
	for n := 0; len(e.code) > 0; n++ {
		if n == maxExpressionSteps || !e.step() {
			return lost, false
		}
	}
	if e.n == 0 {
		return lost, false
	}
	top := e.stack[e.n-1]
	if !top.relative {
		// Compared with SP later on, it is not the same for another SP.
		w.exact = false
	}
	return value{top.v, true, noPlace}, true
}

type evaluator struct {
	w     *walker
	code  []byte
	stack [maxExpressionStack]term
	n     int
}

// Operations (DWARF 5, 7.7.1).
const (
	opDeref      = 0x06
	opConst1u    = 0x08
	opConst1s    = 0x09
	opConst2u    = 0x0a
	opConst2s    = 0x0b
	opConst4u    = 0x0c
	opConst4s    = 0x0d
	opConst8u    = 0x0e
	opConst8s    = 0x0f
	opConstu     = 0x10
	opConsts     = 0x11
	opDup        = 0x12
	opDrop       = 0x13
	opAnd        = 0x1a
	opMinus      = 0x1c
	opMul        = 0x1e
	opOr         = 0x21
	opPlus       = 0x22
	opPlusUconst = 0x23
	opShl        = 0x24
	opShr        = 0x25
	opEq         = 0x29
	opGe         = 0x2a
	opGt         = 0x2b
	opLe         = 0x2c
	opLt         = 0x2d
	opNe         = 0x2e
	opLit0       = 0x30
	opLit31      = 0x4f
	opBreg0      = 0x70
	opBreg31     = 0x8f
	opNop        = 0x96
)

func (e *evaluator) push(t term) bool {
	if e.n == len(e.stack) {
		return false
	}
	e.stack[e.n] = t
	e.n++
	return true
}

func (e *evaluator) constant(n int, signed bool) bool {
	if len(e.code) < n {
		return false
	}
	var b [8]byte
	copy(b[:], e.code[:n])
	e.code = e.code[n:]
	v := littleEndian(b[:])
	if shift := 64 - 8*n; signed {
		v = uint64(int64(v<<shift) >> shift)
	}
	return e.push(term{v: v})
}

func (e *evaluator) step() bool {
	op := e.code[0]
	e.code = e.code[1:]
	switch {
	case op == opNop:
		return true
	case op >= opLit0 && op <= opLit31:
		return e.push(term{v: uint64(op - opLit0)})
	case op >= opBreg0 && op <= opBreg31:
		return e.register(uint64(op - opBreg0))
	case op >= opConst1u && op <= opConst8s:
		return e.constant(1<<((op-opConst1u)/2), op%2 == 1)
	case op == opConstu:
		v, n := binary.Uvarint(e.code)
		e.code = e.code[max(n, 0):]
		return n > 0 && e.push(term{v: v})
	case op == opConsts:
		v, n := sleb(e.code)
		e.code = e.code[n:]
		return n > 0 && e.push(term{v: uint64(v)})
	case e.n == 0:
		return false
	}
	top := &e.stack[e.n-1]
	switch op {
	case opDeref:
		return e.dereference(top)
	case opDup:
		return e.push(*top)
	case opDrop:
		e.n--
		return true
	case opPlusUconst:
		v, n := binary.Uvarint(e.code)
		e.code = e.code[max(n, 0):]
		top.v += v
		return n > 0
	}
	if e.n < 2 {
		return false
	}
	e.n--
	return e.binary(op, &e.stack[e.n-1], *top)
}

func (e *evaluator) register(number uint64) bool {
	offset, n := sleb(e.code)
	place, ok := e.w.space.Arch.Place(number)
	if n == 0 || !ok || !e.w.known(&e.w.regs[place]) {
		return false
	}
	e.code = e.code[n:]
	r := &e.w.regs[place]
	if e.w.space.Arch != cfi.ARM64 && place == e.w.space.Arch.RA {
		return e.push(term{v: r.v + uint64(offset)})
	}
	e.w.distance(r)
	return e.push(term{r.v + uint64(offset), true})
}

// dereference replaces an address of the stack by the word there, which the
// expression may go on with as an address.
func (e *evaluator) dereference(top *term) bool {
	if !top.relative {
		e.w.exact = false
	}
	at := value{top.v, true, noPlace}
	v, ok := e.w.stackAt(&at, 0)
	if !ok {
		return false
	}
	e.w.distance(&v)
	*top = term{v.v, true}
	return true
}

func (e *evaluator) binary(op byte, a *term, b term) bool {
	relative := a.relative || b.relative
	switch op {
	case opPlus:
		e.inexactIf(a.relative && b.relative)
		*a = term{a.v + b.v, relative}
		return true
	case opMinus:
		e.inexactIf(!a.relative && b.relative)
		*a = term{a.v - b.v, a.relative && !b.relative}
		return true
	}
	e.inexactIf(relative) // all others depend on the address itself
	v := uint64(0)
	truth := func(yes bool) {
		if yes {
			v = 1
		}
	}
	switch op {
	case opAnd:
		v = a.v & b.v
	case opMul:
		v = a.v * b.v
	case opOr:
		v = a.v | b.v
	case opShl:
		v = a.v << b.v
	case opShr:
		v = a.v >> b.v
	case opEq:
		truth(a.v == b.v)
	case opGe:
		truth(int64(a.v) >= int64(b.v))
	case opGt:
		truth(int64(a.v) > int64(b.v))
	case opLe:
		truth(int64(a.v) <= int64(b.v))
	case opLt:
		truth(int64(a.v) < int64(b.v))
	case opNe:
		truth(a.v != b.v)
	default:
		return false
	}
	*a = term{v: v}
	return true
}

func (e *evaluator) inexactIf(yes bool) {
	if yes {
		e.w.exact = false
	}
}

// sleb reads a signed LEB128 and returns its length; 0 where there is none.
func sleb(b []byte) (int64, int) {
	var v int64
	for i := 0; i < len(b) && i < 10; i++ {
		v |= int64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			if shift := 7 * (i + 1); shift < 64 && b[i]&0x40 != 0 {
				v |= -1 << shift
			}
			return v, i + 1
		}
	}
	return 0, 0
}
