package act

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
	"rmagent/internal/config"
	"rmagent/internal/policy"
	"rmagent/internal/sample"
	"rmagent/record"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// rig is a Runner whose records a test takes.
type rig struct {
	*Runner
	t       *testing.T
	records chan record.Action
	log     *observer.ObservedLogs
	now     atomic.Int64 // nanoseconds that the clock is ahead
	next    uint64       // crossing
}

func newRig(t *testing.T, yaml string) *rig {
	t.Helper()
	core, log := observer.New(zap.InfoLevel)
	r := &rig{t: t, records: make(chan record.Action, 1000), log: log}
	r.Runner = New(Options{
		Log: zap.New(core), Emit: func(a *record.Action) { r.records <- *a }, UserAgent: "rmagent/test", Backoff: time.Millisecond,
		Now: func() time.Time { return time.Now().Add(time.Duration(r.now.Load())) },
	})
	r.configure(yaml)
	t.Cleanup(func() { r.end() })
	return r
}

func (r *rig) configure(yaml string) {
	r.t.Helper()
	l, err := config.Load(config.Inputs{Path: "f", File: []byte(yaml)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.Configure(l.Actions, l.ActionsDryRun)
}

func (r *rig) end() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		r.t.Error(err)
	}
}

// cross tells of a crossing with a new number, and returns it.
func (r *rig) cross(s record.StateChange, p *Process, change ...func(*policy.Change)) *policy.Change {
	r.next++
	s.Header = record.Header{Time: time.Now(), Host: "h", BootID: "b", Seq: r.next, Schema: record.Schema}
	c := &policy.Change{Crossing: r.next, State: &s}
	for _, f := range change {
		f(c)
	}
	r.Changed(c, p)
	return c
}

// take waits for the next record.
func (r *rig) take() record.Action {
	r.t.Helper()
	select {
	case a := <-r.records:
		return a
	case <-time.After(patience):
		r.t.Fatal("no record of an action came")
		return record.Action{}
	}
}

// want takes a record with an outcome.
func (r *rig) want(action string, outcome record.Outcome) record.Action {
	r.t.Helper()
	a := r.take()
	if a.Action != action || a.Outcome != outcome {
		r.t.Fatalf("%s %s (%s), want %s %s", a.Action, a.Outcome, a.Detail, action, outcome)
	}
	return a
}

// nothing fails if a record is there: what has not been queued can't come later.
func (r *rig) nothing(why string) {
	r.t.Helper()
	select {
	case a := <-r.records:
		r.t.Errorf("%s, but: %+v", why, a)
	default:
	}
}

var critical = record.StateChange{
	Resource: "memory", Target: "host", State: record.StateCritical, Previous: record.StateWarning,
	Value: record.Some(95.0), Message: "Memory of the host: high use",
}

