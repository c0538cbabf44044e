package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"rmagent/internal/held"
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
