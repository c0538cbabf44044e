package gpu

import (
	"errors"
	"fmt"

	"rmagent/internal/gpu/wire"
	"rmagent/internal/sample"
	"rmagent/record"
)

// What no card has: a larger number is a mistake of the driver, and unknown.
const (
	maxCelsius    = 200
	maxMilliwatts = 100_000_000
	maxPID        = 1 << 22 // include/linux/threads.h, PID_MAX_LIMIT
)

var errNonsense = errors.New("rmagent-nvml said nonsense")

// convert checks a reading and makes facts of it, but for when they were read.
// Where the child sees other PIDs than the machine's, processes are unknown.
func convert(r *wire.Reading, processes bool) (*sample.GPUs, error) {
	switch {
	case r.Version != wire.Version:
		return nil, fmt.Errorf("%w: it speaks version %d, this agent %d: install both of one build", errNonsense, r.Version, wire.Version)
	case len(r.GPUs) > wire.MaxGPUs:
		return nil, fmt.Errorf("%w: %d GPUs; allowed: %d", errNonsense, len(r.GPUs), wire.MaxGPUs)
	}
	out := &sample.GPUs{Devices: make([]sample.GPU, 0, len(r.GPUs))}
	indexes, uuids := map[int]bool{}, map[string]bool{}
	for i := range r.GPUs {
		g := &r.GPUs[i]
		if g.Index < 0 || g.Index >= wire.MaxGPUs || indexes[g.Index] || g.UUID != "" && uuids[g.UUID] {
			return nil, fmt.Errorf("%w: GPU %d %q twice, or out of range", errNonsense, g.Index, clip(g.UUID))
		}
		if len(g.Instances) > wire.MaxInstances || len(g.Processes) > wire.MaxProcesses {
			return nil, fmt.Errorf("%w: %d instances and %d processes on GPU %d", errNonsense, len(g.Instances), len(g.Processes), g.Index)
		}
		indexes[g.Index], uuids[g.UUID] = true, true
		out.Devices = append(out.Devices, device(g, processes))
	}
	return out, nil
}

func device(g *wire.GPU, processes bool) sample.GPU {
	d := sample.GPU{
		Index:              g.Index,
		UUID:               clip(g.UUID),
		Name:               clip(g.Name),
		Utilization:        share(g.UtilizationPercent),
		MemoryTotalBytes:   g.MemoryTotalBytes,
		MemoryUsedBytes:    atMost(g.MemoryUsedBytes, g.MemoryTotalBytes),
		TemperatureCelsius: scaled(g.TemperatureCelsius, maxCelsius, 1),
		PowerWatts:         scaled(g.PowerMilliwatts, maxMilliwatts, 1000),
		Encoder:            share(g.EncoderPercent),
		Decoder:            share(g.DecoderPercent),
		Complete:           g.Complete && processes,
	}
	if g.MIG {
		d.Instances = make([]sample.GPUInstance, 0, len(g.Instances))
	}
	for i := range g.Instances {
		m := &g.Instances[i]
		d.Instances = append(d.Instances, sample.GPUInstance{
			UUID: clip(m.UUID), Name: clip(m.Name), GPUInstanceID: m.GPUInstanceID, ComputeID: m.ComputeInstanceID,
			MemoryTotalBytes: m.MemoryTotalBytes, MemoryUsedBytes: atMost(m.MemoryUsedBytes, m.MemoryTotalBytes),
		})
	}
	if !processes {
		return d
	}
	for i := range g.Processes {
		p := &g.Processes[i]
		if p.PID() <= 0 || p.PID() > maxPID {
			d.Complete = false
			continue
		}
		d.Processes = append(d.Processes, sample.GPUProcess{
			PID:           int32(p.PID()),
			MemoryBytes:   atMost(p.MemoryBytes(), g.MemoryTotalBytes),
			Utilization:   share(p.UtilizationPercent()),
			GPUInstanceID: p.GPUInstanceID(),
		})
	}
	return d
}

// share makes a ratio of a percentage.
func share(percent sample.Opt[uint64]) sample.Opt[float64] { return scaled(percent, 100, 100) }

// scaled divides, and leaves unknown what is beyond the bound.
func scaled(v sample.Opt[uint64], bound uint64, divisor float64) sample.Opt[float64] {
	n, ok := v.Get()
	return record.SomeIf(float64(n)/divisor, ok && n <= bound)
}

// atMost leaves unknown what is more than the whole. A whole that is unknown
// bounds nothing.
func atMost(v, whole sample.Opt[uint64]) sample.Opt[uint64] {
	n, ok := v.Get()
	w, known := whole.Get()
	return record.SomeIf(n, ok && (!known || n <= w))
}

func clip(s string) string { return s[:min(len(s), wire.MaxText)] }
