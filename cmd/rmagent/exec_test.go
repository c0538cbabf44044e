package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/cmdline"
	"rmagent/internal/execcmd"
	"rmagent/record"
)

// jobMode is a way in which jobs are measured.
type jobMode struct {
	name  string // as the records call who measures
	dir   string // that its user may write to
	user  *syscall.Credential
	flags []string
}

// program compiles testdata/programs/job/job.c where everybody may run it.
func jobProgram(t *testing.T, dir string, static bool) string {
	t.Helper()
	path := filepath.Join(dir, "dynamic")
	args := []string{"-O1", "-pthread"}
	if static {
		path = filepath.Join(dir, "static")
		args = append(args, "-static")
	}
	args = append(args, "-o", path, "../../testdata/programs/job/job.c")
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return path
}

// openDir is a directory that everybody may use.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rmagent-job")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// modes of measuring: as root alone, as somebody else beside an agent, and as somebody
// else alone. The agent runs until the test ends.
func jobModes(t *testing.T) (root, beside, alone *jobMode) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("tagging tasks needs root")
	}
	dir := openDir(t)
	somebody := &syscall.Credential{Uid: 65534, Gid: 65534}
	socket := filepath.Join(dir, "rmagent.sock")
	agent := builtAgent(t, "run", "--socket", socket, "--log-format", "json", "--fd-tracing", "off")
	// As under the unit that only observes: it may end nobody.
	agent.Args = append([]string{"setpriv", "--bounding-set=-kill", agent.Path}, agent.Args[1:]...)
	agent.Path = "/usr/bin/setpriv"
	start(t, agent)
	await(t, "the agent's socket for jobs", func() bool { return exists(cmdline.JobsSocket(socket)) })
	root = &jobMode{name: "ebpf", dir: dir, flags: []string{"--local"}}
	beside = &jobMode{name: "agent", dir: dir, user: somebody, flags: []string{"--socket", socket}}
	alone = &jobMode{name: "procfs", dir: dir, user: somebody, flags: []string{"--local"}}
	return root, beside, alone
}

// An agent on another socket in the same directory takes no jobs from the one that serves
// them there, and leaves their socket when it ends.
func TestASecondAgentLeavesTheJobs(t *testing.T) {
	_, beside, _ := jobModes(t)
	jobs := filepath.Join(beside.dir, "jobs.sock")
	before, err := os.Stat(jobs)
	if err != nil {
		t.Fatal(err)
	}
	second := runToEnd(t, agentCommand(t, "run", "--socket", filepath.Join(beside.dir, "other.sock"), "--duration", "300ms", "--log-format", "json"))
	if second.status != 0 || !strings.Contains(second.stderr, "jobs_unavailable") || !strings.Contains(second.stderr, jobs) {
		t.Errorf("the second agent: exit status %d: %s", second.status, second.stderr)
	}
	after, err := os.Stat(jobs)
	if err != nil || !os.SameFile(before, after) {
		t.Fatalf("the socket is another: %v", err)
	}
	if j, _ := beside.measure(t, nil, "/bin/true"); j.MeasuredBy != "agent" {
		t.Errorf("measured by %s", j.MeasuredBy)
	}
}

