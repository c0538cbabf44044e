package worker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"rmagent/internal/elffile"
	"rmagent/internal/sample"
	"rmagent/internal/stack"
	"rmagent/internal/stack/cfi"
	"rmagent/internal/symbol"
	"rmagent/record"
)

const languageJavaScript = "javascript"

// LanguageCreator is record.Frame.Language of who started a goroutine.
const LanguageCreator = "go_creator"

// GuessReread is record.Frame.Guess of a goroutine's creator that was read after the
// stack was: another goroutine with the same first function may have taken its place.
const GuessReread = "read_later"

const (
	maxAnswerFrames = 1024            // inlined ones included
	nameTime        = 3 * time.Second // of computing for the names of one stack; those that take longer are unknown
)

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
	perfMap *os.File          // for the next walk; nil where there is none
}

type module struct {
	*stack.Module
	symbols *symbol.File
	debug   *elffile.File
	alt     *elffile.File
}

func (m *module) close() error {
	err := m.File.Close()
	for _, f := range []*elffile.File{m.debug, m.alt} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// Serve answers requests on a socket until its other end is closed. It reads foreign
// files: the process has nothing to lose (see Confine), and ends where an answer takes
// longer than anybody waits, for its parent may not be allowed to kill it.
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
		overdue := time.AfterFunc(longestTime, func() { os.Exit(1) })
		a := s.answer(&r, file)
		overdue.Stop()
		if file != nil && r.PerfMap == nil {
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
	short.Deps, short.Generated = nil, nil
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
			return s.addDebug(r.Debug, file, a)
		case r.Alt != nil:
			return s.addAlt(r.Alt, file)
		case r.PerfMap != nil:
			return s.addPerfMap(r.PerfMap, file)
		case r.Code != nil:
			return s.addCode(r.Code)
		case r.Symbols != nil:
			return s.symbols(r.Symbols, a)
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
	space.Generates = r.Generates
	s.images[r.Image] = &image{space: space, modules: map[uint64]uint64{}}
	return nil
}

// addCode keeps what is told of a piece of generated code.
func (s *server) addCode(r *codeRequest) error {
	im := s.images[r.Image]
	if im == nil {
		return fmt.Errorf("no image %d", r.Image)
	}
	if r.Fresh || len(im.space.Code) >= maxCode {
		im.space.Code = nil
	}
	if !r.Fresh {
		im.space.Code = append(im.space.Code, r.Code)
	}
	return nil
}

// maxCode is how many pieces of generated code are kept of an image.
const maxCode = 1024

// symbols finds addresses.
func (s *server) symbols(r *symbolsRequest, a *answer) error {
	im := s.images[r.Image]
	if im == nil {
		return fmt.Errorf("no image %d", r.Image)
	}
	region := im.space.Find(r.Start)
	if region == nil || region.Module == nil || len(r.Names) > maxSymbols {
		return errors.New("no module to look in")
	}
	a.Addresses = make([]uint64, len(r.Names))
	wanted := make(map[string]*uint64, len(r.Names))
	for i, name := range r.Names {
		wanted[name] = &a.Addresses[i]
	}
	symbol.Addresses(region.Module.File, wanted)
	for i, vaddr := range a.Addresses {
		if vaddr != 0 {
			a.Addresses[i] = vaddr + region.Bias()
		}
	}
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
		m.Module, m.symbols = stack.NewModule(f), symbol.Open(f, nil, nil)
		return nil
	}); err != nil {
		return errors.Join(err, f.Close())
	}
	s.modules[r.Module], a.Paths = m, symbol.DebugPaths(f, r.Path)
	return nil
}

func (s *server) addDebug(r *moduleRequest, file *os.File, a *answer) error {
	m, f, err := s.openFor(r, file)
	if err != nil {
		return err
	}
	symbols := symbol.Open(m.File, f, nil)
	if !symbols.Uses() || m.debug != nil {
		return errors.Join(errors.New("it does not belong to the module"), f.Close())
	}
	m.debug, m.symbols = f, symbols
	if alt := symbol.AltPath(f, r.Path); alt != "" {
		a.Paths = []string{alt}
	}
	return nil
}

func (s *server) addAlt(r *moduleRequest, file *os.File) error {
	m, f, err := s.openFor(r, file)
	if err != nil {
		return err
	}
	if m.debug == nil || m.alt != nil {
		return errors.Join(errors.New("there is nothing that it belongs to"), f.Close())
	}
	m.alt, m.symbols = f, symbol.Open(m.File, m.debug, f)
	return nil
}

func (s *server) openFor(r *moduleRequest, file *os.File) (*module, *elffile.File, error) {
	m := s.modules[r.Module]
	if m == nil || file == nil {
		return nil, nil, fmt.Errorf("no module %d or no file", r.Module)
	}
	f, err := elffile.Open(file)
	return m, f, err
}

