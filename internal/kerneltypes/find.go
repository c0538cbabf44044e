package kerneltypes

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Kind is a kind of BTF type.
type Kind uint8

// The kinds (include/uapi/linux/btf.h).
const (
	Int Kind = iota + 1
	Pointer
	Array
	Struct
	Union
	Enum
	Forward
	Typedef
	Volatile
	Const
	Restrict
	Func
	FuncProto
	Var
	DataSection
	Float
	DeclTag
	TypeTag
	Enum64
)

// ErrMalformed means that this is no BTF, or of a version that is not known.
var ErrMalformed = errors.New("malformed BTF")

const (
	headerBytes = 24
	headBytes   = 12 // of each type: name, info, size or type
	magic       = 0xeb9f
)

// tails are how many bytes follow a type's head: some, and some for each of its members.
var tails = [32]struct{ known, fixed, each uint8 }{
	Int: {1, 4, 0}, Pointer: {known: 1}, Array: {1, 12, 0}, Struct: {1, 0, 12}, Union: {1, 0, 12}, Enum: {1, 0, 8},
	Forward: {known: 1}, Typedef: {known: 1}, Volatile: {known: 1}, Const: {known: 1}, Restrict: {known: 1},
	Func: {known: 1}, FuncProto: {1, 0, 8}, Var: {1, 4, 0}, DataSection: {1, 0, 12}, Float: {known: 1},
	DeclTag: {1, 4, 0}, TypeTag: {known: 1}, Enum64: {1, 0, 12},
}

// stride is how many types there are between two whose places are remembered, meanBytes
// how long one is, or shorter.
const (
	stride    = 32
	meanBytes = 16
)

// Table is a kernel's types, of which those with certain names were found.
type Table struct {
	types   []byte
	strings []byte
	found   map[string][]hit
	places  []uint32 // in types: of type 1, 1+stride...
	count   uint32   // the last ID
}

// hit is a type that has a name.
type hit struct {
	id   uint32
	kind Kind
}

// Find looks for the types that have one of the names. It keeps b.
func Find(b []byte, names []string) (*Table, error) {
	t := &Table{found: map[string][]hit{}}
	if err := t.split(b); err != nil {
		return nil, err
	}
	return t, t.walk(newWanted(names))
}

func (t *Table) split(b []byte) error {
	if len(b) < headerBytes || binary.NativeEndian.Uint16(b) != magic || b[2] != 1 {
		return ErrMalformed
	}
	word := func(at int) uint64 { return uint64(binary.NativeEndian.Uint32(b[at:])) }
	section := func(at, size uint64) ([]byte, bool) {
		begin := word(4) + at
		if begin+size > uint64(len(b)) {
			return nil, false
		}
		return b[begin : begin+size], true
	}
	var ok1, ok2 bool
	t.types, ok1 = section(word(8), word(12))
	t.strings, ok2 = section(word(16), word(20))
	if !ok1 || !ok2 {
		return ErrMalformed
	}
	return nil
}

// wanted are names. By how they begin, most others are told apart at once.
type wanted struct {
	names map[string]struct{}
	heads [1 << (headBits - 6)]uint64 // a bit for each hash of a beginning
}

// headBits is of how many bits the hash of a name's beginning is.
const headBits = 12

func newWanted(names []string) *wanted {
	w := &wanted{names: make(map[string]struct{}, len(names))}
	for _, name := range names {
		if name == "" {
			continue
		}
		w.names[name] = struct{}{}
		if len(name) < 4 { // what follows it decides, too
			for i := range w.heads {
				w.heads[i] = ^uint64(0)
			}
			continue
		}
		h := hashed(binary.NativeEndian.Uint32([]byte(name[:4])))
		w.heads[h/64] |= 1 << (h % 64)
	}
	return w
}

// hashed is multiplicative: Knuth, The Art of Computer Programming, 6.4.
func hashed(head uint32) uint32 { return head * 2654435769 >> (32 - headBits) }

// of returns the name that begins a text, if it is wanted.
func (w *wanted) of(text []byte) (string, bool) {
	n := bytes.IndexByte(text, 0)
	if n <= 0 {
		return "", false
	}
	if _, ok := w.names[string(text[:n])]; !ok {
		return "", false
	}
	return string(text[:n]), true
}

// walk goes over all types.
func (t *Table) walk(w *wanted) error {
	t.places = make([]uint32, 0, len(t.types)/(stride*meanBytes)+1)
	for at := 0; at < len(t.types); {
		if t.count%stride == 0 {
			t.places = append(t.places, uint32(at))
		}
		t.count++
		name, kind, size, err := t.head(at)
		if err != nil {
			return err
		}
		at += size
		if uint64(name) >= uint64(len(t.strings)) {
			continue
		}
		text := t.strings[name:]
		if len(text) >= 4 {
			if h := hashed(binary.NativeEndian.Uint32(text)); w.heads[h/64]&(1<<(h%64)) == 0 {
				continue
			}
		}
		if name, ok := w.of(text); ok {
			t.found[name] = append(t.found[name], hit{t.count, kind})
		}
	}
	return nil
}

// head reads what every type begins with, and how long it is.
func (t *Table) head(at int) (name uint32, kind Kind, size int, err error) {
	if at+headBytes > len(t.types) {
		return 0, 0, 0, ErrMalformed
	}
	head := t.types[at : at+headBytes]
	info := binary.NativeEndian.Uint32(head[4:])
	kind = Kind(info >> 24 & 0x1f)
	tail := &tails[kind]
	size = headBytes + int(tail.fixed) + int(tail.each)*int(info&0xffff)
	if tail.known == 0 || at+size > len(t.types) {
		return 0, 0, 0, ErrMalformed
	}
	return binary.NativeEndian.Uint32(head), kind, size, nil
}

// Names returns the names of all structs, unions and enums of BTF, some of them twice.
func Names(b []byte) ([]string, error) {
	var t Table
	if err := t.split(b); err != nil {
		return nil, err
	}
	var names []string
	for at := 0; at < len(t.types); {
		name, kind, size, err := t.head(at)
		if err != nil {
			return nil, err
		}
		at += size
		switch kind {
		case Struct, Union, Enum, Enum64:
			if uint64(name) >= uint64(len(t.strings)) {
				return nil, ErrMalformed
			}
			text, _, _ := bytes.Cut(t.strings[name:], []byte{0})
			names = append(names, string(text))
		}
	}
	return names, nil
}

// ID returns the ID of the type of a kind and name; false: there is none, or several.
func (t *Table) ID(k Kind, name string) (id uint32, ok bool) {
	for _, h := range t.found[name] {
		if h.kind != k {
			continue
		}
		if ok {
			return 0, false
		}
		id, ok = h.id, true
	}
	return id, ok
}

// at returns where a type stands.
func (t *Table) at(id uint32) (int, error) {
	if id == 0 || id > t.count {
		return 0, ErrMalformed
	}
	at := int(t.places[(id-1)/stride])
	for range (id - 1) % stride {
		_, _, size, err := t.head(at)
		if err != nil {
			return 0, err
		}
		at += size
	}
	return at, nil
}
