// Package deploy holds what others run beside rmagent: units, rules, configurations.
// Its tests hold them against the programs that read them.
package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"rmagent/internal/metrics"
	"rmagent/internal/sink"
	"rmagent/record"
)

// program finds a program of a package that scripts/setup installs or unpacks.
func program(t *testing.T, path string) string {
	t.Helper()
	unpacked, err := filepath.Abs("../.cache/servers/usr/" + path)
	if err != nil {
		t.Fatal(err)
	}
	for _, candidate := range []string{"/usr/" + path, unpacked} {
		if _, err := os.Stat(candidate); err == nil {
			return candidate
		}
	}
	t.Fatalf("%s is not there; scripts/setup test gets it", path)
	return ""
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestAlertRules(t *testing.T) {
	promtool := program(t, "bin/promtool")
	run(t, "prometheus", promtool, "check", "rules", "rmagent.rules.yml")
	run(t, "prometheus", promtool, "test", "rules", "rmagent.rules.test.yml")
	run(t, "prometheus", promtool, "check", "config", "prometheus.yml")

	// A rule about a metric that nobody has would never fire.
	there := map[string]bool{}
	for _, name := range metrics.Names() {
		there[name] = true
	}
	rules, err := os.ReadFile("prometheus/rmagent.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, used := range regexp.MustCompile(`\brmagent_[a-z0-9_]+`).FindAllString(string(rules), -1) {
		if !there[used] {
			t.Errorf("a rule asks for %s, which there is not", used)
		}
	}
}

// The unit is one that systemd takes, and that is closed as far as watching allows.
func TestUnits(t *testing.T) {
	analyze := program(t, "bin/systemd-analyze")
	unit, err := os.ReadFile("systemd/rmagent.service")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// What is installed elsewhere is not what is tested.
	text := strings.Replace(string(unit), "/usr/local/bin/rmagent", "/bin/true", 1)
	text = regexp.MustCompile(`(?m)^Documentation=.*$`).ReplaceAllString(text, "")
	path := filepath.Join(dir, "rmagent.service")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := run(t, dir, analyze, "verify", "--man=no", path); strings.Contains(out, "rmagent.service") {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	const mostExposed = "40" // of 100; 9.6 of 10 is what a unit without any of this has
	run(t, dir, analyze, "security", "--offline=yes", "--threshold="+mostExposed, path)

	dropIn := filepath.Join(dir, "rmagent.service.d")
	if err := os.Mkdir(dropIn, 0o755); err != nil {
		t.Fatal(err)
	}
	actions, err := os.ReadFile("systemd/rmagent-actions.conf")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dropIn, "actions.conf"), actions, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := run(t, dir, analyze, "verify", "--man=no", path); strings.Contains(out, "rmagent.service") || strings.Contains(out, "actions.conf") {
		t.Errorf("with actions: %s", out)
	}
	if strings.Contains(text, "CAP_KILL") || strings.Contains(text, "CAP_SYS_ADMIN") {
		t.Error("the unit that only observes may do more")
	}
}

// The other shippers' configurations are files of their kind that name the records'
// file.
func TestShippersParse(t *testing.T) {
	for _, name := range []string{"fluent-bit.yaml", "otelcol.yaml"} {
		b, err := os.ReadFile("shipping/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if err := yaml.Unmarshal(b, &v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"fluent-bit.yaml", "otelcol.yaml", "vector.toml", "rsyslog.conf"} {
		if b, err := os.ReadFile("shipping/" + name); err != nil || !bytes.Contains(b, []byte("/var/log/rmagent/records.jsonl")) {
			t.Errorf("%s does not name the file that the unit writes: %v", name, err)
		}
	}
}

// shipped is rsyslog, which tails a file by our configuration and writes another.
type shipped struct {
	from, to string
	daemon   *os.Process
}

func ship(t *testing.T) *shipped {
	t.Helper()
	rsyslogd := program(t, "sbin/rsyslogd")
	dir := t.TempDir()
	s := &shipped{from: filepath.Join(dir, "records.jsonl"), to: filepath.Join(dir, "shipped.jsonl")}
	b, err := os.ReadFile("shipping/rsyslog.conf")
	if err != nil {
		t.Fatal(err)
	}
	modules := filepath.Join(filepath.Dir(filepath.Dir(rsyslogd)), "lib/x86_64-linux-gnu/rsyslog")
	text := strings.ReplaceAll(string(b), "/var/log/rmagent/records.jsonl", s.from)
	text = strings.Replace(text, `global(`, fmt.Sprintf("global(workDirectory=%q ", dir), 1)
	forward := regexp.MustCompile(`(?s)action\(type="omfwd".*?\)`)
	if !forward.MatchString(text) {
		t.Fatal("the configuration forwards nothing")
	}
	text = forward.ReplaceAllString(text, fmt.Sprintf(`action(type="omfile" file=%q template="record" asyncWriting="off" flushOnTXEnd="on")`, s.to))
	conf := filepath.Join(dir, "rsyslog.conf")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(rsyslogd, "-N1", "-f", conf, "-M", modules).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(s.from, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(rsyslogd, "-n", "-f", conf, "-i", filepath.Join(dir, "pid"), "-M", modules)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.daemon = cmd.Process
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("rsyslogd said: %s", said.String())
		}
	})
	return s
}

