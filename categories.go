package rmagent

import (
	"fmt"
	"io"
	"sync"

	"rmagent/internal/category"
	"rmagent/internal/cctools"
	"rmagent/record"
)

// Categories learns from jobs that ended how much the next job of the same category
// should be given at first. A category gathers jobs that use about the same. The
// zero Categories is not ready: use [NewCategories]. It may be used by many
// goroutines.
type Categories struct {
	mu  sync.Mutex
	set *category.Set
}

// AllCategories names the category that has all jobs.
const AllCategories = category.All

// AllocationMode is how a first allocation is chosen. A job that turns out to need
// more is taken to run again, with the most that was seen.
type AllocationMode string

// The modes of allocation.
const (
	// AllocateFixed is the most that was seen, as it is.
	AllocateFixed = AllocationMode(category.Fixed)
	// AllocateMax is the most that was seen, with a third of a bucket to spare, rounded
	// up to a bucket: 1 core, 250 MB, 1 GPU.
	AllocateMax = AllocationMode(category.Max)
	// AllocateThroughput has the most jobs done in a time.
	AllocateThroughput = AllocationMode(category.Throughput)
	// AllocateWaste leaves the least allocated and unused.
	AllocateWaste = AllocationMode(category.Waste)
)

// Allocation is how much of each resource a job is given, or used. A MB has 2^20
// bytes.
type Allocation struct {
	Cores    record.Opt[float64]
	MemoryMB record.Opt[float64]
	DiskMB   record.Opt[float64]
	GPUs     record.Opt[float64]
}

// JobResource names what jobs are allocated.
type JobResource string

// The resources of jobs, and the units of their allocations.
const (
	JobCores  JobResource = "cores"
	JobMemory JobResource = "memory" // MB of 2^20 bytes
	JobDisk   JobResource = "disk"   // MB of 2^20 bytes
	JobGPUs   JobResource = "gpus"
)

// AllocationCost is what an allocation would have cost the jobs of a category.
type AllocationCost struct {
	Jobs    int // that it is judged by: those that ended by themselves, and were measured
	Retries int // of them that need more, and would run a second time
	// Waste is what would be allocated and not used, in the resource's unit times
	// seconds, and WastePercent its share of all that would be allocated.
	Waste        float64
	WastePercent record.Opt[float64]
	// JobsPerSecond would be done by a machine that holds the most that was seen.
	JobsPerSecond record.Opt[float64]
}

// NewCategories returns Categories without jobs.
func NewCategories() *Categories { return &Categories{set: category.NewSet()} }

// Add adds a job: the record that an agent or [Measure] made of it.
func (c *Categories) Add(job *record.Job) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set.Add(cctools.SummaryOf(job))
}

// Read adds every job that r tells of: summary files of rmagent or cctools, one or
// many in a file, or an agent's JSON lines, of which it takes the records of jobs. It
// returns how many jobs there were. An error begins with name and the line; what
// stands before it has been added.
func (c *Categories) Read(name string, r io.Reader) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set.Read(name, r)
}

// Names returns the names of the categories, in order; that of all jobs is the last.
func (c *Categories) Names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set.Names()
}

// FirstAllocation returns what the next job of a category should be given at first.
// What can't be known, for want of a job that was measured and ended by itself, is
// unknown. It fails for a category without jobs and an unknown mode.
func (c *Categories) FirstAllocation(name string, mode AllocationMode) (Allocation, error) {
	switch mode {
	case AllocateFixed, AllocateMax, AllocateThroughput, AllocateWaste:
	default:
		return Allocation{}, fmt.Errorf("mode of allocation %q: there are %q", mode, category.Modes)
	}
	return c.allocation(name, func(k *category.Category, id cctools.Measure) (float64, bool) {
		return k.FirstAllocation(id, category.Mode(mode))
	})
}

// MaximumSeen returns the most that any job of a category used of each resource. It
// fails for a category without jobs.
func (c *Categories) MaximumSeen(name string) (Allocation, error) {
	return c.allocation(name, (*category.Category).MaximumSeen)
}

func (c *Categories) allocation(name string, of func(*category.Category, cctools.Measure) (float64, bool)) (Allocation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, err := c.set.Lookup(name)
	if err != nil {
		return Allocation{}, err
	}
	get := func(id cctools.Measure) record.Opt[float64] { return record.SomeIf(of(k, id)) }
	return Allocation{Cores: get(cctools.Cores), MemoryMB: get(cctools.Memory), DiskMB: get(cctools.Disk), GPUs: get(cctools.GPUs)}, nil
}

// Cost returns what it would have cost to give every job of a category an amount of
// one resource at first. It fails for a category without jobs, an unknown resource
// and an amount that is not above 0.
func (c *Categories) Cost(name string, resource JobResource, amount float64) (AllocationCost, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, err := c.set.Lookup(name)
	if err != nil {
		return AllocationCost{}, err
	}
	for _, id := range category.Resources {
		if id.String() != string(resource) {
			continue
		}
		if !(amount > 0) {
			return AllocationCost{}, fmt.Errorf("allocation of %v %s: allowed is more than 0", amount, id.Unit())
		}
		return AllocationCost{
			Jobs:          k.Measured(id),
			Retries:       k.Retries(id, amount),
			Waste:         k.Waste(id, amount),
			WastePercent:  record.SomeIf(k.WastePercent(id, amount)),
			JobsPerSecond: record.SomeIf(k.Throughput(id, amount)),
		}, nil
	}
	return AllocationCost{}, fmt.Errorf("resource %q: there are %q", resource, category.Resources)
}
