package loader

import "time"

// runCosts is what one run of a hot program costs, as measured on Linux 6.18
// (amd64): see docs/events.md.
var runCosts = map[string]time.Duration{
	"send":    100,
	"receive": 100,
	"fds":     100,
}

// exitCost is what the hook exits costs for one process, from fork to the record.
const exitCost = 3900 * time.Nanosecond

// Cost estimates the CPU time that the hot hooks took from everybody since they
// were attached: how often each ran, times what a run was measured to cost.
func (e *Events) Cost() time.Duration {
	runs, err := e.Runs()
	if err != nil {
		return 0
	}
	total := time.Duration(e.counts.Exits.Seen) * exitCost
	for name, n := range runs {
		total += time.Duration(n) * runCosts[name]
	}
	return total
}
