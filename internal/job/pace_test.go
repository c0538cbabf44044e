package job

import (
	"testing"
	"time"

	"rmagent/internal/cctools"
)

// reading is memory in MB at a time in seconds.
type reading struct{ seconds, memory float64 }

func TestPace(t *testing.T) {
	var limits cctools.Limits
	limits.Set(cctools.Memory, 200)
	for name, c := range map[string]struct {
		readings []reading
		took     time.Duration
		want     time.Duration
	}{
		"the first":                 {[]reading{{0.1, 190}}, 0, readEvery},
		"still":                     {[]reading{{0.1, 190}, {0.2, 190}}, 0, readEvery},
		"falling":                   {[]reading{{0.1, 190}, {0.2, 180}}, 0, readEvery},
		"far away":                  {[]reading{{0.1, 0}, {0.2, 10}}, 0, readEvery},
		"reached in 50 ms":          {[]reading{{0.1, 185}, {0.2, 195}}, 0, 50 * time.Millisecond},
		"reached in 1 ms":           {[]reading{{0.1, 100}, {0.2, 199}}, 0, readSoon},
		"broken":                    {[]reading{{0.1, 100}, {0.2, 300}}, 0, readEvery},
		"readings take long":        {[]reading{{0.1, 185}, {0.2, 195}}, 4 * time.Millisecond, 80 * time.Millisecond},
		"readings take very long":   {[]reading{{0.1, 185}, {0.2, 195}}, 40 * time.Millisecond, readEvery},
		"the same reading again":    {[]reading{{0.1, 185}, {0.2, 195}, {0.2, 195}}, 0, 50 * time.Millisecond},
		"slower than it was before": {[]reading{{0.1, 100}, {0.2, 190}, {0.3, 191}}, 0, readEvery},
	} {
		var p pacer
		var got time.Duration
		for _, r := range c.readings {
			var now cctools.Measures
			now.Set(cctools.WallTime, r.seconds)
			now.Set(cctools.Memory, r.memory)
			now.Set(cctools.CPUTime, 100*r.seconds) // nobody limits it
			got = p.next(&limits, &now, c.took)
		}
		if got.Round(time.Millisecond) != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestPaceOfARamp asks how long after its limit a ramp of 73 MB a second is seen,
// whenever the readings begin.
func TestPaceOfARamp(t *testing.T) {
	var limits cctools.Limits
	limits.Set(cctools.Memory, 100)
	for first := 0.0; first < 0.1; first += 0.003 {
		var p pacer
		at := first
		for at*73 <= 100 {
			var now cctools.Measures
			now.Set(cctools.WallTime, at)
			now.Set(cctools.Memory, at*73)
			at += p.next(&limits, &now, 100*time.Microsecond).Seconds()
		}
		if late := at - 100.0/73; late > readSoon.Seconds() {
			t.Errorf("readings from %.3f s: seen %.3f s late", first, late)
		}
	}
}
