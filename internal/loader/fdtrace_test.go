package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

func openTracer(t testing.TB, o FDTraceOptions) *FDTracer {
	t.Helper()
	tr, err := OpenFDTracer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// The tracers that tests share: opening one takes seconds in emulation.
var (
	callTracer    = sync.OnceValues(func() (*FDTracer, error) { return OpenFDTracer(FDTraceOptions{Path: FDPathSyscalls}) })
	installTracer = sync.OnceValues(func() (*FDTracer, error) {
		tr, err := OpenFDTracer(FDTraceOptions{Path: FDPathInstall})
		if err != nil {
			return nil, err
		}
		// Before 6.4 a kernel for arm64 loads what it can't attach.
		return tr, errors.Join(tr.attachHooks(), tr.detach())
	})
)

// eachPath runs a test by every path that the kernel takes.
func eachPath(t *testing.T, run func(t *testing.T, tr *FDTracer)) {
	stop := func(t *testing.T, tr *FDTracer) {
		t.Cleanup(func() {
			var rest sample.FDBirths
			if err := errors.Join(tr.Stop(), tr.Drain(&rest)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("syscalls", func(t *testing.T) {
		tr, err := callTracer()
		if err != nil {
			t.Fatal(err)
		}
		stop(t, tr)
		run(t, tr)
	})
	t.Run("install", func(t *testing.T) {
		tr, err := installTracer()
		if err != nil {
			t.Skipf("the kernel takes no fentry programs: %v", err)
		}
		stop(t, tr)
		run(t, tr)
	})
}

// idOf is who has a PID now.
func idOf(t testing.TB, tr *FDTracer, pid int) sample.ID {
	t.Helper()
	if err := tr.listing.run(int32(pid), 0, 0); err != nil {
		t.Fatal(err)
	}
	var args fdtraceFdListArgs
	if err := tr.listing.args.Get(&args); err != nil {
		t.Fatal(err)
	}
	if args.Found == 0 {
		t.Fatalf("process %d is not there", pid)
	}
	return sample.ID{PID: int32(pid), StartTicks: startTicks(args.Start, tr.env.bootOffset)}
}

// trace starts a helper, and traces it from when it is ready.
func trace(t *testing.T, tr *FDTracer, name string, args ...string) (*helper, sample.ID) {
	t.Helper()
	h := startHelper(t, name, args...)
	h.line()
	id := idOf(t, tr, h.pid)
	if err := tr.Start([]sample.ID{id}); err != nil {
		t.Fatal(err)
	}
	h.next()
	return h, id
}

// traceTwo traces two that open and close files as they are told. They wait for next.
func traceTwo(t *testing.T, tr *FDTracer) (hs [2]*helper, ids [2]sample.ID) {
	t.Helper()
	for i := range hs {
		hs[i] = startHelper(t, "files")
		hs[i].line()
		ids[i] = idOf(t, tr, hs[i].pid)
	}
	if err := tr.Start(ids[:]); err != nil {
		t.Fatal(err)
	}
	return hs, ids
}

// held is what a helper says that it holds.
func (h *helper) held() map[int]truth {
	h.t.Helper()
	line, _ := h.line()
	return readHeld(h.t, line)
}

func readHeld(t *testing.T, line string) map[int]truth {
	t.Helper()
	var all []truth
	if err := json.Unmarshal([]byte(line), &all); err != nil {
		t.Fatalf("the helper said %q: %v", line, err)
	}
	held := map[int]truth{}
	for _, m := range all {
		held[m.FD] = m
	}
	return held
}

// log is every birth that was drained, by seq.
type birthLog struct {
	tr     *FDTracer
	births map[uint64]sample.FDBirth // without what stacks point into
	lost   uint64
}

// drain drains all that is logged now. An entry that is not written is waited for:
// it is being written, or found the log full just before it had room again.
func (l *birthLog) drain(t *testing.T) {
	t.Helper()
	last, err := l.tr.lastSeq()
	if err != nil {
		t.Fatal(err)
	}
	if l.births == nil {
		l.births = map[uint64]sample.FDBirth{}
	}
	for again := true; again; again = l.tr.drained < last {
		var d sample.FDBirths
		if err := l.tr.Drain(&d); err != nil {
			t.Fatal(err)
		}
		for _, b := range d.Births {
			l.births[b.Seq] = b
		}
		l.lost += d.Lost
	}
}

// isRight compares a birth with the truth. Where descriptors are seen as they come
// into the table, io_uring's are told by the call that submitted them, or as a
// worker's.
func isRight(path FDPath, b *sample.FDBirth, m *truth) bool {
	call := int(b.Syscall) == m.Call
	if path == FDPathInstall && m.Call < 0 {
		call = b.Syscall == unix.SYS_IO_URING_ENTER || b.Syscall == callWorker
	}
	thread := int(b.TID) == m.TID || m.Call < 0 // a request's worker is another thread
	return call && thread && int(b.FD) == m.FD && int64(b.At) >= m.From && int64(b.At) <= m.To
}

// compare holds what is listed against the truth. It returns how many descriptors
// were attributed, of how many that were made.
func compare(t *testing.T, tr *FDTracer, list *sample.FDList, l *birthLog, held map[int]truth) (attributed, of int) {
	t.Helper()
	path, _ := tr.Path()
	seen := 0
	for _, fd := range list.FDs {
		m, known := held[int(fd.Number)]
		if known {
			seen++
		}
		if fd.Birth == 0 {
			if known {
				t.Logf("%s: descriptor %d is not attributed: %v", m.Step, fd.Number, fd.Why)
			}
			continue
		}
		b, drained := l.births[fd.Birth]
		switch {
		case !known:
			t.Logf("descriptor %d is the runtime's, by call %d", fd.Number, b.Syscall)
		case !drained:
			t.Logf("%s: the stack of birth %d is lost", m.Step, fd.Birth)
		case !isRight(path, &b, &m):
			t.Errorf("MISATTRIBUTED: %+v to thread %d, call %d, descriptor %d, at %d", m, b.TID, b.Syscall, b.FD, b.At)
		default:
			attributed++
		}
	}
	if seen != len(held) {
		t.Errorf("%d of %d descriptors are listed", seen, len(held))
	}
	return attributed, len(held)
}

// Every way to get a descriptor is attributed to the call that did it, with a stack.
func TestEveryBirthIsAttributed(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, id := trace(t, tr, "births")
		held := h.held()
		l := &birthLog{tr: tr}
		var list sample.FDList
		if err := tr.List(id, &list); err != nil {
			t.Fatal(err)
		}
		l.drain(t)
		attributed, of := compare(t, tr, &list, l, held)
		if attributed != of || of < 50 {
			t.Errorf("%d of %d attributed", attributed, of)
		}
		steps := map[string]bool{}
		for _, m := range held {
			steps[m.Step] = true
		}
		for _, b := range allBirths() {
			if !steps[b.name] {
				t.Logf("%s: not here", b.name)
			}
		}
		for _, b := range l.births {
			if b.Syscall >= 0 && (b.Stack.IP == 0 || b.Stack.SP == 0) {
				t.Errorf("birth %d by call %d has no registers", b.Seq, b.Syscall)
			}
		}
		c, err := tr.Counts(id)
		if err != nil || c.Opened < uint64(of) {
			t.Errorf("counted %+v, %v", c, err)
		}
		h.next()
	})
}

// Threads make and close descriptors at random. Of those that survive, none is
// attributed to another call than its own.
func TestTortureIsAttributed(t *testing.T) {
	// A log for all of them: that it is drained in time is not what is tested.
	rounds, entries := "1500", uint32(16384)
	if emulated() {
		rounds, entries = "200", 4096
	}
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		path, _ := tr.Path()
		tr = openTracer(t, FDTraceOptions{Path: path, LogEntries: entries})
		h, id := trace(t, tr, "churn", "6", rounds)
		l := &birthLog{tr: tr}
		said := make(chan string, 1)
		go func() {
			defer close(said) // whatever becomes of the helper
			line, _ := h.line()
			said <- line
		}()
		var held map[int]truth
		for held == nil {
			select {
			case line := <-said:
				held = readHeld(t, line)
			default:
				l.drain(t)
			}
		}
		var list sample.FDList
		if err := tr.List(id, &list); err != nil {
			t.Fatal(err)
		}
		l.drain(t)
		attributed, of := compare(t, tr, &list, l, held)
		b, _ := tr.Balance()
		c, _ := tr.Counts(id)
		t.Logf("%d of %d attributed; %+v; %+v", attributed, of, c, b)
		if attributed*100 < of*97 || of < 200 {
			t.Errorf("%d of %d attributed", attributed, of)
		}
		h.next()
	})
}

// emulated tells whether this is a guest, where everything takes thirty times as long.
func emulated() bool { return os.Getenv("RMAGENT_GUEST") != "" }

// A child has the descriptors of its parent, and the births of those; and they stay
// its own when the parent closes its.
func TestForkedChildrenInheritBirths(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, parent := trace(t, tr, "family", "fork")
		child, held := h.child(tr)
		l := &birthLog{tr: tr}
		for _, when := range []string{"open in both", "closed by the parent"} {
			var list sample.FDList
			if err := tr.List(child, &list); err != nil {
				t.Fatal(err)
			}
			l.drain(t)
			if attributed, of := compare(t, tr, &list, l, held); attributed != 5 || of != 5 {
				t.Errorf("%s: %d of %d attributed", when, attributed, of)
			}
			for _, fd := range list.FDs {
				if b := l.births[fd.Birth]; fd.Birth != 0 && b.ID != parent {
					t.Errorf("%s: descriptor %d is of %v", when, fd.Number, b.ID)
				}
			}
			h.next()
			h.line()
		}
	})
}

