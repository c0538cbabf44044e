// Package procmem reads the memory of other processes, by process_vm_readv(2). What it
// returns is theirs: it may be anything, and change between two reads.
package procmem

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process by its PID.
type Process int32

// ReadAt reads all of p, or it is an error. It may take for ever: a page may be of a
// file system in user space, or wait for a fault handler in it.
func (pid Process) ReadAt(p []byte, addr uint64) error {
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

// ErrSlow is the error of reads that did not come back in time, and of what follows.
var ErrSlow = errors.New("its memory can't be read in time")

// Gate bounds how many goroutines wait for what may never come back: each of them
// holds a thread.
type Gate chan struct{}

// NewGate returns a gate that lets so many in at a time.
func NewGate(most int) Gate { return make(Gate, most) }

// The errors of InTime.
var (
	ErrLate = errors.New("not back in time")
	ErrFull = errors.New("too much that does not come back")
)

// InTime does something that may never come back, and gives up after a while. late is
// given what came too late; nil: it needs no care.
func InTime[T any](g Gate, patience time.Duration, do func() (T, error), late func(T)) (result T, err error) {
	type outcome struct {
		T   T
		err error
	}
	select {
	case g <- struct{}{}:
	default:
		return result, ErrFull
	}
	done, abandoned := make(chan outcome), make(chan struct{})
	go func() {
		v, err := do()
		<-g
		select {
		case done <- outcome{v, err}:
		case <-abandoned:
			if late != nil {
				late(v)
			}
		}
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case o := <-done:
		return o.T, o.err
	case <-timer.C:
		close(abandoned)
		return result, ErrLate
	}
}

// Patient reads a process's memory and waits only briefly. A process that kept it
// waiting is left alone from then on. One goroutine uses it at a time.
type Patient struct {
	process  Process
	gate     Gate
	patience time.Duration
	slow     bool
}

// NewPatient returns a reader of a process.
func NewPatient(pid int32, g Gate, patience time.Duration) *Patient {
	return &Patient{process: Process(pid), gate: g, patience: patience}
}

// ReadAt reads all of p, or it is an error.
func (r *Patient) ReadAt(p []byte, addr uint64) error {
	if r.slow {
		return ErrSlow
	}
	b, err := InTime(r.gate, r.patience, func() ([]byte, error) {
		b := make([]byte, len(p)) // what comes too late must not come into p
		return b, r.process.ReadAt(b, addr)
	}, nil)
	r.slow = errors.Is(err, ErrLate)
	copy(p, b)
	return err
}
