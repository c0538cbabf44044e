package job

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rmagent/internal/cctools"
)

// nobody is the ordinary user of these tests.
const nobody = 65534

// programVariable has the program of a helper's job, if that is another than its own.
const programVariable = "RMAGENT_JOB_PROGRAM"

// userResult is what a helper that ran a job as an ordinary user says of it.
type userResult struct {
	Source    string
	Killed    bool
	Left      int
	Refused   int
	Err       string
	Processes float64
	AtOnce    float64
	CPU       float64
	Exact     bool // of the CPU time
}

// user LIMIT VALUE WORDS: runs a job by /proc, as exec does, without eBPF.
func helpUser(args []string) {
	tracker, err := OpenProc(ProcOptions{Reap: true})
	check(err)
	o := Options{Cmd: helper(args[2:]...), Tracker: tracker, Grace: -1}
	if program := os.Getenv(programVariable); program != "" {
		o.Cmd.Path = program
	}
	o.Cmd.Stdin, err = os.Open("/dev/zero") // stay never ends by itself
	check(err)
	if args[0] != "none" {
		check(cctools.ParseLimits(args[0]+": "+args[1], &o.Limits))
	}
	r, err := Run(context.Background(), o)
	check(err)
	s := Summarize(r, tracker)
	out := userResult{Source: tracker.Source(), Killed: r.Killed, Left: r.Left, Refused: len(r.Refused), Exact: s.Exactness[cctools.CPUTime] == cctools.Exact}
	out.Processes, _ = s.Measures.Get(cctools.TotalProcesses)
	out.AtOnce, _ = s.Measures.Get(cctools.MaxConcurrentProcesses)
	out.CPU, _ = s.Measures.Get(cctools.CPUTime)
	if r.Err != nil {
		out.Err = r.Err.Error()
	}
	check(tracker.Close())
	check(json.NewEncoder(os.Stdout).Encode(&out))
}

// userGroup is a cgroup of version 2 for everything that an ordinary user runs in a test.
// Root sees by it who is left.
type userGroup struct {
	*testing.T
	group *group
}

// newUserGroup makes one; delegated: as a service manager leaves it to a user
// (cgroups(7), Delegation).
func newUserGroup(t *testing.T, delegated bool) userGroup {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	g, err := newGroup()
	if err != nil {
		t.Skip("no cgroup for the test: ", err)
	}
	t.Cleanup(func() {
		g.kill()
		for deadline := time.Now().Add(10 * time.Second); g.remove() != nil && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond) // the dead leave it
		}
	})
	if delegated {
		for _, name := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
			if err := os.Chown(filepath.Join(g.dir, name), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	return userGroup{t, g}
}

// run runs a job as the user, and says that nobody of it is left.
func (u userGroup) run(limit string, value float64, words ...string) userResult {
	u.Helper()
	return u.runHelper(helper(append([]string{"user", limit, strconv.FormatFloat(value, 'f', -1, 64)}, words...)...))
}

func (u userGroup) runHelper(cmd *exec.Cmd) userResult {
	u.Helper()
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	u.group.take(cmd)
	out, err := cmd.Output()
	if err != nil {
		u.Fatal(err)
	}
	var r userResult
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&r); err != nil {
		u.Fatal(err)
	}
	if r.Err != "" || r.Left != r.Refused {
		u.Errorf("%s, %d left", r.Err, r.Left)
	}
	if left, err := u.group.pids(); err != nil || len(left) > 0 {
		u.Errorf("%d processes are left: %v, %v", len(left), left, err)
	}
	return r
}

// jobGroups are the cgroups that jobs made and did not remove.
func (u userGroup) jobGroups() []string {
	found, _ := filepath.Glob(filepath.Join(u.group.dir, "rmagent-job-*"))
	return found
}

func TestUsersJobs(t *testing.T) {
	for _, delegated := range []bool{true, false} {
		source := map[bool]string{true: "cgroup", false: "procfs"}[delegated]
		t.Run(source, func(t *testing.T) { testUsersJobs(t, delegated, source) })
	}
}

func testUsersJobs(t *testing.T, delegated bool, source string) {
	u := newUserGroup(t, delegated)
	r := u.run("none", 0, "tree", "1", "3", "500") // read several times
	if r.Source != source || r.Killed || r.Processes < 1 || r.AtOnce < 1 {
		t.Errorf("a tree: %+v", r)
	}
	// The daemon is still measured when its parent has gone.
	if r := u.run("none", 0, "daemon", "100"); r.CPU < 0.1 || r.Exact != delegated {
		t.Errorf("a daemon of 100 ms: %+v", r)
	}
	for name, words := range map[string][]string{
		"a tree":  {"tree", "1", "6", "60000"},
		"hopping": {"hop", "60000"},
		"daemon":  {"daemon", "60000"},
		"one":     {"busy", "60000"},
	} {
		limit, value := "wall_time", 0.3
		if name == "a tree" {
			limit, value = "max_concurrent_processes", 3
		}
		t.Run(name, func(t *testing.T) {
			u := userGroup{t, u.group}
			if r := u.run(limit, value, words...); !r.Killed {
				t.Errorf("%s: %+v", strings.Join(words, " "), r)
			}
			if left := u.jobGroups(); len(left) > 0 {
				t.Errorf("cgroups are left: %v", left)
			}
		})
	}
}

// A user whose own processes may open only few files loses none of them.
func TestUsersJobWithFewDescriptors(t *testing.T) {
	const most, chain = 40, 40
	u := newUserGroup(t, false)
	r := u.runHelper(helper("few", strconv.Itoa(most), "user", "none", "0", "chain", strconv.Itoa(chain), "1000"))
	if r.Source != "procfs" || r.AtOnce <= chain {
		t.Errorf("a chain of %d: %+v", chain+1, r)
	}
}

// Who became another user can't be ended: that is said, and it is waited for.
func TestUsersJobThatBecomesRoot(t *testing.T) {
	u := newUserGroup(t, false)
	program := filepath.Join(t.TempDir(), "root")
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err == nil {
		err = os.Chmod(program, os.ModeSetuid|0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Dir(program), filepath.Dir(filepath.Dir(program))} { // the test's own
		os.Chmod(dir, 0o755)
	}
	cmd := helper("user", "memory", "48", "root", "64", "1000")
	cmd.Env = append(cmd.Env, programVariable+"="+program)
	if r := u.runHelper(cmd); !r.Killed || r.Refused != 1 {
		t.Errorf("%+v", r)
	}
}

// TestUsersCPUTime holds what a delegated cgroup tells of a job against wait4.
func TestUsersCPUTime(t *testing.T) {
	u := newUserGroup(t, true)
	const busy = 200
	before := u.usage()
	r := u.run("none", 0, "busy", fmt.Sprint(busy))
	all := u.usage() - before
	if got := time.Duration(r.CPU * float64(time.Second)); got < busy*time.Millisecond || got > all || !r.Exact {
		t.Errorf("CPU %v of %v: %v were charged with who measured it", got, busy*time.Millisecond, all)
	}
}

func (u userGroup) usage() time.Duration {
	var r Reading
	u.group.read(&r)
	return r.Totals.CPU
}
