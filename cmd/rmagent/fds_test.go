package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
	"rmagent/internal/cmdline"
	"rmagent/internal/loader"
	"rmagent/internal/report"
	"rmagent/internal/sample"
	"rmagent/record"
)

const leakPrograms = "../../testdata/programs/leak/"

// leaker is one way to build a program that leaks, and what must be said of it.
type leaker struct {
	name     string
	build    []string // with OUT for the program
	args     []string
	source   string
	mark     string // in the line that leaks
	function string
	kind     string
	run      []string // what runs it, where it does not run itself
	end      string   // how the walk ends
	serve    bool     // it needs a server for its bodies
	address  string   // of that server, once it runs
}

var leakers = []leaker{
	{name: "c", build: []string{"gcc", "-O2", "-g", "-o", "OUT", "leak.c"}, source: "leak.c", mark: "LEAK file", function: "leak_descriptor", kind: "file"},
	{name: "c-frame-pointers", build: []string{"gcc", "-O2", "-g", "-fno-omit-frame-pointer", "-o", "OUT", "leak.c"}, source: "leak.c", mark: "LEAK file", function: "leak_descriptor", kind: "file"},
	{name: "c-static", build: []string{"gcc", "-O2", "-g", "-static", "-o", "OUT", "leak.c"}, source: "leak.c", mark: "LEAK file", function: "leak_descriptor", kind: "file"},
	{name: "c-no-pie", build: []string{"gcc", "-O2", "-g", "-no-pie", "-o", "OUT", "leak.c"}, source: "leak.c", mark: "LEAK file", function: "leak_descriptor", kind: "file"},
	{name: "c-inotify", build: []string{"gcc", "-O2", "-g", "-o", "OUT", "leak.c"}, args: []string{"inotify"}, source: "leak.c", mark: "LEAK inotify", function: "leak_descriptor", kind: "inotify"},
	{name: "c++", build: []string{"g++", "-O2", "-g", "-o", "OUT", "leak.cc"}, source: "leak.cc", mark: "LEAK file", function: "open_entry", kind: "file"},
	{name: "rust", build: []string{"rustc", "-O", "-g", "-o", "OUT", "leak.rs"}, source: "leak.rs", mark: "LEAK file", function: "upload::forget_file", kind: "file"},
	{name: "go", build: []string{"go", "build", "-o", "OUT", "./leakgo"}, source: "leakgo/main.go", mark: "LEAK file", function: "main.(*session).leakFile", kind: "file"},
	{name: "go-stripped", build: []string{"go", "build", "-ldflags=-s -w", "-o", "OUT", "./leakgo"}, source: "leakgo/main.go", mark: "LEAK file", function: "main.(*session).leakFile", kind: "file"},
	{name: "python", build: []string{"cp", "leak.py", "OUT"}, source: "leak.py", mark: "LEAK file", function: "Uploader.leak_descriptor", kind: "file"},
	{name: "python-shared", build: []string{"gcc", "-O2", "-o", "OUT", "pyshared.c"}, args: []string{absolute(leakPrograms + "leak.py")}, source: "leak.py", mark: "LEAK file", function: "Uploader.leak_descriptor", kind: "file"},
	{name: "node", build: []string{"cp", "leak.js", "OUT"}, run: javascript, source: "leak.js", mark: "LEAK file", function: "leakDescriptor", kind: "file"},
	{name: "node-pool", build: []string{"cp", "leak.js", "OUT"}, run: javascript, args: []string{"async"}, source: "leak.js", kind: "file", end: "libuv worker"},
	{name: "java-interpreted", build: javac, run: []string{"java", "-Xint", "-Xmx64m", "-cp"}, args: []string{"Leak"}, source: "Leak.java", mark: "LEAK file", function: "Leak.leakDescriptor", kind: "file"},
	{name: "java", build: javac, run: []string{"java", "-Xmx64m", "-cp"}, args: []string{"Leak"}, source: "Leak.java", mark: "LEAK file", function: "Leak.leakDescriptor", kind: "file"},
	{name: "go-body", build: []string{"go", "build", "-o", "OUT", "./leakgo"}, kind: "tcp4", serve: true},
}

