package policy

import (
	"fmt"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/human"
	"rmagent/record"
)

// processFDs is the change of a process's descriptors.
func processFDs(p *aggregate.Process, ratio float64, previous, now level, at time.Duration) record.StateChange {
	c := record.StateChange{
		Resource: string(FD),
		Target:   p.ID.String(),
		State:    now.state(),
		Previous: previous.state(),
		Value:    record.Some(float64(p.FDOpen)),
		Limit:    record.Some(float64(p.FDLimit)),
		Ratio:    record.Some(ratio),
		Unit:     "files",
	}
	who := fmt.Sprintf("%s (pid %d)", record.Text(p.Comm.Bytes()), p.ID.PID)
	usage := fmt.Sprintf("%d/%d (%.0f%%)", p.FDOpen, p.FDLimit, ratio*100)
	if now < previous {
		c.Message = fmt.Sprintf("FD usage of %s fell: %s", who, usage)
		return c
	}
	c.Message = fmt.Sprintf("High FD usage: %s in %s", usage, who)
	if _, left := p.FDGrowth(at); left.Known() {
		seconds, _ := left.Get()
		c.Message += ", full in " + human.Seconds(seconds)
	}
	c.Advice = fmt.Sprintf("At %d opens fail with EMFILE. See what it holds: ls -l /proc/%d/fd. ", p.FDLimit, p.ID.PID)
	if p.FDHardLimit > p.FDLimit {
		c.Advice += fmt.Sprintf("To raise the limit now: prlimit --pid %d --nofile=%d; to keep it: LimitNOFILE= in its unit.", p.ID.PID, p.FDHardLimit)
	} else {
		c.Advice += "Its hard limit is as low: raise LimitNOFILE= in its unit (or ulimit -Hn) and restart it."
	}
	return c
}

func hostFiles(c *record.StateChange) {
	c.Unit = "files"
	say(c, "Open files of the host", count(c))
	c.Advice = raised(c, "At the limit every open fails with ENFILE, for everybody but root. Find who holds most: rmagent snapshot, by fd_open. To raise it: sysctl fs.file-max.")
}

func hostMemory(c *record.StateChange) {
	c.Unit = "bytes"
	say(c, "Memory of the host", bytes(c))
	c.Advice = raised(c, "Near 100% the kernel reclaims all it can, then its OOM killer ends a process. See who takes most: rmagent snapshot, by rss_anon_bytes.")
}

func cgroupMemory(c *record.StateChange) {
	c.Unit = "bytes"
	say(c, "Memory of "+c.Target, bytes(c))
	c.Advice = raised(c, "At the limit the kernel reclaims page cache, then kills a process in this cgroup. To raise it: MemoryMax= of its unit, or the container's memory limit.")
}

func say(c *record.StateChange, what, usage string) {
	if rank(c.State) < rank(c.Previous) {
		c.Message = fmt.Sprintf("%s: use fell to %s", what, usage)
		return
	}
	c.Message = fmt.Sprintf("%s: high use, %s", what, usage)
}

// raised is the advice of a state that got worse: one that got better needs none.
func raised(c *record.StateChange, advice string) string {
	if rank(c.State) < rank(c.Previous) {
		return ""
	}
	return advice
}

func rank(s record.State) level {
	for l := normal; l < critical; l++ {
		if l.state() == s {
			return l
		}
	}
	return critical
}

func count(c *record.StateChange) string {
	return fmt.Sprintf("%.0f/%.0f (%.0f%%)", c.Value.Or(0), c.Limit.Or(0), c.Ratio.Or(0)*100)
}

func bytes(c *record.StateChange) string {
	return fmt.Sprintf("%s of %s (%.0f%%)", human.Bytes(c.Value.Or(0)), human.Bytes(c.Limit.Or(0)), c.Ratio.Or(0)*100)
}

// gpuName is a card, or a MIG instance of it, as people speak of it.
func gpuName(index int, name string) string {
	if name == "" {
		return fmt.Sprintf("GPU %d", index)
	}
	return fmt.Sprintf("GPU %d (%s)", index, record.Text([]byte(name)))
}

func gpuUse(c *record.StateChange, who string) {
	c.Unit = "percent"
	say(c, who, fmt.Sprintf("%.0f%%", c.Value.Or(0)))
	c.Advice = raised(c, "A busy GPU does its work, but who comes next waits. See who uses it: rmagent snapshot, by gpu_utilization_ratio.")
}

func gpuMemory(c *record.StateChange, who string) {
	c.Unit = "bytes"
	say(c, "Memory of "+who, bytes(c))
	c.Advice = raised(c, "At the limit allocations fail (CUDA_ERROR_OUT_OF_MEMORY), and most programs end. See who holds most: rmagent snapshot, by gpu_memory_bytes.")
}
