// Package elffile maps ELF files into memory and finds its way around in them:
// sections, segments, addresses, build ids. It reads 64-bit little-endian files for
// amd64 and arm64.
//
// The files are foreign: every offset and size is checked before it is used, no
// memory is allocated by what a file claims, and only the pages that are looked at
// are read, so that a file of 2 GB costs no more than a small one. Whoever writes
// to a file or truncates it while it is mapped changes or takes away what is read:
// read any number once, check it, use that copy; and read inside Guard.
package elffile

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

const (
	// MaxSize is the size in bytes of the largest file that is mapped.
	MaxSize = 8 << 30

	maxSections = 4096
	maxSegments = 256
	maxBuildID  = 64
	maxNotes    = 1 << 16 // bytes of one note segment that are searched

	headerSize        = 64
	sectionHeaderSize = 64
	programHeaderSize = 56
)

// ErrNotELF is why a file is not read at all.
var ErrNotELF = errors.New("not a 64-bit little-endian ELF file for amd64 or arm64")

// File is an ELF file in memory. Its methods may be called from several goroutines
// at once; what they return points into the mapping, which ends with Close.
type File struct {
	Machine elf.Machine // EM_X86_64 or EM_AARCH64
	Type    elf.Type
	Entry   uint64

	data     []byte
	mapped   bool
	buildID  string
	segments []Segment
	sections []sectionHeader
	names    []byte // the section names' string table
}

// Segment is a program header.
type Segment struct {
	Type     elf.ProgType
	Flags    elf.ProgFlag
	Offset   uint64 // in the file
	Vaddr    uint64
	FileSize uint64 // bytes that the file has of it; what lies past the file's end is cut off
	MemSize  uint64
	Align    uint64
}

// Section is a section of the file.
type Section struct {
	Type   elf.SectionType
	Flags  elf.SectionFlag
	Vaddr  uint64 // 0 where it is not loaded
	Offset uint64 // in the file
	Link   uint32 // index of the section that belongs to it: a symbol table's strings
	Info   uint32
	Entry  uint64 // bytes of an entry, where it is a table
	// Compressed says that Data begins with an Elf64_Chdr (SHF_COMPRESSED). The old
	// .zdebug sections are recognised by their name only.
	Compressed bool
	Data       []byte // nil where the file has none (SHT_NOBITS) or its place is not in the file
}

// Bytes per field as in Elf64_Shdr; parsed once, so that they cannot change.
type sectionHeader struct {
	name, kind, link, info     uint32
	flags, vaddr, offset, size uint64
	entry                      uint64
}

// Open maps a file. It must be a regular one, which the caller makes sure of before
// opening it; f can be closed at once. The caller closes the File.
func Open(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size()
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("not a regular file but %s", info.Mode())
	case size < headerSize:
		return nil, ErrNotELF
	case size > MaxSize:
		return nil, fmt.Errorf("%d bytes are more than the %d that are mapped", size, int64(MaxSize))
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	// Look-ups jump about; reading ahead would only fill memory.
	_ = unix.Madvise(data, unix.MADV_RANDOM)
	var file *File
	if err := Guard(func() (err error) { file, err = New(data); return err }); err != nil {
		return nil, errors.Join(err, unix.Munmap(data))
	}
	file.mapped = true
	return file, nil
}

// New reads a file that is in memory already: the vDSO. The caller owns data and
// leaves it alone until it is done with the File.
func New(data []byte) (*File, error) {
	if len(data) < headerSize || string(data[:4]) != elf.ELFMAG ||
		data[elf.EI_CLASS] != byte(elf.ELFCLASS64) || data[elf.EI_DATA] != byte(elf.ELFDATA2LSB) {
		return nil, ErrNotELF
	}
	le := binary.LittleEndian
	f := &File{
		data:    data,
		Type:    elf.Type(le.Uint16(data[16:])),
		Machine: elf.Machine(le.Uint16(data[18:])),
		Entry:   le.Uint64(data[24:]),
	}
	if f.Machine != elf.EM_X86_64 && f.Machine != elf.EM_AARCH64 {
		return nil, ErrNotELF
	}
	f.readSegments(le.Uint64(data[32:]), le.Uint16(data[54:]), le.Uint16(data[56:]))
	f.readSections(le.Uint64(data[40:]), le.Uint16(data[58:]), le.Uint16(data[60:]), le.Uint16(data[62:]))
	f.buildID = f.findBuildID()
	return f, nil
}

