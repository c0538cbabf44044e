package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// A question is what clients of the agent's socket ask.
type question struct {
	path  string
	every time.Duration // of each client; 0: as soon as it has its answer
	goal  time.Duration // of the 99th percentile; 0: none
}

// clients are how many ask at once, beside how many processes.
const (
	clients        = 200
	clientsBeside  = 5000
	leastAsked     = 20 * time.Second
	warmTime       = 5 * time.Second // in which answers don't count: an agent runs for long
	answerDeadline = 30 * time.Second
)

// questions are asked one after the other. The agent has something new to say once a
// second, so who asks once a second knows all. Clients that don't wait at all measure
// how much it can answer, and no more: then each waits for the 199 others.
var questions = []question{
	{path: "/resources/all", every: time.Second, goal: time.Millisecond},
	{path: "/resources/all", every: 100 * time.Millisecond},
	{path: "/resources/all"},
	{path: "/v1/processes", every: 5 * time.Second, goal: 30 * time.Millisecond},
	{path: "/v1/processes", every: time.Second},
	{path: "/v1/processes"},
	{path: "/v1/processes?sort=rss_bytes&limit=20", every: time.Second},
}

// clientRow is what became of one question.
type clientRow struct {
	Path            string    `json:"path"`
	EverySeconds    float64   `json:"every_seconds"` // of each client; 0: at once
	Answers         int       `json:"answers"`
	PerSecond       float64   `json:"answers_per_second"`
	Bytes           int64     `json:"bytes"` // of one answer, on average
	P50             float64   `json:"p50_seconds"`
	P99             float64   `json:"p99_seconds"` // median of the rounds
	Rounds          []float64 `json:"p99_rounds_seconds"`
	Goal            float64   `json:"goal_seconds,omitempty"`
	CPUPerAnswer    float64   `json:"agent_cpu_seconds_per_answer"` // without its own readings
	AgentWaitRatio  float64   `json:"agent_wait_ratio"`             // of the time, for a CPU: what others on the machine cost
	ReadingsASecond float64   `json:"readings_per_second"`          // of the agent meanwhile
}

func (b *bench) plannedClients() time.Duration {
	return time.Duration(len(questions)*b.rounds)*(max(b.span, leastAsked)+warmTime+time.Second) + 10*time.Second
}

// besideClients runs the agent beside many processes, and asks.
func (b *bench) besideClients(ctx context.Context) error {
	watched, err := startPopulation(ctx, population{n: clientsBeside}, b.cache)
	if err != nil {
		return err
	}
	defer watched.stop()
	w, err := startWatcher(ctx, b.agentPeer(), watched.pids)
	if err != nil {
		return err
	}
	defer w.stop()
	rows := make([]*clientRow, len(questions))
	for i, q := range questions {
		rows[i] = &clientRow{Path: q.path, EverySeconds: q.every.Seconds(), Goal: q.goal.Seconds()}
	}
	quiet, err := b.quietCost(ctx, w)
	if err != nil {
		return err
	}
	for round := range b.rounds {
		for i, q := range questions {
			b.progress("round %d of %d: %s", round+1, b.rounds, q)
			if err := b.askAll(ctx, w, q, rows[i], quiet); err != nil {
				return err
			}
		}
	}
	b.result.Clients = rows
	return nil
}

func (q question) String() string {
	if q.every == 0 {
		return fmt.Sprintf("%d clients ask for %s without a pause", clients, q.path)
	}
	return fmt.Sprintf("%d clients ask for %s, each every %v", clients, q.path, q.every)
}

// quietCost is the agent's CPU time a second while nobody asks.
func (b *bench) quietCost(ctx context.Context, w *watcher) (float64, error) {
	if err := pause(ctx, settle); err != nil {
		return 0, err
	}
	before := readCPU(descendants(w.cmd.Process.Pid))
	if err := pause(ctx, 3*time.Second); err != nil {
		return 0, err
	}
	return readCPU(descendants(w.cmd.Process.Pid)).since(before).Seconds() / 3, nil
}

