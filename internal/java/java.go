// Package java reads what names frames of HotSpot, from JDK 11 on, in the memory of
// another process: what code is at an address, how large its frame is, and which method,
// file and line a frame is at, inlined methods included.
//
// Where things are is in tables that libjvm.so exports for debuggers
// (src/hotspot/share/runtime/vmStructs.hpp). What they lead to is the other process's
// own, is read later than the stack was copied, and may be gone: everything is bounded,
// and a method counts only if its class has it and the instruction lies in it.
package java

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	maxEntries   = 1 << 14 // of one table
	maxName      = 1 << 10 // bytes of a name
	maxHeaps     = 16      // code heaps
	maxSegments  = 1024    // steps back in a segment map
	maxBlob      = 64 << 20
	maxMethods   = 1 << 16 // of a class; the class file format allows no more
	maxCode      = 1 << 16 // bytes of a method; likewise
	maxLineTable = 1 << 20
	maxDescs     = 1 << 16 // positions of one compiled method
	maxInlined   = 64
)

// Memory reads a process's memory: all of p, or it is an error.
type Memory interface {
	ReadAt(p []byte, addr uint64) error
}

// Symbols are what libjvm.so has to be asked for.
var Symbols = []string{
	"gHotSpotVMStructs", "gHotSpotVMStructEntryTypeNameOffset", "gHotSpotVMStructEntryFieldNameOffset",
	"gHotSpotVMStructEntryIsStaticOffset", "gHotSpotVMStructEntryOffsetOffset", "gHotSpotVMStructEntryAddressOffset",
	"gHotSpotVMStructEntryArrayStride",
	"gHotSpotVMTypes", "gHotSpotVMTypeEntryTypeNameOffset", "gHotSpotVMTypeEntrySizeOffset", "gHotSpotVMTypeEntryArrayStride",
}

// VM is one process's HotSpot. One goroutine uses it at a time.
type VM struct {
	memory Memory
	fields map[string]uint64 // offsets of fields and addresses of static ones, "Type.field"
	sizes  map[string]uint64 // of types
	lines  int               // what is taken from each byte of a compressed number

	blobSize, heapBlock, constMethod, pool uint64 // sizes of types
}

// Open finds out about the HotSpot of a process. addresses are those of Symbols.
func Open(m Memory, addresses []uint64) (*VM, error) {
	v := &VM{memory: m, fields: map[string]uint64{}, sizes: map[string]uint64{}}
	at := map[string]uint64{}
	for i, name := range Symbols {
		if i >= len(addresses) || addresses[i] == 0 {
			return nil, fmt.Errorf("libjvm.so has no %s", name)
		}
		var err error
		if at[strings.TrimPrefix(name, "gHotSpotVM")], err = v.word(addresses[i]); err != nil {
			return nil, err
		}
	}
	if err := v.readFields(at); err != nil {
		return nil, err
	}
	if err := v.readSizes(at); err != nil {
		return nil, err
	}
	for _, name := range []string{
		"CodeCache._heaps", "CodeHeap._memory", "CodeHeap._segmap", "CodeHeap._log2_segment_size", "VirtualSpace._low", "VirtualSpace._high",
		"CodeBlob._name", "CodeBlob._size", "CodeBlob._frame_size", "AbstractInterpreter._code", "StubQueue._stub_buffer", "StubQueue._buffer_limit",
		"Method._constMethod", "ConstMethod._constants", "ConstMethod._constMethod_size", "ConstMethod._code_size", "ConstMethod._name_index", "ConstMethod._method_idnum",
		"ConstantPool._pool_holder", "ConstantPool._length", "InstanceKlass._constants", "InstanceKlass._methods", "Klass._name", "Symbol._length", "Symbol._body",
		"Array<Klass*>._length", "Array<Method*>._data", "GrowableArrayBase._len", "GrowableArray<int>._data",
	} {
		if _, ok := v.fields[name]; !ok {
			return nil, fmt.Errorf("this HotSpot does not tell where %s is", name)
		}
	}
	for name, size := range map[string]*uint64{"CodeBlob": &v.blobSize, "HeapBlock": &v.heapBlock, "ConstMethod": &v.constMethod, "ConstantPool": &v.pool} {
		if *size = v.sizes[name]; *size == 0 || *size > 4096 {
			return nil, fmt.Errorf("this HotSpot does not tell how large %s is", name)
		}
	}
	v.lines = 0
	if major, err := v.half(v.fields["Abstract_VM_Version._vm_major_version"]); err == nil && major >= 20 {
		v.lines = 1 // JDK-8292758: compressed numbers have no zero bytes
	}
	return v, nil
}