func TestMain(m *testing.M) {
	if os.Getenv(asTarget) != "" {
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const asTarget = "RMAGENT_TEST_TARGET"

// target is a process that signals may be sent to.
func target(t *testing.T) (*childtest.Child, *Process) {
	t.Helper()
	// Its parent is a shell: the agent's own children get no signals.
	cmd := exec.Command("sh", "-c", `exec 3<&0; "$0" <&3 & echo $!; wait $!; echo ended $?`, os.Args[0])
	cmd.Env = append(os.Environ(), asTarget+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	c := childtest.Start(t, cmd)
	var pid int
	if _, err := fmt.Sscan(c.Hear(""), &pid); err != nil {
		t.Fatal(err)
	}
	c.Hear("ready")
	s, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	return c, &Process{ID: sample.ID{PID: int32(pid), StartTicks: s.startTicks}, Comm: "target"}
}

const signalAll = "actions: [{name: end, kind: signal, on: [state, prune, leak, limit], signal: TERM, min_state: info}]"

func TestSignalReachesWhoIsMeant(t *testing.T) {
	child, p := target(t)
	r := newRig(t, signalAll)
	s := critical
	s.Target = p.ID.String()
	c := r.cross(s, p)
	a := r.want("end", record.OutcomeDone)
	if got := child.Hear("ended"); got != "143" { // 128 + SIGTERM, as sh says
		t.Errorf("the process ended with %s", got)
	}
	if a.PID.Or(0) != p.ID.PID || a.StartTicks.Or(0) != p.ID.StartTicks || a.Why != critical.Message || a.Cause != "state" ||
		a.What != fmt.Sprintf("SIGTERM to target (pid %d)", p.ID.PID) || a.Crossing.Or(0) != c.Crossing || a.Target.Or("") != s.Target {
		t.Errorf("%+v", a)
	}
	r.cross(s, p)
	if a := r.want("end", record.OutcomeRefused); a.Detail != "it has ended" {
		t.Errorf("once more: %+v", a)
	}
}

// TestSignalNeverReachesOthers: who took the PID over, who is protected, PID 1, kernel
// threads, the agent and its children.
func TestSignalNeverReachesOthers(t *testing.T) {
	child, p := target(t)
	own := childtest.Start(t, childtest.Itself(asTarget, "1"))
	own.Hear("ready")
	ownStat, err := readStat(own.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	self, err := readStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	reused, protected := *p, *p
	reused.ID.StartTicks--
	protected.Protected = true
	cases := map[string]Process{
		"another process has its PID": reused,
		"it is protected":             protected,
		"PID 1 gets no signals":       {ID: sample.ID{PID: 1, StartTicks: p.ID.StartTicks}},
		"it is the agent itself":      {ID: sample.ID{PID: int32(os.Getpid()), StartTicks: self.startTicks}},
		"it is a child of the agent":  {ID: sample.ID{PID: own.PID(), StartTicks: ownStat.startTicks}},
		"it has ended":                {ID: sample.ID{PID: 1<<22 - 1, StartTicks: 1}},
	}
	if kthreadd, err := readStat(2); err == nil && kthreadd.flags&kernelThread != 0 {
		cases["it is a kernel thread"] = Process{ID: sample.ID{PID: 2, StartTicks: kthreadd.startTicks}}
	}
	for why, q := range cases {
		outcome, detail := sendSignal(&q, unix.SIGKILL, false)
		if outcome != record.OutcomeRefused || !strings.Contains(detail, why) {
			t.Errorf("%s: %s, %s", why, outcome, detail)
		}
	}
	if outcome, detail := sendSignal(p, unix.SIGKILL, true); outcome != record.OutcomeDryRun {
		t.Errorf("dry run: %s, %s", outcome, detail)
	}
	for _, c := range []*childtest.Child{child, own} { // they live
		if err := c.Process.Signal(unix.Signal(0)); err != nil {
			t.Error(err)
		}
	}
	if _, err := readStat(int(p.ID.PID)); err != nil {
		t.Error(err)
	}
}

// TestPrune sends the signal to the first candidate that is there and may go, and to
// no other.
func TestPrune(t *testing.T) {
	child, p := target(t)
	other, q := target(t)
	r := newRig(t, "actions: [{name: end, kind: signal, on: [prune], names: [targ*]}, {name: say, kind: log, on: [prune], resources: [cpu]}]")
	gone := record.PruneCandidate{PID: p.ID.PID, StartTicks: p.ID.StartTicks - 1, Comm: "target"}
	candidate := func(p *Process, comm string) record.PruneCandidate {
		return record.PruneCandidate{PID: p.ID.PID, StartTicks: p.ID.StartTicks, Comm: comm}
	}
	prune := &record.Prune{
		ShouldPrune: true, Reasons: []record.PruneReason{{Resource: "memory", Target: "host"}, {Resource: "cpu", Target: "host"}},
		Candidates: []record.PruneCandidate{candidate(q, "another"), gone, candidate(p, "target")},
	}
	decision := policy.Change{Crossing: 7, Prune: prune}
	r.Changed(&decision, nil)
	seen := map[string]int{}
	for range 3 {
		a := r.take()
		seen[fmt.Sprint(a.Action, " ", a.Outcome, " ", a.PID.Or(0))]++
	}
	for _, want := range []string{fmt.Sprint("end refused ", p.ID.PID), fmt.Sprint("end done ", p.ID.PID), fmt.Sprint("say done ", q.ID.PID)} {
		if seen[want] != 1 {
			t.Errorf("no %q: %v", want, seen)
		}
	}
	child.Hear("ended 143")
	decision.Again = true // a minute later
	r.Changed(&decision, nil)
	r.nothing("it was acted on")
	if _, err := readStat(int(q.ID.PID)); err != nil {
		t.Errorf("the other is gone: %v", err)
	}
	decision.Prune = &record.Prune{}
	decision.Crossing, decision.Again = 8, false
	r.Changed(&decision, nil)
	r.nothing("signals and this log have no recovery")
	other.Say("")
}

// TestChoice: which actions are for what.
func TestChoice(t *testing.T) {
	up := func(resource, target string, state record.State) event {
		return event{cause: config.OnState, resource: resource, target: target, state: state, who: []Process{{Comm: "nginx"}}}
	}
	over := up("memory", "host", record.StateCritical)
	over.recovery = true
	limit := up("cpu", "pid:1@1", record.StateCritical)
	limit.cause, limit.actions = config.OnLimit, []string{"a"}
	two := event{cause: config.OnPrune, record: &record.Prune{Reasons: []record.PruneReason{{Resource: "cpu", Target: "host"}, {Resource: "disk", Target: "mount:/a"}}}}
	for _, c := range []struct {
		action string
		e      event
		want   bool
	}{
		{"on: [state]", up("memory", "host", record.StateCritical), true},
		{"on: [state]", up("memory", "host", record.StateWarning), false},
		{"on: [state], min_state: warning", up("memory", "host", record.StateWarning), true},
		{"on: [state], min_state: info", up("memory", "host", record.StateCritical), true},
		{"on: [prune]", up("memory", "host", record.StateCritical), false},
		{"on: []", up("memory", "host", record.StateCritical), false},
		{"on: [state], resources: [fd, memory]", up("memory", "host", record.StateCritical), true},
		{"on: [state], resources: [fd]", up("memory", "host", record.StateCritical), false},
		{"on: [state], targets: [host]", up("memory", "host", record.StateCritical), true},
		{"on: [state], targets: ['cgroup:/a/*']", up("memory", "cgroup:/a/b/c", record.StateCritical), true},
		{"on: [state], targets: ['cgroup:/a/*']", up("memory", "cgroup:/b/c", record.StateCritical), false},
		{"on: [state], names: ['nginx*']", up("fd", "pid:1@1", record.StateCritical), true},
		{"on: [state], names: [redis]", up("fd", "pid:1@1", record.StateCritical), false},
		{"on: [state]", over, false},
		{"on: [state], recovery: true", over, true},
		{"on: []", limit, true}, // its rule names it
		{"on: [state]", limit, true},
		{"on: [prune], resources: [disk]", two, true},
		{"on: [prune], targets: ['mount:*']", two, true},
		{"on: [prune], resources: [fd]", two, false},
	} {
		l, err := config.Load(config.Inputs{Path: "f", File: []byte("actions: [{name: a, kind: log, " + c.action + "}]")})
		if err != nil {
			t.Fatal(err)
		}
		if got := chooses(&l.Actions[0], &c.e); got != c.want {
			t.Errorf("{%s} for %s %s %s: %v", c.action, c.e.cause, c.e.resource, c.e.state, got)
		}
	}
	l, _ := config.Load(config.Inputs{Path: "f", File: []byte("actions: [{name: a, kind: signal, on: [state], recovery: true}]")})
	if chooses(&l.Actions[0], &over) {
		t.Error("a signal is sent when it is over")
	}
}

func TestNothingWithoutConfiguration(t *testing.T) {
	r := newRig(t, "")
	r.cross(critical, nil)
	r.Leak(&record.Leak{Verdict: record.VerdictLeaking}, false)
	r.OOM(&record.OOM{})
	r.nothing("nothing is configured")
}

// TestNeverTwice: for one crossing an action acts once, also when the configuration
// changes in between; another action may.
func TestNeverTwice(t *testing.T) {
	r := newRig(t, "actions: [{name: a, kind: log, on: [state]}]")
	c := r.cross(critical, nil)
	r.want("a", record.OutcomeDone)
	r.Changed(c, nil)
	r.nothing("it was acted on")
	r.configure("actions: [{name: a, kind: log, on: [state], min_state: info}, {name: b, kind: log, on: [state]}]")
	r.Changed(c, nil)
	r.want("b", record.OutcomeDone)
	r.nothing("both have acted")
	r.configure("actions: []")
	r.cross(critical, nil)
	r.nothing("nothing is configured any more")
	if got := r.log.FilterMessage("action").Len(); got != 2 {
		t.Errorf("%d lines in the log", got)
	}
}

func TestRateLimits(t *testing.T) {
	r := newRig(t, "actions: [{name: a, kind: log, on: [state], max_per_hour: 3, min_interval: 10s}]")
	step := func(d time.Duration, want record.Outcome) {
		t.Helper()
		r.now.Add(int64(d))
		r.cross(critical, nil)
		r.want("a", want)
	}
	step(0, record.OutcomeDone)
	step(9*time.Second, record.OutcomeRateLimited)
	step(2*time.Second, record.OutcomeDone)
	step(11*time.Second, record.OutcomeDone)
	step(11*time.Second, record.OutcomeRateLimited) // the fourth within an hour
	step(59*time.Minute, record.OutcomeRateLimited)
	step(30*time.Second, record.OutcomeDone) // the first is over an hour ago
}

// TestCommand: what it is given, what is kept of what it says, and how it fails.
func TestCommand(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("SECRET", "of the agent")
	tell := script("tell", `cat > "$1"; env > "$1.env"; echo "said $2"; pwd`)
	fail := script("fail", "echo no >&2; exit 3")
	much := script("much", "yes | head -c 100000")
	r := newRig(t, fmt.Sprintf(`actions:
  - {name: tell, kind: command, on: [state], argv: [%s, %s/in, "a b;$(x)"]}
  - {name: fail, kind: command, on: [leak], argv: [%s]}
  - {name: much, kind: command, on: [oom], argv: [%s]}
  - {name: none, kind: command, on: [prune], argv: [/none/such]}
  - {name: dry, kind: command, on: [limit], argv: [%s, %s/dry], dry_run: true}
`, tell, dir, fail, much, tell, dir))
	p := &Process{ID: sample.ID{PID: 4711, StartTicks: 99}, Comm: "api\x1b"}
	r.cross(critical, p)
	if a := r.want("tell", record.OutcomeDone); a.Detail != "said a b;$(x)\n/" || a.DurationSeconds <= 0 {
		t.Errorf("%+v", a)
	}
	given, err := os.ReadFile(filepath.Join(dir, "in"))
	if err != nil {
		t.Fatal(err)
	}
	var in record.ActionInput
	if err := json.Unmarshal(given, &in); err != nil {
		t.Fatalf("%v: %s", err, given)
	}
	rec, err := record.Decode(in.Record)
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := rec.(*record.StateChange); !ok || s.Seq != 1 || s.Value.Or(0) != 95 || in.PID.Or(0) != 4711 || in.Comm.Or("") != p.Comm || in.Message != critical.Message || in.DryRun {
		t.Errorf("%s", given)
	}
	env, err := os.ReadFile(filepath.Join(dir, "in.env"))
	if err != nil || strings.Contains(string(env), "SECRET") || !strings.Contains(string(env), "PATH=") {
		t.Errorf("%v: %s", err, env)
	}

	r.Leak(&record.Leak{PID: 4711, StartTicks: 99, Comm: "api", Verdict: record.VerdictLeaking}, false)
	if a := r.want("fail", record.OutcomeFailed); a.Detail != "exit status 3: no" {
		t.Errorf("%+v", a)
	}
	r.OOM(&record.OOM{PID: 1, Comm: "x"})
	if a := r.want("much", record.OutcomeDone); len(a.Detail) < keptOutput-2 || len(a.Detail) > keptOutput {
		t.Errorf("%d bytes are kept", len(a.Detail))
	}
	r.Changed(&policy.Change{Crossing: 1000, Prune: &record.Prune{ShouldPrune: true}}, nil)
	if a := r.want("none", record.OutcomeFailed); !strings.Contains(a.Detail, "no such file") {
		t.Errorf("%+v", a)
	}
	r.cross(critical, p, func(c *policy.Change) { c.Tracked = true })
	r.want("dry", record.OutcomeDryRun)
	if _, err := os.Stat(filepath.Join(dir, "dry")); err == nil {
		t.Error("a dry run ran")
	}
}

// TestStuckCommand: at its limit the whole process group is killed; meanwhile nobody
// waits, and what does not fit is dropped and counted.
func TestStuckCommand(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	r := newRig(t, fmt.Sprintf(`actions:
  - {name: stuck, kind: command, on: [state], argv: [/bin/sh, -c, 'sleep 1000 & echo $! $$ >> %s; echo begun; wait'], time_limit: 300ms}
  - {name: other, kind: log, on: [state]}
`, pids))
	begin := time.Now()
	for range queueLength + 10 {
		r.cross(critical, nil)
	}
	if took := time.Since(begin); took > 200*time.Millisecond {
		t.Errorf("to tell of it took %v", took)
	}
	outcomes := map[string]int{}
	for outcomes["stuck timed_out"] == 0 || outcomes["other done"]+outcomes["other dropped"] < queueLength+10 {
		a := r.take()
		outcomes[fmt.Sprint(a.Action, " ", a.Outcome)]++
		if a.Outcome == record.OutcomeTimedOut && !strings.HasPrefix(a.Detail, "killed after 300ms: begun") {
			t.Errorf("%+v", a)
		}
	}
	if dropped := outcomes["stuck dropped"] + outcomes["other dropped"]; outcomes["stuck dropped"] < 9 || r.Dropped() != uint64(dropped) {
		t.Errorf("%d dropped are counted: %v", r.Dropped(), outcomes)
	}
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	first := strings.Fields(string(text))[:2]
	for _, pid := range first {
		awaitEnd(t, pid)
	}
	r.end() // kills what runs, and drops the rest, with records
	for len(r.records) > 0 {
		a := r.take()
		outcomes[fmt.Sprint(a.Action, " ", a.Outcome)]++
	}
	sum := 0
	for _, n := range outcomes {
		sum += n
	}
	if sum != 2*(queueLength+10) {
		t.Errorf("%d records of %d: %v", sum, 2*(queueLength+10), outcomes)
	}
	r.cross(critical, nil)
	r.nothing("it is closed")
}

// awaitEnd waits until a process that was killed has ended.
func awaitEnd(t *testing.T, pid string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %s survives: %s", pid, b)
		}
	}
}

// server counts what it is posted, and answers as told.
type server struct {
	*httptest.Server
	bodies chan []byte
	seen   chan http.Header
}

func newServer(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *server {
	s := &server{bodies: make(chan []byte, 100), seen: make(chan http.Header, 100)}
	var n atomic.Int32
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.bodies <- body
		s.seen <- r.Header.Clone()
		answer(int(n.Add(1)), w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestWebhook(t *testing.T) {
	s := newServer(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		switch n {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	secret := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("Bearer abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, fmt.Sprintf("actions: [{name: hook, kind: webhook, on: [state], url: '%s/a/secret', headers: ['X-Token: t'], authorization_file: %s}]", s.URL, secret))
	p := &Process{ID: sample.ID{PID: 4711, StartTicks: 99}, Comm: "api"}
	r.cross(critical, p)
	for try, want := range []struct {
		outcome record.Outcome
		detail  string
	}{{record.OutcomeFailed, "503 Service Unavailable"}, {record.OutcomeFailed, "429 Too Many Requests"}, {record.OutcomeDone, "204 No Content"}} {
		a := r.want("hook", want.outcome)
		if a.Detail != want.detail || a.Attempt != uint64(try)+1 || a.What != "POST "+s.URL {
			t.Errorf("%+v", a)
		}
	}
	var keys []string
	for range 3 {
		h := <-s.seen
		keys = append(keys, h.Get("Idempotency-Key"))
		if h.Get("Authorization") != "Bearer abc" || h.Get("X-Token") != "t" || h.Get("User-Agent") != "rmagent/test" || h.Get("Content-Type") != "application/json" {
			t.Errorf("headers %v", h)
		}
		var in record.ActionInput
		if err := json.Unmarshal(<-s.bodies, &in); err != nil || in.Cause != "state" || in.PID.Or(0) != 4711 {
			t.Errorf("%v: %+v", err, in)
		}
	}
	if keys[0] == "" || keys[0] != keys[1] || keys[1] != keys[2] {
		t.Errorf("keys %q of one job differ", keys)
	}
	r.nothing("it was taken")
}

func TestWebhookFails(t *testing.T) {
	s := newServer(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		case "/wrong":
			w.WriteHeader(http.StatusBadRequest)
		case "/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "/slow":
			<-r.Context().Done()
		}
	})
	closed := httptest.NewServer(nil)
	closed.Close()
	for _, c := range []struct {
		url, more string
		outcomes  []record.Outcome
		detail    string
	}{
		{s.URL + "/moved", "", []record.Outcome{record.OutcomeFailed}, "307 Temporary Redirect"},
		{s.URL + "/wrong", "", []record.Outcome{record.OutcomeFailed}, "400 Bad Request"},
		{s.URL + "/broken", "retries: 2", slices.Repeat([]record.Outcome{record.OutcomeFailed}, 3), "500 Internal Server Error"},
		{s.URL + "/slow", "retries: 1, time_limit: 100ms", slices.Repeat([]record.Outcome{record.OutcomeTimedOut}, 2), "no answer in time"},
		{closed.URL + "/secret", "retries: 0", []record.Outcome{record.OutcomeFailed}, "connection refused"},
		{s.URL, "authorization_file: /none/such", []record.Outcome{record.OutcomeFailed}, "no such file"},
		{s.URL, "authorization_file: /dev/null", []record.Outcome{record.OutcomeFailed}, "no regular file"},
	} {
		r := newRig(t, fmt.Sprintf("actions: [{name: hook, kind: webhook, on: [state], url: '%s', %s}]", c.url, c.more))
		r.cross(critical, nil)
		for _, want := range c.outcomes {
			if a := r.want("hook", want); !strings.Contains(a.Detail, c.detail) || strings.Contains(a.Detail+a.What, "secret") {
				t.Errorf("%s: %+v", c.url, a)
			}
		}
		r.end()
		r.nothing(c.url + " was given up")
	}
}

// TestStuckWebhook: an endpoint that never answers delays nobody, and Close does not
// wait for it.
func TestStuckWebhook(t *testing.T) {
	s := newServer(t, func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	r := newRig(t, fmt.Sprintf("actions: [{name: hook, kind: webhook, on: [state], url: '%s', time_limit: 1h}]", s.URL))
	begin := time.Now()
	for range queueLength + 2 {
		r.cross(critical, nil)
	}
	<-s.bodies
	for range 3 {
		r.cross(critical, nil)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("to tell of it took %v", took)
	}
	r.end()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
	failed, dropped := 0, 0
	for len(r.records) > 0 {
		switch a := r.take(); a.Outcome {
		case record.OutcomeFailed:
			failed++
		case record.OutcomeDropped:
			dropped++
		default:
			t.Errorf("%+v", a)
		}
	}
	if failed != 1 || dropped != queueLength+4 {
		t.Errorf("%d failed, %d dropped", failed, dropped)
	}
}

// TestLeaks: a leak is acted on, its end too, and growth is not.
func TestLeaks(t *testing.T) {
	r := newRig(t, "actions: [{name: a, kind: log, on: [leak], recovery: true}]")
	tell := func(pid int32, v record.Verdict) {
		r.Leak(&record.Leak{PID: pid, StartTicks: 9, Comm: "x", Verdict: v}, false)
	}
	tell(1, record.VerdictGrowing)
	tell(1, record.VerdictOver)
	r.nothing("it only grew")
	tell(2, record.VerdictLeaking)
	r.want("a", record.OutcomeDone)
	tell(2, record.VerdictOver)
	if a := r.want("a", record.OutcomeDone); !a.Recovery {
		t.Errorf("%+v", a)
	}
	tell(3, record.VerdictLeaking)
	r.want("a", record.OutcomeDone)
	r.configure("actions: []")
	tell(3, record.VerdictOver)
	r.configure("actions: [{name: a, kind: log, on: [leak], recovery: true}]")
	tell(3, record.VerdictOver)
	r.nothing("another action was told of it")
}

// TestEndOfWhatWasNotTold: an action that did not act when something began is not told that
// it is over; one that did is, whatever its filters make of the end.
func TestEndOfWhatWasNotTold(t *testing.T) {
	r := newRig(t, `actions:
- {name: once, kind: log, on: [leak, prune], recovery: true, max_per_hour: 1}
- {name: named, kind: log, on: [leak], recovery: true, names: [other]}
- {name: cpu, kind: log, on: [prune], recovery: true, resources: [cpu]}
- {name: disk, kind: log, on: [prune], recovery: true, resources: [disk]}
- {name: warn, kind: log, on: [state], recovery: true, min_state: warning}
`)
	leak := func(v record.Verdict, comm string) {
		r.Leak(&record.Leak{PID: 1, StartTicks: 9, Comm: comm, Verdict: v}, false)
	}
	leak(record.VerdictLeaking, "x")
	r.want("once", record.OutcomeDone)
	prune := policy.Change{Crossing: 1, Prune: &record.Prune{ShouldPrune: true, Reasons: []record.PruneReason{{Resource: "cpu", Target: "host"}}}}
	r.Changed(&prune, nil)
	seen := map[string]int{}
	for range 2 {
		a := r.take()
		seen[fmt.Sprint(a.Action, " ", a.Outcome)]++
	}
	if seen["once rate_limited"] != 1 || seen["cpu done"] != 1 {
		t.Fatalf("%v", seen)
	}
	r.now.Add(int64(2 * time.Hour))
	prune = policy.Change{Crossing: 2, Prune: &record.Prune{}}
	r.Changed(&prune, nil)
	if a := r.want("cpu", record.OutcomeDone); !a.Recovery {
		t.Errorf("%+v", a)
	}
	r.nothing("nobody else was told that work should be taken off")
	leak(record.VerdictOver, "other")
	if a := r.want("once", record.OutcomeDone); !a.Recovery {
		t.Errorf("%+v", a)
	}
	r.nothing("it had another name when it began to leak")
	state := func(from, to record.State) {
		r.cross(record.StateChange{Resource: "memory", Target: "host", Previous: from, State: to}, nil)
	}
	state(record.StateNormal, record.StateCritical)
	r.want("warn", record.OutcomeDone)
	state(record.StateCritical, record.StateWarning)
	r.nothing("that is still a warning")
	state(record.StateWarning, record.StateNormal)
	if a := r.want("warn", record.OutcomeDone); !a.Recovery {
		t.Errorf("%+v", a)
	}
	for _, w := range r.order {
		if len(w.told) != 0 {
			t.Errorf("%s remembers %d", w.action.Name, len(w.told))
		}
	}
}

func TestAsk(t *testing.T) {
	r := newRig(t, "actions: [{name: a, kind: log}, {name: s, kind: signal}]")
	if err := r.Ask("none", ""); err == nil || !strings.Contains(err.Error(), "none") {
		t.Error(err)
	}
	if err := r.Ask("a", "uid 0 asked"); err != nil {
		t.Error(err)
	}
	if a := r.want("a", record.OutcomeDone); a.Cause != "asked" || a.Why != "uid 0 asked" {
		t.Errorf("%+v", a)
	}
	if err := r.Ask("s", ""); err != nil {
		t.Error(err)
	}
	r.want("s", record.OutcomeRefused)
	if got := r.Names(); !slices.Equal(got, []string{"a", "s"}) {
		t.Errorf("%q", got)
	}
}

// TestDryRun of all: nothing is posted, run or sent.
func TestDryRun(t *testing.T) {
	s := newServer(t, func(int, http.ResponseWriter, *http.Request) {})
	_, p := target(t)
	r := newRig(t, fmt.Sprintf(`
actions_dry_run: true
actions:
  - {name: hook, kind: webhook, on: [state], url: '%s'}
  - {name: run, kind: command, on: [state], argv: [/bin/false]}
  - {name: end, kind: signal, on: [state], signal: KILL}
  - {name: say, kind: log, on: [state]}
`, s.URL))
	r.cross(critical, p)
	seen := map[string]bool{}
	for range 4 {
		a := r.take()
		seen[fmt.Sprint(a.Action, " ", a.Outcome)] = true
	}
	for _, want := range []string{"hook dry_run", "run dry_run", "end dry_run", "say dry_run"} {
		if !seen[want] {
			t.Errorf("no %s: %v", want, seen)
		}
	}
	if len(s.bodies) != 0 || r.log.Len() != 0 {
		t.Error("something was done")
	}
	if _, err := readStat(int(p.ID.PID)); err != nil {
		t.Error(err)
	}
}

func TestParseStat(t *testing.T) {
	line := "12 (a) R) x (y)) S 7 12 12 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0"
	s, err := parseStat([]byte(line))
	if err != nil || s != (stat{parent: 7, flags: 2129984, startTicks: 4242}) || s.flags&kernelThread == 0 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "12", "12 (a", "12 (a) S 1", strings.Replace(line, "4242", "x", 1)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// FuzzParseStat: a process's name may be anything.
func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (a) R) x (y)) S 7 12 12 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0"))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(b) })
}

// Who was not told that something began is not told that it is over.
func TestRecoveryOfWhatWasTold(t *testing.T) {
	r := newRig(t, "actions: [{name: a, kind: log, on: [limit], recovery: true, max_per_hour: 2}]")
	engine := policy.New(policy.Config{
		Prune:   policy.Default().Prune,
		Tracked: []policy.Rule{{Selector: policy.Selector{Name: "x"}, Limits: policy.Limits{FDs: 1}}},
	})
	second := 0.0
	read := func(pids ...int32) {
		second++
		engine.Begin(&record.Host{MonotonicSeconds: record.Some(second), Processes: record.Some(uint64(len(pids)))}, true)
		for _, pid := range pids {
			engine.Process(&record.ProcessFacts{PID: pid, StartTicks: 1, Comm: "x", FDOpen: record.Some(uint64(2))})
		}
		changes := engine.End()
		for i := range changes {
			r.Changed(&changes[i], &Process{ID: changes[i].Process, Comm: "x"})
		}
	}
	want := func(outcome record.Outcome, pid int32, recovery bool) {
		t.Helper()
		if a := r.want("a", outcome); a.PID.Or(0) != pid || a.Recovery != recovery {
			t.Errorf("%+v", a)
		}
	}
	read(11, 12, 13)
	seen := map[string]int{}
	for range 3 { // two go their way while the third is refused
		a := r.take()
		seen[fmt.Sprint(a.PID.Or(0), " ", a.Outcome)]++
	}
	if seen["11 done"] != 1 || seen["12 done"] != 1 || seen["13 rate_limited"] != 1 {
		t.Fatalf("%v", seen)
	}
	r.now.Add(int64(2 * time.Hour))
	read(11)
	want(record.OutcomeDone, 12, true)
	r.nothing("the other was not told")
	read()
	want(record.OutcomeDone, 11, true)
	for _, w := range r.order {
		if len(w.told) != 0 {
			t.Errorf("%d states are remembered", len(w.told))
		}
	}
}
