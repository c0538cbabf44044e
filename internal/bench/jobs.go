package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A wrapper runs a command and measures it. The first of wrappers runs it bare.
type wrapper struct {
	name    string
	argv    []string // before the command
	missing string   // why it can't run here
}

// wrappers are who is compared, each with what it writes thrown away. Those of rmagent
// come last, and those that need an agent at the very end.
func (b *bench) wrappers() []wrapper {
	beside := func(name string) string { return filepath.Join(filepath.Dir(b.agent), name) }
	alone, agent := []string{"-q", "--local", "--"}, []string{"-q", "--socket", b.agentSocket(), "--"}
	all := []wrapper{
		{name: "bare"},
		{name: "GNU time", argv: []string{"/usr/bin/time", "-o", "/dev/null"}},
		{name: "a Go program that runs it", argv: []string{beside("bench-run")}},
		{name: "resource_monitor", argv: []string{"resource_monitor", "-O", filepath.Join(b.cache, "job"), "--"}},
		{name: "rmagent exec alone", argv: append([]string{b.agent, "exec"}, alone...)},
		{name: "rmagent-exec alone", argv: append([]string{beside("rmagent-exec")}, alone...)},
		{name: "rmagent exec beside an agent", argv: append([]string{b.agent, "exec"}, agent...)},
		{name: "rmagent-exec beside an agent", argv: append([]string{beside("rmagent-exec")}, agent...)},
	}
	for i := range all[1:] {
		w := &all[i+1]
		path, err := exec.LookPath(w.argv[0])
		if err != nil {
			w.missing = err.Error()
			continue
		}
		if w.argv[0], err = filepath.Abs(path); err != nil {
			w.missing = err.Error()
		}
	}
	return all
}

// A jobTask is what wrappers run.
type jobTask struct {
	name string
	argv []string
	goal float64 // highest ratio of rmagent's runs to bare ones; 0: none
	// inner: the command prints what it took itself, without the wrapper's own start and
	// end.
	inner bool
}

func (b *bench) jobTasks() []jobTask {
	loop := filepath.Join(b.cache, "loop")
	return []jobTask{
		{name: "/bin/true", argv: []string{"/bin/true"}},
		{name: "500 times fork, exec, wait", argv: []string{loop, "runs", "500", "/bin/true"}, goal: 1.03, inner: true},
		{name: "1,000,000 times open, close", argv: []string{loop, "opens", "1000000"}, goal: 1.03, inner: true},
	}
}

// jobCost is one run of a command in a wrapper: all of it, or what the command itself
// took.
type jobCost struct {
	WallSeconds float64 `json:"wall_seconds"`
	CPUSeconds  float64 `json:"cpu_seconds"` // with children; not the agent's
}

// jobRow is one command in one wrapper.
type jobRow struct {
	Task      string    `json:"task"`
	Wrapper   string    `json:"wrapper"`
	Missing   string    `json:"missing,omitempty"`
	Runs      []jobCost `json:"runs"`
	WallRatio float64   `json:"wall_ratio"` // to the bare run of the same round: median
	CPURatio  float64   `json:"cpu_ratio"`
	Goal      float64   `json:"goal,omitempty"`
}

// jobs runs every command in every wrapper, in turns.
func (b *bench) jobs(ctx context.Context) error {
	wrappers := b.wrappers()
	agent, err := startWatcher(ctx, b.agentPeer(), nil)
	if err != nil {
		for i := len(wrappers) - 2; i < len(wrappers); i++ {
			wrappers[i].missing = err.Error()
		}
	} else {
		defer agent.stop()
	}
	for _, task := range b.jobTasks() {
		b.progress("jobs: %s", task.name)
		rows := make([]*jobRow, len(wrappers))
		for i, w := range wrappers {
			rows[i] = &jobRow{Task: task.name, Wrapper: w.name, Missing: w.missing}
			if i >= len(wrappers)-4 {
				rows[i].Goal = task.goal
			}
		}
		for range b.jobRounds {
			for i, w := range wrappers {
				if w.missing != "" {
					continue
				}
				cost, err := b.runJob(ctx, w, task)
				if err != nil {
					return fmt.Errorf("%s in %s: %w", task.name, w.name, err)
				}
				rows[i].Runs = append(rows[i].Runs, cost)
			}
		}
		for _, row := range rows {
			row.compare(rows[0])
		}
		b.result.Jobs = append(b.result.Jobs, rows...)
	}
	return nil
}

func (b *bench) runJob(ctx context.Context, w wrapper, t jobTask) (c jobCost, err error) {
	argv := append(append([]string{}, w.argv...), t.argv...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = b.cache
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	cmd.Stderr = os.Stderr
	begin := time.Now()
	out, err := cmd.Output()
	c.WallSeconds = time.Since(begin).Seconds()
	if err != nil {
		return c, err
	}
	c.CPUSeconds = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	if !t.inner {
		return c, nil
	}
	var cpu, wall int64
	if _, err := fmt.Sscan(string(out), &cpu, &wall); err != nil {
		return c, fmt.Errorf("read its figures: %w", err)
	}
	return jobCost{CPUSeconds: time.Duration(cpu).Seconds(), WallSeconds: time.Duration(wall).Seconds()}, nil
}

func (r *jobRow) compare(bare *jobRow) {
	var wall, cpu []float64
	for i, run := range r.Runs {
		wall = append(wall, run.WallSeconds/bare.Runs[i].WallSeconds)
		cpu = append(cpu, run.CPUSeconds/bare.Runs[i].CPUSeconds)
	}
	r.WallRatio, r.CPURatio = median(wall), median(cpu)
}

// median and least are of the wall time, in milliseconds.
func (r *jobRow) median() float64 {
	return median(r.milliseconds())
}

func (r *jobRow) least() float64 { return least(r.milliseconds()) }

// leastCPU is the least CPU time, in milliseconds.
func (r *jobRow) leastCPU() float64 {
	var all []float64
	for _, run := range r.Runs {
		all = append(all, run.CPUSeconds*1000)
	}
	return least(all)
}

func (r *jobRow) milliseconds() []float64 {
	var all []float64
	for _, run := range r.Runs {
		all = append(all, run.WallSeconds*1000)
	}
	return all
}

func least(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	return slices.Min(all)
}

func (r *jobRow) verdict() string {
	if r.Goal == 0 {
		return ""
	}
	return "at most " + strconv.FormatFloat(r.Goal, 'f', 2, 64) + ": " + verdict(r.WallRatio <= r.Goal)
}
