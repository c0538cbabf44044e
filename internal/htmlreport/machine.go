package htmlreport

import (
	"fmt"
	"strings"
	"time"

	"rmagent/record"
)

const (
	machinePoints  = 600 // buckets of what is drawn large
	maxFilesystems = 64
	maxGPUs        = 128
	maxCgroups     = 4096
)

// machine is what is kept of the records of one host.
type machine struct {
	name        string
	boots       map[string]*boot
	first, last int64 // Unix milliseconds
	records     uint64
	uncounted   uint64 // of more boots than this keeps

	host        hostSeries
	filesystems *keyed[*filesystem]
	gpus        *keyed[*card]
	cgroups     *keyed[*cgroup]
	processes   *processes
	gaps        gaps
	states      states
	prunes      prunes
	leaks       leaks
	ooms        ooms
	ends        ends
	configs     configs
	agents      agents
	actions     actions
	jobs        jobs
}

func newMachine(name string) *machine {
	return &machine{
		name: name, boots: map[string]*boot{},
		host:        newHostSeries(),
		filesystems: newKeyed[*filesystem](maxFilesystems),
		gpus:        newKeyed[*card](maxGPUs),
		cgroups:     newKeyed[*cgroup](maxCgroups),
		processes:   newProcesses(),
		states:      newStates(),
		leaks:       newLeaks(),
		ends:        newEnds(),
		agents:      agents{lost: map[string]uint64{}},
		actions:     newActions(),
		jobs:        newJobs(),
	}
}

// add takes a record of this host.
func (m *machine) add(r record.Record) {
	h := r.Head()
	ms := h.Time.UnixMilli()
	b := m.bootOf(h, ms)
	if b == nil {
		m.uncounted++
		return
	}
	if m.records == 0 {
		m.first, m.last = ms, ms
	}
	m.records++
	m.first, m.last = min(m.first, ms), max(m.last, ms)
	before := b.last
	if b.follow(h, &m.gaps) {
		m.began(b, before)
	}
	m.take(b, ms, r)
}

func (m *machine) bootOf(h *record.Header, ms int64) *boot {
	b := m.boots[h.BootID]
	if b == nil && len(m.boots) < maxBoots {
		b = &boot{id: h.BootID, first: ms, last: ms}
		m.boots[h.BootID] = b
	}
	return b
}

// began closes what a new run of the agent knows nothing of.
func (m *machine) began(b *boot, before int64) {
	m.agents.ended(b)
	if b.runs > 1 {
		m.states.closeAll(before)
		m.prunes.close(before)
	} else if len(m.boots) > 1 { // another boot: the machine was started again
		m.states.closeAll(m.agents.lastSeen)
		m.prunes.close(m.agents.lastSeen)
	}
}

func (m *machine) take(b *boot, ms int64, r record.Record) {
	m.agents.lastSeen = ms
	switch r := r.(type) {
	case *record.Host:
		m.host.add(ms, r)
		m.addFilesystems(ms, r.Filesystems)
		m.processes.settle(ms)
	case *record.Process:
		m.processes.reading(b, ms, &r.ProcessFacts)
	case *record.Exit:
		p := m.processes.reading(b, ms, &r.ProcessFacts)
		m.processes.exited(p, ms, r)
		m.ends.add(ms, r)
		m.states.closeTarget(fmt.Sprintf("pid:%d@%d", r.PID, r.StartTicks), ms)
		m.leaks.ended(b, ms, r)
	case *record.GPU:
		m.addGPU(ms, r)
	case *record.Cgroup:
		m.addCgroup(ms, r)
	case *record.StateChange:
		m.states.add(ms, r, m.nameOf(b, r.Target))
	case *record.Prune:
		m.prunes.add(ms, r)
	case *record.Leak:
		m.leaks.add(ms, r, m.processes.get(processKey{b, r.PID, r.StartTicks}, ms))
	case *record.OOM:
		m.ooms.add(r)
	case *record.Action:
		m.actions.add(r)
	case *record.Job:
		m.jobs.add(b, ms, r)
	case *record.JobReading:
		m.jobs.reading(b, ms, r)
	case *record.Config:
		m.configs.add(ms, r)
	case *record.Agent:
		m.agents.add(b, r)
	}
}

