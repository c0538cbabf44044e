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

// stride is how many types there are between two whose places are remembered.
const stride = 256

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
	offsets, err := t.locate(names)
	if err != nil {
		return nil, err
	}
	return t, t.walk(offsets)
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

// locate finds where names stand among the strings.
func (t *Table) locate(names []string) (map[uint32]string, error) {
	wanted := make(map[string]struct{}, len(names))
	var letters [64]uint32 // by length: which first letters there are, as bits
	for _, name := range names {
		if name == "" {
			continue
		}
		wanted[name] = struct{}{}
		letters[len(name)%64] |= 1 << (name[0] % 32)
	}
	offsets := map[uint32]string{}
	for at := 0; at < len(t.strings); {
		n := bytes.IndexByte(t.strings[at:], 0)
		if n < 0 {
			return nil, ErrMalformed
		}
		if n > 0 && letters[n%64]&(1<<(t.strings[at]%32)) != 0 {
			name := t.strings[at : at+n]
			if _, ok := wanted[string(name)]; ok {
				offsets[uint32(at)] = string(name)
			}
		}
		at += n + 1
	}
	return offsets, nil
}

// walk goes over all types.
func (t *Table) walk(offsets map[uint32]string) error {
	var near [256]uint32 // a bit for each name's place: most types need no look at the map
	for at := range offsets {
		near[at>>5%256] |= 1 << (at % 32)
	}
	for at := 0; at < len(t.types); {
		if t.count%stride == 0 {
			t.places = append(t.places, uint32(at))
		}
		t.count++
		name, kind, size, err := t.head(at)
		if err != nil {
			return err
		}
		if near[name>>5%256]&(1<<(name%32)) != 0 {
			if text, ok := offsets[name]; ok {
				t.found[text] = append(t.found[text], hit{t.count, kind})
			}
		}
		at += size
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
