package category

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"rmagent/internal/cctools"
	"rmagent/record"
)

// job makes a summary.
func job(exit cctools.ExitType, wall, cores, memory, disk float64) *cctools.Summary {
	s := &cctools.Summary{ExitType: exit}
	s.Measures.Set(cctools.WallTime, wall)
	s.Measures.Set(cctools.Cores, cores)
	s.Measures.Set(cctools.Memory, memory)
	s.Measures.Set(cctools.Disk, disk)
	return s
}

func allocations(c *Category, mode Mode) string {
	var v [3]float64
	for i, id := range Resources[:3] {
		v[i], _ = c.FirstAllocation(id, mode)
	}
	return fmt.Sprintf("%s %g %g %g", mode, v[0], v[1], v[2])
}

// What cctools' own code made of the same jobs.
func TestFirstAllocationsAreCCTools(t *testing.T) {
	f, err := os.Open("testdata/reference.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	set, checked := NewSet(), 0
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "", "#":
			set = NewSet()
		case "job":
			var exit string
			var wall, cores, memory, disk float64
			if _, err := fmt.Sscan(rest, &exit, &wall, &cores, &memory, &disk); err != nil {
				t.Fatalf("line %d: %v", n, err)
			}
			if err := set.Add(job(cctools.ExitType(exit), wall, cores, memory, disk)); err != nil {
				t.Fatal(err)
			}
		case "seen":
			if got := strings.Replace(allocations(set.Get(All), Fixed), "fixed", "seen", 1); got != line {
				t.Errorf("line %d: %s, not %s", n, got, line)
			}
			checked++
		default:
			if got := allocations(set.Get(All), Mode(word)); got != line {
				t.Errorf("line %d: %s, not %s", n, got, line)
			}
			checked++
		}
	}
	if checked < 300 {
		t.Errorf("only %d lines were compared", checked)
	}
}

