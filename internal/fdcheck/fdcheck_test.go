package fdcheck

import (
	"math"
	"slices"
	"strings"
	"testing"

	"rmagent/record"
)

func known(n uint64) record.Opt[uint64] { return record.Some(n) }

// usage is a process with so many of so many descriptors open.
func usage(open, limit uint64) *Usage {
	return &Usage{PID: 4711, StartTicks: 99, Comm: "rsync", Open: known(open), Limit: known(limit), Hard: known(limit), Highest: known(1 << 20)}
}

// TestRule: open + files + sockets + overhead < 80 % of the limit.
func TestRule(t *testing.T) {
	for _, c := range []struct {
		name                     string
		open, limit              uint64
		files, sockets, overhead uint64
		margin                   float64
		safe                     bool
		ratio                    float64
		state                    record.State
		batch                    uint64
	}{
		{name: "far below", open: 10, limit: 1000, files: 100, overhead: 10, margin: 0.2, safe: true, ratio: 0.12, state: record.StateNormal, batch: 779},
		{name: "the last that fits", open: 10, limit: 1000, files: 779, overhead: 10, margin: 0.2, safe: true, ratio: 0.799, state: record.StateInfo, batch: 779},
		{name: "80 % is too much", open: 10, limit: 1000, files: 780, overhead: 10, margin: 0.2, ratio: 0.8, state: record.StateWarning, batch: 779},
		{name: "sockets count", open: 10, limit: 1000, files: 779, sockets: 1, overhead: 10, margin: 0.2, ratio: 0.8, state: record.StateWarning, batch: 778},
		{name: "overhead counts", open: 10, limit: 1000, files: 779, overhead: 11, margin: 0.2, ratio: 0.8, state: record.StateWarning, batch: 778},
		{name: "what is open counts", open: 700, limit: 1000, files: 100, margin: 0.2, ratio: 0.8, state: record.StateWarning, batch: 99},
		{name: "a margin of 10 %", open: 0, limit: 1000, files: 899, margin: 0.1, safe: true, ratio: 0.899, state: record.StateWarning, batch: 899},
		{name: "90 % with it", open: 0, limit: 1000, files: 900, margin: 0.1, ratio: 0.9, state: record.StateCritical, batch: 899},
		{name: "info begins at 70 %", open: 0, limit: 1000, files: 700, margin: 0.2, safe: true, ratio: 0.7, state: record.StateInfo, batch: 799},
		{name: "and not before", open: 0, limit: 1000, files: 699, margin: 0.2, safe: true, ratio: 0.699, state: record.StateNormal, batch: 799},
		{name: "critical begins at 90 %", open: 0, limit: 1000, files: 900, margin: 0.2, ratio: 0.9, state: record.StateCritical, batch: 799},
		{name: "no file at all", open: 5, limit: 1000, margin: 0.2, safe: true, ratio: 0.005, state: record.StateNormal, batch: 794},
		{name: "full already", open: 1000, limit: 1000, files: 1, margin: 0.2, ratio: 1.001, state: record.StateCritical, batch: 0},
		{name: "a limit of 0", open: 0, limit: 0, files: 1, margin: 0.2, ratio: 1, state: record.StateCritical, batch: 0},
		{name: "a fraction", open: 0, limit: 1024, files: 819, margin: 0.2, safe: true, ratio: 819.0 / 1024, state: record.StateInfo, batch: 819}, // of 819.2
	} {
		t.Run(c.name, func(t *testing.T) {
			q := NewRequest(c.files)
			q.Sockets, q.Overhead, q.Margin = c.sockets, c.overhead, c.margin
			got := Judge(usage(c.open, c.limit), &q)
			if safe, ok := got.Safe.Get(); !ok || safe != c.safe {
				t.Errorf("safe: %v, known: %v", safe, ok)
			}
			if r := got.Ratio.Or(-1); math.Abs(r-c.ratio) > 1e-9 {
				t.Errorf("ratio %v, want %v", r, c.ratio)
			}
			if s := got.State.Or(""); s != c.state {
				t.Errorf("state %s, want %s", s, c.state)
			}
			if b := got.Batch.Or(1 << 40); b != c.batch {
				t.Errorf("batch %d, want %d", b, c.batch)
			}
			if got.Required != c.files+c.sockets+c.overhead {
				t.Errorf("required %d", got.Required)
			}
		})
	}
}

