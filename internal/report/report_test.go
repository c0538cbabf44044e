package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"rmagent/internal/aggregate"
	"rmagent/internal/sample"
	"rmagent/record"
)

var boot = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func builder() *Builder {
	b := NewBuilder(record.SourceEBPF)
	b.BootWall = boot
	return b
}

// nulls returns the keys of a record that are null, and those that are not.
func nulls(t *testing.T, r record.Record) (null, known map[string]any) {
	t.Helper()
	line, err := record.Append(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if err := d.Decode(&all); err != nil {
		t.Fatal(err)
	}
	null, known = map[string]any{}, map[string]any{}
	for k, v := range all {
		if v == nil {
			null[k] = v
		} else {
			known[k] = v
		}
	}
	return null, known
}

// Each field that a source knows must show up in the record, and none that it
// doesn't.
func TestWhatIsKnownIsReportedAndNothingElse(t *testing.T) {
	var p sample.Process
	v := reflect.ValueOf(&p).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Uint64, reflect.Uint32:
			f.SetUint(uint64(1000 + i))
		case reflect.Int32:
			f.SetInt(int64(1000 + i))
		}
	}
	p.ID = sample.ID{PID: 5, StartTicks: 250}
	p.State = 'S'
	// Labels that no record has, and RSS, which is a sum.
	silent := sample.SetOf(sample.ExecID, sample.CgroupID, sample.FDTable)

	p.Known = 0
	var r record.Process
	builder().Process(&r, &aggregate.Process{Process: p}, nil)
	null, _ := nulls(t, &r)
	unknown := len(null)
	for f := range sample.NumFields {
		p.Known = sample.SetOf(f)
		builder().Process(&r, &aggregate.Process{Process: p}, nil)
		null, known := nulls(t, &r)
		want := unknown - 1
		if silent.Has(f) {
			want = unknown
		}
		if len(null) != want {
			t.Errorf("with %v alone %d fields are null, want %d", f, len(null), want)
		}
		if at := f.Info().At; at != nil && !silent.Has(f) {
			if !hasValue(known, *at(&p), f.Info()) {
				t.Errorf("%v (%d) is not in %v", f, *at(&p), known)
			}
		}
	}
}

func hasValue(known map[string]any, want uint64, info *sample.Info) bool {
	for k, v := range known {
		n, ok := v.(json.Number)
		if !ok || !strings.HasPrefix(k, info.Name) {
			continue
		}
		f, _ := n.Float64()
		if info.Unit == sample.Nanoseconds {
			f *= 1e9
		}
		if uint64(f+0.5) == want {
			return true
		}
	}
	return false
}

func TestStartTime(t *testing.T) {
	var r record.Process
	builder().Process(&r, &aggregate.Process{Process: sample.Process{ID: sample.ID{PID: 1, StartTicks: 1234}}}, nil)
	if want := boot.Add(12340 * time.Millisecond); !r.StartTime.Or(time.Time{}).Equal(want) {
		t.Errorf("started %v, want %v", r.StartTime, want)
	}
}

// A start time stays the same while the clocks tremble, and follows a step.
func TestStartTimeIsSteady(t *testing.T) {
	b := NewBuilder(record.SourceEBPF)
	at := func(jitter time.Duration) time.Time {
		b.SetClocks(boot.Add(time.Hour+jitter), time.Hour, time.Hour)
		var r record.Process
		b.Process(&r, &aggregate.Process{Process: sample.Process{ID: sample.ID{PID: 1, StartTicks: 7}}}, nil)
		return r.StartTime.Or(time.Time{})
	}
	first := at(0)
	if want := boot.Add(70 * time.Millisecond); !first.Equal(want) {
		t.Errorf("started %v, want %v", first, want)
	}
	for _, jitter := range []time.Duration{time.Microsecond, -9 * time.Millisecond, 30 * time.Millisecond} {
		if got := at(jitter); !got.Equal(first) {
			t.Errorf("with %v between the clocks it started %v, before %v", jitter, got, first)
		}
	}
	if got := at(-time.Minute); !got.Equal(first.Add(-time.Minute)) {
		t.Errorf("after a step it started %v", got)
	}
}

func TestForeignNames(t *testing.T) {
	b := builder()
	p := &aggregate.Process{Process: sample.Process{Comm: sample.MakeComm([]byte("a)\xff\x1b[2J\n"))}}
	p.Identity = &sample.Identity{Exe: "/bin/\xfe", Cgroup: "/x y"}
	var r record.Process
	b.Process(&r, p, nil)
	if r.Comm != "a)\\xff\x1b[2J\n" || r.Exe.Or("") != `/bin/\xfe` || r.Cgroup.Or("") != "/x y" {
		t.Errorf("%q, %q, %q", r.Comm, r.Exe.Or(""), r.Cgroup.Or(""))
	}
	if r.ContainerID.Known() || r.Unit.Known() || r.Cmdline != nil {
		t.Error("what is empty is known")
	}
	line, err := record.Append(nil, &r)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.ContainsAny(line[:len(line)-1], "\x1b\n") {
		t.Errorf("a name breaks the line: %q", line)
	}
}

