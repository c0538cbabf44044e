package report

import (
	"testing"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

func TestLook(t *testing.T) {
	procs := []sample.Process{
		{ID: sample.ID{PID: 1}, Comm: sample.MakeComm([]byte("init")), Known: sample.AllFields, RSSAnonBytes: 3 << 20, FDOpen: 10, FDLimit: 1000},
		{ID: sample.ID{PID: 2}, Comm: sample.MakeComm([]byte("burn")), Known: sample.AllFields, FDOpen: 90, FDLimit: 100},
		{ID: sample.ID{PID: 3}, Comm: sample.MakeComm([]byte("unknown"))},
	}
	table := aggregate.NewTable()
	table.Update(&sample.Snapshot{Monotonic: time.Second, Processes: procs})
	procs[1].CPUNanos = 15e8
	table.Update(&sample.Snapshot{Monotonic: 2 * time.Second, Processes: procs})
	h := &aggregate.Host{CPURatio: record.Some(0.754), DiskRead: record.Some(2048.0), DiskWritten: record.Some(0.0)}
	h.CPUCount, h.MemoryTotalBytes, h.MemoryAvailableBytes = record.Some(uint64(2)), record.Some(uint64(4<<30)), record.Some(uint64(1<<30))
	gpus := &aggregate.GPUs{Devices: []sample.GPU{
		{Index: 0, Utilization: record.Some(0.1), MemoryTotalBytes: record.Some(uint64(8 << 30)), MemoryUsedBytes: record.Some(uint64(6 << 30))},
		{Index: 1, Utilization: record.Some(0.97)},
	}}
	want := Overview{
		GPU: "97% of GPU 1, memory 6.0 GiB of 8.0 GiB (75%) of GPU 0",
		CPU: "75% of 2", Memory: "3.0 GiB of 4.0 GiB (75%)", Disk: "2.0 KiB/s in, 0 B/s out", Processes: 3,
		Busiest: "burn (pid 2) 1.50 cores", Largest: "init (pid 1) 3.0 MiB", NearestFDLimit: "burn (pid 2) 90/100 (90%)",
	}
	if got := builder().Look(h, table, gpus); got != want {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	empty := aggregate.NewTable()
	empty.Update(&sample.Snapshot{})
	if got := builder().Look(&aggregate.Host{}, empty, &aggregate.GPUs{}); got != (Overview{}) {
		t.Errorf("of nothing it says %+v", got)
	}
}
