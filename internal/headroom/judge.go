package headroom

import (
	"math"
	"slices"

	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
	"rmagent/record"
)

// row is a limit before it is judged.
type row struct {
	record.HeadroomLimit
	counter sample.Opt[float64] // of a limit on a speed: what its use is the growth of
	seconds bool                // counter's growth is in seconds, so used is per second
}

// Evaluate judges every limit that applies to a process. before may be nil, or
// facts of the same process from a while ago: then rates are known.
func Evaluate(before, now *Facts) record.Headroom {
	h := record.Headroom{
		PID:        now.ID.PID,
		StartTicks: now.ID.StartTicks,
		StartTime:  now.StartTime,
		Comm:       now.Comm,
		UID:        now.RealUID,
		Cgroup:     known(now.Cgroup),
		Limits:     limits(before, now),
	}
	h.ContainerID = known(hostfs.ContainerOf(now.Cgroup))
	h.Unit = known(hostfs.UnitOf(now.Cgroup))
	h.FirstInSpace, h.FirstInTime = first(h.Limits)
	h.Overcommit = overcommit(now, h.Limits)
	return h
}

// Machine judges only the limits that all processes share; f needs only its
// Machine and At, before may be nil.
func Machine(before, now *Facts) []record.HeadroomLimit {
	var old []row
	if before != nil {
		old = machineRows(before)
	}
	return judge(old, machineRows(now), seconds(before, now))
}

func known(s string) record.Opt[string] { return record.SomeIf(s, s != "") }

func limits(before, now *Facts) []record.HeadroomLimit {
	var old []row
	if before != nil && before.ID == now.ID {
		old = rows(before)
	}
	return judge(old, rows(now), seconds(before, now))
}

func seconds(before, now *Facts) float64 {
	if before == nil {
		return 0
	}
	return (now.At - before.At).Seconds()
}

// rows lists every limit that applies, the narrowest scope first.
func rows(f *Facts) []row {
	all := processRows(f)
	all = append(all, userRows(f)...)
	all = append(all, cgroupRows(f)...)
	all = append(all, filesystemRows(f)...)
	all = append(all, gpuRows(f)...)
	return append(all, machineRows(f)...)
}

// judge derives the rates from two readings of the same rows, and what follows
// from them.
func judge(before, now []row, elapsed float64) []record.HeadroomLimit {
	out := make([]record.HeadroomLimit, len(now))
	for i := range now {
		r := &now[i]
		j := slices.IndexFunc(before, func(b row) bool { return b.Name == r.Name && b.Scope == r.Scope })
		if j >= 0 && elapsed > 0 {
			rate(&before[j], r, elapsed)
		}
		finish(&r.HeadroomLimit)
		out[i] = r.HeadroomLimit
	}
	return out
}

// rate sets what two readings tell: how fast use grows, or for a limit on a
// speed, the use.
func rate(before, now *row, elapsed float64) {
	if now.seconds {
		a, okA := before.counter.Get()
		b, okB := now.counter.Get()
		if okA && okB && b >= a {
			now.Used = record.Some((b - a) / elapsed)
			now.Why = ""
		}
		return
	}
	a, okA := before.Used.Get()
	b, okB := now.Used.Get()
	now.RatePerSecond = record.SomeIf((b-a)/elapsed, okA && okB)
}

// finish sets what follows from use, limit and rate.
func finish(l *record.HeadroomLimit) {
	used, okUsed := l.Used.Get()
	limit, okLimit := l.Limit.Get()
	if okUsed && okLimit && !l.Available.Known() {
		l.Available = record.Some(max(0, limit-used))
	}
	l.Known = l.Why == "" && okUsed
	available, ok := l.Available.Get()
	if !ok || !okLimit {
		return
	}
	switch {
	case limit > 0:
		l.UsedRatio = record.Some(min(1, max(0, 1-available/limit)))
	case used > 0:
		l.UsedRatio = record.Some(1.0)
	}
	rate, okRate := l.RatePerSecond.Get()
	if okRate && rate > 0 {
		l.SecondsToLimit = record.Some(available / rate)
	}
}

// first names the limit with the least share left, and the one with the fewest
// seconds. Of equals, the narrowest scope is first: limits are in that order.
func first(limits []record.HeadroomLimit) (inSpace, inTime *record.HeadroomLimit) {
	most, least := math.Inf(-1), math.Inf(1)
	for i := range limits {
		l := &limits[i]
		if !l.Known {
			continue
		}
		if ratio, ok := l.UsedRatio.Get(); ok && ratio > most {
			most, inSpace = ratio, l
		}
		if s, ok := l.SecondsToLimit.Get(); ok && s < least {
			least, inTime = s, l
		}
	}
	return clone(inSpace), clone(inTime)
}

func clone(l *record.HeadroomLimit) *record.HeadroomLimit {
	if l == nil {
		return nil
	}
	c := *l
	return &c
}
