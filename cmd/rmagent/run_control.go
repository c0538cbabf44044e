package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rmagent/internal/agent"
	"rmagent/internal/config"
	"rmagent/internal/fdcheck"
	"rmagent/internal/headroom"
	"rmagent/internal/history"
	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
	httpserver "rmagent/internal/server"
	"rmagent/record"
)

// control lets the server change what can be changed while the agent runs.
type control struct {
	agent   *agent.Agent
	history *history.Store

	mu      sync.Mutex
	tracked map[int32]config.Tracked // that were set here
}

func (c *control) History(resource, target string, count int) (record.History, bool) {
	return c.history.History(resource, target, count)
}

func (c *control) Stats() record.Stats { return c.history.Stats() }

func (c *control) ResetStats() { c.history.Reset(time.Now()) }

func (c *control) Set(settings map[string]string) error { return c.agent.Set(settings) }

// Track sets limits beside those that were set before.
func (c *control) Track(pid int32, l httpserver.TrackedLimits) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, err := hostfs.ReadID(int(pid))
	if err != nil {
		return httpserver.ErrNotThere
	}
	t := c.rule(id)
	for _, f := range []struct {
		to   *float64
		from record.Opt[float64]
	}{
		{&t.MaxCPUPercent, l.MaxCPUPercent}, {&t.MaxMemoryMB, l.MaxMemoryMB}, {&t.MaxFD, l.MaxFD},
		{&t.MaxDiskBytesPerSecond, l.MaxDiskBytesPerSecond}, {&t.MaxNetworkBytesPerSecond, l.MaxNetworkBytesPerSecond},
		{&t.MaxGPUPercent, l.MaxGPUPercent}, {&t.MaxGPUMemoryMB, l.MaxGPUMemoryMB},
	} {
		*f.to = f.from.Or(*f.to)
	}
	if l.Actions != nil {
		t.Actions = l.Actions
	}
	if err := c.agent.Track(t); err != nil {
		return err
	}
	c.tracked[pid] = t
	return nil
}

// rule is what was set of a process before. Who had its PID earlier leaves nothing.
func (c *control) rule(id sample.ID) config.Tracked {
	if t, there := c.tracked[id.PID]; there && uint64(t.StartTicks) == id.StartTicks {
		return t
	}
	return config.Tracked{Label: trackedLabel(id.PID), PID: int(id.PID), StartTicks: int(id.StartTicks), Actions: []string{}}
}

func (c *control) Untrack(pid int32) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tracked, pid)
	return c.agent.Untrack(trackedLabel(pid))
}

func trackedLabel(pid int32) string { return fmt.Sprintf("pid %d", pid) }

func (c *control) CheckFDs(ctx context.Context, pid int32, q fdcheck.Request) (record.FDCheck, error) {
	r, err := headroom.Open()
	if err != nil {
		return record.FDCheck{}, err
	}
	defer r.Close()
	u, err := r.ReadDescriptors(ctx, pid)
	if err != nil {
		return record.FDCheck{}, err
	}
	return fdcheck.Judge(u, &q), nil
}