func (v *VM) readFields(at map[string]uint64) error {
	stride := at["StructEntryArrayStride"]
	if stride < 40 || stride > 256 {
		return errors.New("a table of fields that is none")
	}
	entry := make([]byte, stride)
	get := func(name string) (uint64, error) {
		offset := at["StructEntry"+name+"Offset"]
		if offset > stride-8 {
			return 0, errors.New("a table of fields that is none")
		}
		return binary.LittleEndian.Uint64(entry[offset:]), nil
	}
	texts := map[uint64]string{} // type names come again and again
	for n := uint64(0); n < maxEntries; n++ {
		if err := v.memory.ReadAt(entry, at["Structs"]+n*stride); err != nil {
			return err
		}
		typeName, err := get("TypeName")
		if err != nil {
			return err
		}
		if typeName == 0 {
			return nil
		}
		if !v.wanted(texts, typeName) {
			continue
		}
		fieldName, err1 := get("FieldName")
		static, err2 := get("IsStatic")
		offset, err3 := get("Offset")
		address, err4 := get("Address")
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return err
		}
		field, err := v.cString(fieldName)
		if err != nil {
			return err
		}
		if uint32(static) != 0 {
			offset = address
		} else if offset > 1<<16 {
			return errors.New("a field that is too far away")
		}
		v.fields[texts[typeName]+"."+field] = offset
	}
	return errors.New("a table of fields without an end")
}

// types are those that have what is looked for.
var types = map[string]bool{
	"CodeCache": true, "CodeHeap": true, "VirtualSpace": true, "CodeBlob": true, "AbstractInterpreter": true, "StubQueue": true,
	"Method": true, "ConstMethod": true, "ConstantPool": true, "InstanceKlass": true, "Klass": true, "Symbol": true,
	"Array<Klass*>": true, "Array<Method*>": true, "GrowableArrayBase": true, "GrowableArray<int>": true, "Abstract_VM_Version": true,
	"CompiledMethod": true, "nmethod": true, "PcDesc": true, "HeapBlock": true,
}

func (v *VM) wanted(texts map[uint64]string, name uint64) bool {
	text, known := texts[name]
	if !known {
		text, _ = v.cString(name)
		texts[name] = text
	}
	return types[text]
}

func (v *VM) readSizes(at map[string]uint64) error {
	stride := at["TypeEntryArrayStride"]
	name, size := at["TypeEntryTypeNameOffset"], at["TypeEntrySizeOffset"]
	if stride < 16 || stride > 256 || name > stride-8 || size > stride-8 {
		return errors.New("a table of types that is none")
	}
	entry := make([]byte, stride)
	for n := uint64(0); n < maxEntries; n++ {
		if err := v.memory.ReadAt(entry, at["Types"]+n*stride); err != nil {
			return err
		}
		p := binary.LittleEndian.Uint64(entry[name:])
		if p == 0 {
			return nil
		}
		text, err := v.cString(p)
		if err != nil {
			return err
		}
		if types[text] {
			v.sizes[text] = binary.LittleEndian.Uint64(entry[size:])
		}
	}
	return errors.New("a table of types without an end")
}

func (v *VM) word(addr uint64) (uint64, error) {
	var b [8]byte
	err := v.memory.ReadAt(b[:], addr)
	return binary.LittleEndian.Uint64(b[:]), err
}

func (v *VM) half(addr uint64) (uint32, error) {
	var b [4]byte
	err := v.memory.ReadAt(b[:], addr)
	return binary.LittleEndian.Uint32(b[:]), err
}

// field reads a word of an object.
func (v *VM) field(object uint64, name string) (uint64, error) {
	return v.word(object + v.fields[name])
}

// cString reads a text of at most 63 bytes, which may lie at the end of what is mapped.
func (v *VM) cString(addr uint64) (string, error) {
	const most = 64
	var b [most]byte
	n := most - int(addr%most) // no page ends within
	if err := v.memory.ReadAt(b[:n], addr); err != nil {
		return "", err
	}
	if i := strings.IndexByte(string(b[:n]), 0); i >= 0 {
		return string(b[:i]), nil
	}
	if err := v.memory.ReadAt(b[n:], addr+uint64(n)); err != nil {
		return "", err
	}
	text, _, _ := strings.Cut(string(b[:]), "\x00")
	return text, nil
}

// symbol reads a Symbol: a name in modified UTF-8.
func (v *VM) symbol(addr uint64) (string, error) {
	if addr == 0 {
		return "", errors.New("no name")
	}
	n, err := v.half(addr + v.fields["Symbol._length"])
	if err != nil {
		return "", err
	}
	b := make([]byte, min(n&0xffff, maxName))
	if err := v.memory.ReadAt(b, addr+v.fields["Symbol._body"]); err != nil {
		return "", err
	}
	return strings.ToValidUTF8(string(b), string(utf8.RuneError)), nil
}
