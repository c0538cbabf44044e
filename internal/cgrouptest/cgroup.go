// Package cgrouptest makes cgroups for tests, on hosts of version 1, version 2 and
// both. It is for tests only.
package cgrouptest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const root = "/sys/fs/cgroup"

var controllers = []string{"memory", "pids", "cpu", "cpuacct", "cpuset"}

// Cgroup is one cgroup, in the hierarchy of every controller.
type Cgroup struct {
	t    testing.TB
	path string
	dirs map[string]string // by controller
	V2   bool
}

// New makes a cgroup below the root, which goes with the test. It skips where
// there are no cgroups, or none may be made.
func New(t testing.TB) *Cgroup {
	t.Helper()
	g := &Cgroup{t: t, path: "/", dirs: map[string]string{}}
	_, err := os.Stat(root + "/cgroup.controllers")
	g.V2 = err == nil
	for _, c := range controllers {
		dir := filepath.Join(root, c)
		if g.V2 {
			dir = root
		}
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			g.dirs[c] = dir
		}
	}
	if len(g.dirs) == 0 {
		t.Skip("no cgroups are mounted at " + root)
	}
	return g.Child("rmagent-headroom-" + strconv.Itoa(os.Getpid()) + "-" + strings.ReplaceAll(t.Name(), "/", "-"))
}

// Child makes a cgroup below g.
func (g *Cgroup) Child(name string) *Cgroup {
	g.t.Helper()
	c := &Cgroup{t: g.t, path: strings.TrimSuffix(g.path, "/") + "/" + name, dirs: map[string]string{}, V2: g.V2}
	for controller, dir := range g.dirs {
		if g.V2 { // refused where the kernel lacks it
			os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
		}
		c.dirs[controller] = filepath.Join(dir, name)
		if err := os.Mkdir(c.dirs[controller], 0o755); err != nil && !os.IsExist(err) {
			g.t.Skip("may not make cgroups here: ", err)
		}
	}
	g.t.Cleanup(c.remove)
	if cpus, ok := c.dirs["cpuset"]; ok && !g.V2 { // version 1 wants them set before a process enters
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(cpus), file))
			if err == nil {
				err = os.WriteFile(filepath.Join(cpus, file), b, 0)
			}
			if err != nil {
				g.t.Fatal(err)
			}
		}
	}
	return c
}

// remove removes the cgroup, whose processes have been waited for: the kernel may
// take a moment.
func (g *Cgroup) remove() {
	for _, dir := range g.dirs {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			err := os.Remove(dir)
			if err == nil || os.IsNotExist(err) {
				break
			}
			if time.Now().After(deadline) {
				g.t.Errorf("remove cgroup: %v", err)
				break
			}
		}
	}
}

// Path is the cgroup's path, in every hierarchy.
func (g *Cgroup) Path() string { return g.path }

// Dir is the cgroup's directory in the hierarchy of a controller.
func (g *Cgroup) Dir(controller string) string { return g.dirs[controller] }

// Has reports whether a controller is enabled in g.
func (g *Cgroup) Has(file string) bool {
	name, _ := g.file(file)
	_, err := os.Stat(name)
	return err == nil
}

// file returns where a limit is that version 2 calls so.
func (g *Cgroup) file(name string) (path string, v1 bool) {
	controller, _, _ := strings.Cut(name, ".")
	if !g.V2 {
		switch name {
		case "memory.max":
			name = "memory.limit_in_bytes"
		case "cpu.max":
			name = "cpu.cfs_quota_us"
		}
	}
	return filepath.Join(g.dirs[controller], name), !g.V2
}

// Limit sets a limit, by version 2's name; cpu.max has a period of 100 ms.
func (g *Cgroup) Limit(name string, value uint64) {
	g.t.Helper()
	file, v1 := g.file(name)
	text := strconv.FormatUint(value, 10)
	if name == "cpu.max" && !v1 {
		text = fmt.Sprintf("%d 100000", value)
	}
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		g.t.Fatal(err)
	}
}

// SetCPUs limits the cgroup to a list of CPUs.
func (g *Cgroup) SetCPUs(list string) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dirs["cpuset"], "cpuset.cpus"), []byte(list), 0); err != nil {
		g.t.Fatal(err)
	}
}

// Add moves a process into the cgroup, of all controllers or of those named.
func (g *Cgroup) Add(pid int, only ...string) {
	g.t.Helper()
	if len(only) == 0 {
		only = controllers
	}
	for _, c := range only {
		dir, ok := g.dirs[c]
		if !ok {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			g.t.Fatal(err)
		}
	}
}
