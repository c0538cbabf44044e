package htmlreport

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"rmagent/record"
)

const (
	maxProcesses  = 1 << 16 // watched at once
	withSeries    = 1 << 14 // of them with values over time
	processPoints = 64      // buckets of those
	topProcesses  = 10      // of each ranking
	lingering     = 5000    // milliseconds from an end until it counts: a reading that began before may still come
)

// processKey is who a process is.
type processKey struct {
	boot  *boot
	pid   int32
	ticks uint64
}

// process is what is kept of a process.
type process struct {
	key                     processKey
	comm                    string
	unit, cgroup, container string
	uid                     record.Opt[uint32]
	first, last             int64 // Unix milliseconds
	readings                int

	cpu, read, written, received, sent counter

	cores   peak
	rss     peak
	fds     peak
	fdLimit uint64 // when most were open; 0: unknown
	fdShare share
	fdLeft  record.Opt[float64] // seconds until none is left, by the last reading
	exit    *end

	coreSeries, rssSeries, fdSeries *series
}

// peak is the greatest value and when it was there.
type peak struct {
	value float64
	at    int64
	known bool
}

func (p *peak) add(v float64, at int64) bool {
	if p.known && v <= p.value {
		return false
	}
	*p = peak{v, at, true}
	return true
}

// counter is a counter that only grows, from the beginning of the recording.
type counter struct {
	base, last float64
	known      bool
}

// add takes the counter as it is. fresh: all of it was counted since the recording
// began.
func (c *counter) add(v float64, fresh bool) {
	if !c.known {
		c.known = true
		if !fresh {
			c.base = v
		}
	}
	c.last = max(c.last, v)
}

func (c *counter) value() float64 { return c.last - c.base }

// end is how a process ended.
type end struct {
	at     int64
	code   record.Opt[int32]
	signal record.Opt[int32]
	dumped bool
}

// processes keeps the processes that live, and of those that ended the greatest.
type processes struct {
	live     map[processKey]*process
	ended    []*process // in the order of their ends, still live
	rankings []*ranking
	nearest  *top[*process] // by the share of its descriptors
	seen     uint64         // processes in all
	evicted  uint64         // forgotten while they may have lived
	plotted  int            // live ones with series
}

// ranking is one order of processes.
type ranking struct {
	*top[*process]
	title, what string
}

func newProcesses() *processes {
	rank := func(title, what string, value func(*process) float64) *ranking {
		return &ranking{newTop(topProcesses, value), title, what}
	}
	return &processes{
		live:    map[processKey]*process{},
		nearest: newTop(topProcesses, func(p *process) float64 { return p.fdShare.ratio.value }),
		rankings: []*ranking{
			rank("CPU", "CPU time", func(p *process) float64 { return p.cpu.value() }),
			rank("Memory", "most resident", func(p *process) float64 { return p.rss.value }),
			rank("File descriptors", "most open", func(p *process) float64 { return p.fds.value }),
			rank("Disk", "read and written", func(p *process) float64 { return p.read.value() + p.written.value() }),
			rank("Network", "received and sent", func(p *process) float64 { return p.received.value() + p.sent.value() }),
		},
	}
}

// get returns the process, which may be new.
func (ps *processes) get(key processKey, ms int64) *process {
	if p := ps.live[key]; p != nil {
		return p
	}
	if len(ps.live) >= maxProcesses {
		ps.evict()
	}
	ps.seen++
	p := &process{key: key, first: ms, last: ms}
	ps.live[key] = p
	return p
}

