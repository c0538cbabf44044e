package job

import (
	"testing"
	"time"

	"rmagent/internal/sample"
)

// A job that goes on for long has more processes than can be remembered: each counts once,
// and those that are gone are forgotten.
func TestProcessesThatEndedAreForgotten(t *testing.T) {
	tracker := newProcTracker(ProcOptions{})
	const seconds, everySecond = 3600, 10
	for second := range seconds {
		tracker.now = time.Duration(second) * time.Second
		tracker.sweep()
		tracker.meet(sample.ID{PID: 1, StartTicks: 1}) // lives all the time
		for i := range everySecond {
			tracker.meet(sample.ID{PID: int32(2 + i), StartTicks: uint64(second)})
		}
		if second%7 == 0 { // a walk misses it now and then
			tracker.meet(sample.ID{PID: 100, StartTicks: 1})
		}
	}
	if want := uint64(2 + seconds*everySecond); tracker.met != want {
		t.Errorf("%d processes were met, want %d", tracker.met, want)
	}
	if n, most := len(tracker.seen), everySecond*int(2*remembered/time.Second)+2; n > most {
		t.Errorf("%d are remembered, want %d at most", n, most)
	}
}

// Who was met at the start, or before the machine slept, is not met anew.
func TestTheFirstProcessCountsOnce(t *testing.T) {
	tracker := newProcTracker(ProcOptions{})
	cmd := helper("busy", "60000")
	if err := tracker.Start(cmd); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for range 2 {
		var r Reading
		if err := tracker.Read(&r); err != nil || r.Totals.Processes != 1 {
			t.Errorf("%d processes, %v", r.Totals.Processes, err)
		}
		for id := range tracker.seen {
			tracker.seen[id] -= time.Hour
		}
		tracker.swept -= time.Hour
	}
}
