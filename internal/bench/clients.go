package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A question is what clients of the agent's socket ask.
type question struct {
	path  string
	every time.Duration // of each client; 0: as soon as it has its answer
	goal  time.Duration // of the 99th percentile; 0: none
}

// clients are how many ask at once.
const (
	clients        = 200
	leastAsked     = 20 * time.Second
	warmTime       = 3 * time.Second // in which answers don't count: an agent runs for long
	answerDeadline = 30 * time.Second
)

// goals are asked for beside any number of processes.
var goals = []question{
	{path: "/resources/all", every: time.Second, goal: time.Millisecond},
	{path: "/v1/processes", every: 5 * time.Second, goal: 30 * time.Millisecond},
}

// questions are asked beside the largest number of processes, one after the other. The
// agent has something new to say once a second, so who asks once a second knows all.
// Clients that don't wait at all measure how much it can answer, and no more: then each
// waits for the 199 others.
var questions = append(slices.Clone(goals), []question{
	{path: "/resources/all", every: 100 * time.Millisecond},
	{path: "/resources/all"},
	{path: "/v1/processes", every: time.Second},
	{path: "/v1/processes"},
	{path: "/v1/processes?sort=rss_bytes&limit=20", every: time.Second},
}...)

// clientRow is what became of one question.
type clientRow struct {
	Processes       int     `json:"processes"`
	Path            string  `json:"path"`
	EverySeconds    float64 `json:"every_seconds"` // of each client; 0: at once
	Answers         int     `json:"answers"`
	PerSecond       float64 `json:"answers_per_second"`
	Bytes           int64   `json:"bytes"` // of one answer, on average
	Agent           waits   `json:"agent"`
	Goal            float64 `json:"goal_seconds,omitempty"`
	CPUPerAnswer    float64 `json:"agent_cpu_seconds_per_answer"` // without its own readings
	AgentWaitRatio  float64 `json:"agent_wait_ratio"`             // of the time, for a CPU: what others on the machine cost
	ReadingsASecond float64 `json:"readings_per_second"`          // of the agent meanwhile

	// The same clients, and answers as long, of a server that does nothing else: while the
	// agent reads and nobody asks it, and while it is stopped. Nil where there is no goal.
	Beside *waits `json:"floor_beside,omitempty"`
	Alone  *waits `json:"floor_alone,omitempty"`
}

// waits are how long clients waited, in seconds.
type waits struct {
	P50  float64   `json:"p50_seconds"` // median of the rounds
	P99  float64   `json:"p99_seconds"`
	P50s []float64 `json:"p50_rounds_seconds"`
	P99s []float64 `json:"p99_rounds_seconds"`
}

func (w *waits) add(took []time.Duration) {
	slices.Sort(took)
	at := func(percent int) float64 { return took[min(len(took)*percent/100, len(took)-1)].Seconds() }
	w.P50s, w.P99s = append(w.P50s, at(50)), append(w.P99s, at(99))
	w.P50, w.P99 = median(w.P50s), median(w.P99s)
}

// overFloor is the 99th percentile as a multiple of the plain server's beside the agent,
// by rounds, which are in turns.
func (r *clientRow) overFloor() float64 {
	var ratios []float64
	for i, p99 := range r.Agent.P99s {
		ratios = append(ratios, p99/r.Beside.P99s[i])
	}
	return median(ratios)
}

func (b *bench) questionsBeside(n int) []question {
	if n == slices.Max(b.idle) {
		return questions
	}
	return goals
}

func (b *bench) plannedClients() (sum time.Duration) {
	for _, n := range b.idle {
		for _, q := range b.questionsBeside(n) {
			windows := 1
			if q.goal > 0 {
				windows = 3
			}
			sum += time.Duration(b.rounds*windows) * (max(b.span, leastAsked) + warmTime)
		}
		sum += 10 * time.Second
	}
	return sum
}

// besideClients runs the agent beside so many processes, and asks.
func (b *bench) besideClients(ctx context.Context) error {
	for _, n := range b.idle {
		if err := b.askBeside(ctx, n); err != nil {
			return fmt.Errorf("beside %d processes: %w", n, err)
		}
	}
	return nil
}

func (b *bench) askBeside(ctx context.Context, n int) error {
	watched, err := startPopulation(ctx, population{n: n}, b.cache)
	if err != nil {
		return err
	}
	defer watched.stop()
	agent, err := startWatcher(ctx, b.agentPeer(), watched.pids)
	if err != nil {
		return err
	}
	defer agent.stop()
	floor, err := startWatcher(ctx, b.floorPeer(), nil)
	if err != nil {
		return err
	}
	defer floor.stop()
	a := &asking{bench: b, agent: agent}
	if a.quiet, err = quietCost(ctx, agent); err != nil {
		return err
	}
	var rows []*clientRow
	for _, q := range b.questionsBeside(n) {
		rows = append(rows, &clientRow{Processes: n, Path: q.path, EverySeconds: q.every.Seconds(), Goal: q.goal.Seconds()})
	}
	for round := range b.rounds {
		for i, q := range b.questionsBeside(n) {
			b.progress("round %d of %d beside %d processes: %s", round+1, b.rounds, n, q)
			if err := a.turn(ctx, q, rows[i]); err != nil {
				return err
			}
		}
	}
	b.result.Clients = append(b.result.Clients, rows...)
	return nil
}

