// Package stack walks call stacks that were copied raw: registers, the memory above
// the stack pointer, and the chain of frame pointers.
//
// Each step to a caller takes the best there is: Go's own table, the call frame
// information of the file (.eh_frame), what the code does until it returns, a saved frame
// pointer. The last two are marked as a guess, as is all that they lead to. A walk that
// does not reach the thread's or goroutine's first function says why it ends.
//
// The files that a walk reads are foreign, and so is the stack: all of it is bounded,
// and belongs into elffile.Guard in a process that has nothing to lose. Only amd64 is
// tested; arm64 has the same steps.
package stack

import (
	"bytes"
	"cmp"
	"path"
	"strings"

	"rmagent/internal/gotab"
	"rmagent/internal/sample"
	"rmagent/internal/stack/cfi"
)

// MaxFrames is how many frames a walk has at most, inlined ones not counted.
const MaxFrames = 256

// Frame is one instruction of a call stack.
type Frame struct {
	// PC is where the thread is (in the first frame) or where it returns to; Address is
	// the same, less one where it is a return address, so that it lies in the call.
	PC, Address uint64
	Region      *Region
	Vaddr       uint64 // Address in the region's file; 0 where Known is false
	Known       bool   // the file and its layout are known
	Guess       string // how it was found, where nothing better was; "" where it is certain

	// Of HotSpot's generated code: the Method and the bytecode that a frame of the
	// interpreter has, or that its address alone tells what it is.
	Method, Bytecode uint64
	Named            bool
}

// Walk is the outcome of walking one stack.
type Walk struct {
	Frames []Frame // innermost first
	End    string  // why it ends before the first function; "" where it does not
	// Needs are regions with a file whose module is not there yet: the walk is to be
	// done again with them. The rest then means nothing.
	Needs *Region
	// NeedsCode is an address in generated code that has to be told of first, likewise;
	// 0: none.
	NeedsCode uint64
	// GoStart is the entry of the function that the goroutine began with; 0 where the
	// walk did not get there, or it is not one that somebody's go statement started.
	GoStart uint64
	Deps    []Dep // what it depended on; nil where that can't be said
}

// The reasons for ends that need no name of a module.
const (
	EndWindow   = "the copied part of the stack ends here"
	EndNotCode  = "the return address is not in executable memory"
	EndFrames   = "more than 256 frames"
	EndNoMove   = "the stack pointer does not move"
	EndRegister = "a register that was not copied is needed"
	EndJIT      = "generated code without a frame pointer"
	EndStack    = "the goroutine's own stack was left here"
	// EndSignal is no failure: whatever a signal interrupts did not ask for what its
	// handler does, and is another place each time.
	EndSignal = "a signal was handled here"
	// EndLibuv is no failure: the thread's first function was reached.
	EndLibuv = "libuv worker: who asked for it is on another thread"
)

// value is the content of a register while walking.
type value struct {
	v     uint64
	known bool
	// place is where it was read from, and is to be asked for when it is used; noPlace
	// where it was. Of what is not known, it is the place that is missing.
	place Place
}

var lost = value{place: noPlace}

func lostRegisters() (regs [cfi.NumRegisters]value) {
	for i := range regs {
		regs[i] = lost
	}
	return regs
}

// walker is the state of one walk. Addresses of the stack are compared as distances
// from the first SP, so that the walk depends on nothing else.
type walker struct {
	space *Space
	raw   *sample.RawStack
	walk  Walk
	exact bool // Deps say it all

	regs [cfi.NumRegisters]value
	pc   uint64
	// called says that pc is a return address.
	called bool
	guess  string // of the step to the frame that comes next
	doubt  string // of a step before: where one went astray, so do those that follow
	// chain is the element of the chain that comes next, once the window has ended.
	chain   int
	chained bool
	// start is the entry of the Go function walked last.
	start uint64
}

// step is how a step ended.
type step uint8

const (
	stepped step = iota
	ended        // walk.End says why, "" at the first function
	noTable      // this way can't be taken
)

