package agent

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/config"
	"rmagent/internal/engine"
)

// ConfigStatus is what became of the configuration, for who asks.
type ConfigStatus struct {
	Hash    string    // of what is in force
	Since   time.Time // since when that is
	Refused string    // what is wrong with the newest file, which is not in force; empty: nothing
	Waiting []string  // keys whose new value takes effect at the next start
}

// reloads reads the configuration again when it changes. A goroutine of its own does,
// so that a file on a filesystem that hangs holds up nothing; the engine takes what was
// read at its next tick.
type reloads struct {
	agent  *Agent
	watch  *config.FileWatch // nil: there is no file
	look   chan struct{}     // one tick has begun
	asked  chan struct{}     // somebody demands it
	ready  atomic.Pointer[engine.Settings]
	status atomic.Pointer[ConfigStatus]

	mu      sync.Mutex
	current *config.Loaded // in force, or soon
}

func newReloads(a *Agent) *reloads {
	r := &reloads{agent: a, current: a.Config, look: make(chan struct{}, 1), asked: make(chan struct{}, 1)}
	if a.Sources.Path != "" {
		r.watch = config.WatchFile(a.Sources.Path)
	}
	r.status.Store(&ConfigStatus{Hash: a.Config.Hash(), Since: time.Now().UTC()})
	return r
}

// start reads in the background; the function it returns ends that, once ctx has
// ended.
func (r *reloads) start(ctx context.Context) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.asked:
				r.read()
			case <-r.look:
				if r.watch.Changed() {
					r.read()
				}
			}
		}
	}()
	return func() {
		select {
		case <-done:
		case <-time.After(stopReading): // the file's filesystem hangs
		}
	}
}

// stopReading is how long the end waits for a file that is being read.
const stopReading = 100 * time.Millisecond

// demand has the configuration read now, whether or not the file changed.
func (r *reloads) demand() {
	select {
	case r.asked <- struct{}{}:
	default:
	}
}

// Next is called by the engine at each tick. It returns what is to be in force from
// now on, or nil.
func (r *reloads) Next() *engine.Settings {
	if r.watch != nil {
		select {
		case r.look <- struct{}{}:
		default: // it is still looking
		}
	}
	return r.ready.Swap(nil)
}

// read reads the configuration and hands over what may change now. A wrong one is
// refused whole.
func (r *reloads) read() {
	log := r.agent.Log
	next, err := config.Read(*r.agent.Sources)
	if err == nil {
		var a *config.Adoption
		if a, err = r.adopt(next); err == nil {
			log.Info("config_reloaded", zap.Strings("changed", a.Changed), zap.Strings("needs_restart", a.Waiting), zap.String("hash", a.Hash()))
			return
		}
	}
	what := strings.ReplaceAll(err.Error(), "\n", "; ")
	status := *r.status.Load()
	status.Refused = what
	r.status.Store(&status)
	log.Error("config_refused", zap.String("why", what), zap.String("in_force", "the configuration from before"))
}

// adopt hands over what may change now.
func (r *reloads) adopt(next *config.Loaded) (*config.Adoption, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, err := r.current.Adopt(next)
	if err != nil {
		return nil, err
	}
	if r.agent.SetLevel != nil {
		if err := r.agent.SetLevel(a.LogLevel); err != nil {
			return nil, err
		}
	}
	r.current = a.Loaded
	r.status.Store(&ConfigStatus{Hash: a.Hash(), Since: time.Now().UTC(), Waiting: a.Waiting})
	r.ready.Store(&engine.Settings{
		Policy:    a.Policy(int32(os.Getpid())),
		Interval:  a.Interval,
		CPUBudget: a.CPUBudget,
		Select:    r.agent.selection(a.Loaded),
		Record:    r.agent.configRecord(a.Loaded),
	})
	return a, nil
}

// ConfigStatus tells which configuration is in force, and what is wrong with the one
// that is not.
func (a *Agent) ConfigStatus() ConfigStatus {
	if a.reloads == nil {
		return ConfigStatus{Hash: a.Config.Hash()}
	}
	return *a.reloads.status.Load()
}
