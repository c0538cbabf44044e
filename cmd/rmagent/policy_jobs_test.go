package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rmagent/internal/childtest"
	"rmagent/internal/cmdline"
	"rmagent/record"
)

const jobPolicy = `
interval: 200ms
check_interval: 200ms
observation_period: 1s
target_utilization: 0.8
max_memory_usage_mb: 0
max_cpu_usage_percent: 0
max_network_usage_bytes_per_second: 0
thresholds:
  memory: {info: 0.4, warning: 0.5, critical: 0.6, hold: 1s}
tracked:
  - {label: films, job: "rend*", max_memory_mb: 50, prune: true}
`

// A job that runs beside the agent is judged as a whole, by its own limit and by that of
// the configuration. Replayed, the same is decided.
func TestPolicyOfJobs(t *testing.T) {
	needTracing(t)
	a, out := startPolicy(t, jobPolicy)
	socket := filepath.Join(a.cmd.Dir, "rmagent.sock")
	await(t, "the agent's socket for jobs", func() bool { return exists(cmdline.JobsSocket(socket)) })
	hog := jobOf(t, socket, "hog memory")

	await(t, "a reading of the job", func() bool { return lines(out, `"kind":"job_reading"`) > 0 })
	r := only[*record.JobReading](whole(t, out))[0]
	if r.Category.Or("") != "render" || r.UID.Or(1) != 0 || r.Processes.Or(0) != 1 || len(r.Members) != 1 || r.FDOpen.Or(0) < 3 ||
		r.Job != fmt.Sprintf("pid:%d@%d", r.Members[0].PID, r.Members[0].StartTicks) ||
		!slices.Equal(r.Limits, []record.JobAllowance{{Resource: "memory", Limit: 100 << 20, Unit: "bytes"}}) {
		t.Fatalf("%+v", r)
	}
	target := func(s string) bool { return s == "job:"+r.Job }
	pid := r.Members[0].PID

	hog.Say("")
	await(t, "the state", func() bool { return stateOf(t, out, "memory", target) == record.StateCritical })
	await(t, "the prune decision", func() bool { return firstToGo(t, out, "memory", target, pid) })
	var limit *record.StateChange
	for _, c := range decided[*record.StateChange](t, out) {
		if target(c.Target) && strings.Contains(c.Message, "exceeded memory limit") {
			limit = c
		}
	}
	if want := "Job " + r.Job + " (render) exceeded memory limit: "; limit == nil || !strings.HasPrefix(limit.Message, want) || limit.Limit.Or(0) != 50<<20 {
		t.Errorf("%+v", limit)
	}
	hog.Say("")
	await(t, "the end of the state", func() bool { return stateOf(t, out, "memory", target) == record.StateNormal })
	await(t, "the end of the decision", func() bool {
		prunes := decided[*record.Prune](t, out)
		return reasonFor(prunes[len(prunes)-1], "memory", target) == nil
	})
	hog.Say("")
	if err := hog.Wait(); err != nil {
		t.Errorf("exec: %v", err)
	}
	a.stop()
	replayed(t, out)
}

// jobOf starts a helper as a job beside an agent.
func jobOf(t *testing.T, socket, does string) *childtest.Child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	job := childtest.Start(t, builtAgent(t, "exec", "--quiet", "--socket", socket, "--category", "render", "--limit", "memory: 100",
		"--", "/usr/bin/env", asHelper+"="+does, self))
	job.Hear("ready")
	return job
}

// whole decodes the whole lines of a file that is being written.
func whole(t *testing.T, out string) (all []record.Record) {
	t.Helper()
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		r, err := record.Decode([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}