// TestBatchFits: the batch is safe, and one more is not.
func TestBatchFits(t *testing.T) {
	for _, limit := range []uint64{64, 100, 256, 1000, 1024, 4096, 65535, 1 << 20} {
		for _, margin := range []float64{0.1, 0.15, 0.2} {
			q := NewRequest(1 << 30)
			q.Margin = margin
			batch := Judge(usage(7, limit), &q).Batch.Or(0)
			for files, want := range map[uint64]bool{batch: true, batch + 1: false} {
				q.Files = files
				if safe := Judge(usage(7, limit), &q).Safe.Or(!want); safe != want {
					t.Errorf("limit %d, margin %v: %d files are safe: %v", limit, margin, files, safe)
				}
			}
		}
	}
}

// TestMessages: what people search their logs for.
func TestMessages(t *testing.T) {
	for _, c := range []struct {
		open, limit, files uint64
		message, advice    string
	}{
		{3200, 4096, 28712, "High FD usage: 3200/4096 (78%) for 28712 files",
			"Consider transferring fewer files or increasing limits: for more than 10000 files raise RLIMIT_NOFILE to 65536, or transfer in batches of at most 66."},
		{3200, 4096, 5000, "High FD usage: 3200/4096 (78%) for 5000 files",
			"Consider transferring fewer files or increasing limits: transfer in batches of at most 66, or raise RLIMIT_NOFILE to 16384."},
		{3270, 4096, 100, "High FD usage: 3270/4096 (80%) for 100 files",
			"Consider transferring fewer files or increasing limits: nothing more fits safely now; close files first, or raise RLIMIT_NOFILE to 8192."},
		{3000, 4096, 1, "High FD usage: 3000/4096 (73%) for 1 file", "Fewer than 1000 files are usually safe, and these fit."},
		{12, 1024, 100, "FD usage is safe: 12/1024 (1%) for 100 files", "Fewer than 1000 files are usually safe, and these fit."},
		{12, 1 << 20, 999, "FD usage is safe: 12/1048576 (0%) for 999 files", "Fewer than 1000 files are usually safe, and these fit."},
		{12, 1 << 20, 1000, "FD usage is safe: 12/1048576 (0%) for 1000 files", "These fit. With 1000 to 10000 files watch FD usage meanwhile, and consider batches."},
		{12, 1 << 20, 10000, "FD usage is safe: 12/1048576 (0%) for 10000 files", "These fit. With 1000 to 10000 files watch FD usage meanwhile, and consider batches."},
		{12, 1 << 20, 10001, "FD usage is safe: 12/1048576 (0%) for 10001 files",
			"These fit under this limit. For more than 10000 files raise the limit wherever it is lower, or transfer in batches."},
		{0, 1 << 20, 1 << 30, "High FD usage: 0/1048576 (0%) for 1073741824 files",
			"Consider transferring fewer files or increasing limits: fs.nr_open allows no limit under which all would fit; transfer in batches of at most 838850."},
	} {
		q := NewRequest(c.files)
		got := Judge(usage(c.open, c.limit), &q)
		if got.Message != c.message {
			t.Errorf("message\n%s, want\n%s", got.Message, c.message)
		}
		if got.Advice != c.advice {
			t.Errorf("advice\n%s, want\n%s", got.Advice, c.advice)
		}
	}
}

// TestRaise names every way to raise the limit, the one that fits first.
func TestRaise(t *testing.T) {
	q := NewRequest(2000)
	for _, c := range []struct {
		what   string
		change func(*Usage)
		first  string
	}{
		{"a login", func(*Usage) {}, "ulimit -n 4096 (in the shell that starts it; as root, for the hard limit is 1024)"},
		{"a high hard limit", func(u *Usage) { u.Hard = known(1 << 19) }, "prlimit --pid 4711 --nofile=4096: (now, for this process)"},
		{"a service", func(u *Usage) { u.Unit = "copy.service" }, "LimitNOFILE=4096 in its systemd unit (systemctl edit copy.service, then restart)"},
		{"a container", func(u *Usage) { u.Unit, u.Container = "x.service", "0123" }, "docker run --ulimit nofile=4096"},
	} {
		u := usage(10, 1024)
		c.change(u)
		got := Judge(u, &q).Raise
		if len(got) == 0 || !strings.HasPrefix(got[0], c.first) {
			t.Errorf("%s: %q, want first %q", c.what, got, c.first)
		}
		for _, way := range []string{"ulimit -n ", "limits.conf", "LimitNOFILE=", "--ulimit nofile="} {
			if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, way) }) {
				t.Errorf("%s: %q has no %s", c.what, got, way)
			}
		}
	}
	q.Files = 10
	if got := Judge(usage(10, 1024), &q).Raise; len(got) != 0 {
		t.Errorf("it is safe, but: %q", got)
	}
}

