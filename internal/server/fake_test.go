package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/engine"
	"rmagent/internal/fdcheck"
	"rmagent/internal/headroom"
	"rmagent/record"
)

// fakeViews are views of a machine that the test makes up.
type fakeViews struct {
	mu        sync.Mutex
	view      *engine.View
	published chan struct{}
	holds     map[int32]record.Leak
	slow      chan struct{} // not nil: who wants details says so, and waits for a word
}

func newFake(v *engine.View) *fakeViews {
	return &fakeViews{view: v, published: make(chan struct{}), holds: map[int32]record.Leak{}}
}

func (f *fakeViews) Latest() *engine.View {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view
}

func (f *fakeViews) Published() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.published
}

func (f *fakeViews) Detailed(context.Context) (*engine.View, error) {
	v := f.Latest()
	f.mu.Lock()
	slow := f.slow
	f.mu.Unlock()
	if slow != nil {
		slow <- struct{}{}
		<-slow
	}
	return v, nil
}

func (f *fakeViews) Holds(_ context.Context, pid int32) (record.Leak, error) {
	l, ok := f.holds[pid]
	if !ok {
		return l, engine.ErrNoProcess
	}
	return l, nil
}

func (f *fakeViews) tick(v *engine.View) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.view = v
	close(f.published)
	f.published = make(chan struct{})
}

var someTime = time.Date(2026, 11, 25, 12, 0, 0, 500_000_000, time.UTC)

func u(v uint64) record.Opt[uint64] { return record.Some(v) }

func f(v float64) record.Opt[float64] { return record.Some(v) }

// machine is a host with n processes: PID i+1 of user 1000+i%3 with i descriptors.
func machine(n int) *engine.View {
	v := &engine.View{
		Time: someTime, Tick: 7, Interval: time.Second,
		Host: record.Host{
			CPURatio: f(0.25), CPUCount: u(8), Load1: f(1.5),
			MemoryTotalBytes: u(16 << 30), MemoryAvailableBytes: u(12 << 30), MemoryUsedBytes: u(4 << 30),
			FilesOpen: u(5000), FilesLimit: u(100000), Processes: u(uint64(n)), Threads: u(uint64(2 * n)), PIDLimit: u(32768),
			NetReceivedBytesPerSecond: f(1000), NetSentBytesPerSecond: f(234), DiskReadBytesPerSecond: f(10), DiskWrittenBytesPerSecond: f(20),
			Filesystems: []record.Filesystem{
				{Path: "/", TotalBytes: u(1000), FreeBytes: u(600), AvailableBytes: u(600)},
				{Path: "/full", TotalBytes: u(1000), FreeBytes: u(50), AvailableBytes: u(50)},
				{Path: "/hung"},
			},
		},
		GPUs: []record.GPU{
			{Index: 0, UUID: record.Some("GPU-a"), UtilizationRatio: f(0.1), MemoryTotalBytes: u(100), MemoryUsedBytes: u(95)},
			{Index: 1, UUID: record.Some("GPU-b"), UtilizationRatio: f(0.9), MemoryTotalBytes: u(100), MemoryUsedBytes: u(10)},
		},
		Details: &engine.Details{},
	}
	v.Host.Time = v.Time
	for i := range n {
		cmdline := []string{"/bin/prog", fmt.Sprintf("--password=secret%d", i)}
		p := record.Process{Header: record.Header{Time: someTime}}
		p.PID, p.StartTicks, p.Comm = int32(i+1), uint64(i)*10, fmt.Sprintf("prog%d", i%50)
		p.UID, p.FDOpen, p.RSSBytes = record.Some(uint32(1000+i%3)), u(uint64(i)), u(uint64(i)<<20)
		p.FDLimit, p.FDRatio, p.Threads, p.CPUCores = u(1024), f(float64(i)/1024), u(2), f(0.01)
		p.Unit, p.Cgroup = record.Some(fmt.Sprintf("unit%d.service", i%200)), record.Some(fmt.Sprintf("/system.slice/unit%d.service", i%200))
		if n < 100 {
			p.Cmdline = &cmdline
		}
		v.Details.Processes = append(v.Details.Processes, p)
	}
	return v
}

// leaky makes a process of the view leak, with a stack.
func leaky(v *engine.View, views *fakeViews, pid int32) {
	l := record.Leak{
		Header: record.Header{Time: someTime}, PID: pid, StartTicks: uint64(pid-1) * 10, Comm: "prog", Verdict: record.VerdictLeaking,
		Rule: record.Some("never_closed"), FDOpen: u(500), FDLimit: u(1024), GrowthPerSecond: f(2), SecondsToLimit: f(262),
		Sites: []record.Site{{
			Held: 400, Type: "file", Target: record.Some("/srv/secret"), Thread: record.Some("prog"),
			Stack: []record.Frame{{Function: record.Some("open_secret"), File: record.Some("a.c"), Line: u(3)}},
		}},
		Unattributed: map[string]uint64{"before_tracing": 100},
	}
	v.Details.Leaks = append(v.Details.Leaks, l)
	views.holds[pid] = l
}

// testServer serves the views on both doors.
type testServer struct {
	*Server
	views       *fakeViews
	socket, tcp string
	unix        *http.Client // as the user of this process
}

