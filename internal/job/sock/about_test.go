package sock

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"rmagent/internal/cctools"
	"rmagent/internal/hostfs"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
)

// The agent knows of a job what its client says, and what the kernel says.
func TestTheAgentKnowsItsJobs(t *testing.T) {
	path, s := server(t)
	if jobs, err := s.Jobs(nil); err != nil || len(jobs) != 0 {
		t.Errorf("%v, %v", jobs, err)
	}
	a := About{Category: strings.Repeat("x", 2*maxWord), TaskID: "7"}
	a.Limits.Set(cctools.Memory, 200)
	tracker, err := Open(path, loader.JobOrder{}, a)
	if err != nil {
		t.Fatal(err)
	}
	cmd := helper("wait")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tracker.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	jobs, err := s.Jobs(nil)
	if err != nil || len(jobs) != 1 {
		t.Fatalf("%+v, %v", jobs, err)
	}
	first, err := hostfs.ReadID(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	j := jobs[0]
	if j.ID != first || j.UID != uint32(os.Getuid()) || j.Category != strings.Repeat("x", maxWord-3)+"..." || j.TaskID != "7" || len(j.Processes) != 1 ||
		j.Totals.Now != 1 || j.Memory.Or(0) < 1<<20 || j.FDs.Or(0) < 3 || j.MemoryAtLeast {
		t.Errorf("%+v", j)
	}
	if len(j.Limits) != 1 || j.Limits[0] != (sample.JobLimit{Resource: "memory", Limit: 200 << 20, Unit: "bytes"}) {
		t.Errorf("limits %+v", j.Limits)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if jobs, err := s.Jobs(jobs[:0]); err != nil || len(jobs) != 0 {
		t.Errorf("a job of which nothing lives: %+v, %v", jobs, err)
	}
	if err := tracker.Close(); err != nil {
		t.Error(err)
	}
}

// What a client says is not believed.
func TestAboutIsChecked(t *testing.T) {
	for what, q := range map[string]*request{
		"a long category": {Category: strings.Repeat("x", maxWord+1)},
		"a long task":     {TaskID: strings.Repeat("x", maxWord+1)},
		"no such limit":   {Limits: map[string]float64{"no_such": 1}},
		"a negative one":  {Limits: map[string]float64{"memory": -1}},
	} {
		if _, err := about(q); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	a, err := about(&request{Category: "c", Limits: map[string]float64{"cores": 0.5}})
	if v, ok := a.Limits.Get(cctools.Cores); err != nil || a.Category != "c" || !ok || v != 0.5 {
		t.Errorf("%+v, %v", a, err)
	}
}

// What is too long, or no text, is made fit before it is sent: the agent takes it.
func TestAboutIsMadeFit(t *testing.T) {
	for _, s := range []string{strings.Repeat("é", maxWord), strings.Repeat("\xff", maxText), "a\nb", strings.Repeat("<", 2*maxText)} {
		a := About{Command: s, Category: s, TaskID: s}
		b, err := json.Marshal(a.request())
		if err != nil {
			t.Fatal(err)
		}
		var q request
		if err := json.Unmarshal(b, &q); err != nil {
			t.Fatal(err)
		}
		if _, err := about(&q); err != nil || len(b) > maxRequest {
			t.Errorf("%.20q: %v; %d bytes", s, err, len(b))
		}
	}
}
