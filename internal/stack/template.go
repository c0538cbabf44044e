package stack

import (
	"encoding/binary"
	"slices"

	"rmagent/internal/sample"
)

// Place is something of a raw stack that a walk can read: the eight bytes at an
// offset from SP (0 and more), a register (firstRegister and below) or an element of
// the chain (firstChain and below).
type Place int32

const (
	firstRegister Place = -1
	firstChain    Place = -100
)

// Registers that a raw stack has, as places.
const (
	regIP Place = firstRegister - iota
	regSP
	regBP
	regBX
	regR12
	regR13
	regR14
	regR15
	regLR
	noPlace Place = -99 // a value that did not come from the raw stack, or is read already
)

// Condition is what a walk found out about a place.
type Condition uint8

// The conditions. Each place has been asked one question, and a walk that gets the
// same answers is the same walk.
const (
	Equals      Condition = iota // it holds Value
	EqualsSP                     // it holds SP + Value
	OutOfWindow                  // it is not zero, and the eight bytes at what it holds + Value are not in the window
	NotCode                      // it holds no address in executable memory, nor zero
	Zero                         // it holds zero
	Missing                      // the raw stack does not have it
	numConditions
)

// Dep is one answer that a walk depended on.
type Dep struct {
	Place     Place     `json:"p"`
	Condition Condition `json:"c"`
	Value     uint64    `json:"v,omitempty"`
}

// question is what a place is asked: its value, or its distance from SP.
type question uint8

const (
	askAnything question = iota // only Zero or Missing have answered yet
	askValue                    // answered by Equals or NotCode
	askDistance                 // answered by EqualsSP or OutOfWindow
)

func (c Condition) question() question {
	switch c {
	case Equals, NotCode:
		return askValue
	case EqualsSP, OutOfWindow:
		return askDistance
	}
	return askAnything
}

// Range is executable memory.
type Range struct {
	Start uint64 `json:"s"`
	End   uint64 `json:"e"`
}

// Templates remember the walks of one image of a process by what they read, and find
// the walk of a stack that was walked before without walking it: a walk is a pure
// function of the words that it reads, and it reads them in an order that only they
// decide, so that all walks together are a tree of questions. T is what a walk is
// remembered as. The zero value is empty.
type Templates[T any] struct {
	code  []Range
	nodes []node
	ends  []T
}

type node struct {
	place    Place
	question question
	answers  []answer
}

// answer leads on to a node or, where it is negative, to an end: ^next.
type answer struct {
	condition Condition
	value     uint64
	next      int32
}

const (
	maxTemplateNodes   = 1 << 15
	maxTemplateAnswers = 4096 // of one question
	// MaxDeps is how many answers a walk may depend on.
	MaxDeps = 2048
)

// Reset forgets all walks; code is what is executable from now on, in ascending order.
func (t *Templates[T]) Reset(code []Range) { *t = Templates[T]{code: code} }

// Nodes returns how many questions are remembered, each with its answers: what the memory
// grows with.
func (t *Templates[T]) Nodes() int { return len(t.nodes) }

// Match returns what the walk of a stack was remembered as; false where it is not.
// It allocates nothing.
func (t *Templates[T]) Match(raw *sample.RawStack) (found T, ok bool) {
	return t.descend(raw, nil)
}

// descend goes from question to question, and tells of each answer where asked to.
func (t *Templates[T]) descend(raw *sample.RawStack, tell func(p Place, c Condition)) (found T, ok bool) {
	if len(t.nodes) == 0 {
		return found, false
	}
	for at := int32(0); ; {
		n := &t.nodes[at]
		a := t.follow(n, raw)
		if a == nil {
			return found, false
		}
		if tell != nil {
			tell(n.place, a.condition)
		}
		if a.next < 0 {
			return t.ends[^a.next], true
		}
		at = a.next
	}
}

// Words are what the walk of a stack was remembered as, and all that it read, appended to dst: a
// stack that has these words, at whichever SP, is walked alike. False where it is not
// remembered, or what it read was not all there: then other stacks with these words may be
// walked otherwise.
func (t *Templates[T]) Words(raw *sample.RawStack, dst sample.WalkWords) (found T, words sample.WalkWords, ok bool) {
	there := true
	found, ok = t.descend(raw, func(p Place, c Condition) {
		there = there && c != Missing && c != OutOfWindow && p > noPlace
		value, _ := read(raw, p)
		word := sample.WalkWord{Offset: int32(p), Relative: c == EqualsSP, Value: value}
		if word.Relative {
			word.Value -= raw.SP
		}
		dst = append(dst, word)
	})
	return found, dst, ok && there
}

