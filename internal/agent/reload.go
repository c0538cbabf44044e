package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/internal/hostfs"
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
	agent *Agent
	watch *config.FileWatch // nil: there is no file
	look  chan struct{}     // one tick has begun
	asked chan struct{}     // somebody demands it
	ready atomic.Pointer[engine.Settings]
	// Who asks for these never waits for a file. They are stored with mu held.
	status  atomic.Pointer[ConfigStatus]
	current atomic.Pointer[config.Loaded] // in force, or soon

	mu      sync.Mutex
	sources config.Sources       // of the configuration in force, with what was set since the start
	ended   map[string]time.Time // when the processes of rules that Track set were found gone, by label
}

func newReloads(a *Agent) *reloads {
	r := &reloads{agent: a, sources: a.Sources, look: make(chan struct{}, 1), asked: make(chan struct{}, 1)}
	r.current.Store(a.Config)
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
				if r.watch != nil {
					r.watch.Reading() // a change that somebody tells of is told once
				}
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
	r.mu.Lock()
	a, err := r.reread()
	r.mu.Unlock()
	if err == nil {
		log.Info("config_reloaded", zap.Strings("changed", a.Changed), zap.Strings("needs_restart", a.Waiting), zap.String("hash", a.Hash()))
		return
	}
	log.Error("config_refused", zap.String("why", oneLine(err)), zap.String("in_force", "the configuration from before"))
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// reread takes the files as they are now. mu is held.
func (r *reloads) reread() (*config.Adoption, error) {
	next, err := config.Read(r.sources)
	if err == nil {
		return r.adopt(next, "")
	}
	status := *r.status.Load()
	status.Refused = oneLine(err)
	r.status.Store(&status)
	return nil, err
}

// change has what edit makes of the sources in force, and keeps those if nothing is
// wrong. The files are those in force: one that is refused keeps nobody from changing a
// setting.
func (r *reloads) change(edit func(*config.Sources)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	sources := r.sources
	sources.Settings = maps.Clone(sources.Settings)
	sources.Tracked = slices.Clone(sources.Tracked)
	edit(&sources)
	next, err := r.current.Load().With(sources)
	if err != nil {
		return err
	}
	if _, err := r.adopt(next, r.status.Load().Refused); err != nil {
		return err
	}
	r.sources = sources
	return nil
}

// adopt hands over what may change now; refused is what is wrong with newer files. mu is
// held.
func (r *reloads) adopt(next *config.Loaded, refused string) (*config.Adoption, error) {
	a, err := r.current.Load().Adopt(next)
	if err != nil {
		return nil, err
	}
	if r.agent.SetLevel != nil {
		if err := r.agent.SetLevel(a.LogLevel); err != nil {
			return nil, err
		}
	}
	r.current.Store(a.Loaded)
	r.status.Store(&ConfigStatus{Hash: a.Hash(), Since: time.Now().UTC(), Refused: refused, Waiting: a.Waiting})
	r.ready.Store(&engine.Settings{
		Policy:    a.Policy(int32(os.Getpid())),
		Interval:  a.Interval,
		CPUBudget: a.CPUBudget,
		Select:    r.agent.selection(a.Loaded),
		Record:    r.agent.configRecord(a.Loaded),
		Applied:   func() { r.agent.actions.Configure(a.Actions, a.ActionsDryRun) },
	})
	return a, nil
}

// Set changes settings, by key, until the agent ends: they win over file, environment
// and flags. A key that can't change while the agent runs is an error, as is a wrong
// value, and then nothing has changed. It comes into force at the next tick.
func (a *Agent) Set(settings map[string]string) error {
	for name := range settings {
		if !config.Live(name) {
			return fmt.Errorf("%s can't be changed while the agent runs", name)
		}
	}
	return a.reloads.change(func(s *config.Sources) {
		if s.Settings == nil {
			s.Settings = map[string]string{}
		}
		maps.Copy(s.Settings, settings)
	})
}

// Track sets limits for the processes that a rule selects, beside the rules of the
// configuration, until the agent ends or Untrack. A rule of the same label takes the
// place of the one before. A rule for one process goes some time after that has ended:
// who tracks one worker after the other must not make the list longer for ever.
func (a *Agent) Track(t config.Tracked) error {
	return a.reloads.change(func(s *config.Sources) {
		s.Tracked = slices.DeleteFunc(a.reloads.withoutEnded(s.Tracked), func(old config.Tracked) bool { return old.Label == t.Label })
		s.Tracked = append(s.Tracked, t)
	})
}

// keepEnded is for how long a rule stays whose process was found gone: the policy has
// long told by then that what the process exceeded is over.
const keepEnded = time.Minute

// withoutEnded drops the rules for processes that were gone keepEnded ago. mu is held.
func (r *reloads) withoutEnded(tracked []config.Tracked) []config.Tracked {
	now, before := time.Now(), r.ended
	r.ended = map[string]time.Time{}
	return slices.DeleteFunc(tracked, func(t config.Tracked) bool {
		if !hasEnded(&t) {
			return false
		}
		since, met := before[t.Label]
		if !met {
			since = now
		}
		r.ended[t.Label] = since
		return now.Sub(since) >= keepEnded
	})
}

// hasEnded tells whether a rule is for one process, which is gone.
func hasEnded(t *config.Tracked) bool {
	if t.PID == 0 || t.StartTicks == 0 {
		return false
	}
	id, err := hostfs.ReadID(t.PID)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	return id.StartTicks != uint64(t.StartTicks)
}

// Tracked returns the rule of a label that Track set; false where there is none.
func (a *Agent) Tracked(label string) (config.Tracked, bool) {
	a.reloads.mu.Lock()
	defer a.reloads.mu.Unlock()
	i := slices.IndexFunc(a.reloads.sources.Tracked, func(t config.Tracked) bool { return t.Label == label })
	if i < 0 {
		return config.Tracked{}, false
	}
	return a.reloads.sources.Tracked[i], true
}

// Untrack takes a rule away that Track set; it tells whether there was one.
func (a *Agent) Untrack(label string) (bool, error) {
	found := false
	err := a.reloads.change(func(s *config.Sources) {
		n := len(s.Tracked)
		s.Tracked = slices.DeleteFunc(s.Tracked, func(old config.Tracked) bool { return old.Label == label })
		found = len(s.Tracked) < n
	})
	return found, err
}

// ConfigStatus tells which configuration is in force, and what is wrong with the one
// that is not.
func (a *Agent) ConfigStatus() ConfigStatus { return *a.reloads.status.Load() }

// InForce is the configuration that is in force, or will be at the next tick.
func (a *Agent) InForce() *config.Loaded { return a.reloads.current.Load() }
