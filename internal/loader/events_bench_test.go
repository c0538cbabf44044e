package loader

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
	"rmagent/internal/sampletest"
)

// The cost of a hook to others: the CPU time of the same work without and with it,
// in turns, so that what else the machine does meets both. One iteration is one
// turn of each: run with -benchtime 100x. Medians are reported, of each kind and of
// the difference within each pair.
func besideHook(b *testing.B, hook string, batch int, work func()) {
	e := openEvents(b, EventOptions{Hooks: []string{"oom"}})
	inTurns(b, func() error { return e.Attach(hook) }, func() error { return e.Detach(hook) }, batch, work)
}

// The least that any hook can cost: the same with programs that do nothing. What a
// hook costs beyond it is its own.
func besideNothing(b *testing.B, tracepoints []string, batch int, work func()) {
	if os.Geteuid() != 0 {
		b.Skip("needs root: CAP_BPF and CAP_PERFMON")
	}
	var programs []*ebpf.Program
	for _, name := range tracepoints {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: name, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		if err != nil {
			b.Fatal(err)
		}
		defer p.Close()
		programs = append(programs, p)
	}
	var links []link.Link
	attach := func() error {
		for _, p := range programs {
			l, err := link.AttachTracing(link.TracingOptions{Program: p})
			if err != nil {
				return err
			}
			links = append(links, l)
		}
		return nil
	}
	detach := func() (err error) {
		for _, l := range links {
			err = errors.Join(err, l.Close())
		}
		links = nil
		return err
	}
	inTurns(b, attach, detach, batch, work)
}

func inTurns(b *testing.B, attach, detach func() error, batch int, work func()) {
	runtime.LockOSThread() // moving between threads costs more than what is measured
	defer runtime.UnlockOSThread()
	turn := func() float64 {
		start := cpuTime()
		for range batch {
			work()
		}
		return float64(cpuTime()-start) / float64(batch)
	}
	warm := func() {
		for range batch / 4 {
			work()
		}
	}
	var without, with, ratio, more []float64
	for b.Loop() {
		warm() // attaching and detaching rewrite code: some microseconds, once
		off := turn()
		if err := attach(); err != nil {
			b.Fatal(err)
		}
		warm()
		on := turn()
		if err := detach(); err != nil {
			b.Fatal(err)
		}
		without, with = append(without, off), append(with, on)
		ratio, more = append(ratio, on/off), append(more, on-off)
	}
	b.ReportMetric(middle(without), "ns-without")
	b.ReportMetric(middle(with), "ns-with")
	b.ReportMetric(middle(more), "ns-more")
	b.ReportMetric(middle(ratio), "ratio")
}

// cpuTime is what this process and its children took so far.
func cpuTime() time.Duration {
	var sum int64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var use unix.Rusage
		check(unix.Getrusage(who, &use))
		sum += use.Utime.Nano() + use.Stime.Nano()
	}
	return time.Duration(sum)
}

