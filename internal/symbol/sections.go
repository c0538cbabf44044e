package symbol

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"encoding/binary"
	"io"

	"github.com/ulikunitz/xz"

	"rmagent/internal/dwarf"
	"rmagent/internal/elffile"
)

// openDWARF finds debug information in the file or in its separate one; nil where
// there is none that can be read.
func (s *File) openDWARF(alt *elffile.File) *dwarf.Data {
	for _, f := range []*elffile.File{s.elf, s.debug} {
		if f == nil {
			continue
		}
		sections, ok := s.sections(f)
		if !ok {
			continue
		}
		var moved *dwarf.Data
		if alt != nil && isAltOf(alt, f) {
			if sections, ok := s.sections(alt); ok {
				moved = dwarf.New(sections, nil)
			}
		}
		return dwarf.New(sections, moved)
	}
	return nil
}

// sections returns a file's debug sections; false where it has none, or where they
// are compressed and too large.
func (s *File) sections(f *elffile.File) (d dwarf.Sections, ok bool) {
	before := s.uncompressed
	for _, section := range []struct {
		name string
		data *[]byte
	}{
		{"info", &d.Info}, {"abbrev", &d.Abbrev}, {"line", &d.Line}, {"str", &d.Str}, {"line_str", &d.LineStr},
		{"ranges", &d.Ranges}, {"rnglists", &d.RngLists}, {"addr", &d.Addr}, {"str_offsets", &d.StrOffsets},
		{"aranges", &d.ARanges},
	} {
		if *section.data, ok = s.section(f, section.name); !ok {
			s.uncompressed = before
			return dwarf.Sections{}, false
		}
	}
	return d, len(d.Info) > 0 && len(d.Abbrev) > 0
}

// section returns a debug section, nil where there is none; false where it can't be
// uncompressed.
func (s *File) section(f *elffile.File, name string) ([]byte, bool) {
	section, found := f.Section(".debug_" + name)
	switch {
	case found && !section.Compressed:
		return section.Data, true
	case found:
		return s.uncompress(section.Data)
	}
	if section, found = f.Section(".zdebug_" + name); found { // GNU's, before gABI had compression
		if len(section.Data) < 12 || string(section.Data[:4]) != "ZLIB" {
			return nil, false
		}
		return s.inflate(section.Data[12:], binary.BigEndian.Uint64(section.Data[4:]))
	}
	return nil, true
}

// uncompress reads a section that begins with an Elf64_Chdr.
func (s *File) uncompress(data []byte) ([]byte, bool) {
	const header = 24
	if len(data) < header {
		return nil, false
	}
	size := binary.LittleEndian.Uint64(data[8:])
	switch elf.CompressionType(binary.LittleEndian.Uint32(data)) {
	case elf.COMPRESS_ZLIB:
		return s.inflate(data[header:], size)
	case elf.COMPRESS_ZSTD:
		return s.unzstd(data, size)
	}
	return nil, false
}

func (s *File) inflate(data []byte, size uint64) ([]byte, bool) {
	r, err := zlib.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, false
	}
	return s.readAll(r, size)
}

// unzstd lets the standard library's ELF reader uncompress, which has the only
// decoder of zstd there: it gets a file that is nothing but the section.
func (s *File) unzstd(data []byte, size uint64) ([]byte, bool) {
	file, err := elf.NewFile(bytes.NewReader(onlySection(data)))
	if err != nil || len(file.Sections) != 2 {
		return nil, false
	}
	return s.readAll(file.Sections[1].Open(), size)
}

