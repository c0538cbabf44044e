package java

import (
	"encoding/binary"
	"errors"
)

// Kind is what code in HotSpot's code cache is.
type Kind uint8

// The kinds.
const (
	Other       Kind = iota // nothing that tells how to leave it, but maybe its frame's size
	Interpreter             // frames have a method and where it is in it
	Compiled                // one method and those inlined in it
)

// Code is a piece of code and what there is to know for leaving it.
type Code struct {
	Start, End uint64
	Kind       Kind
	FrameBytes uint64 // from SP at a call to above the return address; 0 where it is not constant

	blob uint64
}

// Code returns the code that an address is in.
func (v *VM) Code(pc uint64) (Code, error) {
	if c, err := v.interpreter(); err != nil || c.Start <= pc && pc < c.End {
		return c, err
	}
	heaps, err := v.word(v.fields["CodeCache._heaps"])
	if err != nil {
		return Code{}, err
	}
	n, err := v.half(heaps + v.fields["GrowableArrayBase._len"])
	if err != nil {
		return Code{}, err
	}
	data, err := v.field(heaps, "GrowableArray<int>._data")
	if err != nil {
		return Code{}, err
	}
	for i := range uint64(min(n, maxHeaps)) {
		heap, err := v.word(data + 8*i)
		if err != nil {
			return Code{}, err
		}
		low, err1 := v.word(heap + v.fields["CodeHeap._memory"] + v.fields["VirtualSpace._low"])
		high, err2 := v.word(heap + v.fields["CodeHeap._memory"] + v.fields["VirtualSpace._high"])
		if err := errors.Join(err1, err2); err != nil {
			return Code{}, err
		}
		if low <= pc && pc < high {
			return v.inHeap(heap, low, pc)
		}
	}
	return Code{}, errors.New("not in the code cache")
}

func (v *VM) interpreter() (c Code, err error) {
	queue, err := v.word(v.fields["AbstractInterpreter._code"])
	if err != nil {
		return c, err
	}
	start, err := v.field(queue, "StubQueue._stub_buffer")
	if err != nil {
		return c, err
	}
	size, err := v.half(queue + v.fields["StubQueue._buffer_limit"])
	return Code{Start: start, End: start + uint64(size), Kind: Interpreter}, err
}

// inHeap finds the block that an address is in: the segment map has for each segment
// how far back its block's first may be, 0 for that (heap.cpp, CodeHeap::find_block_for).
func (v *VM) inHeap(heap, low, pc uint64) (Code, error) {
	shift, err := v.half(heap + v.fields["CodeHeap._log2_segment_size"])
	if err != nil || shift < 4 || shift > 20 {
		return Code{}, errors.Join(err, errors.New("not a code heap"))
	}
	segments, err := v.word(heap + v.fields["CodeHeap._segmap"] + v.fields["VirtualSpace._low"])
	if err != nil {
		return Code{}, err
	}
	segment := (pc - low) >> shift
	for range maxSegments {
		var back [1]byte
		if err := v.memory.ReadAt(back[:], segments+segment); err != nil {
			return Code{}, err
		}
		const free = 0xff
		switch {
		case back[0] == free || uint64(back[0]) > segment:
			return Code{}, errors.New("not in use")
		case back[0] == 0:
			return v.blob(low+segment<<shift+v.heapBlock, pc)
		}
		segment -= uint64(back[0])
	}
	return Code{}, errors.New("a block without a beginning")
}

// blob reads a CodeBlob.
func (v *VM) blob(blob, pc uint64) (Code, error) {
	b := make([]byte, v.blobSize)
	if err := v.memory.ReadAt(b, blob); err != nil {
		return Code{}, err
	}
	at := func(field string) uint32 {
		offset := v.fields["CodeBlob."+field]
		if offset+4 > uint64(len(b)) {
			return 0
		}
		return binary.LittleEndian.Uint32(b[offset:])
	}
	size, frame := uint64(at("_size")), int32(at("_frame_size"))
	if size == 0 || size > maxBlob || pc < blob || pc-blob >= size || frame < 0 || frame > 1<<20 {
		return Code{}, errors.New("not a piece of code")
	}
	c := Code{Start: blob, End: blob + size, FrameBytes: 8 * uint64(frame), blob: blob}
	name, err := v.nameOf(b)
	if err == nil && (name == "nmethod" || name == "native nmethod") && frame > 0 {
		c.Kind = Compiled
	}
	return c, err
}

func (v *VM) nameOf(blob []byte) (string, error) {
	offset := v.fields["CodeBlob._name"]
	if offset+8 > uint64(len(blob)) {
		return "", errors.New("not a piece of code")
	}
	return v.cString(binary.LittleEndian.Uint64(blob[offset:]))
}
