// Package gputest gives tests a machine with NVIDIA GPUs: the real rmagent-nvml,
// and a libnvidia-ml.so.1 that plays a script (testdata/programs/nvml.c says how).
package gputest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// BuildHelper builds rmagent-nvml into a directory and returns its path.
func BuildHelper(dir string) (string, error) {
	path := filepath.Join(dir, "rmagent-nvml")
	if out, err := exec.Command(module("scripts/build-nvml"), path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build rmagent-nvml: %w: %s", err, out)
	}
	return path, nil
}

// Machine is one with GPUs.
type Machine struct {
	// Root has what a driver has in /proc and /dev.
	Root string
	// Library is the directory of the library, for LD_LIBRARY_PATH.
	Library string
}

// New returns a machine whose library plays a script. Flags are for the C compiler.
func New(t testing.TB, script string, flags ...string) *Machine {
	t.Helper()
	m := &Machine{Root: t.TempDir(), Library: t.TempDir()}
	m.Load(t)
	build(t, filepath.Join(m.Library, "libnvidia-ml.so.1"), flags)
	m.Play(t, script)
	return m
}

func build(t testing.TB, library string, flags []string) {
	t.Helper()
	args := append([]string{"-shared", "-fPIC", "-O1", "-Wall", "-o", library, module("testdata/programs/nvml.c")}, flags...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("build the library: %v: %s", err, out)
	}
}

// Load loads the driver: its files appear.
func (m *Machine) Load(t testing.TB) {
	t.Helper()
	for _, path := range []string{"/proc/driver/nvidia/version", "/dev/nvidiactl"} {
		if err := os.MkdirAll(filepath.Dir(m.Root+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(m.Root+path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Unload unloads the driver.
func (m *Machine) Unload(t testing.TB) {
	t.Helper()
	if err := os.RemoveAll(m.Root + "/proc"); err != nil {
		t.Fatal(err)
	}
}

// Play changes the script, at once.
func (m *Machine) Play(t testing.TB, script string) {
	t.Helper()
	next := filepath.Join(m.Library, "next")
	if err := os.WriteFile(next, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(m.Library, "script")); err != nil {
		t.Fatal(err)
	}
}

// Card is a line of the script: a card with an index in its UUID.
func Card(index int, percent, used uint64) string {
	return fmt.Sprintf("gpu GPU-%d %d %d %d %d %d %d %d\n", index, percent, uint64(40<<30), used, 40+index, 100_000+index, index, index+1)
}

// Eight is a machine of eight cards, of which one is full.
func Eight(full int) string {
	script := "driver 550.54\n"
	for i := range 8 {
		if i == full {
			script += Card(i, 97, 39<<30)
		} else {
			script += Card(i, 3, 1<<30)
		}
	}
	return script
}

// module returns the path of a file in the module.
func module(path string) string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "../../..", path)
}
