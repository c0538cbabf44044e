package report

import (
	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Exit fills r, but for its header, with an end that the kernel told of. id is what
// is known of the process beside that; it may be nil.
func (b *Builder) Exit(r *record.Exit, e *sample.Exit, id *sample.Identity) {
	*r = record.Exit{Header: r.Header}
	b.Facts(&r.ProcessFacts, &e.P)
	b.Identity(&r.ProcessFacts, id)
	if len(e.Exe) > 0 { // the program that it ran last, which a snapshot may not have seen
		r.Exe = record.Some(record.Text(e.Exe))
	}
	r.ExitTime = record.SomeIf(e.Time.UTC(), !e.Time.IsZero())
	r.ExitCode = narrow(e.Code)
	r.ExitSignal = narrow(e.Signal)
	r.CoreDumped = record.Some(e.CoreDumped)
	r.CPUFinal = e.CPUFinal
}

// InferredExit fills r, but for its header, with a process that a snapshot no
// longer has: its totals are those of its last reading, and how it ended is
// unknown.
func (b *Builder) InferredExit(r *record.Exit, p *aggregate.Process) {
	*r = record.Exit{Header: r.Header}
	b.Facts(&r.ProcessFacts, &p.Process)
	b.Identity(&r.ProcessFacts, p.Identity)
	r.Inferred = true
}

// OOM fills r, but for its header.
func (b *Builder) OOM(r *record.OOM, e *sample.OOM, cgroup string) {
	p := &e.P
	*r = record.OOM{
		Header:        r.Header,
		PID:           p.ID.PID,
		StartTicks:    p.ID.StartTicks,
		Comm:          b.Comm(&p.Comm),
		UID:           record.SomeIf(p.UID, p.Known.Has(sample.UID)),
		Cgroup:        b.text(cgroup),
		RSSBytes:      record.SomeIf(p.RSSBytes(), p.Known.HasAll(sample.RSS)),
		RSSAnonBytes:  record.SomeIf(p.RSSAnonBytes, p.Known.Has(sample.RSSAnon)),
		RSSFileBytes:  record.SomeIf(p.RSSFileBytes, p.Known.Has(sample.RSSFile)),
		RSSShmemBytes: record.SomeIf(p.RSSShmemBytes, p.Known.Has(sample.RSSShmem)),
		SwapBytes:     record.SomeIf(p.SwapBytes, p.Known.Has(sample.Swap)),
	}
}

func narrow(o sample.Opt[int]) record.Opt[int32] {
	v, ok := o.Get()
	return record.SomeIf(int32(v), ok)
}
