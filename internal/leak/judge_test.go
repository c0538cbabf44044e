package leak

import (
	"testing"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// TestNobodySuspectsWhoIsExcepted has two processes open ever more descriptors; one of
// them is the agent.
func TestNobodySuspectsWhoIsExcepted(t *testing.T) {
	agent, other := sample.ID{PID: 41, StartTicks: 7}, sample.ID{PID: 42, StartTicks: 7}
	table, judge := aggregate.NewTable(), NewJudge()
	judge.Except(agent.PID)
	verdicts := map[sample.ID]int{}
	for second := range 30 {
		s := sample.Snapshot{Monotonic: time.Duration(second+1) * time.Second}
		for _, id := range []sample.ID{agent, other} {
			s.Processes = append(s.Processes, sample.Process{
				ID: id, FDOpen: uint64(10 + 9*second), FDLimit: 300, Known: sample.SetOf(sample.FDOpen, sample.FDLimit),
			})
		}
		table.Update(&s)
		judge.Observe(table)
		for _, c := range judge.Changes() {
			verdicts[c.ID]++
		}
		for _, id := range judge.Watch(nil) {
			if id == agent {
				t.Fatalf("the agent is watched after %d s", second)
			}
		}
	}
	if verdicts[agent] != 0 || verdicts[other] == 0 {
		t.Errorf("verdicts on the agent: %d, on the other: %d", verdicts[agent], verdicts[other])
	}
}

// TestWhoHasEndedLeaksNoMore: growth is over with the process, whether its parent has seen
// that or not, and not with its first thread.
func TestWhoHasEndedLeaksNoMore(t *testing.T) {
	id := sample.ID{PID: 42, StartTicks: 7}
	table, judge := aggregate.NewTable(), NewJudge()
	var last []Change
	observe := func(second int, state byte, open uint64) {
		table.Update(&sample.Snapshot{Monotonic: time.Duration(second) * time.Second, Processes: []sample.Process{{
			ID: id, State: state, FDOpen: open, FDLimit: 300, Known: sample.SetOf(sample.FDOpen, sample.FDLimit),
		}}})
		judge.Observe(table)
		last = judge.Changes()
	}
	for second := 1; second <= 20; second++ {
		observe(second, 'S', uint64(9*second))
	}
	observe(21, 'Z', 189)
	if len(last) > 0 {
		t.Errorf("its first thread has ended, and it is %s", last[0].Verdict)
	}
	observe(22, 'Z', 0)
	if len(last) != 1 || last[0].Verdict != record.VerdictOver || last[0].Open != record.Some[uint64](189) {
		t.Errorf("it has ended: %+v", last)
	}
	observe(23, 'Z', 0)
	if len(last) > 0 {
		t.Errorf("once more: %+v", last)
	}
}