// WalkStack walks a raw stack.
func (s *Space) WalkStack(raw *sample.RawStack) Walk {
	w := &walker{space: s, raw: raw, exact: true}
	w.begin()
	for w.next() {
	}
	if !w.exact || len(w.walk.Deps) > MaxDeps {
		w.walk.Deps = nil
	}
	return w.walk
}

func (w *walker) begin() {
	w.regs = lostRegisters()
	set := func(place uint8, v uint64, from Place) { w.regs[place] = value{v, true, from} }
	a := w.space.Arch
	set(a.SP, w.raw.SP, noPlace)
	set(a.FP, w.raw.BP, regBP)
	w.pc = w.raw.IP
	if a == cfi.ARM64 {
		set(a.RA, w.raw.LR, regLR)
	} else {
		set(3, w.raw.BX, regBX)
		for i, v := range []uint64{w.raw.R12, w.raw.R13, w.raw.R14, w.raw.R15} {
			set(uint8(12+i), v, regR12-Place(i))
		}
		set(a.RA, w.pc, noPlace)
	}
	if w.isCode(w.pc, regIP) {
		return
	}
	w.end(EndNotCode)
}

// next adds the frame at pc and steps to its caller; false where the walk is over.
func (w *walker) next() bool {
	region := w.space.Find(w.pc)
	if region == nil {
		return false
	}
	if region.File && region.Module == nil && region.Reason == "" {
		w.walk.Needs = region
		return false
	}
	if len(w.walk.Frames) == MaxFrames {
		w.end(EndFrames)
		return false
	}
	f := Frame{PC: w.pc, Address: w.pc, Region: region, Guess: cmp.Or(w.guess, w.doubt)}
	handler := w.called && w.space.Arch == cfi.AMD64 && region.isSigreturn(w.pc)
	if w.called && !handler {
		f.Address--
	}
	if region.Module != nil && !region.unloaded {
		f.Vaddr, f.Known = f.Address-region.bias, true
	}
	if w.called && !handler {
		if tail, ok := w.tailCaller(region); ok && len(w.walk.Frames) < MaxFrames-1 {
			w.walk.Frames = append(w.walk.Frames, tail)
		}
	}
	code := w.generated(region)
	if w.walk.NeedsCode != 0 {
		return false
	}
	w.guess, w.doubt = "", f.Guess
	if code != nil {
		f.Named = code.Named
		return w.leaveGenerated(f, code) == stepped
	}
	w.walk.Frames = append(w.walk.Frames, f)
	if handler {
		w.end(EndSignal)
		return false
	}
	return w.leave(&f) == stepped
}

// generated returns what was told of the code at pc; nil where that is nothing, or
// nobody tells.
func (w *walker) generated(r *Region) *Code {
	if r.File || !w.space.Generates || w.space.Arch != cfi.AMD64 {
		return nil
	}
	c := w.space.code(w.pc)
	if c == nil {
		w.walk.NeedsCode = w.pc
	}
	return c
}

// leaveGenerated adds a frame of code that was told of, and steps to its caller.
func (w *walker) leaveGenerated(f Frame, c *Code) step {
	ended := len(w.walk.Frames)
	w.walk.Frames = append(w.walk.Frames, f)
	switch {
	case w.chained || c.Kind == CodeUnknown:
		return w.leave(&f)
	case c.Kind == CodeFrame && c.FrameBytes >= 16:
		return w.frameStep(c.FrameBytes)
	case c.Kind == CodeInterpreter:
		return w.interpreterStep(&w.walk.Frames[ended])
	}
	return w.pointerStep(&f)
}

// frameStep leaves a frame whose size is known: above it is the return address, and
// below that the caller's frame pointer, as HotSpot's compilers have it on amd64
// (frame_x86.inline.hpp, sender_for_compiled_frame).
func (w *walker) frameStep(size uint64) step {
	a := w.space.Arch
	sp := &w.regs[a.SP]
	if !w.known(sp) {
		return w.windowEnd()
	}
	regs := lostRegisters()
	regs[a.FP], _ = w.lookAt(sp, int64(size)-16, a.FP)
	ra, ok := w.stackAt(sp, int64(size)-8)
	if !ok {
		return w.windowEnd()
	}
	regs[a.SP] = value{sp.v + size, true, noPlace}
	return w.returnTo(&regs, ra)
}

