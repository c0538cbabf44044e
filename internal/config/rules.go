package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"rmagent/internal/pattern"
	"rmagent/internal/policy"
	"rmagent/internal/sample"
)

// mebibyte is what settings call a MB.
const mebibyte = 1 << 20

// Tracked chooses processes, and says what they may use; 0 is no limit.
type Tracked struct {
	Label string `config:"label"` // what records and actions call the rule
	PID   int    `config:"pid"`
	// StartTicks is when that process began, in ticks since boot, as field 22 of
	// /proc/PID/stat; 0: whoever has the PID when the rule is first in force.
	StartTicks int    `config:"start_ticks"`
	Name       string `config:"name"` // patterns, as those of package pattern
	Unit       string `config:"unit"`
	Cgroup     string `config:"cgroup"`
	Job        string `config:"job"` // a pattern of categories: the rule is for jobs, each as a whole

	MaxCPUPercent            float64 `config:"max_cpu_percent"` // of one CPU
	MaxMemoryMB              float64 `config:"max_memory_mb"`
	MaxFD                    float64 `config:"max_fd"`
	MaxDiskBytesPerSecond    float64 `config:"max_disk_bytes_per_second"`
	MaxNetworkBytesPerSecond float64 `config:"max_network_bytes_per_second"`
	MaxGPUPercent            float64 `config:"max_gpu_percent"`
	MaxGPUMemoryMB           float64 `config:"max_gpu_memory_mb"`

	Prune   bool     `config:"prune"`   // the limits are maxima of the prune rule, too
	Actions []string `config:"actions"` // for when a limit is broken
}

const trackedName = "tracked"

func trackedKey() key {
	notEmpty := func(s string) error {
		if s == "" {
			return fmt.Errorf("it is empty")
		}
		return nil
	}
	isPattern := func(s string) error {
		if err := pattern.Check(s); err != nil {
			return fmt.Errorf("%q: %w", s, err)
		}
		return notEmpty(s)
	}
	const patterns = "a pattern, as nginx*"
	return items(trackedName, "a list of rules",
		text("label", "", "a text", notEmpty).says("what records and actions call the rule"),
		count("pid", 0, 1, 1<<22-1).says("whoever has it when the rule is first in force"),
		count("start_ticks", 0, 0, 1<<53).says("when the process with that pid began, as field 22 of /proc/PID/stat; 0: not asked"),
		text("name", "", patterns, isPattern).says("of the process"),
		text("unit", "", patterns, isPattern).says("systemd unit of the process"),
		text("cgroup", "", patterns, isPattern).says("of the process, or one above it"),
		text("job", "", patterns, isPattern).says("category of jobs that run beside the agent: each as a whole"),
		number("max_cpu_percent", 0, 0, 1e6).says("100 is one CPU; 0: no limit"),
		number("max_memory_mb", 0, 0, 1<<40).says("resident, in MB of 2^20 bytes; 0: no limit"),
		number("max_fd", 0, 0, 1<<31).says("open descriptors; 0: no limit"),
		size("max_disk_bytes_per_second", 0, 0, 1e15).says("read and written; 0: no limit"),
		size("max_network_bytes_per_second", 0, 0, 1e15).says("received and sent; 0: no limit"),
		number("max_gpu_percent", 0, 0, 100).says("0: no limit"),
		number("max_gpu_memory_mb", 0, 0, 1<<40).says("in MB of 2^20 bytes; 0: no limit"),
		yesNo("prune", false).says("the limits are maxima of the prune rule, too"),
		list("actions", []string{}, parseName, "names of actions").says("for when a limit is broken"),
	).says("processes and jobs with limits of their own")
}

// id is the one process that the rule is for, zero where it does not say.
func (t *Tracked) id() sample.ID {
	if t.PID == 0 || t.StartTicks == 0 {
		return sample.ID{}
	}
	return sample.ID{PID: int32(t.PID), StartTicks: uint64(t.StartTicks)}
}

