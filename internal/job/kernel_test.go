package job

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rmagent/internal/cctools"
	"rmagent/internal/loader"
)

// kernel begins a job that the kernel tells of.
func kernel(t testing.TB, o loader.JobOrder) Tracker {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("tagging tasks needs root")
	}
	tracker, err := OpenKernel(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tracker.Close(); err != nil {
			t.Error(err)
		}
	})
	return tracker
}

// measure runs a command as a job.
func measure(t *testing.T, cmd *exec.Cmd, change ...func(*Options)) *Result {
	t.Helper()
	o := Options{Cmd: cmd, Tracker: kernel(t, loader.JobOrder{})}
	for _, f := range change {
		f(&o)
	}
	r, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Err != nil || r.Left > 0 {
		t.Fatalf("%v, %d processes left", r.Err, r.Left)
	}
	return r
}

func value(t *testing.T, r *Result, id cctools.Measure) float64 {
	t.Helper()
	v, ok := r.Meter.Most.Get(id)
	if !ok {
		t.Errorf("%s is unknown", id)
	}
	return v
}

func want(t *testing.T, r *Result, id cctools.Measure, v float64) {
	t.Helper()
	if got := value(t, r, id); got != v {
		t.Errorf("%s: %v, want %v", id, got, v)
	}
}

// measureCPU runs a command as a job in a cgroup of its own, and holds the job's CPU time
// against what the cgroup was charged: that is all of it. wait4 says less. A thread is
// added to its process as it was when the scheduler last looked, before it leaves its CPU
// for ever (kernel/exit.c, __exit_signal): what it took since then, up to a tick, or
// as long as a guest's CPU stood still, is missing.
func measureCPU(t *testing.T, cmd *exec.Cmd) *Result {
	t.Helper()
	g, err := newGroup()
	if err != nil {
		t.Skip("no cgroup to be charged: ", err)
	}
	defer func() {
		if err := g.remove(); err != nil {
			t.Error(err)
		}
	}()
	g.take(cmd)
	r := measure(t, cmd)
	var truth Reading
	g.read(&truth)
	const rounding = 2 * time.Microsecond
	got := r.Meter.Totals().CPU
	if off := got - truth.Totals.CPU; off < -rounding || off > rounding {
		t.Errorf("CPU %v, the cgroup was charged %v", got, truth.Totals.CPU)
	}
	u := r.State.SysUsage().(*syscall.Rusage)
	if waited := time.Duration(u.Utime.Nano() + u.Stime.Nano()); got < waited-rounding {
		t.Errorf("CPU %v, wait4 says %v", got, waited)
	}
	return r
}

func TestJobOfOneProcess(t *testing.T) {
	r := measureCPU(t, helper("busy", "50"))
	u := r.State.SysUsage().(*syscall.Rusage)
	want(t, r, cctools.TotalProcesses, 1)
	want(t, r, cctools.MaxConcurrentProcesses, 1)
	// Each thread's last switch, away from its CPU for ever, is ours alone; and one before
	// that, where it is preempted after its switches went to wait4's sum (kernel/exit.c,
	// __exit_signal), which is early in its end.
	last := value(t, r, cctools.ContextSwitches) - float64(u.Nvcsw+u.Nivcsw)
	if last < 0 || last > 2*float64(r.Meter.Totals().Threads) {
		t.Errorf("%v context switches more than wait4 says, of %d threads", last, r.Meter.Totals().Threads)
	}
	if got := value(t, r, cctools.MinorFaults); got < float64(u.Minflt) { // the last come while it ends
		t.Errorf("%v minor faults, wait4 says %d", got, u.Minflt)
	}
}

// goProbe is how many more processes a Go program has that starts one: package os forks
// a child, once, to find out whether pidfds work.
const goProbe = 1

func TestJobOfATree(t *testing.T) {
	r := measureCPU(t, helper("tree", "2", "3"))
	want(t, r, cctools.TotalProcesses, 7+goProbe)
	want(t, r, cctools.MaxConcurrentProcesses, 4)
}

