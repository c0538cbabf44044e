package loader

import (
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
	"rmagent/internal/sampletest"
)

// The cost of a hook to others: the CPU time of the same work without and with it,
// in turns, so that what else the machine does meets both. One iteration is one
// turn of each: run with -benchtime 100x. Medians are reported, of each kind and of
// the difference within each pair.
func besideHook(b *testing.B, hook string, batch int, work func()) {
	e := openEvents(b, EventOptions{Hooks: []string{"oom"}, Standby: []string{hook}})
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
		if err := e.Attach(hook); err != nil {
			b.Fatal(err)
		}
		warm()
		on := turn()
		if err := e.Detach(hook); err != nil {
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
	x, y := tcpPair(unix.AF_INET)
	defer unix.Close(x)
	defer unix.Close(y)
	p := make([]byte, 64)
	besideHook(b, "net", 1000, func() {
		check(unix.Send(x, p, 0))
		must(unix.Read(y, p))
	})
}

func BenchmarkEventsNetUnix(b *testing.B) {
	s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	check(err)
	defer unix.Close(s[0])
	defer unix.Close(s[1])
	p := make([]byte, 64)
	besideHook(b, "net", 3000, func() {
		check(unix.Send(s[0], p, 0))
		must(unix.Read(s[1], p))
	})
}

func BenchmarkEventsExitsForkExecExit(b *testing.B) {
	for name, program := range map[string]string{"tiny": sampletest.ShortProgram(b, "short", 0), "true": "/bin/true"} {
		b.Run(name, func(b *testing.B) {
			if _, err := os.Stat(program); err != nil {
				b.Skip(err)
			}
			besideHook(b, "exits", 40, func() {
				pid, err := syscall.ForkExec(program, []string{"x"}, &syscall.ProcAttr{})
				check(err)
				var status syscall.WaitStatus
				must(syscall.Wait4(pid, &status, 0, nil))
			})
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

func BenchmarkEventsFaults(b *testing.B) {
	mem, err := unix.Mmap(-1, 0, 1000*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	check(err)
	check(unix.Madvise(mem, unix.MADV_NOHUGEPAGE))
	defer unix.Munmap(mem)
	at := len(mem)
	besideHook(b, "faults", 4000, func() {
		if at == len(mem) {
			check(unix.Madvise(mem, unix.MADV_DONTNEED))
			at = 0
		}
		mem[at] = 1
		at += os.Getpagesize()
	})
}

// Two threads that wake each other: two switches a turn.
func BenchmarkEventsSwitchPingPong(b *testing.B) {
	var there, back [2]int
	check(unix.Pipe2(there[:], unix.O_CLOEXEC))
	check(unix.Pipe2(back[:], unix.O_CLOEXEC))
	go func() {
		runtime.LockOSThread()
		p := make([]byte, 1)
		for {
			if n, err := unix.Read(there[0], p); n == 0 || err != nil {
				unix.Close(back[1])
				return
			}
			unix.Write(back[1], p)
		}
	}()
	defer unix.Close(there[1])
	p := make([]byte, 1)
	besideHook(b, "switch", 1000, func() {
		must(unix.Write(there[1], p))
		must(unix.Read(back[0], p))
	})
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
