package aggregate

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"rmagent/internal/sample"
)

// A table that is told which processes are the same keeps what one keeps that compares all of
// them, while some move, end, begin, are looked at in between, or are absent.
func TestToldWhatIsTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	told, compares := NewTable(), NewTable()
	tables := []*Table{told, compares}
	known := sample.SetOf(sample.FDOpen, sample.CPU, sample.ExecID, sample.CgroupID)
	var last, now []sample.Process
	start, at, before, still := uint64(1), time.Duration(0), time.Duration(0), 0
	for range 500 {
		at += time.Duration(rng.IntN(2000)) * time.Millisecond
		last, now = now, slices.Clone(now)
		for i := range now {
			switch rng.IntN(40) {
			case 0:
				now[i].CPUNanos += 1e6
			case 1:
				now[i].FDOpen++
			case 2:
				now[i].ExecID++
			default:
				continue
			}
			now[i].Since = at
		}
		if len(now) > 0 && rng.IntN(4) == 0 {
			i := rng.IntN(len(now))
			now = slices.Delete(now, i, i+1)
		}
		for rng.IntN(3) == 0 || len(now) < 5 {
			start++
			now = append(now, sample.Process{ID: sample.ID{PID: int32(start), StartTicks: start}, Since: at, Known: known})
		}
		s := sample.Snapshot{Monotonic: at, Processes: now}
		if rng.IntN(10) == 0 {
			s.Missed = 1
		}
		compares.Update(&s)
		s.AsRead, s.Before = at, before
		for i := range now {
			s.Same = append(s.Same, i < len(last) && now[i] == last[i])
		}
		if before = at; rng.IntN(10) == 0 {
			s.AsRead = 0 // another has completed it
		}
		told.Update(&s)
		if told.Len() != compares.Len() {
			t.Fatalf("%d processes, not %d", told.Len(), compares.Len())
		}
		look := now[rng.IntN(len(now))].ID
		for i := range told.Len() {
			got, want := told.At(i), compares.At(i)
			if !reflect.DeepEqual(got, want) || told.ID(i) != want.ID || told.Moved(i) != want.Active {
				t.Fatalf("at %v:\n got %+v\nwant %+v", at, *got, *want)
			}
			if told.Still(i) {
				still++
				if got.Active || got.Renew || got.trend != nil {
					t.Fatalf("still: %+v", *got)
				}
			}
		}
		for _, table := range tables {
			for i := range table.Len() {
				if p := table.At(i); p.Renew {
					p.Identity = &sample.Identity{}
				}
			}
			if look.PID%3 == 0 {
				table.Find(look).ObserveFD(5, at)
			}
		}
	}
	if still < 1000 {
		t.Errorf("%d were found to be still", still)
	}
}
