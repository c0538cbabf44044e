package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"rmagent/internal/pattern"
	"rmagent/internal/sample"
)

// Resource names what thresholds are set for.
type Resource string

// The resources that have thresholds.
const (
	CPU     Resource = "cpu"     // the host's, and each cgroup's under its limit
	Memory  Resource = "memory"  // likewise
	FD      Resource = "fd"      // each process's descriptors, and the host's open files
	Disk    Resource = "disk"    // each mounted filesystem's bytes and inodes
	Network Resource = "network" // the host's bytes, where NetworkLimit is set
	// Each card is judged by itself, and the memory of each MIG instance too.
	GPU       Resource = "gpu"        // a card's utilization
	GPUMemory Resource = "gpu_memory" // a card's memory
	PIDs      Resource = "pids"       // the host's threads, and each cgroup's under its limit
	Pressure  Resource = "pressure"   // how long the host's tasks wait for CPU, memory and I/O
)

// Resources are all that have thresholds, in the order in which they are shown.
var Resources = []Resource{CPU, Memory, FD, Disk, Network, GPU, GPUMemory, PIDs, Pressure}

// Threshold says at which share of its limit a resource changes its state.
type Threshold struct {
	Info     float64
	Warning  float64
	Critical float64
	// After is for how long the ratio must have reached a threshold: 0 for what one
	// reading proves, as memory that is taken; longer for what swings.
	After time.Duration
	// Hysteresis is how far below its threshold the ratio must fall to leave a
	// state, and Hold for how long.
	Hysteresis float64
	Hold       time.Duration
}

// Config is the policy. What it has no threshold, maximum or rule for is not judged.
type Config struct {
	Thresholds map[Resource]Threshold
	// NetworkLimit is the bytes a second, received and sent, that thresholds of
	// network are shares of; 0: unknown, so network has no state.
	NetworkLimit float64
	// Horizon is how far ahead a message says when a limit will be reached; 0: never.
	Horizon time.Duration

	Prune      Prune
	Tracked    []Rule
	Protected  []Selector
	Priorities []Priority
	// Agent is the PID of the agent itself, which is never a candidate, and neither
	// are its children; 0: unknown.
	Agent int32
}

// Prune says when there is too much work. A maximum of 0 is none. Percents of a
// resource with a limit are of that limit.
type Prune struct {
	ObservationPeriod time.Duration // of the mean
	CheckInterval     time.Duration // between decisions, at least
	Samples           int           // pieces of which the mean is made
	Target            float64       // share of the maximum that the mean may be
	Candidates        int           // how many are named at most

	MemoryBytes           float64 // of the host
	CPUPercent            float64 // of all CPUs of the host
	GPUPercent            float64 // of each card
	NetworkBytesPerSecond float64 // of the host, received and sent
	CgroupMemoryPercent   float64 // of each cgroup's limit
	FDPercent             float64 // of each process's limit, and of the host's
	DiskPercent           float64 // of each mounted filesystem's bytes
	GPUMemoryPercent      float64 // of each card, and of each MIG instance
	PIDsPercent           float64 // of the host's limit, and of each cgroup's
	PressureCPUPercent    float64 // of the time, PSI "some"
	PressureMemoryPercent float64
	PressureIOPercent     float64
}

// Selector chooses processes. Of what is set, all must match; where nothing is set,
// nothing does.
type Selector struct {
	PID    int32     // whoever has it when the rule is first in force
	ID     sample.ID // that process only
	Name   string    // patterns, as those of package pattern
	Unit   string
	Cgroup string
}

// Priority says who goes first: the lowest. Who has none has 0.
type Priority struct {
	Selector
	Priority int
}

// Rule tracks the processes that it selects: they have limits and rolling means.
type Rule struct {
	Label string // what records and actions call it
	Selector
	// Job is a pattern of categories, whose jobs the rule is for, each as a whole; empty:
	// it is for processes.
	Job     string
	Limits  Limits
	Prune   bool     // its limits are maxima of the prune rule, too
	Actions []string // names of actions for when a limit is broken
}

// Limits are a process's; 0 is none.
type Limits struct {
	CPUPercent            float64 // of one CPU
	MemoryBytes           float64 // resident
	FDs                   float64 // open
	DiskBytesPerSecond    float64 // read and written
	NetworkBytesPerSecond float64 // received and sent
	GPUPercent            float64
	GPUMemoryBytes        float64
}

// usual is the threshold of most resources.
var usual = Threshold{Info: 0.6, Warning: 0.7, Critical: 0.9, Hysteresis: 0.05, Hold: 10 * time.Second}

