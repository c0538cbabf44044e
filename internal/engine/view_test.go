package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"rmagent/internal/act"
	"rmagent/internal/held"
	"rmagent/internal/policy"
	"rmagent/record"

	"go.uber.org/zap"
)

// viewedEngine runs an engine with fast ticks for the length of the test.
func viewedEngine(t *testing.T) *Views {
	t.Helper()
	e := realEngine(t)
	e.Interval, e.Sink = 20*time.Millisecond, nil
	e.budget = newBudget(0, e.Interval)
	e.Views = NewViews()
	e.Leaks = NewLeaks(LeakOptions{
		Proc: held.OpenProc("/proc"), Tracing: TraceOff, Log: zap.NewNop(),
		Now: func() time.Duration { return e.snapshot.Monotonic },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e.Views
}

func TestDetailsComeToThoseWhoAsk(t *testing.T) {
	views := viewedEngine(t)
	<-views.Published()
	for range 3 {
		if v := views.Latest(); v.Details != nil {
			t.Fatal("nobody asked for details, and there are some")
		}
		<-views.Published()
	}
	v, err := views.Detailed(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	self := v.Details.Process(int32(os.Getpid()))
	if self == nil {
		t.Fatalf("this process is not among %d", len(v.Details.Processes))
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if self.Exe.Or("") != exe || !self.RSSBytes.Known() || len(v.Details.Cgroups) == 0 {
		t.Errorf("exe %q, want %q; %d cgroups", self.Exe.Or(""), exe, len(v.Details.Cgroups))
	}
	if total := v.Host.MemoryTotalBytes.Or(0); total != memTotal(t) {
		t.Errorf("memory of %d bytes, /proc/meminfo says %d", total, memTotal(t))
	}
	// Who asks at every tick finds the next one's ready.
	<-views.Published()
	if next := views.Latest(); next.Details == nil || next.Tick <= v.Tick {
		t.Errorf("tick %d has details: %v; tick %d was asked for", next.Tick, next.Details != nil, v.Tick)
	}
}

func TestAViewNeverChanges(t *testing.T) {
	views := viewedEngine(t)
	v, err := views.Detailed(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	text := func() string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := text()
	for range 5 {
		if _, err := views.Detailed(context.Background()); err != nil {
			t.Fatal(err)
		}
		<-views.Published()
	}
	if text() != before {
		t.Error("the view changed after it was published")
	}
}

func TestHoldsCountsWhatIsHeld(t *testing.T) {
	views := viewedEngine(t)
	for range 40 {
		f, err := os.Open("/etc/hostname")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	<-views.Published()
	r, err := views.Holds(context.Background(), int32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	var held, ours uint64
	for _, s := range r.Sites {
		held += s.Held
		if s.Target.Or("") == "/etc/hostname" {
			ours += s.Held
		}
	}
	if ours != 40 || r.Verdict == record.VerdictOver {
		t.Errorf("%d of /etc/hostname are held, this process opened 40; %d in all, verdict %s", ours, held, r.Verdict)
	}
	if _, err := views.Holds(context.Background(), 1<<22); !errors.Is(err, ErrNoProcess) {
		t.Errorf("a PID that there can't be: %v", err)
	}
}

// meddler keeps what it is told of whom.
type meddler struct {
	told
	heard []string
}

func (m *meddler) Changed(c *policy.Change, p *act.Process) {
	if c.State != nil && p != nil {
		m.heard = append(m.heard, fmt.Sprintf("%s %s of %s %v", c.Rule, c.State.State, p.Comm, c.Tracked))
	}
}

// Of one resource of one process there are as many states as limits, and each ends by
// itself: with its rule, or with the process.
func TestStatesOfTheView(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	rule := func(label string, files float64) policy.Rule {
		return policy.Rule{Label: label, Selector: policy.Selector{PID: int32(cmd.Process.Pid)}, Limits: policy.Limits{FDs: files}}
	}
	config := policy.Config{Prune: policy.Default().Prune, Tracked: []policy.Rule{rule("two", 2), rule("one", 1)}}
	config.Prune.MemoryBytes, config.Prune.CPUPercent, config.Prune.NetworkBytesPerSecond = 0, 0, 0
	e := realEngine(t)
	actor := &meddler{}
	e.Policy, e.Views, e.Actions = policy.New(config), NewViews(), actor
	expect := func(what string, limits, heard string) {
		t.Helper()
		actor.heard = nil
		e.Views.asked.Store(true)
		if err := e.tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []float64
		for _, s := range e.Views.Latest().Details.States {
			got = append(got, s.Limit.Or(0))
		}
		if fmt.Sprint(got) != limits || fmt.Sprintf("%q", actor.heard) != heard {
			t.Errorf("%s: limits %v, want %s; told %q, want %s", what, got, limits, actor.heard, heard)
		}
	}
	expect("both are broken", "[1 2]", `["two critical of sleep true" "one critical of sleep true"]`)
	config.Tracked = config.Tracked[:1]
	e.Policy.Configure(config)
	expect("without a rule", "[2]", `["one normal of sleep true"]`)
	cmd.Process.Kill()
	cmd.Wait()
	expect("without the process", "[]", `["two normal of sleep true"]`)
}

func TestDetailedEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	v := NewViews() // of no engine
	if _, err := v.Detailed(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := v.Holds(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// BenchmarkViews compares ticks that nobody reads with those that somebody does.
func BenchmarkViews(b *testing.B) {
	for _, read := range []string{"no views", "unread", "read"} {
		b.Run(read, func(b *testing.B) {
			e := realEngine(b)
			if read != "no views" {
				e.Views = NewViews()
			}
			b.ReportAllocs()
			for b.Loop() {
				if read == "read" {
					e.Views.asked.Store(true)
				}
				if err := e.tick(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPublish is what a tick pays for a view that nobody reads.
func BenchmarkPublish(b *testing.B) {
	e := realEngine(b)
	e.Views = NewViews()
	for range 2 {
		if err := e.tick(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		e.publish(false)
	}
}

func memTotal(t *testing.T) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	var kib uint64
	if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
