package aggregate

import (
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

// Process is one process over time.
type Process struct {
	sample.Process // the last reading

	Identity *sample.Identity // nil until the caller sets it
	// Renew is set where the identity must be read (again): the process is new,
	// called exec or moved to another cgroup, or its source can't tell.
	Renew bool
	// Active is set where anything changed since the reading before, and for the
	// first reading.
	Active bool
	// Rates are those of the last interval.
	Rates Rates

	trend *trend        // nil until the count moves
	born  time.Duration // monotonic time since when fd_open is known
	quiet bool          // Rates are those of a process in which nothing moved
	// What was seen of fd_open between the last two readings, and since.
	between, since fdRange
}

// identityFields tell when an identity is void.
var identityFields = sample.SetOf(sample.ExecID, sample.CgroupID)

// fdRange is the least and the most that was seen.
type fdRange struct {
	low, high uint64
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
	p.between, p.since = p.since, fdRange{}
	keepSplit(now, &p.Process)
	if *now == p.Process {
		p.Active = false
		if still := elapsed > 0; still != p.quiet || !still {
			p.Rates, p.quiet = Rates{}, still
			if still {
				p.Rates = quiet(p.Known)
			}
		}
		if p.trend != nil {
			p.trend.observe(at, p.FDOpen)
		}
		p.Renew = p.Identity == nil || !p.Known.HasAll(identityFields)
		return p.Renew
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
	p.Renew = p.Identity == nil || !now.Known.HasAll(identityFields) ||
		now.ExecID != before.ExecID || now.CgroupID != before.CgroupID
	p.observeFDs(now, at, elapsed)
	tables := sample.SetOf(sample.FDOpen, sample.FDTable)
	files = p.Renew || now.FDOpen != before.FDOpen || now.FDTable != before.FDTable ||
		(now.Known^before.Known)&tables != 0
	p.Process = *now
	p.Active, p.quiet = true, false
	return files
}

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
		p.trend.observe(at, now.FDOpen)
	}
}

// ObserveFD takes a count that was read between two snapshots.
func (p *Process) ObserveFD(n uint64) {
	if !p.since.seen {
		p.since = fdRange{n, n, true}
	}
	p.since.low, p.since.high = min(p.since.low, n), max(p.since.high, n)
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
	if !p.Known.Has(sample.FDOpen) || at-p.born < enough*bucket {
		return perSecond, secondsToLimit
	}
	if p.trend == nil {
		return record.Some(0.0), secondsToLimit
	}
	g, ok := p.trend.growth()
	if !ok {
		return perSecond, secondsToLimit
	}
	if g > 0 && p.Known.Has(sample.FDLimit) && p.FDLimit != sample.Unlimited {
		left := float64(p.FDLimit) - float64(p.FDOpen)
		secondsToLimit = record.Some(Round(max(left, 0) / g))
	}
	return record.Some(g), secondsToLimit
}
