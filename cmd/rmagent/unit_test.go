package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// systemd is told when the agent is ready, that it reads, and when it stops.
func TestSystemdIsTold(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := agentCommand(t, "run", "--source", "procfs", "--interval", "200ms", "--listen", "")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+filepath.Join(dir, "notify"), "WATCHDOG_USEC=400000")
	s := start(t, cmd)
	next := func() string {
		if err := l.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 256)
		n, err := l.Read(b)
		if err != nil {
			t.Fatalf("%v; it said: %s", err, s.stderr.String())
		}
		return string(b[:n])
	}
	if first := next(); first != "READY=1" {
		t.Errorf("first %q", first)
	}
	for range 3 {
		if m := next(); m != "WATCHDOG=1" {
			t.Errorf("then %q", m)
		}
	}
	s.stop()
	last := ""
	for last != "STOPPING=1" {
		last = next()
	}
}

// Sockets that systemd opened are used, whatever is configured.
func TestSocketActivation(t *testing.T) {
	dir := t.TempDir()
	unixSocket, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "passed.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer unixSocket.Close()
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	agent := agentCommand(t, "run", "--source", "procfs", "--interval", "200ms")
	// LISTEN_PID must be the agent's own (sd_listen_fds(3)).
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, agent.Args...)...)
	cmd.Env = append(agent.Env, "LISTEN_FDS=2")
	cmd.Dir, cmd.SysProcAttr = agent.Dir, agent.SysProcAttr
	for _, l := range []interface{ File() (*os.File, error) }{unixSocket, tcp} {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	s := &served{started: start(t, cmd), tcp: "http://" + tcp.Addr().String()}
	s.unix.Transport = dialUnix(filepath.Join(dir, "passed.sock"))
	await(t, "an answer on the passed socket", func() bool {
		resp, err := s.unix.Get("http://rmagent/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 204
	})
	var system struct{ System map[string]any }
	s.get(t, "/v1/system", &system)
	if system.System["agent_pid"] != float64(cmd.Process.Pid) {
		t.Errorf("%v answered", system.System["agent_pid"])
	}
	s.stop()
}

// With nothing but what the unit leaves it, the agent reads everything.
func TestTheUnitsCapabilitiesSuffice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has capabilities to give up")
	}
	unit, err := os.ReadFile("../../deploy/systemd/rmagent.service")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.+)$`).FindSubmatch(unit)
	if m == nil {
		t.Fatal("the unit has no bounding set")
	}
	bounding := "-all"
	for _, c := range strings.Fields(string(m[1])) {
		bounding += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	agent := agentCommand(t, "run", "--source", "ebpf", "--interval", "200ms", "--listen", "")
	other := helper(t, "fds", func(cmd *exec.Cmd) { cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534} })
	cmd := exec.Command("setpriv", append([]string{"--bounding-set", bounding, "--inh-caps", "-all", "--no-new-privs"}, agent.Args...)...)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = agent.Env, agent.Dir, agent.SysProcAttr
	s := &served{started: start(t, cmd)}
	s.unix.Transport = dialUnix(filepath.Join(agent.Dir, "rmagent.sock"))
	path := fmt.Sprintf("/v1/processes/%d", other.Process.Pid)
	await(t, "an answer", func() bool {
		select {
		case <-s.ended:
			t.Fatalf("it ended: %s", s.stderr.String())
		default:
		}
		resp, err := s.unix.Get("http://rmagent" + path)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	})
	p, _ := s.process(t, fmt.Sprint(other.Process.Pid))
	if p.Source != "ebpf" || !p.Exe.Known() || !p.FDOpen.Known() || !p.NetSentBytesTotal.Known() {
		t.Errorf("another user's process: %+v", p)
	}
	var health struct {
		Status  string
		Trouble []any
	}
	s.get(t, "/healthz", &health)
	if health.Status != "ok" {
		t.Errorf("health %+v", health)
	}
	if err := unix.Kill(cmd.Process.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.wait()
}