// What a child closed and opened again, unseen, is not its parent's, although it may have the same
// number, inode and memory as what that opened.
func TestWhatAChildReopensIsItsOwn(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, _ := trace(t, tr, "reopening")
		line, _ := h.line()
		var pid int
		var first, last int32
		if _, err := fmt.Sscanf(line, "%d %d %d", &pid, &first, &last); err != nil {
			t.Fatal(err)
		}
		l := &birthLog{tr: tr}
		seen := 0
		for _, fd := range l.list(t, idOf(t, tr, pid)).FDs {
			if fd.Number < first || fd.Number > last {
				continue
			}
			seen++
			if fd.Birth != 0 {
				t.Errorf("%d of the child: %+v", fd.Number, l.births[fd.Birth])
			}
		}
		if seen != 5 {
			t.Errorf("%d are listed", seen)
		}
		h.next()
	})
}

// Who shares a table opens for all.
func TestSharedTables(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, parent := trace(t, tr, "family", "shared")
		child, held := h.child(tr)
		l := &birthLog{tr: tr}
		var list sample.FDList
		byChild := func() bool { // it may not have opened its own yet
			if err := tr.List(parent, &list); err != nil {
				t.Fatal(err)
			}
			l.drain(t)
			return slices.ContainsFunc(list.FDs, func(fd sample.FD) bool { return l.births[fd.Birth].ID == child })
		}
		for !byChild() {
			if t.Context().Err() != nil {
				t.Fatal("the child's birth was not seen")
			}
		}
		if attributed, of := compare(t, tr, &list, l, held); attributed != of || of != 5 {
			t.Errorf("%d of %d attributed", attributed, of)
		}
		var same sample.FDList
		if err := tr.List(child, &same); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(list.FDs, same.FDs) {
			t.Errorf("the parent lists %v, the child %v", list.FDs, same.FDs)
		}
	})
}

