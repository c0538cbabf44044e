package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"rmagent/internal/agent"
	"rmagent/internal/config"
	"rmagent/internal/fdcheck"
	"rmagent/internal/headroom"
	"rmagent/internal/history"
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
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		return httpserver.ErrNotThere
	}
	t, there := c.tracked[pid]
	if !there {
		t = config.Tracked{Label: trackedLabel(pid), PID: int(pid), Actions: []string{}}
	}
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
