package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/cmdline"
	"rmagent/internal/execcmd"
	"rmagent/internal/gpu"
	"rmagent/internal/gpu/gputest"
	"rmagent/record"
)

// twoCards is a machine on which a process uses two of eight cards, and another process,
// which is no job's, two more.
func twoCards(pid int, mebibytes uint64) string {
	script := "driver 550.54\n"
	for i := range 8 {
		script += gputest.Card(i, 3, 20<<30)
		switch i {
		case 2, 5:
			script += fmt.Sprintf("process compute %d %d 60\n", pid, mebibytes<<20)
		case 5 + 1, 7:
			script += fmt.Sprintf("process compute %d %d 60\n", os.Getpid(), uint64(9<<30))
		}
	}
	return script
}

// gpuJob is a job on a machine with cards: it has written its PID, and waits for its end.
type gpuJob struct {
	*started
	pid          int
	out, summary string
	end          *os.File
}

func startGPUJob(t *testing.T, m *gputest.Machine, flags ...string) *gpuJob {
	t.Helper()
	dir := t.TempDir()
	pid, fifo := filepath.Join(dir, "pid"), filepath.Join(dir, "end")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	end, err := os.OpenFile(fifo, os.O_RDWR, 0) // so that nobody's open waits
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end.Close() })
	j := &gpuJob{out: filepath.Join(dir, "job.jsonl"), summary: filepath.Join(dir, "job.summary"), end: end}
	args := append([]string{"exec", "--jsonl", j.out, "-O", filepath.Join(dir, "job"), "--update-summary", "--interval", "100ms"}, flags...)
	cmd := agentCommand(t, append(args, "--", "/bin/sh", "-c", `echo $$ > "$0.new"; mv "$0.new" "$0"; read line < "$1"`, pid, fifo)...)
	withGPUs(t, cmd, m)
	j.started = start(t, cmd)
	await(t, "the job's PID", func() bool {
		b, err := os.ReadFile(pid)
		if err != nil {
			return false
		}
		j.pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	return j
}

// used awaits that so many cards are in the summary.
func (j *gpuJob) used(t *testing.T, cards float64) {
	t.Helper()
	await(t, fmt.Sprintf("%v cards in the summary", cards), func() bool {
		b, err := os.ReadFile(j.summary)
		if err != nil {
			return false
		}
		var s struct{ GPUs []any }
		return json.Unmarshal(b, &s) == nil && len(s.GPUs) > 0 && s.GPUs[0] == cards
	})
}

// finish ends the job, and returns what is recorded of it.
func (j *gpuJob) finish(t *testing.T) *record.Job {
	t.Helper()
	if _, err := j.end.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	j.wait()
	jobs := only[*record.Job](records(t, j.out))
	if len(jobs) != 1 {
		t.Fatalf("%d records of jobs; it said:\n%s", len(jobs), j.stderr.String())
	}
	return jobs[0]
}

// What the processes of a job have of the cards is its own: two of eight, and the memory
// on both, whoever reads the cards.
func TestGPUsOfJobs(t *testing.T) {
	for name, flags := range map[string][]string{
		"alone": {"--local"}, "alone, by /proc": {"--local", "--source", "procfs"}, "beside an agent": nil,
	} {
		t.Run(name, func(t *testing.T) {
			m := gputest.New(t, gputest.Eight(0))
			beside := flags == nil
			if beside {
				agent := agentCommand(t, "run", "--log-format", "json", "--interval", "200ms")
				withGPUs(t, agent, m)
				socket := filepath.Join(agent.Dir, "rmagent.sock")
				start(t, agent)
				await(t, "the agent's socket for jobs", func() bool { return exists(cmdline.JobsSocket(socket)) })
				flags = []string{"--socket", socket, "-L", "gpu_memory: 8192"}
			}
			j := startGPUJob(t, m, flags...)
			m.Play(t, twoCards(j.pid, 3<<10))
			j.used(t, 2)
			if beside {
				awaitRunning(t, flags[1], j.pid)
			}
			readers := 0
			for _, pid := range children(j.cmd.Process.Pid) {
				if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(comm) == gpu.HelperName+"\n" {
					readers++
				}
			}
			if want := map[bool]int{false: 1}[beside]; readers != want {
				t.Errorf("it has %d children that read cards, want %d", readers, want)
			}
			r := j.finish(t)
			if n := r.TotalProcesses.Or(0); n < 1 || n > 2 { // /proc may not have seen mv
				t.Errorf("%d processes, want the shell and its mv", n)
			}
			if r.GPUs.Or(99) != 2 || r.GPUMemoryBytes.Or(0) != 6<<30 {
				t.Errorf("gpus %v, memory %v, want 2 and 6 GiB; it said:\n%s", r.GPUs, r.GPUMemoryBytes, j.stderr.String())
			}
		})
	}
}

// awaitRunning wants the agent to tell of a job that uses two cards, and of its limits.
func awaitRunning(t *testing.T, socket string, pid int) {
	t.Helper()
	client := &http.Client{Transport: dialUnix(socket)}
	defer client.CloseIdleConnections()
	await(t, "the agent to tell of the job", func() bool {
		var answer struct{ Jobs []record.RunningJob }
		getJSON(t, client, "http://rmagent/v1/jobs", &answer)
		if len(answer.Jobs) != 1 || answer.Jobs[0].GPUs.Or(0) != 2 {
			return false
		}
		r := &answer.Jobs[0]
		if int(r.PID.Or(0)) != pid || !strings.HasPrefix(r.Command.Or(""), "/bin/sh -c") || r.GPUMemoryBytes.Or(0) != 6<<30 ||
			len(r.Limits) != 1 || r.Limits[0].Resource != "gpu_memory" || r.Limits[0].Ratio.Or(0) != 0.75 {
			t.Errorf("%+v", r)
		}
		return true
	})
}

// Where a card can't be read, what a job has of the cards is unknown, and a limit of it
// that nobody watched is told.
func TestGPULimitIsNotWatched(t *testing.T) {
	m := gputest.New(t, gputest.Eight(0)+"fail nvmlDeviceGetComputeRunningProcesses_v3 999 3\n")
	j := startGPUJob(t, m, "--local", "-L", "gpu_memory: 100")
	r := j.finish(t)
	if r.GPUs.Known() || r.GPUMemoryBytes.Known() {
		t.Errorf("gpus %v, memory %v, want them unknown", r.GPUs, r.GPUMemoryBytes)
	}
	if said := j.stderr.String(); strings.Count(said, "rmagent: the limit of gpu_memory is not watched: ") != 1 {
		t.Errorf("it said:\n%s", said)
	}
}

// A limit of what is known not to be read is told once, before the job starts, unless
// it is to be quiet.
func TestGPULimitIsToldBeforeTheStart(t *testing.T) {
	m := gputest.New(t, gputest.Eight(0))
	const line = "rmagent: the limit of gpus is not watched: gpu: off\n"
	for _, c := range []struct {
		flags []string
		want  string
	}{{nil, line + "started\n"}, {[]string{"--quiet"}, "started\n"}} {
		cmd := agentCommand(t, append(append([]string{"exec", "--local", "--gpu", "off", "-L", "gpus: 1"}, c.flags...), "--", "/bin/sh", "-c", "echo started >&2")...)
		withGPUs(t, cmd, m)
		r := runToEnd(t, cmd)
		if r.status != 0 || !strings.HasPrefix(r.stderr, c.want) || strings.Count(r.stderr, "is not watched: ") != strings.Count(c.want, "is not watched: ") {
			t.Errorf("%v: status %d, it said:\n%s", c.flags, r.status, r.stderr)
		}
	}
}

// A job that takes more memory of the cards than it may is ended.
func TestGPUMemoryLimit(t *testing.T) {
	m := gputest.New(t, gputest.Eight(0))
	j := startGPUJob(t, m, "--local", "-L", "gpu_memory: 5000")
	m.Play(t, twoCards(j.pid, 2<<10))
	j.used(t, 2)
	m.Play(t, twoCards(j.pid, 3<<10))
	if status := j.wait(); status != execcmd.ExitLimit {
		t.Errorf("exit status %d; it said:\n%s", status, j.stderr.String())
	}
	limits := only[*record.Limit](records(t, j.out))
	if len(limits) != 1 || limits[0].Resource != "gpu_memory" {
		t.Errorf("limits %+v", limits)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
