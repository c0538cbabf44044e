package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"rmagent/internal/config"
	"rmagent/internal/hostfs"
	"rmagent/internal/policy"
	"rmagent/record"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// counter counts the records of each kind, and tells of each.
type counter struct {
	mu    sync.Mutex
	kinds map[record.Kind]int
	came  chan struct{}
}

func newCounter() *counter {
	return &counter{kinds: map[record.Kind]int{}, came: make(chan struct{}, 1)}
}

func (c *counter) Observe(r record.Record) {
	kind, _ := record.KindOf(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kinds[kind]++
	select {
	case c.came <- struct{}{}:
	default:
	}
}

func (c *counter) of(kind record.Kind) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kinds[kind]
}

// await waits for so many records of a kind.
func (c *counter) await(t *testing.T, kind record.Kind, n int) {
	t.Helper()
	late := time.After(patience)
	for c.of(kind) < n {
		select {
		case <-c.came:
		case <-late:
			t.Fatalf("%d records of kind %s, want %d", c.of(kind), kind, n)
		}
	}
}

// subject is an agent over /proc that a test runs.
type subject struct {
	*Agent
	t     *testing.T
	seen  *counter
	logs  *observer.ObservedLogs
	stop  context.CancelFunc
	ended chan error
}

// open opens an agent whose configuration is a file, with the lines that a test adds.
func open(t *testing.T, yaml string, change ...func(*Options)) (*subject, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rmagent.yaml")
	writeFile(t, path, yaml)
	sources := config.Sources{Path: path, Settings: map[string]string{"source": "procfs", "gpu": "off", "interval": "100ms"}, Alone: true}
	l, err := config.Read(sources)
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.InfoLevel)
	s := &subject{t: t, seen: newCounter(), logs: logs, ended: make(chan error, 1)}
	o := Options{Config: l, Sources: sources, Version: "test", Log: zap.New(core), Observers: []Observer{s.seen}}
	for _, f := range change {
		f(&o)
	}
	s.Agent, err = Open(o)
	return s, err
}

// run opens an agent and runs it.
func run(t *testing.T, yaml string, change ...func(*Options)) *subject {
	t.Helper()
	s, err := open(t, yaml, change...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	t.Cleanup(stop)
	go func() { s.ended <- s.Run(ctx) }()
	return s
}

// end ends the run and closes the agent; neither may fail.
func (s *subject) end() {
	s.t.Helper()
	s.stop()
	if err := s.wait(); err != nil {
		s.t.Errorf("Run: %v", err)
	}
	if err := s.Close(soon(s.t)); err != nil {
		s.t.Errorf("Close: %v", err)
	}
}

func (s *subject) wait() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(patience):
		s.t.Fatal("Run does not end")
		return nil
	}
}

// awaitLog waits for a line of the log and returns its fields.
func (s *subject) awaitLog(message string) map[string]any {
	s.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if lines := s.logs.FilterMessage(message).All(); len(lines) > 0 {
			return lines[len(lines)-1].ContextMap()
		}
	}
	s.t.Fatalf("the log has no %s", message)
	return nil
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// recorded decodes an output, and wants its seq without gaps.
func recorded(t *testing.T, path string) (all []record.Record) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		r, err := record.Decode([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
		if seq := r.Head().Seq; seq != uint64(len(all)) {
			t.Fatalf("record %d has seq %d", len(all), seq)
		}
	}
	return all
}

// The configuration comes first, and what the agent took comes last: all of it is
// written when Close returns.
func TestAnAgentWritesFromItsConfigurationToItsAccount(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.jsonl")
	s := run(t, "jsonl: "+out)
	s.seen.await(t, record.KindHost, 3)
	if err := s.Run(context.Background()); err == nil {
		t.Error("it runs twice")
	}
	s.end()
	all := recorded(t, out)
	first, ok := all[0].(*record.Config)
	if !ok || first.Hash != s.Config.Hash() || first.AgentPID.Or(0) != int32(os.Getpid()) {
		t.Errorf("the first record is %+v", all[0])
	}
	if _, ok := all[len(all)-1].(*record.Agent); !ok {
		t.Errorf("the last record is of kind %s", all[len(all)-1].Head().Kind)
	}
	total := 0
	for _, n := range s.seen.kinds {
		total += n
	}
	if total != len(all) {
		t.Errorf("%d records were observed, %d written", total, len(all))
	}
	lines := s.logs.All()
	if last := lines[len(lines)-1]; last.Message != "stopped" || last.ContextMap()["records_written"] != uint64(len(all)) {
		t.Errorf("the last line of the log is %s %v, %d records are written", last.Message, last.ContextMap(), len(all))
	}
}

