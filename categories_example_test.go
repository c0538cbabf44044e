package rmagent_test

import (
	"fmt"
	"strings"

	"rmagent"
)

// How much memory to give the next job of a kind, from the summaries of those before.
func ExampleCategories() {
	categories := rmagent.NewCategories()
	var summaries strings.Builder
	for i := range 60 {
		memory := 300 // MB
		if i%5 == 0 {
			memory = 3000
		}
		fmt.Fprintf(&summaries, `{"category":"render","exit_type":"normal","wall_time":[60,"s"],"cores":[1,"cores"],"memory":[%d,"MB"]}`+"\n", memory)
	}
	n, err := categories.Read("jobs.summaries", strings.NewReader(summaries.String()))
	if err != nil {
		fmt.Println(err)
		return
	}
	most, _ := categories.MaximumSeen("render")
	first, _ := categories.FirstAllocation("render", rmagent.AllocateThroughput)
	fmt.Println(n, "jobs; most seen:", most.MemoryMB.Or(0), "MB; at first:", first.MemoryMB.Or(0), "MB; disk known:", first.DiskMB.Known())

	for _, mb := range []float64{first.MemoryMB.Or(0), most.MemoryMB.Or(0)} {
		cost, _ := categories.Cost("render", rmagent.JobMemory, mb)
		fmt.Printf("%.0f MB: %d of %d run again, %.0f %% wasted, %.1f jobs a minute\n",
			mb, cost.Retries, cost.Jobs, cost.WastePercent.Or(0), 60*cost.JobsPerSecond.Or(0))
	}
	// Output:
	// 60 jobs; most seen: 3000 MB; at first: 500 MB; disk known: false
	// 500 MB: 12 of 60 run again, 24 % wasted, 4.2 jobs a minute
	// 3000 MB: 0 of 60 run again, 72 % wasted, 1.0 jobs a minute
}
