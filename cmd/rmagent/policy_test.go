package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cgrouptest"
	"rmagent/internal/childtest"
	"rmagent/record"
)

// shm is where the agent of these tests has a small tmpfs of its own.
const shm, shmBytes = "/dev/shm", 8 << 20

// hog takes too much of one thing each time that it is let go on, and gives it back the
// next time.
func hog(words []string, say func(), wait func()) {
	say()
	wait()
	switch words[1] {
	case "memory":
		b, err := unix.Mmap(-1, 0, 56<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		check(err)
		for i := 0; i < len(b); i += os.Getpagesize() {
			b[i] = 1
		}
		wait()
		check(unix.Munmap(b))
	case "fds":
		check(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 200, Max: 200}))
		var open []int
		for len(open) == 0 || open[len(open)-1] < 189 { // 190 are open, at least
			fd, err := unix.Open("/dev/null", unix.O_CLOEXEC, 0)
			check(err)
			open = append(open, fd)
		}
		wait()
		for _, fd := range open {
			check(unix.Close(fd))
		}
	case "cpu":
		end := inBackground(wait)
		for over := false; !over; {
			select {
			case <-end:
				over = true
			default:
			}
		}
	case "disk": // most at once, the rest little by little
		f, err := os.Create(words[2])
		check(err)
		_, err = f.Write(make([]byte, shmBytes*78/100))
		check(err)
		end := inBackground(wait)
		for over := false; !over; {
			select {
			case <-end:
				over = true
			case <-time.After(20 * time.Millisecond):
				f.Write(make([]byte, 16<<10)) // it may be full
			}
		}
		check(f.Truncate(0))
	}
	wait()
}

// inBackground returns a channel that is closed when f has returned.
func inBackground(f func()) <-chan struct{} {
	end := make(chan struct{})
	go func() {
		f()
		close(end)
	}()
	return end
}

// agentWithTmpfs mounts a small tmpfs where only it sees it, and becomes the agent.
func agentWithTmpfs() {
	check(unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	check(unix.Mount("tmpfs", shm, "tmpfs", 0, "size="+strconv.Itoa(shmBytes)))
	os.Unsetenv(asHelper)
	check(syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), asAgent+"=1")))
}

// withTmpfs has an agent's command run where that is mounted.
func withTmpfs(cmd *exec.Cmd) {
	cmd.Env = append(cmd.Env, asHelper+"=tmpfs")
	cmd.Env = slices.DeleteFunc(cmd.Env, func(s string) bool { return strings.HasPrefix(s, asAgent+"=") })
	cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
}

// limitedMemory is a cgroup that may have 64 MiB.
func limitedMemory(t *testing.T) *cgrouptest.Cgroup {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("cgroups and mounts need root")
	}
	limited := cgrouptest.New(t)
	if !limited.Has("memory.max") {
		t.Skip("there is no memory controller")
	}
	limited.Limit("memory.max", 64<<20)
	return limited
}

// startPolicy starts an agent with a configuration, which records into out.
func startPolicy(t *testing.T, policy string, change ...func(*exec.Cmd)) (a *started, out string) {
	t.Helper()
	cmd := agentCommand(t, "run", "--config", "policy.yaml", "--jsonl", "out.jsonl", "--log-format", "json", "--log-file", "log")
	for _, f := range change {
		f(cmd)
	}
	if err := os.WriteFile(filepath.Join(cmd.Dir, "policy.yaml"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	a = start(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(cmd.Dir, "log"))
			t.Logf("%s%s", a.stderr.String(), log)
		}
	})
	return a, filepath.Join(cmd.Dir, "out.jsonl")
}

