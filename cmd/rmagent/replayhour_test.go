package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rmagent/internal/cgrouptest"
	"rmagent/internal/childtest"
)

// recordFor names the variable that says how long TestReplayDecidesAsLive records; make
// replay-hour sets it.
const recordFor = "REPLAY_TEST_RECORD"

// A policy under which an ordinary machine is always near some threshold.
const nervousPolicy = `
observation_period: 3s
target_utilization: 0.5
max_memory_usage_mb: 400
max_cpu_usage_percent: 15
max_network_usage_bytes_per_second: 1KiB
network_limit_bytes_per_second: 10KiB
max_cgroup_memory_usage_percent: 50
max_fd_usage_percent: 50
max_disk_usage_percent: 40
max_pids_usage_percent: 1
max_cpu_pressure_percent: 5
max_memory_pressure_percent: 1
max_io_pressure_percent: 1
thresholds:
  cpu: {info: 0.1, warning: 0.2, critical: 0.5, after: 2s, hysteresis: 0.02, hold: 2s}
  memory: {hysteresis: 0.01, info: 0.05, warning: 0.1, critical: 0.5, hold: 2s}
  fd: {hysteresis: 0.002, info: 0.01, warning: 0.3, critical: 0.9, hold: 2s}
  disk: {info: 0.1, warning: 0.5, critical: 0.85, hold: 2s}
  network: {info: 0.1, warning: 0.2, critical: 0.4, after: 1s, hold: 2s}
  pids: {hysteresis: 0.001, info: 0.01, warning: 0.02, critical: 0.5, hold: 2s}
  pressure: {hysteresis: 0.01, info: 0.02, warning: 0.1, critical: 0.5, hold: 2s}
tracked:
  - {label: hogs, name: "rmagent.test*", max_cpu_percent: 30, max_memory_mb: 40, max_fd: 100, prune: true, actions: [say-it]}
  - {label: all shells, name: "*sh", max_cpu_percent: 5, max_memory_mb: 4}
  - {label: jobs, job: "*", max_memory_mb: 20, max_cpu_percent: 20, prune: true}
priorities: ["name:rmagent.test=-5", "name:sh*=3"]
protected: ["name:sshd"]
actions:
  - {name: say-it, kind: log, on: [prune, state, limit, leak], recovery: true, min_interval: 0s, max_per_hour: 100000}
actions_dry_run: true
`

// Whatever the agent decides within a time under a load that comes and goes, replay
// decides again from its records, to the letter.
func TestReplayDecidesAsLive(t *testing.T) {
	limited := limitedMemory(t)
	span := 20 * time.Second
	if s := os.Getenv(recordFor); s != "" {
		var err error
		if span, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	a, out := startPolicy(t, nervousPolicy, withTmpfs)
	await(t, "the first reading", func() bool { return size(out) > 0 })
	full := fmt.Sprintf("hog disk /proc/%d/root%s/file", a.cmd.Process.Pid, shm)
	for end, round := time.Now().Add(span), 0; time.Now().Before(end); round++ {
		loadFor(t, round, limited, full, a.cmd.Dir)
	}
	a.stop()
	replayed(t, out)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v, %d bytes, %d decisions", span, len(b), len(decisions(t, b)))
}

// loadFor is a round of some seconds in which one thing is short, in every third one two
// are, and then none: which, and for how long, differs from round to round. In every
// fifth round there is a job beside. dir is the agent's.
func loadFor(t *testing.T, round int, limited *cgrouptest.Cgroup, full, dir string) {
	t.Helper()
	kinds := []string{"hog memory", full, "hog fds", "hog cpu"}
	chosen := kinds[round%4 : round%4+1]
	if round%3 == 0 {
		chosen = []string{kinds[round%4], kinds[(round+1)%4]}
	}
	var hogs []*childtest.Child
	if round%5 == 0 {
		h := jobOf(t, filepath.Join(dir, "rmagent.sock"), "hog memory")
		h.Say("")
		hogs = append(hogs, h)
	}
	for _, kind := range chosen {
		h := helper(t, kind)
		if kind == "hog memory" {
			limited.Add(h.Process.Pid)
		}
		h.Say("")
		hogs = append(hogs, h)
	}
	time.Sleep(time.Duration(500+round*337%2500) * time.Millisecond) // the load's own pace
	for _, h := range hogs {
		h.Say("")
	}
	time.Sleep(time.Duration(200+round*523%4000) * time.Millisecond)
	for _, h := range hogs {
		h.Kill()
	}
}
