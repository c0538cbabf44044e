package loader

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
	"rmagent/internal/sample"
)

// besideTracer measures work without and with a tracer of ids, in turns, as
// besideHook does.
func besideTracer(b *testing.B, batch int, ids func(*FDTracer) []sample.ID, work func()) {
	b.Helper()
	beside(b, openTracer(b, FDTraceOptions{}), batch, ids, work)
}

func beside(b *testing.B, tr *FDTracer, batch int, ids func(*FDTracer) []sample.ID, work func()) {
	turn := func() float64 {
		for range batch / 4 {
			work()
		}
		start := cpuTime()
		for range batch {
			work()
		}
		return float64(cpuTime()-start) / float64(batch)
	}
	var without, with, ratio, more []float64
	var births sample.FDBirths
	var logged, lost uint64
	for b.Loop() {
		off := turn()
		if err := tr.Start(ids(tr)); err != nil {
			b.Fatal(err)
		}
		on := turn()
		if err := tr.Drain(&births); err != nil {
			b.Fatal(err)
		}
		logged, lost = logged+uint64(len(births.Births)), lost+births.Lost
		if err := tr.Stop(); err != nil {
			b.Fatal(err)
		}
		without, with = append(without, off), append(with, on)
		ratio, more = append(ratio, on/off), append(more, on-off)
	}
	b.ReportMetric(middle(without), "ns-without")
	b.ReportMetric(middle(with), "ns-with")
	b.ReportMetric(middle(more), "ns-more")
	b.ReportMetric(middle(ratio), "ratio")
	if logged > 0 {
		b.ReportMetric(float64(logged)/float64(logged+lost), "logged")
	}
}

func myself(tr *FDTracer) []sample.ID {
	id, err := tr.self()
	check(err)
	return []sample.ID{id}
}

// somebody is another process, which does nothing.
func somebody(b *testing.B) func(*FDTracer) []sample.ID {
	parent := os.Getppid()
	return func(tr *FDTracer) []sample.ID { return []sample.ID{idOf(b, tr, parent)} }
}

func nobody(*FDTracer) []sample.ID { return nil }

func openClose() { check(unix.Close(must(unix.Open("/dev/null", unix.O_RDONLY, 0)))) }

// Who is traced, and opens as fast as it can: the log holds some of the stacks.
func BenchmarkFDTracerSuspectOpenClose(b *testing.B) { besideTracer(b, 3000, myself, openClose) }

// And with the stack of every one: a turn is as long as the log.
func BenchmarkFDTracerSuspectOpenCloseLogged(b *testing.B) { besideTracer(b, 1600, myself, openClose) }

func BenchmarkFDTracerSuspectSocketClose(b *testing.B) {
	besideTracer(b, 2000, myself, func() { check(unix.Close(must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)))) })
}

func BenchmarkFDTracerSuspectGetppid(b *testing.B) {
	besideTracer(b, 20000, myself, func() { unix.Getppid() })
}

// Everybody else, while somebody is traced.
func BenchmarkFDTracerBystanderGetppid(b *testing.B) {
	besideTracer(b, 20000, somebody(b), func() { unix.Getppid() })
}

func BenchmarkFDTracerBystanderOpenClose(b *testing.B) {
	besideTracer(b, 3000, somebody(b), openClose)
}

// Everybody, while nobody is.
func BenchmarkFDTracerIdleGetppid(b *testing.B) {
	besideTracer(b, 20000, nobody, func() { unix.Getppid() })
}

// How long attaching and detaching take, and what a bystander's system call takes at the
// same time: while nothing is attached, while one program that only returns is, which is
// the kernel's own part, and while the tracer is, in turns.
func BenchmarkFDTracerAttach(b *testing.B) {
	tr := openTracer(b, FDTraceOptions{})
	ids := somebody(b)(tr)
	idle := idleProgram(b)
	var idleLink link.Link
	ways := []struct {
		name   string
		change [2]func() error // attaches and detaches
		took   [2][]float64
		calls  []float64
	}{
		{name: "nothing", change: [2]func() error{
			func() error { time.Sleep(10 * time.Millisecond); return nil },
			func() error { time.Sleep(10 * time.Millisecond); return nil },
		}},
		{name: "floor", change: [2]func() error{
			func() (err error) {
				idleLink, err = link.AttachTracing(link.TracingOptions{Program: idle})
				return err
			},
			func() error { return idleLink.Close() },
		}},
		{name: "tracer", change: [2]func() error{func() error { return tr.Start(ids) }, tr.Stop}},
	}
	for b.Loop() {
		for i := range ways {
			w := &ways[i]
			for k, change := range w.change {
				stop, stopped := make(chan bool), make(chan bool)
				go timeCalls(stop, stopped, &w.calls)
				<-stopped // it has begun
				start := time.Now()
				check(change())
				w.took[k] = append(w.took[k], float64(time.Since(start)))
				close(stop)
				<-stopped
			}
		}
	}
	for i := range ways {
		w := &ways[i]
		b.ReportMetric(middle(w.took[0])/1e6, "ms-attach-"+w.name)
		b.ReportMetric(middle(w.took[1])/1e6, "ms-detach-"+w.name)
		b.ReportMetric(max(slices.Max(w.took[0]), slices.Max(w.took[1]))/1e6, "ms-worst-"+w.name)
		b.ReportMetric(percentile(w.calls, 0.99), "ns-call-p99-"+w.name)
		b.ReportMetric(slices.Max(w.calls)/1e6, "ms-call-worst-"+w.name)
	}
}

