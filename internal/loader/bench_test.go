package loader

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

// crowd runs idle processes with 8 descriptors each until the benchmark ends.
func crowd(b *testing.B, n int) {
	b.Helper()
	program := filepath.Join(b.TempDir(), "idle")
	if out, err := exec.Command("cc", "-O2", "-o", program, "../../testdata/programs/idle.c").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(program, strconv.Itoa(n), "8")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "ready" {
			return
		}
	}
	b.Fatal("the idle processes did not start")
}

// cpu is what this thread has used; the benchmark holds it.
func cpu() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}

// timed is the CPU time of f.
func timed(f func()) time.Duration {
	before := cpu()
	f()
	return cpu() - before
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// procfsScan is what reading the same of every process costs without parsing any.
type procfsScan struct{ buf []byte }

func (p *procfsScan) scan() {
	for _, name := range p.names("/proc") {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		for _, file := range []string{"stat", "statm", "io", "status", "limits"} {
			if fd, err := unix.Open("/proc/"+name+"/"+file, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
				unix.Read(fd, p.buf)
				unix.Close(fd)
			}
		}
		p.names("/proc/" + name + "/fd")
	}
}

func (p *procfsScan) names(dir string) (names []string) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	list := strings.HasSuffix(dir, "proc")
	for {
		n, err := unix.Getdents(fd, p.buf)
		if err != nil || n <= 0 {
			return names
		}
		if list {
			_, _, names = unix.ParseDirent(p.buf[:n], -1, names)
		}
	}
}

// BenchmarkScan reads 2,000 idle processes, and beside it, in turns, the same from
// /proc: "cheaper" is the ratio of the medians of CPU time.
func BenchmarkScan(b *testing.B) {
	const processes = 2000
	crowd(b, processes)
	for _, scan := range []Scan{ScanSyscall, ScanIter} {
		b.Run(string(scan), func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			r, err := Open(Options{Scan: scan})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			var s sample.Snapshot
			files := procfsScan{buf: make([]byte, 64<<10)}
			var ours, theirs []time.Duration
			read := func() {
				if err := r.Read(context.Background(), sample.Scope{}, &s); err != nil {
					b.Fatal(err)
				}
			}
			read()
			b.ReportAllocs()
			for b.Loop() {
				ours = append(ours, timed(read))
				if len(theirs) < 15 && len(ours)%20 == 1 {
					b.StopTimer()
					theirs = append(theirs, timed(files.scan))
					b.StartTimer()
				}
			}
			b.ReportMetric(float64(median(ours).Nanoseconds())/float64(len(s.Processes)), "cpu-ns/process")
			b.ReportMetric(float64(median(theirs))/float64(median(ours)), "cheaper")
		})
	}
}

// BenchmarkColdScan reads 2,000 idle processes as an agent does: once in a while,
// when what it reads has been pushed out of the caches. So that it takes less than
// a second a reading, more memory than the caches hold is written in between.
func BenchmarkColdScan(b *testing.B) {
	const processes = 2000
	const cacheLine = 64
	crowd(b, processes)
	for _, scan := range []Scan{ScanSyscall, ScanIter} {
		b.Run(string(scan), func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			r, err := Open(Options{Scan: scan})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			var s sample.Snapshot
			others := make([]byte, 128<<20)
			var ours []time.Duration
			for b.Loop() {
				for i := 0; i < len(others); i += cacheLine {
					others[i]++
				}
				ours = append(ours, timed(func() {
					if err := r.Read(context.Background(), sample.Scope{}, &s); err != nil {
						b.Fatal(err)
					}
				}))
			}
			b.ReportMetric(float64(median(ours).Nanoseconds())/float64(len(s.Processes)), "cpu-ns/process")
		})
	}
}

// BenchmarkCPUs plays machines with more CPUs, each of whose shares of every
// process's RSS is added.
func BenchmarkCPUs(b *testing.B) {
	crowd(b, 500)
	for _, repeat := range []int{1, 4, 8, 16, 32, 64, 128} {
		var s sample.Snapshot
		r, err := Open(Options{Scan: ScanSyscall, repeatCPUs: repeat})
		if err != nil {
			b.Fatal(err)
		}
		r.exact = true
		b.Run(fmt.Sprintf("cpus=%d", repeat*2), func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var ours []time.Duration
			for b.Loop() {
				ours = append(ours, timed(func() {
					if err := r.Read(context.Background(), sample.Scope{}, &s); err != nil {
						b.Fatal(err)
					}
				}))
			}
			b.ReportMetric(float64(median(ours).Nanoseconds())/float64(len(s.Processes)), "cpu-ns/process")
		})
		r.Close()
	}
}

// BenchmarkThreads reads one process of many threads, by itself.
func BenchmarkThreads(b *testing.B) {
	for _, threads := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			r, err := Open(Options{Scan: ScanSyscall})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			release := make(chan bool)
			started := make(chan bool)
			for range threads {
				go func() {
					runtime.LockOSThread() // and ends with the thread
					started <- true
					<-release
				}()
				<-started
			}
			defer close(release)
			self := sample.Scope{PIDs: []int32{int32(os.Getpid())}}
			var s sample.Snapshot
			var ours []time.Duration
			for b.Loop() {
				ours = append(ours, timed(func() {
					if err := r.Read(context.Background(), self, &s); err != nil {
						b.Fatal(err)
					}
				}))
			}
			b.ReportMetric(float64(median(ours).Nanoseconds())/float64(s.Processes[0].Threads), "cpu-ns/thread")
		})
	}
}

// BenchmarkOpen is how long a command waits for the scan.
func BenchmarkOpen(b *testing.B) {
	for _, scan := range []Scan{ScanSyscall, ScanIter} {
		b.Run(string(scan), func(b *testing.B) {
			for b.Loop() {
				r, err := Open(Options{Scan: scan})
				if err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	}
}
