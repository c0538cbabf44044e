package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rmagent/internal/vmtest"
	"rmagent/record"
)

// cross is Debian's C compiler for arm64, and where its libraries are.
const (
	crossCompiler = "aarch64-linux-gnu-gcc"
	crossLibrary  = "/usr/aarch64-linux-gnu/lib/"
)

// On an arm64 machine, culprits are named as they are here, and what is held where they
// leak is what they say. The machine is emulated.
func TestLeaksOnARM64(t *testing.T) {
	kernel := os.Getenv("RMAGENT_TEST_ARM64")
	if kernel == "" {
		t.Skip("it emulates an arm64 machine for a minute or two: make test-arm64")
	}
	t.Setenv("GOARCH", "arm64")
	t.Setenv("CGO_ENABLED", "0")
	work := t.TempDir()
	for _, words := range [][]string{
		{"go", "build", "-o", work + "/rmagent", "."},
		{"go", "build", "-o", work + "/leakdrive", "../../testdata/programs/leakdrive"},
		{"go", "build", "-o", work + "/vmexec", "../../internal/vmtest/vmexec"},
	} {
		if text, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", words, err, text)
		}
	}
	if err := os.WriteFile(work+"/hostname", []byte("guest\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	g := &vmtest.Guest{
		Kernel: kernel, Image: absolute("../../.cache/kernels/vmlinuz-" + kernel), MemoryMiB: 1024, CPUs: 2,
		Dir: "/tmp", Program: work + "/leakdrive", Init: work + "/vmexec", Args: []string{"/bin/rmagent"},
		Files: []vmtest.File{{Guest: "/bin/rmagent", Host: work + "/rmagent"}, {Guest: "/etc/hostname", Host: work + "/hostname"}},
	}
	for _, library := range []string{"ld-linux-aarch64.so.1", "libc.so.6"} {
		g.Files = append(g.Files, vmtest.File{Guest: "/lib/" + library, Host: crossLibrary + library})
	}
	leaking := map[string]*leaker{}
	for i := range leakers {
		l := leakers[i]
		if !slices.Contains([]string{"c", "c-frame-pointers", "c-static", "go", "go-stripped"}, l.name) {
			continue
		}
		if l.build[0] == "gcc" {
			l.build = append([]string{crossCompiler}, l.build[1:]...)
		}
		program := "/bin/" + l.name
		g.Files = append(g.Files, vmtest.File{Guest: program, Host: l.compile(t)})
		g.Args = append(g.Args, program)
		leaking[program] = &l
	}
	var out bytes.Buffer
	status, console, err := g.Run(context.Background(), &out)
	if err != nil || status != 0 {
		t.Fatalf("exit status %d, %v: %s\n%s", status, err, &out, console)
	}
	checkARM64(t, leaking, &out)
}

// checkARM64 reads what leakdrive printed.
func checkARM64(t *testing.T, leaking map[string]*leaker, out *bytes.Buffer) {
	t.Helper()
	type told struct {
		program string
		leaked  uint64
	}
	of := map[int32]told{}
	checked := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		var pid int32
		var is told
		if n, _ := fmt.Sscanf(line, "leaked %s %d %d", &is.program, &pid, &is.leaked); n == 3 {
			of[pid] = is
			continue
		}
		var r record.Leak
		if !strings.HasPrefix(line, "{") {
			continue
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		is, known := of[r.PID]
		if !known || is.leaked == 0 {
			t.Errorf("%d of %s (%d) leaked", is.leaked, is.program, r.PID)
			continue
		}
		checked++
		t.Run(filepath.Base(is.program), func(t *testing.T) {
			var all, traced uint64 // some came before it was traced
			for i := range r.Sites {
				s := &r.Sites[i]
				if s.Target.Or("") != "/etc/hostname" {
					continue
				}
				all += s.Held
				if len(s.Stack) > 0 {
					traced += s.Held
					leaking[is.program].check(t, s)
				}
			}
			if all != is.leaked || traced < all/2 {
				t.Errorf("%d are held, %d of them traced, of %d that it leaked", all, traced, is.leaked)
			}
		})
	}
	if checked != len(leaking) {
		t.Errorf("%d of %d programs are told of: %s", checked, len(leaking), out)
	}
}
