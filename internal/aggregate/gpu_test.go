package aggregate

import (
	"testing"
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

var (
	noBytes sample.Opt[uint64]
	noShare sample.Opt[float64]
)

func process(pid int32, start uint64) sample.ID { return sample.ID{PID: pid, StartTicks: start} }

func holds(pid int32, bytes uint64, use float64) sample.GPUProcess {
	return sample.GPUProcess{PID: pid, MemoryBytes: record.Some(bytes), Utilization: record.Some(use)}
}

func card(index int, use float64, used uint64, holders ...sample.GPUProcess) sample.GPU {
	return sample.GPU{
		Index: index, UUID: "GPU-" + string(rune('a'+index)), Utilization: record.Some(use),
		MemoryTotalBytes: record.Some(uint64(1000)), MemoryUsedBytes: record.Some(used), Processes: holders, Complete: true,
	}
}

func TestProcessesOfGPUs(t *testing.T) {
	unmeasured := sample.GPUProcess{PID: 3}
	var g GPUs
	g.Update(&sample.GPUs{Monotonic: time.Second, ListedTicks: 500, Devices: []sample.GPU{
		card(0, 0, 0, holds(1, 10, 0.2), holds(2, 20, 0.9), unmeasured),
		card(1, 0, 0, holds(1, 5, 0.7), holds(3, 7, 0.1)),
	}}, time.Second, time.Second)
	for _, tt := range []struct {
		what   string
		id     sample.ID
		memory sample.Opt[uint64]
		use    sample.Opt[float64]
	}{
		{"two cards: the sum, and the card that it uses most", process(1, 100), record.Some(uint64(15)), record.Some(0.7)},
		{"one card", process(2, 100), record.Some(uint64(20)), record.Some(0.9)},
		{"unknown on one of two", process(3, 100), noBytes, noShare},
		{"on no card", process(4, 499), record.Some(uint64(0)), record.Some(0.0)},
		{"began after the lists were made", process(4, 500), noBytes, noShare},
		{"the next of the same PID", process(1, 500), noBytes, noShare},
	} {
		if memory, use := g.Process(tt.id); memory != tt.memory || use != tt.use {
			t.Errorf("%s: %v bytes, share %v; want %v, %v", tt.what, memory, use, tt.memory, tt.use)
		}
	}
}

func TestProcessesAreUnknownWhereACardIsSilent(t *testing.T) {
	silent := card(1, 0, 0)
	silent.Complete = false
	var g GPUs
	g.Update(&sample.GPUs{ListedTicks: 500, Devices: []sample.GPU{card(0, 0, 0, holds(1, 10, 0.2)), silent}}, 0, time.Second)
	for _, id := range []sample.ID{process(1, 100), process(2, 100)} {
		if memory, use := g.Process(id); memory.Known() || use.Known() {
			t.Errorf("%v: %v, %v", id, memory, use)
		}
	}
	g.Update(nil, time.Second, time.Second)
	if memory, use := g.Process(process(2, 100)); memory.Known() || use.Known() {
		t.Errorf("without a card: %v, %v", memory, use)
	}
}

func TestAnOldReadingOnlyNamesTheCards(t *testing.T) {
	r := &sample.GPUs{Monotonic: 10 * time.Second, ListedTicks: 500, Devices: []sample.GPU{card(0, 0.5, 10, holds(1, 10, 0.2))}}
	var g GPUs
	g.Update(r, 13*time.Second, 3*time.Second)
	if g.Age != 3*time.Second || !g.Current || !g.Devices[0].Utilization.Known() {
		t.Errorf("not too old: %+v", g)
	}
	g.Update(r, 14*time.Second, 3*time.Second)
	if g.Current || len(g.Devices) != 1 || g.Devices[0].UUID != "GPU-a" || g.Devices[0].Utilization.Known() || g.Devices[0].MemoryUsedBytes.Known() {
		t.Errorf("too old: %+v", g)
	}
	if memory, _ := g.Process(process(1, 100)); memory.Known() {
		t.Error("too old, but a process holds something")
	}
	next := *r
	next.Monotonic = 14 * time.Second
	g.Update(&next, 15*time.Second, 3*time.Second)
	if memory, _ := g.Process(process(1, 100)); !g.Current || memory.Or(0) != 10 {
		t.Errorf("read again: %+v", g)
	}
}

// The host's figure is the fullest card's: an average over eight would be 12 %.
func TestFullest(t *testing.T) {
	var devices []sample.GPU
	for i := range 8 {
		devices = append(devices, card(i, 0, 0))
	}
	devices[3] = card(3, 0.98, 500)
	devices[6] = card(6, 0.5, 990)
	devices[7] = sample.GPU{Index: 7}
	var g GPUs
	g.Update(&sample.GPUs{Devices: devices}, 0, time.Second)
	busiest, fullest := g.Fullest()
	if busiest.Index != 3 || fullest.Index != 6 || MemoryShare(fullest).Or(0) != 0.99 {
		t.Errorf("busiest %+v, fullest %+v", busiest, fullest)
	}
	g.Update(&sample.GPUs{Devices: devices[7:]}, 0, time.Second)
	if busiest, fullest = g.Fullest(); busiest != nil || fullest != nil {
		t.Errorf("nothing is known, but busiest %+v, fullest %+v", busiest, fullest)
	}
}
