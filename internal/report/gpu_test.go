package report

import (
	"testing"
	"time"

	"rmagent/internal/sample"
	"rmagent/record"
)

func TestGPU(t *testing.T) {
	b := builder()
	d := sample.GPU{
		Index: 3, UUID: "GPU-1", Name: "A100\xff", Utilization: record.Some(0.5), MemoryTotalBytes: record.Some(uint64(10)),
		MemoryUsedBytes: record.Some(uint64(4)), TemperatureCelsius: record.Some(60.0), PowerWatts: record.Some(99.5),
		Encoder: record.Some(0.1), Decoder: record.Some(0.2),
		Instances: []sample.GPUInstance{{UUID: "MIG-1", GPUInstanceID: record.Some(uint64(7)), ComputeID: record.Some(uint64(1)), MemoryUsedBytes: record.Some(uint64(2))}},
	}
	var r record.GPU
	b.GPU(&r, &d, 1500*time.Millisecond)
	null, known := nulls(t, &r)
	if len(null) != 0 || len(known) != 6+12 {
		t.Errorf("null: %v; known: %v", null, known)
	}
	if r.Name.Or("") != `A100\xff` || r.AgeSeconds.Or(0) != 1.5 || r.PowerWatts.Or(0) != 99.5 || r.DecoderRatio.Or(0) != 0.2 ||
		r.MIGInstances[0].GPUInstanceID.Or(0) != 7 || r.MIGInstances[0].ComputeInstanceID.Or(0) != 1 || r.MIGInstances[0].Name.Known() {
		t.Errorf("%+v", r)
	}
	unread := d.Unread()
	b.GPU(&r, &unread, time.Hour)
	null, known = nulls(t, &r)
	if len(known) != 6+4 || r.MIGInstances[0].UUID.Or("") != "MIG-1" || r.MIGInstances[0].MemoryUsedBytes.Known() || r.Index != 3 || r.UUID.Or("") != "GPU-1" {
		t.Errorf("of a card that is not read: null: %v; known: %v", null, known)
	}
}
