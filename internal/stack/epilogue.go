package stack

import (
	"math"
	"slices"

	"golang.org/x/arch/x86/x86asm"

	"rmagent/internal/stack/cfi"
)

// musl, which is in every image of Alpine and in static programs, has no call frame
// information, nor has hand-written assembly. Its code tells as much: whichever way a
// function takes from an instruction to a ret, the stack pointer is where the return
// address is then. What calls do that never return is not to be seen; so the return
// address must be that of a call that comes to the instruction, where it says whom it calls.

// GuessEpilogue and GuessFramePointer are how a frame was found that is not certain.
const (
	GuessEpilogue     = "epilogue"
	GuessFramePointer = "frame_pointer"
)

const (
	maxFollowed = 2000 // instructions, of one function
	maxExits    = 4
	maxRows     = 1024 // and as many approaches, remembered of a module: 1.3 MB at most
	longestCall = 7    // bytes
)

// where is a place on the stack: at an offset from the stack or frame pointer as it is at
// the instruction that is asked about.
type where struct {
	frame  bool
	offset int64
}

// point is an instruction and where SP is when it begins.
type point struct {
	vaddr uint64
	sp    where
}

// course is a way through a function.
type course struct {
	point
	// top is the highest offset that SP went down from: what is below was not there at the
	// instruction that is asked about, but put there on the way, as by a function that the
	// way jumps to at its end.
	top    int64
	saved  [len(places)]saved
	pushed [len(places)]pushed
}

// pushed is where a register was pushed on the way, and what it was; it is there no more
// where SP is above.
type pushed struct {
	there bool
	at    int64
	what  saved
}

// saved is what became of the caller's value of a register.
type saved struct {
	kind savedKind
	at   where
}

type savedKind uint8

const (
	untouched savedKind = iota
	onStack
	overwritten
)

// exits finds how the function at an instruction returns to its caller, the nearest ret
// first; there are several where the ways don't agree.
func (m *Module) exits(vaddr uint64) []cfi.Row {
	if rows, ok := m.rows[vaddr]; ok {
		return rows
	}
	var rows []cfi.Row
	m.follow(vaddr, func(c *course, inst *x86asm.Inst) bool {
		if inst.Op != x86asm.RET || inst.Args[0] != nil {
			return true
		}
		row := c.row()
		if !slices.ContainsFunc(rows, func(r cfi.Row) bool { return r.CFA == row.CFA }) {
			rows = append(rows, row)
		}
		return len(rows) < maxExits
	})
	if len(m.rows) >= maxRows || m.rows == nil {
		m.rows = map[uint64][]cfi.Row{}
	}
	m.rows[vaddr] = rows
	return rows
}

// row is the rules at the instruction that a course began with, where a ret ends it.
func (c *course) row() (row cfi.Row) {
	a := cfi.AMD64
	row.CFA = cfi.Rule{Kind: cfi.InRegister, Register: a.SP, Offset: c.sp.offset + 8}
	if c.sp.frame {
		row.CFA.Register = a.FP
	}
	for i, s := range c.saved {
		place := places[i]
		switch {
		case s.kind == onStack && s.at.frame == c.sp.frame:
			row.Registers[place] = cfi.Rule{Kind: cfi.AtOffset, Offset: s.at.offset - row.CFA.Offset}
		case s.kind != untouched:
			row.Registers[place].Kind = cfi.Undefined
		}
	}
	row.Registers[a.RA] = cfi.Rule{Kind: cfi.AtOffset, Offset: -8}
	return row
}

// approach is a question for reaches.
type approach struct {
	entry, vaddr uint64
	offset       int64
}

// reaches tells whether a function comes to an instruction with SP at such an offset from
// where it was at its entry.
func (m *Module) reaches(p approach) bool {
	if found, ok := m.approaches[p]; ok {
		return found
	}
	found := false
	m.follow(p.entry, func(c *course, _ *x86asm.Inst) bool {
		found = c.vaddr == p.vaddr && (c.sp.frame || c.sp.offset == p.offset)
		return !found
	})
	if len(m.approaches) >= maxRows || m.approaches == nil {
		m.approaches = map[approach]bool{}
	}
	m.approaches[p] = found
	return found
}

// follow goes all ways from an instruction, breadth first, and tells of each instruction
// before it is executed, until visit returns false.
func (m *Module) follow(vaddr uint64, visit func(*course, *x86asm.Inst) bool) {
	queue := []course{{point: point{vaddr: vaddr}}}
	met := map[point]bool{queue[0].point: true}
	for n := 0; n < len(queue) && n < maxFollowed; n++ {
		c := queue[n]
		inst, ok := m.instruction(c.vaddr)
		if !ok {
			continue
		}
		if !visit(&c, &inst) {
			return
		}
		for _, to := range c.execute(&inst) {
			c.vaddr = to
			if !met[c.point] {
				met[c.point] = true
				queue = append(queue, c)
			}
		}
	}
}

