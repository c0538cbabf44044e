package loader

import (
	"encoding/binary"
	"strconv"
	"testing"
	"time"

	"rmagent/internal/clock"
	"rmagent/internal/sample"
)

// wordsOf is what a walk of a birth of this program has read, whose frames all have a pointer:
// that, and where they return to, for so many of the innermost.
func wordsOf(birth *sample.FDBirth, frames int) sample.WalkWords {
	stack := &birth.Stack
	size := uint64(len(stack.Window))
	word := func(at uint64) uint64 { return binary.LittleEndian.Uint64(stack.Window[at:]) }
	at := stack.BP - stack.SP
	words := sample.WalkWords{{Offset: -1, Value: stack.IP}, {Offset: -3, Relative: true, Value: at}}
	if int64(at) < 0 { // Go's frame pointers on arm64 are below sp: the first frame in the window is the next
		const code = 1 << 24 // of this program, at most
		for at = 0; at+16 < size && (word(at)-stack.SP-at > size || word(at+8)-stack.IP+code > 2*code); at += 8 {
		}
	}
	for range frames {
		if at+16 > size {
			break
		}
		next := word(at) - stack.SP
		words = append(words,
			sample.WalkWord{Offset: int32(at), Relative: true, Value: next},
			sample.WalkWord{Offset: int32(at) + 8, Value: word(at + 8)})
		if next <= at {
			break
		}
		at = next
	}
	return words
}

// A stack that has the words of a walk is told as that walk, and not copied; all others are,
// also those of the same code after an exec.
func TestKnownStacksAreNotCopied(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, id := trace(t, tr, "files")
		births := func(format string, n int) []sample.FDBirth {
			t.Helper()
			return drainAll(t, tr, h.tell(format, n))
		}
		here, other := births("open %d", 20), births("other %d", 20)
		words := wordsOf(&here[0], 6)
		if len(words) < 5 {
			t.Fatalf("a walk read only %d words", len(words))
		}
		if !tr.Remember(id, here[0].ExecID, words, 7) {
			t.Fatal("a walk is refused")
		}
		before := clock.Monotonic()
		known := births("open %d", 50)
		after := clock.Monotonic()
		for _, b := range known {
			if b.Known != 7 || b.Stack.Window != nil || b.ID != id || b.Errno != 0 || b.ExecID != here[0].ExecID ||
				b.Syscall != here[0].Syscall || b.TID == 0 || b.Thread != here[0].Thread || b.At < before || b.At > after {
				t.Fatalf("%+v is told of an open between %v and %v, those before were\n%+v", b, before, after, here[0])
			}
		}
		l := &birthLog{tr: tr}
		for i, fd := range heldByFD(l.list(t, id), known) {
			if fd.Birth != known[i].Seq {
				t.Errorf("descriptor %d is of birth %d, want %d", known[i].FD, fd.Birth, known[i].Seq)
			}
		}
		notKnown(t, "from elsewhere", births("other %d", 20))
		if ip := births("other %d", 1)[0].Stack.IP; ip != other[0].Stack.IP {
			t.Errorf("a stack of elsewhere begins at %#x, want %#x", ip, other[0].Stack.IP)
		}
		h.tell("exec %d", 0)
		if err := tr.Drain(&sample.FDBirths{}); err != nil { // what the runtime opened
			t.Fatal(err)
		}
		notKnown(t, "after an exec", births("open %d", 20))
		again := births("open %d", 20)
		if !tr.Remember(id, again[0].ExecID, wordsOf(&again[0], 6), 8) {
			t.Fatal("a walk is refused")
		}
		if b := births("open %d", 1)[0]; b.Known != 8 {
			t.Errorf("known as %d, want 8", b.Known)
		}
		tr.ForgetWalks(id)
		notKnown(t, "that was forgotten", births("open %d", 20))
		balance(t, tr)
	})
}