// interpreterStep leaves a frame of HotSpot's interpreter (frame_x86.hpp, the same from
// JDK 9 on), and notes what it runs.
func (w *walker) interpreterStep(f *Frame) step {
	const senderSP, method, bytecode = -8, -24, -64
	a := w.space.Arch
	fp := w.regs[a.FP]
	if !w.known(&fp) {
		return w.windowEnd()
	}
	ra, ok := w.stackAt(&fp, 8)
	if !ok {
		return w.windowEnd()
	}
	m, ok := w.stackAt(&fp, method)
	if !ok {
		return w.windowEnd()
	}
	b, ok := w.stackAt(&fp, bytecode)
	if !ok {
		return w.windowEnd()
	}
	f.Method, f.Bytecode = m.v, b.v
	w.depend(m.place, Equals, m.v)
	w.depend(b.place, Equals, b.v)
	regs := lostRegisters()
	regs[a.FP], _ = w.lookAt(&fp, 0, a.FP)
	if regs[a.SP], ok = w.stackAt(&fp, senderSP); !ok {
		return w.windowEnd()
	}
	return w.returnTo(&regs, ra)
}

// leave steps to the caller by the best way there is.
func (w *walker) leave(f *Frame) step {
	if f.Known {
		m := f.Region.Module
		if m.Go != nil && m.Go.Covers(f.Vaddr) {
			if s := w.goStep(f); s != noTable {
				return s
			}
		}
	}
	if w.chained {
		return w.chainStep(true)
	}
	if f.Known {
		m := f.Region.Module
		var row cfi.Row
		if m.frames != nil && m.frames.Row(f.Vaddr, &row) {
			return w.cfiStep(m.frames, &row)
		}
		if s := w.epilogueStep(f); s != noTable {
			return s
		}
	}
	return w.pointerStep(f)
}

func (w *walker) end(why string) step {
	w.walk.End = why
	return ended
}

func (w *walker) depend(p Place, c Condition, v uint64) {
	if w.exact = w.exact && len(w.walk.Deps) < MaxDeps; w.exact {
		w.walk.Deps = append(w.walk.Deps, Dep{p, c, v})
	}
}

// isCode asks a place whether its value is an address of code.
func (w *walker) isCode(v uint64, from Place) bool {
	condition := Equals
	switch {
	case v == 0:
		condition = Zero
	case w.space.Find(v) == nil:
		condition, v = NotCode, 0
	}
	if from != noPlace {
		w.depend(from, condition, v)
	}
	return condition == Equals
}

// known says whether a register is, and asks for what is missing where it is not.
func (w *walker) known(r *value) bool {
	if !r.known && r.place != noPlace {
		w.depend(r.place, Missing, 0)
	}
	return r.known
}

// distance uses a register as an address of the stack: how far from the first SP.
func (w *walker) distance(r *value) int64 {
	d := r.v - w.raw.SP
	if r.place != noPlace {
		w.depend(r.place, EqualsSP, d)
		r.place = noPlace
	}
	return int64(d)
}

// stackAt reads the window at a register + offset; false where it is not there. The
// value is only asked for when it is used.
func (w *walker) stackAt(r *value, offset int64) (value, bool) {
	at := r.v - w.raw.SP + uint64(offset)
	if !inWindow(w.raw, at) {
		if r.place != noPlace {
			w.depend(r.place, OutOfWindow, uint64(offset))
		} else if at < 1<<30 {
			w.depend(Place(at), Missing, 0)
		} // else it is below the window, or so far above that no window is so long
		return lost, false
	}
	w.distance(r)
	v, _ := read(w.raw, Place(at))
	return value{v, true, Place(at)}, true
}