func middle(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

func BenchmarkEventsNetTCP(b *testing.B) {
	besideHook(b, "net", 1000, tcpWork(b))
}

func BenchmarkEventsNetTCPNothing(b *testing.B) {
	besideNothing(b, socketTracepoints, 1000, tcpWork(b))
}

func BenchmarkEventsNetUnix(b *testing.B) {
	besideHook(b, "net", 3000, unixWork(b))
}

func BenchmarkEventsNetUnixNothing(b *testing.B) {
	besideNothing(b, socketTracepoints, 3000, unixWork(b))
}

var socketTracepoints = []string{"sock_send_length", "sock_recv_length"}

// tcpWork sends and receives 64 bytes.
func tcpWork(b *testing.B) func() {
	x, y := tcpPair(unix.AF_INET)
	return sendAndReceive(b, x, y)
}

func unixWork(b *testing.B) func() {
	s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	check(err)
	return sendAndReceive(b, s[0], s[1])
}

func sendAndReceive(b *testing.B, x, y int) func() {
	b.Cleanup(func() { unix.Close(x); unix.Close(y) })
	p := make([]byte, 64)
	return func() {
		check(unix.Send(x, p, 0))
		must(unix.Read(y, p))
	}
}

func BenchmarkEventsExitsForkExecExit(b *testing.B) {
	for name, program := range map[string]string{"tiny": sampletest.ShortProgram(b, "short", 0), "true": "/bin/true"} {
		work := func() {
			pid, err := syscall.ForkExec(program, []string{"x"}, &syscall.ProcAttr{})
			check(err)
			var status syscall.WaitStatus
			must(syscall.Wait4(pid, &status, 0, nil))
		}
		b.Run(name, func(b *testing.B) {
			if _, err := os.Stat(program); err != nil {
				b.Skip(err)
			}
			besideHook(b, "exits", 40, work)
		})
		b.Run(name+"Nothing", func(b *testing.B) {
			besideNothing(b, []string{"sched_process_fork", "sched_process_exec", "sched_process_free", "sched_process_exit"}, 40, work)
		})
	}
}

func BenchmarkEventsFDsOpenClose(b *testing.B) {
	besideHook(b, "fds", 3000, func() {
		check(unix.Close(must(unix.Open("/", unix.O_RDONLY, 0))))
	})
}

func BenchmarkEventsFDsGetppid(b *testing.B) {
	besideHook(b, "fds", 20000, func() { unix.Getppid() })
}

// A storm of forks, as fast as two programs can, told of as the agent does: when the
// kernel asks for it, and each second. One iteration is 100,000 processes.
func BenchmarkEventsForkStorm(b *testing.B) {
	const each = 50000
	e := openEvents(b, EventOptions{})
	path := sampletest.StormProgram(b, each)
	var own time.Duration
	told := 0
	for b.Loop() {
		over := make(chan error, 2)
		for range 2 {
			go func() { over <- exec.Command(path).Run() }()
		}
		tick := time.NewTicker(time.Second)
		var ev sample.Events
		for left := 2; left > 0; {
			select {
			case err := <-over:
				if err != nil {
					b.Fatal(err)
				}
				left--
				continue
			case <-e.Ready():
			case <-tick.C:
			}
			start := ownCPUTime()
			if err := e.Drain(&ev); err != nil {
				b.Fatal(err)
			}
			own += ownCPUTime() - start
			told += len(ev.Exits)
		}
		tick.Stop()
	}
	c, err := e.Balance()
	if err != nil {
		b.Fatal(err)
	}
	if c.Exits.Seen != c.Exits.Delivered+c.Exits.Lost+c.Exits.Pending {
		b.Errorf("the balance does not add up: %+v", c.Exits)
	}
	b.ReportMetric(float64(c.Exits.Seen)/b.Elapsed().Seconds(), "processes/s")
	b.ReportMetric(float64(c.Exits.Lost)/float64(c.Exits.Seen), "lost-ratio")
	b.ReportMetric(float64(own.Nanoseconds())/float64(told), "ns/exit")
}

func ownCPUTime() time.Duration {
	var use unix.Rusage
	check(unix.Getrusage(unix.RUSAGE_SELF, &use))
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// What it costs to be told of 1,000 ended processes.
func BenchmarkEventsDrain(b *testing.B) {
	const exits = 1000
	e := openEvents(b, EventOptions{})
	program := sampletest.ShortProgram(b, "short", 0)
	var ev sample.Events
	var took time.Duration
	told := 0
	for b.Loop() {
		b.StopTimer()
		for range exits {
			pid, err := syscall.ForkExec(program, []string{"x"}, &syscall.ProcAttr{})
			check(err)
			var status syscall.WaitStatus
			must(syscall.Wait4(pid, &status, 0, nil))
		}
		b.StartTimer()
		start := time.Now()
		if err := e.Drain(&ev); err != nil {
			b.Fatal(err)
		}
		took += time.Since(start)
		told += len(ev.Exits)
	}
	b.ReportMetric(float64(took.Nanoseconds())/float64(told), "ns/exit")
}