// Close unmaps the file. Nothing that came from it may be used any more.
func (f *File) Close() error {
	data, mapped := f.data, f.mapped
	f.data, f.names, f.mapped = nil, nil, false
	f.segments, f.sections = nil, nil
	if !mapped {
		return nil
	}
	return unix.Munmap(data)
}

func (f *File) readSegments(offset uint64, size, count uint16) {
	if size != programHeaderSize {
		return
	}
	for i := range min(uint64(count), maxSegments) {
		h, ok := f.Bytes(offset+i*programHeaderSize, programHeaderSize)
		if !ok {
			return
		}
		le := binary.LittleEndian
		s := Segment{
			Type:     elf.ProgType(le.Uint32(h)),
			Flags:    elf.ProgFlag(le.Uint32(h[4:])),
			Offset:   le.Uint64(h[8:]),
			Vaddr:    le.Uint64(h[16:]),
			FileSize: le.Uint64(h[32:]),
			MemSize:  le.Uint64(h[40:]),
			Align:    le.Uint64(h[48:]),
		}
		if s.Offset > uint64(len(f.data)) || s.Vaddr+max(s.FileSize, s.MemSize) < s.Vaddr {
			continue
		}
		s.FileSize = min(s.FileSize, uint64(len(f.data))-s.Offset)
		f.segments = append(f.segments, s)
	}
}

// readSections leaves the file without sections where their headers are not in the
// file; many programs live well without.
func (f *File) readSections(offset uint64, size, count16, names16 uint16) {
	if offset == 0 || size != sectionHeaderSize {
		return
	}
	count, names := uint64(count16), uint64(names16)
	if first, ok := f.sectionHeader(offset); ok && count == 0 { // more than fit into 16 bits: gABI, "e_shnum"
		count = first.size
	}
	if first, ok := f.sectionHeader(offset); ok && elf.SectionIndex(names) == elf.SHN_XINDEX {
		names = uint64(first.link)
	}
	for i := range min(count, maxSections) {
		h, ok := f.sectionHeader(offset + i*sectionHeaderSize)
		if !ok {
			break
		}
		f.sections = append(f.sections, h)
	}
	if names < uint64(len(f.sections)) {
		f.names = f.section(int(names)).Data
	}
}

func (f *File) sectionHeader(offset uint64) (sectionHeader, bool) {
	h, ok := f.Bytes(offset, sectionHeaderSize)
	if !ok {
		return sectionHeader{}, false
	}
	le := binary.LittleEndian
	return sectionHeader{
		name:   le.Uint32(h),
		kind:   le.Uint32(h[4:]),
		flags:  le.Uint64(h[8:]),
		vaddr:  le.Uint64(h[16:]),
		offset: le.Uint64(h[24:]),
		size:   le.Uint64(h[32:]),
		link:   le.Uint32(h[40:]),
		info:   le.Uint32(h[44:]),
		entry:  le.Uint64(h[56:]),
	}, true
}

// Size returns the length of the file in bytes.
func (f *File) Size() uint64 { return uint64(len(f.data)) }

// BuildID returns the build id that the linker wrote (NT_GNU_BUILD_ID), in hex, or
// "" where there is none. Go's own build id is another thing.
func (f *File) BuildID() string { return f.buildID }

// Bytes returns n bytes from a file offset on; false where the file has not all of them.
func (f *File) Bytes(offset, n uint64) ([]byte, bool) {
	if size := uint64(len(f.data)); offset > size || n > size-offset {
		return nil, false
	}
	return f.data[offset : offset+n : offset+n], true
}

// Segments returns the program headers in the file's order; callers don't change them.
func (f *File) Segments() []Segment { return f.segments }

// NumSections returns how many sections can be asked for by index.
func (f *File) NumSections() int { return len(f.sections) }

// SectionAt returns a section by index; false where there is no such section.
func (f *File) SectionAt(index int) (Section, bool) {
	if index < 0 || index >= len(f.sections) {
		return Section{}, false
	}
	return f.section(index), true
}

// Section returns the first section of a name; false where there is none.
func (f *File) Section(name string) (Section, bool) {
	for i := range f.sections {
		if f.isNamed(i, name) {
			return f.section(i), true
		}
	}
	return Section{}, false
}

// SectionName returns the name of a section, or "" where it has none that can be read.
func (f *File) SectionName(index int) string {
	if index < 0 || index >= len(f.sections) || uint64(f.sections[index].name) >= uint64(len(f.names)) {
		return ""
	}
	rest := f.names[f.sections[index].name:]
	rest = rest[:min(len(rest), 256)]
	if end := bytes.IndexByte(rest, 0); end >= 0 {
		return string(rest[:end])
	}
	return ""
}

