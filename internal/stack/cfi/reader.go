package cfi

import (
	"bytes"
	"encoding/binary"
)

// Encodings of addresses (LSB, "DWARF Exception Header Encoding").
const (
	encAbsolute = 0x00
	encUleb     = 0x01
	encUdata2   = 0x02
	encUdata4   = 0x03
	encUdata8   = 0x04
	encSleb     = 0x09
	encSdata2   = 0x0a
	encSdata4   = 0x0b
	encSdata8   = 0x0c
	encPCRel    = 0x10
	encDataRel  = 0x30
)

// reader takes numbers from bytes. Past the end it returns zeros and is bad from then on.
type reader struct {
	b     []byte
	vaddr uint64 // of b[0]
	at    int
	bad   bool
}

func (r *reader) more() bool { return !r.bad && r.at < len(r.b) }

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b)-r.at {
		r.bad = true
		return zeros[:n]
	}
	b := r.b[r.at : r.at+n]
	r.at += n
	return b
}

var zeros [8]byte

func (r *reader) u8() byte    { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

func (r *reader) uleb() uint64 {
	var v uint64
	for shift := 0; shift < 70; shift += 7 {
		c := r.u8()
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
	r.bad = true
	return 0
}

func (r *reader) sleb() int64 {
	var v int64
	for shift := 0; shift < 70; {
		c := r.u8()
		v |= int64(c&0x7f) << shift
		shift += 7
		if c < 0x80 {
			if shift < 64 && c&0x40 != 0 {
				v |= -1 << shift
			}
			return v
		}
	}
	r.bad = true
	return 0
}

func (r *reader) block(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)-r.at) {
		r.bad = true
		return nil
	}
	return r.take2(int(n))
}

func (r *reader) take2(n int) []byte {
	b := r.b[r.at : r.at+n]
	r.at += n
	return b
}

func (r *reader) skip(n uint64) { r.block(n) }

// text returns a string that ends with a zero byte, without it.
func (r *reader) text() []byte {
	end := bytes.IndexByte(r.b[r.at:], 0)
	if r.bad || end < 0 {
		r.bad = true
		return nil
	}
	s := r.take2(end)
	r.at++
	return s
}

// address reads an address as encoded; vaddr is where it stands.
func (r *reader) address(encoding byte, vaddr uint64) uint64 {
	var v uint64
	switch encoding & 0x0f {
	case encAbsolute, encUdata8, encSdata8:
		v = r.u64()
	case encUleb:
		v = r.uleb()
	case encUdata2:
		v = uint64(r.u16())
	case encUdata4:
		v = uint64(r.u32())
	case encSleb:
		v = uint64(r.sleb())
	case encSdata2:
		v = uint64(int64(int16(r.u16())))
	case encSdata4:
		v = uint64(int64(int32(r.u32())))
	default:
		r.bad = true
	}
	switch encoding & 0xf0 {
	case 0:
	case encPCRel:
		v += vaddr
	default:
		r.bad = true
	}
	return v
}
