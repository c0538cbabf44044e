package job

import (
	"testing"
	"time"

	"rmagent/internal/cctools"
	"rmagent/internal/sample"
	"rmagent/record"
)

func members(ids ...sample.ID) (list []sample.JobProcess) {
	for _, id := range ids {
		list = append(list, sample.JobProcess{ID: id})
	}
	return list
}

// uses is a card with these processes, of 10 bytes each.
func uses(pids ...int32) sample.GPU {
	g := sample.GPU{Complete: true}
	for _, pid := range pids {
		g.Processes = append(g.Processes, sample.GPUProcess{PID: pid, MemoryBytes: record.Some[uint64](10)})
	}
	return g
}

func TestUseOf(t *testing.T) {
	unread, secret := uses(1), uses(1)
	unread.Complete = false
	secret.Processes[0].MemoryBytes = sample.Opt[uint64]{}
	var unknown sample.Opt[uint64]
	known := record.Some[uint64]
	job := members(sample.ID{PID: 1, StartTicks: 50}, sample.ID{PID: 2, StartTicks: 100})
	for name, c := range map[string]struct {
		reading       *sample.GPUs
		processes     []sample.JobProcess
		cards, memory sample.Opt[uint64]
	}{
		"nothing read yet":             {nil, job, unknown, unknown},
		"two cards, one of others":     {&sample.GPUs{ListedTicks: 101, Devices: []sample.GPU{uses(1, 2, 3), uses(3), uses(2)}}, job, known(2), known(30)},
		"none":                         {&sample.GPUs{ListedTicks: 101, Devices: []sample.GPU{uses(3), uses()}}, job, known(0), known(0)},
		"one is younger than the list": {&sample.GPUs{ListedTicks: 99, Devices: []sample.GPU{uses(1), uses(2)}}, job, known(1), known(10)},
		"one began in its tick":        {&sample.GPUs{ListedTicks: 100, Devices: []sample.GPU{uses(1), uses(2)}}, job, known(1), known(10)},
		"another has that PID":         {&sample.GPUs{ListedTicks: 60, Devices: []sample.GPU{uses(2)}}, job, known(0), known(0)},
		"all are younger":              {&sample.GPUs{ListedTicks: 49, Devices: []sample.GPU{uses(1), uses(2)}}, job, unknown, unknown},
		"nobody lives":                 {&sample.GPUs{ListedTicks: 101, Devices: []sample.GPU{uses(1)}}, nil, unknown, unknown},
		"a card that does not tell":    {&sample.GPUs{ListedTicks: 101, Devices: []sample.GPU{uses(1), unread}}, job, unknown, unknown},
		"memory that it does not tell": {&sample.GPUs{ListedTicks: 101, Devices: []sample.GPU{uses(1), secret}}, job, known(2), unknown},
	} {
		u := UseOf(c.reading, c.processes)
		if !u.Told || u.Cards != c.cards || u.MemoryBytes != c.memory || (u.Why == "") != (c.memory.Known()) {
			t.Errorf("%s: %+v", name, u)
		}
	}
}

// The most at any time counts, and a reading that knows nothing takes nothing back.
func TestMeterOfGPUs(t *testing.T) {
	m := NewMeter(0)
	exact := func(cctools.Measure) (cctools.Exactness, string) { return cctools.Exact, "" }
	known := record.Some[uint64]
	living := members(sample.ID{PID: 1})
	if e, why := m.worth(cctools.GPUs, exact); e != cctools.Unknown || why == "" {
		t.Errorf("nobody looked: %v %q", e, why)
	}
	for _, u := range []GPUUse{
		{Told: true, Cards: known(1), MemoryBytes: known(7 << 20)},
		{Told: true, Cards: known(3), MemoryBytes: known(2 << 20)},
		{Told: true, Why: "a crash"},
		{Told: true, Cards: known(0), MemoryBytes: known(0)},
	} {
		m.Add(&Reading{GPUs: u, Processes: living}, nil)
	}
	cards, _ := m.Most.Get(cctools.GPUs)
	memory, _ := m.Most.Get(cctools.GPUMemory)
	if e, _ := m.worth(cctools.GPUs, exact); cards != 3 || memory != 7 || e != cctools.Sampled {
		t.Errorf("%v cards, %v MB, %v", cards, memory, e)
	}

	m = NewMeter(0)
	m.Add(&Reading{GPUs: GPUUse{Told: true, Why: "a crash"}, Processes: living}, nil)
	m.Add(&Reading{GPUs: GPUUse{Told: true, Why: "nobody is there"}}, nil)
	if e, why := m.worth(cctools.GPUMemory, exact); e != cctools.Unknown || why != "a crash" {
		t.Errorf("%v %q", e, why)
	}
}

// Where nothing was known for longer than readings are apart, there may have been more.
func TestGPUsUnknownForAPartOfTheTime(t *testing.T) {
	exact := func(cctools.Measure) (cctools.Exactness, string) { return cctools.Exact, "" }
	known := record.Some[uint64]
	living := members(sample.ID{PID: 1})
	two := GPUUse{Told: true, Cards: known(2), MemoryBytes: known(7 << 20)}
	none := GPUUse{Told: true, Cards: known(0), MemoryBytes: known(0)}
	hung := GPUUse{Told: true, Why: "a hang"}
	for name, c := range map[string]struct {
		first GPUUse
		gap   time.Duration
		want  cctools.Exactness
	}{
		"a reading is missing":            {two, 2 * time.Second, cctools.Sampled},
		"many are":                        {two, 4 * time.Second, cctools.AtLeast},
		"many, and nothing was seen else": {none, 4 * time.Second, cctools.Unknown},
	} {
		m := NewMeter(0)
		m.Add(&Reading{Boottime: time.Second, GPUs: c.first, Processes: living}, nil)
		m.Add(&Reading{Boottime: time.Second + c.gap, GPUs: hung, Processes: living}, nil)
		m.Add(&Reading{Boottime: 10 * time.Second, GPUs: none}, nil) // its end
		for _, id := range []cctools.Measure{cctools.GPUs, cctools.GPUMemory} {
			if e, why := m.worth(id, exact); e != c.want || (why == "") != (e == cctools.Exact) {
				t.Errorf("%s: %s is %v, want %v: %s", name, id, e, c.want, why)
			}
		}
	}
}
