package htmlreport

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"rmagent/internal/human"
	"rmagent/record"
)

const (
	maxJobs       = 4096 // that run at once
	maxCategories = 256
	shownJobs     = 25
	shownRunning  = 10
	shownGroups   = 15
)

// jobs are trees of processes that were measured: of those whose end is recorded the most
// telling ones and sums by category, and the others by their readings.
type jobs struct {
	read       map[string]*readJob // by boot and job, until their end is told
	gone       *top[*readJob]      // that are read no more, and whose end nobody told
	goneCount  uint64
	ended      *top[*endedJob]
	categories *keyed[*jobCategory]
	tally
}

// tally counts how jobs ended.
type tally struct {
	count  uint64
	broke  uint64 // a limit
	failed uint64 // otherwise
}

func (t *tally) add(j *endedJob) {
	t.count++
	switch {
	case len(j.limits) > 0:
		t.broke++
	case j.failed():
		t.failed++
	}
}

// endedJob is what a job's record says.
type endedJob struct {
	at                   int64
	what, command, cause string
	pid, status, signal  int32
	record.JobUse
	limits []record.JobLimit
}

// readJob is a job by its last reading.
type readJob struct {
	first, last int64
	job, what   string
	elapsed     record.Opt[float64]
	cpu         record.Opt[float64]
	processes   record.Opt[uint64]
	memory, fds peak
}

// jobCategory sums up the jobs of one kind.
type jobCategory struct {
	name                string
	tally               tally
	cpu                 float64
	wall, memory, cores peak
	disk, processes     peak
}

func newJobs() jobs {
	return jobs{read: map[string]*readJob{}, gone: newTop(shownRunning, func(j *readJob) float64 { return j.cpu.Or(0) + 1e-9 }), ended: newTop(shownJobs, (*endedJob).telling), categories: newKeyed[*jobCategory](maxCategories)}
}

// telling orders jobs: who broke a limit, then who failed, then by CPU time.
func (j *endedJob) telling() float64 {
	const worse = 1e12 // seconds: longer than any job
	v := min(j.CPUTimeSeconds.Or(0), worse/2) + j.WallTimeSeconds.Or(0)/worse + 1/worse
	switch {
	case len(j.limits) > 0:
		v += 2 * worse
	case j.failed():
		v += worse
	}
	return v
}

func (j *endedJob) failed() bool { return j.status != 0 || j.signal != 0 }

// whatJob names a job: its category and task, or nothing.
func whatJob(category, task record.Opt[string]) string {
	text := clip(category.Or(""), maxName)
	if id := task.Or(""); id != "" {
		text = strings.TrimSpace(text + " task " + clip(id, maxName))
	}
	return text
}

// reading takes a reading of a job that runs.
func (s *jobs) reading(b *boot, ms int64, r *record.JobReading) {
	key := jobKey(b, r.Job)
	j := s.read[key]
	if j == nil {
		if len(s.read) >= maxJobs {
			s.forget()
		}
		j = &readJob{first: ms, job: clip(r.Job, maxName), what: whatJob(r.Category, r.TaskID)}
		s.read[key] = j
	}
	j.last, j.elapsed, j.cpu, j.processes = ms, r.ElapsedSeconds, r.CPUSecondsTotal, r.Processes
	if v, ok := r.MemoryBytes.Get(); ok {
		j.memory.add(float64(v), ms)
	}
	if v, ok := r.FDOpen.Get(); ok {
		j.fds.add(float64(v), ms)
	}
}

func jobKey(b *boot, job string) string { return clip(b.id, maxName) + " " + clip(job, maxName) }

// forget takes the half of the jobs that was not read for longest for gone.
func (s *jobs) forget() {
	keys := slices.SortedFunc(maps.Keys(s.read), func(a, b string) int { return cmp.Compare(s.read[a].last, s.read[b].last) })
	for _, key := range keys[:len(keys)/2] {
		s.gone.offer(s.read[key])
		s.goneCount++
		delete(s.read, key)
	}
}

