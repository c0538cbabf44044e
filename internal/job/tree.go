package job

import (
	"rmagent/internal/sample"
)

// tree is what the living processes of a job have together.
type tree struct {
	memory, swap, virtual uint64 // bytes
	fds                   uint64
	// most resident, and most mapped, that one of them ever had
	peak, peakVirtual uint64
	// fdsFull is a process with as many descriptors as it may have; 0: none has.
	fdsFull int32
	// shared says that memory counts pages more than once: proportional could tell.
	shared bool
}

// sharedWorth is from how much shared memory on it is worth asking who shares it.
const sharedWorth = 1 << 20

// summer adds up what processes have. An address space or a table of descriptors that
// several use counts once.
type summer struct{ spaces, tables map[uint64]struct{} }

func newSummer() *summer {
	return &summer{spaces: map[uint64]struct{}{}, tables: map[uint64]struct{}{}}
}

// fresh reports whether a key was not met before; key 0 never was.
func fresh(met map[uint64]struct{}, key uint64) bool {
	if key == 0 {
		return true
	}
	if _, ok := met[key]; ok {
		return false
	}
	met[key] = struct{}{}
	return true
}

// each calls f for a process of each address space that is the job's.
func (s *summer) each(processes []sample.JobProcess, f func(p *sample.JobProcess)) {
	clear(s.spaces)
	for i := range processes {
		p := &processes[i]
		if p.Memory && !p.First && fresh(s.spaces, p.Space) {
			f(p)
		}
	}
}

// sum adds up. Pages that different address spaces share (of files, of fork, of
// shared memory) count in each.
func (s *summer) sum(processes []sample.JobProcess) tree {
	var t tree
	var shmem uint64
	spaces, forked := 0, 0
	s.each(processes, func(p *sample.JobProcess) {
		t.memory += p.File + p.Anon + p.Shmem
		t.swap += p.Swap
		t.virtual += p.Virtual
		t.peak, t.peakVirtual = max(t.peak, p.Peak), max(t.peakVirtual, p.PeakVirtual)
		spaces++
		shmem += p.Shmem
		if p.Forked {
			forked++
		}
	})
	t.shared = spaces > 1 && (forked > 0 || shmem >= sharedWorth)
	clear(s.tables)
	for i := range processes {
		p := &processes[i]
		n, known := p.FDs.Get()
		if !known || !fresh(s.tables, p.Table) {
			continue
		}
		t.fds += n
		if limit, ok := p.FDLimit.Get(); ok && n >= limit {
			t.fdsFull = p.ID.PID
		}
	}
	return t
}

// Shares is what a process has of pages that it shares, divided by how many share
// them (PSS), in bytes.
type Shares struct{ Anon, Shmem uint64 }

// proportional is sum's memory with what processes share counted once: anonymous
// pages of families, and shared memory. Pages of files count in each process. shares
// returns false for a process that it can't tell of: it may have ended, and what it shared
// is the others' then. What is read of one process after another is no picture of an
// instant: only if a second look says the same, it counts.
func (s *summer) proportional(processes []sample.JobProcess, shares func(pid int32) (Shares, bool)) (memory uint64, ok bool) {
	first, ok1 := s.proportionalOnce(processes, shares)
	second, ok2 := s.proportionalOnce(processes, shares)
	apart := max(first, second) - min(first, second)
	return min(first, second), ok1 && ok2 && apart <= second/settled
}

// settled is the share of memory by which two looks may differ.
const settled = 200

func (s *summer) proportionalOnce(processes []sample.JobProcess, shares func(pid int32) (Shares, bool)) (memory uint64, ok bool) {
	ok = true
	s.each(processes, func(p *sample.JobProcess) {
		memory += p.File
		if !p.Family && p.Shmem == 0 {
			memory += p.Anon
			return
		}
		part, told := shares(p.ID.PID)
		memory += part.Anon + part.Shmem
		ok = ok && told
	})
	return memory, ok
}

// least is what processes have at least, whatever they share: of all that may share,
// only the one that has most.
func (s *summer) least(processes []sample.JobProcess) uint64 {
	var memory, most uint64
	s.each(processes, func(p *sample.JobProcess) {
		memory += p.File
		if p.Family || p.Shmem > 0 {
			most = max(most, p.Anon+p.Shmem)
		} else {
			memory += p.Anon
		}
	})
	return memory + most
}
