package loader

import "time"

// runCosts is what one run of a hot program costs, as measured on Linux 6.18
// (amd64): see docs/benchmarks.md.
var runCosts = map[string]time.Duration{
	"send":    66,
	"receive": 66,
	"faults":  94,
	"switch":  190,
	"fds":     75,
}

// Cost estimates the CPU time that the hot hooks took from everybody since they
// were attached: how often each ran, times what a run was measured to cost.
func (e *Events) Cost() time.Duration {
	runs, err := e.Runs()
	if err != nil {
		return 0
	}
	var total time.Duration
	for name, n := range runs {
		total += time.Duration(n) * runCosts[name]
	}
	return total
}