// Default is the policy of a user who configured none.
func Default() Config {
	counted := usual
	counted.Info, counted.Warning = 0.7, 0.8
	disk := counted
	disk.Critical = 0.95
	swinging := usual
	swinging.After = 10 * time.Second
	pressure := Threshold{Info: 0.2, Warning: 0.4, Critical: 0.7, Hysteresis: 0.05, Hold: 10 * time.Second}
	return Config{
		Thresholds: map[Resource]Threshold{
			CPU: swinging, Memory: usual, FD: counted, Disk: disk, Network: swinging,
			GPU: usual, GPUMemory: usual, PIDs: counted, Pressure: pressure,
		},
		Horizon: time.Hour,
		Prune: Prune{
			ObservationPeriod: 10 * time.Second, CheckInterval: time.Second, Samples: 20, Target: 0.9, Candidates: 10,
			MemoryBytes: 8192 << 20, CPUPercent: 90, GPUPercent: 90, NetworkBytesPerSecond: 10485760,
		},
	}
}

// Validate names the first thing that is out of range or out of order.
func (c *Config) Validate() error {
	for _, resource := range slices.Sorted(maps.Keys(c.Thresholds)) {
		if err := c.validateThreshold(resource); err != nil {
			return err
		}
	}
	if c.NetworkLimit < 0 || c.Horizon < 0 {
		return fmt.Errorf("a limit of %v bytes a second, a horizon of %v; allowed: 0 or more", c.NetworkLimit, c.Horizon)
	}
	if err := c.Prune.Validate(); err != nil {
		return err
	}
	selectors := slices.Clone(c.Protected)
	for i := range c.Priorities {
		selectors = append(selectors, c.Priorities[i].Selector)
	}
	for i := range c.Tracked {
		selectors = append(selectors, c.Tracked[i].Selector)
	}
	for i := range c.Tracked {
		if err := pattern.Check(c.Tracked[i].Job); err != nil {
			return fmt.Errorf("pattern %q: %w", c.Tracked[i].Job, err)
		}
	}
	for i := range selectors {
		if err := selectors[i].Validate(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) validateThreshold(resource Resource) error {
	t := c.Thresholds[resource]
	if !slices.Contains(Resources, resource) {
		return fmt.Errorf("thresholds.%s: there is no such resource; allowed: %s", resource, ResourceNames())
	}
	if !(0 < t.Info && t.Info <= t.Warning && t.Warning <= t.Critical && t.Critical <= 1) { // nor NaN
		return fmt.Errorf("thresholds.%s: %v, %v, %v; allowed: 0 < info <= warning <= critical <= 1",
			resource, t.Info, t.Warning, t.Critical)
	}
	if !(0 <= t.Hysteresis && t.Hysteresis < t.Info) {
		return fmt.Errorf("thresholds.%s.hysteresis: %v; allowed: from 0 to below info", resource, t.Hysteresis)
	}
	if t.Hold < 0 || t.After < 0 {
		return fmt.Errorf("thresholds.%s.hold: %v, after: %v; allowed: 0 or more", resource, t.Hold, t.After)
	}
	return nil
}

// ResourceNames lists the resources that have thresholds.
func ResourceNames() string {
	names := make([]string, len(Resources))
	for i, r := range Resources {
		names[i] = string(r)
	}
	return strings.Join(names, ", ")
}

// Validate says what is out of range.
func (p *Prune) Validate() error {
	if p.ObservationPeriod <= 0 || p.CheckInterval <= 0 || p.Samples <= 0 {
		return fmt.Errorf("prune: an observation period of %v, checks every %v, %d samples; allowed: more than 0",
			p.ObservationPeriod, p.CheckInterval, p.Samples)
	}
	if !(0 < p.Target && p.Target <= 1) {
		return fmt.Errorf("prune: a target utilization of %v; allowed: above 0, up to 1", p.Target)
	}
	for _, percent := range []float64{p.CPUPercent, p.GPUPercent, p.CgroupMemoryPercent, p.FDPercent, p.DiskPercent, p.GPUMemoryPercent,
		p.PIDsPercent, p.PressureCPUPercent, p.PressureMemoryPercent, p.PressureIOPercent} {
		if !(0 <= percent && percent <= 100) {
			return fmt.Errorf("prune: a maximum of %v percent; allowed: above 0, up to 100, or 0: none", percent)
		}
	}
	if !(p.MemoryBytes >= 0 && p.NetworkBytesPerSecond >= 0) {
		return fmt.Errorf("prune: a maximum of %v bytes, of %v bytes a second; allowed: above 0, or 0: none",
			p.MemoryBytes, p.NetworkBytesPerSecond)
	}
	return nil
}

// Validate names a pattern that is malformed.
func (s *Selector) Validate() error {
	for _, p := range []string{s.Name, s.Unit, s.Cgroup} {
		if err := pattern.Check(p); err != nil {
			return fmt.Errorf("pattern %q: %w", p, err)
		}
	}
	return nil
}