// onlySection makes an ELF file with one compressed section.
func onlySection(data []byte) []byte {
	const header, sectionHeader = 64, 64
	le := binary.LittleEndian
	b := make([]byte, header+2*sectionHeader, header+2*sectionHeader+len(data))
	copy(b, elf.ELFMAG)
	b[elf.EI_CLASS], b[elf.EI_DATA], b[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	le.PutUint16(b[16:], uint16(elf.ET_REL))
	le.PutUint16(b[18:], uint16(elf.EM_X86_64))
	le.PutUint32(b[20:], uint32(elf.EV_CURRENT))
	le.PutUint64(b[40:], header) // e_shoff
	le.PutUint16(b[52:], header)
	le.PutUint16(b[58:], sectionHeader)
	le.PutUint16(b[60:], 2) // e_shnum
	h := b[header+sectionHeader:]
	le.PutUint32(h[4:], uint32(elf.SHT_PROGBITS))
	le.PutUint64(h[8:], uint64(elf.SHF_COMPRESSED))
	le.PutUint64(h[24:], uint64(len(b)))
	le.PutUint64(h[32:], uint64(len(data)))
	le.PutUint64(h[48:], 1)
	// Section 0 has the names' table nowhere: SHN_UNDEF.
	return append(b, data...)
}

// readAll reads what is said to be size bytes.
func (s *File) readAll(r io.Reader, size uint64) ([]byte, bool) {
	if size > uint64(maxUncompressed-s.uncompressed) {
		return nil, false
	}
	var b bytes.Buffer // grows with what comes, not with what is claimed
	n, err := io.Copy(&b, io.LimitReader(r, int64(size)))
	if err != nil || uint64(n) != size {
		return nil, false
	}
	s.uncompressed += b.Cap()
	return b.Bytes(), true
}

// miniDebug returns the ELF file that is compressed in .gnu_debugdata: the symbols of
// functions that the dynamic ones lack.
func (s *File) miniDebug() *elffile.File {
	if s.miniTried {
		return s.mini
	}
	s.miniTried = true
	section, ok := s.elf.Section(".gnu_debugdata")
	if !ok || section.Compressed {
		return nil
	}
	data, size, ok := firstXZBlock(section.Data)
	if !ok {
		return nil
	}
	r, err := xz.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	if data, ok = s.readAll(r, size); ok {
		s.mini, _ = elffile.New(data)
	}
	return s.mini
}

// firstXZBlock returns the header and the only block of an xz stream, and the
// block's size uncompressed. A block with a dictionary that is not small is refused:
// the decoder would allocate it. (The .xz file format, version 1.2.1.)
func firstXZBlock(data []byte) (stream []byte, size uint64, ok bool) {
	const header, footer, maxDictionary = 12, 12, 16 << 20
	if len(data) < header+footer || string(data[len(data)-2:]) != "YZ" {
		return nil, 0, false
	}
	indexSize := 4 * (uint64(binary.LittleEndian.Uint32(data[len(data)-8:])) + 1)
	if indexSize > uint64(len(data)-header-footer) {
		return nil, 0, false
	}
	index := data[uint64(len(data)-footer)-indexSize:]
	if index[0] != 0 || index[1] != 1 { // the index of one block
		return nil, 0, false
	}
	blockSize, n := binary.Uvarint(index[2:])
	if n <= 0 {
		return nil, 0, false
	}
	size, m := binary.Uvarint(index[2+n:])
	blockSize = (blockSize + 3) &^ 3
	if m <= 0 || blockSize > uint64(len(data)-header) || size > maxUncompressed {
		return nil, 0, false
	}
	block := data[header : header+blockSize]
	if len(block) < 8 {
		return nil, 0, false
	}
	// The filters: flags say how many, and which sizes are before them.
	flags, filters := block[1], block[2:min(len(block), 4*(int(block[0])+1))]
	for _, bit := range []byte{0x40, 0x80} {
		if flags&bit != 0 {
			_, n := binary.Uvarint(filters)
			if n <= 0 {
				return nil, 0, false
			}
			filters = filters[n:]
		}
	}
	if flags&3 != 0 || len(filters) < 3 || filters[0] != 0x21 || filters[1] != 1 { // LZMA2 alone
		return nil, 0, false
	}
	bits := filters[2]
	if bits > 39 || (2|uint64(bits&1))<<(bits/2+11) > maxDictionary {
		return nil, 0, false
	}
	return data[:header+blockSize], size, true
}