// child is who the helper forked, and what the helper held then.
func (h *helper) child(tr *FDTracer) (sample.ID, map[int]truth) {
	h.t.Helper()
	line, _ := h.line()
	pid, rest, _ := strings.Cut(line, " ")
	n, err := strconv.Atoi(pid)
	if err != nil {
		h.t.Fatalf("the helper said %q", line)
	}
	var held map[int]truth
	if err := json.Unmarshal([]byte(rest), &held); err != nil {
		h.t.Fatal(err)
	}
	return idOf(h.t, tr, n), held
}

// What exec closes is not taken for what gets its number.
func TestExecKeepsBirths(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, id := trace(t, tr, "reborn")
		held := h.held()
		l := &birthLog{tr: tr}
		var list sample.FDList
		if err := tr.List(id, &list); err != nil {
			t.Fatal(err)
		}
		l.drain(t)
		if attributed, of := compare(t, tr, &list, l, held); attributed != 6 || of != 6 {
			t.Errorf("%d of %d attributed", attributed, of)
		}
		before, after := 0, 0 // each program's births have its number
		for _, b := range l.births {
			switch now := tr.ExecID(id); {
			case b.ExecID == now:
				after++
			case b.ExecID+1 == now:
				before++
			}
		}
		if before == 0 || after == 0 || before+after != len(l.births) {
			t.Errorf("%d births before the exec and %d after it, of %d", before, after, len(l.births))
		}
		h.next()
	})
}

// tell has the helper do something, and waits until it is done; it returns what the
// helper said.
func (h *helper) tell(format string, args ...any) (said []string) {
	h.t.Helper()
	h.ask(format, args...)
	return h.answer()
}

// ask has the helper do something.
func (h *helper) ask(format string, args ...any) {
	h.t.Helper()
	if _, err := fmt.Fprintf(h.stdin, format+"\n", args...); err != nil {
		h.t.Fatal(err)
	}
}

// answer waits until it is done.
func (h *helper) answer() (said []string) {
	h.t.Helper()
	for {
		line, ok := h.line()
		if !ok {
			h.t.Fatal("the helper ended")
		}
		if line == "ready" {
			h.next()
			return said
		}
		said = append(said, line)
	}
}

func (l *birthLog) list(t *testing.T, id sample.ID) (list sample.FDList) {
	t.Helper()
	if err := l.tr.List(id, &list); err != nil {
		t.Fatal(err)
	}
	l.drain(t)
	return list
}