func absolute(path string) string {
	absolute, err := filepath.Abs(path)
	if err != nil {
		panic(err)
	}
	return absolute
}

var javac = []string{"javac", "-d", "OUT", "Leak.java"}

// javascript has Node tell where its generated code is.
var javascript = []string{"node", "--perf-basic-prof", "--interpreted-frames-native-stack"}

// program is a running one that leaks.
type program struct {
	*childtest.Child
	t *testing.T
}

// there tells whether this machine has what it takes.
func (l *leaker) there(t *testing.T) bool {
	t.Helper()
	for _, name := range append([]string{l.build[0]}, l.run...)[:min(2, 1+len(l.run))] {
		if _, err := exec.LookPath(name); err != nil {
			t.Logf("there is no %s", name)
			return false
		}
	}
	return true
}

func (l *leaker) compile(t *testing.T) string {
	t.Helper()
	if !l.there(t) {
		t.Skip("it can't be built or run here")
	}
	out := filepath.Join(t.TempDir(), l.name)
	if l.build[0] == "cp" { // a script is its own source
		out = filepath.Join(filepath.Dir(out), l.source)
	}
	args := append([]string(nil), l.build[1:]...)
	for i, a := range args {
		if a == "OUT" {
			args[i] = out
		}
	}
	cmd := exec.Command(l.build[0], args...)
	cmd.Dir = leakPrograms
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, text)
	}
	return out
}

// start builds and starts it.
func (l *leaker) start(t *testing.T) *program {
	t.Helper()
	path, args := l.compile(t), l.args
	if l.serve {
		_, said := startProgram(t, path, "serve")
		l.address, args = strings.TrimPrefix(said[0], "http://"), said
	}
	words := slices.Concat(l.run, []string{path}, args)
	p, _ := startProgram(t, words[0], words[1:]...)
	if l.run != nil {
		t.Cleanup(func() { os.Remove(fmt.Sprintf("/tmp/perf-%d.map", p.PID())) })
	}
	return p
}

// startProgram runs a program until the test ends, and waits until it is ready. It
// returns what it said before.
func startProgram(t *testing.T, path string, args ...string) (p *program, said []string) {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Dir = t.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	p = &program{childtest.Start(t, cmd), t}
	return p, p.Ready()
}

// number reads one.
func (p *program) number() uint64 {
	p.t.Helper()
	n, err := strconv.ParseUint(p.Hear(""), 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// lineOf is the number of the line of a source that has a mark.
func lineOf(t *testing.T, source, mark string) uint64 {
	t.Helper()
	b, err := os.ReadFile(leakPrograms + source)
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(0)
	for line := range strings.Lines(string(b)) {
		n++
		if strings.Contains(line, mark) {
			return n
		}
	}
	t.Fatalf("%s has no line %q", source, mark)
	return 0
}

// check wants a site's stack to name who leaks.
func (l *leaker) check(t *testing.T, s *record.Site) {
	t.Helper()
	if s.Type != l.kind {
		t.Errorf("type %s, want %s", s.Type, l.kind)
	}
	if !strings.HasPrefix(s.StackEnd.Or(""), l.end) {
		t.Errorf("the walk ends: %q, want %q: %s", s.StackEnd.Or(""), l.end, brief(s))
	}
	if l.serve {
		l.checkDial(t, s)
	}
	if l.function == "" {
		return
	}
	i := report.Culprit(s.Stack)
	if i < 0 {
		t.Errorf("no frame has a name: %s", brief(s))
		return
	}
	f := &s.Stack[i]
	if !strings.Contains(f.Function.Or(""), l.function) {
		t.Errorf("the culprit is %q, want %q: %s", f.Function.Or(""), l.function, brief(s))
	}
	want := lineOf(t, l.source, l.mark)
	if l.run != nil && l.run[0] == "node" { // perf maps have no lines of calls
		want = 0
	}
	if f.Line.Or(0) != want || !strings.HasSuffix(f.File.Or(""), filepath.Base(l.source)) {
		t.Errorf("it leaks at %s:%d, want %s:%d", f.File.Or(""), f.Line.Or(0), l.source, want)
	}
}

// checkDial wants a connection of Go's HTTP client to say what there is to say: it dials
// on a goroutine of its own, so who asked is in the target only.
func (l *leaker) checkDial(t *testing.T, s *record.Site) {
	t.Helper()
	if s.Target.Or("") != l.address {
		t.Errorf("target %s, want %s", s.Target.Or(""), l.address)
	}
	functions := map[string]string{}
	for i := range s.Stack {
		functions[s.Stack[i].Function.Or("")] = s.Stack[i].Language.Or("")
	}
	last := s.Stack[len(s.Stack)-1]
	if _, there := functions["net/http.(*Transport).dialConn"]; !there || last.Language.Or("") != "go_creator" ||
		!strings.HasPrefix(last.Function.Or(""), "net/http.(*Transport).") || last.Line.Or(0) == 0 {
		t.Errorf("not who dials, or who started it: %s", brief(s))
	}
}

// brief writes a site's stack in a line.
func brief(s *record.Site) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s %s:", s.Held, s.Type, s.Target.Or(""))
	for i := range s.Stack {
		f := &s.Stack[i]
		fmt.Fprintf(&b, " < %s %s:%d", f.Function.Or(filepath.Base(f.Module.Or("?"))), filepath.Base(f.File.Or("")), f.Line.Or(0))
	}
	fmt.Fprintf(&b, " (%s)", s.StackEnd.Or(""))
	return b.String()
}

// builtDir is where agentBinary put it.
var builtDir string

// agentBinary is the agent as users have it: it runs itself, too, to walk stacks.
var agentBinary = sync.OnceValues(func() (path string, err error) {
	if builtDir, err = os.MkdirTemp("", "rmagent-test"); err != nil {
		return "", err
	}
	path = filepath.Join(builtDir, "rmagent")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// builtAgent is agentCommand of that.
func builtAgent(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := agentBinary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := agentCommand(t, args...)
	cmd.Path, cmd.Args[0] = path, path
	cmd.Env = slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "RMAGENT_TEST_") })
	return cmd
}

