package gpu

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"rmagent/internal/clock"
	"rmagent/internal/gpu/gputest"
	"rmagent/internal/sample"
)

// helper is rmagent-nvml, as TestMain built it.
var helper string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "rmagent-nvml")
	if err == nil {
		helper, err = gputest.BuildHelper(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// quick is a timing for tests: what is waited for comes soon, what must not come
// does not come.
var quick = timing{
	look: 10 * time.Millisecond, first: patience, answer: patience,
	backoff: 10 * time.Millisecond, slowest: 50 * time.Millisecond, healthy: time.Hour, patience: patience,
}

type watcher struct {
	*Client
	t    *testing.T
	logs *observer.ObservedLogs
}

func watch(t *testing.T, m *gputest.Machine, timing timing, change ...func(*Options)) *watcher {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	t.Setenv("LD_LIBRARY_PATH", m.Library)
	core, logs := observer.New(zapcore.InfoLevel)
	o := Options{Root: m.Root, Helper: helper, Processes: true, Log: slog.New(zapslog.NewHandler(core))}
	for _, f := range change {
		f(&o)
	}
	w := &watcher{open(o, timing), t, logs}
	t.Cleanup(func() { w.Close() })
	return w
}

// read waits for a reading of now.
func (w *watcher) read() *sample.GPUs {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, status := w.Read(ctx)
	if status.State != Reading {
		w.t.Fatalf("%+v", status)
	}
	return r
}

// await polls as ticks do, until the client fares as is wanted.
func (w *watcher) await(what string, is func(*sample.GPUs, Status) bool) (*sample.GPUs, Status) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		w.Poll()
		w.mu.Lock()
		r, status := w.latest, w.status
		w.mu.Unlock()
		if is(r, status) {
			return r, status
		}
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain for %s; it is %+v", what, status)
		}
	}
}

func failing(why string) func(*sample.GPUs, Status) bool {
	return func(_ *sample.GPUs, s Status) bool { return s.State == Failing && strings.Contains(s.Why, why) }
}

func isReading(_ *sample.GPUs, s Status) bool { return s.State == Reading }

// said counts the lines of the log by message.
func (w *watcher) said() string {
	var lines []string
	for _, e := range w.logs.All() {
		lines = append(lines, e.Message)
	}
	return strings.Join(lines, " ")
}

// unread fails unless the cards are known, and nothing of them.
func unread(t *testing.T, r *sample.GPUs, n int) {
	t.Helper()
	if r == nil || len(r.Devices) != n {
		t.Fatalf("%+v, want %d cards", r, n)
	}
	for i := range r.Devices {
		if d := &r.Devices[i]; d.UUID == "" || d.Utilization.Known() || d.MemoryUsedBytes.Known() || d.Complete {
			t.Errorf("%+v, want it unknown", d)
		}
	}
}

func TestEightCards(t *testing.T) {
	script := gputest.Eight(5) + "process compute 4711 1000 60\nprocess graphics 4711 1000 60\nprocess mps 4712 7 0\n"
	w := watch(t, gputest.New(t, script), quick)
	before := clock.Boottime()
	r := w.read()
	if len(r.Devices) != 8 || r.ListedTicks < uint64(before/1e7) || r.ListedTicks > uint64(clock.Boottime()/1e7) {
		t.Fatalf("%+v", r)
	}
	for i := range r.Devices {
		d := &r.Devices[i]
		use, used := 0.03, uint64(1<<30)
		if i == 5 {
			use, used = 0.97, 39<<30
		}
		if d.Index != i || d.UUID != fmt.Sprintf("GPU-%d", i) || d.Name != "Fake A100" || d.Utilization.Or(-1) != use ||
			d.MemoryTotalBytes.Or(0) != 40<<30 || d.MemoryUsedBytes.Or(0) != used || d.TemperatureCelsius.Or(0) != float64(40+i) ||
			d.PowerWatts.Or(0) != 100+float64(i)/1000 || d.Encoder.Or(-1) != float64(i)/100 || d.Decoder.Or(-1) != float64(i+1)/100 ||
			!d.Complete || d.Instances != nil {
			t.Errorf("card %d: %+v", i, d)
		}
	}
	r = w.read() // what processes use is measured from the second reading on
	got := fmt.Sprintf("%+v", r.Devices[7].Processes)
	if len(r.Devices[7].Processes) != 2 || r.Devices[7].Processes[0].PID != 4711 || r.Devices[7].Processes[0].MemoryBytes.Or(0) != 1000 ||
		r.Devices[7].Processes[0].Utilization.Or(0) != 0.6 || r.Devices[7].Processes[1].Utilization.Or(-1) != 0 {
		t.Error(got)
	}
	if s := w.said(); s != "gpu_available" {
		t.Errorf("it said %q", s)
	}
	if w.CPU() <= 0 {
		t.Error("its child used no CPU time")
	}
}

