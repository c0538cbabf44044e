package job

import (
	"fmt"
	"time"

	"rmagent/internal/cctools"
	"rmagent/internal/sample"
)

// Meter makes cctools' measures of readings: what a job uses now, and the most that it
// ever did. It reads no clock and, but for what share tells it, no file.
type Meter struct {
	// Now is the last reading.
	Now cctools.Measures
	// Shared says that processes share memory: Now has what they have at least.
	Shared bool
	// Most has totals, and the highest values of what goes up and down.
	Most cctools.Measures
	// Times says when, in seconds since the start, each value of Most was reached.
	Times cctools.Measures

	begin     time.Duration
	totals    sample.JobTotals
	hidden    bool // the launcher's memory hides a process's own peak
	fdsFull   bool
	noGPUs    bool    // there are none
	gpusWhy   string  // what is unknown of them is
	gpusAt    float64 // when all was known of them, in seconds since the start
	gpusGap   string  // why it was unknown for too long
	cores     cctools.CoresWindow
	bandwidth cctools.BandwidthWindow
	summer    *summer
}

// NewMeter begins at a time on CLOCK_BOOTTIME.
func NewMeter(begin time.Duration) *Meter {
	return &Meter{begin: begin, summer: newSummer()}
}

// Sharer tells what processes share, where it may be asked: it costs the kernel a walk
// over all their pages. Nil can tell nothing.
type Sharer func(pid int32) (Shares, bool)

// Add takes a reading.
func (m *Meter) Add(r *Reading, share Sharer) {
	m.totals = risen(m.totals, r.Totals)
	seconds := max(0, r.Boottime-m.begin).Seconds()
	m.Now = cctools.Measures{}
	m.addTotals(seconds)
	m.addTree(r, share)
	m.addGPUs(&r.GPUs, len(r.Processes), seconds)
	m.Most.Raise(&m.Now, &m.Times, seconds)
	m.addPeaks(r, seconds)
}

// AddMore takes measures that no tracker tells, at the time of the last reading.
func (m *Meter) AddMore(more *cctools.Measures) {
	at, _ := m.Now.Get(cctools.WallTime)
	for id := range cctools.Measure(cctools.NumMeasures) {
		if v, ok := more.Get(id); ok {
			m.Now.Set(id, v)
		}
	}
	m.Most.Raise(more, &m.Times, at)
}

func (m *Meter) addTotals(seconds float64) {
	t, now := &m.totals, &m.Now
	now.Set(cctools.WallTime, seconds)
	now.Set(cctools.CPUTime, t.CPU.Seconds())
	now.Set(cctools.Cores, m.cores.Add(seconds, t.CPU.Seconds()))
	if seconds > 0 {
		now.Set(cctools.CoresAvg, t.CPU.Seconds()/seconds)
	}
	now.SetBytes(cctools.BytesRead, t.ReadBytes)
	now.SetBytes(cctools.BytesWritten, t.WrittenBytes)
	now.SetBytes(cctools.BytesReceived, t.Received)
	now.SetBytes(cctools.BytesSent, t.Sent)
	now.Set(cctools.Bandwidth, m.bandwidth.Add(seconds, t.Received+t.Sent))
	now.SetCount(cctools.ContextSwitches, t.Voluntary+t.Forced)
	now.SetCount(cctools.MaxConcurrentProcesses, t.Now)
	now.SetCount(cctools.TotalProcesses, t.Processes)
	now.SetCount(cctools.MinorFaults, t.MinorFlt)
	now.SetCount(cctools.MajorFaults, t.MajorFlt)
	now.Set(cctools.RunDelay, t.RunDelay.Seconds())
}

func (m *Meter) addTree(r *Reading, share Sharer) {
	t := m.summer.sum(r.Processes)
	m.Shared = t.shared
	if t.shared {
		t.memory = m.once(r.Processes, share)
	}
	m.Now.SetBytes(cctools.Memory, t.memory)
	m.Now.SetBytes(cctools.VirtualMemory, t.virtual)
	m.Now.SetBytes(cctools.SwapMemory, t.swap)
	m.Now.SetCount(cctools.OpenFiles, t.fds)
	m.fdsFull = m.fdsFull || t.fdsFull != 0 || r.Totals.FDsFull > 0

	// What one process had at some time, the tree had at least.
	var one cctools.Measures
	one.SetBytes(cctools.Memory, max(t.peak, r.Totals.PeakBytes))
	one.SetBytes(cctools.VirtualMemory, max(t.peakVirtual, r.Totals.PeakVirtual))
	one.SetCount(cctools.OpenFiles, r.Totals.PeakFDs)
	at, _ := m.Now.Get(cctools.WallTime)
	m.Most.Raise(&one, &m.Times, at)
}

// once is memory with what is shared counted once, or what there is at least.
func (m *Meter) once(processes []sample.JobProcess, share Sharer) uint64 {
	if share != nil {
		if memory, ok := m.summer.proportional(processes, share); ok {
			return memory
		}
	}
	return m.summer.least(processes)
}