const hogPolicy = `
interval: 200ms
check_interval: 200ms
observation_period: 1s
target_utilization: 0.8
max_memory_usage_mb: 0
max_cpu_usage_percent: 0
max_network_usage_bytes_per_second: 0
max_cgroup_memory_usage_percent: 80
max_fd_usage_percent: 80
max_disk_usage_percent: 80
thresholds:
  cpu: {hold: 1s}
  memory: {critical: 0.85, hold: 1s}
  fd: {hold: 1s}
  disk: {hold: 1s}
tracked:
  - {label: burner, pid: %d, max_cpu_percent: 5, prune: true}
protected: ["name:no-such-thing"]
`

// What takes too much on a real host gets a state, is the first that could go, and gets
// its state back when it gives it back. Replayed, the same is decided.
func TestPolicyOnARealHost(t *testing.T) {
	limited := limitedMemory(t)
	memory, burner, full := helper(t, "hog memory"), helper(t, "hog cpu"), helper(t, "hog fds")
	limited.Add(memory.Process.Pid)

	a, out := startPolicy(t, fmt.Sprintf(hogPolicy, burner.Process.Pid), withTmpfs)
	await(t, "the first reading", func() bool { return size(out) > 0 })
	disk := helper(t, fmt.Sprintf("hog disk /proc/%d/root%s/file", a.cmd.Process.Pid, shm))

	for _, h := range []struct {
		resource, target string
		hog              *childtest.Child
	}{
		{"memory", "cgroup:" + limited.Path(), memory},
		{"disk", "mount:" + shm, disk},
		{"fd", "", full},
		{"cpu", "", burner},
	} {
		t.Run(h.resource, func(t *testing.T) {
			pid := h.hog.PID()
			target := func(s string) bool {
				return s == h.target || h.target == "" && strings.HasPrefix(s, fmt.Sprintf("pid:%d@", pid))
			}
			h.hog.Say("")
			await(t, "the state", func() bool { return stateOf(t, out, h.resource, target) == record.StateCritical })
			await(t, "the prune decision", func() bool { return firstToGo(t, out, h.resource, target, pid) })
			h.hog.Say("")
			await(t, "the end of the state", func() bool { return stateOf(t, out, h.resource, target) == record.StateNormal })
			await(t, "the end of the decision", func() bool {
				prunes := decided[*record.Prune](t, out)
				return reasonFor(prunes[len(prunes)-1], h.resource, target) == nil
			})
		})
	}
	a.stop()
	replayed(t, out)
}

// Rules of the configuration select processes by name, by systemd unit and by cgroup, and
// nobody else; a selected one has the limits of each rule that selects it.
func TestTargetsByNameUnitAndCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	group := cgrouptest.New(t)
	unit, below := group.Child("hog-1.service"), group.Child("pods").Child("a")
	named, inUnit, inCgroup, nobody := helper(t, "hostile"), helper(t, "still"), helper(t, "still"), helper(t, "still")
	unit.Add(inUnit.Process.Pid)
	below.Add(inCgroup.Process.Pid)
	each(t, func(t *testing.T, source string) {
		cmd := agentCommand(t, "run", "--config", "policy.yaml", "--source", source, "--jsonl", "out.jsonl", "--log-file", "log")
		err := os.WriteFile(filepath.Join(cmd.Dir, "policy.yaml"), fmt.Appendf(nil, `
interval: 200ms
tracked:
  - {label: by name, name: "a) R*", max_fd: 1}
  - {label: by unit, unit: "hog-?.service", max_fd: 1}
  - {label: by cgroup, cgroup: "%s/p*", max_fd: 1}
  - {label: by both, cgroup: "%[1]s", unit: "hog*", max_fd: 2}
`, group.Path()), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		s := start(t, cmd)
		out := filepath.Join(cmd.Dir, "out.jsonl")
		want := map[string][]int32{"by name": {named.PID()}, "by unit": {inUnit.PID()}, "by cgroup": {inCgroup.PID()}, "by both": {inUnit.PID()}}
		await(t, "all limits", func() bool { return len(selected(t, out)) == len(want) })
		s.stop()
		if got := selected(t, out); !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("selected are %v, want %v, and never %d", got, want, nobody.PID())
		}
		replayed(t, out)
	})
}