// timeCalls appends to out what each of a thread's calls took, until it is to stop.
func timeCalls(stop <-chan bool, stopped chan<- bool, out *[]float64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stopped <- true
	for {
		select {
		case <-stop:
			stopped <- true
			return
		default:
		}
		for range 100 {
			start := time.Now()
			unix.Getppid()
			*out = append(*out, float64(time.Since(start)))
		}
	}
}

func percentile(x []float64, p float64) float64 {
	slices.Sort(x)
	return x[int(float64(len(x)-1)*p)]
}

// What it costs to drain a birth with its stack.
func BenchmarkFDTracerDrain(b *testing.B) {
	const births = 1000
	tr := openTracer(b, FDTraceOptions{})
	check(tr.Start(myself(tr)))
	var d sample.FDBirths
	drained := 0
	b.ReportAllocs()
	var took time.Duration
	for b.Loop() {
		b.StopTimer()
		for range births {
			openClose()
		}
		b.StartTimer()
		start := time.Now()
		check(tr.Drain(&d))
		took += time.Since(start)
		drained += len(d.Births)
	}
	b.ReportMetric(float64(took)/float64(drained), "ns/birth")
}

// What it costs to list a descriptor.
func BenchmarkFDTracerList(b *testing.B) {
	tr := openTracer(b, FDTraceOptions{})
	var fds []int
	for range 5000 {
		fds = append(fds, must(unix.Open("/dev/null", unix.O_RDONLY, 0)))
	}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	id, err := tr.self()
	check(err)
	var list sample.FDList
	start := cpuTime()
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		check(tr.List(id, &list))
		n += len(list.FDs)
	}
	b.ReportMetric(float64(cpuTime()-start)/float64(n), "ns/fd")
}

// idleProgram only returns, at the return of every system call.
func idleProgram(b *testing.B) *ebpf.Program {
	b.Helper()
	idle, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sys_exit", License: "Dual MIT/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { idle.Close() })
	return idle
}

// know has the tracer know the walk of the stacks that work's births have, as far as they are
// not this function's.
func know(b *testing.B, tr *FDTracer, work func()) {
	const innermost = 4
	var births sample.FDBirths
	check(tr.Drain(&births))
	work()
	check(tr.Drain(&births))
	if id := births.Births[0].ID; !tr.Remember(id, births.Births[0].ExecID, wordsOf(&births.Births[0], innermost), 1) {
		b.Fatal("the tracer has no room for a walk")
	}
}

// What of a call's time is the kernel's own, for calling any program at the return of a system
// call: with a program that only returns, and with the tracer's, in turns. Of each turn, the
// quickest of the parts counts, and of the turns the tenth percentile: both are of nobody who was
// interrupted, so that a busy machine moves the result less.
func BenchmarkFDTracerFloor(b *testing.B) {
	for _, who := range []struct {
		name string
		ids  func(*FDTracer) []sample.ID
		work func()
		know bool
	}{
		{name: "bystander's-getppid", ids: somebody(b), work: func() { unix.Getppid() }},
		{name: "bystander's-open-close", ids: somebody(b), work: openClose},
		{name: "suspect's-open-close", ids: myself, work: openClose},
		{name: "suspect's-open-close-known", ids: myself, work: openClose, know: true},
	} {
		b.Run(who.name, func(b *testing.B) { floorOf(b, who.ids, who.work, who.know) })
	}
}