// instruction decodes what is at an address; false where there is no code, or none that is
// known.
func (m *Module) instruction(vaddr uint64) (x86asm.Inst, bool) {
	const longest = 15 // bytes
	code, ok := m.File.AtVaddr(vaddr)
	if !ok {
		return x86asm.Inst{}, false
	}
	inst, err := x86asm.Decode(code[:min(len(code), longest)], 64)
	return inst, err == nil
}

// execute makes c what it is after an instruction, and returns which may come next: none
// where the way ends, or nothing can be said of it.
func (c *course) execute(inst *x86asm.Inst) (next []uint64) {
	after := c.vaddr + uint64(inst.Len)
	if target, ok := inst.Args[0].(x86asm.Rel); ok {
		to := after + uint64(int64(target))
		switch {
		case inst.Op == x86asm.JMP:
			return []uint64{to}
		case inst.Op == x86asm.CALL && target == 0: // only to know where it is
			return nil
		case inst.Op == x86asm.CALL: // it leaves SP as it was
			return []uint64{after}
		}
		return []uint64{after, to}
	}
	if !c.change(inst) {
		return nil
	}
	return []uint64{after}
}

// change executes what is no jump; false where the way ends.
func (c *course) change(inst *x86asm.Inst) bool {
	to, from := inst.Args[0], inst.Args[1]
	switch inst.Op {
	case x86asm.RET, x86asm.JMP, x86asm.HLT, x86asm.UD1, x86asm.UD2, x86asm.INT, x86asm.IRETQ, x86asm.ENTER, x86asm.LRET, x86asm.LJMP:
		return false
	case x86asm.CALL, x86asm.CMP, x86asm.TEST:
		return true
	case x86asm.PUSH, x86asm.PUSHFQ:
		return inst.DataSize != 16 && c.push(to)
	case x86asm.POP, x86asm.POPFQ:
		return inst.DataSize != 16 && c.pop(to)
	case x86asm.PUSHF, x86asm.PUSHFD, x86asm.POPF, x86asm.POPFD:
		return false
	case x86asm.XCHG, x86asm.XADD:
		c.overwrite(from)
		if isSP(from) {
			return false
		}
	case x86asm.LEAVE:
		if !c.framed() {
			return false
		}
		c.setSP(where{frame: true})
		return c.pop(x86asm.RBP)
	}
	if to == x86asm.RSP {
		return c.moveSP(inst)
	}
	if mem, ok := from.(x86asm.Mem); ok && inst.Op == x86asm.MOV && mem.Base == x86asm.RSP && mem.Index == 0 {
		c.load(to, c.sp.offset+mem.Disp)
		return true
	}
	c.overwrite(to)
	return !isSP(to)
}

// isSP tells whether an operand is the stack pointer or a part of it.
func isSP(arg x86asm.Arg) bool {
	return arg == x86asm.RSP || arg == x86asm.ESP || arg == x86asm.SP || arg == x86asm.SPB
}

func (c *course) push(from x86asm.Arg) bool {
	c.setSP(where{c.sp.frame, c.sp.offset - 8})
	if i, ok := preserved(from); ok {
		c.pushed[i] = pushed{there: true, at: c.sp.offset, what: c.saved[i]}
	}
	return true
}

func (c *course) pop(to x86asm.Arg) bool {
	c.load(to, c.sp.offset)
	c.setSP(where{c.sp.frame, c.sp.offset + 8})
	return !isSP(to)
}

// setSP moves the stack pointer.
func (c *course) setSP(to where) {
	switch {
	case to.frame != c.sp.frame: // what was pushed is not in sight any more
		c.top, c.pushed = math.MinInt64, [len(places)]pushed{}
	case to.offset < c.sp.offset:
		c.top = max(c.top, c.sp.offset)
	}
	c.sp = to
	for i := range c.pushed {
		c.pushed[i].there = c.pushed[i].there && c.pushed[i].at >= to.offset
	}
}

// framed tells whether RBP still is what it was.
func (c *course) framed() bool { return c.saved[framePointer].kind == untouched }

// load notes that a register is restored from a place at an offset from where SP is
// reckoned.
func (c *course) load(to x86asm.Arg, at int64) {
	i, ok := preserved(to)
	switch p := &c.pushed[i]; {
	case !ok:
	case p.there && p.at == at:
		c.saved[i] = p.what
	case at < c.top:
		c.saved[i] = saved{kind: overwritten}
	default:
		c.saved[i] = saved{onStack, where{c.sp.frame, at}}
	}
}

func (c *course) overwrite(to x86asm.Arg) {
	if i, ok := preserved(to); ok {
		c.saved[i] = saved{kind: overwritten}
	}
}