func TestJobOfManyThreads(t *testing.T) {
	r := measureCPU(t, helper("threads", "30"))
	want(t, r, cctools.TotalProcesses, 1)
	if n := r.Meter.Totals().Threads; n < 31 {
		t.Errorf("%d threads of 31 at least", n)
	}
}

func TestJobThatCallsExecFromAThread(t *testing.T) {
	r := measureCPU(t, helper("exec"))
	want(t, r, cctools.TotalProcesses, 1)
	want(t, r, cctools.MaxConcurrentProcesses, 1)
}

func TestJobOutlivesItsFirstProcess(t *testing.T) {
	r := measure(t, helper("daemon", "100"))
	want(t, r, cctools.TotalProcesses, 2+goProbe)
	if got := value(t, r, cctools.CPUTime); got < 0.1 {
		t.Errorf("CPU %v s: the daemon's is missing", got)
	}
}

func TestJobNetwork(t *testing.T) {
	const bytes = 3 << 20
	for _, family := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", family)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var got atomic.Int64
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n, _ := io.Copy(io.Discard, c)
			got.Store(n)
			io.CopyN(c, zeros{}, n)
			c.Close()
		}()
		r := measure(t, helper("tcp", l.Addr().String(), "3145728"))
		sum := r.Meter.Totals()
		if sum.Sent != bytes || sum.Received != bytes || got.Load() != bytes {
			t.Errorf("%s: %d sent and %d received, of %d each; the peer got %d", family, sum.Sent, sum.Received, bytes, got.Load())
		}
	}
}

// TestJobThatSendsByWorkers has the kernel's own threads in a process, io_uring's, send what
// the job's sum must have.
func TestJobThatSendsByWorkers(t *testing.T) {
	const bytes = 3<<20 + 1
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		got <- n
	}()
	r := measure(t, helper("workers", l.Addr().String(), strconv.Itoa(bytes)))
	if !r.State.Success() {
		t.Fatal(r.State)
	}
	if n := <-got; n != bytes || r.Meter.Totals().Sent != bytes {
		t.Errorf("%d bytes sent of %d; the peer got %d", r.Meter.Totals().Sent, bytes, n)
	}
	if n := r.Meter.Totals().Lost; n > 0 {
		t.Errorf("%d tasks have no tag", n)
	}
}

func TestJobFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	r := measure(t, helper("write", path, "8388608"))
	sum := r.Meter.Totals()
	for name, n := range map[string]uint64{"read": sum.ReadBytes, "written": sum.WrittenBytes} {
		if n < 8<<20 || n > 8<<20+1<<17 {
			t.Errorf("%d bytes %s, want %d", n, name, 8<<20)
		}
	}
	r = measure(t, helper("files", "300")) // all at once, and for no time
	if n := value(t, r, cctools.OpenFiles); n < 300 || n > 330 {
		t.Errorf("%v files open at once, want 300 and the runtime's own", n)
	}
}

func TestJobMemory(t *testing.T) {
	cmd := helper("memory", "64")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var truth uint64 // as the kernel adds it up for smaps, page by page
	r := measure(t, cmd, func(o *Options) {
		o.Started = func(pid int) {
			go func() {
				io.ReadFull(out, make([]byte, len("ready\n")))
				b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
				truth, _ = rollupField(b, "\nRss:")
				in.Close()
			}()
		}
	})
	got := value(t, r, cctools.Memory) * cctools.BytesPerMB
	if got < float64(truth)*0.99 || got > float64(truth)*1.01+1<<21 || truth < 64<<20 {
		t.Errorf("memory %.0f, smaps says %d", got, truth)
	}
}

