package category

import (
	"cmp"
	"math"
	"slices"

	"rmagent/internal/cctools"
)

// All names the category of all jobs, which every Set has.
const All = "(all)"

// Default is the category of jobs whose summaries name none.
const Default = "default"

// Mode is how a first allocation is chosen.
type Mode string

// The modes.
const (
	// Fixed is the most that was seen, as it is.
	Fixed Mode = "fixed"
	// Max is the most that was seen and a third of a bucket, rounded up to a bucket.
	Max Mode = "max"
	// Throughput has the most jobs done in a time, on machines that are shared out
	// by this resource.
	Throughput Mode = "throughput"
	// Waste leaves the least of the resource, times time, allocated and unused.
	Waste Mode = "waste"
)

// Modes are all of them.
var Modes = []Mode{Fixed, Max, Throughput, Waste}

// Resources are what jobs are allocated, in the units of package cctools.
var Resources = []cctools.Measure{cctools.Cores, cctools.Memory, cctools.Disk, cctools.GPUs}

// bucketSize is how finely values of a resource are told apart.
func bucketSize(id cctools.Measure) float64 {
	if id == cctools.Memory || id == cctools.Disk {
		return 250
	}
	return 1
}

// roundUp is the end of the bucket that v falls in. Buckets have their end, not
// their beginning.
func roundUp(id cctools.Measure, v float64) float64 {
	size := bucketSize(id)
	return math.Ceil(v/size) * size
}

// use is one job's use of one resource.
type use struct {
	value   float64
	seconds float64 // wall time
}

// Category has the jobs of one kind.
type Category struct {
	name      string
	jobs      int
	exhausted int
	signalled int
	unclear   int
	uses      map[cctools.Measure][]use // of the jobs that ended by themselves
	seen      cctools.Measures          // by all jobs
}

func newCategory(name string) *Category {
	return &Category{name: name, uses: map[cctools.Measure][]use{}}
}

// Name returns the category's name.
func (c *Category) Name() string { return c.name }

// Counts says how many jobs there were, and how they ended.
type Counts struct {
	Jobs      int // in all
	Exhausted int // a limit ended them: they would have used more
	Signalled int // a signal ended them
	Unclear   int // the summary has no wall time
}

// Counts returns how many jobs the category has.
func (c *Category) Counts() Counts {
	return Counts{Jobs: c.jobs, Exhausted: c.exhausted, Signalled: c.signalled, Unclear: c.unclear}
}

// add takes a job. Only one that ended by itself, whatever its status, shows what
// such a job needs; the others only raise the most that was seen.
func (c *Category) add(s *cctools.Summary) {
	c.jobs++
	wall, timed := s.Measures.Get(cctools.WallTime)
	normal := false
	switch {
	case s.ExitType == cctools.ExitLimits:
		c.exhausted++
	case s.ExitType == cctools.ExitSignal:
		c.signalled++
	case !timed || s.ExitType == cctools.ExitRunning:
		c.unclear++
	default:
		normal = true
	}
	for _, id := range Resources {
		v, ok := s.Measures.Get(id)
		if !ok {
			continue
		}
		if most, had := c.seen.Get(id); !had || v > most {
			c.seen.Set(id, v)
		}
		if normal {
			c.uses[id] = append(c.uses[id], use{v, wall})
		}
	}
}

// MaximumSeen returns the most that any job used of a resource, also one that a limit
// ended; false: no job's use is known.
func (c *Category) MaximumSeen(id cctools.Measure) (float64, bool) { return c.seen.Get(id) }

// FirstAllocation returns how much of a resource the next job should be given at
// first; false: that can't be known, because no job that ended by itself was measured.
// GPUs are whole, and a job can't be seen to want more than it was given, so that in
// every mode their first allocation is the most that was seen.
func (c *Category) FirstAllocation(id cctools.Measure, mode Mode) (float64, bool) {
	top, seen := c.seen.Get(id)
	if !seen {
		return 0, false
	}
	if mode == Fixed {
		return top, true
	}
	if len(c.uses[id]) == 0 {
		return 0, false
	}
	if id == cctools.GPUs {
		return roundUp(id, top), true
	}
	if mode == Max {
		most := slices.MaxFunc(c.uses[id], func(a, b use) int { return cmp.Compare(a.value, b.value) }).value
		return roundUp(id, most+math.Floor(bucketSize(id)/3)), true
	}
	return roundUp(id, min(best(buckets(id, c.uses[id]), top, mode), top)), true
}

