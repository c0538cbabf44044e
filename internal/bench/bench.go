package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// bench is one run.
type bench struct {
	options
	peers  []peer
	result result
	start  time.Time
}

// jobRoundTime is about what it takes to run every command in every wrapper.
const jobRoundTime = 55 * time.Second

// startTime is about what it takes to start a watcher and what it watches, and to
// end both.
const startTime = time.Second

// run measures every suite that was asked for. A suite that fails is said in the
// result, and the others go on.
func run(ctx context.Context, o options) error {
	b := &bench{options: o, start: time.Now()}
	var err error
	if b.sockets, err = os.MkdirTemp("", "rmagent-bench-"); err != nil {
		return fmt.Errorf("make a directory for sockets: %w", err)
	}
	defer os.RemoveAll(b.sockets)
	if err := b.prepare(ctx); err != nil {
		return err
	}
	planned := b.planned()
	b.progress("this takes about %v", planned.Round(10*time.Second))
	ctx, cancel := context.WithTimeout(ctx, 3*planned+time.Minute)
	defer cancel()
	for _, s := range b.chosenSuites() {
		err := s.run(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", s.name, ctx.Err())
		}
		if err != nil {
			b.result.Failed = append(b.result.Failed, failedSuite{s.name, err.Error()})
		}
	}
	b.progress("done")
	if b.json {
		return json.NewEncoder(os.Stdout).Encode(b.result)
	}
	b.result.print(os.Stdout)
	return nil
}

var suiteNames = []string{"steady", "loops", "burst", "jobs", "http"}

// usualSuites are about what the agent costs; jobs is about exec, http about who asks.
var usualSuites = suiteNames[:3]

type suite struct {
	name    string
	run     func(context.Context) error
	planned time.Duration
}

func (b *bench) chosenSuites() []suite {
	perLoops := time.Duration(len(loops)) * b.loopTime
	all := []suite{
		{suiteNames[0], b.steady, b.plannedSteady()},
		{suiteNames[1], b.besideLoops, time.Duration(b.loopRounds)*(2*perLoops+startTime) + perLoops},
		{suiteNames[2], b.burst, 2*b.shortTime + 2*time.Second + startTime},
		{suiteNames[3], b.jobs, time.Duration(b.jobRounds) * jobRoundTime},
		{suiteNames[4], b.besideClients, b.plannedClients()},
	}
	var chosen []suite
	for _, s := range all {
		if slices.Contains(b.suites, s.name) {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

func (b *bench) plannedSteady() time.Duration {
	var each time.Duration
	for _, p := range b.peers {
		if p.missing == "" {
			each += startTime + settle + b.span
		}
	}
	return each * time.Duration(len(b.populations())*b.rounds)
}

func (b *bench) planned() time.Duration {
	var sum time.Duration
	for _, s := range b.chosenSuites() {
		sum += s.planned
	}
	return sum
}

// prepare builds what is run, and finds out where it runs.
func (b *bench) prepare(ctx context.Context) error {
	cache, err := filepath.Abs(b.cache)
	if err != nil {
		return fmt.Errorf("find the cache: %w", err)
	}
	b.cache = cache
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	if err := buildPrograms(ctx, cache); err != nil {
		return err
	}
	b.peers = choosePeers(ctx, b.options)
	b.result.Machine = b.machine(ctx)
	return nil
}

// buildPrograms compiles the C programs; those that are measured by how short
// they live are static.
func buildPrograms(ctx context.Context, cache string) error {
	for source, flags := range map[string][]string{
		"testdata/programs/idle.c":       nil,
		"internal/bench/programs/loop.c": nil,
		"internal/bench/programs/noop.c": {"-static"},
	} {
		name := filepath.Base(source)
		args := append([]string{"-O2", "-o", filepath.Join(cache, name[:len(name)-len(".c")]), source}, flags...)
		if out, err := exec.CommandContext(ctx, "cc", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("compile %s: %w: %s", source, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

func (b *bench) machine(ctx context.Context) machine {
	m := machine{
		CPUs: runtime.NumCPU(), Kernel: kernelRelease(), Rounds: b.rounds,
		WindowSeconds: b.span.Seconds(),
		Agent:         b.agentPeer().missing, MemoryCgroup: "v2", OtherAgents: pidsOf(agentName),
	}
	if m.Agent == "" {
		out, err := exec.CommandContext(ctx, b.agent, "version").Output()
		first, _, _ := bytes.Cut(out, []byte("\n"))
		if m.Agent = string(first); err != nil {
			m.Agent = b.agent + ", of unknown version"
		}
	}
	switch _, usage, err := memoryHierarchy(); {
	case err != nil:
		m.MemoryCgroup = err.Error()
	case usage == usageV1:
		m.MemoryCgroup = "v1"
	}
	return m
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// progress goes to stderr, so that stdout holds the result alone.
func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "[%4.0f s] %s\n", time.Since(b.start).Seconds(), fmt.Sprintf(format, args...))
}
