package rmagent

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime/metrics"

	"rmagent/internal/headroom"
	"rmagent/internal/sample"
	"rmagent/record"
)

// MemoryUse is a limit on memory, in bytes, and where the program stands.
type MemoryUse struct {
	Limit     record.Opt[uint64]
	Used      record.Opt[uint64] // without page cache that the kernel drops when needed
	Available record.Opt[uint64]
	// LimitedBy names the limit and its scope, such as "memory.max of cgroup /a".
	LimitedBy string
}

// Memory is how much memory the calling program can still take. What the program
// has been promised and has not touched (mmap, a large make that was never written
// to) is not in Used: [record.Overcommit] tells of it.
type Memory struct {
	// Both together: what the kernel still gives, and what the Go runtime holds free.
	MemoryUse
	// OS is what the kernel says: the tightest of memory.max, memory.high and their
	// like in all cgroups above the program, and the machine's MemAvailable.
	OS MemoryUse
	// Heap is what the Go runtime says.
	Heap Heap
}

// Heap is the Go runtime's memory, in bytes (package runtime/metrics).
type Heap struct {
	Used     uint64             // mapped by the runtime and not released
	Idle     uint64             // of it, free spans: new objects take these first
	Released uint64             // given back to the kernel: taking it again counts against OS
	Limit    record.Opt[uint64] // GOMEMLIMIT; unknown where it is off
}

// ReadMemory reads how much memory the calling program can still take, in about
// half a millisecond. Garbage that has not been collected counts as used.
func ReadMemory() (Memory, error) {
	r, err := headroom.Open()
	if err != nil {
		return Memory{}, fmt.Errorf("open headroom: %w", err)
	}
	defer r.Close()
	f, err := r.Read(context.Background(), int32(os.Getpid()), headroom.Own)
	if err != nil {
		return Memory{}, fmt.Errorf("read headroom: %w", err)
	}
	return memoryOf(f, readHeap()), nil
}

// memoryOf puts together what the kernel and the runtime say.
func memoryOf(f *headroom.Facts, heap Heap) Memory {
	m := Memory{Heap: heap}
	if l := headroom.LeastMemory(f); l != nil {
		m.OS = MemoryUse{whole(l.Limit), whole(l.Used), whole(l.Available), l.Name + " of " + l.Scope}
	}
	m.MemoryUse = m.OS
	if used, ok := m.OS.Used.Get(); ok {
		m.Used = record.Some(used - min(used, heap.Idle))
	}
	if available, ok := m.OS.Available.Get(); ok {
		m.Available = record.Some(available + heap.Idle)
	}
	limit, ok := heap.Limit.Get()
	if !ok {
		return m
	}
	inUse := heap.Used - min(heap.Used, heap.Idle)
	room := limit - min(limit, inUse)
	if room < m.Available.Or(math.MaxUint64) {
		m.MemoryUse = MemoryUse{heap.Limit, record.Some(inUse), record.Some(room), "GOMEMLIMIT of Go runtime"}
	}
	return m
}

func whole(o record.Opt[float64]) record.Opt[uint64] {
	v, ok := o.Get()
	return record.SomeIf(uint64(max(0, v)), ok)
}

// readHeap reads the runtime's own account.
func readHeap() Heap {
	s := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/gomemlimit:bytes"},
	}
	metrics.Read(s)
	v := func(i int) uint64 {
		if s[i].Value.Kind() != metrics.KindUint64 {
			return 0
		}
		return s[i].Value.Uint64()
	}
	total, released := v(0), v(1)
	limit := v(3)
	return Heap{
		Used: total - min(total, released), Idle: v(2), Released: released,
		Limit: record.SomeIf(limit, limit > 0 && limit < math.MaxInt64),
	}
}

// facts are what package headroom makes a row of.
func (h Heap) facts() *headroom.GoMemory {
	return &headroom.GoMemory{UsedBytes: h.Used, LimitBytes: h.Limit.Or(sample.Unlimited)}
}