// askAll has all clients ask for one window, and adds a round to the row.
func (b *bench) askAll(ctx context.Context, w *watcher, q question, row *clientRow, quiet float64) error {
	pid := w.cmd.Process.Pid
	counts := time.Now().Add(warmTime)
	ctx, cancel := context.WithDeadline(ctx, counts.Add(max(b.span, leastAsked)))
	defer cancel()
	var wait sync.WaitGroup
	all := make([]clientConn, clients)
	errs := make([]error, clients)
	for i := range all {
		phase := time.Duration(rand.New(rand.NewPCG(uint64(i), 7)).Float64() * float64(q.every))
		all[i].counts = counts
		wait.Go(func() { errs[i] = all[i].ask(ctx, b.agentSocket(), q, phase) })
	}
	if err := pause(ctx, time.Until(counts)); err != nil {
		return err
	}
	cpu, waited, counted, begin := readCPU(descendants(pid)), waitedForCPU(pid), w.out.counts(), time.Now()
	wait.Wait()
	seconds := time.Since(begin).Seconds()
	var took []time.Duration
	var bytes int64
	for i := range all {
		if errs[i] != nil {
			return fmt.Errorf("%s: %w", q, errs[i])
		}
		took = append(took, all[i].took...)
		bytes += all[i].bytes
	}
	if len(took) == 0 {
		return fmt.Errorf("%s: no answer", q)
	}
	slices.Sort(took)
	n := float64(len(took))
	used := readCPU(descendants(pid)).since(cpu).Seconds() - quiet*seconds
	row.Answers, row.PerSecond, row.Bytes = len(took), n/seconds, bytes/int64(len(took))
	row.P50 = took[len(took)/2].Seconds()
	row.Rounds = append(row.Rounds, took[min(len(took)*99/100, len(took)-1)].Seconds())
	row.P99 = median(row.Rounds)
	row.CPUPerAnswer = max(used, 0) / n
	row.AgentWaitRatio = (waitedForCPU(pid) - waited).Seconds() / seconds
	row.ReadingsASecond = float64(w.out.counts().readings-counted.readings) / seconds
	return nil
}

// clientConn is one client's connection. It is not net/http's client, which would cost
// more than what is measured.
type clientConn struct {
	net.Conn
	in     *bufio.Reader
	buf    []byte
	counts time.Time       // from when on
	took   []time.Duration // by each answer
	bytes  int64

	busyUntil time.Time // with the answer before
}

// ask connects and asks until ctx ends, at the times that phase and the pace give. What is
// late because the answer before was late counts from when it was due: a slow server gets
// no fewer questions for it.
func (c *clientConn) ask(ctx context.Context, socket string, q question, phase time.Duration) (err error) {
	request := []byte("GET " + q.path + " HTTP/1.1\r\nHost: rmagent\r\n\r\n")
	due := time.Now().Add(phase)
	if pause(ctx, phase) != nil {
		return nil
	}
	if c.Conn, err = net.Dial("unix", socket); err != nil {
		return err
	}
	defer c.Close()
	c.in, c.buf = bufio.NewReaderSize(c.Conn, 16<<10), make([]byte, 256<<10)
	for {
		begin := time.Now()
		if q.every > 0 && c.busyUntil.After(due) {
			begin = due
		}
		n, err := c.once(request)
		if err != nil {
			return err
		}
		c.busyUntil = time.Now()
		if begin.After(c.counts) {
			c.took = append(c.took, c.busyUntil.Sub(begin))
			c.bytes += n
		}
		due = due.Add(q.every)
		if pause(ctx, time.Until(due)) != nil {
			return nil
		}
	}
}

// once asks and takes the answer.
func (c *clientConn) once(request []byte) (bytes int64, err error) {
	if err := c.SetDeadline(time.Now().Add(answerDeadline)); err != nil {
		return 0, err
	}
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %s", resp.Status)
	}
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, c.buf) // its own buffer: io.Discard's is small
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
