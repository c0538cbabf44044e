package stack

import (
	"encoding/binary"

	"rmagent/internal/stack/cfi"
)

// Of a function that ends with a call, as of "return open(path, flags);", an optimising
// compiler makes a jump: it has no frame any more when what it jumped to runs. But the
// call in front of the return address says whom the caller called.

// GuessTailCall is a frame of such a function: it was called, and where in it the jump is
// nobody tells.
const GuessTailCall = "tail_call"

// tailCaller returns a frame of the function that was called in front of pc, where that is
// neither the one that the frame before is of, nor one that only jumps to another file's.
func (w *walker) tailCaller(r *Region) (f Frame, ok bool) {
	n := len(w.walk.Frames)
	if n == 0 || w.space.Arch != cfi.AMD64 || r.Module == nil || r.unloaded || r.Module.frames == nil || w.guess == GuessFramePointer {
		return f, false
	}
	m, callee := r.Module, &w.walk.Frames[n-1]
	target, ok := m.called(w.pc - r.bias)
	if !ok || m.Go != nil && m.Go.Covers(target) {
		return f, false
	}
	begin, end, ok := m.frames.Function(target)
	if !ok || begin != target || m.jumpsAway(target) {
		return f, false
	}
	if callee.Region.Module == m && (begin <= callee.Vaddr && callee.Vaddr < end || m.isPart(callee.Vaddr)) {
		return f, false
	}
	pc := target + r.bias
	return Frame{PC: pc, Address: pc, Region: r, Vaddr: target, Known: true, Guess: GuessTailCall}, true
}

// atEntry is where the caller's frame is when a function begins.
var atEntry = cfi.Rule{Kind: cfi.InRegister, Register: cfi.AMD64.SP, Offset: 8}

// isPart tells whether what has an address is the part of a function that seldom runs,
// which compilers put elsewhere: its frame is there from its beginning.
func (m *Module) isPart(vaddr uint64) bool {
	var row cfi.Row
	begin, _, ok := m.frames.Function(vaddr)
	return ok && m.frames.Row(begin, &row) && row.CFA != atEntry
}

// called returns whom a direct call in front of a return address calls.
func (m *Module) called(returns uint64) (target uint64, ok bool) {
	const size = 5
	code, ok := m.File.AtVaddr(returns - size)
	if !ok || len(code) < size || code[0] != 0xe8 {
		return 0, false
	}
	return returns + uint64(int64(int32(binary.LittleEndian.Uint32(code[1:])))), true
}
