package report

import (
	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// GPU fills r but for its header, of one of the cards.
func (b *Builder) GPU(r *record.GPU, d *sample.GPU, gpus *aggregate.GPUs) {
	instances, processes := r.MIGInstances[:0], r.Processes[:0]
	*r = record.GPU{
		Header:             r.Header,
		Index:              d.Index,
		UUID:               b.text(d.UUID),
		Name:               b.text(d.Name),
		UtilizationRatio:   d.Utilization,
		MemoryTotalBytes:   d.MemoryTotalBytes,
		MemoryUsedBytes:    d.MemoryUsedBytes,
		TemperatureCelsius: d.TemperatureCelsius,
		PowerWatts:         d.PowerWatts,
		EncoderRatio:       d.Encoder,
		DecoderRatio:       d.Decoder,
	}
	r.AgeSeconds = record.SomeIf(aggregate.Round(gpus.Age.Seconds()), anyKnown(d))
	for i := range d.Instances {
		m := &d.Instances[i]
		instances = append(instances, record.GPUInstance{
			UUID:              b.text(m.UUID),
			Name:              b.text(m.Name),
			GPUInstanceID:     m.GPUInstanceID,
			ComputeInstanceID: m.ComputeID,
			MemoryTotalBytes:  m.MemoryTotalBytes,
			MemoryUsedBytes:   m.MemoryUsedBytes,
		})
	}
	if d.Instances != nil {
		r.MIGInstances = instances
	}
	if d.Complete {
		r.Processes = b.gpuProcesses(processes, d, gpus)
	}
}

func (b *Builder) gpuProcesses(to []record.GPUProcess, d *sample.GPU, gpus *aggregate.GPUs) []record.GPUProcess {
	if to == nil {
		to = []record.GPUProcess{} // nobody is not unknown
	}
	for i := range d.Processes {
		p := &d.Processes[i]
		h := record.GPUProcess{PID: p.PID, MemoryBytes: p.MemoryBytes, UtilizationRatio: p.Utilization, GPUInstanceID: p.GPUInstanceID}
		if known := gpus.Holder(p.PID); known != nil {
			h.StartTicks, h.Comm = record.Some(known.ID.StartTicks), record.Some(b.Comm(&known.Comm))
		}
		to = append(to, h)
	}
	return to
}

func anyKnown(d *sample.GPU) bool {
	for i := range d.Instances {
		if d.Instances[i].MemoryUsedBytes.Known() {
			return true
		}
	}
	return d.Utilization.Known() || d.MemoryTotalBytes.Known() || d.MemoryUsedBytes.Known() || d.TemperatureCelsius.Known() ||
		d.PowerWatts.Known() || d.Encoder.Known() || d.Decoder.Known()
}
