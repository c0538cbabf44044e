package stack

import (
	"debug/elf"
	"slices"
	"sort"

	"rmagent/internal/elffile"
	"rmagent/internal/gotab"
	"rmagent/internal/stack/cfi"
)

// Module is a file that code comes from, prepared for walks.
type Module struct {
	File *elffile.File
	Go   *gotab.Table // nil where it is not a Go program

	frames     *cfi.Table           // nil where there is no call frame information
	rows       map[uint64][]cfi.Row // what exits found
	approaches map[approach]bool    // what reaches found
}

// NewModule prepares a file. It stays the caller's and must outlive the Module. Call
// it, as all that reads a module, within elffile.Guard.
func NewModule(f *elffile.File) *Module {
	m := &Module{File: f}
	if table, err := gotab.Open(f); err == nil {
		m.Go = table
	}
	if table, ok := cfi.Open(f); ok {
		m.frames = table
	}
	return m
}

// Region is executable memory of a process and the module that is mapped there.
type Region struct {
	Start, End uint64
	Offset     uint64 // of Start in the file
	Path       string // as the kernel names it
	// File says that a file is mapped here; Module is nil while it is not read, and
	// stays nil where Reason says why it can't be.
	File   bool
	Module *Module
	Reason string

	bias     uint64 // address in memory less address in the file
	unloaded bool   // the module's program headers do not have Offset
}

// SetModule says what is mapped in a region.
func (r *Region) SetModule(m *Module, pageSize uint64) {
	r.Module = m
	vaddr, ok := m.File.Vaddr(r.Offset, elf.PF_X, pageSize)
	if !ok {
		vaddr, ok = m.File.Vaddr(r.Offset, 0, pageSize)
	}
	r.bias, r.unloaded = r.Start-vaddr, !ok
}

// Bias returns the difference of an address in memory and in the region's file; 0
// where there is no file, or its layout is not known.
func (r *Region) Bias() uint64 {
	if r.Module == nil || r.unloaded {
		return 0
	}
	return r.bias
}

// Space is a process's executable memory.
type Space struct {
	Arch    cfi.Arch
	Regions []Region // ascending, none overlapping
	// Generates says that who generates code in this process tells about it: of what no
	// file has, Code must be known before a walk goes on.
	Generates bool
	Code      []Code // as it was told, in any order
}

// CodeKind says how to leave generated code.
type CodeKind uint8

// The kinds.
const (
	CodeUnknown     CodeKind = iota // by a frame pointer, if at all
	CodeFrame                       // frames have a constant size
	CodeInterpreter                 // frames are HotSpot's interpreter's
)

// Code is a piece of generated code.
type Code struct {
	Range
	Kind       CodeKind `json:"k"`
	FrameBytes uint64   `json:"f,omitempty"` // from SP at a call to above the return address
	Named      bool     `json:"n,omitempty"` // its address alone tells what it is
}

// code returns what was told of the code at an address; nil: nothing.
func (s *Space) code(address uint64) *Code {
	for i := range s.Code {
		if c := &s.Code[i]; c.Start <= address && address < c.End {
			return c
		}
	}
	return nil
}

// NewSpace sorts regions into a space; false where they overlap.
func NewSpace(arch cfi.Arch, regions []Region) (*Space, bool) {
	slices.SortFunc(regions, func(a, b Region) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	for i := range regions {
		if regions[i].End <= regions[i].Start || i > 0 && regions[i].Start < regions[i-1].End {
			return nil, false
		}
	}
	return &Space{Arch: arch, Regions: regions}, true
}

// Find returns the region that an address is in; nil where it is not executable.
func (s *Space) Find(address uint64) *Region {
	i := sort.Search(len(s.Regions), func(i int) bool { return s.Regions[i].End > address })
	if i == len(s.Regions) || s.Regions[i].Start > address {
		return nil
	}
	return &s.Regions[i]
}

// Executable returns what is executable, ascending.
func (s *Space) Executable() []Range {
	code := make([]Range, len(s.Regions))
	for i := range s.Regions {
		code[i] = Range{s.Regions[i].Start, s.Regions[i].End}
	}
	return code
}
