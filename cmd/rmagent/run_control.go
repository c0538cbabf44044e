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

	tracking sync.Mutex // what one adds to, another must not take away
}

func (c *control) History(resource, target string, count int) (record.History, bool) {
	return c.history.History(resource, target, count)
}

func (c *control) Stats() record.Stats { return c.history.Stats() }

func (c *control) ResetStats() { c.history.Reset(time.Now()) }

func (c *control) Set(settings map[string]string) error { return c.agent.Set(settings) }

// Track sets limits beside those that were set before.
func (c *control) Track(pid int32, l httpserver.TrackedLimits) error {
	c.tracking.Lock()
	defer c.tracking.Unlock()
	id, err := hostfs.ReadID(int(pid))
	if err != nil {
		return httpserver.ErrNotThere
	}
	before, _ := c.agent.Tracked(trackedLabel(pid))
	t := ruleOf(id, before)
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
	return c.agent.Track(t)
}

// ruleOf is what was set of a process before. Who had its PID earlier leaves nothing.
func ruleOf(id sample.ID, before config.Tracked) config.Tracked {
	if before.PID == int(id.PID) && uint64(before.StartTicks) == id.StartTicks {
		return before
	}
	return config.Tracked{Label: trackedLabel(id.PID), PID: int(id.PID), StartTicks: int(id.StartTicks), Actions: []string{}}
}

func (c *control) Untrack(pid int32) (bool, error) {
	c.tracking.Lock()
	defer c.tracking.Unlock()
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
