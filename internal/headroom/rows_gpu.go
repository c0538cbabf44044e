package headroom

import (
	"fmt"
	"slices"

	"rmagent/internal/sample"
	"rmagent/record"
)

// GPU is the memory of a card that a process has a context on, or of a MIG instance of it, in
// use by whomever.
// Where Why is set, it is unknown.
type GPU struct {
	Index      int
	Name       string
	TotalBytes sample.Opt[uint64]
	UsedBytes  sample.Opt[uint64]
	Why        string
}

// GPUsOf returns the cards, or instances of those that are divided, that a process has a
// context on, as a reading from before the process was read has them. The reading may be nil.
func GPUsOf(r *sample.GPUs, id sample.ID) (list []GPU) {
	if r == nil || id.StartTicks >= r.ListedTicks {
		return nil
	}
	for i := range r.Devices {
		d := &r.Devices[i]
		g := GPU{Index: d.Index, Name: record.Text([]byte(d.Name)), TotalBytes: d.MemoryTotalBytes, UsedBytes: d.MemoryUsedBytes}
		holds, parts := holdings(d, id.PID)
		switch {
		case !holds && d.Complete:
			continue
		case !holds:
			g.Why = "whether the process uses it can't be read"
		case parts != nil:
			list = append(list, parts...)
			continue
		case d.Instances != nil:
			g.Why = "the card is divided, and which instance the process is on is not known"
		}
		list = append(list, g)
	}
	return list
}

// holdings tells whether a process has something of a card, and of which of its instances:
// none where there are none, or that is not known.
func holdings(d *sample.GPU, pid int32) (holds bool, parts []GPU) {
	for i := range d.Processes {
		p := &d.Processes[i]
		if p.PID != pid {
			continue
		}
		holds = true
		at := slices.IndexFunc(d.Instances, func(m sample.GPUInstance) bool {
			return m.GPUInstanceID.Known() && m.GPUInstanceID == p.GPUInstanceID
		})
		if at < 0 {
			return true, nil
		}
		m := &d.Instances[at] // others may share its memory
		name := fmt.Sprintf("%s, GPU instance %d", record.Text([]byte(m.Name)), m.GPUInstanceID.Or(0))
		parts = append(parts, GPU{Index: d.Index, Name: name, TotalBytes: m.MemoryTotalBytes, UsedBytes: m.MemoryUsedBytes})
	}
	return holds, parts
}

func gpuRows(f *Facts) (out []row) {
	for i := range f.GPUs {
		g := &f.GPUs[i]
		r := newRow("gpu_memory", "GPU memory", fmt.Sprintf("GPU %d (%s)", g.Index, g.Name), "bytes")
		r.Consequence = "CUDA_ERROR_OUT_OF_MEMORY: allocations on this GPU fail, and most programs end"
		if r.Why = g.Why; r.Why == "" {
			r.Used, r.Limit = record.Float(g.UsedBytes), record.Float(g.TotalBytes)
			r.Raise = "stop what takes it: rmagent snapshot, by gpu_memory_bytes; or use another GPU"
			r = unknownIf(r, "the driver does not tell")
		}
		out = append(out, r)
	}
	return out
}