// floorPeer is the plain server.
func (b *bench) floorPeer() peer {
	return found(peer{name: "a plain server", argv: []string{filepath.Join(filepath.Dir(b.agent), "bench-serve"), b.floorSocket()}, mark: "ready"})
}

func (b *bench) floorSocket() string { return filepath.Join(b.sockets, "floor.sock") }

func (q question) String() string {
	if q.every == 0 {
		return fmt.Sprintf("%d clients ask for %s without a pause", clients, q.path)
	}
	return fmt.Sprintf("%d clients ask for %s, each every %v", clients, q.path, q.every)
}

// quietCost is the agent's CPU time a second while nobody asks.
func quietCost(ctx context.Context, w *watcher) (float64, error) {
	if err := pause(ctx, settle); err != nil {
		return 0, err
	}
	before := readCPU(descendants(w.cmd.Process.Pid))
	if err := pause(ctx, 3*time.Second); err != nil {
		return 0, err
	}
	return readCPU(descendants(w.cmd.Process.Pid)).since(before).Seconds() / 3, nil
}

// asking is an agent that is asked, in turns with the plain server.
type asking struct {
	*bench
	agent *watcher
	quiet float64 // what the agent's own readings cost, in CPU seconds a second
}

// turn is one window of each.
func (a *asking) turn(ctx context.Context, q question, row *clientRow) error {
	if err := a.askAgent(ctx, q, row); err != nil || q.goal == 0 {
		return err
	}
	if row.Beside == nil {
		row.Beside, row.Alone = &waits{}, &waits{}
	}
	floor := q
	floor.path = fmt.Sprintf("/?bytes=%d", row.Bytes)
	if err := a.askFloor(ctx, floor, row.Beside); err != nil {
		return err
	}
	pid := a.agent.cmd.Process.Pid
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return fmt.Errorf("stop the agent for a while: %w", err)
	}
	err := a.askFloor(ctx, floor, row.Alone)
	return errors.Join(err, unix.Kill(pid, unix.SIGCONT))
}

func (a *asking) askFloor(ctx context.Context, q question, w *waits) error {
	all, err := a.ask(ctx, a.floorSocket(), q, func() {})
	if err == nil {
		w.add(all.took)
	}
	return err
}

func (a *asking) askAgent(ctx context.Context, q question, row *clientRow) error {
	pid := a.agent.cmd.Process.Pid
	var cpu cpuReading
	var waited time.Duration
	var counted counts
	all, err := a.ask(ctx, a.agentSocket(), q, func() {
		cpu, waited, counted = readCPU(descendants(pid)), waitedForCPU(pid), a.agent.out.counts()
	})
	if err != nil {
		return err
	}
	n := float64(len(all.took))
	used := readCPU(descendants(pid)).since(cpu).Seconds() - a.quiet*all.seconds
	row.Answers, row.PerSecond, row.Bytes = len(all.took), n/all.seconds, all.bytes/int64(len(all.took))
	row.Agent.add(all.took)
	row.CPUPerAnswer = max(used, 0) / n
	row.AgentWaitRatio = (waitedForCPU(pid) - waited).Seconds() / all.seconds
	row.ReadingsASecond = float64(a.agent.out.counts().readings-counted.readings) / all.seconds
	return nil
}

// answers are those of one window, by all clients.
type answers struct {
	took    []time.Duration
	bytes   int64
	seconds float64
}

// ask has all clients ask for one window. It calls begin when answers begin to count.
func (b *bench) ask(ctx context.Context, socket string, q question, begin func()) (a answers, err error) {
	counts := time.Now().Add(warmTime)
	ctx, cancel := context.WithDeadline(ctx, counts.Add(max(b.span, leastAsked)))
	defer cancel()
	var wait sync.WaitGroup
	all := make([]clientConn, clients)
	errs := make([]error, clients)
	for i := range all {
		phase := time.Duration(rand.New(rand.NewPCG(uint64(i), 7)).Float64() * float64(q.every))
		all[i].counts = counts
		wait.Go(func() { errs[i] = all[i].ask(ctx, socket, q, phase) })
	}
	if err := pause(ctx, time.Until(counts)); err != nil {
		return a, err
	}
	begin()
	began := time.Now()
	wait.Wait()
	a.seconds = time.Since(began).Seconds()
	for i := range all {
		if errs[i] != nil {
			return a, fmt.Errorf("%s: %w", q, errs[i])
		}
		a.took = append(a.took, all[i].took...)
		a.bytes += all[i].bytes
	}
	if len(a.took) == 0 {
		return a, fmt.Errorf("%s: no answer", q)
	}
	return a, nil
}

// waitedForCPU is how long a process's threads were ready to run and had no CPU (the
// second field of schedstat, Documentation/scheduler/sched-stats.rst).
func waitedForCPU(pid int) (sum time.Duration) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, name := range files {
		b, _ := os.ReadFile(name)
		if fields := bytes.Fields(b); len(fields) > 1 {
			n, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			sum += time.Duration(n)
		}
	}
	return sum
}