// An action that goes on when the agent ends is ended, and its record is still written:
// actions end before the output does.
func TestTheRecordOfAnActionThatTheEndCutsOffIsWritten(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.jsonl")
	begun := filepath.Join(t.TempDir(), "begun")
	s := run(t, `
jsonl: `+out+`
thresholds: {memory: {info: 0.01, warning: 0.01, critical: 0.01, hysteresis: 0}}
actions: [{name: hang, kind: command, on: [state], argv: [/bin/sh, -c, "echo > `+begun+`; exec sleep 1000"], time_limit: 1h}]
`)
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(begun); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the action does not begin")
		}
	}
	s.end()
	all := recorded(t, out)
	i := slices.IndexFunc(all, func(r record.Record) bool { _, ok := r.(*record.Action); return ok })
	if i < 0 {
		t.Fatal("the action has no record")
	}
	if a := all[i].(*record.Action); a.Action != "hang" || a.Outcome == record.OutcomeDone {
		t.Errorf("%+v", a)
	}
}

// What can't be opened leaves nothing open.
func TestOpenIsAllOrNothing(t *testing.T) {
	open(t, "jsonl: /nonexistent/out.jsonl") // whatever Go opens once
	before := descriptors(t)
	s, err := open(t, "jsonl: /nonexistent/out.jsonl")
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/out.jsonl") {
		t.Errorf("error %v", err)
	}
	if after := descriptors(t); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
	if s.logs.FilterMessage("started").Len() > 0 {
		t.Error("it says that it started")
	}
}

// descriptors are what this process has open, but for that which lists them.
func descriptors(t *testing.T) (list []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			list = append(list, e.Name()+" "+to)
		}
	}
	return list
}

// A full disk costs records, which are counted and told; the agent goes on, and ends well.
func TestAFullDiskIsLivedWith(t *testing.T) {
	s := run(t, "jsonl: /dev/full")
	s.seen.await(t, record.KindHost, 4)
	if f := s.awaitLog("output_failed"); !strings.Contains(f["error"].(string), "no space left") {
		t.Errorf("the log says %v", f)
	}
	troubles := s.Troubles()
	if !slices.ContainsFunc(troubles, func(t Trouble) bool {
		return t.What == "records" && strings.HasSuffix(t.Why, ": disk_full") && strings.Contains(t.Why, " lost since ")
	}) {
		t.Errorf("troubles: %v", troubles)
	}
	s.end()
	f := s.awaitLog("stopped")
	if lost, _ := f["records_lost"].(map[string]uint64); f["records_written"] != uint64(0) || lost["disk_full"] == 0 {
		t.Errorf("the account says %v", f)
	}
}

