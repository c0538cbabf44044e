//go:build cgo

package main

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"rmagent/internal/gpu/wire"
	"rmagent/record"
)

// holder is a process on a card, or on a part of one.
type holder struct{ pid, gpuInstance, computeInstance uint32 }

func (c holder) compare(d holder) int {
	return cmp.Or(cmp.Compare(c.pid, d.pid), cmp.Compare(c.gpuInstance, d.gpuInstance))
}

// noInstance is a GPU instance that NVML does not tell.
const noInstance = ^uint32(0)

// notAvailable is NVML_VALUE_NOT_AVAILABLE as usedGpuMemory has it.
const notAvailable = ^uint64(0)

// processes reads who has a context on the card, and what each uses.
func (k *calls) processes(g *wire.GPU, d nvml.Device, instances []nvml.Device, use *usage) {
	held := map[holder]record.Opt[uint64]{}
	// A card that is divided tells only who may see all; its parts tell everybody.
	g.Complete = len(instances) > 0
	for i, m := range instances {
		g.Complete = k.list(held, m, g.Instances[i].GPUInstanceID) && g.Complete
	}
	if !g.Complete {
		g.Complete = k.list(held, d, record.Opt[uint64]{})
	}
	now := k.r.now()
	measured := k.measure(d, use, now)
	memory := map[holder]record.Opt[uint64]{} // of all compute instances of a GPU instance
	for c, m := range held {
		c.computeInstance = 0
		if sum, met := memory[c]; met {
			a, ok1 := sum.Get()
			b, ok2 := m.Get()
			m = record.SomeIf(a+b, ok1 && ok2)
		}
		memory[c] = m
	}
	for _, c := range slices.SortedFunc(maps.Keys(memory), holder.compare) {
		if len(g.Processes) == wire.MaxProcesses {
			g.Complete = false
			break
		}
		var percent record.Opt[uint64]
		if measured {
			percent = use.of(c.pid, now)
		}
		instance := record.SomeIf(uint64(c.gpuInstance), g.MIG && c.gpuInstance != noInstance)
		g.Processes = append(g.Processes, wire.MakeProcess(c.pid, memory[c], percent, instance))
	}
}

// list adds the contexts of a card or a part to held, and tells whether these are
// all. instance is the GPU instance of the part, which not every library says again. A process with compute and graphics contexts is in both lists with the same
// memory, which is all that it uses.
func (k *calls) list(held map[holder]record.Opt[uint64], d nvml.Device, instance record.Opt[uint64]) (complete bool) {
	var infos []nvml.ProcessInfo
	complete = k.try("nvmlDeviceGetComputeRunningProcesses", func() (ret nvml.Return) { infos, ret = d.GetComputeRunningProcesses(); return ret })
	k.hold(held, infos, instance)
	// Neither a divided card nor one for computing only has graphics, and clients of
	// MPS are with the others in libraries that don't list them apart.
	infos = nil
	failures := k.failures
	k.try("nvmlDeviceGetGraphicsRunningProcesses", func() (ret nvml.Return) { infos, ret = d.GetGraphicsRunningProcesses(); return ret })
	k.hold(held, infos, instance)
	infos = nil
	if k.r.has("nvmlDeviceGetMPSComputeRunningProcesses_v3") || k.r.has("nvmlDeviceGetMPSComputeRunningProcesses_v2") {
		k.try("nvmlDeviceGetMPSComputeRunningProcesses", func() (ret nvml.Return) { infos, ret = d.GetMPSComputeRunningProcesses(); return ret })
		k.hold(held, infos, instance)
	}
	return complete && !k.lost && k.failures == failures
}

func (k *calls) hold(held map[holder]record.Opt[uint64], infos []nvml.ProcessInfo, instance record.Opt[uint64]) {
	for i := range infos {
		p := &infos[i]
		c := holder{p.Pid, uint32(instance.Or(uint64(p.GpuInstanceId))), p.ComputeInstanceId}
		before, known := held[c].Get()
		switch {
		case p.UsedGpuMemory != notAvailable:
			held[c] = record.Some(max(before, p.UsedGpuMemory))
		case !known:
			held[c] = record.Opt[uint64]{}
		}
	}
}

// usage is what the driver measured of the processes on one card. It has a sample
// of a process only where it used the card in a sample period, of which there is
// one in a second or more; who has none for two seconds used nothing.
type usage struct {
	last  uint64        // time stamp of the newest sample, by the driver's clock
	since time.Duration // when the first reading was; 0: there was none
	by    map[uint32]sampled
}

type sampled struct {
	percent uint64
	at      time.Duration // when it was read
}

const samplesLast = 2 * time.Second

// measure takes the samples since the last reading. The first time it only finds
// out where the driver's clock is: its buffer has samples of long ago.
func (k *calls) measure(d nvml.Device, use *usage, now time.Duration) bool {
	var samples []nvml.ProcessUtilizationSample
	supported := false
	k.try("nvmlDeviceGetProcessUtilization", func() (ret nvml.Return) {
		samples, ret = d.GetProcessUtilization(use.last)
		supported = ret == nvml.SUCCESS || ret == nvml.ERROR_NOT_FOUND
		return ret
	})
	if !supported {
		*use = usage{}
		return false
	}
	first := use.since == 0
	if first {
		use.since, use.by = now, map[uint32]sampled{}
	}
	newest := use.last
	for i := range samples {
		s := &samples[i]
		if s.TimeStamp > use.last && s.SmUtil <= 100 && !first { // the driver fills some with nonsense
			use.by[s.Pid] = sampled{uint64(s.SmUtil), now}
		}
		newest = max(newest, s.TimeStamp)
	}
	use.last = newest
	maps.DeleteFunc(use.by, func(_ uint32, s sampled) bool { return now-s.at > samplesLast })
	return true
}

// of returns what a process used, unknown until it was watched for long enough.
func (u *usage) of(pid uint32, now time.Duration) record.Opt[uint64] {
	if s, ok := u.by[pid]; ok {
		return record.Some(s.percent)
	}
	return record.SomeIf(uint64(0), now-u.since > samplesLast)
}
