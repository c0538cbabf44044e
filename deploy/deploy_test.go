// Package deploy holds what others run beside rmagent: units, rules, configurations.
// Its tests hold them against the programs that read them.
package deploy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"rmagent/internal/metrics"
	"rmagent/internal/shiptest"
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
	// systemd would remove them with the directory, and listen on where no path leads.
	sockets, err := os.ReadFile("systemd/rmagent.socket")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(sockets), "=/run/rmagent/") && !strings.Contains(text, "\nRuntimeDirectoryPreserve=yes\n") {
		t.Error("when the agent is restarted, its RuntimeDirectory goes, and the sockets of rmagent.socket in it")
	}
	if strings.Contains(text, "CAP_KILL") || strings.Contains(text, "CAP_SYS_ADMIN") {
		t.Error("the unit that only observes may do more")
	}
}

// The shippers' configurations are files of their kind that name the records' file; the
// Collector's is run by the module below shipping.
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

// ship starts rsyslog, which tails a file by our configuration and writes another.
func ship(t *testing.T) *shiptest.Shipper {
	t.Helper()
	rsyslogd := program(t, "sbin/rsyslogd")
	dir := t.TempDir()
	from, to := filepath.Join(dir, "records.jsonl"), filepath.Join(dir, "shipped.jsonl")
	b, err := os.ReadFile("shipping/rsyslog.conf")
	if err != nil {
		t.Fatal(err)
	}
	libraries := filepath.Join(filepath.Dir(filepath.Dir(rsyslogd)), "lib/x86_64-linux-gnu") // unpacked with it
	modules := filepath.Join(libraries, "rsyslog")
	t.Setenv("LD_LIBRARY_PATH", libraries)
	text := strings.ReplaceAll(string(b), "/var/log/rmagent/records.jsonl", from)
	text = strings.Replace(text, `global(`, fmt.Sprintf("global(workDirectory=%q ", dir), 1)
	forward := regexp.MustCompile(`(?s)action\(type="omfwd".*?\)`)
	if !forward.MatchString(text) {
		t.Fatal("the configuration forwards nothing")
	}
	text = forward.ReplaceAllString(text, fmt.Sprintf(`action(type="omfile" file=%q template="record" asyncWriting="off" flushOnTXEnd="on")`, to))
	conf := filepath.Join(dir, "rsyslog.conf")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(rsyslogd, "-N1", "-f", conf, "-M", modules).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(from, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(rsyslogd, "-n", "-f", conf, "-i", filepath.Join(dir, "pid"), "-M", modules)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("rsyslogd said: %s", said.String())
		}
	})
	signal := func(sig os.Signal) {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	return &shiptest.Shipper{
		From: from,
		Arrived: func(t *testing.T) []byte {
			t.Helper()
			b, err := os.ReadFile(to)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			return b
		},
		Halt: func(*testing.T) func() {
			signal(unix.SIGSTOP)
			return func() { signal(unix.SIGCONT) }
		},
	}
}

func TestRsyslogLosesNoLineAtARename(t *testing.T) { ship(t).LosesNothingAtRenames(t) }

func TestRsyslogAtCopytruncate(t *testing.T) { ship(t).ShowsGapsAtCopytruncate(t) }

// What is installed is complete: the records that the unit has written are rotated, and
// configuration that is there stays.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	rotation := filepath.Join(dir, "etc/logrotate.d/rmagent")
	run(t, "..", "make", "install", "DESTDIR="+dir)
	unit, err := os.ReadFile(filepath.Join(dir, "etc/systemd/system/rmagent.service"))
	if err != nil {
		t.Fatal(err)
	}
	records := regexp.MustCompile(`--jsonl (\S+)`).FindSubmatch(unit)
	rules, err := os.ReadFile(rotation)
	if err != nil || records == nil || !strings.Contains(string(rules), string(records[1])+" {") {
		t.Errorf("the unit writes %q, and this is rotated (%v): %s", records, err, rules)
	}
	own := []byte("# mine\n")
	if err := os.WriteFile(rotation, own, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "..", "make", "install", "DESTDIR="+dir)
	run(t, "..", "make", "uninstall", "DESTDIR="+dir)
	if left, err := os.ReadFile(rotation); string(left) != string(own) {
		t.Errorf("what was there is now %q, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "usr/local/bin/rmagent")); !os.IsNotExist(err) {
		t.Errorf("the agent is still there: %v", err)
	}
}
