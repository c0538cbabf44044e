package aggregate

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"rmagent/internal/sample"
	"rmagent/record"
)

const everything = sample.AllFields

func proc(pid int32, start uint64, set ...func(*sample.Process)) sample.Process {
	p := sample.Process{ID: sample.ID{PID: pid, StartTicks: start}, Known: everything, FDLimit: 1024}
	for _, f := range set {
		f(&p)
	}
	return p
}

func cpu(n uint64) func(*sample.Process) { return func(p *sample.Process) { p.CPUNanos = n } }
func fds(n uint64) func(*sample.Process) { return func(p *sample.Process) { p.FDOpen = n } }

// update feeds one snapshot at a second on the monotonic clock.
func update(t *Table, second float64, procs ...sample.Process) {
	t.Update(&sample.Snapshot{Monotonic: time.Duration(second * float64(time.Second)), Processes: procs})
}

func cores(p *Process) string {
	v, ok := p.Rates.CPUCores.Get()
	if !ok {
		return "unknown"
	}
	return fmt.Sprint(v)
}

func TestRates(t *testing.T) {
	unknownCPU := func(p *sample.Process) { p.Known &^= 1 << sample.CPU }
	for _, tt := range []struct {
		name  string
		steps []sample.Process
		at    []float64
		want  []string
	}{
		{"the first reading has none", []sample.Process{proc(1, 1, cpu(5e9))}, []float64{10}, []string{"unknown"}},
		{"over the real time", []sample.Process{proc(1, 1, cpu(0)), proc(1, 1, cpu(3e9))}, []float64{10, 12}, []string{"unknown", "1.5"}},
		{"idle is zero, not unknown", []sample.Process{proc(1, 1, cpu(7)), proc(1, 1, cpu(7))}, []float64{10, 11}, []string{"unknown", "0"}},
		{"another process of the same PID", []sample.Process{proc(1, 1, cpu(9e9)), proc(1, 2, cpu(1e9))}, []float64{10, 11}, []string{"unknown", "unknown"}},
		{"a counter that goes back", []sample.Process{proc(1, 1, cpu(9e9)), proc(1, 1, cpu(1e9)), proc(1, 1, cpu(2e9))}, []float64{10, 11, 12}, []string{"unknown", "unknown", "1"}},
		{"no time between", []sample.Process{proc(1, 1, cpu(1)), proc(1, 1, cpu(2))}, []float64{10, 10}, []string{"unknown", "unknown"}},
		{"time that goes back", []sample.Process{proc(1, 1, cpu(1)), proc(1, 1, cpu(2))}, []float64{10, 9}, []string{"unknown", "unknown"}},
		{"known, unknown, known", []sample.Process{proc(1, 1, cpu(1e9)), proc(1, 1, cpu(0), unknownCPU), proc(1, 1, cpu(2e9)), proc(1, 1, cpu(4e9))},
			[]float64{1, 2, 3, 4}, []string{"unknown", "unknown", "unknown", "2"}},
		{"no time between, nothing moved", []sample.Process{proc(1, 1, cpu(1)), proc(1, 1, cpu(1)), proc(1, 1, cpu(1))}, []float64{10, 10, 11}, []string{"unknown", "unknown", "0"}},
		{"a skipped tick", []sample.Process{proc(1, 1, cpu(0)), proc(1, 1, cpu(1e9))}, []float64{10, 20}, []string{"unknown", "0.1"}},
		{"idle after busy", []sample.Process{proc(1, 1, cpu(0)), proc(1, 1, cpu(1e9)), proc(1, 1, cpu(1e9))}, []float64{1, 2, 3}, []string{"unknown", "1", "0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := NewTable()
			for i := range tt.steps {
				update(table, tt.at[i], tt.steps[i])
				if got := cores(table.At(0)); got != tt.want[i] {
					t.Errorf("reading %d: %s cores, want %s", i, got, tt.want[i])
				}
			}
		})
	}
}

