package main

import (
	"testing"

	"rmagent/internal/config"
	"rmagent/internal/sample"
)

func TestLimitsAreNotInherited(t *testing.T) {
	before := config.Tracked{PID: 7, StartTicks: 100, MaxFD: 3}
	if t1 := ruleOf(sample.ID{PID: 7, StartTicks: 100}, before); t1.MaxFD != 3 {
		t.Errorf("the process lost its limit: %+v", t1)
	}
	if t2 := ruleOf(sample.ID{PID: 7, StartTicks: 101}, before); t2.MaxFD != 0 || t2.StartTicks != 101 || t2.PID != 7 {
		t.Errorf("the next process of PID 7 has %+v", t2)
	}
}

// A rule of one process says so to the policy.
func TestATrackedProcessIsOne(t *testing.T) {
	c := config.Config{Tracked: []config.Tracked{{Label: "x", PID: 7, StartTicks: 5, MaxFD: 1}}}
	if got := c.Policy(1).Tracked[0].Selector.ID; got != (sample.ID{PID: 7, StartTicks: 5}) {
		t.Errorf("the policy is told of %+v", got)
	}
}
