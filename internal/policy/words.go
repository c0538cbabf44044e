package policy

import (
	"fmt"
	"strings"

	"rmagent/internal/human"
	"rmagent/record"
)

// describe fills in what a person reads. left is how long it lasts at the present
// rate, where that is worth a word.
func describe(c *record.StateChange, k gaugeKey, s subject, left record.Opt[float64]) {
	better := rank(c.State) < rank(c.Previous)
	if s.process != nil {
		describeProcess(c, s.process, better)
	} else {
		what, usage := whatOf(k, s), usageOf(c, k.measure)
		switch {
		case better && !c.Limit.Known():
			c.Message = fmt.Sprintf("%s: use is over, %s", what, noLongerFull)
		case better:
			c.Message = fmt.Sprintf("%s: use fell to %s", what, usage)
		default:
			c.Message = fmt.Sprintf("%s: high use, %s", what, usage)
			c.Advice = adviceOf(k)
		}
	}
	if seconds, ok := left.Get(); ok && !better {
		c.Message += "; at this rate the limit is reached in " + human.Seconds(seconds)
	}
}

func describeProcess(c *record.StateChange, f *record.ProcessFacts, better bool) {
	open, limit := f.FDOpen.Or(0), f.FDLimit.Or(0)
	who := fmt.Sprintf("%s (pid %d)", f.Comm, f.PID)
	usage := fmt.Sprintf("%d/%d (%.0f%%)", open, limit, c.Ratio.Or(0)*100)
	if better {
		c.Message = fmt.Sprintf("FD usage of %s fell: %s", who, usage)
		return
	}
	c.Message = fmt.Sprintf("High FD usage: %s in %s", usage, who)
	c.Advice = fmt.Sprintf("At %d opens fail with EMFILE. See what it holds: rmagent fds --pid %d, or ls -l /proc/%d/fd. ", limit, f.PID, f.PID)
	switch hard, known := f.FDHardLimit.Get(); {
	case known && hard > limit:
		c.Advice += fmt.Sprintf("To raise the limit now: prlimit --pid %d --nofile=%d; to keep it: LimitNOFILE= in its unit.", f.PID, hard)
	case known:
		c.Advice += "Its hard limit is as low: raise LimitNOFILE= in its unit (or ulimit -Hn) and restart it."
	default: // no hard limit, or an unknown one
		c.Advice += fmt.Sprintf("To raise the limit now: prlimit --pid %d --nofile=N:; to keep it: LimitNOFILE= in its unit.", f.PID)
	}
}

// whatOf names what is used.
func whatOf(k gaugeKey, s subject) string {
	where, on := k.target.String(), "in "
	switch k.target.kind {
	case kindHost:
		where, on = "the host", "on "
	case kindMount:
		where = k.target.name
	case kindGPU:
		if s.card != nil {
			where = gpuName(s)
		}
	case kindJob:
		where = "job " + k.target.name
		if s.job != nil {
			where = jobName(s.job)
		}
	}
	switch k.measure {
	case mCPU:
		return "CPU of " + where
	case mMemory, mGPUMemory:
		if k.measure == mGPUMemory && k.target.kind == kindJob {
			return "GPU memory of " + where
		}
		return "Memory of " + where
	case mFD:
		return "Open files of " + where
	case mDisk:
		return "Space on " + where
	case mInodes:
		return "Inodes of " + where
	case mNetwork:
		return "Network of " + where
	case mPIDs:
		if k.target.kind == kindJob {
			return "Processes of " + where
		}
		return "Threads of " + where
	case mPressureCPU:
		return "Waiting for CPU " + on + where
	case mPressureMemory:
		return "Waiting for memory " + on + where
	case mPressureIO:
		return "Waiting for I/O " + on + where
	}
	return where
}

// gpuName is a card, or a MIG instance of it, as people speak of it.
func gpuName(s subject) string {
	name := s.card.Name.Or("")
	if s.instance != nil {
		name = s.instance.Name.Or("")
	}
	if name == "" {
		return fmt.Sprintf("GPU %d", s.card.Index)
	}
	return fmt.Sprintf("GPU %d (%s)", s.card.Index, name)
}

// usageOf writes value and limit as people say them.
func usageOf(c *record.StateChange, m measure) string {
	value, limit, percent := c.Value.Or(0), c.Limit.Or(0), c.Ratio.Or(0)*100
	switch measures[m].unit {
	case "bytes":
		return fmt.Sprintf("%s of %s (%.0f%%)", human.Bytes(value), human.Bytes(limit), percent)
	case "bytes_per_second":
		return fmt.Sprintf("%s/s of %s/s (%.0f%%)", human.Bytes(value), human.Bytes(limit), percent)
	case "percent":
		if m == mCPU && limit != 100 { // a cgroup's, of one CPU
			return fmt.Sprintf("%.2f of %.2f CPUs (%.0f%%)", value/100, limit/100, percent)
		}
		return fmt.Sprintf("%.0f%%", percent)
	}
	return fmt.Sprintf("%.0f/%.0f (%.0f%%)", value, limit, percent)
}

