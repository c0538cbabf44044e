package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A loop repeats one operation beside the agent: what its hooks cost others.
type loop struct {
	name string
	args func(milliseconds int, cache string) []string
	goal float64 // highest ratio with the agent to without; 0: within noise
}

var loops = []loop{
	{name: "open+close", args: simpleLoop("openclose")},
	{name: "TCP send+recv", args: simpleLoop("tcp"), goal: 1.03},
	{name: "fork+exec+exit", args: func(ms int, cache string) []string {
		return []string{"fork", strconv.Itoa(ms), filepath.Join(cache, "noop")}
	}, goal: 1.02},
}

func simpleLoop(operation string) func(int, string) []string {
	return func(ms int, _ string) []string { return []string{operation, strconv.Itoa(ms)} }
}

// loopCost is the median batch of one run of a loop, for each operation.
type loopCost struct {
	CPUNanoseconds  float64 `json:"cpu_ns"`
	WallNanoseconds float64 `json:"wall_ns"`
}

// loopRow compares a loop beside the agent with the runs without it just before
// and after.
type loopRow struct {
	Operation string     `json:"operation"`
	Without   []loopCost `json:"without"` // one more than With, around them
	With      []loopCost `json:"with"`
	Ratio     float64    `json:"cpu_ratio"` // median over the rounds
	WallRatio float64    `json:"wall_ratio"`
	// Noise is the median distance from 1 of the ratio between two neighbouring
	// runs without the agent.
	Noise float64 `json:"noise"`
	Goal  float64 `json:"goal,omitempty"`
}

// besideLoops runs every loop without and with the agent, in turns.
func (b *bench) besideLoops(ctx context.Context) error {
	rows := make([]*loopRow, len(loops))
	for i, l := range loops {
		rows[i] = &loopRow{Operation: l.name, Goal: l.goal}
	}
	if err := b.runLoops(ctx, rows, false); err != nil {
		return err
	}
	for round := range b.loopRounds {
		b.progress("loops: round %d of %d", round+1, b.loopRounds)
		if err := b.loopsBesideAgent(ctx, rows); err != nil {
			return err
		}
		if err := b.runLoops(ctx, rows, false); err != nil {
			return err
		}
	}
	for _, row := range rows {
		row.compare()
	}
	b.result.Loops = rows
	return nil
}

func (b *bench) loopsBesideAgent(ctx context.Context, rows []*loopRow) error {
	w, err := startWatcher(ctx, b.agentPeer(), nil)
	if err != nil {
		return err
	}
	defer w.stop()
	if err := b.runLoops(ctx, rows, true); err != nil {
		return err
	}
	return w.alive()
}

func (b *bench) runLoops(ctx context.Context, rows []*loopRow, with bool) error {
	for i, l := range loops {
		cost, err := b.runLoop(ctx, l)
		if err != nil {
			return err
		}
		if with {
			rows[i].With = append(rows[i].With, cost)
		} else {
			rows[i].Without = append(rows[i].Without, cost)
		}
	}
	return nil
}

func (b *bench) runLoop(ctx context.Context, l loop) (loopCost, error) {
	out, err := b.loopProgram(ctx, l.args(int(b.loopTime.Milliseconds()), b.cache)...)
	if err != nil {
		return loopCost{}, fmt.Errorf("%s: %w", l.name, err)
	}
	var cost loopCost
	var n int
	if _, err := fmt.Sscan(string(out), &cost.CPUNanoseconds, &cost.WallNanoseconds, &n); err != nil {
		return loopCost{}, fmt.Errorf("%s: read its figures: %w", l.name, err)
	}
	return cost, nil
}

func (b *bench) loopProgram(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.cache, "loop"), args...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.Output()
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
		return nil, fmt.Errorf("%w: %s", err, lastLine(ended.Stderr))
	}
	return out, err
}

func (r *loopRow) compare() {
	var cpu, wall, noise []float64
	for i, with := range r.With {
		before, after := r.Without[i], r.Without[i+1]
		cpu = append(cpu, with.CPUNanoseconds*2/(before.CPUNanoseconds+after.CPUNanoseconds))
		wall = append(wall, with.WallNanoseconds*2/(before.WallNanoseconds+after.WallNanoseconds))
		noise = append(noise, distance(after.CPUNanoseconds/before.CPUNanoseconds))
	}
	r.Ratio, r.WallRatio, r.Noise = median(cpu), median(wall), median(noise)
}

// met says whether the ratio is within its goal.
func (r *loopRow) met() bool {
	if r.Goal == 0 {
		return distance(r.Ratio) <= max(r.Noise, 0.005) // 1.00 as it is printed
	}
	return r.Ratio <= r.Goal
}

func distance(ratio float64) float64 { return max(ratio-1, 1-ratio) }

// burstResult is what the agent used while short processes came and went.
type burstResult struct {
	Processes       int     `json:"processes"`
	Seconds         float64 `json:"seconds"`
	CPUSecondsEach  float64 `json:"cpu_seconds_each"` // of the processes, by wait4
	AgentCPUSeconds float64 `json:"agent_cpu_seconds"`
	QuietCPUSeconds float64 `json:"agent_cpu_seconds_quiet"` // the same time without them
	ExitRecords     int     `json:"exit_records"`
}

// burst starts short processes beside the agent, after a quiet window as long.
func (b *bench) burst(ctx context.Context) error {
	b.progress("%d short processes in %v", b.short, b.shortTime)
	w, err := startWatcher(ctx, b.agentPeer(), nil)
	if err != nil {
		return err
	}
	defer w.stop()
	quiet := w.meter()
	if err := pause(ctx, b.shortTime); err != nil {
		return err
	}
	before := w.meter()
	out, err := b.loopProgram(ctx, "burst", strconv.Itoa(b.short),
		strconv.Itoa(int(b.shortTime.Milliseconds())), filepath.Join(b.cache, "noop"))
	if err != nil {
		return fmt.Errorf("short processes: %w", err)
	}
	after := w.meter()
	// Their records may come with the next reading.
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	r := burstResult{
		Seconds:         after.at.Sub(before.at).Seconds(),
		AgentCPUSeconds: after.cpu.since(before.cpu).Seconds(),
		QuietCPUSeconds: before.cpu.since(quiet.cpu).Seconds(),
		ExitRecords:     w.out.counts().exits - before.counts.exits,
	}
	var childrenCPU int64
	if _, err := fmt.Sscan(string(out), &r.Processes, &childrenCPU); err != nil {
		return fmt.Errorf("short processes: read the figures: %w", err)
	}
	r.CPUSecondsEach = time.Duration(childrenCPU).Seconds() / float64(r.Processes)
	b.result.Burst = &r
	return w.alive()
}
