package hostfs

import "testing"

func TestDeviceSums(t *testing.T) {
	s := deviceSums{devices: map[string]*device{}}
	round := func(devices map[string][2]uint64) {
		s.round++
		changed := false
		for name, counts := range devices {
			changed = s.update([]byte(name), counts) || changed
		}
		s.sweep()
		if changed {
			s.decide(func(name string) bool { return name != "lo" })
		}
	}
	for _, step := range []struct {
		why     string
		devices map[string][2]uint64
		want    [2]uint64
	}{
		{"first: since boot", map[string][2]uint64{"a": {100, 10}, "lo": {7, 7}}, [2]uint64{100, 10}},
		{"growth", map[string][2]uint64{"a": {150, 15}, "lo": {9, 9}}, [2]uint64{150, 15}},
		{"a new one counts from now", map[string][2]uint64{"a": {150, 15}, "b": {5000, 5000}}, [2]uint64{150, 15}},
		{"both grow", map[string][2]uint64{"a": {151, 16}, "b": {5002, 5003}}, [2]uint64{153, 19}},
		{"one leaves", map[string][2]uint64{"b": {5002, 5003}}, [2]uint64{153, 19}},
		{"it comes back from zero", map[string][2]uint64{"a": {1, 1}, "b": {5002, 5003}}, [2]uint64{153, 19}},
		{"and grows", map[string][2]uint64{"a": {3, 1}, "b": {5002, 5003}}, [2]uint64{155, 19}},
		{"it was replaced between two readings", map[string][2]uint64{"a": {2, 0}, "b": {5002, 5003}}, [2]uint64{157, 19}},
	} {
		round(step.devices)
		if s.sums != step.want {
			t.Fatalf("%s: %v, want %v", step.why, s.sums, step.want)
		}
	}
}
