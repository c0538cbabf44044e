package job

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"rmagent/internal/cctools"
	"rmagent/internal/loader"
)

func TestTry(t *testing.T) {
	for _, args := range [][]string{{"/bin/true"}, {"/bin/true"}, {"sh", "-c", "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done"}} {
		begin := time.Now()
		tr, err := OpenKernel(loader.JobOrder{})
		if err != nil {
			t.Fatal(err)
		}
		open := time.Since(begin)
		r, err := Run(context.Background(), Options{Cmd: exec.Command(args[0], args[1:]...), Tracker: tr})
		if err != nil {
			t.Fatal(err)
		}
		ran := time.Since(begin) - open
		tr.Close()
		all := time.Since(begin)
		var s cctools.Summary
		r.Meter.Summarize(&s, tr.Exactness)
		t.Log(args, open, ran, all, r.State, r.State.UserTime()+r.State.SystemTime())
		for id := range cctools.Measure(cctools.NumMeasures) {
			if v, ok := s.Measures.Get(id); ok {
				at, _ := s.PeakTimes.Get(id)
				t.Log(id, v, id.Unit(), s.Exactness[id], s.Why[id], at)
			}
		}
	}
}
