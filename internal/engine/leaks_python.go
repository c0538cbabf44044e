package engine

import (
	"slices"
	"time"
	"unsafe"

	"go.uber.org/zap"

	"rmagent/internal/python"
	"rmagent/internal/sample"
	"rmagent/internal/stack/worker"
	"rmagent/record"
)

const (
	maxPythonStacks = 4096 // of one process
	// maxPythonFrames bounds the frames of the stacks of all processes that are traced: some
	// 200 bytes each.
	maxPythonFrames = 1 << 17
	// rereadPython is how long names hold for frames at equal addresses: code objects
	// go, and others come in their place.
	rereadPython = time.Second
)

// pythonStack is frames of CPython that a process had, and their names.
type pythonStack struct {
	frames []sample.PythonFrame
	named  []record.Frame
	read   time.Duration                 // when they were named last
	sites  map[*worker.Site]*worker.Site // the native stacks in which they ran: what comes of both
}

// usePythons has the frames of those read that turned out to run CPython.
func (l *Leaks) usePythons() {
	if l.Pythons == nil {
		return
	}
	for id := range l.traced {
		l.Pythons.Look(id) // once each, but only a few at a time
	}
	for _, f := range l.Pythons.Found() {
		if err := l.Tracer.SetPython(f.ID, f.Layout); err != nil {
			l.Log.Warn("python_frames_unavailable", zap.Error(err))
			continue
		}
		if t := l.traced[f.ID]; t != nil {
			t.runsPython = true
		}
	}
}

// pythonStack returns what a birth had of CPython's frames; nil where it had none, or
// nothing can be said of them.
func (l *Leaks) pythonStack(t *traced, b *sample.FDBirth) *pythonStack {
	if l.Pythons == nil || len(b.Python) == 0 {
		return nil
	}
	// The frames as they are in memory; the map keeps a copy of new ones only.
	key := unsafe.Slice((*byte)(unsafe.Pointer(&b.Python[0])), len(b.Python)*int(unsafe.Sizeof(b.Python[0])))
	p, now := t.pythons[string(key)], l.Now()
	if p != nil && now-p.read < rereadPython {
		return p
	}
	named := l.Pythons.Frames(b.ID, b.Python)
	if named == nil {
		return nil
	}
	if p != nil && slices.Equal(p.named, named) {
		p.read = now
		return p
	}
	p = &pythonStack{frames: slices.Clone(b.Python), named: named, read: now, sites: map[*worker.Site]*worker.Site{}}
	if !l.roomForPython(len(named)) {
		t.forgetPythons()
	}
	t.keepPython(string(key), p)
	return p
}

// roomForPython tells whether there is room for a stack of so many frames.
func (l *Leaks) roomForPython(frames int) bool {
	for _, t := range l.traced {
		frames += t.pythonFrames
	}
	return frames <= maxPythonFrames
}

// keepPython remembers a stack.
func (t *traced) keepPython(key string, p *pythonStack) {
	if t.pythons == nil || len(t.pythons) >= maxPythonStacks {
		t.forgetPythons()
		t.pythons = map[string]*pythonStack{}
	}
	if before := t.pythons[key]; before != nil {
		t.pythonFrames -= len(before.named)
	}
	t.pythons[key] = p
	t.pythonFrames += len(p.named)
}

func (t *traced) forgetPythons() { t.pythons, t.pythonFrames = nil, 0 }

// python returns the site of a native stack, nil where that is unknown, with CPython's
// frames in it. Stacks of the same frames are one site. It is nil where there are too many.
func (t *traced) python(p *pythonStack, native *worker.Site) *worker.Site {
	if site, met := p.sites[native]; met {
		return site
	}
	site := &worker.Site{Frames: p.named}
	if native != nil {
		site.ID, site.End = native.ID, native.End
		site.Frames = python.Merge(native.Frames, p.frames, p.named)
	}
	site = t.pythonSites.add(folded(site), t.room)
	p.sites[native] = site
	return site
}
