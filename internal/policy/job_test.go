package policy

import (
	"strings"
	"testing"

	"rmagent/record"
)

// render is a job with so many MB and CPUs in use.
func render(name string, mb uint64, cores float64) record.JobReading {
	return record.JobReading{Job: name, Category: some("render"), MemoryBytes: some(mb << 20), CPUCores: some(cores)}
}

// A rule of the configuration sets limits to each job of a category.
func TestLimitsOfJobs(t *testing.T) {
	w := newWorld(withoutStates, func(c *Config) {
		c.Prune = Prune{ObservationPeriod: c.Prune.ObservationPeriod, CheckInterval: c.Prune.CheckInterval, Samples: 10, Target: 0.9, Candidates: 5}
		c.Tracked = []Rule{
			{Label: "films", Job: "rend*", Limits: Limits{MemoryBytes: 100 << 20, CPUPercent: 200}, Prune: true, Actions: []string{"say"}},
			{Selector: Selector{Name: "*"}, Limits: Limits{FDs: 10000}},
		}
	})
	big := record.ProcessFacts{PID: 5, StartTicks: 2, PPID: some(int32(1)), Comm: "big", Exe: some("/bin/big"), RSSAnonBytes: some(uint64(110 << 20))}
	other := big
	other.PID = 6
	job := func(mb uint64, cores float64) facts {
		j := render("pid:5@2", mb, cores)
		j.Members = []record.JobMember{{PID: 5, StartTicks: 2}}
		build := render("pid:9@9", 500, 9)
		build.Category = some("build")
		return facts{jobs: []record.JobReading{j, build}, processes: []record.ProcessFacts{other, big}}
	}
	equal(t, "below", w.judge(job(99, 2)))
	equal(t, "at the limit", w.judge(job(100, 2)))
	changes := w.changes(job(120, 2))
	equal(t, "above", words(changes), "memory job:pid:5@2 normal>critical")
	c := changes[0]
	if c.Rule != "films" || len(c.Actions) != 1 || !c.Tracked || c.Process.PID != 0 {
		t.Errorf("%+v", c)
	}
	if c.State.Message != "Job pid:5@2 (render) exceeded memory limit: 120.00 MB > 100.00 MB" ||
		c.State.Advice != "It is tracked as films; the limit is the configuration's. Its processes are the members in its records." {
		t.Errorf("message %q, advice %q", c.State.Message, c.State.Advice)
	}
	var got []string
	for range 12 {
		changes := w.changes(job(120, 2))
		got = append(got, words(changes)...)
		for _, c := range changes {
			if c.Prune != nil && !strings.HasPrefix(c.Prune.Candidates[0].Why, "92% of the memory of job:pid:5@2") {
				t.Errorf("why: %s", c.Prune.Candidates[0].Why)
			}
		}
	}
	equal(t, "too long", got, "prune memory job:pid:5@2: 5")
	equal(t, "its end", w.judge(facts{processes: []record.ProcessFacts{other, big}}), "memory job:pid:5@2 critical>normal", "no prune")
	if n := len(w.engine.jobs); n != 0 {
		t.Errorf("%d jobs are remembered", n)
	}
	for key := range w.engine.gauges {
		if key.target.kind == kindJob {
			t.Errorf("%v is remembered", key)
		}
	}
}

// A job that is not in a reading of which records were lost may be there; a rule that is
// no longer in force takes what it decided with it.
func TestJobsAndWhatIsMissing(t *testing.T) {
	rule := Rule{Job: "render", Limits: Limits{MemoryBytes: 100 << 20}}
	w := newWorld(withoutStates, func(c *Config) { c.Tracked = []Rule{rule} })
	much, little := facts{jobs: []record.JobReading{render("pid:5@2", 120, 1)}}, facts{jobs: []record.JobReading{render("pid:5@2", 10, 1)}}
	equal(t, "above", w.judge(much), "memory job:pid:5@2 normal>critical")

	w.second++
	h := record.Host{Header: record.Header{Time: start}, MonotonicSeconds: some(w.second)}
	w.engine.Begin(&h, true)
	w.engine.Incomplete()
	equal(t, "a reading with losses", words(w.engine.End()))
	equal(t, "still above", w.judge(much))

	unknown := render("pid:5@2", 0, 1)
	unknown.MemoryBytes = record.Opt[uint64]{}
	for range 20 {
		equal(t, "unknown", w.judge(facts{jobs: []record.JobReading{unknown}}))
	}
	for range 10 {
		equal(t, "held", w.judge(little))
	}
	equal(t, "below", w.judge(little), "memory job:pid:5@2 critical>normal")
	equal(t, "above again", w.judge(much), "memory job:pid:5@2 normal>critical")
	c := w.engine.Config()
	c.Tracked = nil
	w.engine.Configure(c)
	if n := len(w.engine.gauges); n != 0 {
		t.Errorf("%d gauges are left of a rule that is gone", n)
	}
	equal(t, "without the rule", w.judge(little), "memory job:pid:5@2 critical>normal")
	equal(t, "once", w.judge(little))
}

// What the agent does not count of a job has no state, and a limit of 0 no share.
func TestLimitsThatAreNotJudged(t *testing.T) {
	w := newWorld()
	j := render("pid:5@2", 120, 1)
	j.Limits = []record.JobAllowance{{Resource: "disk", Limit: 1}, {Resource: "wall_time", Limit: 1}, {Resource: "memory", Limit: 0}, {Resource: "no_such", Limit: 1}}
	equal(t, "nothing", w.judge(facts{jobs: []record.JobReading{j}}))
	if len(w.engine.gauges) != 0 {
		t.Errorf("%d gauges", len(w.engine.gauges))
	}
}