// moveSP executes what changes SP; false where it can't be told to what.
func (c *course) moveSP(inst *x86asm.Inst) bool {
	imm, constant := inst.Args[1].(x86asm.Imm)
	mem, address := inst.Args[1].(x86asm.Mem)
	to := c.sp
	switch {
	case inst.Op == x86asm.ADD && constant:
		to.offset += int64(imm)
	case inst.Op == x86asm.SUB && constant:
		to.offset -= int64(imm)
	case inst.Op == x86asm.LEA && address && mem.Index == 0 && mem.Base == x86asm.RSP:
		to.offset += mem.Disp
	case inst.Op == x86asm.LEA && address && mem.Index == 0 && mem.Base == x86asm.RBP && c.framed():
		to = where{true, mem.Disp}
	case inst.Op == x86asm.MOV && inst.Args[1] == x86asm.RBP && c.framed():
		to = where{frame: true}
	default:
		return false
	}
	c.setSP(to)
	return true
}

// places are the registers that functions keep for their callers (System V ABI).
var places = [...]uint8{3, 6, 12, 13, 14, 15}

const framePointer = 1 // of places

// preserved is which of places a register, or a part of it, is.
func preserved(a x86asm.Arg) (i int, ok bool) {
	switch a {
	case x86asm.RBX, x86asm.EBX, x86asm.BX, x86asm.BL, x86asm.BH:
		return 0, true
	case x86asm.RBP, x86asm.EBP, x86asm.BP, x86asm.BPB:
		return framePointer, true
	case x86asm.R12, x86asm.R12L, x86asm.R12W, x86asm.R12B:
		return 2, true
	case x86asm.R13, x86asm.R13L, x86asm.R13W, x86asm.R13B:
		return 3, true
	case x86asm.R14, x86asm.R14L, x86asm.R14W, x86asm.R14B:
		return 4, true
	case x86asm.R15, x86asm.R15L, x86asm.R15W, x86asm.R15B:
		return 5, true
	}
	return 0, false
}

// epilogueStep steps to the caller by what the code at f does until it returns.
func (w *walker) epilogueStep(f *Frame) step {
	if w.space.Arch != cfi.AMD64 {
		return noTable
	}
	m := f.Region.Module
	vaddr := w.pc - f.Region.bias
	for _, row := range m.exits(vaddr) {
		base := &w.regs[row.CFA.Register]
		if !w.known(base) {
			continue
		}
		if base.v == 0 && base.place != noPlace {
			w.depend(base.place, Zero, 0)
			continue
		}
		ra, ok := w.stackAt(base, row.CFA.Offset-8)
		if !ok {
			return w.windowEnd()
		}
		if !w.isCode(ra.v, ra.place) {
			continue
		}
		region := w.space.Find(ra.v)
		if region.File && region.Module == nil && region.Reason == "" {
			w.walk.Needs = region
			return ended
		}
		if !region.calls(ra.v, f.Region, vaddr, &row) && !region.isSigreturn(ra.v) {
			continue
		}
		w.guess = GuessEpilogue
		return w.cfiStep(nil, &row)
	}
	return noTable
}

// calls tells whether the instruction before an address is a call, and, where it says whom
// it calls, whether that comes to the instruction at vaddr of the region callee. Where the
// function returns by its frame pointer, there is nothing that SP could contradict.
func (r *Region) calls(returns uint64, callee *Region, vaddr uint64, row *cfi.Row) bool {
	if r.Module == nil || r.unloaded {
		return false
	}
	to := returns - r.bias
	if target, ok := r.Module.called(to); ok {
		return row.CFA.Register == cfi.AMD64.FP || r.Module.jumpsAway(target) ||
			r.Module == callee.Module && r.Module.reaches(approach{target, vaddr, 8 - row.CFA.Offset})
	}
	code, ok := r.Module.File.AtVaddr(to - longestCall)
	if !ok || len(code) < longestCall {
		return false
	}
	code = code[:longestCall]
	for n := 2; n <= longestCall; n++ {
		inst, err := x86asm.Decode(code[longestCall-n:], 64)
		if err == nil && inst.Len == n && inst.Op == x86asm.CALL {
			return true
		}
	}
	return false
}

// jumpsAway tells whether a function is only a jump to where a pointer says, as those are
// by which others are called that are in another file.
func (m *Module) jumpsAway(vaddr uint64) bool {
	for range 3 { // after endbr64 and push, where there are some
		inst, ok := m.instruction(vaddr)
		if !ok {
			return false
		}
		if inst.Op == x86asm.JMP {
			_, far := inst.Args[0].(x86asm.Mem)
			return far
		}
		vaddr += uint64(inst.Len)
	}
	return false
}