func countWhy(list *sample.FDList) (n [sample.NumUnattributed]int) {
	for _, fd := range list.FDs {
		n[fd.Why]++
	}
	return n
}

// What was open before is told apart from what came by a call that is not seen.
func TestReasons(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, id := trace(t, tr, "files")
		l := &birthLog{tr: tr}
		before := l.list(t, id)
		if n := countWhy(&before); n[sample.BeforeTracing] != len(before.FDs) || len(before.FDs) < 3 {
			t.Errorf("by reason %v", n)
		}
		said := h.tell("namespace 1")
		fd, err := strconv.Atoi(said[0])
		if err != nil {
			t.Fatal(err)
		}
		list := l.list(t, id)
		i := slices.IndexFunc(list.FDs, func(f sample.FD) bool { return int(f.Number) == fd })
		got := list.FDs[i]
		if got.Kind != sample.FDNamespace {
			t.Errorf("kind %v", got.Kind)
		}
		if path, _ := tr.Path(); path == FDPathInstall {
			if b := l.births[got.Birth]; b.Syscall != unix.SYS_IOCTL {
				t.Errorf("%+v by %+v", got, b)
			}
		} else if got.Birth != 0 || got.Why != sample.UntracedCall {
			t.Errorf("%+v", got)
		}
		// Who is not traced any more has no births.
		if err := tr.Stop(); err != nil {
			t.Fatal(err)
		}
		h.tell("open 5")
		list = l.list(t, id)
		if n := countWhy(&list); n[sample.BeforeTracing] != len(list.FDs) || tr.Attached() {
			t.Errorf("by reason %v", n)
		}
		// And who is traced anew has those that come from then on.
		if err := tr.Start([]sample.ID{id}); err != nil {
			t.Fatal(err)
		}
		h.tell("open 3")
		list = l.list(t, id)
		if n := countWhy(&list); n[sample.Attributed] != 3 || n[sample.BeforeTracing] != len(list.FDs)-3 {
			t.Errorf("by reason %v", n)
		}
	})
}

// Two processes whose descriptors have the same near places: each birth is told as whose it is,
// wherever its stamp is, and no stamp of a closed descriptor stays.
func TestStampsThatCollide(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		hs, ids := traceTwo(t, tr)
		others := stampsInUse(t, tr)
		l := &birthLog{tr: tr}
		var held [2]map[string]bool // numbers, as they said
		tell := func(who int, what string, n int) {
			t.Helper()
			const some = 1000 // what the log has room for
			for ; n > 0; n -= some {
				for _, fd := range hs[who].tell("%s %d", what, min(n, some)) {
					held[who][fd] = true
				}
				l.drain(t)
			}
		}
		attributed := func() (n int) {
			t.Helper()
			for who := range ids {
				list, own := l.list(t, ids[who]), 0
				for _, fd := range list.FDs {
					if !held[who][strconv.Itoa(int(fd.Number))] {
						continue
					}
					own++
					if b, ok := l.births[fd.Birth]; !ok || b.ID != ids[who] || b.FD != fd.Number {
						t.Fatalf("%d of process %d: %v, born as %+v", fd.Number, who, fd.Why, b)
					}
				}
				if own != len(held[who]) {
					t.Errorf("process %d: %d of %d listed", who, own, len(held[who]))
				}
				n += countWhy(&list)[sample.Attributed] // the runtime's own, too
			}
			return n
		}
		const all, some = nearStamps + 4, 40
		for who := range held {
			hs[who].next()
			held[who] = map[string]bool{}
		}
		tell(0, "open", all) // every near place
		tell(1, "open", some)
		attributed()
		tell(0, "close", all)
		held[0] = map[string]bool{}
		tell(1, "open", some)
		tell(1, "high", some)
		exec := func() {
			t.Helper()
			before := maps.Clone(held[1])
			tell(1, "cloexec", some)
			attributed()
			held[1] = before
			tell(1, "exec", 1)
			tell(1, "open", some/2)
			n := attributed()
			if got := stampsInUse(t, tr) - others; got != n {
				t.Errorf("%d stamps for the %d that are attributed", got, n)
			}
			if got := attributed(); got != n {
				t.Errorf("%d of %d after the sweep", got, n)
			}
		}
		exec()
		tell(0, "open", all)
		exec()
		balance(t, tr)
	})
}