// nameOf is the name of the process that a target is, empty where it is unknown or no
// process.
func (m *machine) nameOf(b *boot, target string) string {
	pid, ticks, ok := processOf(target)
	if !ok {
		return ""
	}
	if p := m.processes.live[processKey{b, pid, ticks}]; p != nil {
		return p.comm
	}
	return ""
}

// processOf reads a target that is a process.
func processOf(target string) (pid int32, ticks uint64, ok bool) {
	n, err := fmt.Sscanf(target, "pid:%d@%d", &pid, &ticks)
	return pid, ticks, err == nil && n == 2
}

// hostSeries are the values of the whole machine.
type hostSeries struct {
	cpu, load, memory, swap, read, written, received, sent *series
	cpuSome, memorySome, ioSome, memoryFull, ioFull        *series
	files, processes, threads                              *series

	cpus, memoryTotal, swapTotal, filesLimit, pidLimit uint64 // as last said; 0: unknown
	readings                                           uint64
}

func newHostSeries() hostSeries {
	s := func() *series { return newSeries(machinePoints) }
	return hostSeries{
		cpu: s(), load: s(), memory: s(), swap: s(), read: s(), written: s(), received: s(), sent: s(),
		cpuSome: s(), memorySome: s(), ioSome: s(), memoryFull: s(), ioFull: s(),
		files: s(), processes: s(), threads: s(),
	}
}

func (h *hostSeries) add(ms int64, r *record.Host) {
	h.readings++
	for _, f := range [...]struct {
		to   *series
		from record.Opt[float64]
	}{
		{h.cpu, r.CPURatio}, {h.load, r.Load1},
		{h.read, r.DiskReadBytesPerSecond}, {h.written, r.DiskWrittenBytesPerSecond},
		{h.received, r.NetReceivedBytesPerSecond}, {h.sent, r.NetSentBytesPerSecond},
		{h.cpuSome, r.PressureCPUSomeRatio}, {h.memorySome, r.PressureMemorySomeRatio}, {h.ioSome, r.PressureIOSomeRatio},
		{h.memoryFull, r.PressureMemoryFullRatio}, {h.ioFull, r.PressureIOFullRatio},
	} {
		if v, ok := f.from.Get(); ok {
			f.to.add(ms, v)
		}
	}
	for _, f := range [...]struct {
		to   *series
		from record.Opt[uint64]
	}{
		{h.memory, r.MemoryUsedBytes}, {h.swap, r.SwapUsedBytes},
		{h.files, r.FilesOpen}, {h.processes, r.Processes}, {h.threads, r.Threads},
	} {
		if v, ok := f.from.Get(); ok {
			f.to.add(ms, float64(v))
		}
	}
	h.cpus, h.memoryTotal, h.swapTotal = r.CPUCount.Or(h.cpus), r.MemoryTotalBytes.Or(h.memoryTotal), r.SwapTotalBytes.Or(h.swapTotal)
	h.filesLimit, h.pidLimit = r.FilesLimit.Or(h.filesLimit), r.PIDLimit.Or(h.pidLimit)
}

// keyed is a bounded map that keeps the order of the first sight.
type keyed[T any] struct {
	limit int
	index map[string]T
	order []string
	more  uint64 // times that something came for which there was no room
}

func newKeyed[T any](limit int) *keyed[T] { return &keyed[T]{limit: limit, index: map[string]T{}} }

// get returns what is kept under the key, made by fresh at first, or the zero value
// where there is no room.
func (k *keyed[T]) get(key string, fresh func() T) T {
	x, ok := k.index[key]
	if ok {
		return x
	}
	if len(k.order) == k.limit {
		k.more++
		return x
	}
	x = fresh()
	k.index[key] = x
	k.order = append(k.order, key)
	return x
}

// all returns what is kept, in the order of the first sight.
func (k *keyed[T]) all() []T {
	list := make([]T, len(k.order))
	for i, key := range k.order {
		list[i] = k.index[key]
	}
	return list
}

