package engine

import (
	"testing"
	"time"
)

func spend(b *budget, n int, cost time.Duration, hooks float64) (interval time.Duration, changes int) {
	for range n {
		var changed bool
		if interval, changed = b.spent(cost, hooks); changed {
			changes++
		}
	}
	return interval, changes
}

func TestBudget(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name  string
		share float64
		base  time.Duration
		cost  time.Duration
		hooks float64
		want  time.Duration
	}{
		{"inside", 0.01, time.Second, 5 * ms, 0, time.Second},
		{"exactly at the edge", 0.01, time.Second, 10 * ms, 0, time.Second},
		{"just over: two intervals", 0.01, time.Second, 11 * ms, 0, 2 * time.Second},
		{"far over", 0.01, time.Second, 95 * ms, 0, 10 * time.Second},
		{"never longer than a minute", 0.001, time.Second, 500 * ms, 0, time.Minute},
		{"hooks leave half", 0.01, time.Second, 9 * ms, 0.005, 2 * time.Second},
		{"hooks take it all", 0.01, time.Second, ms, 0.02, time.Minute},
		{"no budget", 0, time.Second, 900 * ms, 0, time.Second},
		{"longer than a minute was asked for", 0.01, 2 * time.Minute, 5 * time.Second, 0, 2 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBudget(tt.share, tt.base)
			got, changes := spend(b, 50, tt.cost, tt.hooks)
			if got != tt.want {
				t.Errorf("interval %v, want %v", got, tt.want)
			}
			if want := map[bool]int{true: 0, false: 1}[tt.want == tt.base]; changes != want {
				t.Errorf("%d changes under a steady cost, want %d", changes, want)
			}
			if tt.share > tt.hooks && tt.want < time.Minute {
				if used := float64(tt.cost)/float64(got) + tt.hooks; used > tt.share+1e-9 {
					t.Errorf("uses %.4f of a core, the budget is %.4f", used, tt.share)
				}
			}
		})
	}
}

func TestBudgetIgnoresOneSlowTick(t *testing.T) {
	b := newBudget(0.01, time.Second)
	spend(b, 20, 5*time.Millisecond, 0)
	spend(b, 1, time.Second, 0)
	if got, changes := spend(b, 20, 5*time.Millisecond, 0); got != time.Second || changes != 0 {
		t.Errorf("one slow tick moved the interval to %v", got)
	}
}

func TestBudgetComesBackWithoutFlapping(t *testing.T) {
	b := newBudget(0.01, time.Second)
	if got, _ := spend(b, 20, 25*time.Millisecond, 0); got != 3*time.Second {
		t.Fatalf("interval %v, want 3s", got)
	}
	// A cost that wavers around the edge between two and three intervals.
	changes := 0
	for i := range 400 {
		cost := 20 * time.Millisecond
		if i%20 < 10 {
			cost = 20500 * time.Microsecond
		}
		if _, changed := b.spent(cost, 0); changed {
			changes++
		}
	}
	if changes > 1 {
		t.Errorf("%d changes while the cost wavered by 2 %%", changes)
	}
	if got, _ := spend(b, 20, time.Millisecond, 0); got != time.Second {
		t.Errorf("interval %v after the load went away, want 1s", got)
	}
}
