package sock

import (
	"rmagent/internal/job"
	"rmagent/internal/sample"
	"rmagent/record"
)

// toWire hides what is nobody's business: addresses of the kernel become numbers that
// only tell equal from different.
func toWire(list []sample.JobProcess) []process {
	names := map[uint64]uint64{}
	name := func(address uint64) uint64 {
		if address == 0 {
			return 0
		}
		if names[address] == 0 {
			names[address] = uint64(len(names) + 1)
		}
		return names[address]
	}
	out := make([]process, len(list))
	for i := range list {
		p := &list[i]
		out[i] = process{
			PID: p.ID.PID, StartTicks: p.ID.StartTicks, UID: p.UID, Comm: p.Comm.Bytes(),
			Space: name(p.Space), Table: name(p.Table),
			First: p.First, Memory: p.Memory, Family: p.Family, Forked: p.Forked,
			File: p.File, Anon: p.Anon, Shmem: p.Shmem, Swap: p.Swap, Peak: p.Peak,
			Virtual: p.Virtual, PeakVirtual: p.PeakVirtual,
			FDs: pointer(p.FDs), FDLimit: pointer(p.FDLimit),
		}
	}
	return out
}

func fromWire(dst []sample.JobProcess, list []process) []sample.JobProcess {
	for i := range list {
		p := &list[i]
		q := sample.JobProcess{
			ID: sample.ID{PID: p.PID, StartTicks: p.StartTicks}, UID: p.UID, Space: p.Space, Table: p.Table,
			First: p.First, Memory: p.Memory, Family: p.Family, Forked: p.Forked,
			File: p.File, Anon: p.Anon, Shmem: p.Shmem, Swap: p.Swap, Peak: p.Peak,
			Virtual: p.Virtual, PeakVirtual: p.PeakVirtual,
			FDs: optional(p.FDs), FDLimit: optional(p.FDLimit),
		}
		copy(q.Comm[:len(q.Comm)-1], p.Comm)
		dst = append(dst, q)
	}
	return dst
}

func gpusToWire(u job.GPUUse) *gpuUse {
	return &gpuUse{Absent: u.Absent, Cards: pointer(u.Cards), Memory: pointer(u.MemoryBytes), Why: u.Why}
}

func gpusFromWire(u *gpuUse) job.GPUUse {
	if u == nil {
		return job.GPUUse{}
	}
	return job.GPUUse{Told: true, Absent: u.Absent, Cards: optional(u.Cards), MemoryBytes: optional(u.Memory), Why: record.Text([]byte(u.Why))}
}

func pointer(o sample.Opt[uint64]) *uint64 {
	if v, ok := o.Get(); ok {
		return &v
	}
	return nil
}

func optional(p *uint64) sample.Opt[uint64] {
	if p == nil {
		return sample.Opt[uint64]{}
	}
	return record.Some(*p)
}