// Two processes open and close numbers that have one near place, at once: what a process with
// one thread opens is never in doubt, whoever has the place meanwhile.
func TestOnePlaceForTwo(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		hs, ids := traceTwo(t, tr)
		apart := tableMark(tr.suspects[ids[0]].files) ^ tableMark(tr.suspects[ids[1]].files)
		for _, h := range hs {
			h.next()
		}
		l := &birthLog{tr: tr}
		for _, n := range []uint32{nearStamps, nearStamps + 1, nearStamps + 2, nearStamps + 3} {
			numbers := [2]uint32{n, n ^ apart%nearStamps}
			for i, h := range hs {
				h.ask("churn %d", numbers[i])
			}
			done := make(chan bool)
			go func() {
				defer close(done)
				for _, h := range hs {
					h.answer()
				}
			}()
			for ended := false; !ended; {
				l.drain(t)                         // a birth takes longest whose stack is copied
				if err := tr.sweep(); err != nil { // or who came second has its stamp elsewhere for good
					t.Error(err)
				}
				select {
				case <-done:
					ended = true
				default:
				}
			}
			for i, id := range ids {
				for _, fd := range l.list(t, id).FDs {
					if fd.Number == int32(numbers[i]) && fd.Why != sample.Attributed {
						t.Errorf("%d of process %d: %v", fd.Number, i, fd.Why)
					}
				}
			}
		}
		for i, id := range ids {
			if c, err := tr.Counts(id); err != nil || c.Ambiguous != 0 || c.MapFull != 0 {
				t.Errorf("process %d: %+v, %v", i, c, err)
			}
		}
		balance(t, tr)
	})
}

// A number that another thread closed and gave to another file, while the hook of the call that
// made it was at work, is never told as that call's.
func TestRivalsForANumber(t *testing.T) {
	rounds := 500
	if emulated() {
		rounds = 50
	}
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, id := trace(t, tr, "rivals", strconv.Itoa(rounds))
		l := &birthLog{tr: tr}
		told, unsure := 0, 0
		for {
			line, ok := h.line()
			if !ok {
				break
			}
			var first, last, other int32
			if _, err := fmt.Sscanf(line, "%d %d %d", &first, &last, &other); err != nil {
				t.Fatal(err)
			}
			for _, fd := range l.list(t, id).FDs {
				switch b, ok := l.births[fd.Birth]; {
				case fd.Number < first || fd.Number > last:
				case fd.Birth == 0:
					unsure++
				case ok && (b.Syscall != unix.SYS_FCNTL || b.TID != other):
					t.Errorf("MISATTRIBUTED: %d of thread %d to call %d of thread %d", fd.Number, other, b.Syscall, b.TID)
				default:
					told++
				}
			}
			clear(l.births)
			h.next()
		}
		t.Logf("%d told, %d unsure", told, unsure)
		if told == 0 {
			t.Error("nothing was attributed")
		}
		balance(t, tr)
	})
}

// stampsInUse counts the stamps that somebody needs.
func stampsInUse(t *testing.T, tr *FDTracer) int {
	t.Helper()
	if err := tr.sweep(); err != nil {
		t.Fatal(err)
	}
	b, err := tr.Balance()
	if err != nil {
		t.Fatal(err)
	}
	return int(b.Stamps)
}

// Stamps that find no room are counted, and those of closed descriptors make room.
func TestFullStamps(t *testing.T) {
	const behind, opened = 16, nearStamps + 40
	const stamps = nearStamps + behind
	tr := openTracer(t, FDTraceOptions{Stamps: behind})
	h, id := trace(t, tr, "files")
	l := &birthLog{tr: tr}
	h.tell("open %d", opened)
	list := l.list(t, id)
	n := countWhy(&list)
	if n[sample.Attributed] != stamps || n[sample.MapFull] != opened-stamps {
		t.Errorf("by reason %v", n)
	}
	if c, err := tr.Counts(id); err != nil || c.Opened != opened || c.MapFull != opened-stamps {
		t.Errorf("counted %+v, %v", c, err)
	}
	h.tell("close %d", opened)
	tr.swept = 0
	l.drain(t)
	if b, err := tr.Balance(); err != nil || b.Stamps != 0 {
		t.Errorf("balance %+v, %v", b, err)
	}
	h.tell("open %d", stamps)
	list = l.list(t, id)
	if n := countWhy(&list); n[sample.Attributed] != stamps {
		t.Errorf("by reason %v", n)
	}
	balance(t, tr)
}

// balance holds the counts against each other.
func balance(t *testing.T, tr *FDTracer) {
	t.Helper()
	b, err := tr.Balance()
	if err != nil {
		t.Fatal(err)
	}
	if b.Births+b.Failures != b.Logged+b.Quiet+b.Compat+b.Gone {
		t.Errorf("out of balance: %+v", b)
	}
}