// filesystem is one mounted filesystem.
type filesystem struct {
	path        string
	used        *series // share of the bytes
	total, left uint64  // as last said
	space       share
	inodes      share
}

func (m *machine) addFilesystems(ms int64, list []record.Filesystem) {
	for i := range list {
		r := &list[i]
		f := m.filesystems.get(r.Path, func() *filesystem { return &filesystem{path: clip(r.Path, maxPath), used: newSeries(machinePoints)} })
		if f == nil {
			continue
		}
		used, limit := r.Space()
		if u, l := float64(used.Or(0)), float64(limit.Or(0)); l > 0 {
			f.total, f.left = r.TotalBytes.Or(0), r.AvailableBytes.Or(0)
			f.used.add(ms, u/l)
			f.space.add(u, l, ms)
		}
		inodes, ok1 := r.InodesTotal.Get()
		free, ok2 := r.InodesAvailable.Get()
		if ok1 && ok2 && inodes > 0 {
			f.inodes.add(float64(inodes-min(free, inodes)), float64(inodes), ms)
		}
	}
}

// card is one GPU.
type card struct {
	index               int
	name                string
	utilization, memory *series // shares
	total               uint64
	temperature, power  peak
}

func (m *machine) addGPU(ms int64, r *record.GPU) {
	c := m.gpus.get(r.UUID.Or(fmt.Sprint(r.Index)), func() *card {
		return &card{utilization: newSeries(machinePoints), memory: newSeries(machinePoints)}
	})
	if c == nil {
		return
	}
	c.index, c.name = r.Index, clip(r.Name.Or(c.name), maxName)
	if v, ok := r.UtilizationRatio.Get(); ok {
		c.utilization.add(ms, v)
	}
	total, ok1 := r.MemoryTotalBytes.Get()
	used, ok2 := r.MemoryUsedBytes.Get()
	if ok1 && ok2 && total > 0 {
		c.total = total
		c.memory.add(ms, float64(used)/float64(total))
	}
	if v, ok := r.TemperatureCelsius.Get(); ok {
		c.temperature.add(v, ms)
	}
	if v, ok := r.PowerWatts.Get(); ok {
		c.power.add(v, ms)
	}
}

// cgroup is one control group.
type cgroup struct {
	path, unit, container string
	memory                peak
	memoryLimit           uint64 // when most was used; 0: none
	pids, fds             peak
	memoryShare           share
	pidsShare             share
	cpu, throttled, kills counter
	memorySeries          *series
	first                 int64
}

func (m *machine) addCgroup(ms int64, r *record.Cgroup) {
	c := m.cgroups.get(r.Path, func() *cgroup {
		return &cgroup{path: clip(r.Path, maxPath), memorySeries: newSeries(processPoints), first: ms}
	})
	if c == nil {
		return
	}
	c.unit, c.container = clip(r.Unit.Or(c.unit), maxName), clip(r.ContainerID.Or(c.container), maxName)
	if v, ok := r.MemoryBytes.Get(); ok {
		c.memorySeries.add(ms, float64(v))
		if c.memory.add(float64(v), ms) {
			c.memoryLimit = r.MemoryLimitBytes.Or(0)
		}
		c.memoryShare.add(float64(v), float64(r.MemoryLimitBytes.Or(0)), ms)
	}
	if v, ok := r.PIDs.Get(); ok {
		c.pids.add(float64(v), ms)
		c.pidsShare.add(float64(v), float64(r.PIDsLimit.Or(0)), ms)
	}
	if v, ok := r.FDOpen.Get(); ok {
		c.fds.add(float64(v), ms)
	}
	if v, ok := r.CPUSecondsTotal.Get(); ok {
		c.cpu.add(v, false)
	}
	if v, ok := r.CPUThrottledSecondsTotal.Get(); ok {
		c.throttled.add(v, false)
	}
	if v, ok := r.OOMKillsTotal.Get(); ok {
		c.kills.add(float64(v), false)
	}
}

// at is a time in Unix milliseconds.
func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// clip bounds what is kept of a text from elsewhere.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// Bounds of what is kept of names, in bytes.
const (
	maxName = 256
	maxPath = 1024
)
