package policy

import (
	"maps"
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

// Nobody counts writes by filesystem. Who fills one is estimated: whoever wrote, to
// whatever files, about as much as it gained.

// written is what a process had written at its last record, and when that was.
type written struct {
	bytes uint64
	at    time.Duration
}

// full is a filesystem above its maximum, at the two instants from which what it gained
// is compared with what processes wrote: the reading before it rose above, and that one.
type full struct {
	before, since snapshot
}

// snapshot is what was in use of a filesystem, and what each process had written.
type snapshot struct {
	used    record.Opt[float64]
	written map[sample.ID]written
}

// fills is told of each reading of a filesystem, before that of processes.
func (p *pruning) fills(mount string, above bool, before record.Opt[float64], used float64) {
	switch {
	case !above:
		delete(p.full, mount)
	case p.full[mount] == nil:
		p.full[mount] = &full{before: snapshot{before, maps.Clone(p.written)}, since: snapshot{used: record.Some(used)}}
	}
}

// noteWrites completes what began in this reading, after that of processes.
func (p *pruning) noteWrites() {
	for _, f := range p.full {
		if f.since.written == nil {
			f.since.written = maps.Clone(p.written)
		}
	}
}

// unwritten is after how long without a record a process is forgotten: each has one
// once a minute.
const unwritten = 150 * time.Second

func (p *pruning) forgetWrites(now time.Duration) {
	for id, w := range p.written {
		if now-w.at > unwritten {
			delete(p.written, id)
		}
	}
}

// explains is how well what a process wrote since a snapshot explains what the
// filesystem gained since, from 0 to 1. Whoever wrote far more did so elsewhere.
func (s *snapshot) explains(id sample.ID, wrote uint64, used float64) float64 {
	before, known := s.used.Get()
	gained := used - before
	last, there := s.written[id]
	if !known || gained <= 0 || !there && len(s.written) == 0 {
		return 0
	}
	since := float64(wrote - min(wrote, last.bytes)) // who was not there wrote all since
	if since <= 0 {
		return 0
	}
	return min(since, gained) / max(since, gained)
}

// filled is the share that a process has in the filling of a filesystem, an estimate:
// first come those that explain what it gained since it rose above its maximum. Where it
// gained nothing since, for whoever filled it is done, those that explain how it rose
// above come first, else far behind; and last who wrote in former times.
func (e *Engine) filled(f *record.ProcessFacts, id sample.ID, g *gauge) float64 {
	wrote, used := f.IOWrittenBytesTotal.Or(0), g.last
	at := e.prune.full[g.key.target.name]
	if at == nil {
		return quotient(float64(wrote), used) / 1e6
	}
	goesOn := used-at.since.used.Or(used) >= leastShare*used
	now, then := at.since.explains(id, wrote, used), at.before.explains(id, wrote, used)
	switch {
	case goesOn && now > 0:
		return now
	case goesOn:
		return max(then/1e3, quotient(float64(wrote), used)/1e6)
	}
	return max(then, quotient(float64(wrote), used)/1e6)
}

// wroteSince is how much a process wrote since a filesystem was below its maximum.
func (e *Engine) wroteSince(id sample.ID, wrote uint64, mount string) uint64 {
	at := e.prune.full[mount]
	if at == nil {
		return 0
	}
	return wrote - min(wrote, at.before.written[id].bytes)
}
