package cctools

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files; read the difference before committing it")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

// typical is a job that broke a limit, with a hostile name in its command.
func typical() *Summary {
	s := &Summary{
		Category: "render", Command: "render \x1b[2J \xff \"x\" \u009b\u2028\x7f\t", TaskID: "7",
		ExitType: ExitLimits, ExitStatus: 143, LastError: 28, Cause: "the disk was full (ENOSPC)",
		Exceeded:  []Exceeded{{Measure: Memory, Limit: 200, Value: 302.5, Seconds: 0.4123}, {Measure: OpenFiles, Limit: 100, Value: 101, Seconds: 0.4123}},
		Snapshots: []Snapshot{{Name: "started(1)"}, {Name: "half(2),cut(1)"}},
		Host:      "node-1", MonitorVersion: "rmagent 1.0", ExecutableType: "dynamic", MeasuredBy: "ebpf",
		Verbatim: []Field{{"k", "v"}}, Why: map[Measure]string{GPUs: "no NVIDIA driver"}, OOMKills: 1,
		Files: []File{{Path: "/usr/bin/sh", SizeInitial: 125640, SizeFinal: 125640}, {Path: "out\n", Output: true, SizeInitial: -1, SizeFinal: 3}, {Path: "gone", SizeInitial: -1, SizeFinal: -1}},
	}
	m := &s.Measures
	m.Set(Start, 1795619640.829998)
	m.Set(End, 1795619642.8916)
	m.Set(WallTime, 2.061602)
	m.Set(CPUTime, 3.0000004)
	m.SetBytes(Memory, 302*BytesPerMB+BytesPerMB/2)
	m.SetBytes(Disk, 1)
	m.SetBytes(BytesWritten, 100*BytesPerMB)
	m.Set(Bandwidth, 33.55449)
	m.SetCount(TotalProcesses, 501)
	m.SetCount(OpenFiles, 101)
	s.Exactness[CPUTime], s.Exactness[TotalProcesses], s.Exactness[OpenFiles] = Exact, Exact, Exact
	s.Exactness[Memory], s.Exactness[Disk] = Sampled, Sampled
	s.Exactness[BytesWritten] = AtLeast
	s.PeakTimes.Set(Memory, 0.4123)
	s.PeakTimes.Set(OpenFiles, 0.4)
	for i := range s.Snapshots {
		s.Snapshots[i].Set(CPUTime, 0.01*float64(1+i))
		s.Snapshots[i].Set(OpenFiles, 3)
	}
	s.Finish()
	return s
}

func TestSummaryFile(t *testing.T) {
	golden(t, "job.summary", AppendSummary(nil, typical(), FileOptions{}))
	golden(t, "compact.summary", AppendSummary(nil, typical(), FileOptions{Compact: true, CCToolsOnly: true}))
	golden(t, "job.snapshot.00", AppendSnapshot(nil, &typical().Snapshots[0], FileOptions{}))
}

func TestSummaryIsReadBack(t *testing.T) {
	for _, o := range []FileOptions{{}, {Compact: true}} {
		written := typical()
		read, err := ParseSummary(AppendSummary(nil, written, o))
		if err != nil {
			t.Fatal(err)
		}
		for id := range Measure(NumMeasures) {
			want, known := written.Measures.Get(id)
			got, ok := read.Measures.Get(id)
			if ok != known || got != id.Round(want) || read.Exactness[id] != written.Exactness[id] {
				t.Errorf("%s: wrote %v (%s), read %v (%s)", id, want, written.Exactness[id], got, read.Exactness[id])
			}
		}
		if len(read.Exceeded) != 2 || read.Exceeded[0].Limit != 200 || read.ExitType != ExitLimits || read.Category != "render" || read.LastError != 28 {
			t.Errorf("read %+v", read)
		}
	}
}

// cctools' reader ends at an object that it does not know, and complains of an
// array that it does not know.
func TestSummaryHasNothingThatCCToolsStumblesOver(t *testing.T) {
	line := AppendSummary(nil, typical(), FileOptions{Compact: true, CCToolsOnly: true})
	var members map[string]json.RawMessage
	if err := json.Unmarshal(line, &members); err != nil {
		t.Fatal(err)
	}
	for name, value := range members {
		id, ok := MeasureOf(name)
		switch {
		case value[0] == '{' && name != "limits_exceeded" && name != "peak_times":
			t.Errorf("object %s", name)
		case value[0] == '[' && name != "snapshots" && (!ok || id.Ours()):
			t.Errorf("array %s", name)
		}
	}
	if bytes.ContainsAny(line, "\x1b\x7f\n\u009b") || !json.Valid(line) {
		t.Errorf("%q", line)
	}
}

func TestSeries(t *testing.T) {
	var now Measures
	now.Set(Start, 1795619282.322293)
	now.Set(End, 1795619283.332163)
	now.Set(WallTime, 1.00987)
	now.Set(CPUTime, 0.5)
	now.Set(Cores, 0.5/180)
	now.Set(CoresAvg, 0.4951)
	now.Set(Memory, 3.7)
	now.Set(Bandwidth, 0)
	now.SetBytes(Disk, 1)
	b := AppendSeriesRow(AppendSeriesHead(nil, true), &now, true)
	now.Set(WallTime, 181)
	b = AppendSeriesRow(AppendSeriesHead(b, false), &now, false)
	golden(t, "job.series", b)
}

func TestFilesTable(t *testing.T) {
	golden(t, "job.files", AppendFiles(nil, []File{
		{Path: "/usr/bin/sh", Device: 65024, SizeInitial: 125640, SizeFinal: 125640, Opens: 1},
		{Path: "out\n\x1b", Output: true, Device: 65024, SizeInitial: -1, SizeFinal: 3, Opens: 2, Closes: 2, Writes: 17},
	}))
}

// ordered reads JSON with its order and its numbers as they stand there.
func ordered(t *testing.T, d *json.Decoder) any {
	t.Helper()
	token, err := d.Token()
	if err != nil {
		t.Fatal(err)
	}
	switch v := token.(type) {
	case json.Number:
		return number(v)
	case json.Delim:
		var o object
		var list []any
		for d.More() {
			if v == '{' {
				name := ordered(t, d).(string)
				o.add(name, ordered(t, d))
				continue
			}
			list = append(list, ordered(t, d))
		}
		if _, err := d.Token(); err != nil {
			t.Fatal(err)
		}
		if v == '{' {
			return o
		}
		if len(list) == 2 {
			if n, ok := list[0].(number); ok {
				return quantity{n, list[1].(string)}
			}
		}
		var objects []object
		for _, o := range list {
			objects = append(objects, o.(object))
		}
		return objects
	default:
		return v
	}
}

// layout reads a file that cctools wrote and writes it again: the same bytes.
func layout(t *testing.T, data []byte, pretty bool) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	o := ordered(t, d).(object)
	var b bytes.Buffer
	if pretty {
		o.pretty(&b, 0)
	} else {
		o.compact(&b)
	}
	if diff := cmp.Diff(strings.Split(string(data), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf("another layout than cctools': %s", diff)
	}
}