// A process's user time may not shrink because its share was estimated anew.
func TestSplitNeverGoesBack(t *testing.T) {
	table := NewTable()
	split := func(total, user uint64) sample.Process {
		return proc(1, 1, func(p *sample.Process) {
			p.CPUNanos, p.CPUUserNanos, p.CPUSystemNanos = total, user, total-user
		})
	}
	update(table, 1, split(100, 60))
	for i, next := range []sample.Process{split(100, 60), split(101, 50), split(101, 55), split(110, 65), split(111, 71)} {
		before := *table.At(0)
		update(table, float64(2+i), next)
		p := table.At(0)
		if p.CPUUserNanos < before.CPUUserNanos || p.CPUSystemNanos < before.CPUSystemNanos {
			t.Errorf("step %d: user %d -> %d, system %d -> %d", i, before.CPUUserNanos, p.CPUUserNanos, before.CPUSystemNanos, p.CPUSystemNanos)
		}
		if p.CPUUserNanos+p.CPUSystemNanos != next.CPUNanos {
			t.Errorf("step %d: user + system is %d, the total %d", i, p.CPUUserNanos+p.CPUSystemNanos, next.CPUNanos)
		}
		if still := next.CPUNanos == before.CPUNanos; still == p.Active {
			t.Errorf("step %d: active is %v", i, p.Active)
		}
	}
}

// A reading whose parts do not add up must not make the next one absurd.
func TestSplitOfAnOddReading(t *testing.T) {
	table := NewTable()
	split := func(total, user, system uint64) sample.Process {
		return proc(1, 1, func(p *sample.Process) { p.CPUNanos, p.CPUUserNanos, p.CPUSystemNanos = total, user, system })
	}
	update(table, 1, split(90, 0, 100))
	update(table, 2, split(95, 95, 0))
	if p := table.At(0); p.CPUUserNanos > 95 || p.CPUSystemNanos > 95 {
		t.Errorf("user %d and system %d of 95", p.CPUUserNanos, p.CPUSystemNanos)
	}
}

// A snapshot that missed processes says nothing of those that it does not have.
func TestAProcessThatWasMissedIsNotGone(t *testing.T) {
	table := NewTable()
	incomplete := func(second int) {
		table.Update(&sample.Snapshot{Monotonic: time.Duration(second) * time.Second, Missed: 1})
	}
	one := proc(1, 1, cpu(1e9))
	update(table, 1, one)
	incomplete(2)
	if table.Len() != 0 || len(table.Gone()) != 0 || table.Find(one.ID) == nil {
		t.Errorf("missed: %d are there, %d gone", table.Len(), len(table.Gone()))
	}
	update(table, 3, proc(1, 1, cpu(3e9)))
	if got := cores(table.At(0)); got != "unknown" {
		t.Errorf("%s cores over a time that the table does not know", got)
	}
	update(table, 4, proc(1, 1, cpu(4e9)))
	if got := cores(table.At(0)); got != "1" {
		t.Errorf("%s cores, want 1", got)
	}
	incomplete(5)
	update(table, 6)
	if len(table.Gone()) != 1 || table.Find(one.ID) != nil {
		t.Errorf("a complete snapshot does not have it: %d gone", len(table.Gone()))
	}
	// What is incomplete for ever must not keep what ended for ever.
	update(table, 7, one)
	gone := 0
	for s := range 10 {
		incomplete(8 + s)
		gone += len(table.Gone())
	}
	if gone != 1 || table.Find(one.ID) != nil {
		t.Errorf("gone %d times after ten incomplete snapshots, want once", gone)
	}
}

