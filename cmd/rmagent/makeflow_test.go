package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rmagent/internal/category"
)

// The rules of a workflow: the last breaks its limit.
const makeflowRules = `CATEGORY="small"
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

// makeflow is a run of Makeflow, as Debian ships it, that finds this program as
// resource_monitor.
func makeflow(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("makeflow")
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
	if err := os.WriteFile(filepath.Join(dir, "Makeflow"), []byte(makeflowRules), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := agentCommand(t) // for its environment
	cmd.Path, cmd.Args, cmd.Dir = path, append([]string{"makeflow", "--monitor", "mon"}, append(args, "Makeflow")...), dir
	cmd.Env = append(cmd.Env, asAgent+"=resource_monitor", "PATH="+bin+":"+os.Getenv("PATH"),
		"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", "OMPI_MCA_orte_tmpdir_base="+t.TempDir()) // it is built with MPI, and uses none here
	return cmd
}

// checkMakeflow says that the rules were measured, and the last one ended.
func checkMakeflow(t *testing.T, cmd *exec.Cmd, r result) {
	t.Helper()
	if !strings.Contains(r.stderr+r.stdout, "sleep 60 failed with exit code 2") {
		t.Errorf("a rule above its limit: exit status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
	set := category.NewSet()
	for _, name := range []string{"resource-rule-0.summary", "resource-rule-1.summary"} {
		if err := readJobs(set, filepath.Join(cmd.Dir, "mon", name)); err != nil {
			t.Errorf("%v\n%s%s", err, r.stdout, r.stderr)
		}
	}
	if n := set.Get(category.All).Counts(); n.Jobs != 2 || n.Exhausted+n.Signalled+n.Unclear > 0 {
		t.Errorf("jobs: %+v", n)
	}
}

// Makeflow has its rules measured and limited by rmagent, and does not know.
func TestMakeflowUsesUs(t *testing.T) {
	cmd := makeflow(t, "-T", "local")
	checkMakeflow(t, cmd, runToEnd(t, cmd))
}

// TestWorkQueueUsesUs has Makeflow be a manager of Work Queue, which sends this program to a
// worker, where the rules run.
func TestWorkQueueUsesUs(t *testing.T) {
	path, err := exec.LookPath("work_queue_worker")
	if err != nil {
		t.Fatal("work_queue_worker is not installed: scripts/setup test")
	}
	cmd := makeflow(t, "-T", "wq", "-Z", "port", "--retry-count", "0")
	port := filepath.Join(cmd.Dir, "port")
	worker := exec.Command(path, "--single-shot", "--cores", "1", "--memory", "4000", "--disk", "4000", "-t", "60", "-s", t.TempDir(), "localhost")
	worker.Env = append(slices.Clone(cmd.Env), asAgent+"=cctools-monitor") // as the manager calls what it sends
	var said bytes.Buffer
	worker.Stdout, worker.Stderr = &said, &said
	ended := make(chan error, 1)
	go func() {
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if b, err := os.ReadFile(port); err == nil && len(bytes.TrimSpace(b)) > 0 {
				worker.Args = append(worker.Args, string(bytes.TrimSpace(b)))
				ended <- worker.Run()
				return
			}
		}
		ended <- errors.New("the manager does not say its port")
	}()
	r := runToEnd(t, cmd)
	if err := <-ended; err != nil {
		t.Logf("the worker: %v", err) // that the manager went away
	}
	checkMakeflow(t, cmd, r)
	if t.Failed() {
		t.Log(said.String())
	}
}
