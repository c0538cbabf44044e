package report

import (
	"maps"
	"slices"
	"testing"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

// Who holds a card is told by identity, not by a PID that another has since.
func TestProcessesOfAGPU(t *testing.T) {
	devices := []sample.GPU{
		{Complete: true, Processes: []sample.GPUProcess{
			{PID: 10, MemoryBytes: record.Some(uint64(7)), Utilization: record.Some(0.5)}, {PID: 11}, {PID: 12},
		}},
		{Complete: true},
		{Processes: []sample.GPUProcess{{PID: 10}}},
	}
	table := aggregate.NewTable()
	s := sample.Snapshot{}
	for pid, start := range map[int32]uint64{10: 99, 11: 100} {
		s.Processes = append(s.Processes, sample.Process{ID: sample.ID{PID: pid, StartTicks: start}, Comm: sample.MakeComm([]byte("train\xff"))})
	}
	table.Update(&s)
	var gpus aggregate.GPUs
	gpus.Update(&sample.GPUs{ListedTicks: 100, Devices: devices}, 0, time.Second)
	gpus.Meet(table)
	b := builder()
	var r record.GPU
	b.GPU(&r, &devices[0], &gpus)
	want := []record.GPUProcess{
		{PID: 10, StartTicks: record.Some(uint64(99)), Comm: record.Some(`train\xff`), MemoryBytes: record.Some(uint64(7)), UtilizationRatio: record.Some(0.5)},
		{PID: 11}, // began after the card was read
		{PID: 12}, // is no more
	}
	if !slices.Equal(r.Processes, want) {
		t.Errorf("%+v", r.Processes)
	}
	b.GPU(&r, &devices[1], &gpus)
	if r.Processes == nil || len(r.Processes) != 0 {
		t.Errorf("of a card that nobody holds: %v", r.Processes)
	}
	b.GPU(&r, &devices[2], &gpus)
	if r.Processes != nil {
		t.Errorf("of a card that doesn't tell of all: %v", r.Processes)
	}
}

func TestGPU(t *testing.T) {
	b := builder()
	d := sample.GPU{
		Index: 3, UUID: "GPU-1", Name: "A100\xff", Utilization: record.Some(0.5), MemoryTotalBytes: record.Some(uint64(10)),
		MemoryUsedBytes: record.Some(uint64(4)), TemperatureCelsius: record.Some(60.0), PowerWatts: record.Some(99.5),
		Encoder: record.Some(0.1), Decoder: record.Some(0.2),
		Instances: []sample.GPUInstance{{UUID: "MIG-1", GPUInstanceID: record.Some(uint64(7)), ComputeID: record.Some(uint64(1)), MemoryUsedBytes: record.Some(uint64(2))}},
	}
	var r record.GPU
	b.GPU(&r, &d, &aggregate.GPUs{Age: 1500 * time.Millisecond})
	null, known := nulls(t, &r)
	if !slices.Equal(slices.Collect(maps.Keys(null)), []string{"processes"}) || len(known) != 6+12 {
		t.Errorf("null: %v; known: %v", null, known)
	}
	if r.Name.Or("") != `A100\xff` || r.AgeSeconds.Or(0) != 1.5 || r.PowerWatts.Or(0) != 99.5 || r.DecoderRatio.Or(0) != 0.2 ||
		r.MIGInstances[0].GPUInstanceID.Or(0) != 7 || r.MIGInstances[0].ComputeInstanceID.Or(0) != 1 || r.MIGInstances[0].Name.Known() {
		t.Errorf("%+v", r)
	}
	unread := d.Unread()
	b.GPU(&r, &unread, &aggregate.GPUs{Age: time.Hour})
	null, known = nulls(t, &r)
	if len(known) != 6+4 || r.MIGInstances[0].UUID.Or("") != "MIG-1" || r.MIGInstances[0].MemoryUsedBytes.Known() || r.Index != 3 || r.UUID.Or("") != "GPU-1" {
		t.Errorf("of a card that is not read: null: %v; known: %v", null, known)
	}
}
