package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"rmagent/internal/human"
	"rmagent/internal/sample"
	"rmagent/record"
)

// leastShare is the share of what presses that a candidate must have: to end the
// others would relieve nobody.
const leastShare = 0.01

// candidate is a process that may go.
type candidate struct {
	id       sample.ID
	comm     string
	cgroup   record.Opt[string]
	started  record.Opt[time.Time]
	reason   gaugeKey
	value    float64 // in the reason's unit
	share    float64
	whole    bool // share is of the whole card, of a MIG instance's
	priority int
}

// before tells who goes first: the lowest priority, then the largest share, then the
// youngest, whose work is the least.
func (c *candidate) before(d *candidate) int {
	return cmp.Or(cmp.Compare(c.priority, d.priority), cmp.Compare(d.share, c.share),
		cmp.Compare(d.id.StartTicks, c.id.StartTicks), cmp.Compare(d.id.PID, c.id.PID))
}

// rank finds a place for a process among the candidates.
func (e *Engine) rank(f *record.ProcessFacts, id sample.ID) {
	p := &e.prune
	if e.config.Prune.DiskPercent > 0 {
		p.written[id] = written{f.IOWrittenBytesTotal.Or(0), e.now}
	}
	if !p.ranking {
		return
	}
	var best candidate
	for _, g := range p.reasons {
		share := e.relief(f, id, g)
		if share < leastShare && (g.key.measure != mDisk || share <= 0) || share <= best.share {
			continue
		}
		best.reason, best.share, best.value = g.key, share, share*g.value
		if g.key.measure == mDisk { // what it wrote, of what is in use
			wrote := e.wroteSince(id, f.IOWrittenBytesTotal.Or(0), g.key.target.name)
			best.value = quotient(float64(wrote), g.last) * g.value
		}
	}
	if best.share == 0 || e.Protects(f) {
		return
	}
	_, best.whole = p.cards.cardOf[best.reason.target.name]
	best.id, best.comm, best.cgroup, best.started = id, f.Comm, f.Cgroup, f.StartTime
	best.priority = e.priority(f)
	at, _ := slices.BinarySearchFunc(p.top, best, func(a, b candidate) int { return a.before(&b) })
	if at == e.config.Prune.Candidates {
		return
	}
	if len(p.top) == e.config.Prune.Candidates {
		p.top = p.top[:len(p.top)-1]
	}
	p.top = slices.Insert(p.top, at, best)
}

// relief is the share of what presses that a process has; 0 where it has none, or
// that is unknown.
func (e *Engine) relief(f *record.ProcessFacts, id sample.ID, g *gauge) float64 {
	switch t := &g.key.target; t.kind {
	case kindProcess:
		if t.id == id {
			return 1
		}
		return 0
	case kindJob:
		return e.jobShare(f, id, g)
	case kindCgroup:
		if !inside(f.Cgroup.Or(""), t.name) {
			return 0
		}
	}
	h := e.host
	cgroup := g.key.target.kind == kindCgroup
	switch g.key.measure {
	case mCPU, mPressureCPU:
		if cgroup {
			return quotient(f.CPUCores.Or(0), g.whole)
		}
		cpus := float64(h.CPUCount.Or(0))
		if g.key.measure == mCPU {
			cpus *= h.CPURatio.Or(0)
		}
		return quotient(f.CPUCores.Or(0), cpus)
	case mMemory:
		return quotient(ownMemory(f), g.slope.value)
	case mPressureMemory:
		if cgroup {
			return quotient(ownMemory(f), g.whole)
		}
		return quotient(ownMemory(f), float64(h.MemoryTotalBytes.Or(0)))
	case mFD:
		return quotient(float64(f.FDOpen.Or(0)), g.slope.value)
	case mPIDs:
		return quotient(float64(f.Threads.Or(0)), g.slope.value)
	case mNetwork:
		v, _ := sum(f.NetReceivedBytesPerSecond, f.NetSentBytesPerSecond)
		return quotient(v, g.value)
	case mGPU:
		return quotient(e.prune.cards.of(g.key.target.name, id).use*100, g.value)
	case mGPUMemory:
		return quotient(e.prune.cards.of(g.key.target.name, id).memory, g.slope.value)
	case mDisk:
		return e.filled(f, id, g)
	case mPressureIO:
		v, _ := sum(f.DiskReadBytesPerSecond, f.DiskWrittenBytesPerSecond)
		all, _ := sum(h.DiskReadBytesPerSecond, h.DiskWrittenBytesPerSecond)
		return quotient(v, all)
	}
	return 0
}