// What finds the log full is lost, counted, and still known to be somebody's.
func TestFullLog(t *testing.T) {
	const entries, opened = 16, 100
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		path, _ := tr.Path()
		tr = openTracer(t, FDTraceOptions{Path: path, LogEntries: entries})
		h, id := trace(t, tr, "files")
		l := &birthLog{tr: tr}
		l.drain(t)
		lost := l.lost
		h.tell("open %d", opened)
		l.drain(t)
		if len(l.births) != entries || l.lost-lost != opened-entries {
			t.Errorf("%d births, %d lost", len(l.births), l.lost-lost)
		}
		h.tell("open %d", entries)
		list := l.list(t, id)
		if n := countWhy(&list); len(l.births) != 2*entries || n[sample.Attributed] != opened+entries {
			t.Errorf("%d births, by reason %v", len(l.births), n)
		}
		balance(t, tr)
	})
}

// Tables of processes that ended are forgotten, but for those that a living child's
// is a copy of.
func TestTablesOfTheDeadAreForgotten(t *testing.T) {
	tr := openTracer(t, FDTraceOptions{Path: FDPathSyscalls})
	h, _ := trace(t, tr, "family", "fork")
	child, held := h.child(tr)
	tables := tr.loaded.Maps[fdtraceMapTables]
	dead := uint64(1 << 20) // of nobody, and its child's
	const nobody = 1 << 30
	check(tables.Put(dead, &fdtraceFdTable{Tgid: nobody, Copied: 1}))
	check(tables.Put(dead+1, &fdtraceFdTable{Tgid: nobody + 1, Parent: dead}))
	if err := tr.pruneTables(); err != nil {
		t.Fatal(err)
	}
	var table fdtraceFdTable
	for _, files := range []uint64{dead, dead + 1} {
		if err := tables.Lookup(files, &table); !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Errorf("table %d of the dead: %v", files, err)
		}
	}
	l := &birthLog{tr: tr}
	list := l.list(t, child)
	if attributed, of := compare(t, tr, &list, l, held); attributed != of || of != 5 {
		t.Errorf("%d of %d attributed", attributed, of)
	}
}

// Who shares a table keeps it when the process ends whose it was first.
func TestATableOutlivesItsOwner(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, id := trace(t, tr, "files")
		tables := tr.loaded.Maps[fdtraceMapTables]
		files := tr.suspects[id].files
		var table fdtraceFdTable
		check(tables.Lookup(files, &table))
		table.Tgid = 1 << 30 // nobody
		check(tables.Put(files, &table))
		l := &birthLog{tr: tr}
		h.tell("open 2")
		if err := tr.pruneTables(); err != nil {
			t.Fatal(err)
		}
		h.tell("open 3")
		list := l.list(t, id)
		if n := countWhy(&list); n[sample.Attributed] != 5 {
			t.Errorf("by reason %v", n)
		}
	})
}

// Calls that fail for want of a descriptor are counted, and some have their stacks.
func TestFailures(t *testing.T) {
	const failures = 500
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, id := trace(t, tr, "files")
		l := &birthLog{tr: tr}
		h.tell("limit %d", failures)
		l.drain(t)
		c, err := tr.Counts(id)
		if err != nil || c.EMFILE != failures {
			t.Errorf("counted %+v, %v", c, err)
		}
		logged := 0
		for _, b := range l.births {
			if b.Errno == 0 {
				continue
			}
			logged++
			if b.Errno != uint32(unix.EMFILE) || b.FD != -1 || b.Syscall != unix.SYS_OPENAT || b.ID != id || b.Stack.IP == 0 {
				t.Errorf("%+v", b)
			}
		}
		if logged < 64 || logged > failures {
			t.Errorf("%d failures are logged", logged)
		}
		balance(t, tr)
	})
}

// So are those of a ring's requests for pipes.
func TestFailuresOfARing(t *testing.T) {
	const failures = 5
	tr := openTracer(t, FDTraceOptions{Path: FDPathSyscalls})
	h, id := trace(t, tr, "files")
	said := h.tell("pipes %d", failures)
	if said[0] == strconv.Itoa(int(unix.EINVAL)) {
		t.Skip("this kernel's rings make no pipes")
	}
	if c, err := tr.Counts(id); err != nil || c.EMFILE != failures {
		t.Errorf("counted %+v, %v, and it failed by %v", c, err, said)
	}
	balance(t, tr)
}

