package kerneltypes

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// maxDepth bounds how deep types that hold each other are followed.
const maxDepth = 64

// Types returns, as BTF of their own, the structs, unions and enums that were found, and
// what they hold by value. Every pointer in them leads to void.
func (t *Table) Types() ([]byte, error) {
	c := &copier{from: t, ids: map[uint32]uint32{}, names: map[uint32]uint32{0: 0}, strings: []byte{0}}
	for name, hits := range t.found {
		for _, h := range hits {
			switch h.kind {
			case Struct, Union, Enum, Enum64:
				if _, err := c.copy(h.id, 0); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
			}
		}
	}
	return c.bytes(), nil
}

// copier makes BTF of some types. Those that a type needs come before it.
type copier struct {
	from    *Table
	ids     map[uint32]uint32 // old to new; 0: being copied
	names   map[uint32]uint32 // the same, of places of strings
	types   []byte
	strings []byte
	count   uint32
}

func (c *copier) copy(id uint32, depth int) (uint32, error) {
	if id == 0 {
		return 0, nil // void
	}
	if to, ok := c.ids[id]; ok {
		if to == 0 {
			return 0, fmt.Errorf("%w: type %d holds itself", ErrMalformed, id)
		}
		return to, nil
	}
	if depth > maxDepth {
		return 0, fmt.Errorf("%w: types are nested too deep", ErrMalformed)
	}
	at, err := c.from.at(id)
	if err != nil {
		return 0, err
	}
	name, kind, size, err := c.from.head(at)
	if err != nil {
		return 0, err
	}
	c.ids[id] = 0
	record := bytes.Clone(c.from.types[at : at+size])
	if err := c.rewrite(record, kind, depth); err != nil {
		return 0, err
	}
	if err := c.rename(record); err != nil {
		return 0, fmt.Errorf("name of type %d at %d: %w", id, name, err)
	}
	c.types = append(c.types, record...)
	c.count++
	c.ids[id] = c.count
	return c.count, nil
}

// rewrite replaces what a record refers to.
func (c *copier) rewrite(record []byte, kind Kind, depth int) error {
	reference := func(at int) error {
		id, err := c.copy(binary.NativeEndian.Uint32(record[at:]), depth+1)
		binary.NativeEndian.PutUint32(record[at:], id)
		return err
	}
	switch kind {
	case Int, Float, Forward:
		return nil
	case Pointer:
		binary.NativeEndian.PutUint32(record[8:], 0)
		return nil
	case Typedef, Volatile, Const, Restrict, TypeTag:
		return reference(8)
	case Array: // elements, index
		if err := reference(headBytes); err != nil {
			return err
		}
		return reference(headBytes + 4)
	case Struct, Union: // name, type, place of each member
		for at := headBytes; at < len(record); at += 12 {
			if err := c.rename(record[at:]); err != nil {
				return err
			}
			if err := reference(at + 4); err != nil {
				return err
			}
		}
		return nil
	case Enum, Enum64:
		step := 8
		if kind == Enum64 {
			step = 12
		}
		for at := headBytes; at < len(record); at += step {
			if err := c.rename(record[at:]); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%w: kind %d is no part of a struct", ErrMalformed, kind)
}

// rename copies the name that a record begins with.
func (c *copier) rename(record []byte) error {
	old := binary.NativeEndian.Uint32(record)
	fresh, ok := c.names[old]
	if !ok {
		if uint64(old) >= uint64(len(c.from.strings)) {
			return ErrMalformed
		}
		text, _, ended := bytes.Cut(c.from.strings[old:], []byte{0})
		if !ended {
			return ErrMalformed
		}
		fresh = uint32(len(c.strings))
		c.strings = append(append(c.strings, text...), 0)
		c.names[old] = fresh
	}
	binary.NativeEndian.PutUint32(record, fresh)
	return nil
}

func (c *copier) bytes() []byte {
	word := binary.NativeEndian.AppendUint32
	b := binary.NativeEndian.AppendUint16(nil, magic)
	b = append(b, 1, 0) // version, flags
	b = word(b, headerBytes)
	b = word(b, 0)
	b = word(b, uint32(len(c.types)))
	b = word(b, uint32(len(c.types)))
	b = word(b, uint32(len(c.strings)))
	return append(append(b, c.types...), c.strings...)
}
