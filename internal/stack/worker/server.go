package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"rmagent/internal/elffile"
	"rmagent/internal/sample"
	"rmagent/internal/stack"
	"rmagent/internal/stack/cfi"
	"rmagent/record"
)

// LanguageCreator is record.Frame.Language of who started a goroutine.
const LanguageCreator = "go_creator"

// GuessReread is record.Frame.Guess of a goroutine's creator that was read after the
// stack was: another goroutine with the same first function may have taken its place.
const GuessReread = "read_later"

// GuessFramePointer is record.Frame.Guess of a frame found by a frame pointer.
const GuessFramePointer = "frame_pointer"

const maxAnswerFrames = 1024 // inlined ones included

// server is the child: it keeps what it was given until it is told to forget it.
type server struct {
	arch     cfi.Arch
	pageSize uint64
	images   map[uint64]*image
	modules  map[uint64]*module
}

type image struct {
	space   *stack.Space
	modules map[uint64]uint64 // of regions, by Start
	perf    *perfMap
	perfGot bool
}

type module struct {
	*stack.Module
	symbols symbols
	debug   *elffile.File
}

func (m *module) close() error {
	err := m.File.Close()
	if m.debug != nil {
		err = errors.Join(err, m.debug.Close())
	}
	return err
}

// Serve answers requests on a socket until its other end is closed. It reads foreign
// files: the process has nothing to lose (see Confine).
func Serve(socket *os.File) error {
	c, err := newConn(socket)
	if err != nil {
		return err
	}
	defer c.c.Close()
	s := &server{arch: nativeArch, pageSize: uint64(os.Getpagesize()), images: map[uint64]*image{}, modules: map[uint64]*module{}}
	buffer := make([]byte, maxMessage)
	for {
		var r request
		file, err := c.receive(&r, buffer)
		if err != nil {
			return nil // the parent is gone, or will not be understood any more
		}
		a := s.answer(&r, file)
		if file != nil {
			_ = file.Close() // it is mapped, or was not wanted
		}
		if err := c.send(a, nil); err != nil {
			if err := c.send(shorten(a), nil); err != nil {
				return err
			}
		}
	}
}

// shorten makes an answer that is too long to send fit: without names, which are what
// is long.
func shorten(a *answer) *answer {
	short := *a
	short.Frames = make([]record.Frame, 0, len(a.Frames))
	for _, f := range a.Frames {
		if !f.Inlined {
			f.Function, f.File, f.Line = record.Opt[string]{}, record.Opt[string]{}, record.Opt[uint64]{}
			short.Frames = append(short.Frames, f)
		}
	}
	short.Deps = nil
	return &short
}

func (s *server) answer(r *request, file *os.File) *answer {
	a := &answer{}
	err := elffile.Guard(func() error {
		switch {
		case r.Image != nil:
			return s.setImage(r.Image)
		case r.Bind != nil:
			return s.bind(r.Bind)
		case r.Module != nil:
			return s.addModule(r.Module, file, a)
		case r.Debug != nil:
			return s.addDebug(r.Debug, file)
		case r.PerfMap != nil:
			return s.addPerfMap(r.PerfMap, file)
		case r.Walk != nil:
			return s.walk(r.Walk, a)
		case r.Forget != nil:
			return s.forget(r.Forget)
		}
		return errors.New("an empty request")
	})
	if err != nil {
		return &answer{Error: err.Error()}
	}
	return a
}

func (s *server) setImage(r *imageRequest) error {
	var regions []stack.Region
	if r.Append && s.images[r.Image] != nil {
		regions = s.images[r.Image].space.Regions
	}
	for _, m := range r.Regions {
		regions = append(regions, stack.Region{Start: m.Start, End: m.End, Offset: m.Offset, Path: m.Path, File: m.File})
	}
	space, ok := stack.NewSpace(s.arch, regions)
	if !ok {
		return errors.New("regions overlap")
	}
	s.images[r.Image] = &image{space: space, modules: map[uint64]uint64{}}
	return nil
}

func (s *server) bind(r *bindRequest) error {
	im := s.images[r.Image]
	if im == nil {
		return fmt.Errorf("no image %d", r.Image)
	}
	region := im.space.Find(r.Start)
	if region == nil {
		return fmt.Errorf("no region at %#x", r.Start)
	}
	if r.Reason != "" {
		region.Module, region.Reason = nil, r.Reason
		return nil
	}
	m := s.modules[r.Module]
	if m == nil {
		return fmt.Errorf("no module %d", r.Module)
	}
	region.SetModule(m.Module, s.pageSize)
	im.modules[region.Start] = r.Module
	return nil
}

func (s *server) addModule(r *moduleRequest, file *os.File, a *answer) error {
	var f *elffile.File
	var err error
	if file != nil {
		f, err = elffile.Open(file)
	} else {
		f, err = elffile.New(r.VDSO)
	}
	if err != nil {
		return err
	}
	m := &module{}
	if err := elffile.Guard(func() error {
		m.Module, m.symbols = stack.NewModule(f), openSymbols(f, nil)
		return nil
	}); err != nil {
		return errors.Join(err, f.Close())
	}
	s.modules[r.Module], a.BuildID = m, f.BuildID()
	return nil
}