// reading takes a reading of a process.
func (ps *processes) reading(b *boot, ms int64, f *record.ProcessFacts) *process {
	p := ps.get(processKey{b, f.PID, f.StartTicks}, ms)
	p.readings++
	p.last = max(p.last, ms)
	p.comm = clip(f.Comm, maxName)
	p.unit, p.container = clip(f.Unit.Or(p.unit), maxName), clip(f.ContainerID.Or(p.container), maxName)
	p.cgroup = clip(f.Cgroup.Or(p.cgroup), maxPath)
	p.uid = f.UID
	fresh := false
	if start, ok := f.StartTime.Get(); ok {
		fresh = !start.Before(time.UnixMilli(b.first))
	}
	for _, c := range [...]struct {
		to   *counter
		from record.Opt[uint64]
	}{
		{&p.read, f.DiskReadBytesTotal}, {&p.written, f.DiskWrittenBytesTotal},
		{&p.received, f.NetReceivedBytesTotal}, {&p.sent, f.NetSentBytesTotal},
	} {
		if v, ok := c.from.Get(); ok {
			c.to.add(float64(v), fresh)
		}
	}
	if v, ok := f.CPUSecondsTotal.Get(); ok {
		p.cpu.add(v, fresh)
	}
	ps.values(p, ms, f)
	return p
}

func (ps *processes) values(p *process, ms int64, f *record.ProcessFacts) {
	if p.coreSeries == nil && p.readings > 1 && ps.plotted < withSeries {
		ps.plotted++
		p.coreSeries, p.rssSeries, p.fdSeries = newSeries(processPoints), newSeries(processPoints), newSeries(processPoints)
	}
	if v, ok := f.CPUCores.Get(); ok {
		p.cores.add(v, ms)
		p.plot(p.coreSeries, ms, v)
	}
	if v, ok := f.RSSBytes.Get(); ok {
		p.rss.add(float64(v), ms)
		p.plot(p.rssSeries, ms, float64(v))
	}
	if v, ok := f.RSSPeakBytes.Get(); ok {
		p.rss.add(float64(v), ms)
	}
	if v, ok := f.FDOpen.Get(); ok {
		v = max(v, f.FDOpenMax.Or(v))
		if p.fds.add(float64(v), ms) {
			p.fdLimit = f.FDLimit.Or(0)
		}
		p.fdShare.add(float64(v), float64(f.FDLimit.Or(0)), ms)
		p.fdLeft = f.FDSecondsToLimit
		p.plot(p.fdSeries, ms, float64(v))
	}
}

func (p *process) plot(s *series, ms int64, v float64) {
	if s != nil {
		s.add(ms, v)
	}
}

// exited takes the end of a process.
func (ps *processes) exited(p *process, ms int64, e *record.Exit) {
	if p.exit != nil {
		return
	}
	p.exit = &end{at: ms, code: e.ExitCode, signal: e.ExitSignal, dumped: e.CoreDumped.Or(false)}
	ps.ended = append(ps.ended, p)
	if len(ps.ended) >= maxProcesses/2 {
		ps.settle(ms + lingering + 1)
	}
}

// settle ranks the processes that ended before, and forgets them.
func (ps *processes) settle(now int64) {
	n := 0
	for n < len(ps.ended) && ps.ended[n].exit.at+lingering < now {
		ps.rank(ps.ended[n])
		ps.forget(ps.ended[n])
		n++
	}
	ps.ended = append(ps.ended[:0], ps.ended[n:]...)
}

func (ps *processes) rank(p *process) {
	for _, r := range ps.rankings {
		r.offer(p)
	}
	ps.nearest.offer(p)
}

func (ps *processes) forget(p *process) {
	delete(ps.live, p.key)
	if p.coreSeries != nil {
		ps.plotted--
	}
}

// evict forgets the half that was not seen for longest: their ends were not
// recorded, or there are more than this keeps.
func (ps *processes) evict() {
	oldest, newest := int64(1)<<62, int64(0)
	for _, p := range ps.live {
		oldest, newest = min(oldest, p.last), max(newest, p.last)
	}
	middle := oldest + (newest-oldest)/2
	for _, p := range ps.live {
		if p.exit == nil && p.last <= middle {
			ps.rank(p)
			ps.forget(p)
			ps.evicted++
		}
	}
}

// finish ranks those that still live.
func (ps *processes) finish() {
	list := slices.SortedFunc(maps.Values(ps.live), func(a, b *process) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.key.pid, b.key.pid), cmp.Compare(a.key.ticks, b.key.ticks))
	})
	for _, p := range list {
		ps.rank(p)
	}
}