// drainAll waits until the births of descriptors are drained that a helper opened. Its runtime
// opens and closes some of its own.
func drainAll(t *testing.T, tr *FDTracer, said []string) []sample.FDBirth {
	t.Helper()
	latest := map[string]sample.FDBirth{}
	for deadline := time.Now().Add(time.Minute); ; {
		var births sample.FDBirths
		if err := tr.Drain(&births); err != nil {
			t.Fatal(err)
		}
		for _, b := range births.Births {
			latest[strconv.Itoa(int(b.FD))] = b
		}
		var all []sample.FDBirth
		for _, fd := range said {
			if b, ok := latest[fd]; ok {
				all = append(all, b)
			}
		}
		if len(all) == len(said) {
			return all
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d births of %d", len(all), len(said))
		}
	}
}

// heldByFD is what a list says of the descriptors of births.
func heldByFD(list sample.FDList, births []sample.FDBirth) []sample.FD {
	held := make([]sample.FD, len(births))
	for i := range births {
		for _, fd := range list.FDs {
			if fd.Number == births[i].FD {
				held[i] = fd
			}
		}
	}
	return held
}

func notKnown(t *testing.T, whose string, births []sample.FDBirth) {
	t.Helper()
	for _, b := range births {
		if b.Known != 0 || len(b.Stack.Window) == 0 || b.Stack.IP == 0 {
			t.Fatalf("a stack %s is known as %d, and has %d bytes", whose, b.Known, len(b.Stack.Window))
		}
	}
}

// Who is not traced any more has no births that are told as a walk, also when it is traced
// again before they are drained.
func TestWalksGoWithWhoIsTraced(t *testing.T) {
	eachPath(t, func(t *testing.T, tr *FDTracer) {
		h, id := trace(t, tr, "files")
		births := drainAll(t, tr, h.tell("open %d", 20))
		if !tr.Remember(id, births[0].ExecID, wordsOf(&births[0], 6), 7) {
			t.Fatal("a walk is refused")
		}
		h.tell("open %d", 5)
		check(tr.Start(nil))
		check(tr.Start([]sample.ID{id}))
		notKnown(t, "of who is traced anew", drainAll(t, tr, h.tell("open %d", 5)))
	})
}

func TestWalksThatCantBeKnown(t *testing.T) {
	tr, err := callTracer()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { check(tr.Stop()) }()
	id, err := tr.self()
	check(err)
	check(tr.Start([]sample.ID{id}))
	ip := sample.WalkWord{Offset: -1, Value: 1}
	for _, words := range []sample.WalkWords{
		nil,
		make(sample.WalkWords, maxWalkWords+1),
		{ip, {Offset: 4}},
		{ip, {Offset: walkWindow}},
		{ip, {Offset: -100}},
	} {
		if tr.Remember(id, 1, words, 1) {
			t.Errorf("%v is taken", words)
		}
	}
	if tr.Remember(sample.ID{PID: 1 << 30}, 1, sample.WalkWords{ip}, 1) {
		t.Error("a walk of who is not traced is taken")
	}
	for i := range maxOwnWalks + 1 {
		ip.Value++
		if taken := tr.Remember(id, 1, sample.WalkWords{ip}, 1); taken != (i < maxOwnWalks) {
			t.Errorf("walk %d is taken: %v", i, taken)
		}
	}
}

// A place is given to another walk once its own rests, and to another process only when
// nobody can still mean the walk that was there.
func TestPlacesOfWalks(t *testing.T) {
	k := fdWalks{walks: make([]fdtraceFdWalk, maxWalks)}
	var r fdtraceFdSuspect
	now := time.Hour
	for own := range r.Walks {
		if got := k.restingOf(&r, now); got != own {
			t.Fatalf("free is %d, want %d", got, own)
		}
		place := k.free(0)
		r.Walks[own], k.owners[place] = place, walkOwner{used: true, at: now}
	}
	if got := k.restingOf(&r, now+restingWalk); got >= 0 {
		t.Errorf("%d rests", got)
	}
	now += 2 * restingWalk
	for own, place := range r.Walks {
		if own != 5 {
			k.walks[place].Hits++
		}
	}
	if got := k.restingOf(&r, now); got != 5 {
		t.Errorf("%d rests, want 5", got)
	}
	for place := uint32(maxOwnWalks + 1); place < maxWalks; place++ {
		k.owners[place].used = true
	}
	left := r.Walks[5]
	k.owners[left].used, k.owners[left].meant = false, unknownBirth
	k.numbered(100)
	k.numbered(200) // of other walks
	for _, c := range []struct {
		drained uint64
		want    uint32
	}{{99, 0}, {100, left}} {
		if got := k.free(c.drained); got != c.want {
			t.Errorf("with birth %d drained, %d is free, want %d", c.drained, got, c.want)
		}
	}
}