// addPerfMap keeps a file for the next walk.
func (s *server) addPerfMap(r *perfMapRequest, file *os.File) error {
	im := s.images[r.Image]
	if im == nil || file == nil {
		return errors.Join(fmt.Errorf("no image %d or no file", r.Image), file.Close())
	}
	im.closePerfMap()
	im.perfMap = file
	return nil
}

func (im *image) closePerfMap() {
	if im.perfMap != nil {
		_ = im.perfMap.Close()
		im.perfMap = nil
	}
}

func (s *server) forget(r *forgetRequest) error {
	if im := s.images[r.Image]; im != nil {
		im.closePerfMap()
		delete(s.images, r.Image)
	}
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
	if walk.NeedsCode != 0 {
		a.NeedsCode = walk.NeedsCode
		return nil
	}
	if im.perfMap == nil && !r.NoPerfMap && slices.ContainsFunc(walk.Frames, isGenerated) {
		a.NeedsPerfMap = true
		return nil
	}
	defer im.closePerfMap()
	a.End, a.Deps = walk.End, walk.Deps
	creator, created := s.creator(im, r.G, walk.GoStart)
	if created {
		walk.Frames = append(walk.Frames, creator.Frame)
	}
	named := s.name(im, walk.Frames)
	key := sha256.New()
	script := slices.ContainsFunc(named, isJavaScript)
	for i := range walk.Frames {
		f := &walk.Frames[i]
		frames := framesAt(f, named[i])
		if script && ofV8(f) {
			continue
		}
		if f.Method != 0 || f.Named {
			a.Generated = append(a.Generated, generated{At: len(a.Frames), PC: f.PC, Method: f.Method, Bytecode: f.Bytecode})
		}
		key.Write(keyOf(im, f, frames))
		if created && i == len(walk.Frames)-1 {
			creator.mark(frames)
		}
		a.Frames = append(a.Frames, frames...)
	}
	if a.End == "" && libuvWorker(a.Frames) {
		a.End = stack.EndLibuv
	}
	a.Key = key.Sum([]byte(a.End))
	if len(a.Frames) > maxAnswerFrames {
		a.Frames, a.End = a.Frames[:maxAnswerFrames], stack.EndFrames
		a.Generated = slices.DeleteFunc(a.Generated, func(g generated) bool { return g.At >= maxAnswerFrames })
	}
	return nil
}

// isGenerated says whether a frame is in code that no file has.
func isGenerated(f stack.Frame) bool { return !f.Region.File }

// keyOf tells frames apart that differ for a reader: by module and address there, and
// generated code by its name, for the same function is generated again and again.
func keyOf(im *image, f *stack.Frame, frames []record.Frame) []byte {
	var b []byte
	if f.Known {
		b = binary.AppendUvarint(b, im.modules[f.Region.Start])
		return binary.AppendUvarint(b, f.Vaddr)
	}
	b = binary.AppendUvarint(binary.AppendUvarint(append(b, 0), f.Method), f.Bytecode)
	if name, ok := frames[0].Function.Get(); ok {
		return fmt.Appendf(b, "%q%q", name, frames[0].File.Or(""))
	}
	return binary.AppendUvarint(b, f.Address)
}

func isJavaScript(frames []record.Frame) bool {
	return len(frames) > 0 && frames[0].Language.Or("") == languageJavaScript
}

// ofV8 tells whether a frame is from the file that has V8 in it. Between the frames of
// JavaScript, it says nothing that the program's author wrote, and which of its
// functions a call goes through changes as V8 compiles.
func ofV8(f *stack.Frame) bool {
	base := path.Base(strings.TrimSuffix(f.Region.Path, deletedSuffix))
	return base == "node" || base == "nodejs" || strings.HasPrefix(base, "libnode.so")
}

// libuvWorker tells whether a stack is of a thread of libuv's pool (threadpool.c,
// worker), which does what others asked for: its first function but for the C library's.
func libuvWorker(frames []record.Frame) bool {
	for i := range slices.Backward(frames) {
		f := &frames[i]
		module := path.Base(f.Module.Or(""))
		if strings.HasPrefix(module, "libc.so") || strings.HasPrefix(module, "libc-") || strings.HasPrefix(module, "libpthread") {
			continue
		}
		if name, ok := f.Function.Get(); ok {
			return name == "worker" && path.Base(f.File.Or("")) == "threadpool.c"
		}
		return strings.HasPrefix(module, "libuv.so") // of its stripped ones, only the pool begins threads
	}
	return false
}

// computing is a context that ends when this process has used so much CPU time: on a
// machine with too much work, the time that passes says little.
type computing struct {
	context.Context
	until time.Duration
}