// bucket gathers the jobs whose use falls in it.
type bucket struct {
	end     float64
	jobs    float64
	seconds float64
}

func buckets(id cctools.Measure, uses []use) []bucket {
	byEnd := map[float64]*bucket{}
	for _, u := range uses {
		end := roundUp(id, u.value)
		b := byEnd[end]
		if b == nil {
			b = &bucket{end: end}
			byEnd[end] = b
		}
		b.jobs++
		b.seconds += u.seconds
	}
	list := make([]bucket, 0, len(byEnd))
	for _, b := range byEnd {
		list = append(list, *b)
	}
	slices.SortFunc(list, func(a, b bucket) int { return cmp.Compare(a.end, b.end) })
	return list
}

// best returns the end of the bucket that is best as a first allocation, where jobs
// that need more are run again with top; top, where no bucket holds anything.
//
// With a first allocation a, every job takes its mean time on a, and those above a
// take theirs once more on top. Waste is least where a*mean + top*again is, because
// what is used in the end is the same for every a. Jobs done in a time, on a machine
// that holds top/a first attempts at once, are most where the weight of jobs,
// (top/a)*below + above, divided by mean + again, is.
func best(list []bucket, top float64, mode Mode) float64 {
	jobs, seconds := 0.0, 0.0
	for i := range list {
		jobs += list[i].jobs
		seconds += list[i].seconds
	}
	mean := seconds / jobs
	found, score := top, math.Inf(-1)
	below, again := 0.0, mean
	for i := range list {
		below += list[i].jobs
		again -= list[i].seconds / jobs
		a := list[i].end
		if a < 1 {
			continue
		}
		s := -(a*mean + top*max(0, again))
		if mode == Throughput {
			s = (below*top/a + (jobs - below)) / (mean + max(0, again))
		}
		if s > score {
			found, score = a, s
		}
	}
	return found
}

// Measured returns how many jobs a resource's allocations are judged by.
func (c *Category) Measured(id cctools.Measure) int { return len(c.uses[id]) }

// Retries returns how many jobs would have to run a second time if each were given
// an allocation of a resource at first.
func (c *Category) Retries(id cctools.Measure, allocation float64) int {
	n := 0
	for _, u := range c.uses[id] {
		if u.value > allocation {
			n++
		}
	}
	return n
}

// Waste returns what would be allocated and not used, in units of the resource times
// seconds: by jobs that need less than the allocation, and by those that need more,
// which waste all of it and then run with the most that was seen.
func (c *Category) Waste(id cctools.Measure, allocation float64) float64 {
	top, _ := c.seen.Get(id)
	waste := 0.0
	for _, u := range c.uses[id] {
		waste += u.seconds * (allocation - u.value)
		if u.value > allocation {
			waste += u.seconds * top
		}
	}
	return waste
}

// WastePercent returns the share of what would be allocated that is not used;
// false: nothing would be allocated.
func (c *Category) WastePercent(id cctools.Measure, allocation float64) (float64, bool) {
	used := 0.0
	for _, u := range c.uses[id] {
		used += u.seconds * u.value
	}
	waste := c.Waste(id, allocation)
	if waste+used <= 0 {
		return 0, false
	}
	return 100 * waste / (waste + used), true
}

// Throughput returns jobs per second on a machine that holds the most that was seen:
// top/allocation jobs run at once while they fit, and alone when they are run again.
// False: there are no jobs, or nothing is allocated.
func (c *Category) Throughput(id cctools.Measure, allocation float64) (float64, bool) {
	top, _ := c.seen.Get(id)
	jobs, seconds := 0.0, 0.0
	for _, u := range c.uses[id] {
		if u.value > allocation {
			jobs++
			seconds += 2 * u.seconds
			continue
		}
		jobs += top / allocation
		seconds += u.seconds
	}
	if seconds <= 0 || allocation <= 0 {
		return 0, false
	}
	return jobs / seconds, true
}
