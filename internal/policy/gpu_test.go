package policy

import (
	"strings"
	"testing"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// eight returns eight idle cards, changed by f.
func eight(f func(devices []sample.GPU)) *aggregate.GPUs {
	devices := make([]sample.GPU, 8)
	for i := range devices {
		devices[i] = sample.GPU{
			Index: i, UUID: "GPU-" + string(rune('a'+i)), Name: "A100", Utilization: record.Some(0.0),
			MemoryTotalBytes: record.Some(uint64(40 << 30)), MemoryUsedBytes: record.Some(uint64(1 << 30)),
		}
	}
	f(devices)
	var g aggregate.GPUs
	g.Update(&sample.GPUs{Devices: devices}, 0, time.Second)
	return &g
}

func TestOneFullCardOfEight(t *testing.T) {
	w := newWorld()
	equal(t, "idle", w.judge(Facts{GPUs: eight(func([]sample.GPU) {})}))
	full := eight(func(d []sample.GPU) {
		d[5].Utilization, d[2].MemoryUsedBytes = record.Some(0.97), record.Some(uint64(39<<30))
	})
	equal(t, "one busy, one full", w.judge(Facts{GPUs: full}),
		"gpu_memory gpu:GPU-c normal>critical", "gpu gpu:GPU-f normal>critical")
	c := w.engine.changes[0]
	if want := "Memory of GPU 2 (A100): high use, 39.0 GiB of 40.0 GiB (98%)"; c.Message != want || c.Unit != "bytes" || c.Value.Or(0) != 39<<30 || c.Advice == "" {
		t.Errorf("%+v, want the message %q", c, want)
	}
	c = w.engine.changes[1]
	if want := "GPU 5 (A100): high use, 97%"; c.Message != want || c.Unit != "percent" || c.Value.Or(0) != 97 || c.Limit.Or(0) != 100 || c.Ratio.Or(0) != 0.97 {
		t.Errorf("%+v, want the message %q", c, want)
	}
	equal(t, "still", w.judge(Facts{GPUs: full}))
	for range 10 {
		equal(t, "idle again, held", w.judge(Facts{GPUs: eight(func([]sample.GPU) {})}))
	}
	equal(t, "idle again", w.judge(Facts{GPUs: eight(func([]sample.GPU) {})}),
		"gpu_memory gpu:GPU-c critical>normal", "gpu gpu:GPU-f critical>normal")
}

func TestAFullMIGInstance(t *testing.T) {
	w := newWorld()
	divided := eight(func(d []sample.GPU) {
		d[1].Utilization = sample.Opt[float64]{}
		d[1].Instances = []sample.GPUInstance{
			{UUID: "MIG-1", Name: "A100 MIG 1g.5gb", MemoryTotalBytes: record.Some(uint64(5 << 30)), MemoryUsedBytes: record.Some(uint64(5 << 30))},
			{UUID: "MIG-2", MemoryTotalBytes: record.Some(uint64(5 << 30)), MemoryUsedBytes: record.Some(uint64(0))},
			{MemoryTotalBytes: record.Some(uint64(1)), MemoryUsedBytes: record.Some(uint64(1))}, // nobody knows which
		}
	})
	equal(t, "the card is nearly empty", w.judge(Facts{GPUs: divided}), "gpu_memory gpu:MIG-1 normal>critical")
	if c := w.engine.changes[0]; !strings.Contains(c.Message, "GPU 1 (A100 MIG 1g.5gb)") {
		t.Error(c.Message)
	}
}

func TestStatesOfCardsThatAreGone(t *testing.T) {
	w := newWorld()
	busy := func(d []sample.GPU) { d[0].Utilization, d[1].Utilization = record.Some(1.0), record.Some(1.0) }
	equal(t, "busy", w.judge(Facts{GPUs: eight(busy)}), "gpu gpu:GPU-a normal>critical", "gpu gpu:GPU-b normal>critical")
	unread := eight(func([]sample.GPU) {})
	unread.Update(&sample.GPUs{Devices: unread.Devices}, time.Hour, time.Second)
	equal(t, "unknown", w.judge(Facts{GPUs: unread}))
	equal(t, "not watched", w.judge(Facts{}))
	if n := len(w.engine.others); n != 2 {
		t.Errorf("%d states are kept while nothing is known, want 2", n)
	}
	left := eight(busy)
	left.Devices = left.Devices[1:]
	equal(t, "one removed", w.judge(Facts{GPUs: left}))
	if n := len(w.engine.others); n != 1 {
		t.Errorf("%d states are kept, want that of the card that is left", n)
	}
	equal(t, "back again", w.judge(Facts{GPUs: eight(busy)}), "gpu gpu:GPU-a normal>critical")
}