func TestRenew(t *testing.T) {
	table := NewTable()
	id := &sample.Identity{}
	with := func(exec, cgroup uint64) sample.Process {
		return proc(1, 1, func(p *sample.Process) { p.ExecID, p.CgroupID = exec, cgroup })
	}
	zombie := func(threads uint64) sample.Process {
		return proc(1, 1, func(p *sample.Process) {
			p.ExecID, p.State, p.Threads = 2, 'Z', threads
			p.Known &^= 1 << sample.CgroupID
		})
	}
	for i, tt := range []struct {
		now  sample.Process
		want bool
	}{
		{with(1, 1), true},
		{with(1, 1), false},
		{with(2, 1), true},
		{with(2, 1), false},
		{with(2, 9), true},
		{proc(1, 1, func(p *sample.Process) { p.ExecID, p.CgroupID = 2, 9; p.Known &^= 1 << sample.ExecID }), true},
		{proc(1, 1, func(p *sample.Process) { p.ExecID, p.CgroupID = 2, 9; p.Known &^= 1 << sample.ExecID }), true},
		{with(2, 9), false},
		// A source that can't tell the cgroup: it may be another each time.
		{proc(1, 1, func(p *sample.Process) { p.ExecID = 2; p.Known &^= 1 << sample.CgroupID }), true},
		{proc(1, 1, func(p *sample.Process) { p.ExecID = 2; p.Known &^= 1 << sample.CgroupID }), true},
		{proc(1, 1, func(p *sample.Process) { p.ExecID = 2; p.Known &^= 1 << sample.CgroupID; p.CPUNanos = 1 }), true},
		{with(2, 9), true},
		{with(2, 9), false},
		// Of one that has ended, such a source says that it is in no cgroup; while threads
		// of it live, it does not.
		{zombie(2), true},
		{zombie(1), false},
		{zombie(1), false},
	} {
		update(table, float64(i+1), tt.now)
		if got := table.At(0).Renew; got != tt.want {
			t.Errorf("step %d: renew is %v, want %v", i, got, tt.want)
		}
		table.At(0).Identity = id
	}
}

// A count that swings comes back to its low-water mark; a leak does not.
func TestFDGrowth(t *testing.T) {
	grow := func(count func(second int) uint64, seconds int) (float64, bool, float64, bool) {
		table := NewTable()
		for s := range seconds {
			update(table, float64(s+1), proc(1, 1, fds(count(s))))
		}
		rate, left := table.At(0).FDGrowth(table.Monotonic())
		r, okR := rate.Get()
		l, okL := left.Get()
		return r, okR, l, okL
	}
	if _, ok, _, _ := grow(func(int) uint64 { return 7 }, 3); ok {
		t.Error("growth is known after three seconds")
	}
	if r, ok, _, okLeft := grow(func(int) uint64 { return 7 }, 30); !ok || r != 0 || okLeft {
		t.Errorf("a still count grows by %v (%v), and the limit lasts for a known time: %v", r, ok, okLeft)
	}
	if r, ok, _, okLeft := grow(func(s int) uint64 { return 10 + uint64(s%7)*50 }, 60); !ok || r != 0 || okLeft {
		t.Errorf("a count that swings grows by %v (%v)", r, ok)
	}
	table := NewTable()
	for s := range 20 {
		p := proc(1, 1, fds(7))
		if s == 18 {
			p.Known &^= 1 << sample.FDOpen
		}
		update(table, float64(s+1), p)
	}
	if r, _ := table.At(0).FDGrowth(table.Monotonic()); r.Known() {
		t.Error("growth is known of a count that was unknown a second ago")
	}
	if _, _, _, okLeft := grow(func(s int) uint64 { return uint64(500 - s) }, 60); okLeft {
		t.Error("a count that falls reaches its limit in a known time")
	}
	r, ok, left, okLeft := grow(func(s int) uint64 { return 10 + 5*uint64(s) }, 40)
	if !ok || r != 5 {
		t.Errorf("5 descriptors a second grow by %v (%v)", r, ok)
	}
	// After 40 readings 205 are open: 819 to go at 5 a second.
	if !okLeft || left != (1024-205)/5.0 {
		t.Errorf("the limit lasts for %v s (%v), want %v", left, okLeft, (1024-205)/5.0)
	}
}

