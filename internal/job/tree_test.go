package job

import (
	"testing"

	"rmagent/internal/sample"
)

// What a family shares counts once where each tells its part. One that does not tell,
// having ended in between, is counted neither with its part nor with all: what it shared
// is the others' now.
func TestProportional(t *testing.T) {
	const mib = 1 << 20
	parent := sample.JobProcess{ID: sample.ID{PID: 1}, Memory: true, Family: true, Space: 1, File: mib, Anon: 80 * mib}
	child := sample.JobProcess{ID: sample.ID{PID: 2}, Memory: true, Family: true, Forked: true, Space: 2, File: mib, Anon: 80 * mib}
	other := sample.JobProcess{ID: sample.ID{PID: 3}, Memory: true, Space: 3, Anon: 5 * mib}
	family := []sample.JobProcess{parent, child, other}
	tells := func(pids ...int32) Sharer {
		return func(pid int32) (Shares, bool) {
			for _, p := range pids {
				if p == pid {
					return Shares{Anon: 60 * mib}, true // 40 its own, and half of 40
				}
			}
			return Shares{}, false
		}
	}
	s := newSummer()
	if memory, ok := s.proportional(family, tells(1, 2)); !ok || memory != 127*mib {
		t.Errorf("%d MiB, %v", memory/mib, ok)
	}
	if memory, ok := s.proportional(family, tells(1)); ok {
		t.Errorf("without the child's part: %d MiB", memory/mib)
	}
	calls := uint64(0)
	restless := func(pid int32) (Shares, bool) {
		calls++
		return Shares{Anon: (50 + calls) * mib}, true
	}
	if memory, ok := s.proportional(family, restless); ok {
		t.Errorf("while it changes: %d MiB", memory/mib)
	}
	if memory := s.least(family); memory != (2+5+80)*mib {
		t.Errorf("at least %d MiB", memory/mib)
	}
}
