package pprof

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rmagent/record"
)

func frame(function, file string, line uint64, inlined bool) record.Frame {
	return record.Frame{Function: record.Some(function), File: record.Some(file), Line: record.Some(line),
		Module: record.Some("/usr/bin/api"), Offset: record.Some(line * 16), Inlined: inlined}
}

// The profile has the name of the program, whichever file the innermost frames are of.
func TestAProfileIsNamedByItsProgram(t *testing.T) {
	libc := frame("open", "open.c", 41, false)
	libc.Module = record.Some("/usr/lib/libc.so.6")
	p := Profile(time.Now(), []record.Leak{{PID: 7, Comm: "api", Sites: []record.Site{
		{Held: 2, Type: "file", Stack: []record.Frame{libc, frame("main", "main.c", 20, false), libc}}}}})
	if len(p.Mapping) != 2 || p.Mapping[0].File != "/usr/bin/api" || p.CheckValid() != nil {
		t.Errorf("%v", p.Mapping)
	}
}

// go tool pprof opens the profile, and counts what was put in.
func TestGoToolPprofReadsIt(t *testing.T) {
	list := []record.Leak{{PID: 7, Comm: "api", Sites: []record.Site{
		{Held: 598, Type: "tcp4", Target: record.Some("10.0.0.5:443"), OldestSeconds: record.Some(59.8),
			Stack: []record.Frame{frame("connect_backend", "net.c", 57, true), frame("dial", "net.c", 90, false), frame("main", "main.c", 20, false)}},
		{Held: 12, Type: "file", Stack: []record.Frame{frame("main", "main.c", 20, false)}},
		{Held: 11, Type: "pipe", StackEnd: record.Some("before_tracing")},
	}}}
	p := Profile(time.Now(), list)
	if err := p.CheckValid(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "fds.pb.gz")
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for flag, wants := range map[string][]string{
		"-top":  {"598 96.30%", "connect_backend", "11", "[before_tracing]", "621 total"},
		"-tags": {"10.0.0.5:443", "before_tracing", "tcp4", "pid"},
	} {
		cmd := exec.Command("go", "tool", "pprof", flag, "-nodecount=20", path)
		cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, want := range wants {
			if !strings.Contains(string(out), want) {
				t.Errorf("pprof %s does not say %q:\n%s", flag, want, out)
			}
		}
	}
}