// A reader of the records who goes ends the agent, and that is no error.
func TestAReaderWhoGoesEndsIt(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, "jsonl: '-'", func(o *Options) { o.Stdout = w })
	w.Close() // the agent has its own
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := s.wait(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if s.logs.FilterMessage("reader_gone").Len() != 1 {
		t.Error("the log does not say why it ended")
	}
	if err := s.Close(soon(t)); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// A reader who reads nothing must not keep the agent: what it cost is told, and no error.
func TestAReaderWhoHangsIsLeftBehind(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	s := run(t, "jsonl: '-'\nprocesses: all", func(o *Options) { o.Stdout = w })
	w.Close()
	s.seen.await(t, record.KindHost, 5)
	s.stop()
	if err := s.wait(); err != nil {
		t.Errorf("Run: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
	if f := s.awaitLog("output_incomplete"); !strings.Contains(f["error"].(string), "lines are lost") {
		t.Errorf("the log says %v", f)
	}
	if lost, _ := s.awaitLog("stopped")["records_lost"].(map[string]uint64); lost["closed"] == 0 {
		t.Errorf("nothing is counted as lost: %v", lost)
	}
	if _, err := io.Copy(io.Discard, r); err != nil && !errors.Is(err, os.ErrClosed) { // lets the writer go
		t.Error(err)
	}
}

// A new file comes into force whole, or not at all.
func TestReload(t *testing.T) {
	s := run(t, "log_level: info")
	s.seen.await(t, record.KindHost, 1)
	before := s.ConfigStatus()
	writeFile(t, s.Sources.Path, "log_level: warn\nthresholds: {cpu: {critical: 1.5}}")
	s.Hangup()
	s.awaitLog("config_refused")
	if now := s.ConfigStatus(); now.Hash != before.Hash || !strings.Contains(now.Refused, s.Sources.Path+":2: thresholds.cpu.critical") {
		t.Errorf("%+v", now)
	}
	if l := s.InForce(); l.LogLevel != "info" || l.Hash() != before.Hash {
		t.Errorf("in force is %s", l.LogLevel)
	}
	troubles := s.Troubles()
	if !slices.ContainsFunc(troubles, func(x Trouble) bool { return x.What == "configuration" && strings.Contains(x.Why, "refused") }) {
		t.Errorf("troubles %v", troubles)
	}

	writeFile(t, s.Sources.Path, "log_level: warn\nprocesses: none\njsonl: /tmp/later")
	s.Hangup()
	f := s.awaitLog("config_reloaded")
	if waits, _ := f["needs_restart"].([]any); len(waits) != 1 || waits[0] != "jsonl" {
		t.Errorf("the log says %v", f)
	}
	s.seen.await(t, record.KindConfig, 2)
	if now := s.ConfigStatus(); now.Hash == before.Hash || now.Refused != "" || !slices.Equal(now.Waiting, []string{"jsonl"}) {
		t.Errorf("%+v", now)
	}
	if l := s.InForce(); l.LogLevel != "warn" || l.JSONL != "" {
		t.Errorf("in force is %s, %s", l.LogLevel, l.JSONL)
	}
	// Who is told of a change looks no more for it: it is one reload.
	s.seen.await(t, record.KindHost, s.seen.of(record.KindHost)+4)
	if n, refused := s.seen.of(record.KindConfig), s.logs.FilterMessage("config_refused").Len(); n != 2 || refused != 1 {
		t.Errorf("%d configurations, %d refusals", n, refused)
	}
	s.end()
}

// What is set while it runs is checked as the file is, and wins over it.
func TestSetAndTrack(t *testing.T) {
	s := run(t, "")
	s.seen.await(t, record.KindHost, 1)
	for key, words := range map[string]string{
		"jsonl": "can't be changed while the agent runs", "no_such": "no_such", "thresholds.cpu.critical": "allowed",
	} {
		if err := s.Set(map[string]string{key: "7", "log_level": "debug"}); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if level := s.InForce().LogLevel; level != "info" {
		t.Errorf("a setting beside a wrong one is in force: %s", level)
	}
	if err := s.Set(map[string]string{"thresholds.fd.warning": "0.75"}); err != nil {
		t.Fatal(err)
	}
	s.seen.await(t, record.KindConfig, 2)
	if err := s.Track(config.Tracked{Label: "me", PID: os.Getpid(), MaxFD: 1}); err != nil {
		t.Fatal(err)
	}
	s.seen.await(t, record.KindState, 1) // it has more than one open
	if found, err := s.Untrack("me"); !found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	if found, err := s.Untrack("me"); found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	s.end()
}

// A rule for one process goes after it, but not at once: the policy tells first that what
// it exceeded is over.
func TestRulesOfTheEndedGo(t *testing.T) {
	s := run(t, "tracked: [{label: file, pid: 1, max_fd: 1e9}]")
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	track := func(label string, pid int) {
		t.Helper()
		id, err := hostfs.ReadID(pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Track(config.Tracked{Label: label, PID: pid, StartTicks: int(id.StartTicks), MaxFD: 1e9}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, labels ...string) {
		t.Helper()
		var got []string
		for _, rule := range s.InForce().Tracked {
			got = append(got, rule.Label)
		}
		if !slices.Equal(got, labels) {
			t.Errorf("%s: rules %v", when, got)
		}
	}
	track("child", cmd.Process.Pid)
	track("me", os.Getpid())
	want("while it lives", "file", "child", "me")
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	track("me", os.Getpid())
	want("when it has just ended", "file", "child", "me")
	if _, there := s.Tracked("child"); !there {
		t.Error("its rule is not to be found")
	}
	for label := range s.reloads.ended {
		s.reloads.ended[label] = time.Now().Add(-keepEnded)
	}
	track("me", os.Getpid())
	want("later", "file", "me")
	s.end()
}

// Who asks what is in force does not wait for a file that is being read.
func TestInForceDoesNotWait(t *testing.T) {
	s := run(t, "log_level: warn")
	s.reloads.mu.Lock()
	defer s.reloads.mu.Unlock()
	told := make(chan string, 1)
	go func() { told <- s.InForce().LogLevel }()
	select {
	case level := <-told:
		if level != "warn" {
			t.Errorf("in force is %s", level)
		}
	case <-time.After(patience):
		t.Error("it waits")
	}
}

// A file that is refused, or gone, keeps nobody from changing a setting: that is one of the
// configuration in force. The file stays refused.
func TestSetBesideARefusedFile(t *testing.T) {
	s := run(t, "thresholds: {fd: {info: 0.3}}")
	s.seen.await(t, record.KindHost, 1)
	writeFile(t, s.Sources.Path, "thresholds: {fd: {info: 0.2}}\nno_such: 7")
	s.Hangup()
	s.awaitLog("config_refused")
	if err := s.Set(map[string]string{"thresholds.fd.warning": "0.75"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.Sources.Path); err != nil {
		t.Fatal(err)
	}
	if err := s.Track(config.Tracked{Label: "me", PID: os.Getpid(), MaxFD: 1}); err != nil {
		t.Fatal(err)
	}
	if found, err := s.Untrack("me"); !found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	fd := s.InForce().Thresholds[policy.FD]
	if fd.Info != 0.3 || fd.Warning != 0.75 || s.ConfigStatus().Refused == "" {
		t.Errorf("in force is %+v, refused %q", fd, s.ConfigStatus().Refused)
	}
	writeFile(t, s.Sources.Path, "thresholds: {fd: {info: 0.4}}")
	s.Hangup()
	s.awaitLog("config_reloaded")
	fd = s.InForce().Thresholds[policy.FD]
	if fd.Info != 0.4 || fd.Warning != 0.75 || s.ConfigStatus().Refused != "" {
		t.Errorf("with a good file: %+v, refused %q", fd, s.ConfigStatus().Refused)
	}
	s.end()
}

// Subscribers that panic or hang cost the agent nothing.
func TestSubscribersThatPanicOrHang(t *testing.T) {
	subscribers := NewSubscribers(zap.NewNop())
	again, hangs, release := make(chan struct{}, 1000), make(chan struct{}, 1000), make(chan struct{})
	panics := subscribers.Subscribe(Subscription{Kinds: []record.Kind{record.KindHost}, Func: func(record.Record) {
		again <- struct{}{}
		panic("of a subscriber")
	}})
	subscribers.Subscribe(Subscription{Func: func(record.Record) {
		hangs <- struct{}{}
		<-release
	}})
	s := run(t, "", func(o *Options) { o.Observers = append(o.Observers, subscribers) })
	for range 3 { // it is called again after it panicked
		select {
		case <-again:
		case <-time.After(patience):
			t.Fatal("a subscriber that panicked is not called again")
		}
	}
	<-hangs
	s.seen.await(t, record.KindHost, s.seen.of(record.KindHost)+3) // and the agent goes on
	s.end()
	if panics.Panics() < 2 {
		t.Errorf("%d panics are counted", panics.Panics())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := subscribers.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close with one that hangs: %v", err)
	}
	close(release)
}