// returnTo makes the caller's registers the current ones.
func (w *walker) returnTo(regs *[cfi.NumRegisters]value, ra value) step {
	if !w.known(&ra) {
		return w.end(EndRegister)
	}
	if !w.isCode(ra.v, ra.place) {
		if ra.v == 0 { // the ABIs ask for it in the first frame
			return w.end("")
		}
		return w.end(EndNotCode)
	}
	a := w.space.Arch
	before, after := w.distance(&w.regs[a.SP]), w.distance(&regs[a.SP])
	if after < before || after == before && w.called {
		return w.end(EndNoMove)
	}
	w.regs = *regs
	w.pc, w.called = ra.v, true
	if a != cfi.ARM64 {
		w.regs[a.RA] = value{ra.v, true, noPlace}
	}
	return stepped
}

// cfiStep steps by call frame information.
func (w *walker) cfiStep(t *cfi.Table, row *cfi.Row) step {
	a := w.space.Arch
	if row.Registers[a.RA].Kind == cfi.Undefined {
		return w.end("")
	}
	if row.Signal {
		return w.end(EndSignal)
	}
	if w.outOfWindow(row) {
		return w.end(EndWindow)
	}
	cfa, ok := w.cfa(t, row)
	if !ok {
		return w.end(EndRegister)
	}
	regs := w.regs
	for i := range row.Registers {
		v, ok := w.restore(t, &row.Registers[i], uint8(i), &cfa)
		switch {
		case ok:
			regs[i] = v
		case uint8(i) == a.RA:
			return w.windowEnd()
		default:
			regs[i] = v
		}
	}
	if row.Registers[a.SP].Kind == cfi.Same {
		regs[a.SP] = cfa
	}
	if !w.known(&regs[a.SP]) {
		return w.windowEnd()
	}
	ra := regs[a.RA]
	if a == cfi.ARM64 && ra.v>>48 != 0 { // a signed return address has its signature there
		ra.v &= 1<<48 - 1
		w.exact = false
	}
	return w.returnTo(&regs, ra)
}

// cfa finds where the frame began; ok is false where it is not known.
func (w *walker) cfa(t *cfi.Table, row *cfi.Row) (cfa value, ok bool) {
	if row.CFA.Kind == cfi.IsExpression {
		return w.evaluate(t.Expression(&row.CFA), nil)
	}
	base := &w.regs[row.CFA.Register]
	if !w.known(base) {
		return lost, false
	}
	w.distance(base)
	return value{base.v + uint64(row.CFA.Offset), true, noPlace}, true
}

// outOfWindow says whether the return address is out of the window, where it is at an
// offset from a register that was never asked: of a stack without a chain, that is all
// that the walk depends on then.
func (w *walker) outOfWindow(row *cfi.Row) bool {
	ra := row.Registers[w.space.Arch.RA]
	if row.CFA.Kind != cfi.InRegister || ra.Kind != cfi.AtOffset {
		return false
	}
	base, offset := &w.regs[row.CFA.Register], uint64(row.CFA.Offset+ra.Offset)
	if !base.known || base.v == 0 || base.place == noPlace || inWindow(w.raw, base.v+offset-w.raw.SP) {
		return false
	}
	w.depend(base.place, OutOfWindow, offset)
	if first, ok := read(w.raw, firstChain); ok {
		w.depend(firstChain, Equals, first)
		return false
	}
	w.depend(firstChain, Missing, 0)
	return true
}

func (w *walker) restore(t *cfi.Table, rule *cfi.Rule, place uint8, cfa *value) (value, bool) {
	switch rule.Kind {
	case cfi.Same:
		return w.regs[place], true
	case cfi.AtOffset:
		return w.lookAt(cfa, rule.Offset, place)
	case cfi.IsOffset:
		return value{cfa.v + uint64(rule.Offset), true, noPlace}, true
	case cfi.InRegister:
		if !w.known(&w.regs[rule.Register]) {
			return lost, false
		}
		r := w.regs[rule.Register]
		if rule.Offset != 0 {
			w.distance(&w.regs[rule.Register])
			r = value{r.v + uint64(rule.Offset), true, noPlace}
		}
		return r, true
	case cfi.AtExpression:
		at, ok := w.evaluate(t.Expression(rule), cfa)
		if !ok {
			return lost, false
		}
		return w.lookAt(&at, 0, place)
	case cfi.IsExpression:
		return w.evaluate(t.Expression(rule), cfa)
	}
	return lost, false
}

