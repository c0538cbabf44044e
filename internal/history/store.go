package history

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"rmagent/record"
)

// Defaults.
const (
	DefaultKeep   = time.Hour
	DefaultPoints = 3600 // of each series
	DefaultSeries = 64
)

// Options bound what a Store remembers; 0 is the default.
type Options struct {
	Keep   time.Duration
	Points int
	Series int // at most; each point takes 24 bytes
}

// Store remembers. Its methods may be called by many goroutines, and none waits.
type Store struct {
	keep    time.Duration
	spacing time.Duration
	points  int
	most    int

	mu       sync.Mutex
	series   map[name]*series
	mounts   []string // targets by place in the last record: see mount
	since    time.Time
	newest   time.Time
	warning  map[string]uint64 // by resource
	critical map[string]uint64
	refused  uint64 // readings of series for which there was no room
}

// name is a series'.
type name struct{ resource, target string }

// point is one reading.
type point struct {
	at    int64 // Unix nanoseconds
	value float64
	ratio float32 // negative: unknown
}

// series is one resource of one target.
type series struct {
	unit  string
	ring  []point // grows to its bound, then the oldest is overwritten
	first int     // the oldest
	at    int64   // Unix nanoseconds of the last reading, by the clock as it is now

	readings          uint64
	sum               float64
	peak              point
	warning, critical uint64
}

// New returns a Store that remembers nothing yet.
func New(o Options) *Store {
	s := &Store{
		keep: cmp.Or(o.Keep, DefaultKeep), points: cmp.Or(o.Points, DefaultPoints), most: cmp.Or(o.Series, DefaultSeries),
		series: map[name]*series{}, warning: map[string]uint64{}, critical: map[string]uint64{},
	}
	s.spacing = s.keep / time.Duration(s.points)
	return s
}

// add takes one reading; ratio is negative where it is unknown. mu is held.
func (s *Store) add(at time.Time, n name, unit string, value, ratio float64) {
	x := s.series[n]
	if x == nil {
		if len(s.series) >= s.most && !s.evict(at) {
			s.refused++
			return
		}
		x = &series{unit: unit}
		s.series[n] = x
	}
	p := point{at.UnixNano(), value, float32(ratio)}
	x.at = p.at
	x.readings++
	x.sum += value
	if x.readings == 1 || value > x.peak.value {
		x.peak = p
	}
	// Nearly a spacing will do: ticks are not that exact.
	if last, ok := x.last(); ok && p.at-last.at < int64(s.spacing)*9/10 {
		return
	}
	if len(x.ring) < s.points {
		x.ring = append(x.ring, p)
		return
	}
	x.ring[x.first] = p
	x.first = (x.first + 1) % len(x.ring)
}

func (x *series) last() (point, bool) {
	if len(x.ring) == 0 {
		return point{}, false
	}
	return x.ring[(x.first+len(x.ring)-1)%len(x.ring)], true
}

// evict forgets a series whose last reading is older than what is kept: a filesystem that
// was unmounted, a card that is gone. It tells whether there was one.
func (s *Store) evict(now time.Time) bool {
	for n, x := range s.series {
		if now.UnixNano()-x.at > int64(s.keep) {
			delete(s.series, n)
			return true
		}
	}
	return false
}

// History returns the last count points of a resource, all where count is 0; ok is
// false where nothing is known of it. An empty target is the host.
func (s *Store) History(resource, target string, count int) (h record.History, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := name{resource, cmp.Or(target, host)}
	x := s.series[n]
	if x == nil {
		return record.History{}, false
	}
	h = record.History{Resource: n.resource, Target: n.target, Unit: x.unit, Points: []record.HistoryPoint{}}
	skip := 0
	if count > 0 {
		skip = max(len(x.ring)-count, 0)
	}
	oldest := s.newest.Add(-s.keep).UnixNano()
	for i := skip; i < len(x.ring); i++ {
		if p := x.ring[(x.first+i)%len(x.ring)]; p.at >= oldest {
			h.Points = append(h.Points, record.HistoryPoint{Time: at(p), Value: p.value, Ratio: ratioOf(p)})
		}
	}
	return h, true
}

func at(p point) time.Time { return time.Unix(0, p.at).UTC() }

func ratioOf(p point) record.Opt[float64] { return record.SomeIf(float64(p.ratio), p.ratio >= 0) }

// Resources names the series that there are, in the order of their names.
func (s *Store) Resources() (list []record.History) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, x := range s.series {
		list = append(list, record.History{Resource: n.resource, Target: n.target, Unit: x.unit})
	}
	slices.SortFunc(list, func(a, b record.History) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Target, b.Target))
	})
	return list
}

// Stats returns peaks, averages and events since the start or the last Reset.
func (s *Store) Stats() record.Stats {
	list := s.Resources()
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := record.Stats{Since: s.since, Resources: []record.ResourceStats{}, WarningEvents: clone(s.warning), CriticalEvents: clone(s.critical)}
	for _, h := range list {
		x := s.series[name{h.Resource, h.Target}]
		if x == nil || x.readings == 0 {
			continue
		}
		stats.Resources = append(stats.Resources, record.ResourceStats{
			Resource: h.Resource, Target: h.Target, Unit: x.unit, Readings: x.readings, Average: x.sum / float64(x.readings),
			Peak: x.peak.value, PeakRatio: ratioOf(x.peak), PeakTime: at(x.peak), WarningEvents: x.warning, CriticalEvents: x.critical,
		})
	}
	return stats
}

func clone(m map[string]uint64) map[string]uint64 {
	c := make(map[string]uint64, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

// Reset begins peaks, averages and events anew. Points stay.
func (s *Store) Reset(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = now.UTC()
	clear(s.warning)
	clear(s.critical)
	for _, x := range s.series {
		x.readings, x.sum, x.peak, x.warning, x.critical = 0, 0, point{}, 0, 0
	}
}

// Refused counts readings for which there was no room.
func (s *Store) Refused() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}
