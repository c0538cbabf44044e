package python

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/elffile"
	"rmagent/internal/sample"
	"rmagent/record"
)

const (
	maxStuck   = 4                      // reads of memory that never came back: each holds a thread
	answerTime = 100 * time.Millisecond // how long is waited for one
	maxMaps    = 1 << 16                // lines of /proc/PID/maps that are looked at
)

// Processes reads the frames of several processes. What it reads may be slow for
// ever, if the other process wants so: a page of a file system in user space. So every
// read is another goroutine's, is waited for only briefly, and a process that kept one
// waiting is left alone.
type Processes struct {
	stuck chan struct{}

	mu    sync.Mutex
	known map[sample.ID]*process // of those that are looked at
	found []Found
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
}

// NewProcesses returns a reader of no process yet.
func NewProcesses() *Processes {
	return &Processes{stuck: make(chan struct{}, maxStuck), known: map[sample.ID]*process{}}
}

// Look begins to look for a CPython in a process, without waiting. Found tells if
// there is one.
func (r *Processes) Look(id sample.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[id] != nil {
		return
	}
	select {
	case r.stuck <- struct{}{}:
	default:
		return
	}
	p := &process{}
	r.known[id] = p
	go func() {
		defer func() { <-r.stuck }()
		interpreter, err := findIn(id.PID)
		if err != nil {
			return
		}
		p.Lock()
		p.interpreter = interpreter
		p.Unlock()
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.known[id] == p {
			r.found = append(r.found, Found{id, interpreter.Layout})
		}
	}()
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

// processMemory reads by process_vm_readv(2).
type processMemory int32

func (pid processMemory) ReadAt(p []byte, addr uint64) error {
	if len(p) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &p[0], Len: uint64(len(p))}}
	n, err := unix.ProcessVMReadv(int(pid), local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(p)}}, 0)
	if err == nil && n != len(p) {
		err = errors.New("not all of it is mapped")
	}
	return err
}

// findIn looks through a process's mappings for a file that is CPython.
func findIn(pid int32) (*Interpreter, error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	before := ""
	lines := bufio.NewScanner(maps)
	for n := 0; lines.Scan() && n < maxMaps; n++ {
		// START-END PERMS OFFSET DEV INODE PATH: proc_pid_maps(5)
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[5] == before || !strings.Contains(path.Base(fields[5]), "python") {
			continue
		}
		before = fields[5]
		image, bias, err := inspect(pid, fields[0], fields[2])
		if err != nil {
			continue
		}
		return Open(processMemory(pid), image, bias)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return nil, errors.New("no CPython")
}

// inspect opens what is mapped at a place, deleted or not, if it is a regular file.
func inspect(pid int32, span, offset string) (image Image, bias uint64, err error) {
	var start, end, at uint64
	if _, err := fmt.Sscanf(span+" "+offset, "%x-%x %x", &start, &end, &at); err != nil {
		return image, 0, err
	}
	handle, err := unix.Open(fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, start, end), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return image, 0, err
	}
	defer unix.Close(handle)
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return image, 0, errors.Join(err, errors.New("not a regular file"))
	}
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", handle), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return image, 0, err
	}
	defer file.Close()
	elf, err := elffile.Open(file)
	if err != nil {
		return image, 0, err
	}
	defer elf.Close()
	image, ok := Find(elf)
	if !ok {
		return image, 0, errors.New("not CPython")
	}
	vaddr, ok := elf.Vaddr(at, 0, uint64(os.Getpagesize()))
	if !ok {
		return image, 0, errors.New("mapped otherwise than its segments say")
	}
	return image, start - vaddr, nil
}
