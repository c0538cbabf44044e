package fdcheck

import (
	"fmt"
	"math"

	"rmagent/internal/policy"
	"rmagent/record"
)

// Defaults of a request.
const (
	DefaultOverhead = 10  // libraries, log files, epoll and the like
	DefaultMargin   = 0.2 // so that use stays below 80 % of the limit
)

// MaxCount bounds each count of a request: more than a kernel can open.
const MaxCount = 1 << 40

// Request is what somebody is about to open.
type Request struct {
	Files    uint64
	Sockets  uint64
	Overhead uint64
	// Margin is the share of the limit that must stay free.
	Margin float64
	// Thresholds say which state a ratio is.
	Thresholds policy.Threshold
}

// NewRequest is a request for so many files, with the defaults.
func NewRequest(files uint64) Request {
	return Request{
		Files: files, Overhead: DefaultOverhead, Margin: DefaultMargin,
		Thresholds: policy.Default().Thresholds[policy.FD],
	}
}

// Validate names the first value that is out of range.
func (q *Request) Validate() error {
	for _, c := range []struct {
		name  string
		value uint64
	}{{"files", q.Files}, {"sockets", q.Sockets}, {"overhead", q.Overhead}} {
		if c.value > MaxCount {
			return fmt.Errorf("%s %d: allowed are 0 to %d", c.name, c.value, uint64(MaxCount))
		}
	}
	if !(q.Margin > 0 && q.Margin < 1) { // nor NaN
		return fmt.Errorf("margin %v: allowed are shares above 0 and below 1, such as 0.2", q.Margin)
	}
	return nil
}

// Usage is where the process stands.
type Usage struct {
	PID        int32
	StartTicks uint64
	Comm       string

	None string // why it has no descriptors and gets none, and nothing else is known; empty: it may

	Open  record.Opt[uint64] // descriptors that take a place below the soft limit
	Limit record.Opt[uint64] // soft
	Hard  record.Opt[uint64]
	// Highest is fs.nr_open: no limit of a process can be above it.
	Highest record.Opt[uint64]
	Why     string // why one of these is unknown

	// Of the machine; HostLimit is unknown where there is none for this process.
	HostOpen  record.Opt[uint64]
	HostLimit record.Opt[uint64]

	Unit      string // systemd unit that the process belongs to, or empty
	Container string // id of its container, or empty
}

// The limits.
const (
	limitOfProcess = "RLIMIT_NOFILE"
	limitOfHost    = "fs.file-max"
)

// Judge answers a valid request.
func Judge(u *Usage, q *Request) record.FDCheck {
	c := record.FDCheck{
		PID: u.PID, StartTicks: u.StartTicks, Comm: u.Comm,
		Files: q.Files, Sockets: q.Sockets, Overhead: q.Overhead,
		Required:    q.Files + q.Sockets + q.Overhead,
		MarginRatio: q.Margin,
		Open:        u.Open, Limit: u.Limit, HardLimit: u.Hard, LimitedBy: limitOfProcess,
		Raise: []string{},
	}
	own, known := measure(u.Open, u.Limit, &c)
	host, hostKnown := measure(u.HostOpen, u.HostLimit, &c)
	if hostKnown && (known && host.ratio > own.ratio || !known && !host.safe) {
		c.Open, c.Limit, c.HardLimit, c.LimitedBy = u.HostOpen, u.HostLimit, record.Opt[uint64]{}, limitOfHost
		own, known = host, true
	}
	if known {
		c.Safe = record.Some(own.safe)
		c.Ratio = record.Some(own.ratio)
		c.State = record.Some(stateOf(&q.Thresholds, own.ratio))
		c.Batch = record.Some(own.batch)
	}
	explain(&c, u)
	return c
}

// measured is a request against one limit.
type measured struct {
	ratio float64
	safe  bool
	batch uint64
}

func measure(open, limit record.Opt[uint64], c *record.FDCheck) (measured, bool) {
	n, okOpen := open.Get()
	l, okLimit := limit.Get()
	if !okOpen || !okLimit {
		return measured{}, false
	}
	most := mostSafe(l, c.MarginRatio)
	taken := n + c.Sockets + c.Overhead
	return measured{
		ratio: float64(n+c.Required) / float64(max(l, 1)),
		safe:  n+c.Required <= most && l > 0,
		batch: most - min(most, taken),
	}, true
}

// mostSafe is the largest number below (1 - margin) * limit.
func mostSafe(limit uint64, margin float64) uint64 {
	const digits = 1e6 // so that 0.9 * 1000 is 900
	below := math.Ceil(math.Round(float64(limit)*(1-margin)*digits) / digits)
	return uint64(max(below-1, 0))
}

// enough is the least limit, as people write limits, under which a request is safe.
func enough(c *record.FDCheck) uint64 {
	wanted := c.Open.Or(0) + c.Required
	limit := uint64(1024)
	for mostSafe(limit, c.MarginRatio) < wanted {
		limit *= 2
	}
	return limit
}

func stateOf(t *policy.Threshold, ratio float64) record.State {
	switch {
	case ratio >= t.Critical:
		return record.StateCritical
	case ratio >= t.Warning:
		return record.StateWarning
	case ratio >= t.Info:
		return record.StateInfo
	}
	return record.StateNormal
}
