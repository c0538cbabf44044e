package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"rmagent/internal/sample"
)

// What was kept of the processes that slept is what a reader that keeps nothing
// yet reads of them: every field of each that two such readers, before and after,
// agree on. It is so of records that stand in their places, and of those that moved.
func TestKeptIsWhatIsRead(t *testing.T) {
	t.Run("Standing", func(t *testing.T) { testKept(t, func(*syscallScan) error { return nil }) })
	t.Run("Moved", func(t *testing.T) { testKept(t, clearStandings) })
}

func testKept(t *testing.T, between func(*syscallScan) error) {
	keeper := openScan(t, Options{Scan: ScanSyscall})
	defer keeper.Close()
	s := keeper.scanner.(*syscallScan)
	for range 3 { // make some that come and go
		startWaiter(t)
	}
	compared := 0
	for range 4 {
		before := readFresh(t)
		var now sample.Snapshot
		if err := between(s); err != nil {
			t.Fatal(err)
		}
		kept := keptTasks(t, s) // of the reading before
		if err := keeper.Read(context.Background(), sample.Scope{}, &now); err != nil {
			t.Fatal(err)
		}
		after := readFresh(t)
		for i := range now.Processes {
			p := &now.Processes[i]
			b, ok := before[p.ID]
			if a, there := after[p.ID]; !ok || !there || a != b {
				continue
			}
			if unsplit(*p) != b {
				t.Errorf("%v (%s):\nkept %+v\nread %+v", p.ID, p.Comm.Bytes(), *p, b)
			}
			if kept[p.ID.PID] {
				compared++
			}
		}
	}
	if compared < 60 {
		t.Errorf("compared %d readings of processes that were kept", compared)
	}
}

// readFresh reads by a reader that has kept nothing.
func readFresh(t *testing.T) map[sample.ID]sample.Process {
	t.Helper()
	r := openScan(t, Options{Scan: ScanSyscall})
	defer r.Close()
	if err := clearKept(r.scanner.(*syscallScan)); err != nil {
		t.Fatal(err)
	}
	var s sample.Snapshot
	if err := r.Read(context.Background(), sample.Scope{}, &s); err != nil {
		t.Fatal(err)
	}
	all := make(map[sample.ID]sample.Process, len(s.Processes))
	for _, p := range s.Processes {
		all[p.ID] = unsplit(p)
	}
	return all
}

// unsplit leaves out how CPU time is split and since when, which depend on what a reader said
// before.
func unsplit(p sample.Process) sample.Process {
	p.CPUUserNanos, p.CPUSystemNanos, p.Since = 0, 0, 0
	return p
}

// A record that is said to be the same is; those of processes that sleep are, also when
// one in the middle of the list has ended, or another reading came between.
func TestTheSameIsTheSame(t *testing.T) {
	r := openScan(t, Options{Scan: ScanSyscall})
	defer r.Close()
	_, first := startWaiter(t)
	startWaiter(t)
	var last []scanProcessRecord
	read := func() (known, same int) {
		t.Helper()
		var now []scanProcessRecord
		err := r.scanner.scan(true, func(rec *scanProcessRecord, was int) {
			if was >= 0 {
				known++
				if last != nil && (was >= len(last) || last[was] != *rec) {
					t.Errorf("not what was at %d: %+v", was, *rec)
				}
			}
			if stateLetter(rec.State) == 'S' && rec.Threads == 1 && slices.Contains(last, *rec) {
				same++
			}
			now = append(now, *rec)
		})
		if err != nil {
			t.Fatal(err)
		}
		last = now
		return known, same
	}
	read() // after the reading that opened the reader
	read()
	known, same := read()
	if known < same/2 {
		t.Errorf("%d are known to be the same, of %d that are and sleep", known, same)
	}
	first() // all behind it move
	read()
	if err := r.scanner.one(1, func(*scanProcessRecord, int) {}); err != nil {
		t.Fatal(err)
	}
	if known, same = read(); known < same/2 {
		t.Errorf("after one has ended and another was read by itself, %d are known to be the same, of %d that are and sleep", known, same)
	}
}

// A snapshot in which somebody changed processes, or that another reader filled in since, has
// what the kernel says all the same.
func TestForeignSnapshot(t *testing.T) {
	r, other := openScan(t, Options{Scan: ScanSyscall}), openScan(t, Options{Scan: ScanSyscall})
	defer r.Close()
	defer other.Close()
	startWaiter(t)
	var s sample.Snapshot
	read := func(r *Reader) {
		t.Helper()
		if err := r.Read(context.Background(), sample.Scope{}, &s); err != nil {
			t.Fatal(err)
		}
	}
	read(r)
	read(r)
	for name, change := range map[string]func(){
		"completed": func() {
			for i := range s.Processes {
				s.Processes[i].UID = 4711
				s.Processes[i].Since = 0
			}
			s.AsRead = 0
		},
		"filled by another": func() {
			read(other)
			for i := range s.Processes {
				s.Processes[i].UID = 4711
			}
		},
		"empty": func() { s = sample.Snapshot{} },
	} {
		change()
		read(r)
		for _, p := range s.Processes {
			if p.UID == 4711 || p.Known == 0 {
				t.Fatalf("%s: %+v", name, p)
			}
		}
	}
}

// What a snapshot says is the same is what the reading before says, in the same place.
func TestSnapshotsTellWhatIsTheSame(t *testing.T) {
	r := openScan(t, Options{Scan: ScanSyscall})
	defer r.Close()
	var s sample.Snapshot
	var last []sample.Process
	var lastAt time.Duration
	same := 0
	for round := range 40 { // longer than the splits of CPU time take to turn
		_, end := startWaiter(t)
		if err := r.Read(context.Background(), sample.Scope{}, &s); err != nil {
			t.Fatal(err)
		}
		if s.AsRead != s.Monotonic || len(s.Same) != len(s.Processes) || round > 0 && s.Before != lastAt {
			t.Fatalf("read at %v, before at %v not %v, compared %d of %d", s.AsRead, s.Before, lastAt, len(s.Same), len(s.Processes))
		}
		for i, is := range s.Same {
			if round > 0 && is {
				same++
				if i >= len(last) || s.Processes[i] != last[i] {
					t.Errorf("not what was at %d: %+v", i, s.Processes[i])
				}
			}
		}
		last, lastAt = slices.Clone(s.Processes), s.AsRead
		end()
	}
	if same < 40*20 {
		t.Errorf("%d were the same", same)
	}
}

func clearKept(s *syscallScan) error {
	return errors.Join(clearArray(s.objects.Kept), clearStandings(s))
}

func clearStandings(s *syscallScan) error { return clearArray(s.objects.Standings) }

func clearArray(m *ebpf.Map) error {
	for i := range m.MaxEntries() {
		if err := m.Put(i, make([]byte, m.ValueSize())); err != nil {
			return err
		}
	}
	return nil
}

// keptTasks returns the processes of which something is kept. It supposes that
// PIDs are fewer than places, or that they were given out in one round.
func keptTasks(t *testing.T, s *syscallScan) map[int32]bool {
	t.Helper()
	kept := map[int32]bool{}
	m := s.objects.Kept
	for i := range s.aligned {
		p := &s.records[i]
		place := p.Tgid & (m.MaxEntries() - 1)
		value, err := m.LookupBytes(place)
		if err != nil {
			t.Fatal(err)
		}
		if binary.NativeEndian.Uint64(value) == p.Task {
			kept[int32(p.Tgid)] = true
		}
	}
	return kept
}
