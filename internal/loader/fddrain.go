package loader

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"rmagent/internal/sample"
)

// Drain replaces dst with what was logged since the last Drain. It makes no system
// call unless stamps have to be swept.
func (t *FDTracer) Drain(dst *sample.FDBirths) error {
	dst.Reset()
	var last uint64
	if err := t.loaded.Variables[fdtraceVarLastSeq].Get(&last); err != nil {
		return fmt.Errorf("read the log's end: %w", err)
	}
	if n := uint64(len(t.births)); last-t.drained > n {
		dst.Lost += last - n - t.drained
		t.drained = last - n
	}
	for t.drained < last {
		seq := t.drained + 1
		switch t.take(seq, dst) {
		case unwritten:
			// It is being written; unless it still is at the next drain.
			if t.waited != seq {
				t.waited = seq
				last = t.drained
				continue
			}
			dst.Lost++
		case overwritten:
			dst.Lost++
		}
		t.drained = seq
	}
	t.overrun += dst.Lost
	return t.sweepIfFull()
}

// writing is the seq of an entry that is being written: WRITING of
// bpf/fdtrace.bpf.c.
const writing = ^uint64(0)

// What became of an entry of the log.
type taken int

const (
	whole taken = iota
	unwritten
	overwritten
)

// take copies an entry, and looks before and after whether it is still the same.
func (t *FDTracer) take(seq uint64, dst *sample.FDBirths) taken {
	b := &t.births[seq&uint64(len(t.births)-1)]
	if got := atomic.LoadUint64(&b.Seq); got != seq {
		if got < seq || got == writing {
			return unwritten
		}
		return overwritten
	}
	bytes, words := len(dst.Bytes), len(dst.Words)
	birth := t.copyBirth(b, seq, dst)
	if atomic.LoadUint64(&b.Seq) != seq {
		dst.Bytes, dst.Words = dst.Bytes[:bytes], dst.Words[:words]
		return overwritten
	}
	if birth.ID != t.tester || t.suspects[t.tester] != nil {
		dst.Births = append(dst.Births, birth)
	}
	return whole
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
		At:      time.Duration(b.Time),
		Thread:  *(*sample.Comm)(unsafe.Pointer(&b.Comm)),
	}
	birth.Stack.Registers = sample.Registers{
		IP: r.Ip, SP: r.Sp, BP: r.Bp, BX: r.Bx, R12: r.R12, R13: r.R13, R14: r.R14, R15: r.R15, LR: r.Lr,
	}
	birth.Stack.Window = t.copyWindow(b, seq, dst)
	at := len(dst.Words)
	dst.Words = append(dst.Words, b.Chain[:min(int(b.Chained), len(b.Chain))]...)
	birth.Stack.Chain = dst.Words[at:len(dst.Words):len(dst.Words)]
	return birth
}

// copyWindow copies the deep window where there is one, and it is still there.
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
