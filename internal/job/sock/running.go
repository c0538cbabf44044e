package sock

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"rmagent/internal/cctools"
	"rmagent/internal/clock"
	"rmagent/internal/job"
	"rmagent/internal/sample"
	"rmagent/record"
)

// clip makes of foreign bytes text that is not too long.
func clip(s string, most int) string {
	text := record.Text([]byte(s))
	if len(text) <= most {
		return text
	}
	const more = "..."
	return strings.ToValidUTF8(text[:most-len(more)], "") + more
}

// add takes a reading.
func (w *watched) add(r *job.Reading) {
	if r.Boottime == w.last {
		return
	}
	w.last, w.living, w.oldest = r.Boottime, r.Totals.Now, sample.JobProcess{}
	for i := range r.Processes {
		if p := &r.Processes[i]; w.oldest.ID.PID == 0 || p.ID.StartTicks < w.oldest.ID.StartTicks {
			w.oldest = *p
		}
	}
	w.meter.Add(r, nil)
}

// Running tells of the jobs there are, the oldest first, by the last
// reading of each, which its client or the engine took: it reads nothing.
func (s *Server) Running() []record.RunningJob {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]record.RunningJob, 0, len(s.byJob))
	for id, c := range s.byJob {
		r := c.watched.record(clock.Boottime())
		r.ID, r.UID, r.RunBy = id, c.uid, c.self.PID
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b record.RunningJob) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

func (w *watched) record(now time.Duration) record.RunningJob {
	var s cctools.Summary
	w.meter.Summarize(&s, w.worth)
	use := s.Record()
	r := record.RunningJob{
		Command: someText(w.about.Command), Category: someText(w.about.Category),
		StartTime:  w.since.UTC(),
		AgeSeconds: record.SomeIf(max(0, now-w.last).Seconds(), w.last != 0),
		Processes:  record.SomeIf(w.living, w.last != 0),
		JobUse:     use.JobUse, Measured: use.Measured,
		Limits: w.about.Limits.Near(&s.Measures),
	}
	if p := &w.oldest; p.ID.PID != 0 {
		r.PID, r.StartTicks, r.Comm = record.Some(p.ID.PID), record.Some(p.ID.StartTicks), record.Some(record.Text(p.Comm.Bytes()))
	}
	return r
}

func someText(s string) record.Opt[string] { return record.SomeIf(record.Text([]byte(s)), s != "") }

// worth says what is known here: less than whoever runs the job knows.
func (w *watched) worth(m cctools.Measure) (cctools.Exactness, string) {
	switch m {
	case cctools.Disk, cctools.TotalFiles, cctools.FSNodes:
		return cctools.Unknown, "what directories hold is measured by who runs the job"
	case cctools.Memory:
		if most, _ := w.meter.Most.Get(cctools.MaxConcurrentProcesses); most > 1 {
			return cctools.AtLeast, "of what processes may share, only what one of them has is counted"
		}
	}
	return job.KernelExactness(m)
}
