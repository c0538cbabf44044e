package fallback

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rmagent/internal/sample"
)

const statTail = "1 1 0 -1 4194560 100 2 30 4 500 600 0 0 20 0 7 0 12345 1048576 256 18446744073709551615 0 0"

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		name, in, comm string
		ok, kernel     bool
	}{
		{"plain", "42 (bash) S 7 " + statTail, "bash", true, false},
		{"parenthesis", "42 (a) R 1 (b) S 7 " + statTail, "a) R 1 (b", true, false},
		{"newline", "42 (a\nb) S 7 " + statTail, "a\nb", true, false},
		{"empty", "42 () S 7 " + statTail, "", true, false},
		{"no end", "42 (bash S 7 " + statTail, "", false, false},
		{"short", "42 (bash) S 7 1 1", "", false, false},
		{"cut at the state", "42 (bash) ", "", false, false},
		{"letters", "42 (bash) S x " + statTail, "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p sample.Process
			if ok := parseStat([]byte(c.in), &p); ok != c.ok {
				t.Fatalf("ok %v", ok)
			}
			if !c.ok {
				if p.Known != 0 {
					t.Errorf("knows %b", p.Known)
				}
				return
			}
			want := sample.Process{
				ID: sample.ID{StartTicks: 12345}, Comm: sample.MakeComm([]byte(c.comm)), KernelThread: c.kernel,
				State: 'S', Known: statFields, PPID: 7, Threads: 7, VirtualBytes: 1048576,
				MinorFaults: 100, MajorFaults: 30, CPUNanos: 11e9, CPUUserNanos: 5e9, CPUSystemNanos: 6e9,
			}
			if d := cmp.Diff(want, p); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestOwnName(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags uint64
		want  string
	}{
		{"kworker/0:1-events", workqueueWorker, "kworker/0:1"},
		{"kworker/u8:2+flush-254:0", workqueueWorker, "kworker/u8:2"},
		{"kworker/3:0H", workqueueWorker, "kworker/3:0H"},
		{"kworker/R-mm_percpu_wq", workqueueWorker, "kworker/R-mm_percpu_wq"},
		{"my-program+x", 0, "my-program+x"},
	} {
		if got := string(ownName([]byte(c.name), c.flags)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestParseStatus(t *testing.T) {
	const memory = "VmSize:\t 5000 kB\nVmHWM:\t 40 kB\nVmRSS:\t 33 kB\nRssAnon:\t 30 kB\nRssFile:\t 2 kB\nRssShmem:\t 1 kB\nVmSwap:\t 8 kB\n"
	for _, c := range []struct {
		name, in string
		want     sample.Process
	}{
		{
			"container", "Name:\tx\\nUid:\nUid:\t1000\t0\t0\t0\nNSpid:\t4711\t12\t1\n" + memory + "Threads:\t3\nUid:\t5\n",
			sample.Process{
				UID: 1000, NSPID: 1, RSSAnonBytes: 30 << 10, RSSFileBytes: 2 << 10, RSSShmemBytes: 1 << 10,
				RSSPeakBytes: 40 << 10, SwapBytes: 8 << 10, Known: statusFields,
			},
		},
		{
			"kernel thread", "Uid:\t0\t0\t0\t0\nNSpid:\t2\nThreads:\t1\n",
			sample.Process{NSPID: 2, Known: statusFields &^ (1 << sample.RSSPeak)},
		},
		{ // before ae5758a1a77f (4.5)
			"no split", "Uid:\t0\t0\t0\t0\nVmSize:\t1 kB\nVmRSS:\t1 kB\n",
			sample.Process{Known: 1 << sample.UID},
		},
		{
			"nonsense", "Uid:\tx\nNSpid:\t1 -2\nVmSize:\nVmHWM:\t99999999999999999999 kB\nRssAnon:\t1 MB\nRssFile:\t18446744073709551615 kB\n",
			sample.Process{NSPID: 1},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p sample.Process
			parseStatus([]byte(c.in), &p)
			if d := cmp.Diff(c.want, p); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseIO(t *testing.T) {
	var p sample.Process
	parseIO([]byte("rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 6\ncancelled_write_bytes: 7\n"), &p)
	want := sample.Process{IOReadBytes: 1, IOWrittenBytes: 2, DiskReadBytes: 5, DiskWrittenBytes: 6, Known: ioFields}
	if d := cmp.Diff(want, p); d != "" {
		t.Error(d)
	}
	p = sample.Process{}
	parseIO([]byte("rchar: -1\nwchar\n\nread_bytes:\n"), &p)
	if d := cmp.Diff(sample.Process{}, p); d != "" {
		t.Error(d)
	}
}

func TestParseLimits(t *testing.T) {
	const head = "Limit                     Soft Limit           Hard Limit           Units     \n"
	for _, c := range []struct {
		in         string
		soft, hard uint64
		known      sample.FieldSet
	}{
		{head + "Max open files            1024                 524288               files     \n", 1024, 524288, limitFields},
		{head + "Max open files            unlimited            unlimited            files     \n", sample.Unlimited, sample.Unlimited, limitFields},
		{head + "Max open files            0                    4096                 files     \n", 0, 4096, limitFields},
		{head + "Max open files            1024\n", 0, 0, 0},
		{head, 0, 0, 0},
	} {
		var p sample.Process
		parseLimits([]byte(c.in), &p)
		if d := cmp.Diff(sample.Process{FDLimit: c.soft, FDHardLimit: c.hard, Known: c.known}, p); d != "" {
			t.Errorf("%q: %s", c.in, d)
		}
	}
}

func TestParseSchedstat(t *testing.T) {
	for _, c := range []struct {
		in          string
		ran, waited uint64
		ok          bool
	}{
		{"109074 73060 2\n", 109074, 73060, true},
		{"0 0 0\n", 0, 0, true},
		{"1\n", 1, 0, false},
		{"", 0, 0, false},
		{"-1 2 3", 0, 0, false},
	} {
		if ran, waited, ok := parseSchedstat([]byte(c.in)); ran != c.ran || waited != c.waited || ok != c.ok {
			t.Errorf("%q: %d %d %v", c.in, ran, waited, ok)
		}
	}
}

func TestLagging(t *testing.T) {
	for release, want := range map[string]bool{
		"5.10.0-28-amd64": true, "6.1.0-18-amd64": true, "6.15.11": true, "6.16.0-rc1": false, "6.18.44": false,
		"7.0.0": false, "": true, "strange": true, "6": true,
	} {
		if got := lagging(release); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}

// seed adds every captured file of that name to a fuzz corpus.
func seed(f *testing.F, name string) {
	files, err := filepath.Glob("../../testdata/proc/*/proc/*/" + name)
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "/proc/self/"+name) {
		if b, err := os.ReadFile(file); err == nil {
			f.Add(b)
		}
	}
}

func FuzzStat(f *testing.F) {
	seed(f, "stat")
	f.Fuzz(func(t *testing.T, b []byte) {
		var p sample.Process
		if !parseStat(b, &p) && p.Known != 0 {
			t.Errorf("refused, yet knows %b", p.Known)
		}
	})
}

func FuzzStatus(f *testing.F) {
	seed(f, "status")
	f.Fuzz(func(t *testing.T, b []byte) {
		var p sample.Process
		parseStatus(b, &p)
		if p.Known&^statusFields != 0 {
			t.Errorf("knows %b", p.Known)
		}
	})
}

func FuzzIO(f *testing.F) {
	seed(f, "io")
	f.Fuzz(func(t *testing.T, b []byte) { parseIO(b, new(sample.Process)) })
}

func FuzzLimits(f *testing.F) {
	seed(f, "limits")
	f.Fuzz(func(t *testing.T, b []byte) {
		var p sample.Process
		parseLimits(b, &p)
		if p.Known != 0 && p.Known != limitFields {
			t.Errorf("knows %b", p.Known)
		}
	})
}

func FuzzSchedstat(f *testing.F) {
	seed(f, "schedstat")
	f.Fuzz(func(t *testing.T, b []byte) { parseSchedstat(b) })
}
