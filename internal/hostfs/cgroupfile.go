package hostfs

import (
	"rmagent/internal/hostfs/kfile"
	"rmagent/internal/sample"
)

// unlimitedV1 is the least that version 1 prints for no limit: LONG_MAX rounded
// down to the page size, which is 64 KiB at most (PAGE_COUNTER_MAX in
// include/linux/page_counter.h).
const unlimitedV1 = 1<<63 - 1<<16

// parseLimit reads a limit: a number, or "max".
func parseLimit(b []byte) sample.Limit {
	word, _ := kfile.Word(b)
	if string(word) == "max" {
		return sample.Limit{Value: some(uint64(sample.Unlimited))}
	}
	v, ok := kfile.Uint(word)
	if v >= unlimitedV1 {
		v = sample.Unlimited
	}
	return sample.Limit{Value: someIf(v, ok)}
}

// parseKeyed finds the number of a line "key number".
func parseKeyed(b []byte, key string) sample.Opt[uint64] {
	for len(b) > 0 {
		var line []byte
		line, b = kfile.Line(b)
		if word, rest := kfile.Word(line); string(word) == key {
			v, _, ok := kfile.NextUint(rest)
			return someIf(v, ok)
		}
	}
	return sample.Opt[uint64]{}
}

// parseCPUMax reads cpu.max, "quota period" in microseconds, as cores; unknown
// where the quota is "max".
func parseCPUMax(b []byte) sample.Opt[float64] {
	quota, b, okQuota := kfile.NextUint(b)
	period, _, okPeriod := kfile.NextUint(b)
	return cores(quota, period, okQuota && okPeriod)
}

func cores(quota, period uint64, ok bool) sample.Opt[float64] {
	if !ok || period == 0 {
		return sample.Opt[float64]{}
	}
	return some(float64(quota) / float64(period))
}

// microseconds returns o in nanoseconds.
func microseconds(o sample.Opt[uint64]) sample.Opt[uint64] {
	v, ok := o.Get()
	return someIf(v*1000, ok && v < 1<<54)
}
