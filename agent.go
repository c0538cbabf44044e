package rmagent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/agent"
	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/internal/history"
	"rmagent/internal/hostfs"
	"rmagent/internal/loader"
	"rmagent/internal/stack/worker"
	"rmagent/record"
)

// ErrUnsupported is what this kernel or these privileges don't allow: the source ebpf
// was asked for and can't be had. The text says what is missing.
var ErrUnsupported = loader.ErrUnsupported

// ErrClosed is an agent that was closed.
var ErrClosed = errors.New("the agent is closed")

// Options say how an agent works. The zero value is useful: it reads by eBPF where that
// loads and else /proc, once a second, and writes nothing.
type Options struct {
	// ConfigFile is a file as `rmagent run --config` takes one; empty: none. The agent
	// reads it again when it changes, as the command does.
	ConfigFile string
	// Settings are by the keys of that file, over it: "interval": "500ms",
	// "thresholds.fd.warning": "0.75". Unless it is set, processes is none: subscribers
	// get no record of each process at each reading.
	Settings map[string]string
	// Command is the path of the rmagent command, of this version. With it the agent
	// traces who opens the descriptors of a process that leaks, as the command does, and
	// has the call stacks named by that command, in a child without privileges: bytes of
	// other processes are not taken apart in this one. Empty: nothing is traced, and leak
	// records tell who grows, and of what, but not from where.
	Command string
	// Log is where the agent logs; nil: nowhere.
	Log *zap.Logger
}

// Agent reads this machine, judges it by the configuration, and tells whoever has
// subscribed. Its methods may be called by many goroutines.
type Agent struct {
	log         *zap.Logger
	inner       *agent.Agent
	views       *engine.Views
	subscribers *agent.Subscribers
	stacks      *worker.Client // nil: nothing is traced
	prune       pruneKeeper
	history     *history.Store

	ended chan struct{} // closed when Run has returned, or Close was called before it

	mu      sync.Mutex
	running bool // or has run
	cancel  context.CancelFunc
	closed  bool
}

// Open opens what an agent reads. It takes a moment with eBPF, whose programs the
// kernel checks. The error is a list of all mistakes where the configuration is wrong,
// and wraps [ErrUnsupported] where the source ebpf was asked for and can't be had.
func Open(ctx context.Context, o Options) (*Agent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	log := o.Log
	if log == nil {
		log = zap.NewNop()
	}
	settings := map[string]string{"processes": "none"}
	maps.Copy(settings, o.Settings)
	sources := config.Sources{Path: o.ConfigFile, Settings: settings, Alone: true}
	l, err := config.Read(sources)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	command := ""
	if o.Command != "" {
		if command, err = exec.LookPath(o.Command); err != nil {
			return nil, fmt.Errorf("find the rmagent command: %w", err)
		}
	}
	a := &Agent{
		log: log, views: engine.NewViews(), subscribers: agent.NewSubscribers(log), history: history.New(history.Options{}),
		ended: make(chan struct{}),
	}
	if command != "" {
		a.stacks = worker.New(command, worker.Command)
	}
	a.inner, err = agent.Open(agent.Options{
		Config: l, Sources: sources, Version: "library", Log: log, Stdout: os.Stdout,
		Observers: []agent.Observer{&a.prune, a.history, a.subscribers}, Processes: true, Views: a.views, Stacks: a.stacks,
	})
	if err != nil {
		a.closeStacks()
		return nil, fmt.Errorf("open the agent: %w", err)
	}
	return a, nil
}

// Run reads and tells until ctx ends or Close, which is no error. It can be called
// once.
func (a *Agent) Run(ctx context.Context) error {
	ctx, done, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	return a.inner.Run(ctx)
}

func (a *Agent) begin(ctx context.Context) (context.Context, func(), error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, nil, ErrClosed
	}
	if a.running {
		return nil, nil, errors.New("the agent runs already, or has run")
	}
	a.running = true
	ctx, a.cancel = context.WithCancel(ctx)
	return ctx, func() { a.cancel(); close(a.ended) }, nil
}

// Close ends Run, waits for it, and closes everything. Subscribers that are being
// called are waited for, half a second at most; one that hangs is left behind.
func (a *Agent) Close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil
	}
	a.closed = true
	if a.running {
		a.cancel()
	} else {
		close(a.ended)
	}
	a.mu.Unlock()
	<-a.ended
	err := closeWithin(time.Second, a.inner.Close)
	a.closeStacks()
	if hangs := closeWithin(time.Second/2, a.subscribers.Close); hangs != nil {
		a.log.Warn("subscriber_left_behind", zap.Error(hangs)) // its function is not the agent's to end
	}
	return err
}

func (a *Agent) closeStacks() {
	if a.stacks != nil {
		a.stacks.Close()
	}
}

func closeWithin(d time.Duration, closing func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return closing(ctx)
}

// Report is what an agent knows at one reading.
type Report struct {
	Time      time.Time
	Host      record.Host
	GPUs      []record.GPU
	Cgroups   []record.Cgroup
	Processes []record.Process
	Leaks     []record.Leak        // who grows or leaks
	States    []record.StateChange // the last crossing of all that is not normal
	Prune     record.Prune         // the last decision
	Agent     record.Agent         // what the agent itself takes
}

// Report returns what is known, at the first reading or later. It waits for the first
// reading of an agent that runs, or will. The error is ctx's, or [ErrClosed] where the
// agent reads nothing any more.
func (a *Agent) Report(ctx context.Context) (*Report, error) {
	asking, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answered := make(chan struct{})
	defer close(answered)
	go func() {
		select {
		case <-a.ended:
			cancel(ErrClosed)
		case <-answered:
		}
	}()
	v, err := a.views.Detailed(asking)
	if err != nil {
		return nil, context.Cause(asking)
	}
	d := v.Details
	return &Report{
		Time: v.Time, Host: v.Host, GPUs: v.GPUs, Cgroups: d.Cgroups, Processes: d.Processes, Leaks: d.Leaks, States: d.States,
		Prune: a.ShouldPrune(), Agent: d.Agent,
	}, nil
}