func floorOf(b *testing.B, who func(*FDTracer) []sample.ID, work func(), known bool) {
	tr := openTracer(b, FDTraceOptions{}) // its log holds the births of a turn
	ids := who(tr)
	idle := idleProgram(b)
	var births sample.FDBirths
	const part = 250
	turn := func() float64 {
		best := time.Hour
		for range 7 { // the first warms the caches
			start := time.Now()
			for range part {
				work()
			}
			best = min(best, time.Since(start))
		}
		return float64(best) / part
	}
	var off, floor, traced []float64
	for b.Loop() {
		off = append(off, turn())
		l, err := link.AttachTracing(link.TracingOptions{Program: idle})
		if err != nil {
			b.Fatal(err)
		}
		floor = append(floor, turn())
		check(l.Close())
		check(tr.Start(ids))
		if known {
			know(b, tr, func() { turn() })
		}
		traced = append(traced, turn())
		check(tr.Drain(&births))
		check(tr.Stop())
		if known && slices.ContainsFunc(births.Births, func(b sample.FDBirth) bool { return b.Known == 0 }) {
			b.Fatal("a stack was copied that is known")
		}
		if births.Lost > 0 {
			b.Fatalf("%d stacks were lost", births.Lost)
		}
	}
	without := percentile(off, 0.1)
	b.ReportMetric(without, "ns-without")
	b.ReportMetric(percentile(floor, 0.1)-without, "ns-more-floor")
	b.ReportMetric(percentile(traced, 0.1)-without, "ns-more-traced")
	b.ReportMetric(percentile(traced, 0.1)/without, "ratio")
}

// helpPace says at each line of its input how long an open and a close take: the
// quickest of a few parts, on the clock, for who is stopped by a tracer uses no CPU.
func helpPace([]string) {
	const part = 300
	fmt.Println("ready")
	for {
		if _, err := stdin.ReadString('\n'); err != nil {
			return
		}
		best := time.Hour
		for range 5 {
			start := time.Now()
			for range part {
				openClose()
			}
			best = min(best, time.Since(start))
		}
		fmt.Println(float64(best) / part)
	}
}

// What an open and a close take who is traced, with the stack of every one copied, and with
// its walk known, beside what they take under bpftrace, which sums stacks, and under strace, which prints calls, in
// turns.
func BenchmarkFDTracerBesideOthers(b *testing.B) {
	h := childtest.Start(b, childtest.Itself(helperVariable, "pace"))
	h.Ready()
	tr := openTracer(b, FDTraceOptions{LogEntries: 4096})
	id := idOf(b, tr, h.Process.Pid)
	opens := fmt.Sprintf("tracepoint:syscalls:sys_exit_openat /pid == %[1]d/ { @[ustack] = count(); } "+
		"tracepoint:syscalls:sys_exit_close /pid == %[1]d/ { @closed = count(); }", id.PID)
	call := func() float64 {
		h.Say("")
		ns, err := strconv.ParseFloat(h.Hear(""), 64)
		check(err)
		return ns
	}
	ratios := map[string][]float64{}
	for b.Loop() {
		alone := call()
		check(tr.Start([]sample.ID{id}))
		ratios["copied"] = append(ratios["copied"], call()/alone)
		know(b, tr, func() { call() })
		ratios["known"] = append(ratios["known"], call()/alone)
		var births sample.FDBirths
		check(errors.Join(tr.Drain(&births), tr.Stop()))
		stop := watchBy(b, "bpftrace", func(pid int) bool { return hasDescriptor(pid, "perf_event") }, "-q", "-e", opens)
		ratios["bpftrace"] = append(ratios["bpftrace"], call()/alone)
		stop()
		stop = watchBy(b, "strace", func(int) bool {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", id.PID))
			return !bytes.Contains(status, []byte("TracerPid:\t0\n"))
		}, "-f", "-o", os.DevNull, "-e", "trace=openat,close", "-p", strconv.Itoa(int(id.PID)))
		ratios["strace"] = append(ratios["strace"], call()/alone)
		stop()
	}
	for name, r := range ratios {
		b.ReportMetric(middle(r), "ratio-"+name)
	}
}

// watchBy starts another tracer and waits until it is there.
func watchBy(b *testing.B, name string, there func(pid int) bool, args ...string) (stop func()) {
	b.Helper()
	if _, err := exec.LookPath(name); err != nil {
		b.Skipf("there is no %s: scripts/setup test", name)
	}
	// bpftrace looks tracepoints up in tracefs, which not every machine has mounted.
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", `mount -t tracefs tracefs /sys/kernel/tracing; exec "$0" "$@"`, name}, args...)...)
	check(cmd.Start())
	for end := time.Now().Add(time.Minute); !there(cmd.Process.Pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("%s did not begin", name)
		}
	}
	return func() {
		check(cmd.Process.Signal(unix.SIGINT))
		_ = cmd.Wait() // by that signal
	}
}

// hasDescriptor tells whether a process has a descriptor whose name contains a word.
func hasDescriptor(pid int, word string) bool {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	entries, _ := os.ReadDir(dir)
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		to, _ := os.Readlink(dir + e.Name())
		return strings.Contains(to, word)
	})
}