func needTracing(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("tracing needs root")
	}
}

// What rmagent fds says is held where it leaks is what the program counted itself, and
// it names the function and the line.
func TestFDsNamesWhoLeaks(t *testing.T) {
	needTracing(t)
	for _, l := range leakers {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel() // most of the time, it waits
			p := l.start(t)
			r := l.watch(t, p)
			if r.Verdict != record.VerdictGrowing {
				t.Errorf("verdict %s, want growing", r.Verdict)
			}
			if len(r.Sites) == 0 {
				t.Fatal("no sites")
			}
			l.check(t, &r.Sites[0])
		})
	}
}

// watching is rmagent fds while it watches processes.
type watching struct {
	*started
	out bytes.Buffer
}

// watchFDs has fds watch processes for so long, or until it is stopped, and returns once
// their opens are traced.
func watchFDs(t *testing.T, long string, ps ...*program) *watching {
	t.Helper()
	args := []string{"fds", "--json", "--for", long}
	for _, p := range ps {
		args = append(args, "--pid", strconv.Itoa(int(p.PID())))
	}
	cmd := builtAgent(t, args...)
	w := &watching{}
	cmd.Stdout = &w.out
	w.started = start(t, cmd)
	// It is attached with the first reading: to forks, execs, exits, and last to calls.
	links := tracerLinks()
	await(t, "the tracer", func() bool { return bpfLinks(cmd.Process.Pid) >= links })
	return w
}

// walks waits until stacks can be walked, and what runs in a process, and how deep its
// stacks are, is known.
func (w *watching) walks() {
	w.t.Helper()
	await(w.t, "who walks stacks", func() bool { return len(children(w.cmd.Process.Pid)) > 0 })
	time.Sleep(time.Second)
}

// leaks is what it said at its end, by PID.
func (w *watching) leaks() map[int32]*record.Leak {
	w.t.Helper()
	if status := w.wait(); status != 0 {
		w.t.Fatalf("exit status %d: %s", status, w.stderr.String())
	}
	leaks := map[int32]*record.Leak{}
	for line := range bytes.Lines(w.out.Bytes()) {
		r := &record.Leak{}
		if err := json.Unmarshal(line, r); err != nil {
			w.t.Fatalf("%v: %s", err, line)
		}
		leaks[r.PID] = r
	}
	return leaks
}