// adviceOf says what happens at the limit, where to look and what to do.
func adviceOf(k gaugeKey) string {
	if k.target.kind == kindJob {
		return "The limit is the job's own: rmagent exec ends it above, unless it only measures. Its processes are the members in its records."
	}
	cgroup := k.target.kind == kindCgroup
	switch k.measure {
	case mCPU:
		if cgroup {
			return "At the limit its threads are throttled: they wait for the next period. To raise it: CPUQuota= of its unit, or the container's CPU limit."
		}
		return "A busy CPU does its work, but who comes next waits. See who takes most: rmagent snapshot, by cpu_cores."
	case mMemory:
		if cgroup {
			return "At the limit the kernel reclaims page cache, then kills a process in this cgroup. To raise it: MemoryMax= of its unit, or the container's memory limit."
		}
		return "Near 100% the kernel reclaims all it can, then its OOM killer ends a process. See who takes most: rmagent snapshot, by rss_anon_bytes."
	case mFD:
		return "At the limit every open fails with ENFILE, for everybody but root. Find who holds most: rmagent snapshot, by fd_open. To raise it: sysctl fs.file-max."
	case mDisk:
		return "When it is full writes fail with ENOSPC. See what takes it: du -xh " + k.target.name + " | sort -h | tail; files that are deleted but open: rmagent fds."
	case mInodes:
		return "Without inodes no file can be made (ENOSPC), however many bytes are free. Look for directories with many small files: du --inodes -x " + k.target.name + " | sort -n | tail."
	case mNetwork:
		return "It is near the rate that the configuration calls the limit. See who takes most: rmagent snapshot, by net_received_bytes_per_second and net_sent_bytes_per_second."
	case mGPU:
		return "A busy GPU does its work, but who comes next waits. See who uses it: rmagent snapshot, by gpu_utilization_ratio."
	case mGPUMemory:
		return "At the limit allocations fail (CUDA_ERROR_OUT_OF_MEMORY), and most programs end. See who holds most: rmagent snapshot, by gpu_memory_bytes."
	case mPIDs:
		if cgroup {
			return "At the limit fork and new threads fail with EAGAIN in this cgroup. To raise it: TasksMax= of its unit, or the container's limit of PIDs."
		}
		return "At the limit fork and new threads fail with EAGAIN, for everybody. Find who has most: rmagent snapshot, by threads. To raise it: sysctl kernel.pid_max, kernel.threads-max."
	case mPressureCPU:
		if cgroup {
			return "Runnable threads in it waited for a CPU for so much of the last ten seconds: others were running, or its limit of CPU was reached (cpu_throttled_seconds_total in its record)."
		}
		return "Runnable threads waited for a CPU for so much of the last ten seconds. See who takes most: rmagent snapshot, by cpu_cores."
	case mPressureMemory:
		if cgroup {
			return "Its threads waited for memory to be reclaimed or read back for so much of the last ten seconds: its limit (MemoryHigh=, MemoryMax=), or the host, is short of memory."
		}
		return "Threads waited for memory to be reclaimed or read back for so much of the last ten seconds. See who takes most: rmagent snapshot, by rss_anon_bytes and major_faults_total."
	case mPressureIO:
		return "Threads waited for disks for so much of the last ten seconds. See who reads and writes most: rmagent snapshot, by disk_read_bytes_per_second and disk_written_bytes_per_second."
	}
	return ""
}

// jobName is a job as people speak of it.
func jobName(r *record.JobReading) string {
	if category, ok := r.Category.Get(); ok {
		return fmt.Sprintf("job %s (%s)", r.Job, human.Text(category))
	}
	return "job " + r.Job
}

// limitNames are how messages call what limits of processes and jobs are of.
var limitNames = map[measure]string{
	mPIDs: "processes", mCPU: "CPU", mMemory: "memory", mFD: "FD", mTransfer: "disk", mNetwork: "network", mGPU: "GPU", mGPUMemory: "GPU memory",
}

// describeLimit fills in what a person reads of the limit of a tracked process or job.
func describeLimit(c *record.StateChange, s subject, m measure, rule *Rule) {
	verb, than := "exceeded", ">"
	if rank(c.State) < rank(c.Previous) {
		verb, than = "is back under its", "<="
	}
	who := ""
	if s.job != nil {
		name := jobName(s.job)
		who = strings.ToUpper(name[:1]) + name[1:]
	} else {
		who = fmt.Sprintf("Process %d", s.process.PID)
	}
	c.Message = fmt.Sprintf("%s %s %s limit: %s %s %s", who, verb, limitNames[m],
		amount(c.Value.Or(0), measures[m].unit), than, amount(c.Limit.Or(0), measures[m].unit))
	if than == "<=" {
		return
	}
	c.Advice = "It is tracked"
	if s.process != nil {
		c.Advice = fmt.Sprintf("It is %s, tracked", s.process.Comm)
	}
	if rule.Label != "" {
		c.Advice += " as " + rule.Label
	}
	c.Advice += "; the limit is the configuration's."
	if s.process != nil {
		c.Advice += fmt.Sprintf(" See what it does: rmagent snapshot --pid %d.", s.process.PID)
	} else {
		c.Advice += " Its processes are the members in its records."
	}
}

// mebibyte is what the settings call a MB.
const mebibyte = 1 << 20

func amount(v float64, unit string) string {
	switch unit {
	case "percent":
		return fmt.Sprintf("%.2f%%", v)
	case "bytes":
		return fmt.Sprintf("%.2f MB", v/mebibyte)
	case "bytes_per_second":
		return fmt.Sprintf("%.2f MB/s", v/mebibyte)
	}
	return fmt.Sprintf("%.0f", v)
}
