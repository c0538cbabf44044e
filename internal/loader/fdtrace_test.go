package loader

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

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

// eachPath runs a test by every path that the kernel takes.
func eachPath(t *testing.T, run func(t *testing.T, tr *FDTracer)) {
	t.Run("syscalls", func(t *testing.T) {
		run(t, openTracer(t, FDTraceOptions{Path: FDPathSyscalls}))
	})
	t.Run("install", func(t *testing.T) {
		tr, err := OpenFDTracer(FDTraceOptions{Path: FDPathInstall})
		if err != nil {
			t.Skipf("the kernel takes no fentry programs: %v", err)
		}
		defer tr.Close()
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

// held is what a helper says that it holds.
func (h *helper) held() map[int]truth {
	h.t.Helper()
	line, _ := h.line()
	var all []truth
	if err := json.Unmarshal([]byte(line), &all); err != nil {
		h.t.Fatalf("the helper said %q: %v", line, err)
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

func (l *birthLog) drain(t *testing.T) {
	t.Helper()
	var d sample.FDBirths
	if err := l.tr.Drain(&d); err != nil {
		t.Fatal(err)
	}
	if l.births == nil {
		l.births = map[uint64]sample.FDBirth{}
	}
	for _, b := range d.Births {
		l.births[b.Seq] = b
	}
	l.lost += d.Lost
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
	rounds := "1500"
	if emulated() {
		rounds = "400"
	}
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, id := trace(t, tr, "churn", "6", rounds)
		l := &birthLog{tr: tr}
		said := make(chan map[int]truth, 1)
		go func() { said <- h.held() }()
		var held map[int]truth
		for held == nil {
			select {
			case held = <-said:
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

var _ = errors.Is
var _ = slices.Sort[[]int]