func serve(t testing.TB, views *fakeViews, change func(*Options)) *testServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "http")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // others may come to the socket, if its mode lets them
		t.Fatal(err)
	}
	s := &testServer{views: views, socket: filepath.Join(dir, "s.sock")}
	o := Options{Views: views, Events: NewBus(), Host: "web-1", BootID: "boot", Log: zap.NewNop(), System: System{Hostname: "web-1", Source: "ebpf"}}
	if change != nil {
		change(&o)
	}
	s.Server = New(o)
	unix, err := ListenUnix(s.socket, "")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := ListenTCP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.tcp = "http://" + tcp.Addr().String()
	s.unix = unixClient(s.socket)
	done := make(chan error, 2)
	go func() { done <- s.ServeUnix(unix) }()
	go func() { done <- s.ServeTCP(tcp, "") }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.unix.CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 256,
	}}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func ask(t testing.TB, c *http.Client, method, url string) answer {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, c, r)
}

func do(t testing.TB, c *http.Client, r *http.Request) answer {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// get asks on the socket, getTCP on the door for everybody.
func (s *testServer) get(t testing.TB, path string) answer {
	t.Helper()
	return ask(t, s.unix, "GET", "http://rmagent"+path)
}

func (s *testServer) getTCP(t testing.TB, path string) answer {
	t.Helper()
	return ask(t, http.DefaultClient, "GET", s.tcp+path)
}

// documented answers what the other tests leave out.
func documented(o *Options) {
	o.Headroom = &fakeHeadroom{}
	o.Policy = func() any { return map[string]any{"interval": "1s"} }
	o.System.Hooks = []string{"net"}
	o.Jobs = func() []record.RunningJob {
		return []record.RunningJob{
			{ID: 1, UID: uint32(os.Geteuid()), RunBy: 7, PID: record.Some(int32(8)), StartTicks: u(80), Comm: record.Some("sort"),
				Command: record.Some("sort --key=mine"), StartTime: someTime, AgeSeconds: f(0.1), Processes: u(1),
				JobUse: record.JobUse{GPUs: u(2)}, Measured: []record.JobValue{{Resource: "gpus", Exactness: "sampled"}},
				Limits: []record.JobNear{{Resource: "gpus", Value: f(2), Limit: 4, Ratio: f(0.5), Unit: "gpus"}}},
			{ID: 2, UID: 4711, Command: record.Some("sort --key=theirs"), StartTime: someTime, Measured: []record.JobValue{}, Limits: []record.JobNear{}},
		}
	}
	o.Control = &fakeControl{tracked: map[int32]TrackedLimits{}}
}

// fakeHeadroom keeps what it is asked.
type fakeHeadroom struct{ asked string }

func (h *fakeHeadroom) of(pid int32, format string, args ...any) (record.Headroom, error) {
	h.asked = fmt.Sprintf(format, args...)
	row := record.HeadroomLimit{Resource: "open_files", Name: "RLIMIT_NOFILE", Known: true}
	return record.Headroom{PID: pid, FirstInSpace: &row, Limits: []record.HeadroomLimit{row}}, nil
}

func (h *fakeHeadroom) Process(_ context.Context, pid int32, between time.Duration) (record.Headroom, error) {
	return h.of(pid, "process %d for %v", pid, between)
}

func (h *fakeHeadroom) Follow(_ context.Context, pid int32) (record.Headroom, error) {
	return h.of(pid, "follow %d", pid)
}

func (h *fakeHeadroom) Nearest(_ context.Context, f engine.Filter, between time.Duration, most int) (record.HeadroomList, error) {
	one, err := h.of(7, "nearest %v of %v for %v", most, f.Names, between)
	return record.HeadroomList{Processes: []record.Headroom{one}, Machine: one.Limits, Evaluated: 1}, err
}

// fakeControl keeps what it is told.
type fakeControl struct {
	settings map[string]string
	tracked  map[int32]TrackedLimits
	resets   int
}

func (c *fakeControl) History(resource, target string, count int) (record.History, bool) {
	if resource != "cpu" || target != "" {
		return record.History{}, false
	}
	return record.History{Resource: "cpu", Target: "host", Points: make([]record.HistoryPoint, count)}, true
}

func (c *fakeControl) Stats() record.Stats { return record.Stats{Since: someTime} }
func (c *fakeControl) ResetStats()         { c.resets++ }

func (c *fakeControl) Set(settings map[string]string) error {
	if settings["thresholds.fd.warning"] == "7" {
		return errors.New("thresholds.fd.warning: 7 is out of range")
	}
	c.settings = settings
	return nil
}

func (c *fakeControl) Track(pid int32, l TrackedLimits) error {
	if pid == 77 {
		return ErrNotThere
	}
	c.tracked[pid] = l
	return nil
}

func (c *fakeControl) Untrack(pid int32) (bool, error) {
	_, there := c.tracked[pid]
	delete(c.tracked, pid)
	return there, nil
}

func (c *fakeControl) CheckFDs(_ context.Context, pid int32, q fdcheck.Request) (record.FDCheck, error) {
	if pid == 77 {
		return record.FDCheck{}, headroom.ErrNoProcess
	}
	return record.FDCheck{PID: pid, Files: q.Files, Overhead: q.Overhead, MarginRatio: q.Margin}, nil
}