// watch has a program leak while fds watches, and compares what is held.
func (l *leaker) watch(t *testing.T, p *program) *record.Leak {
	t.Helper()
	w := watchFDs(t, "10s", p)
	w.walks()
	p.Say("")
	time.Sleep(6 * time.Second) // it leaks for that long
	p.Say("")
	leaked := p.number()
	r := w.leaks()[p.PID()]
	if r == nil {
		t.Fatalf("nothing is said of %d: %s", p.PID(), w.out.String())
	}
	holds(t, r, leaked)
	return r
}

// holds wants the first site of a record to hold what a program says that it leaked.
func holds(t *testing.T, r *record.Leak, leaked uint64) {
	t.Helper()
	if len(r.Sites) > 0 && r.Sites[0].Held != leaked {
		t.Errorf("%d are held where it leaks, and it leaked %d: %s", r.Sites[0].Held, leaked, brief(&r.Sites[0]))
	}
}

// children are the processes that any thread of a process started.
func children(pid int) (pids []int32) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		b, _ := os.ReadFile(list)
		for word := range strings.FieldsSeq(string(b)) {
			child, _ := strconv.Atoi(word)
			pids = append(pids, int32(child))
		}
	}
	return pids
}

// tracerLinks is how many links a tracer has that is attached, on this kernel.
var tracerLinks = sync.OnceValue(func() int {
	tr, err := loader.OpenFDTracer(loader.FDTraceOptions{})
	if err != nil {
		return 0 // and so it is for who is tested
	}
	defer tr.Close()
	self, err := procfs.Self()
	if err != nil {
		panic(err)
	}
	stat, err := self.Stat()
	if err != nil {
		panic(err)
	}
	before := bpfLinks(stat.PID)
	if err := tr.Start([]sample.ID{{PID: int32(stat.PID), StartTicks: stat.Starttime}}); err != nil {
		return 0
	}
	return bpfLinks(stat.PID) - before
})

// bpfLinks is how many BPF links a process has open.
func bpfLinks(pid int) int { return descriptorsOf(pid, "anon_inode:bpf_link") }

// descriptorsOf is how many descriptors a process has of something.
func descriptorsOf(pid int, of string) (n int) {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if to, _ := os.Readlink(dir + e.Name()); to == of {
			n++
		}
	}
	return n
}

// The four capabilities that the agent wants are enough, also of root, who may not become
// nobody with them.
func TestFDsWithFewCapabilities(t *testing.T) {
	needTracing(t)
	_, site := leakUnder(t, "setpriv", "--bounding-set", "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search")
	leakers[0].check(t, site)
}

// leakUnder is what fds, started by a command, tells of a program that leaks, and a site of it
// that has a stack.
func leakUnder(t *testing.T, command ...string) (leak record.Leak, site *record.Site) {
	t.Helper()
	p := leakers[0].start(t)
	p.Say("") // it leaks until the end
	cmd := builtAgent(t, "fds", "--local", "--json", "--for", "5s", "--pid", strconv.Itoa(int(p.PID())))
	self := cmd.Path
	var err error
	if cmd.Path, err = exec.LookPath(command[0]); err != nil {
		t.Fatal(err)
	}
	cmd.Args = slices.Concat(command, []string{self}, cmd.Args[1:])
	r := runToEnd(t, cmd)
	decode(t, r, &leak)
	named := slices.IndexFunc(leak.Sites, func(s record.Site) bool { return len(s.Stack) > 0 })
	if named < 0 {
		t.Fatalf("no stack: %s%s", r.stdout, r.stderr)
	}
	return leak, &leak.Sites[named]
}

// In a time namespace, as a container may have, stacks and ages are right, too.
func TestFDsInATimeNamespace(t *testing.T) {
	needTracing(t)
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		t.Skip("the kernel has no time namespaces (5.6)")
	}
	leak, site := leakUnder(t, "unshare", "--time", "--boottime", "86400", "--monotonic", "86400", "--fork", "--kill-child")
	if n := leak.Unattributed["stack_lost"]; n > 0 {
		t.Fatalf("%d stacks are lost", n)
	}
	if leakers[0].check(t, site); site.OldestSeconds.Or(0) > 10 {
		t.Errorf("the oldest is of %v s", site.OldestSeconds)
	}
}