func TestAnotherPIDNamespace(t *testing.T) {
	w := watch(t, gputest.New(t, gputest.Card(0, 1, 1)+"process compute 1 1000 60\n"), quick, func(o *Options) { o.Processes = false })
	if d := w.read().Devices[0]; d.Complete || d.Processes != nil || !d.Utilization.Known() {
		t.Errorf("%+v", d)
	}
}

func TestMIGCard(t *testing.T) {
	m := gputest.New(t, gputest.Card(0, 50, 1000)+"mig MIG-a 5000 4900\nprocess compute 12 4000 0\nmig MIG-b 5000 0\n")
	d := watch(t, m, quick).read().Devices[0]
	if len(d.Instances) != 2 || d.Instances[0].UUID != "MIG-a" || d.Instances[0].MemoryUsedBytes.Or(0) != 4900 || d.Instances[1].GPUInstanceID.Or(9) != 1 ||
		d.Utilization.Known() || !d.MemoryUsedBytes.Known() || !d.Complete || len(d.Processes) != 1 || d.Processes[0].MemoryBytes.Or(0) != 4000 || d.Processes[0].GPUInstanceID.Or(9) != 0 {
		t.Errorf("%+v", d)
	}
}

func TestALibraryOfBeforeMIG(t *testing.T) {
	m := gputest.New(t, gputest.Card(0, 50, 1000)+"process compute 12 4000 30\n", "-DOLD")
	w := watch(t, m, quick)
	w.read()
	if d := w.read().Devices[0]; d.Utilization.Or(0) != 0.5 || !d.Complete || d.Processes[0].MemoryBytes.Or(0) != 4000 || d.Processes[0].Utilization.Known() {
		t.Errorf("%+v", d)
	}
}

func TestNoDriverNoChild(t *testing.T) {
	m := gputest.New(t, gputest.Eight(0))
	m.Unload(t)
	w := watch(t, m, quick, func(o *Options) { o.Helper = "/nonexistent/rmagent-nvml" })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if r, s := w.Read(ctx); r != nil || s.State != Absent || s.Why == "" {
		t.Errorf("%+v, %+v", r, s)
	}
	w.await("many looks", func(*sample.GPUs, Status) bool { return time.Since(started(w)) > 10*quick.look })
	if s := w.said(); s != "gpu_none" || w.CPU() != 0 {
		t.Errorf("it said %q, and its children used %v", s, w.CPU())
	}
}

// started is when the client said its first line.
func started(w *watcher) time.Time { return w.logs.All()[0].Time }

func TestADriverThatComesAndGoes(t *testing.T) {
	m := gputest.New(t, gputest.Eight(0))
	m.Unload(t)
	w := watch(t, m, quick)
	w.await("no driver", func(_ *sample.GPUs, s Status) bool { return s.State == Absent })
	m.Load(t)
	w.await("a driver", isReading)
	m.Unload(t)
	m.Play(t, "fail nvmlDeviceGetCount_v2 9\n")
	r, _ := w.await("no driver again", func(_ *sample.GPUs, s Status) bool { return s.State == Absent })
	if r != nil {
		t.Errorf("cards without a driver: %+v", r)
	}
	if s := w.said(); s != "gpu_none gpu_available gpu_unavailable gpu_none" {
		t.Errorf("it said %q", s)
	}
}

func TestTheDriverIsThereWithoutItsDevice(t *testing.T) {
	m := gputest.New(t, "")
	if err := os.Remove(m.Root + "/dev/nvidiactl"); err != nil {
		t.Fatal(err)
	}
	w := watch(t, m, quick)
	w.await("the advice", func(_ *sample.GPUs, s Status) bool {
		return s.State == Absent && strings.Contains(s.Why, "nvidia-modprobe")
	})
}

