package policy

import (
	"math"
	"strings"

	"rmagent/internal/sample"
	"rmagent/record"
)

// judgeGPUs judges each card by itself: seven idle ones don't hide a full one.
func (e *Engine) judgeGPUs(f *Facts) {
	for i := range f.GPUs.Devices {
		d := &f.GPUs.Devices[i]
		if d.UUID == "" || len(e.others) == 0 && e.isCalm(d) {
			continue // the rule: not even its name is made
		}
		who := gpuName(d.Index, d.Name)
		percent, known := d.Utilization.Get()
		e.judge(GPU, gpuTarget(d.UUID), record.SomeIf(uint64(math.Round(percent*100)), known), record.Some(uint64(100)), f.Monotonic,
			func(c *record.StateChange) { gpuUse(c, who) })
		e.judge(GPUMemory, gpuTarget(d.UUID), d.MemoryUsedBytes, d.MemoryTotalBytes, f.Monotonic,
			func(c *record.StateChange) { gpuMemory(c, who) })
		for j := range d.Instances {
			m := &d.Instances[j]
			if m.UUID == "" {
				continue
			}
			e.judge(GPUMemory, gpuTarget(m.UUID), m.MemoryUsedBytes, m.MemoryTotalBytes, f.Monotonic,
				func(c *record.StateChange) { gpuMemory(c, gpuName(d.Index, m.Name)) })
		}
	}
	if f.GPUs.Current {
		e.forgetGPUs(f.GPUs.Devices)
	}
}

// isCalm tells whether nothing of a card reaches a threshold.
func (e *Engine) isCalm(d *sample.GPU) bool {
	memory := e.config.Thresholds[GPUMemory].Info
	if d.Utilization.Or(0) >= e.config.Thresholds[GPU].Info || !calm(d.MemoryUsedBytes, d.MemoryTotalBytes, memory) {
		return false
	}
	for i := range d.Instances {
		if m := &d.Instances[i]; !calm(m.MemoryUsedBytes, m.MemoryTotalBytes, memory) {
			return false
		}
	}
	return true
}

func gpuTarget(uuid string) string { return "gpu:" + record.Text([]byte(uuid)) }

// forgetGPUs drops the states of cards and instances that are gone.
func (e *Engine) forgetGPUs(devices []sample.GPU) {
	for key := range e.others {
		_, target, _ := strings.Cut(key, " ")
		if strings.HasPrefix(target, "gpu:") && !hasGPU(devices, target) {
			delete(e.others, key)
		}
	}
}

func hasGPU(devices []sample.GPU, target string) bool {
	for i := range devices {
		if gpuTarget(devices[i].UUID) == target {
			return true
		}
		for j := range devices[i].Instances {
			if gpuTarget(devices[i].Instances[j].UUID) == target {
				return true
			}
		}
	}
	return false
}
