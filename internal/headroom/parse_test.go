package headroom

import (
	"os"
	"testing"

	"rmagent/internal/sample"
)

func TestParseLimits(t *testing.T) {
	var l [numRlimits]Rlimit
	parseLimits([]byte("Limit                     Soft Limit           Hard Limit           Units     \n"+
		"Max cpu time              unlimited            unlimited            seconds   \n"+
		"Max open files            1024                 4096                 files     \n"+
		"Max processes             x                    4096                 processes \n"), &l)
	if l[nofile] != (Rlimit{1024, 4096, true}) || l[cpuTime] != (Rlimit{sample.Unlimited, sample.Unlimited, true}) ||
		l[nproc].Known || l[stack].Known {
		t.Errorf("%+v", l)
	}
}

func TestParseDescriptor(t *testing.T) {
	for text, want := range map[string]descriptor{
		"pos:\t0\nflags:\t02100001\nmnt_id:\t26\nino:\t7\n":                            {26, true, 0},
		"pos:\t0\nflags:\t0100000\nmnt_id:\t26\n":                                      {26, false, 0},
		"flags:\t012000001\nmnt_id:\t1\n":                                              {1, false, 0}, // O_PATH
		"flags:\t00\nmnt_id:\t15\ninotify wd:2 ino:9e\ninotify wd:1 ino:9f sdev:800\n": {15, false, 2},
	} {
		if got, ok := parseDescriptor([]byte(text)); !ok || got != want {
			t.Errorf("%q: %+v %v", text, got, ok)
		}
	}
	if _, ok := parseDescriptor([]byte("mnt_id: 1\n")); ok {
		t.Error("without flags it is known")
	}
}

func TestCountMappings(t *testing.T) {
	for text, want := range map[string]uint64{"": 0, "a\nb\n": 2, "a\nffff--xp [vsyscall]\n": 1} {
		if got := countMappings([]byte(text)); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func own(f *testing.F, name string) {
	b, err := os.ReadFile("/proc/self/" + name)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
}

func FuzzStatus(f *testing.F) {
	own(f, "status")
	f.Add([]byte("VmData: 99999999999999999999 kB\nSigQ: /\nUid: 4294967296 0\nCapEff: x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := parseStatus(b)
		if v, ok := s.data.Get(); ok && v%1024 != 0 {
			t.Errorf("%d bytes", v)
		}
	})
}

func FuzzLimits(f *testing.F) {
	own(f, "limits")
	f.Fuzz(func(t *testing.T, b []byte) {
		var l [numRlimits]Rlimit
		parseLimits(b, &l)
	})
}

func FuzzDescriptor(f *testing.F) {
	own(f, "fdinfo/0")
	f.Add([]byte("flags: 7777777777777777777777\nmnt_id: -1\ninotify wd\n"))
	f.Add([]byte("mnt_id:7000000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, _ := parseDescriptor(b); d.mount < 0 || d.watches > uint64(len(b)) {
			t.Errorf("%+v", d)
		}
	})
}

func FuzzMappings(f *testing.F) {
	own(f, "maps")
	f.Add([]byte("[vsyscall]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := countMappings(b); got > uint64(len(b)) {
			t.Error(got)
		}
	})
}