// knowingTracer is as much of a tracer as knows walks of a process.
func knowingTracer() (*FDTracer, sample.ID) {
	id := sample.ID{PID: 7, StartTicks: 1}
	return &FDTracer{
		suspects: map[sample.ID]*fdSuspect{id: {place: 1}}, records: make([]fdtraceFdSuspect, 2),
		known: fdWalks{walks: make([]fdtraceFdWalk, maxWalks)}, env: &environment{},
	}, id
}

// knownOf counts the walks of a suspect.
func knownOf(r *fdtraceFdSuspect) (n int) {
	for _, place := range r.Walks {
		if place != 0 {
			n++
		}
	}
	return n
}

// Several births from one place are drained before the tracer knows their walk: it takes one
// place all the same.
func TestAWalkTakesOnePlace(t *testing.T) {
	tr, id := knowingTracer()
	here, there := sample.WalkWords{{Offset: -1, Value: 1}}, sample.WalkWords{{Offset: -1, Value: 2}}
	for as := range uint32(2 * maxOwnWalks) {
		if !tr.Remember(id, 1, here, as+1) {
			t.Fatalf("a walk is refused that is known %d times", as)
		}
	}
	if !tr.Remember(id, 1, there, 5) {
		t.Error("another walk is refused")
	}
	r := &tr.records[1]
	if knownOf(r) != 2 || tr.known.owners[r.Walks[0]].as != 2*maxOwnWalks || tr.known.owners[r.Walks[1]].as != 5 {
		t.Errorf("%d walks are known, at %v", knownOf(r), r.Walks)
	}
}

// Where all places are taken, a process still gives those up that rest.
func TestAWalkThatRestsMakesRoom(t *testing.T) {
	tr, id := knowingTracer()
	word := sample.WalkWord{Offset: -1}
	for range maxOwnWalks {
		word.Value++
		if !tr.Remember(id, 1, sample.WalkWords{word}, 1) {
			t.Fatal("a walk is refused")
		}
	}
	for i := range tr.known.owners {
		tr.known.owners[i].used = true
		tr.known.owners[i].at -= 2 * restingWalk
	}
	word.Value++
	tr.Remember(id, 1, sample.WalkWords{word}, 2)
	tr.known.numbered(10)
	tr.drained = 10
	if !tr.Remember(id, 1, sample.WalkWords{word}, 2) {
		t.Error("a walk is refused, though one of its process rests")
	}
	if n := knownOf(&tr.records[1]); n != maxOwnWalks {
		t.Errorf("%d walks are known, want %d", n, maxOwnWalks)
	}
}

// A birth is told as no earlier than it was, though the tick that it has may be old, and
// as no later than it was drained.
func TestTimeOfAKnownBirth(t *testing.T) {
	tr, id := knowingTracer()
	tr.known.owners[1] = walkOwner{id: id, as: 1}
	for _, c := range []struct{ now, want time.Duration }{
		{time.Second + 50*time.Millisecond, time.Second + 50*time.Millisecond}, // five ticks of 100 Hz were missed
		{2 * time.Second, time.Second + latestTick},
	} {
		if b := tr.knownBirth(&fdtraceFdKnown{Walk: 1, Time: uint64(time.Second)}, c.now); b.At != c.want {
			t.Errorf("drained at %v, a birth of the tick at 1s is told as of %v, want %v", c.now, b.At, c.want)
		}
	}
	tr.env.monotonicOffset = time.Hour
	if b := tr.knownBirth(&fdtraceFdKnown{Walk: 1, Time: uint64(time.Second)}, 2*time.Hour); b.At != time.Hour+time.Second+latestTick {
		t.Errorf("in a time namespace an hour ahead it is told as of %v", b.At)
	}
}