// seqs are the numbers of the records that arrived. Each line must be a record: a hole
// that a truncated file would have is none.
func (s *shipped) seqs(t *testing.T) (list []uint64) {
	t.Helper()
	b, err := os.ReadFile(s.to)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	whole := b[:bytes.LastIndexByte(b, '\n')+1]
	for line := range bytes.Lines(whole) {
		if bytes.IndexByte(line, 0) >= 0 {
			t.Fatalf("a hole arrived: %.80q", line)
		}
		r, err := record.Decode(bytes.TrimSpace(line))
		if err != nil {
			t.Fatalf("%v: %.200q", err, line)
		}
		list = append(list, r.Head().Seq)
	}
	return list
}

func await(t *testing.T, what string, there func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !there(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// writing writes records until it is told to stop.
type writing struct {
	out     *sink.JSONL
	written atomic.Uint64
	stop    chan struct{}
	done    chan struct{}
}

func write(t *testing.T, path string) *writing {
	t.Helper()
	out, err := sink.OpenJSONL(sink.JSONLOptions{Path: path, Host: "h", BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	w := &writing{out: out, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-tick.C:
			}
			for range 5 {
				r := &record.StateChange{Resource: "fd", Target: "host", Message: strings.Repeat("m", 300) + " \x1b[2J \n"}
				r.Time = time.Now()
				if err := out.Write(r); err != nil {
					t.Error(err)
				}
				w.written.Add(1)
			}
			if err := out.Flush(); err != nil {
				t.Error(err)
			}
		}
	}()
	return w
}

func (w *writing) end(t *testing.T) (written uint64) {
	t.Helper()
	close(w.stop)
	<-w.done
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.out.Close(ctx); err != nil {
		t.Error(err)
	}
	return w.written.Load()
}

// Rename and SIGHUP, which logrotate.conf does: every line arrives once, in order.
func TestRsyslogLosesNoLineAtARename(t *testing.T) {
	s := ship(t)
	w := write(t, s.from)
	for i := range 3 {
		before := w.written.Load()
		await(t, "lines to arrive", func() bool { list := s.seqs(t); return len(list) > 0 && list[len(list)-1] > before })
		if err := os.Rename(s.from, fmt.Sprintf("%s.%d", s.from, i)); err != nil {
			t.Fatal(err)
		}
		w.out.Reopen()
	}
	n := w.end(t)
	await(t, "the last line", func() bool { list := s.seqs(t); return len(list) > 0 && slices.Max(list) == n })
	for i, seq := range s.seqs(t) {
		if seq != uint64(i)+1 {
			t.Fatalf("line %d has seq %d of %d", i+1, seq, n)
		}
	}
}

// copytruncate loses what the shipper has not read when the file is cut. No line is
// torn, the file has no hole, and the gap shows in seq.
func TestRsyslogAtCopytruncate(t *testing.T) {
	s := ship(t)
	w := write(t, s.from)
	signal := func(sig os.Signal) {
		if err := s.daemon.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		before := w.written.Load()
		await(t, "lines to arrive", func() bool { list := s.seqs(t); return len(list) > 0 && list[len(list)-1] > before })
		signal(unix.SIGSTOP) // it is slow
		before = w.written.Load()
		await(t, "more lines", func() bool { return w.written.Load() > before+50 })
		if err := os.Truncate(s.from, 0); err != nil {
			t.Fatal(err)
		}
		signal(unix.SIGCONT)
	}
	before := w.written.Load()
	await(t, "lines behind the cut", func() bool { return w.written.Load() > before+50 })
	n := w.end(t)
	await(t, "the last line", func() bool { list := s.seqs(t); return len(list) > 0 && list[len(list)-1] == n })
	last, gaps := uint64(0), uint64(0)
	list := s.seqs(t)
	for _, seq := range list {
		if seq <= last {
			t.Fatalf("seq %d comes after %d", seq, last)
		}
		gaps += seq - last - 1
		last = seq
	}
	if gaps == 0 || gaps+uint64(len(list)) != n {
		t.Errorf("%d of %d lines arrived, the gaps in seq are %d", len(list), n, gaps)
	}
	b, err := os.ReadFile(s.from)
	if err != nil {
		t.Fatal(err)
	}
	if line := b[:max(bytes.IndexByte(b, '\n'), 0)]; !json.Valid(line) || bytes.IndexByte(b, 0) >= 0 {
		t.Errorf("the cut file begins with %.80q", line)
	}
}