func TestFDRatio(t *testing.T) {
	for _, tt := range []struct {
		p    sample.Process
		want string
	}{
		{proc(1, 1, fds(256)), "0.25"},
		{proc(1, 1, fds(2048)), "2"},
		{proc(1, 1, fds(3), func(p *sample.Process) { p.FDLimit = sample.Unlimited }), "unknown"},
		{proc(1, 1, fds(3), func(p *sample.Process) { p.FDLimit = 0 }), "unknown"},
		{proc(1, 1, fds(3), func(p *sample.Process) { p.Known &^= 1 << sample.FDOpen }), "unknown"},
		{proc(1, 1, fds(3), func(p *sample.Process) { p.Known &^= 1 << sample.FDLimit }), "unknown"},
	} {
		p := Process{Process: tt.p}
		got := "unknown"
		if r, ok := p.FDRatio().Get(); ok {
			got = fmt.Sprint(r)
		}
		if got != tt.want {
			t.Errorf("%d of %d (known %b): %s, want %s", tt.p.FDOpen, tt.p.FDLimit, tt.p.Known, got, tt.want)
		}
	}
}

func TestFDRange(t *testing.T) {
	table := NewTable()
	update(table, 1, proc(1, 1, fds(10)))
	if low, high := table.At(0).FDRange(); low.Known() || high.Known() {
		t.Error("a range is known although nobody looked between the readings")
	}
	table.At(0).ObserveFD(90, 0)
	table.At(0).ObserveFD(20, 0)
	update(table, 2, proc(1, 1, fds(30)))
	if low, high := table.At(0).FDRange(); low.Or(0) != 20 || high.Or(0) != 90 {
		t.Errorf("range %d to %d, want 20 to 90", low.Or(0), high.Or(0))
	}
	update(table, 3, proc(1, 1, fds(31)))
	if low, _ := table.At(0).FDRange(); low.Known() {
		t.Error("the range of the interval before is still there")
	}
}

// The table must agree with the plainest model of it, whatever the order, the
// churn and the reuse of PIDs.
func TestTableAgreesWithAModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		table := NewTable()
		alive := map[int32]sample.Process{}
		before := map[sample.ID]sample.Process{}
		for tick := range 60 {
			for pid := range int32(40) {
				p, ok := alive[pid]
				switch {
				case !ok && rng.IntN(3) == 0:
					alive[pid] = proc(pid, uint64(tick*2+rng.IntN(2)), cpu(rng.Uint64N(1e9)))
				case ok && rng.IntN(8) == 0:
					delete(alive, pid)
				case ok && rng.IntN(2) == 0:
					p.CPUNanos += rng.Uint64N(1e9)
					alive[pid] = p
				}
			}
			var procs []sample.Process
			for _, p := range alive {
				procs = append(procs, p)
			}
			if rng.IntN(2) == 0 {
				rng.Shuffle(len(procs), func(i, j int) { procs[i], procs[j] = procs[j], procs[i] })
			}
			now := map[sample.ID]sample.Process{}
			for _, p := range procs {
				now[p.ID] = p
			}
			update(table, float64(tick+1), procs...)
			check(t, table, now, before)
			before = now
		}
	}
}

func check(t *testing.T, table *Table, now, before map[sample.ID]sample.Process) {
	t.Helper()
	if table.Len() != len(now) {
		t.Fatalf("%d processes, want %d", table.Len(), len(now))
	}
	for i := range table.Len() {
		p := table.At(i)
		want, ok := now[p.ID]
		if !ok || p.CPUNanos != want.CPUNanos {
			t.Fatalf("%v has %d ns, want %d (%v)", p.ID, p.CPUNanos, want.CPUNanos, ok)
		}
		rate := sample.Opt[float64]{}
		if b, ok := before[p.ID]; ok {
			rate = record.Some(Round(Round(float64(want.CPUNanos-b.CPUNanos)) / 1e9))
		}
		if p.Rates.CPUCores != rate {
			t.Fatalf("%v: %v cores, want %v", p.ID, p.Rates.CPUCores, rate)
		}
		if table.Find(p.ID) != p {
			t.Fatalf("%v is not found", p.ID)
		}
	}
	gone := 0
	for id := range before {
		if _, ok := now[id]; !ok {
			gone++
		}
	}
	if len(table.Gone()) != gone {
		t.Fatalf("%d are gone, want %d", len(table.Gone()), gone)
	}
	for i := range table.Gone() {
		if _, ok := before[table.Gone()[i].ID]; !ok {
			t.Fatalf("%v is gone and never was", table.Gone()[i].ID)
		}
	}
}