// exec is a command line of exec that appends its records to a file.
func (m *jobMode) exec(t *testing.T, flags []string, words ...string) (cmd *exec.Cmd, records string) {
	t.Helper()
	records = filepath.Join(m.dir, strings.ReplaceAll(t.Name(), "/", "_")+".jsonl")
	os.Remove(records)
	args := append([]string{"exec", "--quiet", "--jsonl", records}, m.flags...)
	args = append(append(args, flags...), "--")
	cmd = builtAgent(t, append(args, words...)...)
	if err := os.Chmod(builtDir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Dir = m.dir
	cmd.SysProcAttr.Credential = m.user
	return cmd, records
}

// measure runs a job and returns its record and exec's status.
func (m *jobMode) measure(t *testing.T, flags []string, words ...string) (*record.Job, int) {
	t.Helper()
	cmd, path := m.exec(t, flags, words...)
	r := runToEnd(t, cmd)
	if r.stderr != "" {
		t.Logf("%s", r.stderr)
	}
	jobs := only[*record.Job](records(t, path))
	if len(jobs) != 1 {
		t.Fatalf("%d summaries of one job, status %d: %s", len(jobs), r.status, r.stderr)
	}
	if jobs[0].MeasuredBy != m.name {
		t.Errorf("measured by %s, want %s", jobs[0].MeasuredBy, m.name)
	}
	return jobs[0], r.status
}

const mib = 1 << 20

// near says that a value is within a share of the truth, above or below.
func near(t *testing.T, what string, got, want, share float64) {
	t.Helper()
	if got < want*(1-share) || got > want*(1+share) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func checkCount(t *testing.T, what string, got record.Opt[uint64], want uint64) {
	t.Helper()
	if n, ok := got.Get(); !ok || n != want {
		t.Errorf("%s: %v, want %d", what, got, want)
	}
}

// echo answers each connection with as much as it got, and counts both.
func echo(t *testing.T) (port string, got, sent *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	got, sent = new(atomic.Int64), new(atomic.Int64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				n, _ := io.Copy(io.Discard, c)
				got.Add(n)
				n, _ = io.CopyN(c, zeros{}, n)
				sent.Add(n)
			}()
		}
	}()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), got, sent
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// truth is a program that does what is known, and what must be said of it.
type truth struct {
	name  string
	words []string
	check func(t *testing.T, r *record.Job)
}

// truths are told exactly wherever the kernel tags tasks.
func truths(t *testing.T, dir, program string) []truth {
	input := filepath.Join(dir, "input")
	if err := os.WriteFile(input, make([]byte, 50*mib), 0o644); err != nil {
		t.Fatal(err)
	}
	memory := func(want float64) func(*testing.T, *record.Job) {
		// The program itself, and its libraries, are up to 3 MiB more.
		return func(t *testing.T, r *record.Job) {
			if got := float64(r.MemoryBytes.Or(0)) / mib; got < want*0.99 || got > want*1.01+3 {
				t.Errorf("memory %.1f MiB, want %.0f", got, want)
			}
		}
	}
	tcp := func(threads string) truth {
		port, got, sent := echo(t)
		return truth{"20 MiB over TCP by " + threads, []string{program, "tcp", port, "20", threads}, func(t *testing.T, r *record.Job) {
			checkCount(t, "sent", r.SentBytes, uint64(got.Load()))
			checkCount(t, "received", r.ReceivedBytes, uint64(sent.Load()))
			checkCount(t, "sent", r.SentBytes, 20*mib)
		}}
	}
	tree := func(ms string) truth {
		return truth{"a tree of 7, " + ms + " ms", []string{program, "tree", "2", "3", ms}, func(t *testing.T, r *record.Job) {
			checkCount(t, "processes", r.TotalProcesses, 7)
			checkCount(t, "at once", r.MaxConcurrentProcesses, 4)
		}}
	}
	return []truth{
		{"300 MiB for 100 ms", []string{program, "memory", "300", "100"}, memory(300)},
		{"copy on write", []string{program, "cow", "80", "400"}, memory(120)},
		{"shared memory", []string{program, "shared", "80", "400", "4"}, memory(80)},
		{"100 MiB written", []string{program, "write", filepath.Join(dir, "output"), "100"}, func(t *testing.T, r *record.Job) {
			near(t, "written", float64(r.WrittenBytes.Or(0)), 100*mib, 0.01)
			os.Remove(filepath.Join(dir, "output"))
		}},
		{"50 MiB read", []string{program, "read", input, "50"}, func(t *testing.T, r *record.Job) {
			near(t, "read", float64(r.ReadBytes.Or(0)), 50*mib, 0.01)
		}},
		tcp("1"), tcp("4"),
		{"CPU of 2 threads", []string{program, "cpu", "1000", "2"}, func(t *testing.T, r *record.Job) {
			// Starting and ending takes some milliseconds too.
			near(t, "CPU", r.CPUTimeSeconds.Or(0), 1.01, 0.02)
		}},
		tree("50"), tree("2"),
		{"300 files", []string{program, "files", "300", "300"}, func(t *testing.T, r *record.Job) {
			checkCount(t, "open files", r.OpenFiles, 300)
		}},
	}
}

