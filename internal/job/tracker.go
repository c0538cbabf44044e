package job

import (
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/sample"
)

// Tracker knows which processes belong to one job. Its methods but Notices are called
// by one goroutine at a time.
type Tracker interface {
	// Start starts the job's first process.
	Start(cmd *exec.Cmd) error
	// Read replaces dst with what the job did until now, and what lives of it.
	Read(dst *Reading) error
	// Signal sends a signal to every process that lives, and returns to how many, and which
	// are another user's and may not be sent one.
	Signal(s unix.Signal) (sent int, refused []sample.ID, err error)
	// Doom lets no process of the job live on: none gets to fork any more. Signal
	// with SIGKILL is still to be called, until nobody is left.
	Doom() error
	// Notices are signalled when it is worth to Read before the next turn.
	Notices() <-chan struct{}
	// Reaped is told what the first process used, before it is reaped, and before Read is
	// asked for the last time.
	Reaped(usage *unix.Rusage)
	// Source says who measures, in a word: ebpf, agent, cgroup, procfs.
	Source() string
	// Exactness says what a measure is worth here, and why if it is not exact.
	Exactness(m cctools.Measure) (cctools.Exactness, string)
	Close() error
}

// Reading is a job at one instant.
type Reading struct {
	Boottime  time.Duration
	Totals    sample.JobTotals // of those that ended and those that live
	Processes []sample.JobProcess
	// Group is what a cgroup of the job's own tells; zero where there is none.
	Group Group
	GPUs  GPUUse // what the processes have of the GPUs, where who reads knows
}

// Group is what the kernel tells of a cgroup that has the job and nothing else.
type Group struct {
	MemoryPeak sample.Opt[uint64] // bytes, with page cache and kernel memory
	SwapPeak   sample.Opt[uint64]
}

// reset empties r for its next use and keeps its memory.
func (r *Reading) reset() { *r = Reading{Processes: r.Processes[:0]} }
