package python

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rmagent/internal/elffile"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
	"rmagent/internal/stack"
	"rmagent/internal/symbol"
	"rmagent/record"
)

// interpreters are those that the test runs: Debian's, and more that
// RMAGENT_PYTHONS names, separated by commas.
func interpreters() []string {
	list := []string{"/usr/bin/python3"}
	if more := os.Getenv("RMAGENT_PYTHONS"); more != "" {
		list = append(list, strings.Split(more, ",")...)
	}
	return list
}

// nowhere finds that a process has all that it is asked for.
type nowhere struct{}

func (nowhere) Addresses(_ sample.ID, _ func(string) bool, symbols []string) ([]uint64, error) {
	return make([]uint64, len(symbols)), nil
}

// Processes whose memory can't be read for ever keep others from being read, and nobody
// waits for that to end.
func TestNobodyWaitsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewProcesses(nowhere{})
		for range maxStuck {
			r.stuck <- struct{}{}
		}
		for pid := range int32(100) {
			r.Look(sample.ID{PID: 1 << 30, StartTicks: uint64(pid)})
		}
		time.Sleep(turnTime) // of the bubble
		synctest.Wait()
		for pid := range int32(100) {
			if !r.Looked(sample.ID{PID: 1 << 30, StartTicks: uint64(pid)}) {
				t.Fatalf("process %d is waited for", pid)
			}
		}
		if found := r.Found(); len(found) > 0 {
			t.Errorf("%v", found)
		}
	})
}

// files looks for symbols itself.
type files struct{}

func (files) Addresses(id sample.ID, named func(base string) bool, symbols []string) ([]uint64, error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", id.PID))
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	mappings, err := stack.ParseMaps(maps)
	if err != nil {
		return nil, err
	}
	for i := range mappings {
		m := &mappings[i]
		if !named(filepath.Base(m.Path)) {
			continue
		}
		file, err := os.Open(m.Path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		elf, err := elffile.Open(file)
		if err != nil {
			return nil, err
		}
		defer elf.Close()
		addresses, wanted := make([]uint64, len(symbols)), map[string]*uint64{}
		for i, name := range symbols {
			wanted[name] = &addresses[i]
		}
		vaddr, ok := elf.Vaddr(m.Offset, 0, uint64(os.Getpagesize()))
		if !ok || symbol.Addresses(elf, wanted) == 0 {
			continue
		}
		for i := range addresses {
			addresses[i] += m.Start - vaddr
		}
		return addresses, nil
	}
	return nil, errors.New("no such file")
}

// find looks for the CPython of a process.
func find(t *testing.T, r *Processes, id sample.ID) sample.PythonLayout {
	t.Helper()
	r.Look(id)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if found := r.Found(); len(found) > 0 {
			if len(found) != 1 || found[0].ID != id {
				t.Fatalf("found %+v", found)
			}
			return found[0].Layout
		}
	}
	t.Fatalf("no CPython in process %v", id)
	return sample.PythonLayout{}
}

// The program says itself, by traceback, what frames each of its opens has.
func TestFramesAtOpen(t *testing.T) {
	tracer, err := loader.OpenFDTracer(loader.FDTraceOptions{})
	if err != nil {
		t.Skipf("this kernel does not trace descriptors: %v", err)
	}
	t.Cleanup(func() { tracer.Close() })
	for _, interpreter := range interpreters() {
		t.Run(interpreter, func(t *testing.T) {
			if _, err := os.Stat(interpreter); err != nil {
				t.Fatal(err)
			}
			testOpens(t, tracer, interpreter)
		})
	}
}

func testOpens(t *testing.T, tracer *loader.FDTracer, interpreter string) {
	cmd := exec.Command(interpreter, "testdata/opens.py")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the program said %q", lines.Text())
	}
	pid := cmd.Process.Pid
	id := identify(t, pid)
	r := NewProcesses(files{})
	layout := find(t, r, id)
	if err := tracer.Start([]sample.ID{id}); err != nil {
		t.Fatal(err)
	}
	defer tracer.Stop()
	if err := tracer.SetPython(id, layout); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	want := map[int32]string{}
	for lines.Scan() && lines.Text() != "done" {
		fd, frames, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(fd)
		if err != nil {
			t.Fatalf("the program said %q", lines.Text())
		}
		want[int32(n)] = frames
	}
	got := map[int32]string{}
	var births sample.FDBirths
	deadline := time.Now().Add(10 * time.Second)
	for len(got) < len(want) && time.Now().Before(deadline) {
		if err := tracer.Drain(&births); err != nil {
			t.Fatal(err)
		}
		for _, b := range births.Births {
			if _, asked := want[b.FD]; asked && b.ID == id {
				got[b.FD] = describe(r.Frames(id, b.Python))
			}
		}
		if len(births.Births) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	if len(want) < 8 {
		t.Errorf("%d opens", len(want))
	}
	for fd, w := range want {
		if got[fd] != w {
			t.Errorf("descriptor %d:\n got %s\nwant %s", fd, got[fd], w)
		}
	}
}

func identify(t *testing.T, pid int) sample.ID {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return sample.ID{PID: int32(pid), StartTicks: start}
}

