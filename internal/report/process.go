package report

import (
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Selection says which processes are reported at each tick.
type Selection string

// The selections.
const (
	Active Selection = "active" // in which anything moved, and each once a minute
	All    Selection = "all"
	None   Selection = "none"
)

// everyProcess is how often a process is reported in which nothing moves.
const everyProcess = time.Minute

// Due tells whether a process is to be reported at a tick that ends the interval
// from before to now, monotonic times. Processes in which nothing moves come up
// spread over the minute by their PID, so that there is no burst.
func (s Selection) Due(pid int32, moved bool, before, now time.Duration) bool {
	switch s {
	case All:
		return true
	case None:
		return false
	}
	if moved {
		return true
	}
	offset := time.Duration(pid%60) * time.Second
	return (now+offset)/everyProcess != (before+offset)/everyProcess
}

// maxComms bounds the names that are kept as strings, and maxTextBytes what other texts
// take: a path may have four kibibytes.
const (
	maxComms     = 1 << 14
	maxTextBytes = 8 << 20
)

// Builder makes records. One goroutine uses it at a time.
type Builder struct {
	Source record.Source
	// The wall clock at CLOCK_BOOTTIME zero; moves with steps of the wall clock.
	BootWall time.Time
	// Now is the monotonic time of the readings.
	Now time.Duration

	comms map[sample.Comm]string
	exes  map[string]string
	bytes int // of exes
}

// NewBuilder returns a builder for readings of one source.
func NewBuilder(source record.Source) *Builder {
	return &Builder{Source: source, comms: map[sample.Comm]string{}, exes: map[string]string{}}
}

// bootTolerance is how far two readings of the clocks may disagree about the time of
// the boot before it is a step of the wall clock.
const bootTolerance = 50 * time.Millisecond

// SetClocks tells what the clocks said at one instant. The time of the boot that
// follows from them stays the same until the wall clock steps, so that a process's
// start time does not tremble from record to record.
func (b *Builder) SetClocks(wall time.Time, boottime, monotonic time.Duration) {
	b.Now = monotonic
	boot := wall.Add(-boottime).Round(time.Second / sample.UserHz).UTC()
	if d := boot.Sub(b.BootWall); d.Abs() >= bootTolerance {
		b.BootWall = boot
	}
}

// Comm returns a name as text, the same string for the same name.
func (b *Builder) Comm(c *sample.Comm) string {
	if s, ok := b.comms[*c]; ok {
		return s
	}
	if len(b.comms) >= maxComms {
		clear(b.comms)
	}
	s := record.Text(c.Bytes())
	b.comms[*c] = s
	return s
}

// text returns a foreign string as text, the same string for the same one.
func (b *Builder) text(s string) record.Opt[string] {
	if s == "" {
		return record.Opt[string]{}
	}
	t, ok := b.exes[s]
	if !ok {
		t = record.Text([]byte(s))
		const entry = 64 // what else an entry takes, about
		size := len(s) + len(t) + entry
		if b.bytes+size > maxTextBytes {
			clear(b.exes)
			b.bytes = 0
		}
		b.bytes += size
		b.exes[s] = t
	}
	return record.Some(t)
}

// Process fills r but for its header. gpus may be nil: none is known.
func (b *Builder) Process(r *record.Process, p *aggregate.Process, gpus *aggregate.GPUs) {
	f := &r.ProcessFacts
	*f = record.ProcessFacts{}
	b.Facts(f, &p.Process)
	b.Identity(f, p.Identity)

	f.FDRatio = p.FDRatio()
	f.FDOpenMin, f.FDOpenMax = p.FDRange()
	f.FDGrowthPerSecond, f.FDSecondsToLimit = p.FDGrowth(b.Now)
	f.CPUCores = p.Rates.CPUCores
	f.DiskReadBytesPerSecond = p.Rates.DiskRead
	f.DiskWrittenBytesPerSecond = p.Rates.DiskWritten
	f.NetReceivedBytesPerSecond = p.Rates.NetReceived
	f.NetSentBytesPerSecond = p.Rates.NetSent
	if gpus != nil {
		f.GPUMemoryBytes, f.GPUUtilizationRatio = gpus.Process(p.ID)
	}
}

// Facts fills in what one reading of a process says.
func (b *Builder) Facts(f *record.ProcessFacts, p *sample.Process) {
	known := func(field sample.Field, v uint64) record.Opt[uint64] { return record.SomeIf(v, p.Known.Has(field)) }
	seconds := func(field sample.Field, nanos uint64) record.Opt[float64] {
		return record.SomeIf(float64(nanos)/1e9, p.Known.Has(field))
	}
	f.PID = p.ID.PID
	f.StartTicks = p.ID.StartTicks
	f.NSPID = record.SomeIf(p.NSPID, p.Known.Has(sample.NSPID))
	f.PPID = record.SomeIf(p.PPID, p.Known.Has(sample.PPID))
	f.StartTime = record.Some(b.BootWall.Add(time.Duration(p.ID.StartTicks) * (time.Second / sample.UserHz)))
	f.Comm = b.Comm(&p.Comm)
	f.UID = record.SomeIf(p.UID, p.Known.Has(sample.UID))
	f.State = record.SomeIf(stateText(p.State), p.Known.Has(sample.State))
	f.Source = b.Source
	f.Threads = known(sample.Threads, p.Threads)

	f.FDOpen = known(sample.FDOpen, p.FDOpen)
	f.FDLimit = record.SomeIf(p.FDLimit, p.Known.Has(sample.FDLimit) && p.FDLimit != sample.Unlimited)
	f.FDHardLimit = record.SomeIf(p.FDHardLimit, p.Known.Has(sample.FDHardLimit) && p.FDHardLimit != sample.Unlimited)
	f.FDOpenedTotal = known(sample.FDOpened, p.FDOpened)
	f.FDClosedTotal = known(sample.FDClosed, p.FDClosed)

	f.RSSBytes = record.SomeIf(p.RSSBytes(), p.Known.HasAll(sample.RSS))
	f.RSSAnonBytes = known(sample.RSSAnon, p.RSSAnonBytes)
	f.RSSFileBytes = known(sample.RSSFile, p.RSSFileBytes)
	f.RSSShmemBytes = known(sample.RSSShmem, p.RSSShmemBytes)
	f.RSSPeakBytes = known(sample.RSSPeak, p.RSSPeakBytes)
	f.SwapBytes = known(sample.Swap, p.SwapBytes)
	f.VirtualBytes = known(sample.Virtual, p.VirtualBytes)
	f.MinorFaultsTotal = known(sample.MinorFaults, p.MinorFaults)
	f.MajorFaultsTotal = known(sample.MajorFaults, p.MajorFaults)

	f.CPUSecondsTotal = seconds(sample.CPU, p.CPUNanos)
	f.CPUUserSecondsTotal = seconds(sample.CPUUser, p.CPUUserNanos)
	f.CPUSystemSecondsTotal = seconds(sample.CPUSystem, p.CPUSystemNanos)
	f.RunDelaySecondsTotal = seconds(sample.RunDelay, p.RunDelayNanos)

	f.DiskReadBytesTotal = known(sample.DiskRead, p.DiskReadBytes)
	f.DiskWrittenBytesTotal = known(sample.DiskWritten, p.DiskWrittenBytes)
	f.IOReadBytesTotal = known(sample.IORead, p.IOReadBytes)
	f.IOWrittenBytesTotal = known(sample.IOWritten, p.IOWrittenBytes)
	f.NetReceivedBytesTotal = known(sample.NetReceived, p.NetReceivedBytes)
	f.NetSentBytesTotal = known(sample.NetSent, p.NetSentBytes)
}

// Identity fills in who the process is; nil leaves it unknown.
func (b *Builder) Identity(f *record.ProcessFacts, id *sample.Identity) {
	if id == nil {
		return
	}
	f.Exe = b.text(id.Exe)
	f.Cgroup = b.text(id.Cgroup)
	f.ContainerID = b.text(id.ContainerID)
	f.Unit = b.text(id.Unit)
	if id.Cmdline != nil {
		args := make([]string, len(id.Cmdline))
		for i, a := range id.Cmdline {
			args[i] = record.Text([]byte(a))
		}
		f.Cmdline = &args
	}
}

// stateText avoids an allocation for each process.
func stateText(letter byte) string {
	const letters = "RSDTtXZPI?"
	for i := range len(letters) {
		if letters[i] == letter {
			return letters[i : i+1]
		}
	}
	return "?"
}
