package java

import (
	"encoding/binary"
	"errors"
	"testing"
)

// encode writes a number as HotSpot does (unsigned5.hpp).
func encode(v, excluded uint32) (b []byte) {
	low := 256 - excluded - 64
	for range 4 {
		if v < low {
			break
		}
		v -= low
		b = append(b, byte(excluded+low+v%64))
		v /= 64
	}
	return append(b, byte(excluded+v))
}

func TestNumbers(t *testing.T) {
	for _, excluded := range []uint32{0, 1} {
		for _, want := range []uint32{0, 1, 190, 191, 192, 255, 256, 12_479, 12_480, 1 << 20, 1 << 28, 1<<32 - 1} {
			b := encode(want, excluded)
			n := numbers{b: append(b, 7), excluded: excluded}
			if got := n.unsigned(); got != want || n.bad || len(n.b) != 1 {
				t.Errorf("%d, %d excluded: % x is %d, %v, % x is left", want, excluded, b, got, n.bad, n.b)
			}
		}
	}
	for u, want := range map[uint32]int64{0: 0, 1: -1, 2: 1, 3: -2, 4: 2} {
		n := numbers{b: encode(u, 0)}
		if got := n.signed(); got != want {
			t.Errorf("%d is %d, want %d", u, got, want)
		}
	}
}

func TestLines(t *testing.T) {
	table := []byte{0<<3 | 5, 4<<3 | 1} // 0: 5, 4: 6
	table = append(table, 0xff)
	table = append(append(table, encode(40<<1, 0)...), encode(30<<1, 0)...) // 44: 36
	table = append(table, 0xff)
	table = append(append(table, encode(34<<1-1, 0)...), encode(20<<1-1, 0)...) // 10: 16
	table = append(table, 0)
	for bytecode, want := range map[uint64]int{0: 5, 3: 5, 4: 6, 9: 6, 10: 16, 43: 16, 44: 36, 1000: 36} {
		if got := lineAt(&numbers{b: table}, bytecode); got != want {
			t.Errorf("bytecode %d is in line %d, want %d", bytecode, got, want)
		}
	}
	if got := lineAt(&numbers{b: []byte{0xff, 0xff}}, 0); got != 0 {
		t.Errorf("line %d of a table that is cut off", got)
	}
}

// lies is memory that answers with whatever there is.
type lies []byte

func (m lies) ReadAt(p []byte, addr uint64) error {
	if len(m) == 0 || addr%13 == 12 {
		return errors.New("no memory")
	}
	for i := range p {
		p[i] = m[(addr+uint64(i))%uint64(len(m))]
	}
	return nil
}

// offsets are some of JDK 17's, and some of JDK 25's.
func offsets(newer bool) map[string]uint64 {
	f := map[string]uint64{
		"CodeCache._heaps": 8, "CodeHeap._memory": 8, "CodeHeap._segmap": 120, "CodeHeap._log2_segment_size": 256,
		"VirtualSpace._low": 16, "VirtualSpace._high": 24, "CodeBlob._name": 96, "CodeBlob._size": 12, "CodeBlob._frame_size": 28,
		"AbstractInterpreter._code": 24, "StubQueue._stub_buffer": 8, "StubQueue._buffer_limit": 20,
		"Method._constMethod": 8, "ConstMethod._constants": 8, "ConstMethod._constMethod_size": 24, "ConstMethod._code_size": 32,
		"ConstMethod._name_index": 34, "ConstMethod._method_idnum": 38, "ConstMethod._flags": 28, "ConstantPool._pool_holder": 24, "ConstantPool._length": 60,
		"ConstantPool._source_file_name_index": 54, "InstanceKlass._constants": 232, "InstanceKlass._methods": 408, "Klass._name": 24,
		"Symbol._length": 4, "Symbol._body": 6, "Array<Klass*>._length": 0, "Array<Method*>._data": 8, "GrowableArrayBase._len": 0,
		"GrowableArray<int>._data": 8, "PcDesc._pc_offset": 0, "PcDesc._scope_decode_offset": 4,
	}
	more := map[string]uint64{
		"CompiledMethod._scopes_data_begin": 120, "CompiledMethod._method": 112, "CodeBlob._code_begin": 32,
		"nmethod._metadata_offset": 260, "nmethod._scopes_pcs_offset": 268, "nmethod._dependencies_offset": 272,
	}
	if newer {
		more = map[string]uint64{
			"nmethod._method": 80, "nmethod._immutable_data": 96, "nmethod._immutable_data_size": 160, "nmethod._scopes_pcs_offset": 196,
			"nmethod._scopes_data_offset": 200, "CodeBlob._mutable_data": 16, "CodeBlob._relocation_size": 28, "CodeBlob._code_offset": 36,
		}
	}
	for name, at := range more {
		f[name] = at
	}
	return f
}

func FuzzHotSpot(f *testing.F) {
	f.Add([]byte("nmethod\x00\x01\x02\x03\x04"), uint64(0x1000), uint64(3))
	f.Add(make([]byte, 64), uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, memory []byte, pc, bytecode uint64) {
		for _, newer := range []bool{false, true} {
			v := &VM{memory: lies(memory), fields: offsets(newer), sizes: map[string]uint64{}, blobSize: 104, heapBlock: 16, constMethod: 48, pool: 72}
			if c, err := v.Code(pc); err == nil && (pc < c.Start || pc >= c.End) {
				t.Errorf("%#x is not in %+v", pc, c)
			}
			_, _ = v.Compiled(pc)
			_, _ = v.Interpreted(pc, bytecode)
			_, _ = v.scopes(&Code{Start: pc, End: pc + 4096, Kind: Compiled, blob: pc}, pc+bytecode)
			_, _ = v.decode(memory, uint32(bytecode), pc)
			lineAt(&numbers{b: memory, excluded: uint32(bytecode & 1)}, bytecode)
		}
		addresses := make([]uint64, len(Symbols))
		for i := range addresses {
			addresses[i] = binary.LittleEndian.Uint64(append(append([]byte(nil), memory...), make([]byte, 8)...)) + uint64(i)
		}
		_, _ = Open(lies(memory), addresses)
	})
}