func (c computing) Err() error {
	if cpuTime() >= c.until {
		return context.DeadlineExceeded
	}
	return nil
}

// cpuTime is what the process has used so far.
func cpuTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0 // no kernel lacks that clock
	}
	return time.Duration(t.Nano())
}

// name asks what there is to ask about names: each module once, and the perf map.
func (s *server) name(im *image, frames []stack.Frame) [][]record.Frame {
	ctx := computing{context.Background(), cpuTime() + nameTime}
	named := make([][]record.Frame, len(frames))
	ask := func(which func(*stack.Frame) bool, names func(vaddrs []uint64) [][]record.Frame) {
		var at []int
		var vaddrs []uint64
		for i := range frames {
			if f := &frames[i]; which(f) {
				at = append(at, i)
				vaddrs = append(vaddrs, f.Address-f.Region.Bias())
			}
		}
		if len(at) == 0 {
			return
		}
		// What a file does to its reader is no reason to lose the addresses.
		_ = elffile.Guard(func() error {
			for k, list := range names(vaddrs) {
				named[at[k]] = slices.Clone(list) // the original is remembered
			}
			return nil
		})
	}
	for number, m := range s.modules {
		ask(func(f *stack.Frame) bool { return f.Known && im.modules[f.Region.Start] == number },
			func(vaddrs []uint64) [][]record.Frame { return m.symbols.Frames(ctx, vaddrs) })
	}
	if im.perfMap != nil {
		ask(func(f *stack.Frame) bool { return isGenerated(*f) },
			func(addrs []uint64) [][]record.Frame { return perfMapFrames(ctx, im.perfMap, addrs) })
	}
	return named
}

func perfMapFrames(ctx context.Context, f *os.File, addrs []uint64) [][]record.Frame {
	names, err := symbol.PerfMapNames(ctx, f, addrs)
	if err != nil {
		return nil
	}
	frames := make([][]record.Frame, len(names))
	for i, name := range names {
		if name != "" {
			frames[i] = []record.Frame{generatedFrame(printable(name))}
		}
	}
	return frames
}

// generatedFrame makes a frame of what a perf map names. V8 writes "JS:*name file:line:column",
// with the tier of its compiler before the name, and "LazyCompile", "Function" and
// others instead of JS in other versions; the position is where the function begins.
func generatedFrame(name string) record.Frame {
	kind, rest, ok := strings.Cut(name, ":")
	if !ok || !v8Kinds[kind] || len(rest) < 2 || !strings.ContainsRune("*^~+", rune(rest[0])) {
		return record.Frame{Function: record.Some(name)}
	}
	function, place := rest[1:], ""
	i := strings.LastIndexByte(function, ' ')
	for _, begin := range []string{" /", " node:", " file:"} { // names and paths may have spaces
		if at := strings.Index(function, begin); at >= 0 {
			i = min(i, at)
		}
	}
	if i >= 0 {
		function, place = function[:i], function[i+1:]
	}
	f := record.Frame{Language: record.Some(languageJavaScript), Function: record.Some(function)}
	file, at := place, ""
	for range 2 { // line and column, or the line alone
		if i := strings.LastIndexByte(file, ':'); i > 0 && digits(file[i+1:]) {
			file, at = file[:i], place[i+1:]
		}
	}
	f.File = record.SomeIf(file, file != "")
	if function == "" && at != "" {
		f.Function = record.Some("(anonymous at " + at + ")")
	}
	return f
}

var v8Kinds = map[string]bool{"JS": true, "LazyCompile": true, "Function": true, "Eval": true, "Script": true}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// framesAt fills in where the functions at a frame are; there is always one.
func framesAt(f *stack.Frame, frames []record.Frame) []record.Frame {
	if len(frames) == 0 {
		frames = []record.Frame{{}}
	}
	if f.Guess == stack.GuessTailCall { // what is inlined where it begins is not what it jumped from
		frames = frames[len(frames)-1:]
	}
	for i := range frames {
		frame := &frames[i]
		if f.Region.Path != "" {
			frame.Module = record.Some(printable(strings.TrimSuffix(f.Region.Path, deletedSuffix)))
		}
		if f.Known {
			frame.Offset = record.Some(f.Vaddr)
			if id := f.Region.Module.File.BuildID(); id != "" {
				frame.BuildID = record.Some(id)
			}
		}
		if f.Guess != "" {
			frame.Guess = record.Some(f.Guess)
		}
	}
	return frames
}

type creatorFrame struct {
	stack.Frame
	certain bool
}

func (c *creatorFrame) mark(frames []record.Frame) {
	for i := range frames {
		frames[i].Language = record.Some(LanguageCreator)
		if !c.certain {
			frames[i].Guess = record.Some(GuessReread)
		}
	}
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