// TestUnknownIsNotSafe: nor is it risky.
func TestUnknownIsNotSafe(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(*Usage)
		says   string
	}{
		{"open", func(u *Usage) { u.Open = record.Opt[uint64]{} }, "FD usage unknown for 10 files: how many descriptors are open can't be read"},
		{"limit", func(u *Usage) { u.Limit = record.Opt[uint64]{} }, "FD usage unknown for 10 files: the limit can't be read"},
		{"a reason", func(u *Usage) { u.Open, u.Why = record.Opt[uint64]{}, "not yours" }, "FD usage unknown for 10 files: not yours"},
		{"a host with room", func(u *Usage) { u.Open, u.HostOpen, u.HostLimit = record.Opt[uint64]{}, known(1), known(1000) },
			"FD usage unknown for 10 files: how many descriptors are open can't be read"},
	} {
		u := usage(1, 1024)
		c.change(u)
		q := NewRequest(10)
		got := Judge(u, &q)
		if got.Safe.Known() || got.Ratio.Known() || got.State.Known() || got.Batch.Known() {
			t.Errorf("%s: %+v", c.what, got)
		}
		if got.Message != c.says || !strings.Contains(got.Advice, "/proc/4711/fd") {
			t.Errorf("%s: %q, %q", c.what, got.Message, got.Advice)
		}
	}
}

// TestTheNearerLimitDecides: the machine's, where it is nearer.
func TestTheNearerLimitDecides(t *testing.T) {
	q := NewRequest(100)
	u := usage(10, 1024)
	u.HostOpen, u.HostLimit = known(9000), known(1<<62)
	if got := Judge(u, &q); got.LimitedBy != "RLIMIT_NOFILE" || !got.Safe.Or(false) {
		t.Errorf("a high fs.file-max: %+v", got)
	}
	u.HostLimit = known(10000)
	got := Judge(u, &q)
	if got.LimitedBy != "fs.file-max" || got.Safe.Or(true) || got.Open.Or(0) != 9000 || got.Limit.Or(0) != 10000 || got.HardLimit.Known() {
		t.Errorf("a low fs.file-max: %+v", got)
	}
	if got.Message != "High FD usage: 9000/10000 (90%) for 100 files" || !strings.HasPrefix(got.Raise[0], "sysctl -w fs.file-max=16384") {
		t.Errorf("%q, %q", got.Message, got.Raise)
	}
	u.Open = record.Opt[uint64]{} // and where the process's own use is unknown, it is risky all the same
	if got := Judge(u, &q); got.Safe.Or(true) || got.LimitedBy != "fs.file-max" {
		t.Errorf("of the process unknown: %+v", got)
	}
}

func TestValidate(t *testing.T) {
	good := NewRequest(MaxCount)
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		change func(*Request)
		says   string
	}{
		{func(q *Request) { q.Files = MaxCount + 1 }, "files"},
		{func(q *Request) { q.Sockets = 1 << 63 }, "sockets"},
		{func(q *Request) { q.Overhead = 1 << 63 }, "overhead"},
		{func(q *Request) { q.Margin = 0 }, "margin"},
		{func(q *Request) { q.Margin = 1 }, "margin"},
		{func(q *Request) { q.Margin = math.NaN() }, "margin"},
	} {
		q := NewRequest(1)
		c.change(&q)
		if err := q.Validate(); err == nil || !strings.HasPrefix(err.Error(), c.says) || !strings.Contains(err.Error(), "allowed") {
			t.Errorf("%+v: %v", q, err)
		}
	}
}