// shell runs n short commands, one after another.
func shell(n int) []string {
	return []string{"sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do /bin/true; i=$((i+1)); done", n)}
}

func TestJobsOfKnownTruth(t *testing.T) {
	root, beside, _ := jobModes(t)
	for _, mode := range []*jobMode{root, beside} {
		t.Run(mode.name, func(t *testing.T) {
			for _, static := range []bool{false, true} {
				t.Run(map[bool]string{false: "dynamic", true: "static"}[static], func(t *testing.T) {
					for _, c := range truths(t, mode.dir, jobProgram(t, mode.dir, static)) {
						t.Run(c.name, func(t *testing.T) {
							r, status := mode.measure(t, nil, c.words...)
							if status != 0 {
								t.Fatalf("status %d", status)
							}
							c.check(t, r)
						})
					}
				})
			}
			t.Run("500 short commands", func(t *testing.T) {
				r, _ := mode.measure(t, nil, shell(500)...)
				checkCount(t, "processes", r.TotalProcesses, 501)
				checkCount(t, "at once", r.MaxConcurrentProcesses, 2)
			})
		})
	}
}

// TestJobsOfNobodyAlone is what /proc tells an ordinary user. What it can't tell is
// unknown, or said to be the least.
func TestJobsOfNobodyAlone(t *testing.T) {
	_, _, alone := jobModes(t)
	program := jobProgram(t, alone.dir, true)
	for _, c := range truths(t, alone.dir, program) {
		t.Run(c.name, func(t *testing.T) {
			r, status := alone.measure(t, nil, c.words...)
			if status != 0 {
				t.Fatalf("status %d", status)
			}
			switch {
			case strings.Contains(c.name, "TCP"):
				if r.SentBytes.Known() || r.ReceivedBytes.Known() {
					t.Errorf("it claims to know the network: %v sent, %v received", r.SentBytes, r.ReceivedBytes)
				}
			case strings.Contains(c.name, "tree"):
				if n := r.TotalProcesses.Or(0); n < 1 || n > 7 {
					t.Errorf("at least %d processes of 7", n)
				}
				if worth(r, "total_processes") != "at_least" {
					t.Errorf("processes are said to be %s", worth(r, "total_processes"))
				}
			default:
				c.check(t, r)
			}
		})
	}
	t.Run("CPU of short commands", func(t *testing.T) {
		cmd, path := alone.exec(t, nil, shell(100)...)
		runToEnd(t, cmd)
		all := cmd.ProcessState.SystemTime() + cmd.ProcessState.UserTime() // of exec, too
		r := only[*record.Job](records(t, path))[0]
		if got := r.CPUTimeSeconds.Or(0); got < 0.02 || got > all.Seconds() {
			t.Errorf("CPU %v s of 100 commands; with exec's own it was %v", got, all)
		}
	})
}

// worth is what a record says that a value is worth.
func worth(r *record.Job, resource string) string {
	for _, v := range r.Measured {
		if v.Resource == resource {
			return v.Exactness
		}
	}
	return ""
}

// survivors counts the processes that run a program.
func survivors(program string) (n int) {
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		if path, err := os.Readlink(exe); err == nil && path == program {
			n++
		}
	}
	return n
}

func TestLimitsEndJobs(t *testing.T) {
	root, beside, alone := jobModes(t)
	for _, mode := range []*jobMode{root, beside, alone} {
		t.Run(mode.name, mode.testLimits)
	}
}

