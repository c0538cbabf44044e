package metrics

import (
	"cmp"
	"context"
	"maps"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/engine"
	"rmagent/record"
)

// How many of a kind have series of their own.
const (
	maxCgroups     = 30
	maxGroups      = 30 // of each way to group
	maxProcesses   = 30
	maxLeaks       = 20
	maxFilesystems = 16
	maxGPUs        = 16
)

// patience is how long a scrape waits for the engine.
const patience = 5 * time.Second

// Views is where the metrics come from: engine.Views.
type Views interface {
	Latest() *engine.View
	Detailed(ctx context.Context) (*engine.View, error)
}

// Options say what the metrics are of.
type Options struct {
	Views   Views
	Version string
	Source  string
}

// Metrics answers scrapes, with series of processes and without.
type Metrics struct{ public, private http.Handler }

// New returns the metrics of an agent.
func New(o Options) *Metrics {
	t := newTables()
	return &Metrics{public: newDoor(o, t, false), private: newDoor(o, t, true)}
}

// Handler answers scrapes.
func (m *Metrics) Handler(processes bool) http.Handler {
	if processes {
		return m.private
	}
	return m.public
}

// Names lists all metrics that there can be.
func Names() []string {
	t := newTables()
	list := slices.Concat(t.host.names(), t.filesystems.names(), t.cgroups.names(), t.gpus.names(), t.groups.names(),
		t.process.names(), t.leaks.names(), t.agent.names())
	for _, s := range t.all() {
		list = append(list, s.names()...)
	}
	return list
}

// tables say what metrics there are. Nothing in them changes.
type tables struct {
	singles
	host        *table[record.Host]
	filesystems *table[record.Filesystem]
	cgroups     *table[record.Cgroup]
	gpus        *table[record.GPU]
	groups      *table[group]
	process     *table[record.Process]
	leaks       *table[record.Leak]
	agent       *table[record.Agent]
}

func newTables() *tables {
	return &tables{
		singles: newSingles(), host: hostTable(), filesystems: filesystemTable(), cgroups: cgroupTable(),
		gpus: gpuTable(), groups: groupTable(), process: processTable(), leaks: leakTable(), agent: agentTable(),
	}
}

// page makes the text of one view.
type page struct {
	*tables
	exposition
	groupers *[3]grouper   // one for each of bys
	omit     []row[number] // what has no series, told at the end
}

// text is all that is known of a view; of none, only what is known of the agent itself.
func (s *page) text(o *Options, v *engine.View, processes bool) []byte {
	s.build.write(&s.exposition, numberRow(s.build, 1, runtime.Version(), o.Source, o.Version))
	if v == nil {
		return s.end()
	}
	s.read.write(&s.exposition, numberRow(s.read, float64(v.Time.UnixMicro())/1e6))
	s.addHost(v)
	s.addCgroups(v.Details.Cgroups)
	s.addGroups(v.Details.Processes)
	s.addLimits(v)
	s.addAgent(&v.Details.Agent)
	if processes {
		s.addProcesses(v.Details)
	}
	s.omitted.write(&s.exposition, s.omit...)
	return s.end()
}

func (s *page) leftOut(n int, what string) {
	s.omit = append(s.omit, numberRow(s.omitted, float64(max(n, 0)), what))
}

