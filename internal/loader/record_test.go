package loader

import (
	"testing"
	"time"

	"rmagent/internal/sample"
)

func TestStateLetter(t *testing.T) {
	for state, want := range map[uint32]byte{
		0:             'R',
		1:             'S',
		2:             'D',
		2 | 0x100:     'D', // TASK_KILLABLE
		2 | 0x400:     'I',
		1 | 0x8000:    'D', // frozen
		2 | 0x1000:    'D', // waits for an RT lock
		4:             'T',
		8:             't',
		0x10:          'X',
		0x20:          'Z',
		0x80 | 0x20:   'Z', // TASK_DEAD
		0x40:          'P',
		0x200:         'R', // TASK_WAKING
		0x80 | 0x10:   'X',
		0x800 | 0x200: 'R',
	} {
		if got := stateLetter(state); got != want {
			t.Errorf("%#x is %c, want %c", state, got, want)
		}
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct{ total, user, system, wantUser, wantSystem uint64 }{
		{0, 0, 0, 0, 0},
		{100, 0, 0, 100, 0}, // no tick met it: the kernel calls it user time
		{100, 5, 0, 100, 0},
		{100, 0, 5, 0, 100},
		{100, 10, 30, 25, 75},
		{1 << 62, 1 << 61, 1 << 61, 1 << 61, 1 << 61},
	} {
		if u, s := split(c.total, c.user, c.system); u != c.wantUser || s != c.wantSystem {
			t.Errorf("%d by %d and %d: %d and %d, want %d and %d", c.total, c.user, c.system, u, s, c.wantUser, c.wantSystem)
		}
	}
}

func TestSplitsNeverGoBack(t *testing.T) {
	var s splits
	say := func(pid int32, user, system uint64) (uint64, uint64) {
		p := sample.Process{ID: sample.ID{PID: pid, StartTicks: uint64(pid)}, CPUNanos: user + system, CPUUserNanos: user, CPUSystemNanos: system}
		s.monotonic(&p)
		s.next.remember(&p)
		if p.CPUUserNanos+p.CPUSystemNanos != p.CPUNanos {
			t.Errorf("%d and %d are not %d", p.CPUUserNanos, p.CPUSystemNanos, p.CPUNanos)
		}
		return p.CPUUserNanos, p.CPUSystemNanos
	}
	const processes = 5000
	for pid := int32(1); pid <= processes; pid++ {
		say(pid, 100, 200)
	}
	s.turn()
	for pid := int32(1); pid <= processes; pid++ {
		var u, k uint64
		switch pid % 3 {
		case 0: // user time would go back
			u, k = say(pid, 90, 220)
			if u != 100 || k != 210 {
				t.Fatalf("%d: %d and %d", pid, u, k)
			}
		case 1: // system time would
			if u, k = say(pid, 130, 190); u != 120 || k != 200 {
				t.Fatalf("%d: %d and %d", pid, u, k)
			}
		default: // it ended
		}
	}
	s.turn()
	if e := s.now.find(sample.ID{PID: 2, StartTicks: 2}); e.id.PID != 0 {
		t.Error("an ended process is remembered")
	}
	if u, k := say(2, 1, 2); u != 1 || k != 2 {
		t.Errorf("a new process with an old PID: %d and %d", u, k)
	}
}

func TestClockOffset(t *testing.T) {
	if d := clockOffset("monotonic           0         0\nboottime           -7 500000000\n", "boottime"); d != -7*time.Second+500*time.Millisecond {
		t.Errorf("offset %v", d)
	}
	if d := clockOffset("monotonic           3         0\nboottime           -7 500000000\n", "monotonic"); d != 3*time.Second {
		t.Errorf("offset %v", d)
	}
	if d := clockOffset("", "boottime"); d != 0 {
		t.Errorf("offset %v", d)
	}
}

func TestCgroupSource(t *testing.T) {
	const head = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
	for controllers, want := range map[string]uint32{
		head + "memory\t4\t13\t1\npids\t8\t1\t1\n": cgroupMemory,
		head + "memory\t0\t13\t0\npids\t8\t1\t1\n": cgroupPIDs,
		head + "memory\t0\t13\t1\npids\t0\t1\t1\n": cgroupV2,
		head: cgroupV2,
		"":   cgroupV2,
	} {
		if got := cgroupSource(controllers); got != want {
			t.Errorf("%q: %d, want %d", controllers, got, want)
		}
	}
}
