package hostfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rmagent/internal/sample"
	"rmagent/record"
)

// optional lets cmp see into known and unknown values.
var optional = cmp.Options{
	cmp.Comparer(func(a, b record.Opt[uint64]) bool { return a == b }),
	cmp.Comparer(func(a, b record.Opt[float64]) bool { return a == b }),
}

func TestParseCPU(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     sample.Host
	}{
		{
			"guest time is in user time", "cpu  100 20 30 4000 50 6 7 8 90 10\ncpu0 1\ncpu3 1\nintr 5\ncpu9\n",
			sample.Host{CPUAllNanos: some[uint64](4221e7), CPUBusyNanos: some[uint64](171e7), CPUCount: some[uint64](2)},
		},
		{"short", "cpu  1 2 3\n", sample.Host{}},
		{"empty", "", sample.Host{}},
		{"other", "cpus 1 2 3 4 5 6 7 8 9 10\n", sample.Host{}},
	} {
		var h sample.Host
		parseCPU([]byte(c.in), &h)
		if d := cmp.Diff(c.want, h, optional); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func TestParseLoad(t *testing.T) {
	for in, want := range map[string]sample.Host{
		"12.34 5.67 8.90 3/1234 56789\n": {Load1: some(12.34), Threads: some[uint64](1234)},
		"x 1 2 3\n":                      {},
		"":                               {},
	} {
		var h sample.Host
		parseLoad([]byte(in), &h)
		if d := cmp.Diff(want, h, optional); d != "" {
			t.Errorf("%q: %s", in, d)
		}
	}
}

func TestParseMeminfo(t *testing.T) {
	for in, want := range map[string]sample.Host{
		"MemTotal: 10 kB\nMemFree: 1 kB\nMemAvailable:  5 kB\nSwapTotal: 3 kB\nSwapFree: 2 kB\n": {
			MemoryTotalBytes: some[uint64](10 << 10), MemoryAvailableBytes: some[uint64](5 << 10),
			SwapTotalBytes: some[uint64](3 << 10), SwapFreeBytes: some[uint64](2 << 10),
		},
		"MemTotal: 10 kB\nMemFree: 1 kB\n":                                   {MemoryTotalBytes: some[uint64](10 << 10)},
		"MemTotal: 10\nMemAvailable: -5 kB\nSwapTotal: 99999999999999999 kB": {},
		"": {},
	} {
		var h sample.Host
		parseMeminfo([]byte(in), &h)
		if d := cmp.Diff(want, h, optional); d != "" {
			t.Errorf("%q: %s", in, d)
		}
	}
}

func TestParsePressure(t *testing.T) {
	for in, want := range map[string][2]sample.Opt[float64]{
		"some avg10=12.50 avg60=1.00 avg300=0 total=1\nfull avg10=0.25 avg60=0 avg300=0 total=0\n": {some(0.125), some(0.0025)},
		"some avg10=0.00 avg60=1.00 avg300=0 total=1\n":                                            {some(0.0), {}},
		"some avg10=100.01\nfull avg60=1.00\n":                                                     {},
		"some avg10=-1.00\n":                                                                       {},
		"":                                                                                         {},
	} {
		s, f := parsePressure([]byte(in))
		if s != want[0] || f != want[1] {
			t.Errorf("%q: %v %v", in, s, f)
		}
	}
}

func TestParseDisk(t *testing.T) {
	for in, want := range map[string][2]uint64{
		" 254       0 vda 37469 7659 2136194 7889 8126 18637 1130160 2995 0 6568 11180 4957 41 237744 255 1071 40": {2136194 * 512, 1130160 * 512},
		" 8 0 sda 1 2 3 4 5 6 7": {3 * 512, 7 * 512},
	} {
		if _, got, ok := parseDisk([]byte(in)); !ok || got != want {
			t.Errorf("%q: %v %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "8 0 sda 1 2 3", "8 1 sda1 1 2 3 4 x 6 7", "8 0"} {
		if _, _, ok := parseDisk([]byte(in)); ok {
			t.Errorf("%q passed", in)
		}
	}
}

func TestParseNetDevice(t *testing.T) {
	name, counts, ok := parseNetDevice([]byte("  eth0:75728774    3293    0 0 0 0 0 0   351172 2835 0 0 0 0 0 0"))
	if string(name) != "eth0" || counts != [2]uint64{75728774, 351172} || !ok {
		t.Errorf("%q %v %v", name, counts, ok)
	}
	for _, in := range []string{"", " face |bytes    packets", "eth0 1 2 3 4 5 6 7 8 9", ": 1 2 3 4 5 6 7 8 9", "eth0: 1 2 3"} {
		if _, _, ok := parseNetDevice([]byte(in)); ok {
			t.Errorf("%q passed", in)
		}
	}
}

func TestParseMount(t *testing.T) {
	for _, c := range []struct {
		in   string
		want mount
	}{
		{
			"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue",
			mount{device: [2]uint64{98, 0}, root: "/mnt1", point: "/mnt2", kind: "ext3", source: "/dev/root", options: []byte("rw,errors=continue")},
		},
		{
			`58 29 0:73 / /mnt/a\040b\134c\012d\043 rw shared:73 propagate_from:2 - fuse.sshfs user@host:/ rw`,
			mount{device: [2]uint64{0, 73}, root: "/", point: "/mnt/a b\\c\nd#", kind: "fuse.sshfs", source: "user@host:/", options: []byte("rw")},
		},
		{
			"32 29 8:33 / /mnt rw - ext4  rw",
			mount{device: [2]uint64{8, 33}, root: "/", point: "/mnt", kind: "ext4", options: []byte("rw")},
		},
	} {
		got, ok := parseMount([]byte(c.in))
		if d := cmp.Diff(c.want, got, cmp.AllowUnexported(mount{})); !ok || d != "" {
			t.Errorf("%q: %v %s", c.in, ok, d)
		}
	}
	for _, in := range []string{"", "36 35 98:0 / / rw ext3 /dev/root rw", "36 35 98 / / rw - ext3 x rw", "36 35 x:0 / / rw - ext3 x rw"} {
		if _, ok := parseMount([]byte(in)); ok {
			t.Errorf("%q passed", in)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		`/plain`: "/plain", `/a\040b`: "/a b", `\134040`: `\040`, `/\`: `/\`, `/\04`: `/\04`, `/\999`: `/\999`, `/\777`: `/\777`, `/\377`: "/\xff",
	} {
		if got := unescape([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestParseCgroup(t *testing.T) {
	const hybrid = "11:memory:/a\n4:cpu,cpuacct:/b\n1:name=systemd:/c\n0::/d:e:memory:/f\n"
	for _, c := range []struct{ in, controller, want string }{
		{hybrid, "memory", "/a"},
		{hybrid, "cpuacct", "/b"},
		{hybrid, "cpu", "/b"},
		{hybrid, "", "/d:e:memory:/f"},
		{"0::/x\n", "memory", ""},
		{"12::/x\n", "", ""},
		{"0::relative\n", "", ""},
		{"1:memory\n", "memory", ""},
		{"", "", ""},
	} {
		path, ok := parseCgroup([]byte(c.in), c.controller)
		if string(path) != c.want || ok != (c.want != "") {
			t.Errorf("%q of %q: %q %v", c.controller, c.in, path, ok)
		}
	}
}

func TestParseLimit(t *testing.T) {
	for in, want := range map[string]sample.Limit{
		"max\n":                 {Value: some(uint64(sample.Unlimited))},
		"9223372036854771712\n": {Value: some(uint64(sample.Unlimited))}, // 4 KiB pages
		"9223372036854710272\n": {Value: some(uint64(sample.Unlimited))}, // 64 KiB pages
		"268435456\n":           {Value: some[uint64](268435456)},
		"0\n":                   {Value: some[uint64](0)},
		"-1\n":                  {},
		"":                      {},
	} {
		if got := parseLimit([]byte(in)); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestParseCPUMax(t *testing.T) {
	for in, want := range map[string]sample.Opt[float64]{
		"150000 100000\n": some(1.5), "max 100000\n": {}, "1 0\n": {}, "": {},
	} {
		if got := parseCPUMax([]byte(in)); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestParseCmdline(t *testing.T) {
	for in, want := range map[string][]string{
		"sleep\x0060\x00": {"sleep", "60"}, "a\x00\x00b\x00": {"a", "", "b"}, "title: no end": {"title: no end"}, "": nil, "\x00": nil,
	} {
		if d := cmp.Diff(want, parseCmdline([]byte(in))); d != "" {
			t.Errorf("%q: %s", in, d)
		}
	}
	if got := parseCmdline([]byte(strings.Repeat("x", maxCmdline+100))); len(got[0]) != maxCmdline {
		t.Errorf("kept %d bytes", len(got[0]))
	}
}

func TestParseStart(t *testing.T) {
	for in, want := range map[string]uint64{
		"1 (a) b) S 1 1 1 0 -1 4194560 1 0 2 0 3 4 0 0 20 0 1 0 3010 4096 1": 3010,
		"1 (a) S 1 1 1 0 -1 4194560 1 0 2 0 3 4 0 0 20 0 1 0":                0,
		"": 0,
	} {
		if got, ok := parseStart([]byte(in)); got != want || ok != (want != 0) {
			t.Errorf("%q: %d %v", in, got, ok)
		}
	}
}

// seed adds every captured file of that name, and the machine's own, to a fuzz
// corpus.
func seed(f *testing.F, name string) {
	files, err := filepath.Glob(trees + "*/" + name)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := os.Stat(trees); err == nil && len(files) == 0 {
		f.Fatalf("no captured %s", name)
	}
	for _, file := range append(files, "/"+name) {
		if b, err := os.ReadFile(file); err == nil {
			f.Add(b)
		}
	}
}

func fuzzHost(f *testing.F, name string, parse func([]byte, *sample.Host)) {
	seed(f, name)
	f.Fuzz(func(t *testing.T, b []byte) { parse(b, new(sample.Host)) })
}

func FuzzCPU(f *testing.F)     { fuzzHost(f, "proc/stat", parseCPU) }
func FuzzLoad(f *testing.F)    { fuzzHost(f, "proc/loadavg", parseLoad) }
func FuzzMeminfo(f *testing.F) { fuzzHost(f, "proc/meminfo", parseMeminfo) }
func FuzzFileNr(f *testing.F)  { fuzzHost(f, "proc/sys/fs/file-nr", parseFileNr) }

func FuzzPressure(f *testing.F) {
	seed(f, "proc/pressure/*")
	f.Fuzz(func(t *testing.T, b []byte) {
		s, l := parsePressure(b)
		for _, o := range []sample.Opt[float64]{s, l} {
			if v, _ := o.Get(); v < 0 || v > 1 {
				t.Errorf("ratio %v", v)
			}
		}
	})
}

func FuzzDisk(f *testing.F) {
	seed(f, "proc/diskstats")
	f.Fuzz(func(t *testing.T, b []byte) { parseDisk(b) })
}

func FuzzNetDevice(f *testing.F) {
	seed(f, "proc/net/dev")
	f.Fuzz(func(t *testing.T, b []byte) {
		if name, _, ok := parseNetDevice(b); ok && len(name) == 0 {
			t.Error("no name")
		}
	})
}

func FuzzMountinfo(f *testing.F) {
	seed(f, "proc/self/mountinfo")
	f.Fuzz(func(t *testing.T, b []byte) {
		devices := map[[2]uint64]bool{}
		for _, m := range storing(b) {
			if devices[m.device] {
				t.Errorf("device %v twice", m.device)
			}
			devices[m.device] = true
		}
	})
}

func FuzzCgroup(f *testing.F) {
	seed(f, "proc/*/cgroup")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, controller := range []string{"", "memory"} {
			path, ok := parseCgroup(b, controller)
			if !ok {
				continue
			}
			if id := containerOf(string(path)); id != "" && len(id) != idLength {
				t.Errorf("container %q", id)
			}
			if unit := unitOf(string(path)); strings.Contains(unit, "/") {
				t.Errorf("unit %q", unit)
			}
		}
	})
}

func FuzzCgroupFile(f *testing.F) {
	seed(f, "sys/fs/cgroup/*/memory.stat")
	f.Add([]byte("max 100000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseLimit(b)
		parseNumber(b)
		parseCPUMax(b)
		microseconds(parseKeyed(b, "total_swap"))
	})
}

func FuzzCmdline(f *testing.F) {
	seed(f, "proc/*/cmdline")
	f.Fuzz(func(t *testing.T, b []byte) { parseCmdline(b) })
}

func FuzzStart(f *testing.F) {
	seed(f, "proc/*/stat")
	f.Fuzz(func(t *testing.T, b []byte) { parseStart(b) })
}
