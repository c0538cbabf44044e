package metrics

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

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
	return &Metrics{public: handler(o, false), private: handler(o, true)}
}

// Handler answers scrapes.
func (m *Metrics) Handler(processes bool) http.Handler {
	if processes {
		return m.private
	}
	return m.public
}

func handler(o Options, processes bool) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(o, processes))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: 8, // more are answered with status 503
	})
}

// collector makes metrics of the view of the last tick.
type collector struct {
	Options
	processes bool

	host        *table[record.Host]
	pressure    *table[pressure]
	filesystems *table[record.Filesystem]
	cgroups     *table[record.Cgroup]
	gpus        *table[record.GPU]
	groups      *table[group]
	process     *table[record.Process]
	leaks       *table[record.Leak]
	agent       *table[record.Agent]
}

func newCollector(o Options, processes bool) *collector {
	return &collector{
		Options: o, processes: processes,
		host: hostTable(), pressure: pressureTable(), filesystems: filesystemTable(), cgroups: cgroupTable(),
		gpus: gpuTable(), groups: groupTable(), process: processTable(), leaks: leakTable(), agent: agentTable(),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	c.host.describe(out)
	c.pressure.describe(out)
	c.filesystems.describe(out)
	c.cgroups.describe(out)
	c.gpus.describe(out)
	c.groups.describe(out)
	c.agent.describe(out)
	if c.processes {
		c.process.describe(out)
		c.leaks.describe(out)
	}
	for _, d := range []*prometheus.Desc{eventsLost, recordsLost, uncounted, omitted, verdicts, states, nearest, soonest, prune, read, build} {
		out <- d
	}
}

// Collect implements prometheus.Collector. Before the first reading there is only what
// is known of the agent itself.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge(out, build, 1, c.Version, runtime.Version(), c.Source)
	if c.Views.Latest() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v, err := c.Views.Detailed(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(read, err)
		return
	}
	gauge(out, read, float64(v.Time.UnixMicro())/1e6)
	c.collectHost(out, v)
	c.collectCgroups(out, v.Details.Cgroups)
	for _, by := range bys {
		groups, rest := groupBy(v.Details.Processes, by.of, maxGroups)
		for _, g := range groups {
			c.groups.collect(out, g, by.name, g.name)
		}
		gauge(out, omitted, float64(rest), "group_by_"+by.name)
	}
	c.collectLimits(out, v)
	c.collectAgent(out, &v.Details.Agent)
	if c.processes {
		c.collectProcesses(out, v.Details)
	}
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (c *collector) collectHost(out chan<- prometheus.Metric, v *engine.View) {
	h := &v.Host
	c.host.collect(out, h)
	for _, p := range [...]struct {
		resource, tasks string
		value           num
	}{
		{"cpu", "some", h.PressureCPUSomeRatio}, {"cpu", "full", h.PressureCPUFullRatio},
		{"memory", "some", h.PressureMemorySomeRatio}, {"memory", "full", h.PressureMemoryFullRatio},
		{"io", "some", h.PressureIOSomeRatio}, {"io", "full", h.PressureIOFullRatio},
	} {
		c.pressure.collect(out, &pressure{p.value}, p.resource, p.tasks)
	}
	for i := range h.Filesystems[:min(len(h.Filesystems), maxFilesystems)] {
		c.filesystems.collect(out, &h.Filesystems[i], h.Filesystems[i].Path)
	}
	gauge(out, omitted, float64(max(len(h.Filesystems)-maxFilesystems, 0)), "filesystem")
	for i := range v.GPUs[:min(len(v.GPUs), maxGPUs)] {
		g := &v.GPUs[i]
		c.gpus.collect(out, g, strconv.Itoa(g.Index), g.UUID.Or(""))
	}
	if v.Prune != nil {
		gauge(out, prune, one(v.Prune.ShouldPrune))
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (c *collector) collectCgroups(out chan<- prometheus.Metric, list []record.Cgroup) {
	top := largest(list, maxCgroups, func(a, b *record.Cgroup) int {
		return cmp.Or(cmp.Compare(b.MemoryBytes.Or(0), a.MemoryBytes.Or(0)), cmp.Compare(a.Path, b.Path))
	})
	for _, g := range top {
		c.cgroups.collect(out, g, g.Path)
	}
	gauge(out, omitted, float64(len(list)-len(top)), "cgroup")
}

// collectLimits tells how near the nearest limits are, who grows, and what is not
// normal, without names.
func (c *collector) collectLimits(out chan<- prometheus.Metric, v *engine.View) {
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
		raise("filesystem_bytes", used(f.TotalBytes, f.AvailableBytes))
		raise("filesystem_inodes", used(f.InodesTotal, f.InodesAvailable))
	}
	raise("host_memory", ratio(h.MemoryUsedBytes, h.MemoryTotalBytes))
	raise("host_files", ratio(h.FilesOpen, h.FilesLimit))
	raise("host_pids", ratio(h.Threads, h.PIDLimit))
	for resource, r := range near {
		gauge(out, nearest, r, resource)
	}
	if !math.IsInf(first, 1) {
		gauge(out, soonest, first, "process_files")
	}
	leaks := map[record.Verdict]int{record.VerdictGrowing: 0, record.VerdictLeaking: 0}
	for i := range d.Leaks {
		leaks[d.Leaks[i].Verdict]++
	}
	for verdict, n := range leaks {
		gauge(out, verdicts, float64(n), string(verdict))
	}
	type standing struct{ resource, state string }
	counts := map[standing]int{}
	for i := range d.States {
		counts[standing{d.States[i].Resource, string(d.States[i].State)}]++
	}
	for s, n := range counts {
		gauge(out, states, float64(n), s.resource, s.state)
	}
}

// used is the share of total that is not available.
func used(total, available record.Opt[uint64]) num {
	t, ok1 := total.Get()
	a, ok2 := available.Get()
	return ratio(record.SomeIf(t-min(a, t), ok1 && ok2), total)
}

func (c *collector) collectAgent(out chan<- prometheus.Metric, a *record.Agent) {
	c.agent.collect(out, a)
	for desc, counts := range map[*prometheus.Desc]map[string]uint64{eventsLost: a.EventsLost, recordsLost: a.RecordsLost, uncounted: a.Uncounted} {
		for cause, n := range counts {
			out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), cause)
		}
	}
}

// collectProcesses gives the processes that take most, and those that leak, series of
// their own.
func (c *collector) collectProcesses(out chan<- prometheus.Metric, d *engine.Details) {
	top := topProcesses(d.Processes, maxProcesses)
	for _, p := range top {
		c.process.collect(out, p, strconv.Itoa(int(p.PID)), strconv.FormatUint(p.StartTicks, 10), p.Comm)
	}
	gauge(out, omitted, float64(len(d.Processes)-len(top)), "process")
	for i := range d.Leaks[:min(len(d.Leaks), maxLeaks)] {
		l := &d.Leaks[i]
		c.leaks.collect(out, l, strconv.Itoa(int(l.PID)), strconv.FormatUint(l.StartTicks, 10), l.Comm, string(l.Verdict))
	}
	gauge(out, omitted, float64(max(len(d.Leaks)-maxLeaks, 0)), "leak")
}

// Describe sends what metrics there are.
func Describe(out chan<- *prometheus.Desc) { newCollector(Options{}, true).Describe(out) }