// ownMemory is what comes back when the process ends: what it shares with others
// stays.
func ownMemory(f *record.ProcessFacts) float64 {
	if anon, ok := f.RSSAnonBytes.Get(); ok {
		return float64(anon)
	}
	return float64(f.RSSBytes.Or(0))
}

// quotient is a share; the whole is read at another instant than its parts, so it is
// cut at 1.
func quotient(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(part/whole, 1)
}

// inside tells whether a cgroup is another or below it.
func inside(cgroup, parent string) bool {
	return cgroup == parent || parent == "/" && !sample.OutsideCgroups(cgroup) ||
		len(cgroup) > len(parent) && cgroup[len(parent)] == '/' && strings.HasPrefix(cgroup, parent)
}

// kthreadd is the parent of all kernel threads, by its PID in the initial namespace.
const kthreadd = 2

// Protects tells who never goes: PID 1, kernel threads, the agent with its children,
// and who the configuration protects.
func (e *Engine) Protects(f *record.ProcessFacts) bool {
	parent := f.PPID.Or(0)
	switch agent := e.config.Agent; {
	case f.PID <= 1:
		return true
	case (f.PID == kthreadd || parent == kthreadd) && !f.Exe.Known():
		return true
	case agent != 0 && (f.PID == agent || parent == agent):
		return true
	}
	for i := range e.config.Protected {
		if e.config.Protected[i].matches(f) {
			return true
		}
	}
	return false
}

// priority is the first that selects a process.
func (e *Engine) priority(f *record.ProcessFacts) int {
	for i := range e.config.Priorities {
		if p := &e.config.Priorities[i]; p.matches(f) {
			return p.Priority
		}
	}
	return 0
}

func (c *candidate) record(now time.Time) record.PruneCandidate {
	why := []string{c.why()}
	if c.priority != 0 {
		why = append(why, fmt.Sprintf("priority %d", c.priority))
	}
	if started, ok := c.started.Get(); ok && now.After(started) {
		why = append(why, "started "+human.Seconds(now.Sub(started).Seconds())+" ago")
	}
	return record.PruneCandidate{
		PID: c.id.PID, StartTicks: c.id.StartTicks, Comm: c.comm, Cgroup: c.cgroup,
		Resource: measures[c.reason.measure].name, Value: record.Some(c.value), Why: strings.Join(why, ", "),
	}
}

// why says what a candidate relieves.
func (c *candidate) why() string {
	percent := fmt.Sprintf("%.0f%%", c.share*100)
	if c.share < 0.1 {
		percent = fmt.Sprintf("%.1f%%", c.share*100)
	}
	if c.reason.target.kind == kindProcess {
		return "above its own maximum of " + measures[c.reason.measure].name
	}
	if c.reason.target.kind == kindJob {
		return fmt.Sprintf("%s of the %s of %s", percent, limitNames[c.reason.measure], c.reason.target)
	}
	where := "of the host"
	if c.reason.target.kind != kindHost {
		where = "of " + c.reason.target.String()
	}
	switch c.reason.measure {
	case mCPU:
		return percent + " of the CPU time in use"
	case mPressureCPU:
		if c.reason.target.kind == kindCgroup {
			return percent + " of the CPU time " + where
		}
		return percent + " of all CPU time"
	case mMemory:
		return percent + " of the memory in use " + where
	case mPressureMemory:
		if c.reason.target.kind == kindCgroup {
			return percent + " of the memory in use " + where
		}
		return percent + " of the host's memory"
	case mFD:
		return percent + " of the open files " + where
	case mPIDs:
		return percent + " of the threads " + where
	case mNetwork:
		return percent + " of the network traffic " + where
	case mGPU:
		return percent + " of the use " + where
	case mGPUMemory:
		if c.whole {
			where += ", counted on its whole card"
		}
		return percent + " of the memory in use " + where
	case mDisk:
		return fmt.Sprintf("an estimate: what it wrote by calls, to whatever files, is %s like what %s gained; what it wrote stays", percent, c.reason.target)
	}
	return percent + " of the host's disk traffic"
}