func TestWhatFailsIsUnknownUntilItIsRight(t *testing.T) {
	short := quick
	short.answer = 200 * time.Millisecond
	for _, tt := range []struct{ what, script, why string }{
		{"a driver upgraded under its library", "fail nvmlDeviceGetCount_v2 18\nfail nvmlInit_v2 18\n", "mismatch"},
		{"no permission", "fail nvmlDeviceGetCount_v2 4\nfail nvmlInit_v2 4\n", "Insufficient Permissions"},
		{"a crash", gputest.Eight(0) + "crash nvmlDeviceGetPowerUsage\n", "SIGSEGV"},
		{"a hang", gputest.Eight(0) + "hang nvmlDeviceGetPowerUsage\n", "hangs"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			m := gputest.New(t, gputest.Eight(0))
			w := watch(t, m, short)
			w.await("the first reading", isReading)
			m.Play(t, tt.script)
			if strings.Contains(tt.script, "hang") {
				w.await("the first failure", failing(tt.why))
				w.Poll() // never waits, though every child hangs now
			}
			r, s := w.await("the failure", failing(tt.why))
			unread(t, r, 8)
			t.Log(s.Why)
			m.Play(t, gputest.Eight(1))
			if tt.what == "a hang" {
				return // the child of now waits for its first answer, as long as that takes
			}
			r, _ = w.await("the next reading", isReading)
			if r.Devices[1].Utilization.Or(0) != 0.97 {
				t.Errorf("%+v", r.Devices[1])
			}
			if s := w.said(); s != "gpu_available gpu_unavailable gpu_available" {
				t.Errorf("it said %q", s)
			}
		})
	}
}

func TestAHangEnds(t *testing.T) {
	short := quick
	short.first = time.Second
	short.answer = 200 * time.Millisecond
	m := gputest.New(t, gputest.Eight(0)+"hang nvmlDeviceGetPowerUsage\n")
	w := watch(t, m, short)
	w.await("the hang", failing("hangs"))
	m.Play(t, gputest.Eight(0))
	w.await("a reading", isReading)
}

func TestNoLibrary(t *testing.T) {
	m := gputest.New(t, "")
	if err := os.Remove(filepath.Join(m.Library, "libnvidia-ml.so.1")); err != nil {
		t.Fatal(err)
	}
	w := watch(t, m, quick)
	w.await("why", failing("libnvidia-ml.so.1: cannot open shared object file"))
}

func TestNoHelper(t *testing.T) {
	m := gputest.New(t, "")
	t.Setenv("PATH", "/nonexistent")
	w := watch(t, m, quick, func(o *Options) { o.Helper = "" })
	w.await("why", failing("rmagent-nvml is not installed"))
	time.Sleep(5 * quick.slowest) // it goes on looking
	if s := w.said(); s != "gpu_unavailable" {
		t.Errorf("it said %q", s)
	}
}

func TestCardsAreLostRemovedAndFound(t *testing.T) {
	m := gputest.New(t, gputest.Eight(0))
	w := watch(t, m, quick)
	w.read()
	m.Play(t, gputest.Eight(0)+"fail nvmlDeviceGetHandleByIndex_v2 15 3\n")
	for range 3 {
		w.read()
	}
	r := w.read()
	if d := r.Devices[3]; d.UUID != "GPU-3" || d.Utilization.Known() || d.Complete {
		t.Errorf("lost: %+v", d)
	}
	if d := r.Devices[4]; !d.Utilization.Known() {
		t.Errorf("another: %+v", d)
	}
	m.Play(t, gputest.Eight(0))
	w.read()
	m.Play(t, strings.Join(strings.SplitAfter(gputest.Eight(0), "\n")[:8], "")) // seven cards
	if r = w.read(); len(r.Devices) != 7 {
		t.Errorf("%d cards, want 7", len(r.Devices))
	}
	w.read()
	m.Play(t, gputest.Eight(0))
	w.read()
	if s := w.said(); s != "gpu_available gpu_failing gpu_recovered gpu_gone gpu_found" {
		t.Errorf("it said %q", s)
	}
}

// childOf returns the PID of the client's child.
func childOf(t *testing.T) int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		b, _ := os.ReadFile(path)
		for _, pid := range strings.Fields(string(b)) {
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			if string(comm) == HelperName+"\n" {
				var n int
				fmt.Sscan(pid, &n)
				return n
			}
		}
	}
	t.Fatal("there is no child")
	return 0
}

func TestTheChildHasNoPrivileges(t *testing.T) {
	w := watch(t, gputest.New(t, gputest.Eight(0)), quick)
	w.read()
	pid := childOf(t)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want+"\n") {
			t.Errorf("no %q in its status", want)
		}
	}
	if os.Geteuid() == 0 && !strings.Contains(string(status), "CapBnd:\t0000000000000000\n") {
		t.Error("its bounding set is not empty")
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(environ), "\x00"); n != 2 {
		t.Errorf("its environment is %q", environ)
	}
	// The agent keeps its own.
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 && strings.Contains(string(own), "CapEff:\t0000000000000000\n") || strings.Contains(string(own), "NoNewPrivs:\t1\n") {
		t.Error("this process lost what its child shall lack")
	}
	w.Close()
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("after Close the child is there: %v", err)
	}
}