// The bytes of a program's name that are not UTF-8 are in its frames as they are elsewhere.
func TestFramesOfAHostileProgram(t *testing.T) {
	needTracing(t)
	path := filepath.Join(t.TempDir(), "leak\xff")
	if err := os.Link(leakers[0].compile(t), path); err != nil {
		t.Fatal(err)
	}
	p, _ := startProgram(t, path)
	w := watchFDs(t, "5s", p)
	w.walks()
	p.Say("") // it leaks until the end
	leak := w.leaks()[p.PID()]
	if !slices.ContainsFunc(leak.Sites, func(s record.Site) bool {
		return slices.ContainsFunc(s.Stack, func(f record.Frame) bool { return f.Module.Or("") == record.Text([]byte(path)) })
	}) {
		t.Errorf("no frame is of %q: %+v", path, leak.Sites)
	}
}

// strace and bpftrace see what they would see alone, and so does the agent, while all
// three watch the same process.
func TestBesideOtherTracers(t *testing.T) {
	needTracing(t)
	for _, name := range []string{"strace", "bpftrace"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("there is no %s: scripts/setup test", name)
		}
	}
	l := &leakers[0]
	p := l.start(t)
	log := filepath.Join(t.TempDir(), "strace")
	trace := start(t, exec.Command("strace", "-f", "-e", "trace=openat", "-o", log, "-p", strconv.Itoa(int(p.PID()))))
	await(t, "strace", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
		return !strings.Contains(string(b), "TracerPid:\t0\n")
	})
	program := fmt.Sprintf(`tracepoint:syscalls:sys_enter_openat /pid == %d && str(args->filename) == "/etc/hostname"/ { @opens = count(); }`, p.PID())
	// It looks tracepoints up in tracefs, which not every machine has mounted.
	count := exec.Command("unshare", "-m", "sh", "-c", `mount -t tracefs tracefs /sys/kernel/tracing; exec bpftrace -q -e "$0"`, program)
	var counted bytes.Buffer
	count.Stdout = &counted
	bpftrace := start(t, count)
	await(t, "bpftrace", func() bool { return descriptorsOf(count.Process.Pid, "anon_inode:[perf_event]") > 0 })
	r := l.watch(t, p)
	bpftrace.stop()
	if err := trace.cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	trace.wait() // by that signal
	l.check(t, &r.Sites[0])
	held := int(r.Sites[0].Held) // as many as the program leaked, or watch says so
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte(`"/etc/hostname"`)); n != held || held == 0 {
		t.Errorf("strace saw %d opens, of %d", n, held)
	}
	if want := fmt.Sprintf("@opens: %d", held); !strings.Contains(counted.String(), want) {
		t.Errorf("bpftrace said %q, want %q", counted.String(), want)
	}
}

