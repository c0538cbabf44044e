package policy

import (
	"slices"
	"strings"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Facts are what one tick has to be judged by. Processes is never nil.
type Facts struct {
	Monotonic time.Duration
	Processes *aggregate.Table
	Host      *aggregate.Host // nil where it was not read
	Cgroups   []sample.Cgroup // those that were read
	// AllCgroups says that Cgroups has every one that there is: the states of others
	// end.
	AllCgroups bool
	GPUs       *aggregate.GPUs // nil where they are not watched
}

// Engine keeps the states of all targets. One goroutine uses it at a time.
type Engine struct {
	config Config
	// Only targets that are not normal are kept: the rest is judged by one
	// comparison.
	processes map[sample.ID]*standing
	others    map[string]*standing // by resource and target
	changes   []record.StateChange
}

// standing is where a target stands.
type standing struct {
	level level
	// below is since when the ratio would allow a lower level; the lowest that it
	// allowed throughout is fallTo.
	falling bool
	below   time.Duration
	fallTo  level
}

// New returns an engine in which everything is normal.
func New(c Config) *Engine {
	return &Engine{config: c, processes: map[sample.ID]*standing{}, others: map[string]*standing{}}
}

// Configure has the engine judge by c from now on. What stands stays until it is judged
// again.
func (e *Engine) Configure(c Config) { e.config = c }

// Judge returns what crossed a threshold since the last time. The result is valid
// until the next call.
func (e *Engine) Judge(f *Facts) []record.StateChange {
	e.changes = e.changes[:0]
	e.judgeProcesses(f)
	if f.Host != nil {
		e.judgeHost(f)
	}
	for i := range f.Cgroups {
		e.judgeCgroup(f, &f.Cgroups[i])
	}
	if f.AllCgroups {
		e.forgetCgroups(f.Cgroups)
	}
	if f.GPUs != nil {
		e.judgeGPUs(f)
	}
	return e.changes
}

func (e *Engine) judgeProcesses(f *Facts) {
	t, ok := e.config.Thresholds[FD]
	if !ok {
		return
	}
	for i := range f.Processes.Len() {
		p := f.Processes.At(i)
		ratio, known := p.FDRatio().Get()
		if !known || ratio < t.Info && (len(e.processes) == 0 || e.processes[p.ID] == nil) {
			continue
		}
		s := e.processes[p.ID]
		if s == nil {
			s = &standing{}
			e.processes[p.ID] = s
		}
		if previous, changed := s.judge(&t, ratio, f.Monotonic); changed {
			e.changes = append(e.changes, processFDs(p, ratio, previous, s.level, f.Monotonic))
		}
		if s.level == normal {
			delete(e.processes, p.ID)
		}
	}
	for id := range e.processes {
		if f.Processes.Find(id) == nil {
			delete(e.processes, id)
		}
	}
}

func (e *Engine) judgeHost(f *Facts) {
	h := f.Host
	used := aggregate.Used(h.MemoryTotalBytes, h.MemoryAvailableBytes)
	e.judge(Memory, "host", used, h.MemoryTotalBytes, f.Monotonic, hostMemory)
	e.judge(FD, "host", h.FilesOpen, h.FilesLimit, f.Monotonic, hostFiles)
}

func (e *Engine) judgeCgroup(f *Facts, c *sample.Cgroup) {
	if len(e.others) == 0 && calm(c.MemoryBytes, c.MemoryLimit.Get(), e.config.Thresholds[Memory].Info) {
		return // the rule: not even its name is made
	}
	e.judge(Memory, cgroupTarget(c), c.MemoryBytes, c.MemoryLimit.Get(), f.Monotonic, cgroupMemory)
}

func calm(value, limit sample.Opt[uint64], threshold float64) bool {
	l, ok := limit.Get()
	return !ok || l == 0 || aggregate.Round(float64(value.Or(0))/float64(l)) < threshold
}

func cgroupTarget(c *sample.Cgroup) string { return "cgroup:" + record.Text([]byte(c.Path)) }

// forgetCgroups drops the states of cgroups that were removed.
func (e *Engine) forgetCgroups(all []sample.Cgroup) {
	prefix := string(Memory) + " cgroup:"
	for key := range e.others {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		is := func(c sample.Cgroup) bool { return key == string(Memory)+" "+cgroupTarget(&c) }
		if !slices.ContainsFunc(all, is) {
			delete(e.others, key)
		}
	}
}

// judge judges one value against its limit. words fills in what a person reads.
func (e *Engine) judge(resource Resource, target string, value, limit sample.Opt[uint64], now time.Duration, words func(*record.StateChange)) {
	t, ok := e.config.Thresholds[resource]
	v, knownValue := value.Get()
	l, knownLimit := limit.Get()
	if !ok || !knownValue || !knownLimit || l == 0 || l == sample.Unlimited {
		return
	}
	ratio := aggregate.Round(float64(v) / float64(l))
	key := string(resource) + " " + target
	s := e.others[key]
	if s == nil {
		if ratio < t.Info {
			return
		}
		s = &standing{}
		e.others[key] = s
	}
	if previous, changed := s.judge(&t, ratio, now); changed {
		c := record.StateChange{
			Resource: string(resource),
			Target:   target,
			State:    s.level.state(),
			Previous: previous.state(),
			Value:    record.Some(float64(v)),
			Limit:    record.Some(float64(l)),
			Ratio:    record.Some(ratio),
		}
		words(&c)
		e.changes = append(e.changes, c)
	}
	if s.level == normal {
		delete(e.others, key)
	}
}

// judge moves the standing and says from where, if it moved.
func (s *standing) judge(t *Threshold, ratio float64, now time.Duration) (previous level, changed bool) {
	previous = s.level
	if up := t.reached(ratio); up >= s.level {
		s.falling = false
		s.level = up
		return previous, up != previous
	}
	// The lowest level that the ratio allows with hysteresis.
	allowed := s.level
	for allowed > normal && ratio < t.at(allowed)-t.Hysteresis {
		allowed--
	}
	if allowed == s.level {
		s.falling = false
		return previous, false
	}
	if !s.falling {
		s.falling, s.below, s.fallTo = true, now, allowed
	}
	s.fallTo = max(s.fallTo, allowed)
	if now-s.below < t.Hold {
		return previous, false
	}
	s.level, s.falling = s.fallTo, false
	return previous, true
}

func (l level) state() record.State {
	return [...]record.State{record.StateNormal, record.StateInfo, record.StateWarning, record.StateCritical}[l]
}
