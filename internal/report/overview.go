package report

import (
	"fmt"
	"strings"

	"rmagent/internal/aggregate"
	"rmagent/internal/human"
	"rmagent/internal/sample"
)

// Overview is the machine at a glance, for a person who watches the log. CPU, disk
// and network are means over the last ten seconds once so much is known, so that no
// single second misleads. A text is empty where nothing is known to say.
type Overview struct {
	CPU, Memory, Disk, Net string
	GPU                    string // the fullest card
	Processes              int
	Busiest                string // the process that takes most CPU time
	Largest                string // the process with most resident memory
	NearestFDLimit         string // the process that has the least share of descriptors left
}

// Look makes the overview of one tick.
func (b *Builder) Look(h *aggregate.Host, t *aggregate.Table, gpus *aggregate.GPUs) Overview {
	m := h.Means()
	o := Overview{
		Processes: t.Len(),
		GPU:       lookAtGPUs(gpus),
		Disk:      transfer(either(m.DiskRead, h.DiskRead), either(m.DiskWritten, h.DiskWritten)),
		Net:       transfer(either(m.NetReceived, h.NetReceived), either(m.NetSent, h.NetSent)),
	}
	if busy, ok := either(m.CPURatio, h.CPURatio).Get(); ok {
		o.CPU = fmt.Sprintf("%s of %d", human.Percent(busy), h.CPUCount.Or(0))
	}
	used, okUsed := aggregate.Used(h.MemoryTotalBytes, h.MemoryAvailableBytes).Get()
	if total, ok := h.MemoryTotalBytes.Get(); ok && okUsed && total > 0 {
		o.Memory = fmt.Sprintf("%s of %s (%s)", human.Bytes(float64(used)), human.Bytes(float64(total)), human.Percent(float64(used)/float64(total)))
	}
	b.lookAtProcesses(&o, t)
	return o
}

// lookAtGPUs names the card that is used most, and the one with the least memory
// left.
func lookAtGPUs(gpus *aggregate.GPUs) string {
	busiest, fullest := gpus.Fullest()
	var parts []string
	if busiest != nil {
		parts = append(parts, fmt.Sprintf("%s of GPU %d", human.Percent(busiest.Utilization.Or(0)), busiest.Index))
	}
	if fullest != nil {
		parts = append(parts, fmt.Sprintf("memory %s of %s (%s) of GPU %d",
			human.Bytes(float64(fullest.MemoryUsedBytes.Or(0))), human.Bytes(float64(fullest.MemoryTotalBytes.Or(0))),
			human.Percent(aggregate.MemoryShare(fullest).Or(0)), fullest.Index))
	}
	return strings.Join(parts, ", ")
}

func (b *Builder) lookAtProcesses(o *Overview, t *aggregate.Table) {
	var cores, ratio float64
	var rss uint64
	for i := range t.Len() {
		p := t.At(i)
		if c, ok := p.Rates.CPUCores.Get(); ok && c > cores {
			cores = c
			o.Busiest = fmt.Sprintf("%s %.2f cores", b.who(p), c)
		}
		if p.Known.HasAll(sample.RSS) && p.RSSBytes() > rss {
			rss = p.RSSBytes()
			o.Largest = fmt.Sprintf("%s %s", b.who(p), human.Bytes(float64(rss)))
		}
		if r, ok := p.FDRatio().Get(); ok && r > ratio {
			ratio = r
			o.NearestFDLimit = fmt.Sprintf("%s %d/%d (%s)", b.who(p), p.FDOpen, p.FDLimit, human.Percent(r))
		}
	}
}

func (b *Builder) who(p *aggregate.Process) string {
	return fmt.Sprintf("%s (pid %d)", b.Comm(&p.Comm), p.ID.PID)
}

// either is the mean where that is known, else the last value.
func either(mean, last sample.Opt[float64]) sample.Opt[float64] {
	if mean.Known() {
		return mean
	}
	return last
}

// transfer writes two rates, empty unless both are known.
func transfer(in, out sample.Opt[float64]) string {
	i, ok1 := in.Get()
	o, ok2 := out.Get()
	if !ok1 || !ok2 {
		return ""
	}
	return fmt.Sprintf("%s/s in, %s/s out", human.Bytes(i), human.Bytes(o))
}