// The agent says "growing" within seconds, with the function and the line, and
// "leaking" within a minute, with the rule.
func TestTheAgentNamesWhoLeaks(t *testing.T) {
	needTracing(t)
	cmd := builtAgent(t, "run", "--processes", "none", "--jsonl", "out.jsonl")
	out := filepath.Join(cmd.Dir, "out.jsonl")
	programs := map[int32]*leaker{}
	var all []*program
	for i := range leakers {
		l := &leakers[i]
		if !l.there(t) || l.serve || l.kind == "inotify" {
			continue // of inotify a user has 128 only (fs.inotify.max_user_instances)
		}
		p := l.start(t)
		programs[p.PID()] = l
		all = append(all, p)
	}
	s := start(t, cmd)
	await(t, "the first records", func() bool { return size(out) > 0 })
	begin := time.Now()
	for _, p := range all {
		p.Say("")
	}
	leaks := func(v record.Verdict) map[int32]*record.Leak {
		found := map[int32]*record.Leak{}
		b, _ := os.ReadFile(out)
		for line := range bytes.Lines(b) {
			if !bytes.Contains(line, []byte(`"kind":"leak"`)) || !bytes.HasSuffix(line, []byte("\n")) {
				continue
			}
			var r record.Leak
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatal(err)
			}
			if programs[r.PID] != nil && r.Verdict == v && found[r.PID] == nil {
				found[r.PID] = &r
			}
		}
		return found
	}
	awaitFor(t, 30*time.Second, "every growth", func() bool { return len(leaks(record.VerdictGrowing)) == len(programs) })
	missing := func(v record.Verdict) (names []string) {
		found := leaks(v)
		for pid, l := range programs {
			if found[pid] == nil {
				names = append(names, l.name)
			}
		}
		return names
	}
	defer func() {
		if t.Failed() {
			t.Logf("not growing: %v; not leaking: %v", missing(record.VerdictGrowing), missing(record.VerdictLeaking))
			for pid, r := range leaks(record.VerdictLeaking) {
				t.Logf("%s leaks: %s", programs[pid].name, brief(&r.Sites[0]))
			}
		}
	}()
	awaitFor(t, 90*time.Second, "every leak", func() bool { return len(leaks(record.VerdictLeaking)) == len(programs) })
	s.stop()
	growing, leaking := leaks(record.VerdictGrowing), leaks(record.VerdictLeaking)
	for pid, l := range programs {
		t.Run(l.name, func(t *testing.T) {
			t.Logf("growing after %v, leaking after %v", growing[pid].Time.Sub(begin), leaking[pid].Time.Sub(begin))
			l.check(t, named(growing[pid]))
			l.check(t, &leaking[pid].Sites[0])
			if rule := leaking[pid].Rule.Or(""); rule != "never_closed" {
				t.Errorf("rule %q", rule)
			}
		})
	}
}

// named is the first site that has a stack.
func named(r *record.Leak) *record.Site {
	for i := range r.Sites {
		if len(r.Sites[i].Stack) > 0 {
			return &r.Sites[i]
		}
	}
	return &record.Site{}
}

func awaitFor(t *testing.T, patience time.Duration, what string, there func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !there(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// An accept loop that forgets to close on one error path leaks where it accepts,
// although most of what is accepted there is closed.
func TestAnAcceptLoopThatForgets(t *testing.T) {
	needTracing(t)
	l := &leaker{name: "accept", build: []string{"gcc", "-O2", "-g", "-o", "OUT", "accept.c"}, source: "accept.c", mark: "LEAK tcp4", function: "next_connection", kind: "tcp4"}
	p, said := startProgram(t, l.compile(t))
	address := "127.0.0.1:" + said[0]
	stop := make(chan bool)
	stopped := make(chan bool)
	go func() {
		defer close(stopped)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				request(address, n%5 == 0)
			}
		}
	}()
	cmd := builtAgent(t, "fds", "--json", "--fail", "--for", "75s", "--pid", strconv.Itoa(int(p.PID())))
	r := runToEnd(t, cmd)
	close(stop)
	<-stopped
	if r.status != exitLeaking {
		t.Fatalf("exit status %d: %s", r.status, r.stderr)
	}
	var leak record.Leak
	if err := json.Unmarshal([]byte(r.stdout), &leak); err != nil {
		t.Fatal(err)
	}
	if leak.Verdict != record.VerdictLeaking || leak.Rule.Or("") != "survivors" {
		t.Errorf("%s by rule %q", leak.Verdict, leak.Rule.Or(""))
	}
	l.check(t, &leak.Sites[0])
	if closed := leak.Sites[0].ClosedTotal.Or(0); closed < 1000 {
		t.Errorf("%d were closed", closed)
	}
}

// Calls that are refused a descriptor are counted where they were made, also where that
// place holds nothing.
func TestFDsNamesWhoIsRefused(t *testing.T) {
	needTracing(t)
	l := &leaker{name: "refused", build: []string{"gcc", "-O2", "-g", "-o", "OUT", "refused.c"}, source: "refused.c", mark: "REFUSED", function: "refused"}
	p, _ := startProgram(t, l.compile(t))
	w := watchFDs(t, "1m", p)
	p.Say("")
	held := p.number()
	w.walks()
	if err := w.cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	r := w.leaks()[p.PID()]
	if r == nil || r.Verdict != record.VerdictLeaking || r.Rule.Or("") != "limit_near" {
		t.Fatalf("%+v", r)
	}
	by := map[string]*record.Site{}
	for i := range r.Sites {
		s := &r.Sites[i]
		if c := report.Culprit(s.Stack); c >= 0 {
			by[s.Stack[c].Function.Or("")] = s
		}
	}
	if s := by["keep"]; s == nil || s.Held != held || s.FailedTotal.Or(0) != 1 {
		t.Errorf("%d are held: %+v", held, s)
	}
	s := by["refused"]
	if s == nil || s.Held != 0 || s.FailedTotal.Or(0) != 20 || s.OldestSeconds.Known() {
		t.Fatalf("20 were refused: %+v", s)
	}
	if line := s.Stack[report.Culprit(s.Stack)].Line.Or(0); line != lineOf(t, l.source, l.mark) {
		t.Errorf("refused at line %d", line)
	}
}

