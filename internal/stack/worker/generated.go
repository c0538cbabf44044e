package worker

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"rmagent/internal/java"
	"rmagent/internal/procmem"
	"rmagent/internal/sample"
	"rmagent/internal/stack"
	"rmagent/record"
)

// Generated code is told of by who generates it, in the process's memory: by HotSpot.
// The parent reads that, since the child may read nobody's.

const (
	// codeAge is how long it holds what is known of generated code: it is dropped and
	// other code comes in its place.
	codeAge = time.Second
	// memoryTime is how long one read of a process's memory is waited for.
	memoryTime = 100 * time.Millisecond
	maxTried   = 8 // files that symbols are looked for in
	// LanguageJava is record.Frame.Language of methods of Java.
	LanguageJava = "java"
)

// machine is what an image runs that tells of its generated code.
type machine struct {
	vm  *java.VM
	err error // why there is none
}

// hasMachine tells whether an image runs a HotSpot.
func hasMachine(mappings []stack.Mapping) bool { return findMapping(mappings, isLibjvm) != nil }

func isLibjvm(base string) bool { return base == "libjvm.so" }

// findMapping returns the first mapping of a file that has such a name; nil: none.
func findMapping(mappings []stack.Mapping, named func(base string) bool) *stack.Mapping {
	for i := range mappings {
		if m := &mappings[i]; m.Inode != 0 && named(path.Base(pathOf(m))) {
			return m
		}
	}
	return nil
}

// openMachine finds out about an image's HotSpot, once.
func (c *Client) openMachine(ch *child, pid int32, im *imageState) (*java.VM, error) {
	if im.machine == nil {
		m := &machine{}
		addresses, err := c.addresses(ch, pid, im, isLibjvm, java.Symbols)
		if err != nil && !errors.Is(err, errNoFile) {
			return nil, err
		}
		if m.err = err; err == nil {
			m.vm, m.err = java.Open(procmem.NewPatient(pid, c.gate, memoryTime), addresses)
		}
		im.machine = m
	}
	return im.machine.vm, nil
}

var errNoFile = errors.New("it has no such file mapped")

// addresses asks the child where in an image's memory a file that it has mapped has
// symbols: the first that has any of them.
func (c *Client) addresses(ch *child, pid int32, im *imageState, named func(base string) bool, names []string) ([]uint64, error) {
	tried := 0
	for i := range im.mappings {
		m := &im.mappings[i]
		if m.Inode == 0 || !named(path.Base(pathOf(m))) {
			continue
		}
		if tried++; tried > maxTried {
			break
		}
		found, err := c.addressesIn(ch, pid, im, m, names)
		var refused *refusedError
		if err == nil || !errors.As(err, &refused) && !errors.Is(err, errNoFile) {
			return found, err
		}
	}
	return nil, errNoFile
}

func (c *Client) addressesIn(ch *child, pid int32, im *imageState, m *stack.Mapping, names []string) ([]uint64, error) {
	if err := c.provide(ch, pid, im, m.Start); err != nil {
		return nil, err
	}
	var a answer
	err := ch.call(&request{Symbols: &symbolsRequest{Image: im.number, Start: m.Start, Names: names}}, nil, &a)
	switch {
	case err != nil:
		return nil, err
	case len(a.Addresses) != len(names):
		return nil, fmt.Errorf("%d addresses of %d symbols", len(a.Addresses), len(names))
	case !slices.ContainsFunc(a.Addresses, func(a uint64) bool { return a != 0 }):
		return nil, errNoFile
	}
	return a.Addresses, nil
}

// expire forgets what was known of an image's generated code, if that is too old.
func (c *Client) expire(im *imageState) error {
	c.mu.Lock()
	old := im.generates && time.Since(im.codeRead) > codeAge
	if old {
		im.codeRead = time.Now()
		if !im.dropped {
			c.nodes -= im.templates.Nodes()
		}
		c.reset(im)
	}
	c.mu.Unlock()
	if !old || im.number == 0 || c.child == nil {
		return nil
	}
	return c.child.call(&request{Code: &codeRequest{Image: im.number, Fresh: true}}, nil, &answer{})
}

