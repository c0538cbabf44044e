package job

import (
	"fmt"

	"rmagent/internal/cctools"
	"rmagent/internal/sample"
	"rmagent/record"
)

// GPUs tells what processes have of the machine's NVIDIA GPUs. Use is called at each
// reading and must not wait.
type GPUs interface {
	Use([]sample.JobProcess) GPUUse
}

// GPUUse is what the processes of a job have of the GPUs at one instant.
type GPUUse struct {
	Told        bool               // somebody looked; else whoever can is asked
	Absent      bool               // the machine has no GPU that could be used
	Cards       sample.Opt[uint64] // on which a process of the job has a context
	MemoryBytes sample.Opt[uint64] // that they have on all cards together
	Why         string             // one of these is unknown
}

// UseOf adds up what processes have of the cards of a reading, nil where there is none
// yet. The reading does not tell of processes that began after it: what only these have is
// unknown, and what others have is counted.
func UseOf(g *sample.GPUs, processes []sample.JobProcess) GPUUse {
	u := GPUUse{Told: true}
	if g == nil {
		u.Why = "the GPUs were not read yet"
		return u
	}
	members := make(map[int32]bool, len(processes))
	for i := range processes {
		// Who began in the tick of the list may have the PID of somebody who is in it.
		if id := processes[i].ID; id.StartTicks < g.ListedTicks {
			members[id.PID] = true
		}
	}
	if len(members) == 0 {
		u.Why = "no process of the job was there when the GPUs were read"
		return u
	}
	cards, memory, complete, counted := uint64(0), uint64(0), true, true
	for i := range g.Devices {
		d := &g.Devices[i]
		if !d.Complete {
			complete = false
			u.Why = fmt.Sprintf("GPU %d does not tell whose processes use it", d.Index)
			continue
		}
		uses := false
		for _, p := range d.Processes {
			if !members[p.PID] {
				continue
			}
			uses = true
			n, known := p.MemoryBytes.Get()
			memory += n
			if !known {
				counted = false
				u.Why = fmt.Sprintf("GPU %d does not tell the memory of process %d", d.Index, p.PID)
			}
		}
		if uses {
			cards++
		}
	}
	u.Cards = record.SomeIf(cards, complete)
	u.MemoryBytes = record.SomeIf(memory, complete && counted)
	return u
}

// addGPUs has a reading tell of the GPUs.
func (o *Options) addGPUs(r *Reading) {
	if !r.GPUs.Told && o.GPUs != nil {
		r.GPUs = o.GPUs.Use(r.Processes)
	}
}

// gpuPatience is for how many seconds nothing may be known of the GPUs before more than a
// reading or two is missing.
const gpuPatience = 3

// addGPUs takes what a reading says of the GPUs, at seconds since the start.
func (m *Meter) addGPUs(u *GPUUse, processes int, seconds float64) {
	if u.Cards.Known() && u.MemoryBytes.Known() || processes == 0 {
		m.gpusAt = seconds
	} else if u.Told && seconds-m.gpusAt > gpuPatience {
		m.gpusGap = u.Why
	}
	m.noGPUs = u.Absent
	if u.Why != "" && (m.gpusWhy == "" || processes > 0) { // the last reading has none: it says nothing
		m.gpusWhy = u.Why
	}
	if n, ok := u.Cards.Get(); ok {
		m.Now.SetCount(cctools.GPUs, n)
	}
	if n, ok := u.MemoryBytes.Get(); ok {
		m.Now.SetBytes(cctools.GPUMemory, n)
	}
}

// gpusWorth says what is known of the GPUs.
func (m *Meter) gpusWorth(id cctools.Measure) (cctools.Exactness, string) {
	switch {
	case m.noGPUs:
		return cctools.Exact, ""
	case m.Most.Known(id) && m.gpusGap != "":
		if v, _ := m.Most.Get(id); v == 0 { // at least nothing
			return cctools.Unknown, m.gpusGap
		}
		return cctools.AtLeast, "for a part of the time it was unknown: " + m.gpusGap
	case m.Most.Known(id):
		return cctools.Sampled, "the highest of readings, one a second"
	case m.gpusWhy == "":
		return cctools.Unknown, "the GPUs of jobs are not read here"
	}
	return cctools.Unknown, m.gpusWhy
}
