package loader

import (
	"sync/atomic"
	"time"
	"unsafe"

	"rmagent/internal/clock"
	"rmagent/internal/sample"
)

// As in bpf/fdtrace.h.
const (
	maxOwnWalks     = 16
	maxWalkWords    = 48
	registerWords   = 16
	copiedRegisters = 9
	walkWindow      = 8056
)

// restingWalk is how long a walk has to have fitted no stack to make room for another.
const restingWalk = time.Second

// fdWalks are the walks that the programs know: a stack that fits one is not copied. Places
// of walks that were forgotten are used again once all births that fitted them are drained.
type fdWalks struct {
	walks  []fdtraceFdWalk // mapped; the first is none
	owners [maxWalks]walkOwner
	drains uint64
}

const maxWalks = 512

// walkOwner is whose a place among the walks is.
type walkOwner struct {
	id   sample.ID
	exec uint64
	as   uint32 // 0: nobody asks any more
	used bool
	left uint64 // fdWalks.drains when it was forgotten
	hits uint32 // when it was looked at last
	// at is since when it has had no more hits, or was forgotten.
	at time.Duration
}

// Remember has births of a process that is traced told as as, which is not 0, instead of
// with their stacks, where these have the words of a walk and the process runs the program
// with that ExecID. It is false where that can't be: there are too many, or words that the
// programs don't see.
func (t *FDTracer) Remember(id sample.ID, execID uint64, words sample.WalkWords, as uint32) bool {
	s := t.suspects[id]
	if s == nil || len(words) == 0 || len(words) > maxWalkWords {
		return false
	}
	w, ok := encodeWalk(words)
	if !ok {
		return false
	}
	r := &t.records[s.place]
	if r.WalksExec != execID {
		t.ForgetWalks(id)
		atomic.StoreUint64(&r.WalksExec, execID)
	}
	now := clock.Monotonic()
	own, place := t.known.restingOf(r, now), t.known.free(now)
	if own < 0 || place == 0 {
		return false
	}
	if before := r.Walks[own]; before != 0 {
		t.known.leave(before, now)
	} else {
		atomic.StoreUint32(&r.WalksCount, r.WalksCount+1)
	}
	t.known.walks[place] = w
	t.known.owners[place] = walkOwner{id: id, exec: execID, as: as, used: true, at: now}
	atomic.StoreUint32(&r.WalksWindow, max(r.WalksWindow, w.Window))
	atomic.StoreUint32(&r.Walks[own], place)
	return true
}

// encodeWalk is a walk as the programs compare it; false where they can't.
func encodeWalk(words sample.WalkWords) (w fdtraceFdWalk, ok bool) {
	for i, word := range words {
		at := registerWords + word.Offset/8
		switch {
		case word.Offset < -copiedRegisters, word.Offset > walkWindow-8, word.Offset >= 0 && word.Offset%8 != 0:
			return w, false
		case word.Offset < 0:
			at = -1 - word.Offset
		default:
			w.Window = max(w.Window, uint32(word.Offset)+8)
		}
		w.At[i], w.Value[i] = uint16(at), word.Value
		if word.Relative {
			w.Relative |= 1 << i
		}
	}
	w.Count = uint32(len(words))
	return w, true
}

// ForgetWalks has all stacks of a process copied from now on, until Remember.
func (t *FDTracer) ForgetWalks(id sample.ID) {
	s := t.suspects[id]
	if s == nil {
		return
	}
	r := &t.records[s.place]
	atomic.StoreUint32(&r.WalksCount, 0)
	for own := range r.Walks {
		if place := r.Walks[own]; place != 0 {
			atomic.StoreUint32(&r.Walks[own], 0)
			t.known.leave(place, clock.Monotonic())
		}
	}
	atomic.StoreUint32(&r.WalksWindow, 0)
}

// restingOf finds a place of a suspect's own that is free, or whose walk rests; -1 where there is
// none.
func (k *fdWalks) restingOf(r *fdtraceFdSuspect, now time.Duration) int {
	resting := -1
	for own, place := range r.Walks {
		if place == 0 {
			return own
		}
		o, hits := &k.owners[place], atomic.LoadUint32(&k.walks[place].Hits)
		if o.hits != hits {
			o.hits, o.at = hits, now
		} else if now-o.at > restingWalk {
			resting = own
		}
	}
	return resting
}

// free is a place that no walk has, no birth that is not drained, and no program that still
// compares; 0: there is none.
func (k *fdWalks) free(now time.Duration) uint32 {
	for place := uint32(1); place < maxWalks; place++ {
		if o := &k.owners[place]; !o.used && (o.at == 0 || k.drains >= o.left+2 && now-o.at >= settling) {
			return place
		}
	}
	return 0
}

// leave gives a place up.
func (k *fdWalks) leave(place uint32, now time.Duration) {
	o := &k.owners[place]
	o.used, o.left, o.at = false, k.drains, now
}

// disown makes what births of a process were told as nobody's.
func (k *fdWalks) disown(id sample.ID) {
	for i := range k.owners {
		if k.owners[i].id == id {
			k.owners[i].as = 0
		}
	}
}

// longestTick is the kernel's at 100 Hz: no birth is told as earlier than it was.
const longestTick = 10 * time.Millisecond

// knownBirth is the birth of an entry of the log that has a walk; nobody's where who is asked
// no more.
func (t *FDTracer) knownBirth(k *fdtraceFdKnown) sample.FDBirth {
	o := &t.known.owners[k.Walk%maxWalks]
	if o.as == 0 {
		return sample.FDBirth{Seq: k.Seq}
	}
	return sample.FDBirth{
		Seq:     k.Seq,
		ID:      o.id,
		TID:     k.Tid,
		FD:      k.Fd,
		Syscall: k.Call,
		ExecID:  o.exec,
		At:      time.Duration(k.Time) + longestTick,
		Thread:  *(*sample.Comm)(unsafe.Pointer(&k.Comm)),
		Known:   o.as,
	}
}
