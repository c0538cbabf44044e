package loader

import (
	"math"
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
}

const maxWalks = 512

// walkOwner is whose a place among the walks is.
type walkOwner struct {
	id   sample.ID
	exec uint64
	as   uint32 // 0: nobody asks any more
	used bool
	// meant is the last birth whose entry may name the place, once it is not used any more.
	meant uint64
	hits  uint32        // when it was looked at last
	at    time.Duration // since when it has had no more
}

// unknownBirth is walkOwner.meant until the next drain has asked for the last number given.
const unknownBirth = math.MaxUint64

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
	if place := t.known.same(r, &w); place != 0 { // several of its births are drained at once
		t.known.owners[place].as = as
		return true
	}
	now := clock.Monotonic()
	own := t.known.restingOf(r, now)
	if own < 0 {
		return false
	}
	t.forgetWalk(r, own)
	place := t.known.free(t.drained)
	if place == 0 {
		return false
	}
	t.known.walks[place] = w
	t.known.owners[place] = walkOwner{id: id, exec: execID, as: as, used: true, at: now}
	atomic.StoreUint32(&r.WalksWindow, max(r.WalksWindow, w.Window))
	atomic.StoreUint32(&r.Walks[own], place)
	return true
}

// encodeWalk is a walk as the programs compare it; false where they can't.
func encodeWalk(words sample.WalkWords) (w fdtraceFdWalk, ok bool) {
	for _, word := range words {
		at := registerWords + word.Offset/8
		switch {
		case word.Offset < -copiedRegisters, word.Offset > walkWindow-8, word.Offset >= 0 && word.Offset%8 != 0:
			return w, false
		case word.Offset < 0:
			at = -1 - word.Offset
		default:
			w.Window = max(w.Window, uint32(word.Offset)+8)
		}
		i := w.Count
		if !word.Relative { // these come first
			i = w.Absolute
			w.At[w.Count], w.Value[w.Count] = w.At[i], w.Value[i]
			w.Absolute++
		}
		w.At[i], w.Value[i] = uint16(at), word.Value
		w.Count++
	}
	return w, true
}

// ForgetWalks has all stacks of a process copied from now on, until Remember.
func (t *FDTracer) ForgetWalks(id sample.ID) {
	s := t.suspects[id]
	if s == nil {
		return
	}
	r := &t.records[s.place]
	atomic.StoreUint64(&r.WalksExec, 0)
	for own := range r.Walks {
		t.forgetWalk(r, own)
	}
	atomic.StoreUint32(&r.WalksWindow, 0)
}

// forgetWalk frees a place of a suspect's own, if there is a walk.
func (t *FDTracer) forgetWalk(r *fdtraceFdSuspect, own int) {
	place := r.Walks[own]
	if place == 0 {
		return
	}
	atomic.StoreUint32(&r.Walks[own], 0)
	o := &t.known.owners[place]
	o.used, o.meant = false, unknownBirth
}

// same is the place of that walk of a suspect's which has the same words; 0: there is none.
func (k *fdWalks) same(r *fdtraceFdSuspect, w *fdtraceFdWalk) uint32 {
	for _, place := range r.Walks {
		other := &k.walks[place]
		if place != 0 && other.Count == w.Count && other.Absolute == w.Absolute && other.Value == w.Value && other.At == w.At {
			return place
		}
	}
	return 0
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

// free is a place that no walk has, and no birth after the last that was drained; 0: there is
// none. A program that still compares it does so for a birth that was drained as lost.
func (k *fdWalks) free(drained uint64) uint32 {
	for place := uint32(1); place < maxWalks; place++ {
		if o := &k.owners[place]; !o.used && o.meant <= drained {
			return place
		}
	}
	return 0
}

// numbered says which number was given last: a birth that comes later finds none of the walks
// that were forgotten before, for it has its number when it looks for them.
func (k *fdWalks) numbered(last uint64) {
	for i := range k.owners {
		if o := &k.owners[i]; o.meant == unknownBirth {
			o.meant = last
		}
	}
}

// disown makes what births of a process were told as nobody's.
func (k *fdWalks) disown(id sample.ID) {
	for i := range k.owners {
		if k.owners[i].id == id {
			k.owners[i].as = 0
		}
	}
}

// latestTick is how old the last tick is at most: at 100 Hz, where the CPU that counts them is
// not running, until another one has had five and counts them itself (MAX_STALLED_JIFFIES).
const latestTick = 60 * time.Millisecond

// knownBirth is the birth of an entry of the log that has a walk; nobody's where who is asked
// no more. It was before now, and is not told as earlier than it was: what is listed may be
// compared with it.
func (t *FDTracer) knownBirth(k *fdtraceFdKnown, now time.Duration) sample.FDBirth {
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
		At:      min(time.Duration(k.Time)+t.env.monotonicOffset+latestTick, now),
		Thread:  *(*sample.Comm)(unsafe.Pointer(&k.Comm)),
		Known:   o.as,
	}
}
