package metrics

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	dto "github.com/prometheus/client_model/go"

	"rmagent/internal/engine"
	"rmagent/record"
)

// fixed is a machine that does not change.
type fixed struct{ view *engine.View }

func (f *fixed) Latest() *engine.View                           { return f.view }
func (f *fixed) Detailed(context.Context) (*engine.View, error) { return f.view, nil }

func u(v uint64) record.Opt[uint64] { return record.Some(v) }

// large is a machine with n processes, each of a unit, a container and a name of its
// own, and as many cgroups.
func large(n int) *engine.View {
	v := &engine.View{
		Time: time.Unix(1795608000, 0), Interval: time.Second,
		Host: record.Host{
			CPURatio: record.Some(0.5), CPUCount: u(8), MemoryTotalBytes: u(1000), MemoryAvailableBytes: u(400), MemoryUsedBytes: u(600),
			FilesOpen: u(1), FilesLimit: u(10), Threads: u(3), PIDLimit: u(30), NetSentBytesTotal: u(77),
			Pressure: record.Pressure{PressureIOSomeRatio: record.Some(0.25)},
		},
		Prune:   &record.Prune{ShouldPrune: true},
		Details: &engine.Details{Agent: record.Agent{EventsLost: map[string]uint64{"exit_ring_full": 3}, EventsSeen: u(5)}},
	}
	for i := range 200 {
		v.Host.Filesystems = append(v.Host.Filesystems, record.Filesystem{Path: fmt.Sprintf("/mnt/%d", i), TotalBytes: u(100), FreeBytes: u(uint64(i) % 100), AvailableBytes: u(uint64(i) % 100), InodesTotal: u(10), InodesAvailable: u(5)})
		v.GPUs = append(v.GPUs, record.GPU{Index: i, UUID: record.Some(fmt.Sprintf("GPU-%d", i)), UtilizationRatio: record.Some(0.5), MemoryTotalBytes: u(10),
			MemoryUsedBytes: u(5), TemperatureCelsius: record.Some(50.0), PowerWatts: record.Some(50.0), EncoderRatio: record.Some(0.5), DecoderRatio: record.Some(0.5)})
	}
	for i := range n {
		p := record.Process{}
		p.PID, p.StartTicks, p.Comm = int32(i+1), uint64(i), fmt.Sprintf("name%d\n\"\\", i)
		p.Unit, p.ContainerID = record.Some(fmt.Sprintf("u%d.service", i)), record.Some(fmt.Sprintf("c%d", i))
		p.Threads, p.FDOpen, p.FDLimit, p.RSSBytes, p.SwapBytes = u(1), u(uint64(i)), u(20000), u(uint64(i)*4096), u(0)
		p.CPUCores, p.CPUSecondsTotal, p.FDRatio = record.Some(float64(i%7)/10), record.Some(float64(i)), record.Some(float64(i)/20000)
		p.DiskReadBytesPerSecond, p.DiskWrittenBytesPerSecond, p.NetReceivedBytesPerSecond, p.NetSentBytesPerSecond = record.Some(1.0), record.Some(1.0), record.Some(1.0), record.Some(1.0)
		p.MajorFaultsTotal, p.DiskReadBytesTotal, p.DiskWrittenBytesTotal, p.NetReceivedBytesTotal, p.NetSentBytesTotal = u(1), u(1), u(1), u(1), u(1)
		v.Details.Processes = append(v.Details.Processes, p)
		v.Details.Cgroups = append(v.Details.Cgroups, record.Cgroup{Path: fmt.Sprintf("/system.slice/u%d.service", i), MemoryBytes: u(uint64(i)), MemoryLimitBytes: u(1 << 40),
			SwapBytes: u(0), PIDs: u(1), PIDsLimit: u(10), CPUSecondsTotal: record.Some(1.0), CPUThrottledSecondsTotal: record.Some(1.0), OOMKillsTotal: u(0), FDOpen: u(1)})
		v.Details.Leaks = append(v.Details.Leaks, record.Leak{PID: p.PID, Comm: p.Comm, Verdict: record.VerdictLeaking, FDOpen: u(5), GrowthPerSecond: record.Some(1.0), SecondsToLimit: record.Some(9.0)})
	}
	return v
}

