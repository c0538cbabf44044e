package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rmagent/internal/category"
)

// Makeflow, as Debian ships it, has its rules measured and limited by rmagent, and
// does not know.
func TestMakeflowUsesUs(t *testing.T) {
	makeflow, err := exec.LookPath("makeflow")
	if err != nil {
		t.Fatal("makeflow is not installed: scripts/setup test")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, bin := t.TempDir(), t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "resource_monitor")); err != nil {
		t.Fatal(err)
	}
	const rules = `CATEGORY="small"
MEMORY=1000
a:
	head -c 30000000 /dev/zero > a
b: a
	cat a > /dev/null; echo done > b
CATEGORY="big"
DISK=10
c: b
	head -c 90000000 /dev/zero > c; sleep 60
`
	if err := os.WriteFile(filepath.Join(dir, "Makeflow"), []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := agentCommand(t) // for its environment
	cmd.Path, cmd.Args, cmd.Dir = makeflow, []string{"makeflow", "-T", "local", "--monitor", "mon", "Makeflow"}, dir
	cmd.Env = append(cmd.Env, asAgent+"=resource_monitor", "PATH="+bin+":"+os.Getenv("PATH"),
		"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1") // it is built with MPI, and uses none here
	r := runToEnd(t, cmd)
	if !strings.Contains(r.stderr+r.stdout, "sleep 60 failed with exit code 2") {
		t.Errorf("a rule above its limit: exit status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
	set := category.NewSet()
	for _, name := range []string{"resource-rule-0.summary", "resource-rule-1.summary"} {
		if err := readJobs(set, filepath.Join(dir, "mon", name)); err != nil {
			t.Errorf("%v\n%s%s", err, r.stdout, r.stderr)
		}
	}
	if n := set.Get(category.All).Counts(); n.Jobs != 2 || n.Exhausted+n.Signalled+n.Unclear > 0 {
		t.Errorf("jobs: %+v", n)
	}
}
