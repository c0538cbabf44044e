package loader

import "time"

// lastReading is what the kernel said at the last reading of all processes, in its
// order, so that a process of which nothing changed is known by the bytes of its
// record. What a record means depends on nothing else, but for how CPU time was
// split, which stays as it is while the time does (splits).
//
// The running reading takes the place of the last from the front. The syscall scan's
// processes are in the order of birth, so a process's place is the same or nearer to the
// front. The task iterator's are in that of PIDs: where a new one comes between others,
// those behind it are decoded once more.
type lastReading struct {
	records []scanProcessRecord
	since   []time.Duration // of the first reading in a row with this record
	at      int             // behind the process that was met last
}

// ahead is how far a process is looked for: those between have ended.
const ahead = 8

// meet takes the n-th record of the reading of now, and returns where it was the same
// in the last one and since when, or -1 and now. Where the scan knows, known says where
// that was; else it is -1.
func (l *lastReading) meet(rec *scanProcessRecord, known, n int, now time.Duration) (was int, since time.Duration) {
	was = known
	if was < 0 {
		was = l.find(rec, n)
	}
	since = now
	if was >= 0 {
		l.at, since = was+1, l.since[was]
	}
	switch {
	case n == len(l.records):
		l.records = append(l.records, *rec)
		l.since = append(l.since, since)
	case was != n:
		l.records[n], l.since[n] = *rec, since
	}
	return was, since
}

// stay takes the n-th record, which is known to be that of the last reading.
func (l *lastReading) stay(n int) { l.at = n + 1 }

// find looks for a record that is to be the n-th.
func (l *lastReading) find(rec *scanProcessRecord, n int) (was int) {
	for i := max(l.at, n); i < len(l.records) && i < l.at+ahead; i++ {
		if old := &l.records[i]; old.Task == rec.Task && old.StartBoottimeNs == rec.StartBoottimeNs {
			l.at = i + 1
			if *old == *rec {
				return i
			}
			break
		}
	}
	return -1
}

// cut ends a reading of n processes. The memory of many more is given back.
func (l *lastReading) cut(n int) {
	l.at = 0
	l.records, l.since = l.records[:n], l.since[:n]
	if cap(l.records) > max(4*n, fewLast) {
		l.records = append(make([]scanProcessRecord, 0, 2*n), l.records...)
		l.since = append(make([]time.Duration, 0, 2*n), l.since...)
	}
}

// fewLast are so few that their memory is always kept.
const fewLast = 4096