// A process that is gone has no descriptors, and its table is forgotten.
func TestGone(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, id := trace(t, tr, "files")
		h.tell("open 5")
		h.cmd.Process.Kill()
		h.wait()
		var list sample.FDList
		if err := tr.List(id, &list); !errors.Is(err, ErrGone) {
			t.Errorf("list: %v", err)
		}
		other := sample.ID{PID: int32(os.Getpid()), StartTicks: 1}
		if err := tr.List(other, &list); !errors.Is(err, ErrGone) {
			t.Errorf("list another process of that number: %v", err)
		}
		// Threads that end at once leave it behind: each sees that another uses it.
		if err := tr.pruneTables(); err != nil {
			t.Fatal(err)
		}
		var files uint64
		var table fdtraceFdTable
		for it := tr.loaded.Maps[fdtraceMapTables].Iterate(); it.Next(&files, &table); {
			t.Errorf("table of %d", table.Tgid)
		}
		if err := tr.Start([]sample.ID{id}); err != nil {
			t.Errorf("start: %v", err)
		}
	})
}

// Everything is loaded at the start: no capability is needed from then on.
func TestTracesWithoutCapabilities(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h := startHelper(t, "files")
		h.line()
		id := idOf(t, tr, h.pid)
		h.next()
		done := make(chan error)
		go func() {
			defer close(done)      // a helper that fails ends this goroutine
			runtime.LockOSThread() // and ends with the thread, which has lost its capabilities
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var none [2]unix.CapUserData
			if err := unix.Capset(&header, &none[0]); err != nil {
				done <- err
				return
			}
			if err := tr.Start([]sample.ID{id}); err != nil {
				done <- err
				return
			}
			h.tell("open 5")
			var list sample.FDList
			var births sample.FDBirths
			err := errors.Join(tr.List(id, &list), tr.Drain(&births), tr.Stop())
			if err == nil && len(births.Births) != 5 {
				err = fmt.Errorf("%d births", len(births.Births))
			}
			done <- err
		}()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestNothingStaysAttachedAfterTheTracerIsKilled(t *testing.T) {
	openTracer(t, FDTraceOptions{})
	h := startHelper(t, "tracer")
	line, _ := h.line()
	killed(t, h, line)
}

// What a table holds is what /proc and fstat(2) say of it.
func TestListIsTheTable(t *testing.T) {
	tr := openTracer(t, FDTraceOptions{})
	want := map[int]sample.FDKind{}
	add := func(kind sample.FDKind, fd int, err error) int {
		if err != nil {
			t.Fatal(err)
		}
		want[fd] = kind
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	dir := t.TempDir()
	open := func(kind sample.FDKind, path string, flags int) {
		fd, err := unix.Open(path, flags, 0o600)
		add(kind, fd, err)
	}
	check(unix.Mkfifo(dir+"/fifo", 0o600))
	open(sample.FDFile, dir+"/file", unix.O_CREAT|unix.O_RDWR)
	open(sample.FDDirectory, dir, unix.O_DIRECTORY)
	open(sample.FDFIFO, dir+"/fifo", unix.O_RDWR)
	open(sample.FDCharDevice, "/dev/null", unix.O_RDONLY)
	open(sample.FDNamespace, "/proc/self/ns/mnt", unix.O_RDONLY)
	simple := func(kind sample.FDKind) func(int, error) {
		return func(fd int, err error) { add(kind, fd, err) }
	}
	simple(sample.FDEventfd)(unix.Eventfd(0, 0))
	simple(sample.FDEpoll)(unix.EpollCreate1(0))
	simple(sample.FDTimerfd)(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0))
	simple(sample.FDSignalfd)(unix.Signalfd(-1, &unix.Sigset_t{}, 0))
	simple(sample.FDMemfd)(unix.MemfdCreate("a name that is longer than its record", 0))
	simple(sample.FDInotify)(unix.InotifyInit1(0))
	simple(sample.FDFanotify)(unix.FanotifyInit(unix.FAN_CLASS_NOTIF, unix.O_RDONLY))
	simple(sample.FDPidfd)(unix.PidfdOpen(os.Getpid(), 0))
	simple(sample.FDUDP6)(unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0))
	simple(sample.FDUDP4)(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0))
	simple(sample.FDUnix)(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0))
	simple(sample.FDNetlink)(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0))
	simple(sample.FDPacket)(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0))
	simple(sample.FDSocket)(unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP))
	var pipe [2]int
	check(unix.Pipe2(pipe[:], 0))
	add(sample.FDPipe, pipe[0], nil)
	add(sample.FDPipe, pipe[1], nil)
	listener := add(sample.FDTCP4, must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)), nil)
	check(unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	check(unix.Listen(listener, 1))
	sa, err := unix.Getsockname(listener)
	check(err)
	client := add(sample.FDTCP4, must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)), nil)
	check(unix.Connect(client, sa))
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))

	id := idOf(t, tr, os.Getpid())
	var list sample.FDList
	if err := tr.List(id, &list); err != nil {
		t.Fatal(err)
	}
	for _, fd := range list.FDs {
		var st unix.Stat_t
		err := unix.Fstat(int(fd.Number), &st)
		if err == unix.EBADF && fd.Kind == sample.FDBPF && tr.listing.walk != nil {
			continue // the walk itself
		}
		if err != nil {
			t.Errorf("descriptor %d is not there: %v", fd.Number, err)
			continue
		}
		if fd.Inode != st.Ino || fd.Device != st.Dev {
			t.Errorf("descriptor %d (%v): inode %d of %d, want %d of %d", fd.Number, fd.Kind, fd.Inode, fd.Device, st.Ino, st.Dev)
		}
		if kind, made := want[int(fd.Number)]; made && kind != fd.Kind {
			t.Errorf("descriptor %d: %v, want %v", fd.Number, fd.Kind, kind)
		}
		switch int(fd.Number) {
		case listener:
			if !fd.Listening || fd.Local != at || fd.Remote.IsValid() {
				t.Errorf("listener: %+v", fd)
			}
		case client:
			if fd.Listening || fd.Remote != at || !fd.Local.IsValid() {
				t.Errorf("client: %+v", fd)
			}
		}
		delete(want, int(fd.Number))
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
}