// rules are what the policy makes of the list.
func (c *Config) rules() []policy.Rule {
	rules := make([]policy.Rule, len(c.Tracked))
	for i := range c.Tracked {
		t := &c.Tracked[i]
		rules[i] = policy.Rule{
			Label:    t.Label,
			Job:      t.Job,
			Selector: policy.Selector{PID: int32(t.PID), ID: t.id(), Name: t.Name, Unit: t.Unit, Cgroup: t.Cgroup},
			Limits: policy.Limits{
				CPUPercent:            t.MaxCPUPercent,
				MemoryBytes:           t.MaxMemoryMB * mebibyte,
				FDs:                   t.MaxFD,
				DiskBytesPerSecond:    t.MaxDiskBytesPerSecond,
				NetworkBytesPerSecond: t.MaxNetworkBytesPerSecond,
				GPUPercent:            t.MaxGPUPercent,
				GPUMemoryBytes:        t.MaxGPUMemoryMB * mebibyte,
			},
			Prune: t.Prune,
		}
		if len(t.Actions) > 0 {
			rules[i].Actions = t.Actions
		}
	}
	return rules
}

// checkTracked reports rules that select nobody and, unless this is a part of a
// configuration, actions that there are not.
func (l *Loaded) checkTracked(part bool) []Problem {
	var problems []Problem
	names := make([]string, len(l.Actions))
	for i := range l.Actions {
		names[i] = l.Actions[i].Name
	}
	for i, rule := range l.rules() {
		at := itemName(trackedName, i)
		switch {
		case rule.Selector == (policy.Selector{}) && rule.Job == "":
			problems = append(problems, Problem{l.origins[at], at, "it selects nobody; allowed: at least one of pid, name, unit and cgroup, or job"})
		case rule.Selector != (policy.Selector{}) && rule.Job != "":
			problems = append(problems, Problem{l.origins[at], at, "it selects processes and jobs; allowed: pid, name, unit and cgroup, or job alone"})
		}
		for _, name := range rule.Actions {
			if !part && !slices.Contains(names, name) {
				what := fmt.Sprintf("there is no action %s%s; allowed: names of the list actions", name, DidYouMean(name, names))
				problems = append(problems, Problem{l.origins[at+".actions"], at + ".actions", what})
			}
		}
	}
	return problems
}

// parseSelector reads what chooses processes: name:PATTERN, unit:PATTERN or
// cgroup:PATTERN.
func parseSelector(s string) (policy.Selector, error) {
	kind, p, _ := strings.Cut(s, ":")
	sel := policy.Selector{}
	switch kind {
	case "name":
		sel.Name = p
	case "unit":
		sel.Unit = p
	case "cgroup":
		sel.Cgroup = p
	default:
		return sel, fmt.Errorf("%q has no kind", s)
	}
	if p == "" {
		return sel, fmt.Errorf("%q has no pattern", s)
	}
	if err := sel.Validate(); err != nil {
		return sel, err
	}
	return sel, nil
}

func parseProtected(s string) (any, error) {
	_, err := parseSelector(s)
	return s, err
}

// parsePriority reads a selector, =, and a whole number.
func parsePriority(s string) (policy.Priority, error) {
	at := strings.LastIndexByte(s, '=')
	if at < 0 {
		return policy.Priority{}, fmt.Errorf("%q has no priority", s)
	}
	n, err := strconv.Atoi(strings.TrimSpace(s[at+1:]))
	if err != nil || n < -1000 || n > 1000 {
		return policy.Priority{}, fmt.Errorf("%q is no priority from -1000 to 1000", s[at+1:])
	}
	sel, err := parseSelector(strings.TrimSpace(s[:at]))
	return policy.Priority{Selector: sel, Priority: n}, err
}

func parsePriorityText(s string) (any, error) {
	_, err := parsePriority(s)
	return s, err
}