// add takes the end of a job.
func (s *jobs) add(b *boot, ms int64, r *record.Job) {
	delete(s.read, jobKey(b, r.Job))
	j := &endedJob{
		at: ms, what: whatJob(r.Category, r.TaskID), command: clip(r.Command.Or(""), maxName), cause: clip(r.Cause.Or(""), maxName),
		pid: r.PID, status: r.ExitStatus.Or(0), signal: r.Signal.Or(0), JobUse: r.JobUse,
	}
	for _, l := range r.Limits[:min(len(r.Limits), maxReasons)] {
		l.Resource, l.Unit = clip(l.Resource, maxName), clip(l.Unit, maxName)
		j.limits = append(j.limits, l)
	}
	s.tally.add(j)
	c := s.categories.get(clip(r.Category.Or(""), maxName), func() *jobCategory { return &jobCategory{name: clip(r.Category.Or(""), maxName)} })
	if c != nil {
		c.add(ms, j)
	}
	s.ended.offer(j)
}

func (c *jobCategory) add(ms int64, j *endedJob) {
	c.tally.add(j)
	c.cpu += j.CPUTimeSeconds.Or(0)
	for _, v := range [...]struct {
		to   *peak
		from record.Opt[float64]
	}{{&c.wall, j.WallTimeSeconds}, {&c.cores, j.Cores}, {&c.memory, record.Float(j.MemoryBytes)}, {&c.disk, record.Float(j.DiskBytes)}, {&c.processes, record.Float(j.MaxConcurrentProcesses)}} {
		if x, ok := v.from.Get(); ok {
			v.to.add(x, ms)
		}
	}
}

// jobRow tells of a job, or of those of one category.
type jobRow struct {
	Who, What, Class, End      string
	Wall, CPU, Cores, Memory   string
	Disk, Net, Processes, File string
	Limits                     []string
}

// jobTable is what the page says of jobs.
type jobTable struct {
	Text       string
	Jobs       []jobRow
	Categories []jobRow
	More       string
}

func (v *view) jobTable() *jobTable {
	s := &v.jobs
	running := v.stillRunning()
	if s.count+s.goneCount == 0 && len(running) == 0 {
		return nil
	}
	t := &jobTable{}
	if s.count > 0 {
		t.Text = fmt.Sprintf("%s ended: %s broke a limit, %s failed otherwise. ", plural(s.count, "job", "jobs"), number(s.broke), number(s.failed))
	}
	if s.goneCount > 0 {
		t.Text += fmt.Sprintf("Of %s there are readings, but how they ended was recorded elsewhere (rmagent exec --jsonl). ", plural(s.goneCount, "job", "jobs"))
	}
	if n := uint64(len(running)); n > 0 {
		t.Text += plural(n, "job", "jobs") + " ran at the end of the records."
	}
	for _, j := range running[:min(len(running), shownRunning)] {
		t.Jobs = append(t.Jobs, v.readRow(j, "runs"))
	}
	for _, j := range s.ended.list {
		t.Jobs = append(t.Jobs, v.jobRow(j))
	}
	for _, j := range s.gone.list {
		t.Jobs = append(t.Jobs, v.readRow(j, "last read at "+v.clock.format(j.last)))
	}
	if n := s.count + s.goneCount + uint64(len(running)) - uint64(len(t.Jobs)); n > 0 {
		t.More = plural(n, "job is", "jobs are") + " not listed: those that took less CPU time than others that ended alike."
	}
	t.Categories = v.categoryRows()
	return t
}

// stillRunning are the jobs that were read shortly before the end of the records, the
// one that has used most CPU time first. The others are gone.
func (v *view) stillRunning() (list []*readJob) {
	const recent = 5_000 // milliseconds
	for _, key := range slices.Sorted(maps.Keys(v.jobs.read)) {
		if j := v.jobs.read[key]; j.last >= v.last-recent {
			list = append(list, j)
		} else {
			v.jobs.gone.offer(j)
			v.jobs.goneCount++
		}
	}
	slices.SortStableFunc(list, func(a, b *readJob) int { return cmp.Compare(b.cpu.Or(0), a.cpu.Or(0)) })
	return list
}

func (v *view) readRow(j *readJob, end string) jobRow {
	row := jobRow{Who: human.Text(jobName(j.job)), What: human.Text(j.what), Class: "info", End: end,
		Wall: optional(j.elapsed, seconds), CPU: optional(j.cpu, seconds), Processes: optional(record.Float(j.processes), count)}
	if j.memory.known {
		row.Memory = human.Bytes(j.memory.value)
	}
	if j.fds.known {
		row.File = count(j.fds.value)
	}
	return row
}

