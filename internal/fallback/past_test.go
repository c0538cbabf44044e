package fallback

import (
	"testing"

	"rmagent/internal/sample"
)

func TestCountersOfThreadsOnlyGrow(t *testing.T) {
	r := &Reader{pasts: map[int32]past{}}
	a, reused := sample.ID{PID: 7, StartTicks: 1}, sample.ID{PID: 7, StartTicks: 2}
	for _, step := range []struct {
		why                 string
		id                  sample.ID
		ran, waited         uint64
		wantRan, wantWaited uint64
	}{
		{"first", a, 100, 50, 100, 50},
		{"growth", a, 120, 60, 120, 60},
		{"another thread became the leader, and the others ended", a, 30, 5, 150, 60},
		{"growth from there", a, 40, 8, 160, 63},
		{"another process has the PID", reused, 10, 1, 10, 1},
	} {
		r.round++
		if got := r.leaderRan(step.id, step.ran); got != step.wantRan {
			t.Errorf("%s: ran %d, want %d", step.why, got, step.wantRan)
		}
		if got := r.threadsWaited(step.id, step.waited); got != step.wantWaited {
			t.Errorf("%s: waited %d, want %d", step.why, got, step.wantWaited)
		}
	}
}

func TestTheGoneAreForgotten(t *testing.T) {
	r := &Reader{pasts: map[int32]past{}}
	read := func(pids ...int32) {
		r.round++
		for _, pid := range pids {
			r.leaderRan(sample.ID{PID: pid, StartTicks: 1}, 1)
		}
	}
	read(1, 2, 3)
	r.forget(true, 3)
	read(1)
	r.forget(false, 1) // of one alone: it says nothing of the others
	if len(r.pasts) != 3 {
		t.Errorf("remembers %d of 3", len(r.pasts))
	}
	read(1, 3)
	r.forget(true, 2)
	if _, gone := r.pasts[2]; gone || len(r.pasts) != 2 {
		t.Errorf("remembers %d of 2", len(r.pasts))
	}
}
