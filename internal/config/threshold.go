package config

import (
	"fmt"
	"slices"
	"time"

	"rmagent/internal/policy"
)

const thresholdGroup = "thresholds"

// thresholdPrefix begins the keys of a resource.
func thresholdPrefix(r policy.Resource) string { return thresholdGroup + "." + string(r) + "." }

func thresholdKeys() []key {
	defaults := policy.Default().Thresholds
	var list []key
	for _, r := range policy.Resources {
		prefix, def := thresholdPrefix(r), defaults[r]
		list = append(list,
			number(prefix+"info", def.Info, 0.01, 1),
			number(prefix+"warning", def.Warning, 0.01, 1),
			number(prefix+"critical", def.Critical, 0.01, 1),
			duration(prefix+"after", def.After, 0, 24*time.Hour),
			number(prefix+"hysteresis", def.Hysteresis, 0, 0.99),
			duration(prefix+"hold", def.Hold, 0, 24*time.Hour),
		)
	}
	return list
}

// Policy returns what the policy judges by. agent is the PID of the agent itself, 0
// where it is unknown.
func (c *Config) Policy(agent int32) policy.Config {
	p := policy.Config{
		Thresholds:   c.Thresholds,
		NetworkLimit: c.NetworkLimitBytesPerSecond,
		Horizon:      c.PredictionHorizon,
		Prune: policy.Prune{
			ObservationPeriod:     c.ObservationPeriod,
			CheckInterval:         c.CheckInterval,
			Samples:               c.RollingWindowSize,
			Target:                c.TargetUtilization,
			Candidates:            c.PruneCandidates,
			MemoryBytes:           c.MaxMemoryUsageMB * mebibyte,
			CPUPercent:            c.MaxCPUUsagePercent,
			GPUPercent:            c.MaxGPUUsagePercent,
			NetworkBytesPerSecond: c.MaxNetworkUsageBytesPerSecond,
			CgroupMemoryPercent:   c.MaxCgroupMemoryUsagePercent,
			FDPercent:             c.MaxFDUsagePercent,
			DiskPercent:           c.MaxDiskUsagePercent,
			GPUMemoryPercent:      c.MaxGPUMemoryUsagePercent,
			PIDsPercent:           c.MaxPIDsUsagePercent,
			PressureCPUPercent:    c.MaxCPUPressurePercent,
			PressureMemoryPercent: c.MaxMemoryPressurePercent,
			PressureIOPercent:     c.MaxIOPressurePercent,
		},
		Tracked: c.rules(),
		Agent:   agent,
	}
	for _, text := range c.Protected {
		if s, err := parseSelector(text); err == nil { // else it would not have loaded
			p.Protected = append(p.Protected, s)
		}
	}
	for _, text := range c.Priorities {
		if s, err := parsePriority(text); err == nil {
			p.Priorities = append(p.Priorities, s)
		}
	}
	return p
}

// checkThreshold reports thresholds of a resource that are not in order. The key to
// blame is the one that the stronger layer set, or the first of both.
func (l *Loaded) checkThreshold(r policy.Resource) (problems []Problem) {
	t, prefix := l.Thresholds[r], thresholdPrefix(r)
	for _, c := range []struct {
		ok      bool
		a, b    string
		va, vb  float64
		isAbove string
	}{
		{t.Info <= t.Warning, "info", "warning", t.Info, t.Warning, "is above"},
		{t.Warning <= t.Critical, "warning", "critical", t.Warning, t.Critical, "is above"},
		{t.Hysteresis < t.Info, "hysteresis", "info", t.Hysteresis, t.Info, "is not below"},
	} {
		if c.ok {
			continue
		}
		blamed := slices.MaxFunc([]string{prefix + c.a, prefix + c.b}, func(a, b string) int {
			return int(l.origins[a].Layer) - int(l.origins[b].Layer)
		})
		problems = append(problems, Problem{l.origins[blamed], blamed, fmt.Sprintf(
			"%s (%v) %s %s (%v); allowed: info <= warning <= critical, hysteresis < info", c.a, c.va, c.isAbove, c.b, c.vb)})
	}
	return problems
}
