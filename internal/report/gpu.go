package report

import (
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// GPU fills r but for its header. age is how long ago the card was read.
func (b *Builder) GPU(r *record.GPU, d *sample.GPU, age time.Duration) {
	instances := r.MIGInstances[:0]
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
	r.AgeSeconds = record.SomeIf(aggregate.Round(age.Seconds()), anyKnown(d))
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