// Where cctools cuts 1.7 cores off to 1, nobody would be given what was used.
func TestFractionsOfCoresAreRoundedUp(t *testing.T) {
	set := NewSet()
	for range 3 {
		if err := set.Add(job(cctools.ExitNormal, 10, 1.7, 100, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for _, mode := range []Mode{Max, Throughput, Waste} {
		if v, ok := set.Get(Default).FirstAllocation(cctools.Cores, mode); v != 2 || !ok {
			t.Errorf("%s: %v", mode, v)
		}
	}
}

// The best first allocation of each mode is the best of all buckets, by the numbers
// that are shown for an allocation.
func TestTheBestBucketIsChosen(t *testing.T) {
	set := NewSet()
	for i := range 60 {
		memory := 300.0
		if i%5 == 0 {
			memory = 3000
		}
		if err := set.Add(job(cctools.ExitNormal, 60, 1, memory, 1)); err != nil {
			t.Fatal(err)
		}
	}
	c := set.Get(Default)
	if got := c.Retries(cctools.Memory, 500); got != 12 {
		t.Errorf("%d retries, not 12", got)
	}
	waste, _ := c.FirstAllocation(cctools.Memory, Waste)
	throughput, _ := c.FirstAllocation(cctools.Memory, Throughput)
	for a := 250.0; a <= 3250; a += 250 {
		if c.Waste(cctools.Memory, a) < c.Waste(cctools.Memory, waste) {
			t.Errorf("%v wastes less than %v", a, waste)
		}
	}
	if waste != 500 || throughput != 500 {
		t.Errorf("waste %v, throughput %v", waste, throughput)
	}
	// 48 jobs leave 200 of 500 MB for a minute; 12 leave all of 500 MB, then none of 3000.
	if got, want := c.Waste(cctools.Memory, 500), 60.0*(48*200+12*500); got != want {
		t.Errorf("waste %v, not %v", got, want)
	}
	used := 60.0 * (48*300 + 12*3000)
	if got, ok := c.WastePercent(cctools.Memory, 500); !ok || math.Abs(got-100*936000/(936000+used)) > 1e-9 {
		t.Errorf("wasted %v %%", got)
	}
	if got, ok := c.Throughput(cctools.Memory, 500); !ok || math.Abs(got-(48*6+12)/(60.0*(48+24))) > 1e-12 {
		t.Errorf("throughput %v", got)
	}
}

func TestNothingIsKnownOfNothing(t *testing.T) {
	set := NewSet()
	c := set.Get(All)
	for _, mode := range Modes {
		if v, ok := c.FirstAllocation(cctools.Memory, mode); ok {
			t.Errorf("%s: %v", mode, v)
		}
	}
	if _, ok := c.WastePercent(cctools.Memory, 500); ok {
		t.Error("waste of nothing is known")
	}
	if _, ok := c.Throughput(cctools.Memory, 500); ok {
		t.Error("throughput of nothing is known")
	}
	// A job that a limit ended shows what was used, not what is needed.
	if err := set.Add(job(cctools.ExitLimits, 5, 1, 200, 1)); err != nil {
		t.Fatal(err)
	}
	if v, ok := c.MaximumSeen(cctools.Memory); v != 200 || !ok {
		t.Errorf("most seen %v", v)
	}
	if _, ok := c.FirstAllocation(cctools.Memory, Waste); ok {
		t.Error("an allocation is known after a job that was ended")
	}
	if got := c.Counts(); got != (Counts{Jobs: 1, Exhausted: 1}) {
		t.Errorf("%+v", got)
	}
}

func TestCategoriesAreApart(t *testing.T) {
	set := NewSet()
	for i, name := range []string{"b", "a", "", "b"} {
		s := job(cctools.ExitNormal, 1, 1, float64(100*(i+1)), 1)
		s.Category = name
		if err := set.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(set.Names(), " "); got != "a b default (all)" {
		t.Error(got)
	}
	if v, _ := set.Get("b").MaximumSeen(cctools.Memory); v != 400 || set.Get("b").Counts().Jobs != 2 || set.Get(All).Counts().Jobs != 4 {
		t.Errorf("b: %v", v)
	}
	if err := set.Add(&cctools.Summary{Category: All}); err == nil {
		t.Error("a job may be called (all)")
	}
	if set.Get("c") != nil {
		t.Error("there is a category without jobs")
	}
}

func TestReadTakesSummariesAndRecords(t *testing.T) {
	set := NewSet()
	line, err := record.Append(nil, job(cctools.ExitNormal, 2, 1, 100, 1).Record())
	if err != nil {
		t.Fatal(err)
	}
	line = []byte(strings.Replace(string(line), `"schema":0`, `"schema":1`, 1))
	other, err := record.Append(nil, &record.Host{Header: record.Header{Schema: record.Schema}})
	if err != nil {
		t.Fatal(err)
	}
	pretty := cctools.AppendSummary(nil, job(cctools.ExitNormal, 2, 1, 300, 1), cctools.FileOptions{})
	text := "# many\n" + string(pretty) + "\n" + string(line) + string(other) + string(cctools.AppendSummary(nil, job(cctools.ExitNormal, 2, 1, 200, 1), cctools.FileOptions{Compact: true}))
	n, err := set.Read("f", strings.NewReader(text))
	if err != nil || n != 3 || set.Get(Default).Measured(cctools.Memory) != 3 {
		t.Errorf("%d jobs, %v", n, err)
	}
	for text, want := range map[string]string{
		"{\"memory\":[1,\"MB\"]}\n\n{\"x\":1}": "f:3: no summary of a job",
		`{"category":"(all)","exit_type":"x"}`: "f:1: category (all) is that of all jobs",
		`{"kind":"job","schema":99}`:           "f:1: decode a record: unknown schema",
	} {
		if _, err := NewSet().Read("f", strings.NewReader(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"kind":"job","schema":1,"memory_bytes":5,"wall_time_seconds":3}{"memory":[1,"MB"],"wall_time":[1,"s"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set := NewSet()
		_, _ = set.Read("f", bytes.NewReader(data))
		for _, name := range set.Names() {
			for _, id := range Resources {
				for _, mode := range Modes {
					v, ok := set.Get(name).FirstAllocation(id, mode)
					if ok && !(v >= 0) {
						t.Errorf("%s of %s: %v", mode, id, v)
					}
					set.Get(name).Throughput(id, v)
				}
			}
		}
	})
}