func (f *File) isNamed(index int, name string) bool {
	at, length := uint64(f.sections[index].name), uint64(len(name))
	if at+length+1 > uint64(len(f.names)) {
		return false
	}
	return string(f.names[at:at+length]) == name && f.names[at+length] == 0
}

func (f *File) section(index int) Section {
	h := &f.sections[index]
	s := Section{
		Type: elf.SectionType(h.kind), Flags: elf.SectionFlag(h.flags), Vaddr: h.vaddr, Offset: h.offset,
		Link: h.link, Info: h.info, Entry: h.entry,
		Compressed: elf.SectionFlag(h.flags)&elf.SHF_COMPRESSED != 0,
	}
	if s.Type != elf.SHT_NOBITS && s.Type != elf.SHT_NULL {
		s.Data, _ = f.Bytes(h.offset, h.size)
	}
	return s
}

// Offset returns where in the file the byte of a virtual address is; false where no
// loaded segment has it from the file.
func (f *File) Offset(vaddr uint64) (uint64, bool) {
	for i := range f.segments {
		s := &f.segments[i]
		if s.Type == elf.PT_LOAD && vaddr >= s.Vaddr && vaddr-s.Vaddr < s.FileSize {
			return vaddr - s.Vaddr + s.Offset, true
		}
	}
	return 0, false
}

// AtVaddr returns what the file has from a virtual address to the end of the segment
// that the address is in.
func (f *File) AtVaddr(vaddr uint64) ([]byte, bool) {
	for i := range f.segments {
		s := &f.segments[i]
		if s.Type == elf.PT_LOAD && vaddr >= s.Vaddr && vaddr-s.Vaddr < s.FileSize {
			skip := vaddr - s.Vaddr
			return f.Bytes(s.Offset+skip, s.FileSize-skip)
		}
	}
	return nil, false
}

// Vaddr returns the virtual address of a file offset, where a segment whose flags
// include want loads it. Segments are mapped by whole pages of pageSize bytes, so an
// offset before a segment's first byte may belong to it, and one page of the file to
// two segments.
func (f *File) Vaddr(offset uint64, want elf.ProgFlag, pageSize uint64) (uint64, bool) {
	for i := range f.segments {
		s := &f.segments[i]
		if s.Type != elf.PT_LOAD || s.Flags&want != want || s.FileSize == 0 {
			continue
		}
		slack := s.Offset % pageSize
		if s.Vaddr < slack {
			continue
		}
		if first := s.Offset - slack; offset >= first && offset < s.Offset+s.FileSize {
			return s.Vaddr - slack + (offset - first), true
		}
	}
	return 0, false
}

func (f *File) findBuildID() string {
	for i := range f.segments {
		if s := &f.segments[i]; s.Type == elf.PT_NOTE {
			if id := f.buildIDIn(s.Offset, s.FileSize, s.Align); id != "" {
				return id
			}
		}
	}
	// Files of debug information have the section, but their segments are empty.
	if s, ok := f.Section(".note.gnu.build-id"); ok {
		return f.buildIDIn(s.Offset, uint64(len(s.Data)), 4)
	}
	return ""
}

// buildIDIn searches notes. They are aligned by 4 bytes, or 8 where their segment is.
func (f *File) buildIDIn(offset, size, align uint64) string {
	notes, ok := f.Bytes(offset, min(size, maxNotes))
	if !ok {
		return ""
	}
	pad := uint64(3)
	if align == 8 {
		pad = 7
	}
	const ntGNUBuildID = 3
	le := binary.LittleEndian
	for len(notes) >= 12 {
		nameSize, descSize, kind := uint64(le.Uint32(notes)), uint64(le.Uint32(notes[4:])), le.Uint32(notes[8:])
		desc := (12 + nameSize + pad) &^ pad
		if desc+descSize > uint64(len(notes)) {
			return ""
		}
		if kind == ntGNUBuildID && nameSize == 4 && string(notes[12:16]) == "GNU\x00" && descSize > 0 && descSize <= maxBuildID {
			return hex.EncodeToString(notes[desc : desc+descSize])
		}
		notes = notes[min((desc+descSize+pad)&^pad, uint64(len(notes))):]
	}
	return ""
}

// Guard calls read and makes an error of a fault in a mapping (the file was
// truncated) and of any other run-time error that foreign bytes may have led to. A
// panic with another value goes on.
func Guard(read func() error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		switch r := recover().(type) {
		case nil:
		case runtime.Error:
			err = fmt.Errorf("reading foreign bytes: %w", r)
		default:
			panic(r)
		}
	}()
	return read()
}