// lookAt reads a saved register. Only what the walk can't go on without is asked for
// where it is missing.
func (w *walker) lookAt(base *value, offset int64, place uint8) (value, bool) {
	if a := w.space.Arch; place != a.RA && place != a.SP {
		if at := base.v - w.raw.SP + uint64(offset); !inWindow(w.raw, at) {
			if at < 1<<30 {
				return value{place: Place(at)}, false
			}
			return lost, false
		}
	}
	return w.stackAt(base, offset)
}

// goStep steps by Go's table.
func (w *walker) goStep(f *Frame) step {
	fn, ok := f.Region.Module.Go.Func(f.Vaddr)
	if !ok {
		return noTable
	}
	if fn.TopFrame() {
		if strings.HasPrefix(fn.Name(), "runtime.goexit") { // with .abi0 in some versions
			w.walk.GoStart = w.start
		}
		return w.end("")
	}
	w.start = fn.Entry + f.Region.bias
	delta, ok := fn.SPDelta(f.Vaddr)
	if !ok || delta < 0 {
		return noTable
	}
	if w.chained {
		return w.chainStep(delta == 0)
	}
	if w.called && fn.SPWrite() { // it went to another stack before the call
		return w.switched()
	}
	return w.goReturn(uint64(delta))
}

// goReturn leaves a Go frame. On amd64 the return address is above the frame, and
// below it the caller's frame pointer, if the function has a frame. On arm64 the link
// register is at the frame's bottom, and below that the frame pointer.
func (w *walker) goReturn(delta uint64) step {
	a := w.space.Arch
	sp := w.regs[a.SP]
	regs := lostRegisters() // Go's functions keep nothing for their callers
	var ra value
	ok := true
	switch {
	case a != cfi.ARM64:
		regs[a.SP] = value{sp.v + delta + 8, true, noPlace}
		regs[a.FP] = w.regs[a.FP]
		if delta >= 8 {
			regs[a.FP], _ = w.lookAt(&regs[a.SP], -16, a.FP)
		}
		ra, ok = w.stackAt(&regs[a.SP], -8)
	case delta == 0:
		regs[a.SP], ra = sp, w.regs[a.RA]
	default:
		regs[a.SP] = value{sp.v + delta, true, noPlace}
		ra, ok = w.stackAt(&sp, 0)
		regs[a.FP], _ = w.lookAt(&sp, -8, a.FP)
	}
	if !ok {
		if delta >= 8 && w.alignChain(&value{regs[a.SP].v - 16, true, noPlace}) {
			return w.chainStep(false)
		}
		return w.windowEnd()
	}
	return w.returnTo(&regs, ra)
}

// switched goes on where a function changed to another stack: the chain of frame
// pointers may lead back. One frame, the caller's, is skipped.
func (w *walker) switched() step { return w.byChain(EndStack) }

// windowEnd goes on by the chain where the window has ended, if the frame pointer is
// an element of it.
func (w *walker) windowEnd() step { return w.byChain(EndWindow) }

func (w *walker) byChain(why string) step {
	if fp := &w.regs[w.space.Arch.FP]; w.known(fp) && w.alignChain(fp) {
		return w.chainStep(true)
	}
	return w.end(why)
}

// alignChain finds the element of the chain that belongs to a frame pointer, by
// following the chain through the window.
func (w *walker) alignChain(target *value) bool {
	fp := value{w.raw.BP, true, regBP}
	for i := 0; ; i++ {
		element, ok := read(w.raw, firstChain-Place(i))
		if !ok {
			w.depend(firstChain-Place(i), Missing, 0)
			return false
		}
		w.depend(firstChain-Place(i), Equals, element)
		d, t := w.distance(&fp), w.distance(target)
		if d == t {
			w.chain = i
			return true
		}
		if d > t || d < 0 {
			return false
		}
		next, ok := w.stackAt(&fp, 0)
		if !ok || w.distance(&next) <= d {
			return false
		}
		fp = next
	}
}

