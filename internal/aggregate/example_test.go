package aggregate_test

import (
	"fmt"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/policy"
	"rmagent/internal/report"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Two ticks: compare, name who is new, report, judge.
func Example() {
	table := aggregate.NewTable()
	engine := policy.New(policy.Default())
	builder := report.NewBuilder(record.SourceEBPF)
	var r record.Process
	for second := range 2 {
		now := time.Duration(second+1) * time.Second
		table.Update(&sample.Snapshot{Monotonic: now, Processes: []sample.Process{{
			ID: sample.ID{PID: 7, StartTicks: 42}, Comm: sample.MakeComm([]byte("nginx")),
			Known:    sample.AllFields,
			CPUNanos: uint64(second) * 250e6,
			FDOpen:   700 + 150*uint64(second), FDLimit: 1000, FDHardLimit: 1000,
		}}})
		for i := range table.Len() {
			if p := table.At(i); p.Renew {
				p.Identity = &sample.Identity{Exe: "/usr/sbin/nginx"} // read from /proc
			}
		}
		builder.Now = now
		builder.Process(&r, table.At(0), nil)
		engine.Begin(&record.Host{MonotonicSeconds: record.Some(now.Seconds())}, true)
		engine.Process(&r.ProcessFacts)
		for _, c := range engine.End() {
			fmt.Println(c.State.State, c.State.Message)
		}
		cores, known := r.CPUCores.Get()
		fmt.Println(r.Exe.Or("?"), cores, known)
	}
	// Output:
	// info High FD usage: 700/1000 (70%) in nginx (pid 7)
	// /usr/sbin/nginx 0 false
	// warning High FD usage: 850/1000 (85%) in nginx (pid 7)
	// /usr/sbin/nginx 0.25 true
}