// scrape asks as Prometheus does.
func scrape(t testing.TB, m *Metrics, processes bool, accept string) (string, http.Header) {
	t.Helper()
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	m.Handler(processes).ServeHTTP(w, r)
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String(), w.Header()
}

// families reads the text with Prometheus's own parser.
func families(t testing.TB, text string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.UTF8Validation)
	all, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func series(all map[string]*dto.MetricFamily) (n int) {
	for _, f := range all {
		n += len(f.Metric)
	}
	return n
}

// maxSeries is what a Prometheus has to keep for one host, however large it is.
const maxSeries = 2000

func TestSeriesAreBounded(t *testing.T) {
	m := New(Options{Views: &fixed{large(10_000)}, Version: "v", Source: "ebpf"})
	for _, processes := range []bool{false, true} {
		text, _ := scrape(t, m, processes, "")
		all := families(t, text)
		if n := series(all); n >= maxSeries {
			t.Errorf("%d series with processes %v", n, processes)
		}
		for name := range all {
			if private := strings.HasPrefix(name, "rmagent_process_") || strings.HasPrefix(name, "rmagent_leak_"); private && !processes {
				t.Errorf("%s is there for everybody", name)
			}
		}
	}
	text, _ := scrape(t, m, true, "")
	all := families(t, text)
	// The one that holds most is among those that are shown, and what is left out is told.
	found := false
	for _, x := range all["rmagent_process_fd_open"].Metric {
		found = found || x.GetGauge().GetValue() == 9999
	}
	if !found {
		t.Error("the process with most descriptors has no series")
	}
	for _, x := range all["rmagent_omitted"].Metric {
		if what := x.Label[0].GetValue(); what == "process" && x.GetGauge().GetValue() != 10_000-maxProcesses {
			t.Errorf("%v processes are left out", x.GetGauge().GetValue())
		}
	}
}

func TestValues(t *testing.T) {
	v := large(4)
	v.Details.Processes[3].Unit = record.Some("u0.service")
	v.Details.Processes[3].CPUCores = record.Opt[float64]{} // it is new
	v.Details.Processes[2].RSSBytes = record.Opt[uint64]{}  // and of this one memory is unknown
	v.Details.Processes[2].Unit = record.Some("u1.service")
	m := New(Options{Views: &fixed{v}, Version: "v", Source: "ebpf"})
	text, _ := scrape(t, m, true, "")
	for _, want := range []string{
		"rmagent_host_memory_used_bytes 600\n", "rmagent_host_cpu_ratio 0.5\n", "rmagent_host_network_sent_bytes_total 77\n",
		`rmagent_host_pressure_ratio{resource="io",tasks="some"} 0.25` + "\n",
		`rmagent_group_fd_open{by="unit",group="u0.service"} 3` + "\n",
		`rmagent_group_cpu_cores{by="unit",group="u0.service"} 0` + "\n",
		`rmagent_group_processes{by="unit",group="u0.service"} 2` + "\n",
		`rmagent_nearest_limit_ratio{resource="cgroup_pids"} 0.1` + "\n", `rmagent_nearest_limit_ratio{resource="filesystem_bytes"} 1` + "\n",
		`rmagent_leaks{verdict="leaking"} 4` + "\n", `rmagent_leaks{verdict="growing"} 0` + "\n",
		`rmagent_agent_events_lost_total{cause="exit_ring_full"} 3` + "\n", "rmagent_should_prune 1\n",
		`rmagent_process_cpu_seconds_total{name="name3\n\"\\",pid="4",start_ticks="3"} 3` + "\n",
		`rmagent_leak_seconds_to_limit{name="name0\n\"\\",pid="1",start_ticks="0",verdict="leaking"} 9` + "\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no line %s", want)
		}
	}
	for _, unknown := range []string{`rmagent_group_rss_bytes{by="unit",group="u1.service"}`, `rmagent_host_load1`, `rmagent_host_swap_size_bytes `, "soonest"} {
		if strings.Contains(text, "\n"+unknown) {
			t.Errorf("%s is unknown and has a series", unknown)
		}
	}
}