// jobName is how a job is called that has no other name: by its first process.
func jobName(job string) string {
	if pid, _, ok := processOf(job); ok {
		return fmt.Sprintf("pid %d", pid)
	}
	return job
}

func (v *view) jobRow(j *endedJob) jobRow {
	row := jobRow{
		Who: fmt.Sprintf("pid %d", j.pid), What: human.Text(j.what), Class: "good", End: "ended well",
		Wall: optional(j.WallTimeSeconds, seconds), CPU: optional(j.CPUTimeSeconds, seconds), Cores: optional(j.Cores, count),
		Memory: optional(record.Float(j.MemoryBytes), human.Bytes), Disk: optional(record.Float(j.DiskBytes), human.Bytes),
		Processes: optional(record.Float(j.TotalProcesses), count), File: optional(record.Float(j.OpenFiles), count),
	}
	if j.command != "" {
		row.Who = fmt.Sprintf("%s (pid %d)", human.Text(j.command), j.pid)
	}
	received, ok1 := j.ReceivedBytes.Get()
	sent, ok2 := j.SentBytes.Get()
	if ok1 && ok2 {
		row.Net = human.Bytes(float64(received + sent))
	}
	if how := ending(j.status, j.signal, false); how != "" {
		row.Class, row.End = "warning", how
	}
	if len(j.limits) > 0 {
		row.Class, row.End = "critical", "broke a limit"
	}
	for i := range j.limits {
		l := &j.limits[i]
		row.Limits = append(row.Limits, fmt.Sprintf("%s %s > %s after %s", human.Text(clip(l.Resource, maxName)), inUnit(l.Value, l.Unit), inUnit(l.Limit, l.Unit), seconds(l.Seconds)))
	}
	if j.cause != "" {
		row.Limits = append(row.Limits, human.Text(j.cause))
	}
	row.End += " at " + v.clock.format(j.at)
	return row
}

// optional writes a value, nothing where it is unknown.
func optional(o record.Opt[float64], format func(float64) string) string {
	if v, ok := o.Get(); ok {
		return format(v)
	}
	return ""
}

// categoryRows are shown where there is more than one job of a category.
func (v *view) categoryRows() []jobRow {
	list := v.jobs.categories.all()
	if len(list) == 1 && list[0].name == "" || uint64(len(list)) == v.jobs.count {
		return nil
	}
	slices.SortStableFunc(list, func(a, b *jobCategory) int { return cmp.Compare(b.cpu, a.cpu) })
	var rows []jobRow
	for _, c := range list[:min(len(list), shownGroups)] {
		row := jobRow{Who: human.Text(cmp.Or(c.name, "without a category")), Processes: number(c.tally.count), CPU: seconds(c.cpu)}
		if c.tally.failed > 0 || c.tally.broke > 0 {
			row.End = fmt.Sprintf("%s broke a limit, %s failed", number(c.tally.broke), number(c.tally.failed))
		}
		for _, x := range [...]struct {
			to     *string
			from   peak
			format func(float64) string
		}{{&row.Wall, c.wall, seconds}, {&row.Cores, c.cores, count}, {&row.Memory, c.memory, human.Bytes}, {&row.Disk, c.disk, human.Bytes}, {&row.File, c.processes, count}} {
			if x.from.known {
				*x.to = x.format(x.from.value)
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func (v *view) jobFinding() []finding {
	switch s := &v.jobs; {
	case s.broke > 0:
		first := s.ended.list[0]
		name := cmp.Or(human.Text(first.what), human.Text(first.command), fmt.Sprintf("pid %d", first.pid))
		return []finding{{"warning", fmt.Sprintf("%s a limit, such as %s of %s.", plural(s.broke, "job broke", "jobs broke"),
			human.Text(clip(first.limits[0].Resource, maxName)), name), "jobs"}}
	case s.failed > 0:
		return []finding{{"info", plural(s.failed, "job", "jobs") + " failed.", "jobs"}}
	}
	return nil
}
