package replay

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/record"
)

// day is a recording of 1,000 processes, of which 100 have a record at each reading, as
// an io.Reader: it has 13 GB. One of them leaks descriptors, and starts again when it
// has reached its limit.
type day struct {
	seconds, second int
	lines           [][]byte // of each process, to be patched
	buf, rest       []byte
	seq             uint64
}

const dayProcesses, dayRecords = 1000, 100

func newDay(seconds int) *day {
	d := &day{seconds: seconds}
	for i := range dayProcesses {
		p := &record.Process{ProcessFacts: busy(int32(1000+i), uint64(20+i%50))}
		p.Header = record.Header{Time: begin, Host: "vm", BootID: "boot-1", Schema: record.Schema}
		line, err := record.Append(nil, p)
		if err != nil {
			panic(err)
		}
		d.lines = append(d.lines, line)
	}
	return d
}

func busy(pid int32, open uint64) record.ProcessFacts {
	n := uint64(pid)
	return record.ProcessFacts{
		PID: pid, StartTicks: 7, NSPID: some(pid), PPID: some(int32(1)), StartTime: some(begin.Add(-time.Hour)), Comm: "worker-" + strconv.Itoa(int(pid%50)),
		Exe: some("/usr/lib/app/worker"), UID: some(uint32(1000)), Cgroup: some("/system.slice/app.service"), Unit: some("app.service"), State: some("S"),
		Source: record.SourceEBPF, Threads: some(uint64(4)), FDOpen: some(open), FDLimit: some(uint64(1000)), FDHardLimit: some(uint64(1000)),
		FDRatio: some(float64(open) / 1000), FDGrowthPerSecond: some(0.0), RSSBytes: some(n << 12), RSSAnonBytes: some(n << 11), RSSFileBytes: some(n << 11),
		RSSShmemBytes: some(uint64(0)), RSSPeakBytes: some(n << 13), SwapBytes: some(uint64(0)), VirtualBytes: some(n << 20),
		MinorFaultsTotal: some(n * 31), MajorFaultsTotal: some(n), CPUSecondsTotal: some(float64(n) * 1.000001), CPUUserSecondsTotal: some(float64(n) * 0.7),
		CPUSystemSecondsTotal: some(float64(n) * 0.300001), CPUCores: some(0.012345), RunDelaySecondsTotal: some(1.234567),
		DiskReadBytesTotal: some(n << 14), DiskWrittenBytesTotal: some(n << 15), DiskReadBytesPerSecond: some(4096.0), DiskWrittenBytesPerSecond: some(123.456789),
		IOReadBytesTotal: some(n << 16), IOWrittenBytesTotal: some(n << 17), NetReceivedBytesTotal: some(n << 10), NetSentBytesTotal: some(n << 11),
		NetReceivedBytesPerSecond: some(0.0), NetSentBytesPerSecond: some(1500.5),
	}
}

func (d *day) Read(b []byte) (int, error) {
	if len(d.rest) == 0 {
		if d.second == d.seconds {
			return 0, io.EOF
		}
		d.reading()
		d.rest = d.buf
	}
	n := copy(b, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// reading makes the records of the next second.
func (d *day) reading() {
	d.buf = d.buf[:0]
	at := begin.Add(time.Duration(d.second) * time.Second)
	h := record.Host{
		MonotonicSeconds: some(1000 + float64(d.second)), CPURatio: some(0.5), CPUCount: some(uint64(8)), Processes: some(uint64(dayProcesses)),
		MemoryTotalBytes: some(uint64(16 << 30)), MemoryUsedBytes: some(uint64(4 << 30)), FilesOpen: some(uint64(50000)), FilesLimit: some(uint64(1 << 20)),
	}
	d.append(&h, at)
	leak := record.Process{ProcessFacts: busy(1000, uint64(d.second%1000))}
	d.append(&leak, at)
	stamp := []byte(at.Format("2006-01-02T15:04:05.000000000Z"))
	for i := range dayRecords - 1 {
		d.patch(d.lines[1+(d.second*dayRecords+i)%(dayProcesses-1)], stamp)
	}
	d.second++
}

func (d *day) append(r record.Record, at time.Time) {
	d.seq++
	*r.Head() = record.Header{Time: at, Host: "vm", BootID: "boot-1", Seq: d.seq, Schema: record.Schema}
	d.buf, _ = record.Append(d.buf, r)
}

// patch writes a line with another time and seq.
func (d *day) patch(line, stamp []byte) {
	d.seq++
	const time = `{"time":"`
	seq := bytes.Index(line[:200], []byte(`"seq":`)) + len(`"seq":`)
	d.buf = append(d.buf, time...)
	d.buf = append(d.buf, stamp...)
	d.buf = append(d.buf, line[len(time)+len(stamp):seq]...)
	d.buf = strconv.AppendUint(d.buf, d.seq, 10)
	d.buf = append(d.buf, line[seq+1:]...)
}

// playDay plays so many seconds and checks what was decided.
func playDay(t testing.TB, seconds int) {
	decided := map[string]int{}
	p := New(Options{Write: func(r record.Record) error {
		c := r.(*record.StateChange)
		decided[string(c.Previous)+">"+string(c.State)]++
		return nil
	}})
	r, err := p.Play(Input{"day", newDay(seconds)})
	if err != nil {
		t.Fatal(err)
	}
	if want := uint64(seconds * dayRecords); r.Processes != want || r.Readings != uint64(seconds) || r.Lost+r.Stray+r.Vanished != 0 || len(r.Refused) != 0 {
		t.Errorf("%d records of processes, want %d: %+v", r.Processes, want, r)
	}
	// The one that leaks crosses three thresholds every 1,000 seconds, and is back ten
	// seconds after it started again.
	full := seconds / 1000
	want := map[string]int{"normal>info": full, "info>warning": full, "warning>critical": full, "critical>normal": full}
	if seconds%1000 <= 10 {
		want["critical>normal"]--
	}
	if fmt.Sprint(decided) != fmt.Sprint(want) {
		t.Errorf("decided %v, want %v", decided, want)
	}
}

// Forty minutes of the day: the rest is the benchmark's.
func TestDay(t *testing.T) { playDay(t, 2500) }

// BenchmarkDay plays a day: 8.64 million records of processes, in under 60 s of one
// core, the making of them included, and within 200 MiB.
func BenchmarkDay(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for b.Loop() {
		before := cpuTime(b)
		playDay(b, 86400)
		took := cpuTime(b) - before
		peak := peakMemory(b)
		b.ReportMetric(took.Seconds(), "cpu-s/day")
		b.ReportMetric(float64(peak)/(1<<20), "MiB-peak")
		if took > time.Minute {
			b.Errorf("a day took %v of CPU time, at most a minute", took)
		}
		if peak > 200<<20 {
			b.Errorf("%d MiB of memory, at most 200", peak>>20)
		}
	}
}

func cpuTime(t testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peakMemory is the most that this process had resident.
func peakMemory(t testing.TB) uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
