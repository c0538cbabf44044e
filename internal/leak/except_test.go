package leak

import (
	"testing"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
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
