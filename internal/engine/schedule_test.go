package engine

import (
	"testing"
	"time"
)

func TestScheduleCountsDroppedTicks(t *testing.T) {
	const second = time.Second
	start := time.Now()
	s := schedule{start: start, interval: second}
	for _, turn := range []struct {
		at   time.Duration
		want uint64
	}{
		{0, 0},                         // the first reading waits for no tick
		{second, 0},                    //
		{2*second + 900*second/1e3, 0}, // late
		{3 * second, 0},                // and then on time
		{5*second + second/10, 1},      // the tick of 4 came at 5.1, that of 5 was dropped
		{6 * second, 0},
		{16 * second, 9},
	} {
		if got := s.turn(start.Add(turn.at)); got != turn.want {
			t.Errorf("at %v: %d dropped, want %d", turn.at, got, turn.want)
		}
	}
	if got := s.missed(start.Add(18*second + second/2)); got != 2 {
		t.Errorf("%d missed after the last turn, want 2", got)
	}
}