func TestAChildThatIsKilledIsReplaced(t *testing.T) {
	w := watch(t, gputest.New(t, gputest.Eight(0)), quick)
	w.read()
	pid := childOf(t)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.await("its end", failing("killed"))
	w.await("the next", isReading)
	if next := childOf(t); next == pid {
		t.Error("it is the same child")
	}
}

// hostile children say what they please; none of it gets further.
func TestHostileChildren(t *testing.T) {
	short := quick
	short.first = 2 * time.Second
	for what, tt := range map[string]struct{ does, why string }{
		"a frame that is too long": {`printf '\377\377\377\377' >&4; sleep 60`, "nonsense"},
		"an empty frame":           {`printf '\0\0\0\0' >&4; sleep 60`, "nonsense"},
		"half a frame":             {`printf '\0\0\0\144{' >&4`, "ended: exit status 0"},
		"no JSON":                  {`printf '\0\0\0\002{]' >&4; sleep 60`, "nonsense"},
		"another version":          {`printf '\0\0\0\015{"version":7}' >&4; sleep 60`, "install both of one build"},
		"a card twice":             {`printf '\0\0\0\056{"version":1,"gpus":[{"index":1},{"index":1}]}\n' >&4; sleep 60`, "nonsense"},
		"a card that can't be":     {`printf '\0\0\0\044{"version":1,"gpus":[{"index":9999}]}' >&4; sleep 60`, "nonsense"},
		"a flood":                  {`exec cat /dev/zero >&4`, "nonsense"},
		"a complaint":              {`echo no driver for you >&2; echo more >&2; exit 3`, "ended: exit status 3: no driver for you"},
		"silence":                  {`exec sleep 60`, "hangs"},
		"closed pipes":             {`exec 3<&- 4>&-; exec sleep 60`, "ended"},
		"a signal that is ignored": {`trap '' TERM INT HUP; while :; do sleep 1; done`, "hangs"},
		"a program that can't run": {"\x00", "start"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), HelperName)
			program := "#!/bin/sh\n" + tt.does + "\n"
			if tt.does == "\x00" {
				program = tt.does
			}
			if err := os.WriteFile(path, []byte(program), 0o755); err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			(&gputest.Machine{Root: root}).Load(t)
			short := short
			short.patience = 500 * time.Millisecond
			c := open(Options{Root: root, Helper: path, Log: slog.New(slog.DiscardHandler)}, short)
			defer c.Close()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			r, s := c.Read(ctx)
			if r != nil || s.State != Failing || !strings.Contains(s.Why, tt.why) {
				t.Errorf("%+v, %+v; want %q", r, s, tt.why)
			}
		})
	}
}

func TestTrusted(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, HelperName)
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{program, link} {
		if got, err := trusted(path); err != nil || got != program {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for what, change := range map[string]func() error{
		"can be written by others (mode 0775)": func() error { return os.Chmod(program, 0o775) },
		"can be written by others (mode 0757)": func() error { return os.Chmod(program, 0o757) },
		"can be written by others (mode 0777)": func() error { return os.Chmod(dir, 0o777) },
		"no program":                           func() error { return os.Chmod(program, 0o644) },
		"belongs to user 1234":                 func() error { return os.Chown(program, 1234, 1234) },
	} {
		if strings.Contains(what, "belongs") && os.Geteuid() != 0 {
			continue // only root can give a file away
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if _, err := trusted(link); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want that it %s", err, what)
		}
		os.Chmod(program, 0o755)
		os.Chmod(dir, 0o755)
		os.Chown(program, os.Geteuid(), os.Getegid())
	}
}

// BenchmarkPoll is a tick's cost of eight cards with sixteen processes each, in CPU
// time of the agent and of its child, the library's own included, which here is
// that of the script.
func BenchmarkPoll(b *testing.B) {
	script := "driver 550.54\n"
	for i := range 8 {
		script += gputest.Card(i, 50, 1<<30)
		for j := range 16 {
			script += fmt.Sprintf("process compute %d 1000 5\n", 1000*i+j+1)
		}
	}
	m := gputest.New(b, script)
	b.Setenv("LD_LIBRARY_PATH", m.Library)
	c := Open(Options{Root: m.Root, Helper: helper, Processes: true, Log: slog.New(slog.DiscardHandler)})
	defer c.Close()
	if _, s := c.Read(context.Background()); s.State != Reading {
		b.Fatalf("%+v", s)
	}
	own, child := clock.ProcessCPU(), c.CPU()
	for b.Loop() {
		c.Read(context.Background())
	}
	n := float64(b.N)
	b.ReportMetric(float64(clock.ProcessCPU()-own)/n, "agent-cpu-ns/tick")
	b.ReportMetric(float64(c.CPU()-child)/n, "child-cpu-ns/tick")
}
