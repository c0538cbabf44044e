package aggregate

import (
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

// Process is one process over time.
//
// What each reading looks at of a process in which nothing moves comes first, on one
// cache line: of most processes nothing else is touched.
type Process struct {
	Identity *sample.Identity // nil until the caller sets it
	trend    *trend           // nil until the count moves
	// Renew is set where the identity must be read (again): the process is new,
	// called exec or moved to another cgroup, or its source can't tell.
	Renew bool
	// Active is set where anything changed since the reading before, and for the
	// first reading.
	Active  bool
	quiet   bool // Rates are those of a process in which nothing moved
	watched bool // between or since was seen
	closely bool // between, and the interval before it, were watched

	sample.Process // the last reading

	// Rates are those of the last interval.
	Rates Rates

	born time.Duration // monotonic time since when fd_open is known
	// What was seen of fd_open between the last two readings, and since.
	between, since fdRange

	_ [56]byte // or of most processes the first fields would lie on two lines
}

// identityFields tell when an identity is void.
var identityFields = sample.SetOf(sample.ExecID, sample.CgroupID)

// fdRange is the least and the most that was seen.
type fdRange struct {
	low, high uint64
	lowAt     time.Duration
	seen      bool
}

// Rates are differences over time, in units a second.
type Rates struct {
	CPUCores    sample.Opt[float64]
	DiskRead    sample.Opt[float64]
	DiskWritten sample.Opt[float64]
	NetReceived sample.Opt[float64]
	NetSent     sample.Opt[float64]
}

// quiet are the rates of a process in which nothing moved, per set of what is
// known of it.
func quiet(known sample.FieldSet) Rates {
	zero := func(f sample.Field) sample.Opt[float64] { return record.SomeIf(0.0, known.Has(f)) }
	return Rates{
		CPUCores:    zero(sample.CPU),
		DiskRead:    zero(sample.DiskRead),
		DiskWritten: zero(sample.DiskWritten),
		NetReceived: zero(sample.NetReceived),
		NetSent:     zero(sample.NetSent),
	}
}

// advance takes the next reading of the same process, and tells whether its
// descriptors or its cgroup may be others than before.
func (p *Process) advance(now *sample.Process, at, elapsed time.Duration) (files bool) {
	if p.watched {
		p.closely = p.between.seen && p.since.seen
		p.between, p.since = p.since, fdRange{}
		p.watched = p.between.seen
	}
	if now.Since != 0 && now.Since == p.Since {
		return p.rest(at, elapsed)
	}
	keepSplit(now, &p.Process)
	p.Since = now.Since
	if *now == p.Process {
		return p.rest(at, elapsed)
	}
	before := &p.Process
	both := now.Known & before.Known
	rate := func(f sample.Field, n, b uint64) sample.Opt[float64] {
		if !both.Has(f) {
			return sample.Opt[float64]{}
		}
		return Sub(n, b).Per(elapsed)
	}
	p.Rates = Rates{
		CPUCores:    rate(sample.CPU, now.CPUNanos, before.CPUNanos),
		DiskRead:    rate(sample.DiskRead, now.DiskReadBytes, before.DiskReadBytes),
		DiskWritten: rate(sample.DiskWritten, now.DiskWrittenBytes, before.DiskWrittenBytes),
		NetReceived: rate(sample.NetReceived, now.NetReceivedBytes, before.NetReceivedBytes),
		NetSent:     rate(sample.NetSent, now.NetSentBytes, before.NetSentBytes),
	}
	if cores, ok := p.Rates.CPUCores.Get(); ok {
		p.Rates.CPUCores = record.Some(Round(cores / 1e9)) // nanoseconds a second
	}
	p.Renew = p.Identity == nil || !ended(now) && (!now.Known.HasAll(identityFields) ||
		now.ExecID != before.ExecID || now.CgroupID != before.CgroupID)
	p.observeFDs(now, at, elapsed)
	tables := sample.SetOf(sample.FDOpen, sample.FDTable)
	files = p.Renew || now.FDOpen != before.FDOpen || now.FDTable != before.FDTable ||
		(now.Known^before.Known)&tables != 0
	p.Process = *now
	p.Active, p.quiet = true, false
	return files
}

// rest takes a reading in which nothing moved.
func (p *Process) rest(at, elapsed time.Duration) (files bool) {
	p.Active = false
	if still := elapsed > 0; still != p.quiet || !still {
		p.Rates, p.quiet = Rates{}, still
		if still {
			p.Rates = quiet(p.Known)
		}
	}
	if p.trend != nil {
		p.trend.observe(at, p.lowFDs(p.FDOpen, at))
	}
	p.Renew = p.Identity == nil || !ended(&p.Process) && !p.Known.HasAll(identityFields)
	return p.Renew
}

// ended tells a zombie, of which /proc says no more who it was: it has no exe, and is in the
// root of all cgroups.
func ended(p *sample.Process) bool {
	return p.Known.Has(sample.State) && p.State == 'Z' && p.Known.Has(sample.Threads) && p.Threads <= 1
}

// isStill tells whether the next reading has nothing to do here if nothing moves.
func (p *Process) isStill() bool {
	return !p.Active && p.quiet && !p.Renew && !p.watched && p.trend == nil
}

// FDsRest tells whether nothing of its descriptors changed since the reading before,
// and their count never moved.
func (p *Process) FDsRest() bool { return !p.Active && p.trend == nil }

// IsStill tells whether what Identity says may be said of a later reading of the
// process too: it neither called exec nor moved to another cgroup, as far as both
// readings know.
func (p *Process) IsStill(later *sample.Process) bool {
	both := p.Known & later.Known
	return !(both.Has(sample.ExecID) && p.ExecID != later.ExecID) &&
		!(both.Has(sample.CgroupID) && p.CgroupID != later.CgroupID)
}

// keepSplit keeps user and system time from going back. Their sum is exact, their
// shares are estimated anew at each reading, so a share may shrink; the kernel
// holds it still for /proc in the same way (kernel/sched/cputime.c,
// cputime_adjust).
func keepSplit(now, before *sample.Process) {
	split := sample.SetOf(sample.CPU, sample.CPUUser, sample.CPUSystem)
	if !(now.Known & before.Known).HasAll(split) || now.CPUNanos < before.CPUNanos ||
		now.CPUUserNanos+now.CPUSystemNanos != now.CPUNanos ||
		before.CPUUserNanos+before.CPUSystemNanos != before.CPUNanos {
		return
	}
	if now.CPUSystemNanos < before.CPUSystemNanos {
		now.CPUSystemNanos = before.CPUSystemNanos
		now.CPUUserNanos = now.CPUNanos - now.CPUSystemNanos
	}
	if now.CPUUserNanos < before.CPUUserNanos {
		now.CPUUserNanos = before.CPUUserNanos
		now.CPUSystemNanos = now.CPUNanos - now.CPUUserNanos
	}
}

func (p *Process) observeFDs(now *sample.Process, at, elapsed time.Duration) {
	if !now.Known.Has(sample.FDOpen) {
		p.trend = nil
		return
	}
	if !p.Known.Has(sample.FDOpen) {
		p.born = at
	}
	if p.trend == nil && p.Known.Has(sample.FDOpen) && now.FDOpen != p.FDOpen {
		p.trend = newTrend(at-elapsed, p.FDOpen)
	}
	if p.trend != nil {
		p.trend.observe(at, p.lowFDs(now.FDOpen, at))
	}
}

// lowFDs is the least that was open since the reading before, if it was watched. Of
// the first interval that was, only the reading counts: its least is what was open at
// its beginning, and a count that rises would seem to stand still.
func (p *Process) lowFDs(now uint64, at time.Duration) mark {
	if p.closely && p.between.low < now {
		return makeMark(p.between.lowAt, p.between.low)
	}
	return makeMark(at, now)
}

// ObserveFD takes a count that was read between two snapshots, at a monotonic time.
func (p *Process) ObserveFD(n uint64, at time.Duration) {
	if !p.since.seen {
		p.since, p.watched = fdRange{n, n, at, true}, true
	}
	if n < p.since.low {
		p.since.low, p.since.lowAt = n, at
	}
	p.since.high = max(p.since.high, n)
}

// FDRange returns the least and the most descriptors that were open since the
// reading before, unknown unless somebody looked in between.
func (p *Process) FDRange() (low, high sample.Opt[uint64]) {
	if !p.between.seen || !p.Known.Has(sample.FDOpen) {
		return low, high
	}
	return record.Some(min(p.between.low, p.FDOpen)), record.Some(max(p.between.high, p.FDOpen))
}

// FDRatio is the share of the soft limit that is open, unknown where there is no
// limit.
func (p *Process) FDRatio() sample.Opt[float64] {
	if !p.Known.HasAll(sample.SetOf(sample.FDOpen, sample.FDLimit)) || p.FDLimit == 0 || p.FDLimit == sample.Unlimited {
		return sample.Opt[float64]{}
	}
	return record.Some(Round(float64(p.FDOpen) / float64(p.FDLimit)))
}

// FDGrowth is how fast the low-water mark of open descriptors rises, in
// descriptors a second, and how long the soft limit lasts at that rate. Growth is
// unknown until the process was watched for a while, and the time unknown where
// nothing grows or nothing limits.
func (p *Process) FDGrowth(at time.Duration) (perSecond, secondsToLimit sample.Opt[float64]) {
	if !p.Known.Has(sample.FDOpen) {
		return perSecond, secondsToLimit
	}
	g := p.FDTrend().PerSecond
	if g == 0 && at-p.born < enough {
		return perSecond, secondsToLimit
	}
	return record.Some(g), p.FDSecondsToLimit(g)
}

// FDSecondsToLimit is how long the soft limit lasts at a rate of descriptors a
// second, unknown where nothing grows or nothing limits.
func (p *Process) FDSecondsToLimit(perSecond float64) (seconds sample.Opt[float64]) {
	if perSecond <= 0 || !p.Known.HasAll(sample.SetOf(sample.FDOpen, sample.FDLimit)) || p.FDLimit == sample.Unlimited {
		return seconds
	}
	left := float64(p.FDLimit) - float64(p.FDOpen)
	return record.Some(Round(max(left, 0) / perSecond))
}

// FDTrend says how surely and how fast the open descriptors grow: Flat for a count
// that never moved or is unknown.
func (p *Process) FDTrend() Growth {
	if p.trend == nil {
		return Growth{}
	}
	return p.trend.growth()
}

// FDLowest is the least that was open from one monotonic time to another, as far
// as it is remembered: seconds are for ten of them, hours to about a quarter of
// one. False where nothing is.
func (p *Process) FDLowest(from, to time.Duration) (uint64, bool) {
	if !p.Known.Has(sample.FDOpen) {
		return 0, false
	}
	if p.trend == nil {
		return p.FDOpen, p.born <= to
	}
	return p.trend.lowest(from, to)
}