// request sends a request, and reads the answer to a good one.
func request(address string, bad bool) {
	c, err := net.Dial("tcp4", address)
	if err != nil {
		return
	}
	defer c.Close()
	if bad {
		io.WriteString(c, "bad\n")
		return
	}
	io.WriteString(c, "good\n")
	io.ReadAll(c)
}

// What may not be looked at is counted, once, and the reason is told.
func TestFDsThatMayNotBeRead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to run a process as another user")
	}
	sleeper := exec.Command("sleep", "60")
	sleeper.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleeper.Wait()
	defer sleeper.Process.Kill()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", sleeper.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	unprivileged := func(arguments ...string) result {
		agent := builtAgent(t, append([]string{"fds", "--source", "procfs", "--for", "0s", "--pid", strconv.Itoa(sleeper.Process.Pid)}, arguments...)...)
		agent.Args = append([]string{"setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-all", agent.Path}, agent.Args[1:]...)
		agent.Path = "/usr/bin/setpriv"
		return runToEnd(t, agent)
	}
	var got record.Leak
	r := unprivileged("--json")
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatalf("%v: %q, %q", err, r.stdout, r.stderr)
	}
	want := map[string]uint64{"not_permitted": uint64(len(names))}
	if !maps.Equal(got.Unattributed, want) || len(got.Sites) != 0 {
		t.Errorf("%+v, want %v", got, want)
	}
	if r := unprivileged(); !strings.Contains(r.stdout, fmt.Sprintf("%d more may not be read: permission denied\n", len(names))) {
		t.Errorf("it says %q, %q", r.stdout, r.stderr)
	}
}

// Who names more processes than can be traced is told so, and not that all was opened before.
func TestFDsOfTooMany(t *testing.T) {
	args := []string{"fds", "--for", "1s"}
	for pid := range 257 {
		args = append(args, "--pid", strconv.Itoa(100000+pid))
	}
	r := runToEnd(t, agentCommand(t, args...))
	if want := "rmagent: fds: --pid names 257 processes; 256 can be traced at once, and --for 0 lists what any number holds\n"; r.status != cmdline.ExitUsage || r.stderr != want {
		t.Errorf("exit status %d, %s; want %s", r.status, r.stderr, want)
	}
}

// Bad input gets one clear line and exit status 1.
func TestFDsOfNobody(t *testing.T) {
	needTracing(t)
	gone := exec.Command("/bin/true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	zombie := exec.Command("/bin/true")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	defer zombie.Wait()
	await(t, "a zombie", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", zombie.Process.Pid))
		return strings.Contains(string(b), ") Z ")
	})
	for _, tt := range []struct {
		pid  int
		want string
	}{
		{gone.Process.Pid, fmt.Sprintf("rmagent: no process has PID %d\n", gone.Process.Pid)},
		{zombie.Process.Pid, fmt.Sprintf("rmagent: pid %d (true) is a zombie: it has ended, and its descriptors are closed\n", zombie.Process.Pid)},
		{2, "rmagent: pid 2 (kthreadd) is a kernel thread: it has no descriptors\n"},
	} {
		r := runToEnd(t, builtAgent(t, "fds", "--for", "0s", "--pid", strconv.Itoa(tt.pid)))
		if r.status != cmdline.ExitFailed || r.stderr != tt.want || r.stdout != "" {
			t.Errorf("pid %d: exit status %d, %q, %q", tt.pid, r.status, r.stderr, r.stdout)
		}
	}
}