func TestADeadProcessHasNoSeries(t *testing.T) {
	f := &fixed{large(3)}
	m := New(Options{Views: f})
	if text, _ := scrape(t, m, true, ""); !strings.Contains(text, `pid="3"`) {
		t.Fatal("process 3 is not there")
	}
	f.view = large(2)
	if text, _ := scrape(t, m, true, ""); strings.Contains(text, `pid="3"`) {
		t.Error("process 3 has ended, its series have not")
	}
}

func TestBeforeTheFirstReading(t *testing.T) {
	text, _ := scrape(t, New(Options{Views: &fixed{}, Version: "v9"}), false, "")
	if !strings.Contains(text, `version="v9"`) || strings.Contains(text, "host") {
		t.Errorf("%s", text)
	}
}

func TestOpenMetrics(t *testing.T) {
	m := New(Options{Views: &fixed{large(3)}})
	text, header := scrape(t, m, true, "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(header.Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(text, "# EOF\n") {
		t.Errorf("%s: %.200s", header.Get("Content-Type"), text)
	}
}

// Who scrapes the same view gets the same text, compressed or not, and the next view is
// another.
func TestAViewIsWrittenOnce(t *testing.T) {
	f := &fixed{large(3)}
	m := New(Options{Views: f})
	plain, _ := scrape(t, m, true, "")
	before := &m.private.(*door).plain.text[0]
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept-Encoding", "br, gzip;q=0.5")
	w := httptest.NewRecorder()
	m.Handler(true).ServeHTTP(w, r)
	z, err := gzip.NewReader(w.Body)
	if err != nil || w.Header().Get("Content-Encoding") != "gzip" {
		t.Fatal(err, w.Header())
	}
	zipped, err := io.ReadAll(z)
	if err != nil || string(zipped) != plain {
		t.Errorf("what is compressed is another text: %v", err)
	}
	if after := &m.private.(*door).plain.text[0]; after != before {
		t.Error("the view was written again")
	}
	f.view = large(4)
	if text, _ := scrape(t, m, true, ""); text == plain {
		t.Error("the next view is not there")
	}
}

func TestGzipIsOnlyForWhoTakesIt(t *testing.T) {
	for header, want := range map[string]bool{"": false, "gzip": true, "br,GZIP ; q=1": true, "gzip;q=0": false, "gzip; q=0.0": false, "x-gzip": false, "identity": false} {
		if got := acceptsGzip(http.Header{"Accept-Encoding": {header}}); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
}

// Help texts are written as they are, and a counter's name ends as it must.
func TestNamesAndHelps(t *testing.T) {
	names := Names()
	slices.Sort(names)
	if len(names) != len(slices.Compact(slices.Clone(names))) {
		t.Error("a name is there twice")
	}
	text, _ := scrape(t, New(Options{Views: &fixed{large(3)}}), true, "")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "# HELP") && strings.ContainsAny(line, `\"`) {
			t.Errorf("has to be escaped: %s", line)
		}
		if f := strings.Fields(line); f[1] == "TYPE" && strings.HasSuffix(f[2], "_total") != (f[3] == "counter") {
			t.Errorf("a counter ends with _total: %s", line)
		}
	}
}

// program finds a program of Debian's package, installed or unpacked by scripts/setup.
func program(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path, err := filepath.Abs("../../.cache/servers/usr/bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is not installed; scripts/setup test gets it", name)
	}
	return path
}

func TestPromtoolFindsNothing(t *testing.T) {
	promtool := program(t, "promtool")
	m := New(Options{Views: &fixed{large(40)}, Version: "v"})
	for _, processes := range []bool{false, true} {
		text, _ := scrape(t, m, processes, "")
		cmd := exec.Command(promtool, "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("processes %v: %v\n%s", processes, err, out)
		}
	}
}

func BenchmarkScrape(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := &fixed{large(n)}
			m := New(Options{Views: f})
			b.ReportAllocs()
			for b.Loop() {
				next := *f.view // each scrape is of a view of its own, as it is where one Prometheus scrapes
				f.view = &next
				scrape(b, m, true, "")
			}
		})
	}
}