func (m *jobMode) testLimits(t *testing.T) {
	program := jobProgram(t, m.dir, true)
	for _, c := range []struct {
		name, limit string
		words       []string
	}{
		{"a burst that is freed", "memory: 200", []string{"memory", "300", "300", "20000"}},
		{"a ramp", "memory: 100", []string{"ramp", "73", "2000"}},
		{"too many processes", "max_concurrent_processes: 3", []string{"stay", "10"}},
		{"a daemon", "wall_time: 0.5", []string{"stay", "3"}},
		{"processes that fork and end", "wall_time: 0.5", []string{"hop"}},
		{"a fork bomb", "max_concurrent_processes: 20", []string{"bomb", "100"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, status := m.measure(t, []string{"--limit", c.limit, "--grace", "200ms"}, append([]string{program}, c.words...)...)
			if status != execcmd.ExitLimit {
				t.Errorf("status %d, want %d", status, execcmd.ExitLimit)
			}
			if n := survivors(program); n > 0 {
				t.Errorf("%d processes survive", n)
			}
			name, _, _ := strings.Cut(c.limit, ":")
			if r.ExitType != "limits" || len(r.Limits) != 1 || r.Limits[0].Resource != name || r.Limits[0].Value <= r.Limits[0].Limit {
				t.Errorf("ended by %s: %+v", r.ExitType, r.Limits)
			}
			if c.name == "a ramp" { // it ended while it was little above
				if got := float64(r.MemoryBytes.Or(0)) / mib; got > 100+73 {
					t.Errorf("it reached %.0f MiB, a second after it passed 100", got)
				}
			}
		})
	}
	t.Run("only measured", func(t *testing.T) {
		r, status := m.measure(t, []string{"--limit", "memory: 20", "--measure-only"}, program, "memory", "40", "300")
		if status != 0 || len(r.Limits) != 1 || r.Limits[0].Resource != "memory" {
			t.Errorf("status %d, limits %+v", status, r.Limits)
		}
	})
}

func TestExecStatuses(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	os.WriteFile(script, []byte("echo hi\n"), 0o644)
	bad := filepath.Join(dir, "limits")
	os.WriteFile(bad, []byte("memory: 20\nmemroy: 3\n"), 0o644)
	lost, plain := filepath.Join(dir, "lost"), filepath.Join(dir, "plain")
	os.WriteFile(lost, []byte("#!/no/such/interpreter -x\n"), 0o755)
	os.WriteFile(plain, []byte("exit $1\n"), 0o755)
	before := filepath.Join(dir, "before")
	os.WriteFile(before+".summary", []byte("of before"), 0o644)
	marker := filepath.Join(dir, "ran")
	touch := []string{"--", "touch", marker}
	for _, c := range []struct {
		name   string
		args   []string
		status int
		say    string // what the one line on stderr holds; empty: nothing is said
	}{
		{"success", []string{"--", "true"}, 0, ""},
		{"its own status", []string{"--", "sh", "-c", "exit 42"}, 42, ""},
		{"a signal", []string{"--", "sh", "-c", "kill -USR1 $$"}, 128 + 10, ""},
		{"a limit", []string{"--max-wall-time", "0.2", "--", "sleep", "60"}, 124, ""},
		{"no such command", []string{"--", "no-such-command"}, 127, `"no-such-command"`},
		{"no such path", []string{"--", dir + "/nothing"}, 127, "no such command"},
		{"no such interpreter", []string{"--", lost}, 127, "no such interpreter: #!/no/such/interpreter -x"},
		{"a script that names no interpreter", []string{"--", plain, "9"}, 9, ""},
		{"no such command, and a summary of before", []string{"-O", before, "--", "no-such-command"}, 127, "no such command"},
		{"not executable", []string{"--", script}, 126, "permission denied"},
		{"a directory", []string{"--", dir}, 126, "permission denied"},
		{"no command", nil, 125, "no command"},
		{"an unknown limit", append([]string{"-L", "memroy: 3"}, touch...), 125, `"memroy"`},
		{"a limit without a number", append([]string{"-L", "memory: much"}, touch...), 125, "much"},
		{"a unit of something else", append([]string{"-L", "memory: 3 s"}, touch...), 125, "memory"},
		{"a wrong file of limits", append([]string{"-l", bad}, touch...), 125, bad + ":2:"},
		{"no file of limits", append([]string{"-l", dir + "/none"}, touch...), 125, dir + "/none"},
		{"a missing directory", append([]string{"-O", dir + "/none/x"}, touch...), 125, dir + "/none/x.summary"},
		{"a wrong grace", append([]string{"--grace", "-1s"}, touch...), 125, "--grace"},
		{"an unknown flag", append([]string{"--nothing"}, touch...), 125, "--nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := builtAgent(t, append([]string{"exec", "--quiet", "--source", "procfs"}, c.args...)...)
			r := runToEnd(t, cmd)
			if r.status != c.status {
				t.Errorf("status %d, want %d", r.status, c.status)
			}
			if lines := strings.Count(r.stderr, "\n"); c.say == "" && lines != 0 || c.say != "" && lines != 1 || !strings.Contains(r.stderr, c.say) {
				t.Errorf("it says %q, want one line with %q", r.stderr, c.say)
			}
			if _, err := os.Stat(marker); err == nil {
				t.Error("the command was started all the same")
			}
			if b, err := os.ReadFile(before + ".summary"); string(b) != "of before" {
				t.Errorf("the summary of before: %q, %v", b, err)
			}
		})
	}
}