// selected are the processes that broke limits of descriptors, by the rule's label.
func selected(t *testing.T, out string) map[string][]int32 {
	t.Helper()
	pids := map[string][]int32{}
	for _, c := range decided[*record.StateChange](t, out) {
		if _, rule, tracked := strings.Cut(c.Advice, ", tracked as "); tracked && c.Resource == "fd" {
			rule, _, _ = strings.Cut(rule, ";")
			var pid int32
			fmt.Sscanf(c.Target, "pid:%d@", &pid)
			pids[rule] = append(pids[rule], pid)
		}
	}
	return pids
}

// decided decodes the decisions of a file that is being written, and nothing else of it.
func decided[T record.Record](t *testing.T, out string) []T {
	t.Helper()
	b, err := os.ReadFile(out)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var all []record.Record
	for line := range bytes.Lines(b) {
		if !bytes.Contains(line[:min(len(line), 80)], []byte(`"kind":"state"`)) && !bytes.Contains(line[:min(len(line), 80)], []byte(`"kind":"prune"`)) ||
			line[len(line)-1] != '\n' {
			continue
		}
		r, err := record.Decode(line)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return only[T](all)
}

// stateOf is the last state of a target.
func stateOf(t *testing.T, out, resource string, target func(string) bool) (s record.State) {
	for _, c := range decided[*record.StateChange](t, out) {
		if c.Resource == resource && target(c.Target) {
			s = c.State
		}
	}
	return s
}

func reasonFor(p *record.Prune, resource string, target func(string) bool) *record.PruneReason {
	for i := range p.Reasons {
		if r := &p.Reasons[i]; r.Resource == resource && target(r.Target) {
			return r
		}
	}
	return nil
}

// firstToGo tells whether a decision was made for this reason, and wants a process to be
// the first of those who go for it, and of all where there is no other reason.
func firstToGo(t *testing.T, out, resource string, target func(string) bool, pid int32) bool {
	t.Helper()
	for _, p := range decided[*record.Prune](t, out) {
		r := reasonFor(p, resource, target)
		if r == nil {
			continue
		}
		if !(r.Value.Or(0) > r.Max.Or(0) && r.AverageRatio.Or(0) > r.TargetRatio.Or(1)) {
			t.Errorf("reason %+v", r)
		}
		first := slices.IndexFunc(p.Candidates, func(c record.PruneCandidate) bool { return len(p.Reasons) == 1 || c.Resource == resource })
		if first < 0 || p.Candidates[first].PID != pid {
			t.Errorf("%d is to go first, but the candidates are %+v", pid, p.Candidates)
		}
		return true
	}
	return false
}

// replayed plays a recording and wants the decisions that it has, to the letter.
func replayed(t *testing.T, out string) {
	t.Helper()
	r := runToEnd(t, agentCommand(t, "replay", out))
	if r.status != 0 {
		t.Fatalf("exit status %d: %s", r.status, r.stderr)
	}
	live, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want, got := decisions(t, live), decisions(t, []byte(r.stdout))
	if len(want) == 0 || !slices.Equal(want, got) {
		t.Errorf("%d decisions live, %d replayed; replay says:\n%s", len(want), len(got), r.stderr)
		for i := range min(len(want), len(got)) {
			if want[i] != got[i] {
				t.Errorf("the first that differs:\n live %s\nagain %s", want[i], got[i])
				break
			}
		}
	}
}

// decisions are the lines of decisions, without their seq.
func decisions(t *testing.T, lines []byte) (list []string) {
	t.Helper()
	for line := range bytes.Lines(lines) {
		var head record.Header
		if err := json.Unmarshal(line, &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind == record.KindState || head.Kind == record.KindPrune || head.Kind == record.KindLeak {
			list = append(list, strings.Replace(string(line), fmt.Sprintf(`"seq":%d,`, head.Seq), "", 1))
		}
	}
	return list
}