// chainStep takes the next element of the chain as the caller.
func (w *walker) chainStep(guess bool) step {
	place := firstChain - Place(w.chain)
	v, ok := read(w.raw, place)
	if !ok {
		w.depend(place, Missing, 0)
		return w.end(EndWindow)
	}
	if !w.isCode(v, place) {
		if v == 0 {
			return w.end("")
		}
		return w.end(EndNotCode)
	}
	w.chain++
	w.chained = true
	if guess {
		w.guess = GuessFramePointer
	}
	w.pc, w.called = v, true
	return stepped
}

// pointerStep guesses the caller by the frame pointer.
func (w *walker) pointerStep(f *Frame) step {
	a := w.space.Arch
	fp := &w.regs[a.FP]
	if !w.known(fp) {
		return w.end(noInformation(f))
	}
	if fp.v == 0 && fp.place != noPlace {
		w.depend(fp.place, Zero, 0)
		return w.end("") // the ABIs ask for it in the first frame
	}
	ra, ok := w.stackAt(fp, 8)
	if !ok {
		return w.end(noInformation(f))
	}
	if d := w.distance(fp); d%8 != 0 || d < w.distance(&w.regs[a.SP]) {
		return w.end(noInformation(f))
	}
	if w.space.Find(ra.v) == nil {
		w.isCode(ra.v, ra.place)
		return w.end(noInformation(f))
	}
	regs := lostRegisters()
	regs[a.FP], _ = w.stackAt(fp, 0)
	regs[a.SP] = value{fp.v + 16, true, noPlace}
	w.guess = GuessFramePointer
	return w.returnTo(&regs, ra)
}

func noInformation(f *Frame) string {
	switch r := f.Region; {
	case !r.File:
		return EndJIT
	case r.Module == nil:
		return path.Base(r.Path) + " can't be read: " + r.Reason
	default:
		return "no unwind information in " + path.Base(r.Path)
	}
}

// sigreturn is what a signal handler returns to on amd64: mov $15, %rax; syscall. Go,
// musl and others have no call frame information for it, and debuggers recognise it
// by these bytes.
var sigreturn = []byte{0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05}

// isSigreturn says whether a signal's handler returns to pc. Its address is no return
// address: nothing called it.
func (r *Region) isSigreturn(pc uint64) bool {
	if r.Module == nil || r.unloaded {
		return false
	}
	code, ok := r.Module.File.AtVaddr(pc - r.bias)
	return ok && bytes.HasPrefix(code, sigreturn)
}

// Creator finds who started a goroutine in a copy of its runtime.g: the return
// address of the go statement's call. start is the entry of the goroutine's first
// function, as the walk found it (Walk.GoStart). The copy is made after the stack was,
// and the goroutine may have ended since: where the copy is not of a goroutine with
// that first function, it tells nothing.
//
// gopc stands two words before startpc in all versions, the ancestors between them
// being nil unless somebody debugs with them.
func Creator(g []byte, start uint64) (pc uint64, ok bool) {
	if start == 0 {
		return 0, false
	}
	word := func(i int) uint64 { return littleEndian(g[8*i:]) }
	for i := 2; i < len(g)/8; i++ {
		if word(i) == start && word(i-1) == 0 && word(i-2) != 0 {
			return word(i - 2), true
		}
	}
	return 0, false
}

// FindCreator makes a frame of what Creator found; false where it is not Go code.
func (s *Space) FindCreator(pc uint64) (f Frame, fn gotab.Func, ok bool) {
	r := s.Find(pc)
	if r == nil || r.Module == nil || r.Module.Go == nil || r.unloaded {
		return f, fn, false
	}
	f = Frame{PC: pc, Address: pc - 1, Region: r, Vaddr: pc - 1 - r.bias, Known: true}
	fn, ok = r.Module.Go.Func(f.Vaddr)
	return f, fn, ok
}