// Subscription says what a subscriber is told of. Lists that are empty choose
// everything.
type Subscription struct {
	Kinds     []record.Kind  // such as record.KindState
	States    []record.State // of state records: those that reach or leave one of these
	Resources []string       // of state records, such as fd
	// Func is called with one record after another, by a goroutine of its own. One that
	// is slow loses records, which are counted; one that panics is called again with
	// the next record. Neither holds up the agent.
	Func func(record.Record)
}

// Subscriber is a subscription that is in force.
type Subscriber struct{ inner *agent.Subscriber }

// Cancel ends the subscription: the function gets what waits already, and no more.
func (s *Subscriber) Cancel() { s.inner.Cancel() }

// Dropped counts the records that came while 256 waited.
func (s *Subscriber) Dropped() uint64 { return s.inner.Dropped() }

// Panics counts the calls that panicked.
func (s *Subscriber) Panics() uint64 { return s.inner.Panics() }

// Subscribe has a function called with what happens from now on.
func (a *Agent) Subscribe(s Subscription) (*Subscriber, error) {
	if s.Func == nil {
		return nil, errors.New("subscribe: Func is nil")
	}
	if err := a.open(); err != nil {
		return nil, err
	}
	return &Subscriber{a.subscribers.Subscribe(agent.Subscription(s))}, nil
}

// Limits are what a tracked process may use; 0 is no limit.
type Limits struct {
	CPUPercent            float64 // of one CPU
	MemoryMB              float64 // resident, in MB of 2^20 bytes
	Files                 float64 // open descriptors
	DiskBytesPerSecond    float64 // read and written
	NetworkBytesPerSecond float64 // received and sent
	GPUPercent            float64
	GPUMemoryMB           float64
	// Actions are names of actions of the configuration, for when a limit is broken.
	Actions []string
}

// Track gives the process that has PID pid now limits of its own: a state record tells
// when one is broken, and when it no longer is. Limits that it had are replaced, and are
// forgotten some time after it has ended.
func (a *Agent) Track(pid int, l Limits) error {
	if err := a.open(); err != nil {
		return err
	}
	if pid < 1 || pid >= 1<<22 {
		return fmt.Errorf("track PID %d: %w", pid, ErrNoProcess)
	}
	id, err := hostfs.ReadID(pid)
	if err != nil {
		return fmt.Errorf("track PID %d: %w", pid, ErrNoProcess)
	}
	err = a.inner.Track(config.Tracked{
		Label: label(pid), PID: pid, StartTicks: int(id.StartTicks), MaxCPUPercent: l.CPUPercent, MaxMemoryMB: l.MemoryMB, MaxFD: l.Files,
		MaxDiskBytesPerSecond: l.DiskBytesPerSecond, MaxNetworkBytesPerSecond: l.NetworkBytesPerSecond,
		MaxGPUPercent: l.GPUPercent, MaxGPUMemoryMB: l.GPUMemoryMB, Actions: append([]string{}, l.Actions...),
	})
	if err != nil {
		return fmt.Errorf("track PID %d: %w", pid, err)
	}
	return nil
}

// open fails where the agent was closed.
func (a *Agent) open() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return ErrClosed
	}
	return nil
}

// Untrack takes the limits of a process away that Track gave it.
func (a *Agent) Untrack(pid int) error {
	found, err := a.inner.Untrack(label(pid))
	if err == nil && !found {
		err = errors.New("it is not tracked")
	}
	if err != nil {
		return fmt.Errorf("untrack PID %d: %w", pid, err)
	}
	return nil
}

func label(pid int) string { return "pid " + strconv.Itoa(pid) }

// Set changes settings while the agent runs, by the keys of the configuration file.
// Where one is wrong, or can't be changed without a restart, nothing changes.
func (a *Agent) Set(settings map[string]string) error {
	if err := a.open(); err != nil {
		return err
	}
	return a.inner.Set(settings)
}

// ShouldPrune returns the last decision whether work should be taken off this machine,
// why, and who should go first.
func (a *Agent) ShouldPrune() record.Prune { return a.prune.last() }

// History returns the last count readings of a resource (cpu, memory, fd, disk, network,
// pids, pressure_cpu, pressure_memory, pressure_io, gpu, gpu_memory), of an hour at
// most; 0: all. An empty target is the host; others are those of state records, of
// filesystems and cards. ok is false where nothing is known of it.
func (a *Agent) History(resource, target string, count int) (h record.History, ok bool) {
	return a.history.History(resource, target, max(count, 0))
}

// Stats returns peaks, averages and events since the start, or since ResetStats.
func (a *Agent) Stats() record.Stats { return a.history.Stats() }

// ResetStats begins peaks, averages and events anew.
func (a *Agent) ResetStats() { a.history.Reset(time.Now()) }

// pruneKeeper keeps the last decision.
type pruneKeeper struct {
	mu    sync.Mutex
	prune record.Prune
}

// Observe takes a copy of a decision.
func (k *pruneKeeper) Observe(r record.Record) {
	p, ok := r.(*record.Prune)
	if !ok {
		return
	}
	c := *p
	c.Reasons = append([]record.PruneReason{}, p.Reasons...)
	c.Candidates = append([]record.PruneCandidate{}, p.Candidates...)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.prune = c
}

func (k *pruneKeeper) last() record.Prune {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.prune
}