func describe(frames []record.Frame) string {
	var list []string
	for _, f := range frames {
		list = append(list, fmt.Sprintf("%s:%s:%d", f.Function.Or("?"), filepath.Base(f.File.Or("?")), f.Line.Or(0)))
	}
	return strings.Join(list, " ")
}

func TestMerge(t *testing.T) {
	frame := func(name string) record.Frame { return record.Frame{Function: record.Some(name)} }
	native := []record.Frame{frame("open"), frame("os_open"), frame("_PyEval_EvalFrameDefault"), frame("list_sort"),
		frame("_PyEval_EvalFrameDefault.cold"), frame("main")}
	python := []sample.PythonFrame{{}, {Entry: true}, {}, {}, {Entry: true}}
	named := []record.Frame{frame("a"), frame("b"), frame("c"), frame("d"), frame("e")}
	for _, c := range []struct {
		native int
		want   string
	}{
		{6, "open os_open a b list_sort c d e main"},
		{4, "open os_open a b list_sort c d e"}, // the walk ended early
		{0, "a b c d e"},
	} {
		var got []string
		for _, f := range Merge(native[:c.native], python, named) {
			got = append(got, f.Function.Or("?"))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("of %d: %q, want %q", c.native, got, c.want)
		}
	}
	if got := Merge(native, nil, nil); len(got) != len(native) {
		t.Errorf("%d frames without Python's, want %d", len(got), len(native))
	}
}

// Two ways through the interpreter to the same calls are one stack.
func TestMergeLeavesTheInterpreterOut(t *testing.T) {
	in := func(module, name string) record.Frame {
		return record.Frame{Function: record.Some(name), Module: record.Some(module)}
	}
	frames := []sample.PythonFrame{{Entry: true}, {Entry: true}}
	named := []record.Frame{{Function: record.Some("leak")}, {Function: record.Some("<module>")}}
	cold := []record.Frame{in("libc", "open"), in("python", "os_open"), in("python", "PyObject_Vectorcall"),
		in("python", "_PyEval_EvalFrameDefault"), in("lib", "callback"), in("python", "_PyEval_EvalFrameDefault"), in("python", "main"), in("libc", "start")}
	warm := slices.Delete(slices.Clone(cold), 2, 3)
	var got []string
	for _, f := range Merge(cold, frames, named) {
		got = append(got, f.Function.Or("?"))
	}
	if want := "open leak callback <module> start"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !slices.Equal(Merge(cold, frames, named), Merge(warm, frames, named)) {
		t.Error("the calls before and after specialization differ")
	}
}

// What CPython puts below an __init__ once its call is specialized is no program's.
func TestMergeLeavesShimsOut(t *testing.T) {
	in := func(function, file string) record.Frame {
		return record.Frame{Function: record.Some(function), File: record.Some(file)}
	}
	native := []record.Frame{in("open", "open.c"), in("_PyEval_EvalFrameDefault", "ceval.c")}
	cold := []record.Frame{in("A.__init__", "a.py"), in("main", "a.py"), in("<module>", "a.py")}
	warm := slices.Insert(slices.Clone(cold), 1, in("__init__", "__init__"))
	for n := range 2 { // with the interpreter's loop, and without
		before := Merge(native[:len(native)-n], []sample.PythonFrame{{}, {}, {Entry: true}}, cold)
		after := Merge(native[:len(native)-n], []sample.PythonFrame{{}, {}, {}, {Entry: true}}, warm)
		if !slices.Equal(before, after) {
			t.Errorf("%v, want %v", after, before)
		}
	}
}

func TestNoPython(t *testing.T) {
	if p, err := NewProcesses(files{}).find(sample.ID{PID: int32(os.Getpid())}); err == nil {
		t.Errorf("CPython %s in a Go program", p.Version)
	}
	r := NewProcesses(files{})
	if got := r.Frames(sample.ID{PID: 1}, make([]sample.PythonFrame, 3)); got != nil {
		t.Errorf("frames %+v of who is not known", got)
	}
}

// lies is memory that answers with whatever there is.
type lies []byte

func (m lies) ReadAt(p []byte, addr uint64) error {
	if len(m) == 0 {
		return errors.New("no memory")
	}
	for i := range p {
		p[i] = m[(addr+uint64(i))%uint64(len(m))]
	}
	return nil
}

func FuzzPlace(f *testing.F) {
	f.Add([]byte("xdebugpy\x0b\x03"), uint64(0x1000), uint64(0x10c0))
	f.Fuzz(func(t *testing.T, memory []byte, object, instruction uint64) {
		for _, o := range []objects{objects311, objects312} {
			var codeType [8]byte
			_ = lies(memory).ReadAt(codeType[:], object+8)
			p := &Interpreter{memory: lies(memory), objects: o, codes: map[uint64]*code{}, codeType: binary.LittleEndian.Uint64(codeType[:])}
			if place, err := p.Place(object, instruction); err == nil && len([]rune(place.Function)) > maxName {
				t.Errorf("a name of %d bytes", len(place.Function))
			}
		}
		_, _ = Open(lies(memory), Image{Runtime: object, CodeType: object, Version: object})
		lineAt(memory, 1, int(instruction&0xffff))
	})
}