func TestBrokenLimitsLeaveNobody(t *testing.T) {
	limit := func(id cctools.Measure, v float64) func(*Options) {
		return func(o *Options) {
			o.Limits.Set(id, v)
			o.Grace = -1
		}
	}
	for name, words := range map[string][]string{
		"a tree":  {"tree", "1", "6"},
		"hopping": {"hop", "60000"},
		"daemon":  {"daemon", "60000"},
		"one":     {"busy", "60000"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := helper(words...)
			cmd.Stdin, _ = os.Open("/dev/zero") // stay never ends by itself
			change := limit(cctools.WallTime, 0.3)
			if name == "a tree" {
				change = limit(cctools.MaxConcurrentProcesses, 3)
			}
			var tracker Tracker
			r := measure(t, cmd, change, func(o *Options) { tracker = o.Tracker })
			if len(r.Exceeded) != 1 || !r.Killed {
				t.Errorf("killed: %v, broken: %v", r.Killed, r.Exceeded)
			}
			var last Reading
			if err := tracker.Read(&last); err != nil || last.Totals.Now != 0 || last.Totals.Pending != 0 {
				t.Errorf("%d processes left, %v", last.Totals.Now, err)
			}
		})
	}
}

// A process whose first thread has ended is one process still.
func TestJobWithoutItsFirstThread(t *testing.T) {
	var readings, told int
	r := measure(t, helper("headless", "500"), func(o *Options) {
		o.More = func(at Moment) *cctools.Measures {
			if len(at.Processes) > 0 {
				readings++
			}
			told = max(told, len(at.Processes))
			return nil
		}
	})
	if n := value(t, r, cctools.TotalProcesses); n != 1 || told != 1 || readings == 0 {
		t.Errorf("%v processes, up to %d in %d readings", n, told, readings)
	}
}

// What is only noted is noted whenever it happens.
func TestEveryBrokenLimitIsNoted(t *testing.T) {
	// Two CPUs that a runtime starts on, as slowly as in emulation, use that in half the time.
	r := measure(t, helper("busy", "1500"), func(o *Options) {
		o.Only = true
		o.Limits.Set(cctools.WallTime, 0.4)
		o.Limits.Set(cctools.TotalProcesses, 0)
		o.Limits.Set(cctools.CPUTime, 3600)
	})
	if r.Killed || len(r.Exceeded) != 2 || r.Exceeded[0].Measure != cctools.TotalProcesses || r.Exceeded[1].Measure != cctools.WallTime {
		t.Errorf("killed: %v, broken: %v", r.Killed, r.Exceeded)
	}
}

// Whoever still has what the command wrote to keeps nobody from watching them.
func TestOutputThatOthersHold(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"a limit":   func(o *Options) { o.Limits.Set(cctools.WallTime, 0.3) },
		"main only": func(o *Options) { o.MainOnly = true },
	} {
		t.Run(name, func(t *testing.T) {
			cmd := helper("daemon", "60000")
			var output strings.Builder
			cmd.Stderr = &output
			r := measure(t, cmd, change, func(o *Options) { o.Grace = -1 })
			if !r.State.Success() || r.WaitErr != nil || r.Killed != (name == "a limit") {
				t.Errorf("%v, %v, killed: %v, %s", r.State, r.WaitErr, r.Killed, output.String())
			}
		})
	}
}

func TestACancelledJobDoesNotStart(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	cmd := helper("nothing")
	if _, err := Run(ctx, Options{Cmd: cmd, Tracker: kernel(t, loader.JobOrder{})}); err != context.Canceled || cmd.Process != nil {
		t.Errorf("%v, %v", cmd.Process, err)
	}
}

func TestACancelledJobEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	r, err := Run(ctx, Options{Cmd: helper("busy", "60000"), Tracker: kernel(t, loader.JobOrder{}), Started: func(int) { cancel() }})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Killed || len(r.Exceeded) > 0 {
		t.Errorf("killed: %v, broken: %v", r.Killed, r.Exceeded)
	}
}

func TestACommandThatCannotStart(t *testing.T) {
	tracker := kernel(t, loader.JobOrder{})
	if _, err := Run(context.Background(), Options{Cmd: exec.Command("/no/such"), Tracker: tracker}); err == nil {
		t.Fatal("it started")
	}
	// The next child is nobody's first process.
	if err := helper("nothing").Run(); err != nil {
		t.Fatal(err)
	}
	var r Reading
	if err := tracker.Read(&r); err != nil || r.Totals.Processes > 1 || r.Totals.Now > 0 {
		t.Errorf("%+v, %v", r.Totals, err)
	}
}
