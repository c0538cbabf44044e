package gpu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"rmagent/internal/gpu/wire"
	"rmagent/internal/sample"
	"rmagent/record"
)

func some(v uint64) sample.Opt[uint64] { return record.Some(v) }

func TestWhatNoCardHasIsUnknown(t *testing.T) {
	r := &wire.Reading{Version: wire.Version, GPUs: []wire.GPU{{
		UUID: strings.Repeat("x", 1000), UtilizationPercent: some(101), EncoderPercent: some(100), DecoderPercent: some(1 << 60),
		MemoryTotalBytes: some(10), MemoryUsedBytes: some(11), TemperatureCelsius: some(4_000_000_000), PowerMilliwatts: some(1 << 63),
		MIG: true, Instances: []wire.Instance{{MemoryTotalBytes: some(5), MemoryUsedBytes: some(6)}},
		Processes: []wire.Process{{0, 1, 1, 0}, {-7, 1, 1, 0}, {1 << 30, 1, 1, 0}, {7, 11, 200, -1}, {8, 10, -5, -9}},
		Complete:  true,
	}}}
	s, err := convert(r, true)
	if err != nil {
		t.Fatal(err)
	}
	d := s.Devices[0]
	if len(d.UUID) != wire.MaxText || d.Utilization.Known() || d.Encoder.Or(0) != 1 || d.Decoder.Known() || d.MemoryUsedBytes.Known() ||
		d.TemperatureCelsius.Known() || d.PowerWatts.Known() || d.Instances[0].MemoryUsedBytes.Known() {
		t.Errorf("%+v", d)
	}
	if d.Complete || len(d.Processes) != 2 || d.Processes[0].MemoryBytes.Known() || d.Processes[0].Utilization.Known() || d.Processes[1].MemoryBytes.Or(0) != 10 || d.Processes[1].Utilization.Known() || d.Processes[1].GPUInstanceID.Known() {
		t.Errorf("%+v", d.Processes)
	}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	if err := wire.Write(&b, wire.Request{Version: 3}); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	var r wire.Request
	if err := wire.Read(bytes.NewReader(whole), &r); err != nil || r.Version != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	for n := range whole {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if err := wire.Read(bytes.NewReader(whole[:n]), &r); !errors.Is(err, want) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	if err := wire.Write(&b, strings.Repeat("x", wire.MaxFrame)); !errors.Is(err, wire.ErrFrame) {
		t.Errorf("a frame too long to read was written: %v", err)
	}
}

// FuzzReading: whatever a child says, what comes of it is in bounds.
func FuzzReading(f *testing.F) {
	var b bytes.Buffer
	seed := &wire.Reading{Version: wire.Version, GPUs: []wire.GPU{{UUID: "GPU-1", UtilizationPercent: some(5), MIG: true,
		Instances: []wire.Instance{{UUID: "MIG-1"}}, Processes: []wire.Process{{1, 2, 3, 4}}, Complete: true}}}
	if err := wire.Write(&b, seed); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes()[4:])
	f.Add([]byte(`{"version":1,"gpus":[{"index":-1}]}`))
	f.Add([]byte(`{"version":1,"gpus":[{"utilization_percent":1e9,"memory_total_bytes":null}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
		var r wire.Reading
		if wire.Read(bytes.NewReader(frame), &r) != nil {
			return
		}
		failures(&r)
		s, err := convert(&r, true)
		if err != nil {
			return
		}
		if len(s.Devices) > wire.MaxGPUs {
			t.Fatalf("%d cards", len(s.Devices))
		}
		for i := range s.Devices {
			d := &s.Devices[i]
			for _, share := range []sample.Opt[float64]{d.Utilization, d.Encoder, d.Decoder} {
				if v, ok := share.Get(); ok && !(v >= 0 && v <= 1) {
					t.Errorf("a share of %v", v)
				}
			}
			if len(d.UUID) > wire.MaxText || len(d.Processes) > wire.MaxProcesses || len(d.Instances) > wire.MaxInstances {
				t.Errorf("%+v", d)
			}
			for _, p := range d.Processes {
				if p.PID <= 0 || p.PID > maxPID {
					t.Errorf("PID %d", p.PID)
				}
			}
		}
	})
}
