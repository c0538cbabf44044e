package aggregate

import (
	"math"
	"time"
)

// Growth is judged on low-water marks: a count that swings comes back to its mark,
// a leak does not. How long a mark must last to mean something depends on the swing
// and on the leak, so marks are kept for buckets of every length from a second to
// 17 minutes, each twice as long as the one before.
const (
	finest = time.Second
	scales = 11
	marks  = 10 // of each scale

	enough = 8 * time.Second // of watching, before growth is known
)

// Rise says how surely a count of descriptors grows.
type Rise uint8

// The degrees, each including those before.
const (
	Flat    Rise = iota
	Stirs        // it rose twice in a row: worth a closer look
	Climbs       // its low-water mark rose three times in a row: worth tracing
	Growing      // its low-water mark goes up and up
)

// Growth is how a process's descriptors grow.
type Growth struct {
	Rise      Rise
	PerSecond float64       // of the low-water mark; 0 unless Growing
	Since     time.Duration // monotonic, of the first of the marks that rise
	From      uint64        // and their first
	Bucket    time.Duration // the length of the buckets whose marks rise
}

// trend keeps low-water marks at every scale. A bucket of the finest scale lasts a
// second, or from one reading to the next where that is longer; one of another
// scale is two of the scale below.
type trend struct {
	rings   [scales]ring
	pending [scales]mark // [i]: the first half of the next bucket of scale i
	half    uint16       // bit i: there is a pending[i]
	rise    [scales]Rise // as of the last mark of each scale
	steps   [scales]uint8
	start   time.Duration // of the last bucket of the finest scale
}

// ring holds the last marks of one scale, and the highest of those before.
type ring struct {
	marks [marks]mark
	n     uint32    // written so far
	peaks [2]uint32 // of the running period and the one before
}

// A count that moves within what it was in the last minutes is no news. Peaks are
// kept for periods of so many buckets of a scale; the longer the buckets, the fewer.
func period(scale int) uint32 { return max(uint32(10*time.Minute/finest)>>scale, 32) }

// mark is the least count of one bucket, and when it was first that low, in
// milliseconds of CLOCK_MONOTONIC. They wrap after 49 days, and are only compared
// over hours.
type mark struct {
	ms, low uint32
}

func makeMark(at time.Duration, count uint64) mark {
	return mark{uint32(at / time.Millisecond), uint32(min(count, math.MaxUint32))}
}

// after is how long m was after an earlier mark.
func (m mark) after(earlier mark) time.Duration {
	return time.Duration(m.ms-earlier.ms) * time.Millisecond
}

func newTrend(at time.Duration, count uint64) *trend {
	t := &trend{start: at}
	t.rings[0].push(0, makeMark(at, count))
	return t
}

func (r *ring) push(scale int, m mark) {
	if old := &r.marks[r.n%marks]; r.n >= marks {
		if (r.n-marks)%period(scale) == 0 {
			r.peaks[0], r.peaks[1] = 0, r.peaks[0]
		}
		r.peaks[0] = max(r.peaks[0], old.low)
	}
	r.marks[r.n%marks] = m
	r.n++
}

func (r *ring) len() int { return int(min(r.n, marks)) }

// last returns the i-th mark from the end; 0 is the newest.
func (r *ring) last(i int) *mark { return &r.marks[(r.n-1-uint32(i))%marks] }

// observe takes the least count since the reading before, and the time of a reading.
func (t *trend) observe(at time.Duration, m mark) {
	newest := t.rings[0].last(0)
	if at-t.start < finest {
		if m.low < newest.low {
			*newest = m
		}
		return
	}
	done := *newest
	t.start = at
	t.push(0, m)
	for i := 1; i < scales; i++ {
		bit := uint16(1) << i
		t.half ^= bit
		if t.half&bit != 0 {
			t.pending[i] = done
			return
		}
		if t.pending[i].low <= done.low {
			done = t.pending[i]
		}
		t.push(i, done)
	}
}

func (t *trend) push(scale int, m mark) {
	t.rings[scale].push(scale, m)
	t.rise[scale], t.steps[scale] = t.rings[scale].judge(scale)
}

// leastRise is by how much the marks of each scale must rise in all.
var leastRise = [scales]uint32{20, 20, 20, 12, 12, 12, 12, 8, 8, 8, 8}

// judge says how surely the newest marks rise, and over how many steps.
//
// Four steps up are growth, or six of which four go up; one of them may dip a
// little. Of marks in a random order, one in about a hundred looks so; hence the
// rise must also be large beside what counts of that size do by themselves (twice the
// square root of the count, which is how much independent arrivals and departures
// scatter), no single step may make most of it (something opened its files once),
// and the last marks must be above all that was in the last minutes.
func (r *ring) judge(scale int) (Rise, uint8) {
	least := leastRise[scale]
	switch {
	case r.rose(6, 4, least):
		return Growing, 6
	case r.rose(4, 3, least):
		return Growing, 4
	case r.rose(3, 3, least*3/4):
		return Climbs, 3
	case scale == 0 && r.len() > 2 && r.last(0).low >= r.last(1).low+1 && r.last(1).low >= r.last(2).low+1 &&
		r.last(0).low-r.last(2).low >= 5:
		return Stirs, 2
	}
	return Flat, 0
}

// rose tells whether so many of the last steps go up, by so much in all, evenly,
// and above what came before. One step may go down by an eighth of all.
func (r *ring) rose(steps, ups int, least uint32) bool {
	if r.len() <= steps {
		return false
	}
	first, last := r.last(steps).low, r.last(0).low
	if last <= first || last-first < max(least, uint32(2*math.Sqrt(float64(last)))) {
		return false
	}
	total := last - first
	up, down := 0, 0
	for i := range steps {
		newer, older := r.last(i).low, r.last(i+1).low
		switch {
		case newer > older:
			up++
			if newer-older > total-total/3 {
				return false
			}
		case newer < older:
			down++
			if down > 1 || older-newer > total/8 {
				return false
			}
		}
	}
	for i := steps + 1; i < r.len(); i++ {
		if r.last(i).low > r.last(2).low {
			return false
		}
	}
	return up >= ups && r.last(1).low > max(r.peaks[0], r.peaks[1])
}

// growth takes the finest scale that grows, else the surest rise there is.
func (t *trend) growth() (g Growth) {
	for i := range scales {
		if t.rise[i] <= g.Rise {
			continue
		}
		r, steps := &t.rings[i], int(t.steps[i])
		first, last := *r.last(steps), *r.last(0)
		elapsed := last.after(first)
		g = Growth{
			Rise:   t.rise[i],
			Since:  t.when(first),
			From:   uint64(first.low),
			Bucket: finest << i,
		}
		if g.Rise == Growing {
			g.PerSecond = Round(float64(last.low-first.low) / elapsed.Seconds())
			return g
		}
	}
	return g
}

// lowest is the least of the marks that were made from one instant on, up to and
// with another. False where there is none.
func (t *trend) lowest(from, to time.Duration) (low uint64, ok bool) {
	low = math.MaxUint64
	for i := range t.rings {
		r := &t.rings[i]
		for j := range r.len() {
			m := r.last(j)
			if at := t.when(*m); at >= from && at <= to && uint64(m.low) <= low {
				low, ok = uint64(m.low), true
			}
		}
	}
	return low, ok
}

// when is the monotonic time of a mark.
func (t *trend) when(m mark) time.Duration {
	start := uint32(t.start / time.Millisecond)
	return t.start + time.Duration(int32(m.ms-start))*time.Millisecond
}