// model keeps the last reading of every process and when it was, and nothing else.
type model struct {
	last map[sample.ID]reading
	tick int
	at   time.Duration
}

type reading struct {
	p    sample.Process
	tick int
}

// cores is the plain definition: unknown unless the tick before knew the counter,
// time went by and it did not go back.
func (m *model) cores(p *sample.Process, at time.Duration) sample.Opt[float64] {
	before, ok := m.last[p.ID]
	elapsed := (at - m.at).Seconds()
	if !ok || before.tick != m.tick || elapsed <= 0 || !p.Known.Has(sample.CPU) ||
		!before.p.Known.Has(sample.CPU) || p.CPUNanos < before.p.CPUNanos {
		return sample.Opt[float64]{}
	}
	return record.Some(Round(Round(float64(p.CPUNanos-before.p.CPUNanos)/elapsed) / 1e9))
}

func (m *model) take(s *sample.Snapshot) {
	m.tick, m.at = m.tick+1, s.Monotonic
	for _, p := range s.Processes {
		m.last[p.ID] = reading{p, m.tick}
	}
	for id, r := range m.last {
		if r.tick != m.tick && (s.Missed == 0 || m.tick-r.tick > patience) {
			delete(m.last, id)
		}
	}
}

// FuzzUpdate makes snapshots of bytes, three to a process: nothing that a source
// says, in whatever order, may give another rate than the model's, or an absurd one.
func FuzzUpdate(f *testing.F) {
	f.Add([]byte{1, 2, 3, 0x81, 7, 9, 1, 1, 1, 0xff, 0, 0, 1, 2, 3})
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 9))
		b := make([]byte, 900)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		table := NewTable()
		m := &model{last: map[sample.ID]reading{}}
		s := &sample.Snapshot{Monotonic: time.Second}
		met := map[sample.ID]bool{}
		for ; len(b) >= 3; b = b[3:] {
			if b[0]&0x70 != 0x70 {
				p := proc(int32(b[0]&7), uint64(b[0]>>3&1), cpu(uint64(b[1])*1e7), fds(uint64(b[2]>>4)))
				if b[2]&7 == 0 {
					p.Known &^= 1 << sample.CPU
				}
				if !met[p.ID] {
					met[p.ID] = true
					s.Processes = append(s.Processes, p)
				}
				continue
			}
			agree(t, table, m, s)
			s.Monotonic += time.Duration(int(b[1])-8) * 10 * time.Millisecond // now and then back
			s.Missed = uint64(b[2] & 1)
			s.Processes = s.Processes[:0]
			clear(met)
		}
		agree(t, table, m, s)
	})
}

func agree(t *testing.T, table *Table, m *model, s *sample.Snapshot) {
	t.Helper()
	want := map[sample.ID]sample.Opt[float64]{}
	for i := range s.Processes {
		p := &s.Processes[i]
		want[p.ID] = m.cores(p, s.Monotonic)
	}
	kept := len(m.last)
	for id := range want {
		if _, ok := m.last[id]; !ok {
			kept++
		}
	}
	table.Update(s)
	m.take(s)
	if table.Len() != len(want) || len(table.Gone()) != kept-len(m.last) || len(table.index) != len(m.last) {
		t.Fatalf("%d there, %d gone, %d kept; want %d, %d, %d",
			table.Len(), len(table.Gone()), len(table.index), len(want), kept-len(m.last), len(m.last))
	}
	for i := range table.Len() {
		p := table.At(i)
		if rate, ok := want[p.ID]; !ok || rate != p.Rates.CPUCores {
			t.Fatalf("%v: %v cores, want %v (%v)", p.ID, p.Rates.CPUCores, rate, ok)
		}
	}
}

