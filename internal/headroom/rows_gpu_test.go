package headroom

import (
	"testing"

	"rmagent/internal/sample"
)

func TestGPUMemory(t *testing.T) {
	r := &sample.GPUs{ListedTicks: 100, Devices: []sample.GPU{
		{Index: 0, Name: "A100", MemoryTotalBytes: n(1000), MemoryUsedBytes: n(990), Processes: []sample.GPUProcess{{PID: 911}, {PID: 2}}, Complete: true},
		{Index: 1, MemoryTotalBytes: n(1000), MemoryUsedBytes: n(1000), Processes: []sample.GPUProcess{{PID: 2}}, Complete: true},
		{Index: 2, MemoryTotalBytes: n(1000), MemoryUsedBytes: n(1000)},
		{Index: 3, MemoryTotalBytes: n(1000), MemoryUsedBytes: n(1000), Processes: []sample.GPUProcess{{PID: 911}}, Complete: true, Instances: []sample.GPUInstance{{}}},
		{Index: 4, MemoryTotalBytes: n(1000), MemoryUsedBytes: n(1000), Processes: []sample.GPUProcess{{PID: 2, GPUInstanceID: n(1)}, {PID: 911, GPUInstanceID: n(7)}}, Complete: true,
			Instances: []sample.GPUInstance{
				{Name: "1g.5gb", GPUInstanceID: n(1), MemoryTotalBytes: n(500), MemoryUsedBytes: n(500)},
				{Name: "1g.5gb", GPUInstanceID: n(7), MemoryTotalBytes: n(500), MemoryUsedBytes: n(100)},
			}},
	}}
	f := example()
	f.GPUs = GPUsOf(r, f.ID)
	h := Evaluate(nil, f)
	if l := h.FirstInSpace; l.Name != "GPU memory" || l.Scope != "GPU 0 (A100)" || l.Available.Or(0) != 10 || l.UsedRatio.Or(0) != 0.99 || l.Raise == "" {
		t.Errorf("%+v", l)
	}
	rows := map[string]bool{}
	for _, l := range h.Limits {
		if l.Resource == "gpu_memory" {
			rows[l.Scope] = l.Known
			if l.Scope == "GPU 4 (1g.5gb, GPU instance 7)" && l.Available.Or(0) != 400 {
				t.Errorf("of the instance, %+v", l)
			}
			if l.Known == (l.Why != "") {
				t.Errorf("%+v", l)
			}
		}
	}
	if len(rows) != 4 || !rows["GPU 4 (1g.5gb, GPU instance 7)"] || rows["GPU 2 ()"] || rows["GPU 3 ()"] || !rows["GPU 0 (A100)"] {
		t.Errorf("%v", rows)
	}
	later := sample.ID{PID: 911, StartTicks: 100}
	if list := GPUsOf(r, later); list != nil {
		t.Errorf("the next of the same PID uses %+v", list)
	}
	if list := GPUsOf(nil, f.ID); list != nil {
		t.Errorf("without a reading: %+v", list)
	}
}
