package engine

import (
	"context"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"rmagent/internal/hostfs"
	"rmagent/internal/loader"
	"rmagent/internal/policy"
	"rmagent/internal/report"
	"rmagent/internal/sample"
	"rmagent/internal/sink"
	"rmagent/internal/source"
	"rmagent/record"
)

// discard is a sink that encodes and forgets.
type discard struct {
	line []byte
	n    uint64
}

func (d *discard) Write(r record.Record) (err error) {
	d.n++
	d.line, err = record.Append(d.line[:0], r)
	return err
}
func (d *discard) Flush() error            { return nil }
func (d *discard) Counters() sink.Counters { return sink.Counters{Written: d.n} }

// realEngine reads this machine by eBPF, with the hooks that are on by default.
func realEngine(t testing.TB) *Engine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("eBPF needs root")
	}
	events, err := loader.OpenEvents(loader.EventOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { events.Close() })
	s, err := source.Open(source.EBPF, events)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	cgroups, err := hostfs.OpenCgroups(hostfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cgroups.Close() })
	who, err := hostfs.NewIdentifier(hostfs.Options{}, cgroups, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { who.Close() })
	host := hostfs.OpenHost(hostfs.Options{})
	t.Cleanup(func() { host.Close() })
	return New(Options{
		Reader: s, Source: s.Name, Events: events, Host: host, Cgroups: cgroups, Who: who,
		Policy: policy.New(policy.Default()), Sink: &discard{}, Log: zap.NewNop(),
		Interval: time.Second, Select: report.All,
	})
}

// descriptors counts what is open: files of cgroups, and others.
func descriptors(t testing.TB) (cgroups, others int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if path, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(path, "/sys/fs/cgroup/") {
			cgroups++
		} else {
			others++
		}
	}
	return cgroups, others
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Ten thousand ticks leave nothing behind: no descriptor, no goroutine, no memory.
func TestTicksLeaveNothingBehind(t *testing.T) {
	e := realEngine(t)
	tick := func(n int) {
		for i := range n {
			if i%100 == 0 { // so that there are events
				if err := exec.Command("/bin/true").Run(); err != nil {
					t.Fatal(err)
				}
			}
			if err := e.tick(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	tick(500)
	cgroups, others := descriptors(t)
	goroutines, before := runtime.NumGoroutine(), heap()
	tick(10000)
	nowCgroups, nowOthers := descriptors(t)
	if nowOthers > others {
		t.Errorf("%d descriptors are open, %d were before", nowOthers, others)
	}
	// Cgroups come and go on this machine: each is descriptors for as long as it is
	// there. One left behind by every tenth tick would be a thousand.
	if nowCgroups >= cgroups+1000 {
		t.Errorf("%d descriptors of cgroups are open, %d were before", nowCgroups, cgroups)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines run, %d did before", n, goroutines)
	}
	if after := heap(); after > before+1<<20 {
		t.Errorf("the heap grew from %d to %d kB", before>>10, after>>10)
	}
}

// A tick allocates no more for five hundred idle processes than for none. Those that begin
// and end meanwhile, elsewhere on the machine, are allocated for: the quietest tick tells.
func TestTicksAllocateNothingPerProcess(t *testing.T) {
	e := realEngine(t)
	perTick := func() float64 {
		for range 20 {
			if err := e.tick(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		quietest := math.Inf(1)
		for range 50 {
			quietest = min(quietest, testing.AllocsPerRun(1, func() {
				if err := e.tick(context.Background()); err != nil {
					t.Fatal(err)
				}
			}))
		}
		return quietest
	}
	few := perTick()
	for range 500 {
		cmd := exec.Command("/bin/sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
	}
	if many := perTick(); many > few+50 {
		t.Errorf("%v allocations a tick with 500 more processes, %v without", many, few)
	}
	if n := e.table.Len(); n < 500 {
		t.Errorf("it saw %d processes", n)
	}
}

func TestFilter(t *testing.T) {
	p := &sample.Process{ID: sample.ID{PID: 7}, Comm: sample.MakeComm([]byte("nginx"))}
	id := &sample.Identity{Cgroup: "/system.slice/nginx.service/worker", Unit: "nginx.service"}
	for _, tt := range []struct {
		f    Filter
		id   *sample.Identity
		want bool
	}{
		{Filter{}, nil, true},
		{Filter{PIDs: []int32{7}}, nil, true},
		{Filter{PIDs: []int32{8}}, nil, false},
		{Filter{Names: []string{"ng*"}}, nil, true},
		{Filter{Names: []string{"apache", "n?inx"}}, nil, true},
		{Filter{Names: []string{"inx"}}, nil, false},
		{Filter{Units: []string{"*.service"}}, id, true},
		{Filter{Units: []string{"*.service"}}, nil, false},
		{Filter{Cgroups: []string{"/system.slice"}}, id, true},
		{Filter{Cgroups: []string{"/"}}, id, true},
		{Filter{Cgroups: []string{"/system.slice/*.service"}}, id, true},
		{Filter{Cgroups: []string{"/user.slice"}}, id, false},
		{Filter{Cgroups: []string{"/*"}}, &sample.Identity{}, false},
		{Filter{Cgroups: []string{"/"}}, &sample.Identity{Cgroup: "/../../user.slice"}, false},
		{Filter{Cgroups: []string{"/user.slice"}}, &sample.Identity{Cgroup: "/../../user.slice/x"}, false},
		{Filter{Cgroups: []string{"/../*"}}, &sample.Identity{Cgroup: "/../b/c"}, true},
		{Filter{Names: []string{"nginx"}, Units: []string{"other.service"}}, id, false},
	} {
		if got := tt.f.Match(p, tt.id); got != tt.want {
			t.Errorf("%+v matches: %v, want %v", tt.f, got, tt.want)
		}
	}
	if pattern, err := (&Filter{Units: []string{"ok", "["}}).Validate(); pattern != "[" || err == nil {
		t.Errorf("%q, %v", pattern, err)
	}
}

func BenchmarkTick(b *testing.B) {
	e := realEngine(b)
	e.Select = report.Active
	b.ReportAllocs()
	for b.Loop() {
		if err := e.tick(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