func (s *page) addHost(v *engine.View) {
	h := &v.Host
	s.host.write(&s.exposition, s.host.row(h))
	s.pressure.write(&s.exposition,
		s.pressure.row(&number{h.PressureCPUSomeRatio}, "cpu", "some"), s.pressure.row(&number{h.PressureCPUFullRatio}, "cpu", "full"),
		s.pressure.row(&number{h.PressureMemorySomeRatio}, "memory", "some"), s.pressure.row(&number{h.PressureMemoryFullRatio}, "memory", "full"),
		s.pressure.row(&number{h.PressureIOSomeRatio}, "io", "some"), s.pressure.row(&number{h.PressureIOFullRatio}, "io", "full"))
	var filesystems []row[record.Filesystem]
	for i := range h.Filesystems[:min(len(h.Filesystems), maxFilesystems)] {
		filesystems = append(filesystems, s.filesystems.row(&h.Filesystems[i], h.Filesystems[i].Path))
	}
	s.filesystems.write(&s.exposition, filesystems...)
	s.leftOut(len(h.Filesystems)-maxFilesystems, "filesystem")
	var gpus []row[record.GPU]
	for i := range v.GPUs[:min(len(v.GPUs), maxGPUs)] {
		g := &v.GPUs[i]
		gpus = append(gpus, s.gpus.row(g, strconv.Itoa(g.Index), g.UUID.Or("")))
	}
	s.gpus.write(&s.exposition, gpus...)
	if v.Prune != nil {
		s.prune.write(&s.exposition, numberRow(s.prune, one(v.Prune.ShouldPrune)))
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (s *page) addCgroups(list []record.Cgroup) {
	top := largest(list, maxCgroups, func(a, b *record.Cgroup) int {
		return cmp.Or(cmp.Compare(b.MemoryBytes.Or(0), a.MemoryBytes.Or(0)), cmp.Compare(a.Path, b.Path))
	})
	rows := make([]row[record.Cgroup], len(top))
	for i, g := range top {
		rows[i] = s.cgroups.row(g, g.Path)
	}
	s.cgroups.write(&s.exposition, rows...)
	s.leftOut(len(list)-len(top), "cgroup")
}

func (s *page) addGroups(list []record.Process) {
	var rows []row[group]
	for i, by := range bys {
		groups, rest := s.groupers[i].by(list, by.of, maxGroups)
		for _, g := range groups {
			rows = append(rows, s.groups.row(g, by.name, g.name))
		}
		s.leftOut(rest, "group_by_"+by.name)
	}
	s.groups.write(&s.exposition, rows...)
}

// addLimits tells how near the nearest limits are, who grows, and what is not
// normal, without names.
func (s *page) addLimits(v *engine.View) {
	d := v.Details
	h := &v.Host
	near := map[string]float64{}
	raise := func(resource string, r num) {
		if x, ok := r.Get(); ok {
			near[resource] = max(near[resource], x)
		}
	}
	first := math.Inf(1)
	for i := range d.Processes {
		p := &d.Processes[i]
		raise("process_files", p.FDRatio)
		first = min(first, p.FDSecondsToLimit.Or(math.Inf(1)))
	}
	for i := range d.Cgroups {
		raise("cgroup_memory", ratio(d.Cgroups[i].MemoryBytes, d.Cgroups[i].MemoryLimitBytes))
		raise("cgroup_pids", ratio(d.Cgroups[i].PIDs, d.Cgroups[i].PIDsLimit))
	}
	for i := range h.Filesystems {
		f := &h.Filesystems[i]
		raise("filesystem_bytes", ratio(f.Space()))
		raise("filesystem_inodes", used(f.InodesTotal, f.InodesAvailable))
	}
	raise("host_memory", ratio(h.MemoryUsedBytes, h.MemoryTotalBytes))
	raise("host_files", ratio(h.FilesOpen, h.FilesLimit))
	raise("host_pids", ratio(h.Threads, h.PIDLimit))
	var rows []row[number]
	for _, resource := range slices.Sorted(maps.Keys(near)) {
		rows = append(rows, numberRow(s.nearest, near[resource], resource))
	}
	s.nearest.write(&s.exposition, rows...)
	if !math.IsInf(first, 1) {
		s.soonest.write(&s.exposition, numberRow(s.soonest, first, "process_files"))
	}
	s.addStanding(d)
}

// addStanding counts who grows and leaks, and what is not normal.
func (s *page) addStanding(d *engine.Details) {
	leaks := map[record.Verdict]int{}
	for i := range d.Leaks {
		leaks[d.Leaks[i].Verdict]++
	}
	var rows []row[number]
	for _, verdict := range []record.Verdict{record.VerdictGrowing, record.VerdictLeaking} {
		rows = append(rows, numberRow(s.verdicts, float64(leaks[verdict]), string(verdict)))
	}
	s.verdicts.write(&s.exposition, rows...)
	type standing struct{ resource, state string }
	counts := map[standing]int{}
	for i := range d.States {
		counts[standing{d.States[i].Resource, string(d.States[i].State)}]++
	}
	rows = nil
	for what, n := range counts {
		rows = append(rows, numberRow(s.states, float64(n), what.resource, what.state))
	}
	s.states.write(&s.exposition, rows...)
}

// used is the share of total that is not available.
func used(total, available record.Opt[uint64]) num {
	return ratio(aggregate.Used(total, available), total)
}

func (s *page) addAgent(a *record.Agent) {
	s.agent.write(&s.exposition, s.agent.row(a))
	s.addCauses(s.eventsLost, a.EventsLost)
	s.addCauses(s.recordsLost, a.RecordsLost)
	s.addCauses(s.uncounted, a.Uncounted)
}

func (s *page) addCauses(t *table[number], counts map[string]uint64) {
	rows := make([]row[number], 0, len(counts))
	for cause, n := range counts {
		rows = append(rows, numberRow(t, float64(n), cause))
	}
	t.write(&s.exposition, rows...)
}

// addProcesses gives the processes that take most, and those that leak, series of their
// own.
func (s *page) addProcesses(d *engine.Details) {
	top := topProcesses(d.Processes, maxProcesses)
	rows := make([]row[record.Process], len(top))
	for i, p := range top {
		rows[i] = s.process.row(p, p.Comm, strconv.Itoa(int(p.PID)), strconv.FormatUint(p.StartTicks, 10))
	}
	s.process.write(&s.exposition, rows...)
	s.leftOut(len(d.Processes)-len(top), "process")
	var leaks []row[record.Leak]
	for i := range d.Leaks[:min(len(d.Leaks), maxLeaks)] {
		l := &d.Leaks[i]
		leaks = append(leaks, s.leaks.row(l, l.Comm, strconv.Itoa(int(l.PID)), strconv.FormatUint(l.StartTicks, 10), string(l.Verdict)))
	}
	s.leaks.write(&s.exposition, leaks...)
	s.leftOut(len(d.Leaks)-maxLeaks, "leak")
}
