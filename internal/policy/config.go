package policy

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Resource names what a state is about.
type Resource string

// The resources that have states.
const (
	FD     Resource = "fd"     // a process's descriptors, and the host's open files
	Memory Resource = "memory" // the host's, and each cgroup's under its limit
	// Each card is judged by itself, and the memory of each MIG instance too.
	GPU       Resource = "gpu"        // a card's utilization
	GPUMemory Resource = "gpu_memory" // a card's memory
)

// Threshold says at which share of its limit a resource changes its state.
type Threshold struct {
	Info     float64
	Warning  float64
	Critical float64
	// Hysteresis is how far below its threshold the ratio must fall to leave a
	// state, and Hold for how long.
	Hysteresis float64
	Hold       time.Duration
}

// Resources are all that have states, in the order in which they are shown.
var Resources = []Resource{FD, Memory, GPU, GPUMemory}

// Config is the policy.
type Config struct {
	Thresholds map[Resource]Threshold
}

// Default is the policy of a user who configured none.
func Default() Config {
	t := Threshold{Info: 0.7, Warning: 0.8, Critical: 0.9, Hysteresis: 0.05, Hold: 10 * time.Second}
	return Config{Thresholds: map[Resource]Threshold{FD: t, Memory: t, GPU: t, GPUMemory: t}}
}

// Validate names the first threshold that is out of range or out of order.
func (c *Config) Validate() error {
	for _, resource := range slices.Sorted(maps.Keys(c.Thresholds)) {
		t := c.Thresholds[resource]
		if !slices.Contains(Resources, resource) {
			return fmt.Errorf("thresholds.%s: there is no such resource; allowed: fd, memory, gpu, gpu_memory", resource)
		}
		if !(0 < t.Info && t.Info <= t.Warning && t.Warning <= t.Critical && t.Critical <= 1) { // nor NaN
			return fmt.Errorf("thresholds.%s: %v, %v, %v; allowed: 0 < info <= warning <= critical <= 1",
				resource, t.Info, t.Warning, t.Critical)
		}
		if !(0 <= t.Hysteresis && t.Hysteresis < t.Info) {
			return fmt.Errorf("thresholds.%s.hysteresis: %v; allowed: from 0 to below info", resource, t.Hysteresis)
		}
		if t.Hold < 0 {
			return fmt.Errorf("thresholds.%s.hold: %v; allowed: 0 or more", resource, t.Hold)
		}
	}
	return nil
}

// level is the position of a state: higher is worse.
type level int

const (
	normal level = iota
	info
	warning
	critical
)

// at returns the threshold of a level above normal.
func (t *Threshold) at(l level) float64 {
	return [...]float64{0, t.Info, t.Warning, t.Critical}[l]
}

// reached returns the level that a ratio reaches.
func (t *Threshold) reached(ratio float64) level {
	switch {
	case ratio >= t.Critical:
		return critical
	case ratio >= t.Warning:
		return warning
	case ratio >= t.Info:
		return info
	}
	return normal
}