// A socket's own address is what getsockname(2) says, of a connection that was reset, too.
func TestListTellsAddressesOfSockets(t *testing.T) {
	tr := openTracer(t, FDTraceOptions{})
	made := map[int32]string{}
	socket := func(what string, family, kind int) int {
		fd := must(unix.Socket(family, kind, 0))
		t.Cleanup(func() { unix.Close(fd) })
		made[int32(fd)] = what
		return fd
	}
	for _, v := range []struct {
		name     string
		family   int
		loopback unix.Sockaddr
	}{
		{"IPv4", unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}},
		{"IPv6", unix.AF_INET6, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}},
	} {
		socket(v.name+" unbound", v.family, unix.SOCK_STREAM)
		check(unix.Bind(socket(v.name+" datagram", v.family, unix.SOCK_DGRAM), v.loopback))
		listener := socket(v.name+" listener", v.family, unix.SOCK_STREAM)
		check(unix.Bind(listener, v.loopback))
		check(unix.Listen(listener, 2))
		at, err := unix.Getsockname(listener)
		check(err)
		for _, what := range []string{" connected", " reset"} {
			client := socket(v.name+what, v.family, unix.SOCK_STREAM)
			check(unix.Connect(client, at))
			server, _, err := unix.Accept(listener)
			check(err)
			made[int32(server)] = v.name + " accepted"
			if what != " reset" {
				t.Cleanup(func() { unix.Close(server) })
				continue
			}
			check(unix.SetsockoptLinger(server, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
			check(unix.Close(server))
			delete(made, int32(server))
			if _, err := unix.Read(client, make([]byte, 1)); err != unix.ECONNRESET {
				t.Fatalf("reset: %v", err)
			}
		}
	}
	var list sample.FDList
	if err := tr.List(idOf(t, tr, os.Getpid()), &list); err != nil {
		t.Fatal(err)
	}
	for _, fd := range list.FDs {
		what := made[fd.Number]
		if what == "" {
			continue
		}
		delete(made, fd.Number)
		sa, err := unix.Getsockname(int(fd.Number))
		check(err)
		var want netip.AddrPort
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			want = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
		case *unix.SockaddrInet6:
			want = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
		}
		if want.Port() == 0 && want.Addr().IsUnspecified() {
			want = netip.AddrPort{}
		}
		if fd.Local != want {
			t.Errorf("%s: %v, getsockname says %v", what, fd.Local, want)
		}
	}
	if len(made) > 0 {
		t.Errorf("not listed: %v", made)
	}
}

// A table larger than one run reads is read whole.
func TestListOfALargeTable(t *testing.T) {
	const n = 3*1024 + 7
	var limit unix.Rlimit
	check(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur < n+100 {
		check(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n + 100, Max: max(limit.Max, n+100)}))
	}
	tr := openTracer(t, FDTraceOptions{})
	var fds []int
	for range n {
		fds = append(fds, must(unix.Open("/dev/null", unix.O_RDONLY, 0)))
	}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	var list sample.FDList
	if err := tr.List(idOf(t, tr, os.Getpid()), &list); err != nil {
		t.Fatal(err)
	}
	listed := map[int]bool{}
	for i, fd := range list.FDs {
		listed[int(fd.Number)] = true
		if i > 0 && list.FDs[i-1].Number >= fd.Number {
			t.Fatalf("descriptor %d follows %d", fd.Number, list.FDs[i-1].Number)
		}
	}
	for _, fd := range fds {
		if !listed[fd] {
			t.Fatalf("descriptor %d of %d is not listed", fd, n)
		}
	}
}