// follow is the answer that a stack gives; nil where none did yet.
func (t *Templates[T]) follow(n *node, raw *sample.RawStack) *answer {
	value, present := read(raw, n.place)
	for i := range n.answers {
		a := &n.answers[i]
		switch a.condition {
		case Equals:
			if present && a.value == value {
				return a
			}
		case EqualsSP:
			if present && a.value == value-raw.SP {
				return a
			}
		case Missing:
			if !present {
				return a
			}
		case OutOfWindow:
			if present && value != 0 && !inWindow(raw, value+a.value-raw.SP) {
				return a
			}
		case Zero:
			if present && value == 0 {
				return a
			}
		case NotCode:
			if present && value != 0 && !inRanges(t.code, value) {
				return a
			}
		}
	}
	return nil
}

// Add remembers a walk by what it depended on. It returns false where there is no
// room for more, or where the answers contradict those of other walks, which shows
// that they were not a walk's.
func (t *Templates[T]) Add(deps []Dep, as T) bool {
	if len(deps) == 0 || len(deps) > MaxDeps || len(t.nodes)+len(deps) > maxTemplateNodes {
		return false
	}
	if len(t.nodes) == 0 {
		t.nodes = append(t.nodes, node{})
	}
	at := int32(0)
	for i, d := range deps {
		last := i == len(deps)-1
		next, known, ok := t.nodes[at].find(d)
		switch {
		case !ok, known && (next < 0) != last:
			return false
		case known && last:
			t.ends[^next] = as
			return true
		case known:
			at = next
			continue
		case len(t.nodes[at].answers) == maxTemplateAnswers:
			return false
		}
		a := answer{condition: d.Condition, value: d.Value}
		if last {
			a.next = ^int32(len(t.ends))
			t.ends = append(t.ends, as)
		} else {
			a.next = int32(len(t.nodes))
			t.nodes = append(t.nodes, node{})
		}
		if n := &t.nodes[at]; d.Condition == Zero || d.Condition == OutOfWindow { // they go before the same distance
			n.answers = slices.Insert(n.answers, 0, a)
		} else {
			n.answers = append(n.answers, a)
		}
		at = a.next
	}
	return true
}

// find returns the answer that a dependency is; ok is false where the node asks
// something else.
func (n *node) find(d Dep) (next int32, known, ok bool) {
	if d.Condition >= numConditions {
		return 0, false, false
	}
	if len(n.answers) == 0 {
		n.place = d.Place
	}
	q := d.Condition.question()
	if n.question == askAnything {
		n.question = q
	}
	if n.place != d.Place || q != askAnything && q != n.question {
		return 0, false, false
	}
	i := slices.IndexFunc(n.answers, func(a answer) bool { return a.condition == d.Condition && a.value == d.Value })
	if i < 0 {
		return 0, false, true
	}
	return n.answers[i].next, true, true
}

// read returns what a raw stack has at a place.
func read(raw *sample.RawStack, p Place) (uint64, bool) {
	if p >= 0 {
		if int(p)+8 > len(raw.Window) {
			return 0, false
		}
		return binary.LittleEndian.Uint64(raw.Window[p:]), true
	}
	switch p {
	case regIP:
		return raw.IP, true
	case regSP:
		return raw.SP, true
	case regBP:
		return raw.BP, true
	case regBX:
		return raw.BX, true
	case regR12:
		return raw.R12, true
	case regR13:
		return raw.R13, true
	case regR14:
		return raw.R14, true
	case regR15:
		return raw.R15, true
	case regLR:
		return raw.LR, true
	}
	if i := int(firstChain - p); i >= 0 && i < len(raw.Chain) {
		return raw.Chain[i], true
	}
	return 0, false
}

// inWindow says whether eight bytes at a distance from SP are in the window.
func inWindow(raw *sample.RawStack, distance uint64) bool {
	return len(raw.Window) >= 8 && distance <= uint64(len(raw.Window)-8)
}

func inRanges(code []Range, address uint64) bool {
	lo, hi := 0, len(code)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if code[mid].End <= address {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo < len(code) && code[lo].Start <= address
}

// Full says that Add refuses for want of room.
func (t *Templates[T]) Full() bool { return len(t.nodes)+MaxDeps > maxTemplateNodes }
