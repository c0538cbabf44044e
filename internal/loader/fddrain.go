package loader

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"rmagent/internal/clock"
	"rmagent/internal/sample"
)

// Drain replaces dst with what was logged since the last Drain. It makes no system
// call unless stamps have to be swept.
func (t *FDTracer) Drain(dst *sample.FDBirths) error {
	dst.Reset()
	// Who has a deep window had its number before: read in this order, all that have
	// one are drained.
	var deep uint64
	if err := t.loaded.Variables[fdtraceVarLastDeep].Get(&deep); err != nil {
		return fmt.Errorf("read how many deep windows there are: %w", err)
	}
	last, err := t.lastSeq()
	if err != nil {
		return err
	}
	now := clock.Monotonic() // after all these births
	t.settle(last, now)
	t.known.numbered(last)
	// Behind that, the log was full. Until drained is moved, it still is.
	end := min(last, t.drained+uint64(len(t.births)))
	for seq := t.drained + 1; seq <= end; seq++ {
		birth, ok := t.birth(seq, now, dst)
		if !ok {
			if seq > t.settled { // it is being written: the next drain has it
				end, last = seq-1, seq-1
				break
			}
			dst.Lost++ // it found the log full just before drained was moved
			continue
		}
		if s := t.suspects[birth.ID]; s != nil {
			s.exec = max(s.exec, birth.ExecID)
		}
		// The trial of the hooks is nobody's business.
		if birth.ID != t.tester || t.suspects[t.tester] != nil {
			dst.Births = append(dst.Births, birth)
		}
	}
	dst.Lost += last - end
	t.lost += dst.Lost
	if err := t.moveTo(last, deep); err != nil {
		return err
	}
	return t.sweepIfFull()
}

// birth copies an entry of the log from that half of it which has it; false where neither
// has.
func (t *FDTracer) birth(seq uint64, now time.Duration, dst *sample.FDBirths) (birth sample.FDBirth, ok bool) {
	slot := seq & uint64(len(t.births)-1)
	k, b := &t.knowns[slot], &t.births[slot]
	switch seq {
	case atomic.LoadUint64(&k.Seq):
		return t.knownBirth(k, now), true
	case atomic.LoadUint64(&b.Seq):
		return t.copyBirth(b, seq, dst), true
	}
	return birth, false
}

// settling is how long after its number was given an entry is written for certain:
// programs are not preempted.
const settling = 10 * time.Millisecond

// settle notes which entries are written by now, if they will ever be.
func (t *FDTracer) settle(last uint64, now time.Duration) {
	if now-t.settledAt < settling {
		return
	}
	t.settled, t.settling, t.settledAt = t.settling, last, now
}

// moveTo lets the kernel write again what was drained: up to seq, and so many deep
// windows.
func (t *FDTracer) moveTo(seq, deep uint64) error {
	t.drained = seq
	if err := t.loaded.Variables[fdtraceVarDeepDrained].Set(deep); err != nil {
		return fmt.Errorf("move the beginning of the deep windows: %w", err)
	}
	if err := t.loaded.Variables[fdtraceVarDrained].Set(seq); err != nil {
		return fmt.Errorf("move the log's beginning: %w", err)
	}
	return nil
}

func (t *FDTracer) copyBirth(b *fdtraceFdBirth, seq uint64, dst *sample.FDBirths) sample.FDBirth {
	r := &b.Regs
	birth := sample.FDBirth{
		Seq:     seq,
		ID:      sample.ID{PID: b.Tgid, StartTicks: startTicks(b.Start, t.env.bootOffset)},
		TID:     b.Tid,
		FD:      b.Fd,
		Errno:   b.Error,
		Syscall: b.Call,
		ExecID:  b.ExecId,
		At:      time.Duration(b.Time) + t.env.monotonicOffset,
		Thread:  *(*sample.Comm)(unsafe.Pointer(&b.Comm)),
	}
	birth.Stack.Registers = sample.Registers{
		IP: r.Ip, SP: r.Sp, BP: r.Bp, BX: r.Bx, R12: r.R12, R13: r.R13, R14: r.R14, R15: r.R15, LR: r.Lr,
	}
	birth.Stack.Window = t.copyWindow(b, seq, dst)
	at := len(dst.Words)
	dst.Words = append(dst.Words, b.Chain[:min(int(b.Chained), len(b.Chain))]...)
	birth.Stack.Chain = dst.Words[at:len(dst.Words):len(dst.Words)]
	at = len(dst.Pythons)
	var frames uint64
	if b.PythonRead != 0 {
		frames = min(b.Python.Count, uint64(len(b.Python.List)))
	}
	for _, f := range b.Python.List[:frames] {
		const entry = 1 << 63 // PYTHON_ENTRY of bpf/python.h
		dst.Pythons = append(dst.Pythons, sample.PythonFrame{
			Code: f.Code, Instruction: f.Instruction &^ entry, Entry: f.Instruction&entry != 0,
		})
	}
	birth.Python = dst.Pythons[at:len(dst.Pythons):len(dst.Pythons)]
	return birth
}

// copyWindow copies the deep window where there is one, and it was not overwritten:
// there are fewer of them.
func (t *FDTracer) copyWindow(b *fdtraceFdBirth, seq uint64, dst *sample.FDBirths) []byte {
	at := len(dst.Bytes)
	if i := int(b.Deep) - 1; i >= 0 && i < len(t.deeps) {
		d := &t.deeps[i]
		if atomic.LoadUint64(&d.Seq) == seq {
			dst.Bytes = append(dst.Bytes, memoryOf(d.Stack[:])[:min(d.Size, uint64(unsafe.Sizeof(d.Stack)))]...)
			if atomic.LoadUint64(&d.Seq) == seq {
				return dst.Bytes[at:len(dst.Bytes):len(dst.Bytes)]
			}
			dst.Bytes = dst.Bytes[:at]
		}
	}
	dst.Bytes = append(dst.Bytes, memoryOf(b.Stack[:])[:min(uintptr(b.Window), unsafe.Sizeof(b.Stack))]...)
	return dst.Bytes[at:len(dst.Bytes):len(dst.Bytes)]
}

// memoryOf is words as they lie in memory.
func memoryOf(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)
}

// startTicks is a start time on CLOCK_BOOTTIME as /proc/PID/stat divides it
// (nsec_to_clock_t).
func startTicks(ns uint64, bootOffset time.Duration) uint64 {
	return uint64(int64(ns)+int64(bootOffset)) / (1e9 / sample.UserHz)
}