// provideCode tells the child of the code at an address.
func (c *Client) provideCode(ch *child, pid int32, im *imageState, pc uint64) error {
	vm, err := c.openMachine(ch, pid, im)
	if err != nil {
		return err
	}
	told := stack.Code{Range: stack.Range{Start: pc, End: pc + 1}}
	if vm != nil {
		if code, err := vm.Code(pc); err == nil {
			told = stack.Code{Range: stack.Range{Start: code.Start, End: code.End}, FrameBytes: code.FrameBytes, Named: code.Kind != java.Interpreter}
			switch {
			case code.Kind == java.Interpreter:
				told.Kind = stack.CodeInterpreter
			case code.FrameBytes > 0:
				told.Kind = stack.CodeFrame
			}
		}
	}
	return ch.call(&request{Code: &codeRequest{Image: im.number, Code: told}}, nil, &answer{})
}

// nameGenerated names the frames of generated code. Those of code that nobody wrote,
// which only passes calls on, are left out.
func (im *imageState) nameGenerated(a *answer) {
	if len(a.Generated) == 0 || im.machine == nil || im.machine.vm == nil {
		return
	}
	vm := im.machine.vm
	frames := make([]record.Frame, 0, len(a.Frames)+8)
	next := 0
	for _, g := range a.Generated {
		frames = append(frames, a.Frames[next:g.At]...)
		next = g.At + 1
		var places []java.Place
		if g.Method != 0 {
			if p, err := vm.Interpreted(g.Method, g.Bytecode); err == nil {
				places = []java.Place{p}
			}
		} else {
			code, err := vm.Code(g.PC)
			if err == nil && code.Kind == java.Other {
				continue
			}
			places, _ = vm.Compiled(g.PC)
		}
		frames = appendPlaces(frames, &a.Frames[g.At], places)
	}
	a.Frames = append(frames, a.Frames[next:]...)
	a.Frames = a.Frames[:min(len(a.Frames), maxAnswerFrames)]
	key := sha256.New()
	for i := range a.Frames {
		f := &a.Frames[i]
		fmt.Fprintf(key, "%q %d %q %q %d ", f.Module.Or(""), f.Offset.Or(0), f.Function.Or(""), f.File.Or(""), f.Line.Or(0))
	}
	a.Key = key.Sum([]byte(a.End))
}

func appendPlaces(frames []record.Frame, as *record.Frame, places []java.Place) []record.Frame {
	if len(places) == 0 {
		places = []java.Place{{}}
	}
	for i, p := range places {
		f := *as
		f.Language, f.Inlined = record.Some(LanguageJava), i < len(places)-1
		f.Function = record.SomeIf(printable(p.Function), p.Function != "")
		f.File = record.SomeIf(printable(p.File), p.File != "")
		f.Line = record.SomeIf(uint64(p.Line), p.Line > 0)
		frames = append(frames, f)
	}
	return frames
}

// search is a question for addresses, and its answer once done is closed.
type search struct {
	named     func(base string) bool
	names     []string
	addresses []uint64
	err       error
	done      chan struct{}
}

// Addresses finds where a process has symbols in its memory, of the first file mapped
// there that is named so: 0 for those that it has not. It waits for its turn.
func (c *Client) Addresses(id sample.ID, named func(base string) bool, names []string) ([]uint64, error) {
	s := &search{named: named, names: names, done: make(chan struct{})}
	c.mu.Lock()
	c.enqueue(job{image: Image{ID: id}, find: s})
	c.mu.Unlock()
	select {
	case <-s.done:
		return s.addresses, s.err
	case <-c.done:
		return nil, errNoChild
	}
}

func (c *Client) search(image Image, s *search) {
	defer close(s.done)
	im := c.image(image)
	if s.err = c.refresh(image, im, mapsAge); s.err != nil {
		return
	}
	if s.err = errNoFile; findMapping(im.mappings, s.named) == nil || im.failures >= maxFailures {
		return
	}
	ch, err := c.ready(im)
	if err == nil {
		s.addresses, err = c.addresses(ch, image.ID.PID, im, s.named, s.names)
	}
	s.err = err
	c.failed(im, err)
}
