package rmagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/record"
)

// openAgent opens an agent over /proc, and runs it until the test ends.
func openAgent(t *testing.T, settings map[string]string) *Agent {
	t.Helper()
	o := Options{Settings: map[string]string{"source": "procfs", "interval": "100ms", "gpu": "off"}}
	for k, v := range settings {
		o.Settings[k] = v
	}
	a, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return a
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAgentReports(t *testing.T) {
	a := openAgent(t, nil)
	r, err := a.Report(within(t))
	if err != nil {
		t.Fatal(err)
	}
	self := false
	for i := range r.Processes {
		self = self || int(r.Processes[i].PID) == os.Getpid()
	}
	if !self || !r.Host.MemoryTotalBytes.Known() || r.Time.IsZero() {
		t.Errorf("this process is there: %v; the host: %+v", self, r.Host)
	}
	if h, ok := a.History("memory", "", 1); !ok || len(h.Points) != 1 || h.Points[0].Ratio.Or(0) <= 0 {
		t.Errorf("%+v", h)
	}
	if s := a.Stats(); len(s.Resources) == 0 || s.Since.IsZero() {
		t.Errorf("%+v", s)
	}
	a.ResetStats()
	if _, err := Open(context.Background(), Options{Settings: map[string]string{"interval": "soon"}}); err == nil || !strings.Contains(err.Error(), "setting interval: interval: ") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Open(ctx, Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := a.Subscribe(Subscription{}); err == nil {
		t.Error("a subscription without a function is accepted")
	}
	if err := a.Run(context.Background()); err == nil {
		t.Error("it runs twice")
	}
}

// TestAgentTracks this process, which has more descriptors open than it may. It has them
// before: a reading while it opens them would find it near its limit, and say that.
func TestAgentTracks(t *testing.T) {
	a := openAgent(t, nil)
	crossed := make(chan record.StateChange, 10)
	s, err := a.Subscribe(Subscription{
		Kinds: []record.Kind{record.KindState}, States: []record.State{record.StateCritical}, Resources: []string{"fd"},
		Func: func(r record.Record) {
			if c := r.(*record.StateChange); strings.HasPrefix(c.Target, fmt.Sprintf("pid:%d@", os.Getpid())) {
				crossed <- *c // others may be near their limits, too
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Cancel()
	for range 200 {
		fd, err := unix.Open("/dev/null", unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	if err := a.Track(os.Getpid(), Limits{Files: 200}); err != nil {
		t.Fatal(err)
	}
	select {
	case c := <-crossed:
		if c.Limit.Or(0) != 200 || c.Value.Or(0) <= 200 || !strings.Contains(c.Message, "exceeded FD limit") {
			t.Errorf("%+v", c)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nobody told of it")
	}
	if err := a.Untrack(os.Getpid()); err != nil {
		t.Error(err)
	}
	if err := a.Untrack(os.Getpid()); err == nil {
		t.Error("it is untracked twice")
	}
	if err := a.Track(1<<22-1, Limits{}); !errors.Is(err, ErrNoProcess) {
		t.Error(err)
	}
	if err := a.Track(os.Getpid(), Limits{CPUPercent: -1}); err == nil {
		t.Error("a negative limit is accepted")
	}
	if err := a.Track(os.Getpid(), Limits{Actions: []string{"none"}}); err == nil {
		t.Error("an action that there is not is accepted")
	}
}

// TestBadSubscribers panic or hang; the others and the agent go on.
func TestBadSubscribers(t *testing.T) {
	a := openAgent(t, map[string]string{"processes": "all"})
	release := make(chan struct{})
	var good, calls atomic.Uint64
	subscribe := func(f func(record.Record), kinds ...record.Kind) *Subscriber {
		s, err := a.Subscribe(Subscription{Kinds: kinds, Func: f})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	panics := subscribe(func(record.Record) { calls.Add(1); panic("boo") }, record.KindHost)
	hangs := subscribe(func(record.Record) { <-release })
	subscribe(func(record.Record) { good.Add(1) }, record.KindHost)
	defer close(release)
	for end := time.Now().Add(20 * time.Second); good.Load() < 5 || calls.Load() < 5 || hangs.Dropped() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d good, %d panicked, %d dropped", good.Load(), calls.Load(), hangs.Dropped())
		}
	}
	if panics.Panics() < 4 {
		t.Errorf("%d panics are counted", panics.Panics())
	}
	panics.Cancel()
	panics.Cancel()
}

// TestAgentByMany calls everything at once from many goroutines.
func TestAgentByMany(t *testing.T) {
	a := openAgent(t, nil)
	var group sync.WaitGroup
	ctx := within(t)
	for i := range 8 {
		group.Go(func() {
			for j := range 10 {
				s, err := a.Subscribe(Subscription{Func: func(record.Record) {}})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := a.Report(ctx); err != nil {
					t.Error(err)
				}
				a.ShouldPrune()
				if i == 0 {
					if err := a.Track(os.Getpid(), Limits{Files: float64(1000 + j)}); err != nil {
						t.Error(err)
					}
					if err := a.Set(map[string]string{"thresholds.fd.warning": "0.81"}); err != nil {
						t.Error(err)
					}
				}
				s.Cancel()
			}
		})
	}
	group.Wait()
}

func TestAgentSet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.jsonl")
	a := openAgent(t, map[string]string{"jsonl": path})
	if _, err := a.Report(within(t)); err != nil {
		t.Fatal(err)
	}
	for settings, want := range map[[2]string]string{
		{"jsonl", "/x"}:                        "can't be changed while the agent runs",
		{"none", "x"}:                          "can't be changed",
		{"thresholds.fd.warning", "2"}:         "out of range",
		{"thresholds.fd.warning", "0.1"}:       "info <= warning <= critical",
		{"max_cpu_usage_percent", "a hundred"}: "not a number",
	} {
		if err := a.Set(map[string]string{settings[0]: settings[1]}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", settings, err, want)
		}
	}
	if err := a.Set(map[string]string{"thresholds.fd.warning": "0.85"}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(text), `"kind":"config"`) == 2 && strings.Contains(string(text), `"warning":0.85`) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no second configuration is written: %s", text)
		}
	}
}

func TestAgentCloses(t *testing.T) {
	a, err := Open(context.Background(), Options{Settings: map[string]string{"source": "procfs", "gpu": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := a.Run(context.Background()); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	_, subscribing := a.Subscribe(Subscription{Func: func(record.Record) {}})
	for _, err := range []error{subscribing, a.Track(os.Getpid(), Limits{Files: 1}), a.Set(map[string]string{"interval": "1s"})} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	}
	if _, err := a.Report(within(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("a report after the end: %v", err)
	}
}

// Who waits for a report is told when there will be none.
func TestAReportIsNotWaitedForInVain(t *testing.T) {
	a, err := Open(context.Background(), Options{Settings: map[string]string{"source": "procfs", "gpu": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan error, 1)
	ctx := within(t)
	go func() { _, err := a.Report(ctx); asked <- err }()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := <-asked; !errors.Is(err, ErrClosed) {
		t.Errorf("the report: %v", err)
	}

	a = openAgent(t, nil)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if r, err := a.Report(ctx); err != nil && !errors.Is(err, ErrClosed) {
		t.Errorf("after it ran: %v, %v", r, err)
	}
}
