package loader

import (
	"testing"
	"time"
)

// What meet says of a record is what a map of the last reading says, whoever ended,
// began or changed between; and a process with nobody missing before it is found.
func TestMeetKnowsWhoStayed(t *testing.T) {
	var l lastReading
	type seen struct {
		rec   scanProcessRecord
		since time.Duration
	}
	last := map[uint64]seen{}
	read := func(now time.Duration, mustFind bool, tasks ...scanProcessRecord) {
		t.Helper()
		next := map[uint64]seen{}
		for n, rec := range tasks {
			was, since := l.meet(&rec, -1, n, now)
			before, there := last[rec.Task]
			same := there && before.rec == rec
			switch {
			case was >= 0 && !same:
				t.Errorf("at %d, %d: %+v is the same", now, n, rec)
			case was >= 0 && since != before.since:
				t.Errorf("at %d, %d: since %d, want %d", now, n, since, before.since)
			case was < 0 && since != now:
				t.Errorf("at %d, %d: another since %d", now, n, since)
			case was < 0 && same && mustFind:
				t.Errorf("at %d, %d: %+v was not found", now, n, rec)
			}
			next[rec.Task] = seen{rec, since}
		}
		l.cut(len(tasks))
		last = next
	}
	task := func(n, cpu uint64) scanProcessRecord {
		return scanProcessRecord{Task: n, StartBoottimeNs: n, CpuNs: cpu}
	}
	read(1, true, task(1, 1), task(2, 1), task(3, 1), task(4, 1))
	read(2, true, task(1, 1), task(2, 2), task(3, 1), task(4, 1))
	read(3, true, task(1, 1), task(3, 1), task(4, 1), task(5, 1)) // one ended, one began
	read(4, true, task(4, 1), task(5, 2))
	read(5, true, task(4, 1), task(5, 2), task(6, 1))
	read(6, false, task(6, 1), task(4, 1), task(5, 2)) // by PID, where PIDs went round
	read(7, true, task(6, 1), task(4, 1), task(5, 2))
	read(8, true)
	var many []scanProcessRecord
	for n := range uint64(10_000) {
		many = append(many, task(n+1, 1))
	}
	read(9, true, many...)
	read(10, true, many...)
	read(11, false, many[9000:]...)
	if c := cap(l.records); c > fewLast {
		t.Errorf("%d records are kept for %d", c, len(l.records))
	}
	read(12, true, many[9000:]...)
}
