package htmlreport

import "math"

// firstWidth is how long a bucket is at first, in milliseconds.
const firstWidth = 100

// bucket is what is known of a value in a stretch of time.
type bucket struct {
	min, max float32
	sum      float64
	n        uint32 // 0: nothing is known
}

func (b *bucket) add(v float64) {
	f := float32(v)
	if b.n == 0 {
		b.min, b.max = f, f
	}
	b.min, b.max = min(b.min, f), max(b.max, f)
	b.sum += v
	b.n++
}

func (b *bucket) mean() float64 { return b.sum / float64(b.n) }

// merge makes one bucket of two that follow each other.
func (b bucket) merge(next bucket) bucket {
	switch {
	case b.n == 0:
		return next
	case next.n == 0:
		return b
	}
	return bucket{min(b.min, next.min), max(b.max, next.max), b.sum + next.sum, b.n + next.n}
}

// series is a value over time in a bounded number of buckets. When time has run on
// for so long that it needs more, each two become one: no value is dropped, the least
// and the greatest stay, and the mean is that of all values. Values may come in any
// order.
type series struct {
	limit   int   // most buckets
	width   int64 // of a bucket, in milliseconds
	first   int64 // time of the first bucket / width
	buckets []bucket

	peak   float64
	peakAt int64 // Unix milliseconds
	last   float64
	lastAt int64
}

func newSeries(limit int) *series {
	return &series{limit: limit, width: firstWidth, peak: math.Inf(-1)}
}

// add takes a value at a time in Unix milliseconds.
func (s *series) add(ms int64, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return
	}
	if v > s.peak {
		s.peak, s.peakAt = v, ms
	}
	if ms >= s.lastAt {
		s.last, s.lastAt = v, ms
	}
	for {
		i := floorDiv(ms, s.width)
		if len(s.buckets) == 0 {
			s.first = i
		}
		lowest, last := min(i, s.first), max(i, s.first+int64(len(s.buckets))-1)
		if last-lowest >= int64(s.limit) {
			s.fold()
			continue
		}
		s.reach(lowest, last)
		s.buckets[i-s.first].add(v)
		return
	}
}

// reach makes room for the buckets from the lowest to the last.
func (s *series) reach(lowest, last int64) {
	if more := int(s.first - lowest); more > 0 {
		s.buckets = append(make([]bucket, more), s.buckets...)
		s.first = lowest
	}
	for s.first+int64(len(s.buckets))-1 < last {
		s.buckets = append(s.buckets, bucket{})
	}
}

// fold doubles the width.
func (s *series) fold() {
	first := floorDiv(s.first, 2)
	n := 0
	for i := range s.buckets {
		at := int(floorDiv(s.first+int64(i), 2) - first)
		b := s.buckets[i]
		if at < n {
			b = s.buckets[at].merge(b)
		}
		s.buckets[at] = b
		n = at + 1
	}
	s.buckets = s.buckets[:n]
	s.first, s.width = first, 2*s.width
}

// empty tells that no value ever came.
func (s *series) empty() bool { return s == nil || len(s.buckets) == 0 }

// middle is the time of a bucket's middle, in Unix milliseconds.
func (s *series) middle(i int) int64 { return (s.first+int64(i))*s.width + s.width/2 }

// mean is that of all values.
func (s *series) mean() float64 {
	var all bucket
	for _, b := range s.buckets {
		all = all.merge(b)
	}
	return all.mean()
}

// runs returns the stretches [from, to) of buckets without a hole. Empty buckets
// between values that come as seldom as they usually do are no hole.
func (s *series) runs() [][2]int {
	bridge := s.bridge()
	var list [][2]int
	from, last := -1, -1
	for i := range s.buckets {
		if s.buckets[i].n == 0 {
			continue
		}
		if from >= 0 && i-last > bridge {
			list = append(list, [2]int{from, last + 1})
			from = -1
		}
		if from < 0 {
			from = i
		}
		last = i
	}
	if from >= 0 {
		list = append(list, [2]int{from, last + 1})
	}
	return list
}

// bridge is how many buckets apart two values may be without a hole between them:
// three times what is usual.
func (s *series) bridge() int {
	counts := map[int]int{}
	total, last := 0, -1
	for i := range s.buckets {
		if s.buckets[i].n == 0 {
			continue
		}
		if last >= 0 {
			counts[i-last]++
			total++
		}
		last = i
	}
	usual, seen := 1, 0
	for usual = 1; usual < len(s.buckets); usual++ {
		if seen += counts[usual]; seen*2 >= total {
			break
		}
	}
	if usual == 1 {
		return 2 // ticks drift across the edges of buckets that are as long as they
	}
	return 3 * usual
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