// addPeaks takes what the kernel counted at the moment when it happened.
func (m *Meter) addPeaks(r *Reading, seconds float64) {
	t := &r.Totals
	m.hidden = m.hidden || t.Hidden > 0
	if most, _ := m.Most.Get(cctools.MaxConcurrentProcesses); t.Most > 0 && float64(t.Most) >= most {
		m.Most.SetCount(cctools.MaxConcurrentProcesses, t.Most)
		if t.MostAt > 0 {
			seconds = max(0, t.MostAt-m.begin).Seconds()
		}
		m.Times.Set(cctools.MaxConcurrentProcesses, seconds)
	}
}

// risen is b, but for sums that a thread left between two looks: totals only grow.
func risen(a, b sample.JobTotals) sample.JobTotals {
	b.CPU, b.User, b.System = max(a.CPU, b.CPU), max(a.User, b.User), max(a.System, b.System)
	b.RunDelay = max(a.RunDelay, b.RunDelay)
	b.MinorFlt, b.MajorFlt = max(a.MinorFlt, b.MinorFlt), max(a.MajorFlt, b.MajorFlt)
	b.Voluntary, b.Forced = max(a.Voluntary, b.Voluntary), max(a.Forced, b.Forced)
	b.ReadBytes, b.WrittenBytes = max(a.ReadBytes, b.ReadBytes), max(a.WrittenBytes, b.WrittenBytes)
	b.DiskRead, b.DiskWritten = max(a.DiskRead, b.DiskRead), max(a.DiskWritten, b.DiskWritten)
	b.Received, b.Sent = max(a.Received, b.Received), max(a.Sent, b.Sent)
	b.Processes, b.Threads = max(a.Processes, b.Processes), max(a.Threads, b.Threads)
	b.OOMKills, b.Lost = max(a.OOMKills, b.OOMKills), max(a.Lost, b.Lost)
	b.HiddenBytes = max(a.HiddenBytes, b.HiddenBytes)
	return b
}

// Totals returns what the job did in all.
func (m *Meter) Totals() sample.JobTotals { return m.totals }

// Summarize fills in what the meter knows of a summary; worth says what the tracker's
// measures are worth.
func (m *Meter) Summarize(s *cctools.Summary, worth func(cctools.Measure) (cctools.Exactness, string)) {
	s.Measures, s.PeakTimes = m.Most, m.Times
	s.Why = map[cctools.Measure]string{}
	for id := range cctools.Measure(cctools.NumMeasures) {
		s.Exactness[id], s.Why[id] = m.worth(id, worth)
		if s.Exactness[id] == cctools.Unknown {
			s.Measures.Clear(id)
			s.PeakTimes.Clear(id)
		}
		if s.Why[id] == "" {
			delete(s.Why, id)
		}
	}
	s.OOMKills = m.totals.OOMKills
	m.explain(s)
	s.Finish()
}

func (m *Meter) worth(id cctools.Measure, worth func(cctools.Measure) (cctools.Exactness, string)) (cctools.Exactness, string) {
	if id == cctools.GPUs || id == cctools.GPUMemory {
		return m.gpusWorth(id)
	}
	if !m.Most.Known(id) {
		_, why := worth(id)
		return cctools.Unknown, why
	}
	e, why := worth(id)
	switch {
	case e == cctools.Unknown:
	case m.totals.Lost > 0 && id != cctools.WallTime:
		return cctools.AtLeast, fmt.Sprintf("%d tasks could not be told from others", m.totals.Lost)
	case id == cctools.Memory && m.hidden:
		return cctools.AtLeast, fmt.Sprintf("of a process only the bound of %d MB is known, which is the launcher's own", m.totals.HiddenBytes>>20)
	case id == cctools.Memory && e == cctools.Sampled && m.totals.Most == 1 && exactly(worth, cctools.MaxConcurrentProcesses):
		return cctools.Exact, "" // the tree was one process, whose mark the kernel keeps
	}
	return e, why
}

func exactly(worth func(cctools.Measure) (cctools.Exactness, string), id cctools.Measure) bool {
	e, _ := worth(id)
	return e == cctools.Exact
}

// Errors that a resource that ran out causes (errno.h).
const (
	errnoNoMemory     = 12
	errnoTooManyFiles = 24
)

// explain says what exit type and status don't.
func (m *Meter) explain(s *cctools.Summary) {
	switch {
	case m.totals.OOMKills > 0:
		s.LastError = errnoNoMemory
		s.Cause = fmt.Sprintf("the OOM killer ended %d of the job's processes", m.totals.OOMKills)
	case m.fdsFull:
		s.LastError = errnoTooManyFiles
		s.Cause = "a process had as many descriptors open as it may (RLIMIT_NOFILE): one more fails with EMFILE"
	}
}