func TestUpdateAllocatesNothingInSteadyState(t *testing.T) {
	s := population(500, 0)
	table := NewTable()
	table.Update(s)
	if n := testing.AllocsPerRun(50, func() {
		step(s, 500)
		table.Update(s)
	}); n != 0 {
		t.Errorf("%v allocations per update of 500 busy processes", n)
	}
}

func TestAProcessTakesLittleMemory(t *testing.T) {
	if n := unsafe.Sizeof(Process{}); n > 512 {
		t.Errorf("a process takes %d bytes", n)
	}
	if n := unsafe.Sizeof(trend{}); n > 1152 {
		t.Errorf("a trend takes %d bytes", n)
	}
}

// population is a snapshot of n processes.
func population(n int, at time.Duration) *sample.Snapshot {
	s := &sample.Snapshot{Monotonic: at}
	for i := range n {
		s.Processes = append(s.Processes, proc(int32(i+1), uint64(i), fds(8)))
	}
	return s
}

// step moves the clock, and the first busy processes.
func step(s *sample.Snapshot, busy int) {
	s.Monotonic += time.Second
	for i := range busy {
		s.Processes[i].CPUNanos += 1e6
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{1000, 5000, 10000} {
		for _, busy := range []int{0, n} {
			b.Run(fmt.Sprintf("processes=%d/busy=%d", n, busy), func(b *testing.B) {
				s := population(n, time.Second)
				table := NewTable()
				table.Update(s)
				b.ReportAllocs()
				for b.Loop() {
					step(s, busy)
					table.Update(s)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/process")
			})
		}
	}
}

// After a storm the table gives its memory back, and nobody who lived through it
// is another than before.
func TestTableShrinksAfterAStorm(t *testing.T) {
	const survivors, storm = 50, 30000
	id := &sample.Identity{Exe: "/bin/x"}
	crowd := func(n int, used uint64) (procs []sample.Process) {
		for pid := range n {
			procs = append(procs, proc(int32(pid+1), 1, cpu(used), fds(uint64(pid))))
		}
		return procs
	}
	table := NewTable()
	update(table, 1, crowd(storm, 0)...)
	for i := range survivors {
		table.At(i).Identity = id
	}
	update(table, 2, crowd(survivors, 1e9)...)
	if gone := len(table.Gone()); gone != storm-survivors {
		t.Errorf("%d gone, want %d", gone, storm-survivors)
	}
	if n := cap(table.slots); n > fewSlots {
		t.Errorf("%d slots are kept for %d processes", n, survivors)
	}
	for second := 2; second < 5; second++ {
		if second > 2 {
			update(table, float64(second), crowd(survivors, uint64(second-1)*1e9)...)
		}
		for i := range table.Len() {
			p := table.At(i)
			if p.ID.PID != int32(i+1) || p.Identity != id || cores(p) != "1" || table.Find(p.ID) != p {
				t.Fatalf("process %d after %d s: %v, %s cores, identity %v", i, second, p.ID, cores(p), p.Identity)
			}
		}
	}
	if n := cap(table.gone); n > fewSlots {
		t.Errorf("room for %d that are gone is kept after three readings without any", n)
	}
	update(table, 5, crowd(2*storm, 9e9)...)
	if table.Len() != 2*storm {
		t.Errorf("%d processes, want %d", table.Len(), 2*storm)
	}
}

// TestRestingOnOneLine: what is looked at of a process in which nothing moves lies on one
// cache line, in every slot.
func TestRestingOnOneLine(t *testing.T) {
	const line = 64
	var p Process
	if size := unsafe.Sizeof(p); size%line != 0 {
		t.Errorf("a slot takes %d bytes", size)
	}
	if end := unsafe.Offsetof(p.Process) + unsafe.Offsetof(p.Process.Known) + unsafe.Sizeof(p.Process.Known); end > line {
		t.Errorf("the first fields take %d bytes", end)
	}
}
