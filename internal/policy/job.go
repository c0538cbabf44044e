package policy

import (
	"cmp"
	"slices"

	"rmagent/internal/aggregate"
	"rmagent/internal/pattern"
	"rmagent/internal/sample"
	"rmagent/record"
)

// job is what is remembered of one that runs.
type job struct {
	seen    uint64             // the tick that last met it
	members []record.JobMember // of this reading, ordered
}

// jobLimits are the limits of jobs that thresholds are shares of, by the names that jobs
// have them by.
var jobLimits = map[string]struct {
	measure measure
	value   func(r *record.JobReading) (float64, bool)
	unit    float64 // of the limit, in the value's
}{
	"memory":                   {mMemory, func(r *record.JobReading) (float64, bool) { return whole(r.MemoryBytes) }, 1},
	"cores":                    {mCPU, func(r *record.JobReading) (float64, bool) { return percentOf(r.CPUCores) }, 100},
	"gpu_memory":               {mGPUMemory, func(r *record.JobReading) (float64, bool) { return whole(r.GPUMemoryBytes) }, 1},
	"open_files":               {mFD, func(r *record.JobReading) (float64, bool) { return whole(r.FDOpen) }, 1},
	"max_concurrent_processes": {mPIDs, func(r *record.JobReading) (float64, bool) { return whole(r.Processes) }, 1},
	"bandwidth": {mNetwork, func(r *record.JobReading) (float64, bool) {
		return sum(r.NetReceivedBytesPerSecond, r.NetSentBytesPerSecond)
	}, 1. / 8},
}

// jobValues are what the limits of rules are compared with.
var jobValues = map[measure]func(r *record.JobReading) (float64, bool){
	mCPU:       func(r *record.JobReading) (float64, bool) { return percentOf(r.CPUCores) },
	mMemory:    func(r *record.JobReading) (float64, bool) { return whole(r.MemoryBytes) },
	mGPUMemory: func(r *record.JobReading) (float64, bool) { return whole(r.GPUMemoryBytes) },
	mFD:        func(r *record.JobReading) (float64, bool) { return whole(r.FDOpen) },
	mTransfer: func(r *record.JobReading) (float64, bool) {
		return sum(r.DiskReadBytesPerSecond, r.DiskWrittenBytesPerSecond)
	},
	mNetwork: func(r *record.JobReading) (float64, bool) {
		return sum(r.NetReceivedBytesPerSecond, r.NetSentBytesPerSecond)
	},
}

func percentOf(cores record.Opt[float64]) (float64, bool) {
	v, known := cores.Get()
	return aggregate.Round(v * 100), known
}

// Job takes the reading of a job that runs.
func (e *Engine) Job(r *record.JobReading) {
	j := e.jobs[r.Job]
	if j == nil {
		j = &job{}
		e.jobs[r.Job] = j
	}
	j.seen = e.tick
	j.members = append(j.members[:0], r.Members...)
	slices.SortFunc(j.members, compareMembers)
	t := target{kind: kindJob, name: r.Job}
	s := subject{job: r}
	for i := range r.Limits {
		l, judged := jobLimits[r.Limits[i].Resource]
		limit := r.Limits[i].Limit * l.unit
		if !judged || limit <= 0 {
			continue // of what nobody counts here, or nothing is allowed: there is no share
		}
		e.met(t, l.measure)
		if value, known := l.value(r); known {
			e.observe(t, l.measure, reading{value: value, limit: limit, ratio: aggregate.Round(value / limit)}, s)
		}
	}
	for place := range e.config.Tracked {
		if rule := &e.config.Tracked[place]; rule.Job != "" && e.rules.first(place) && pattern.Name(rule.Job, r.Category.Or("")) {
			e.judgeJob(r, t, s, place)
		}
	}
}

// judgeJob judges the limits that a rule sets to a job.
func (e *Engine) judgeJob(r *record.JobReading, t target, s subject, place int) {
	rule, number := &e.config.Tracked[place], e.rules.list[place].number
	for i := range limitOf {
		l := &limitOf[i]
		limit, valueOf := l.limit(&rule.Limits), jobValues[l.measure]
		if limit <= 0 || valueOf == nil {
			continue
		}
		key := gaugeKey{t, l.measure, number}
		g := e.gauges[key]
		if g != nil {
			g.seen = e.now
		}
		value, known := valueOf(r)
		if !known {
			continue
		}
		if g == nil {
			g = &gauge{key: key, seen: e.now}
			e.gauges[key] = g
		}
		g.last = value
		e.judgeLimit(g, s, rule, value, limit)
		maximum := 0.0
		if rule.Prune {
			maximum = limit
		}
		e.press(g, value, maximum, e.elapsed, false)
	}
}

// forgetJobs forgets those that ended, which is when they are not met in a reading that
// is whole: they take their states with them.
func (e *Engine) forgetJobs() {
	if !e.whole {
		return
	}
	for name, j := range e.jobs {
		if j.seen == e.tick {
			continue
		}
		delete(e.jobs, name)
		for key, g := range e.gauges {
			if key.target == (target{kind: kindJob, name: name}) {
				e.forget(g, "", goneWhy[kindJob])
				delete(e.gauges, key)
			}
		}
	}
}

// jobShare is the share of what presses a job that one of its processes has; 0 of the
// others.
func (e *Engine) jobShare(f *record.ProcessFacts, id sample.ID, g *gauge) float64 {
	j := e.jobs[g.key.target.name]
	if j == nil {
		return 0
	}
	if _, member := slices.BinarySearchFunc(j.members, record.JobMember{PID: id.PID, StartTicks: id.StartTicks}, compareMembers); !member {
		return 0
	}
	switch g.key.measure {
	case mCPU:
		return quotient(f.CPUCores.Or(0)*100, g.last)
	case mMemory:
		return quotient(ownMemory(f), g.last)
	case mFD:
		return quotient(float64(f.FDOpen.Or(0)), g.last)
	case mGPUMemory:
		return quotient(float64(f.GPUMemoryBytes.Or(0)), g.last)
	case mPIDs:
		return quotient(1, g.last)
	case mTransfer:
		v, _ := sum(f.DiskReadBytesPerSecond, f.DiskWrittenBytesPerSecond)
		return quotient(v, g.last)
	case mNetwork:
		v, _ := sum(f.NetReceivedBytesPerSecond, f.NetSentBytesPerSecond)
		return quotient(v, g.last)
	}
	return 0
}

func compareMembers(a, b record.JobMember) int {
	return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.StartTicks, b.StartTicks))
}
