package history

import (
	"strconv"
	"time"

	"rmagent/record"
)

// host is the target that the machine is.
const host = "host"

// Observe learns from a record. Those that it has no use for cost a comparison.
func (s *Store) Observe(r record.Record) {
	switch r := r.(type) {
	case *record.Host:
		s.host(r)
	case *record.GPU:
		s.gpu(r)
	case *record.StateChange:
		s.crossed(r)
	}
}

// stepBack is how far back the times of records must go to be taken for another clock:
// those of one tick differ a little.
const stepBack = 5 * time.Second

// begin takes the time of a record. Points from before the clock was set back would lie
// in the future, so they are forgotten. mu is held.
func (s *Store) begin(at time.Time) {
	if s.since.IsZero() {
		s.since = at
	}
	if at.Before(s.newest.Add(-stepBack)) {
		for _, x := range s.series {
			x.ring, x.first, x.at = nil, 0, at.UnixNano()
		}
		s.newest = at
	}
	if at.After(s.newest) {
		s.newest = at
	}
}

// reading is one value and the limit that it is a share of.
type reading struct {
	resource, unit string
	value          record.Opt[float64]
	ratio          record.Opt[float64]
}

func (s *Store) take(at time.Time, target string, list []reading) {
	for _, x := range list {
		if v, ok := x.value.Get(); ok {
			s.add(at, name{x.resource, target}, x.unit, v, x.ratio.Or(-1))
		}
	}
}

func (s *Store) host(r *record.Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin(r.Time)
	s.take(r.Time, host, []reading{
		{"cpu", "percent", percent(r.CPURatio), r.CPURatio},
		{"memory", "bytes", record.Float(r.MemoryUsedBytes), share(r.MemoryUsedBytes, r.MemoryTotalBytes)},
		{"fd", "files", record.Float(r.FilesOpen), share(r.FilesOpen, r.FilesLimit)},
		{"pids", "threads", record.Float(r.Threads), share(r.Threads, r.PIDLimit)},
		{"network", "bytes_per_second", sum(r.NetReceivedBytesPerSecond, r.NetSentBytesPerSecond), record.Opt[float64]{}},
		{"pressure_cpu", "percent", percent(r.PressureCPUSomeRatio), r.PressureCPUSomeRatio},
		{"pressure_memory", "percent", percent(r.PressureMemorySomeRatio), r.PressureMemorySomeRatio},
		{"pressure_io", "percent", percent(r.PressureIOSomeRatio), r.PressureIOSomeRatio},
	})
	s.disks(r)
}

// mount names the i-th filesystem of a record; as a rule it is the one of the record before.
func (s *Store) mount(i int, path string) string {
	const prefix = "mount:"
	for len(s.mounts) <= i {
		s.mounts = append(s.mounts, prefix)
	}
	if s.mounts[i][len(prefix):] != path {
		s.mounts[i] = prefix + path
	}
	return s.mounts[i]
}

// disks takes each filesystem, and as the host's the one that is fullest.
func (s *Store) disks(r *record.Host) {
	fullest := reading{resource: "disk", unit: "bytes"}
	for i := range r.Filesystems {
		f := &r.Filesystems[i]
		used, limit := f.Space()
		if !used.Known() {
			continue
		}
		x := reading{"disk", "bytes", record.Float(used), share(used, limit)}
		if x.ratio.Or(-1) > fullest.ratio.Or(-1) {
			fullest = x
		}
		s.take(r.Time, s.mount(i, f.Path), []reading{x})
	}
	s.take(r.Time, host, []reading{fullest})
}

func (s *Store) gpu(r *record.GPU) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin(r.Time)
	target := "gpu:" + r.UUID.Or(strconv.Itoa(r.Index))
	s.take(r.Time, target, []reading{
		{"gpu", "percent", percent(r.UtilizationRatio), r.UtilizationRatio},
		{"gpu_memory", "bytes", record.Float(r.MemoryUsedBytes), share(r.MemoryUsedBytes, r.MemoryTotalBytes)},
	})
}

// crossed counts a crossing upwards.
func (s *Store) crossed(r *record.StateChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin(r.Time)
	x := s.series[name{r.Resource, r.Target}]
	switch {
	case r.State == record.StateWarning && r.Previous != record.StateCritical:
		s.warning[r.Resource]++
		if x != nil {
			x.warning++
		}
	case r.State == record.StateCritical:
		s.critical[r.Resource]++
		if x != nil {
			x.critical++
		}
	}
}

func percent(v record.Opt[float64]) record.Opt[float64] {
	n, ok := v.Get()
	return record.SomeIf(n*100, ok)
}

func share(v, of record.Opt[uint64]) record.Opt[float64] {
	n, ok := v.Get()
	limit, okLimit := of.Get()
	return record.SomeIf(float64(n)/float64(max(limit, 1)), ok && okLimit && limit > 0)
}

func sum(a, b record.Opt[float64]) record.Opt[float64] {
	x, okX := a.Get()
	y, okY := b.Get()
	return record.SomeIf(x+y, okX && okY)
}
