package python

import (
	"errors"
	"strings"
	"sync"
	"time"

	"rmagent/internal/procmem"
	"rmagent/internal/sample"
	"rmagent/record"
)

const (
	maxStuck   = 4                      // reads of memory that never came back: each holds a thread
	answerTime = 100 * time.Millisecond // how long is waited for one
	turnTime   = 2 * time.Second        // and for who finds an interpreter to have a turn: one takes milliseconds
)

// Processes reads the frames of several processes. What it reads may be slow for
// ever, if the other process wants so: a page of a file system in user space. So every
// read is another goroutine's, is waited for only briefly, and a process that kept one
// waiting is left alone.
type Processes struct {
	finder Finder
	stuck  chan struct{}

	mu    sync.Mutex
	known map[sample.ID]*process // of those that are looked at
	found []Found
}

// Finder finds the addresses in a process's memory of symbols of a file that it has
// mapped, 0 for those that are not there: worker.Client, since the file is the other
// process's own.
type Finder interface {
	Addresses(id sample.ID, named func(base string) bool, symbols []string) ([]uint64, error)
}

// Found is a process that turned out to run CPython.
type Found struct {
	ID     sample.ID
	Layout sample.PythonLayout
}

type process struct {
	sync.Mutex
	interpreter *Interpreter // nil until it is found, or where there is none
	slow        bool
	looked      bool // the search is over; guarded by Processes.mu
}

// NewProcesses returns a reader of no process yet.
func NewProcesses(f Finder) *Processes {
	return &Processes{finder: f, stuck: make(chan struct{}, maxStuck), known: map[sample.ID]*process{}}
}

// Look begins to look for a CPython in a process, without waiting. Found tells if
// there is one. The caller bounds for how many it asks before it forgets them.
func (r *Processes) Look(id sample.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[id] != nil {
		return
	}
	p := &process{}
	r.known[id] = p
	go func() {
		interpreter, err := r.find(id)
		if err == nil {
			p.Lock()
			p.interpreter = interpreter
			p.Unlock()
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		p.looked = true
		if err == nil && r.known[id] == p {
			r.found = append(r.found, Found{id, interpreter.Layout})
		}
	}()
}

// Looked tells whether it is known by now if a process runs CPython.
func (r *Processes) Looked(id sample.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.known[id]
	return p != nil && p.looked
}

// Found returns who was found since it was asked last.
func (r *Processes) Found() []Found {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := r.found
	r.found = nil
	return found
}

// Forget drops what is known of a process.
func (r *Processes) Forget(id sample.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, id)
}

// Frames names frames of a process; nil where that is not possible, or takes too long.
func (r *Processes) Frames(id sample.ID, frames []sample.PythonFrame) []record.Frame {
	r.mu.Lock()
	p := r.known[id]
	r.mu.Unlock()
	if p == nil || !p.TryLock() { // it is being looked for, or kept another waiting
		return nil
	}
	if p.interpreter == nil || p.slow {
		p.Unlock()
		return nil
	}
	select {
	case r.stuck <- struct{}{}:
	default:
		p.Unlock()
		return nil
	}
	done := make(chan []record.Frame, 1)
	go func() {
		start := time.Now()
		named := p.interpreter.Frames(frames)
		p.slow = time.Since(start) > answerTime
		p.Unlock()
		<-r.stuck
		done <- named // last: who waits for it may ask again at once
	}()
	timer := time.NewTimer(answerTime)
	defer timer.Stop()
	select {
	case named := <-done:
		return named
	case <-timer.C:
		return nil
	}
}

var errNoTurn = errors.New("too many reads of memory don't come back")

// find looks for a CPython in a process, and finds out about it. What it waits for is
// the finder, which is asked about all at once, and then its turn to read memory, which
// never comes where others read for ever.
func (r *Processes) find(id sample.ID) (*Interpreter, error) {
	addresses, err := r.finder.Addresses(id, mayBeInterpreter, imageSymbols)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(turnTime)
	defer timer.Stop()
	select {
	case r.stuck <- struct{}{}:
	case <-timer.C:
		return nil, errNoTurn
	}
	defer func() { <-r.stuck }()
	return Open(procmem.Process(id.PID), Image{Runtime: addresses[0], CodeType: addresses[1], Version: addresses[2]})
}

// mayBeInterpreter tells whether a file of such a name may have the interpreter in it:
// python3.11, libpython3.11.so.1.0. A process with a shared library has dozens of
// extension modules, whose names have the interpreter's too (PEP 3149).
func mayBeInterpreter(base string) bool {
	return strings.Contains(base, "python") && !strings.Contains(base, ".cpython-")
}