func (s *server) addDebug(r *moduleRequest, file *os.File) error {
	m := s.modules[r.Module]
	if m == nil || file == nil {
		return fmt.Errorf("no module %d or no file", r.Module)
	}
	f, err := elffile.Open(file)
	if err != nil {
		return err
	}
	if f.BuildID() != m.File.BuildID() {
		return errors.Join(fmt.Errorf("build id %s, not %s", f.BuildID(), m.File.BuildID()), f.Close())
	}
	m.debug = f
	m.symbols = openSymbols(m.File, f)
	return nil
}

func (s *server) addPerfMap(r *perfMapRequest, file *os.File) error {
	im := s.images[r.Image]
	if im == nil {
		return fmt.Errorf("no image %d", r.Image)
	}
	im.perfGot, im.perf = true, nil
	if file == nil {
		return nil
	}
	var err error
	im.perf, err = readPerfMap(file)
	return err
}

func (s *server) forget(r *forgetRequest) error {
	delete(s.images, r.Image)
	m := s.modules[r.Module]
	if m == nil {
		return nil
	}
	for _, im := range s.images {
		for start, number := range im.modules {
			if number == r.Module {
				im.space.Find(start).Module = nil
				delete(im.modules, start)
			}
		}
	}
	delete(s.modules, r.Module)
	return m.close()
}

func (s *server) walk(r *walkRequest, a *answer) error {
	im := s.images[r.Image]
	if im == nil {
		return fmt.Errorf("no image %d", r.Image)
	}
	walk := im.space.WalkStack(&sample.RawStack{Registers: r.Registers, Window: r.Window, Chain: r.Chain})
	if walk.Needs != nil {
		a.NeedsRegion = walk.Needs.Start
		return nil
	}
	if (!im.perfGot || r.PerfMapOld) && im.unnamed(&walk) {
		a.NeedsPerfMap = true
		return nil
	}
	a.End, a.Deps = walk.End, walk.Deps
	for i := range walk.Frames {
		f := &walk.Frames[i]
		a.Key = append(a.Key, keyOf(im, f)...)
		a.Frames = s.appendFrames(a.Frames, im, f)
	}
	if creator, ok := s.creator(im, r.G, walk.GoStart); ok {
		a.Key = append(a.Key, keyOf(im, &creator.Frame)...)
		frames := s.appendFrames(nil, im, &creator.Frame)
		for i := range frames {
			frames[i].Language = record.Some(LanguageCreator)
			if !creator.certain {
				frames[i].Guess = record.Some(GuessReread)
			}
		}
		a.Frames = append(a.Frames, frames...)
	}
	a.Key = append(a.Key, a.End...)
	if len(a.Frames) > maxAnswerFrames {
		a.Frames, a.End = a.Frames[:maxAnswerFrames], stack.EndFrames
	}
	return nil
}

// unnamed says whether a frame is in code that no file has, and the perf map neither.
func (im *image) unnamed(walk *stack.Walk) bool {
	for _, f := range walk.Frames {
		if f.Region.File {
			continue
		}
		if _, ok := im.perf.find(f.Address); !ok {
			return true
		}
	}
	return false
}

// keyOf tells frames apart that differ for a reader: by module and address there.
func keyOf(im *image, f *stack.Frame) []byte {
	var b []byte
	if f.Known {
		b = binary.AppendUvarint(b, im.modules[f.Region.Start])
		return binary.AppendUvarint(b, f.Vaddr)
	}
	return binary.AppendUvarint(append(b, 0), f.Address)
}

// appendFrames appends the functions at a frame: one, and what was inlined there.
func (s *server) appendFrames(dst []record.Frame, im *image, f *stack.Frame) []record.Frame {
	var frames []record.Frame
	switch {
	case f.Known:
		m := s.modules[im.modules[f.Region.Start]]
		if m != nil && m.symbols != nil {
			frames = m.symbols.Frames(f.Vaddr)
		}
	case !f.Region.File:
		if name, ok := im.perf.find(f.Address); ok {
			frames = []record.Frame{{Function: record.Some(printable(name))}}
		}
	}
	if len(frames) == 0 {
		frames = []record.Frame{{}}
	}
	for i := range frames {
		frame := &frames[i]
		if f.Region.Path != "" {
			frame.Module = record.Some(printable(strings.TrimSuffix(f.Region.Path, " (deleted)")))
		}
		if f.Known {
			frame.Offset = record.Some(f.Vaddr)
			if id := f.Region.Module.File.BuildID(); id != "" {
				frame.BuildID = record.Some(id)
			}
		}
		if f.Guess {
			frame.Guess = record.Some(GuessFramePointer)
		}
	}
	return append(dst, frames...)
}

type creatorFrame struct {
	stack.Frame
	certain bool
}

// creator finds who started the goroutine. A go statement with arguments, or of a
// function literal, runs a function of its own, named after the function it is in:
// where that is who the goroutine names, no other can be meant.
func (s *server) creator(im *image, g []byte, start uint64) (c creatorFrame, ok bool) {
	pc, ok := stack.Creator(g, start)
	if !ok {
		return c, false
	}
	frame, creator, ok := im.space.FindCreator(pc)
	if !ok {
		return c, false
	}
	_, first, ok := im.space.FindCreator(start + 1)
	if !ok || first.Name() == "runtime.main" {
		return c, false
	}
	rest, within := strings.CutPrefix(first.Name(), creator.Name())
	return creatorFrame{frame, within && (strings.HasPrefix(rest, ".gowrap") || strings.HasPrefix(rest, ".func"))}, true
}

// printable makes a name that a foreign file chose fit to be shown.
func printable(name string) string {
	const longest = 4096
	name = name[:min(len(name), longest)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(name, string(utf8.RuneError)))
}