// TestExecTellsOnOneScreen reads what a person reads at the end.
func TestExecTellsOnOneScreen(t *testing.T) {
	cmd := builtAgent(t, "exec", "--source", "procfs", "--max-wall-time", "100", "--", "sh", "-c", "echo out; exit 3")
	r := runToEnd(t, cmd)
	if r.stdout != "out\n" || r.status != 3 {
		t.Errorf("stdout %q, status %d", r.stdout, r.status)
	}
	for _, want := range []string{"exited with status 3 after", "CPU ", "memory ", "processes ", "limit of wall time: "} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("no %q in\n%s", want, r.stderr)
		}
	}
	if lines := strings.Count(r.stderr, "\n"); lines > 24 {
		t.Errorf("%d lines", lines)
	}
}

func TestExecPassesSignalsOn(t *testing.T) {
	cmd := builtAgent(t, "exec", "--quiet", "--source", "procfs", "--", "sh", "-c", `trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.01; done`)
	cmd.SysProcAttr.Setpgid = true
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, cmd)
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	said, _ := io.ReadAll(out)
	if status := s.wait(); status != 7 || string(said) != "got\n" {
		t.Errorf("status %d, said %q", status, said)
	}
}

// TestNoSpaceIsRecognised has a job fail on a filesystem that it filled, fail on one that
// it did not, and fill one without failing.
func TestNoSpaceIsRecognised(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a filesystem needs root")
	}
	const enospc = 28
	m := &jobMode{name: "ebpf", dir: openDir(t), flags: []string{"--local"}}
	for name, c := range map[string]struct {
		script string
		told   bool
	}{
		"filled and failed": {"head -c 4M /dev/zero > big", true},
		"only failed":       {"false", false},
		"only filled":       {"head -c 4M /dev/zero > big || true", false},
	} {
		t.Run(name, func(t *testing.T) {
			small := t.TempDir()
			if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(small, unix.MNT_DETACH)
			r, _ := m.measure(t, []string{"--measure-dir", small}, "sh", "-c", "cd "+small+" && { "+c.script+"; } 2>/dev/null")
			if told := r.LastError.Or(0) == enospc; told != c.told || c.told != strings.Contains(r.Cause.Or(""), small+" had no space left") {
				t.Errorf("last error %v, cause %q", r.LastError, r.Cause.Or(""))
			}
		})
	}
}