func TestDue(t *testing.T) {
	p := &aggregate.Process{Process: sample.Process{ID: sample.ID{PID: 17}}}
	times := 0
	for s := range 600 {
		now := time.Duration(s) * time.Second
		if Active.Due(p.ID.PID, p.Active, now-time.Second, now) {
			times++
		}
	}
	if times != 10 {
		t.Errorf("a still process is reported %d times in ten minutes, want 10", times)
	}
	// Ticks longer than a minute report all.
	if !Active.Due(p.ID.PID, p.Active, 0, 90*time.Second) {
		t.Error("not reported after 90 s")
	}
	perTick := map[int]int{}
	for pid := range int32(6000) {
		p.ID.PID = pid
		for s := range 60 {
			now := time.Hour + time.Duration(s)*time.Second
			if Active.Due(p.ID.PID, p.Active, now-time.Second, now) {
				perTick[s]++
			}
		}
	}
	for s, n := range perTick {
		if n != 100 {
			t.Errorf("second %d reports %d of 6000, want 100", s, n)
		}
	}
	p.Active = true
	if !Active.Due(p.ID.PID, p.Active, 0, 0) || !All.Due(p.ID.PID, p.Active, 0, 0) || None.Due(p.ID.PID, p.Active, 0, 0) {
		t.Error("an active process: active and all report it, none does not")
	}
}

func TestInferredExit(t *testing.T) {
	p := &aggregate.Process{Process: sample.Process{ID: sample.ID{PID: 4, StartTicks: 9}, CPUNanos: 15e8, Known: sample.SetOf(sample.CPU)}}
	p.Identity = &sample.Identity{Exe: "/bin/x"}
	var r record.Exit
	builder().InferredExit(&r, p)
	if !r.Inferred || r.CPUFinal || r.ExitCode.Known() || r.ExitTime.Known() || r.CPUSecondsTotal.Or(0) != 1.5 || r.Exe.Or("") != "/bin/x" {
		t.Errorf("%+v", r)
	}
}

func TestExit(t *testing.T) {
	e := &sample.Exit{
		P:    sample.Process{ID: sample.ID{PID: 4, StartTicks: 9}, Known: sample.SetOf(sample.CPU), CPUNanos: 2e9},
		Time: boot, Code: record.Some(3), CPUFinal: true, Exe: []byte("/bin/true\xff"),
	}
	var r record.Exit
	builder().Exit(&r, e, nil)
	if r.ExitCode.Or(0) != 3 || r.ExitSignal.Known() || !r.CPUFinal || r.Inferred || r.Exe.Or("") != `/bin/true\xff` ||
		!r.ExitTime.Or(time.Time{}).Equal(boot) || r.CPUSecondsTotal.Or(0) != 2 {
		t.Errorf("%+v", r)
	}
	builder().Exit(&r, e, &sample.Identity{Exe: "/bin/seen", Unit: "a.service"})
	if r.Exe.Or("") != `/bin/true\xff` || r.Unit.Or("") != "a.service" {
		t.Errorf("exe %q of what it ran last, unit %q of what the snapshot saw", r.Exe.Or(""), r.Unit.Or(""))
	}
	e.Exe = nil
	builder().Exit(&r, e, &sample.Identity{Exe: "/bin/seen"})
	if r.Exe.Or("") != "/bin/seen" {
		t.Errorf("exe %q of what the snapshot saw", r.Exe.Or(""))
	}
}

func TestMakingRecordsAllocatesNothing(t *testing.T) {
	b := builder()
	p := &aggregate.Process{Process: sample.Process{ID: sample.ID{PID: 4, StartTicks: 9}, Comm: sample.MakeComm([]byte("nginx")), State: 'S', Known: sample.AllFields}}
	p.Identity = &sample.Identity{Exe: "/usr/sbin/nginx", Cgroup: "/system.slice/nginx.service", Unit: "nginx.service"}
	var r record.Process
	b.Process(&r, p, nil)
	if n := testing.AllocsPerRun(100, func() { b.Process(&r, p, nil) }); n != 0 {
		t.Errorf("%v allocations per record", n)
	}
}

func TestGeneratedCode(t *testing.T) {
	node := record.Frame{Function: record.Some("uv_fs_open"), Module: record.Some("/usr/bin/node")}
	stripped := record.Frame{Module: record.Some("/opt/x/server")}
	gone := record.Frame{Language: record.Some("python")}
	for _, c := range []struct {
		stack []record.Frame
		from  int
		n     int
		text  string
	}{
		{[]record.Frame{node, {}, {}, node}, 1, 2, "2 frames of generated code: node names it if run with --perf-basic-prof --interpreted-frames-native-stack"},
		{[]record.Frame{stripped, {}}, 1, 1, "1 frame of generated code"},
		{[]record.Frame{node, {}}, 0, 0, ""},
		{[]record.Frame{stripped, {}}, 0, 0, ""},
		{[]record.Frame{gone, gone}, 0, 0, ""},
		{nil, 0, 0, ""},
	} {
		n := Generated(c.stack[c.from:])
		if n != c.n || n > 0 && GeneratedText(n, c.stack) != c.text {
			t.Errorf("%v from %d: %d, %q", c.stack, c.from, n, GeneratedText(n, c.stack))
		}
	}
}

// Texts that are kept so that equal ones are one string take no more than a bound, however
// long each is.
func TestKeptTextsAreBounded(t *testing.T) {
	b := NewBuilder(record.SourceProcfs)
	long := strings.Repeat("/d", 2000)
	for n := range 10_000 {
		if got := b.text(fmt.Sprint(long, n)).Or(""); got != fmt.Sprint(long, n) {
			t.Fatal(got)
		}
	}
	kept := 0
	for s, text := range b.exes {
		kept += len(s) + len(text)
	}
	if kept > maxTextBytes || kept == 0 {
		t.Errorf("%d bytes are kept, in %d texts", kept, len(b.exes))
	}
}
