package aggregate

import "time"

// Growth is judged on the low-water marks of this many buckets of this length: a
// count that swings comes back to its mark, a leak does not.
const (
	bucket  = 2 * time.Second
	buckets = 30
	enough  = 4 // finished ones, before growth is known
)

// trend keeps the least descriptors that were open in each of the last buckets.
type trend struct {
	marks [buckets]mark // a ring
	n     int           // marks written so far
	start time.Duration // of the last one's bucket
}

// mark is the least count of one bucket, and when it was first that low.
type mark struct {
	at  time.Duration
	low uint64
}

func newTrend(at time.Duration, count uint64) *trend {
	t := &trend{}
	t.push(at, count)
	return t
}

func (t *trend) push(at time.Duration, count uint64) {
	t.marks[t.n%buckets] = mark{at: at, low: count}
	t.n++
	t.start = at
}

func (t *trend) observe(at time.Duration, count uint64) {
	m := &t.marks[(t.n-1)%buckets]
	if at-t.start >= bucket {
		t.push(at, count)
		return
	}
	if count < m.low {
		m.low, m.at = count, at
	}
}

// growth is the rise from the low-water mark of the older half of the buckets to
// that of the newer half, in descriptors a second. False until there are enough.
// What swings with a period shorter than a half has the same mark in both.
func (t *trend) growth() (perSecond float64, ok bool) {
	n := min(t.n, buckets)
	if n <= enough {
		return 0, false
	}
	first := t.n - n
	older := t.lowest(first, first+n/2)
	newer := t.lowest(first+n/2, t.n)
	elapsed := newer.at - older.at
	if newer.low <= older.low || elapsed <= 0 {
		return 0, true
	}
	return Round(float64(newer.low-older.low) / elapsed.Seconds()), true
}

// lowest is the first of the least marks from one to another, by their numbers.
func (t *trend) lowest(from, to int) mark {
	least := t.marks[from%buckets]
	for i := from + 1; i < to; i++ {
		if m := t.marks[i%buckets]; m.low < least.low {
			least = m
		}
	}
	return least
}
