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

	"rmagent/record"
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
	cmd := activated(t, unixSocket, tcp)
	s := &served{started: start(t, cmd), tcp: "http://" + tcp.Addr().String()}
	s.unix.Transport = dialUnix(filepath.Join(dir, "passed.sock"))
	awaitReading(t, filepath.Join(dir, "passed.sock"))
	var system struct{ System map[string]any }
	s.get(t, "/v1/system", &system)
	if system.System["agent_pid"] != float64(cmd.Process.Pid) {
		t.Errorf("%v answered", system.System["agent_pid"])
	}
	s.stop()
}

// activated is an agent that gets sockets as from systemd.
func activated(t *testing.T, sockets ...interface{ File() (*os.File, error) }) *exec.Cmd {
	t.Helper()
	agent := agentCommand(t, "run", "--source", "procfs", "--interval", "200ms")
	// LISTEN_PID must be the agent's own (sd_listen_fds(3)).
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, agent.Args...)...)
	cmd.Env = append(agent.Env, fmt.Sprintf("LISTEN_FDS=%d", len(sockets)))
	cmd.Dir, cmd.SysProcAttr = agent.Dir, agent.SysProcAttr
	for _, s := range sockets {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	return cmd
}

// A second unix socket is no TCP door, and one without connections is none at all.
func TestSocketActivationRefuses(t *testing.T) {
	dir := t.TempDir()
	address := func(name, network string) *net.UnixAddr {
		return &net.UnixAddr{Name: filepath.Join(dir, name), Net: network}
	}
	one, err := net.ListenUnix("unix", address("one.sock", "unix"))
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	two, err := net.ListenUnix("unix", address("two.sock", "unix"))
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	datagrams, err := net.ListenUnixgram("unixgram", address("datagrams.sock", "unixgram"))
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	for _, c := range []struct {
		cmd  *exec.Cmd
		says string
	}{
		{activated(t, one, two), "one.sock and " + filepath.Join(dir, "two.sock") + ": rmagent serves one unix socket"},
		{activated(t, one, datagrams), "number 2 of 2 is none that one can connect to"},
	} {
		out, err := c.cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%v, and it said %q; want %q", err, out, c.says)
		}
	}
}

// unitSettings returns the values of a setting of the unit.
func unitSettings(t *testing.T, name string) (values []string) {
	t.Helper()
	unit, err := os.ReadFile("../../deploy/systemd/rmagent.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^`+name+`=(.+)$`).FindAllSubmatch(unit, -1) {
		values = append(values, string(m[1]))
	}
	if len(values) == 0 {
		t.Fatalf("the unit has no %s", name)
	}
	return values
}

// unitPrivileges are the arguments with which setpriv leaves a program what the unit does.
func unitPrivileges(t *testing.T) []string {
	t.Helper()
	bounding := "-all"
	for _, c := range strings.Fields(unitSettings(t, "CapabilityBoundingSet")[0]) {
		bounding += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	return []string{"--bounding-set", bounding, "--inh-caps", "-all", "--no-new-privs"}
}

// systemCalls are those of a set, as systemd on this machine has it.
func systemCalls(t *testing.T, word string, calls map[string]bool, allowed bool) {
	t.Helper()
	if !strings.HasPrefix(word, "@") {
		calls[word] = allowed
		return
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", word).Output()
	if err != nil {
		t.Fatalf("systemd-analyze syscall-filter %s: %v", word, err)
	}
	for _, line := range strings.Split(string(out), "\n")[1:] {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			systemCalls(t, line, calls, allowed)
		}
	}
}

// unitFilter builds a program that runs another with no more than the system calls that
// the unit allows.
func unitFilter(t *testing.T) string {
	t.Helper()
	calls := map[string]bool{}
	systemCalls(t, "@default", calls, true)
	for _, value := range unitSettings(t, "SystemCallFilter") {
		words, denied := strings.CutPrefix(value, "~")
		for _, word := range strings.Fields(words) {
			systemCalls(t, word, calls, !denied)
		}
	}
	var list strings.Builder
	for name, allowed := range calls {
		if allowed {
			fmt.Fprintf(&list, "#ifdef SYS_%[1]s\nALLOW(SYS_%[1]s)\n#endif\n", name)
		}
	}
	dir := t.TempDir()
	source, program := filepath.Join(dir, "filter.c"), filepath.Join(dir, "filter")
	if err := os.WriteFile(source, fmt.Appendf(nil, unitFilterSource, list.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	return program
}

const unitFilterSource = `#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#define ALLOW(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
static struct sock_filter filter[] = {
BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
%s
BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
};
int main(int argc, char **argv)
{
	struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
		execv(argv[1], argv + 1);
	perror(argv[1]);
	return 1;
}
`

// With the system calls and capabilities that the unit leaves it, the agent names the code
// that leaks: the child that walks its stack can confine itself.
func TestLeaksAreNamedUnderTheUnit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has capabilities to give up")
	}
	p := leakers[0].start(t)
	agent := builtAgent(t, "run", "--source", "ebpf", "--listen", "", "--processes", "none", "--jsonl", "out.jsonl")
	cmd := exec.Command("setpriv", append(append(unitPrivileges(t), unitFilter(t)), agent.Args...)...)
	cmd.Args[len(cmd.Args)-len(agent.Args)] = agent.Path
	cmd.Env, cmd.Dir, cmd.SysProcAttr = agent.Env, agent.Dir, agent.SysProcAttr
	s := start(t, cmd)
	out := filepath.Join(cmd.Dir, "out.jsonl")
	await(t, "the first reading", func() bool { return len(only[*record.Host](wholeRecords(t, out))) > 0 })
	p.Say("")
	var leak *record.Leak
	await(t, "the leak", func() bool {
		for _, l := range only[*record.Leak](wholeRecords(t, out)) {
			if l.PID == p.PID() {
				leak = l
			}
		}
		return leak != nil
	})
	s.stop()
	named := false
	for _, site := range leak.Sites {
		for _, f := range site.Stack {
			named = named || f.Function.Or("") == leakers[0].function
		}
	}
	if !named {
		t.Errorf("%s is not named: %+v; the agent said: %s", leakers[0].function, leak, s.stderr.String())
	}
}

// With nothing but what the unit leaves it, the agent reads everything.
func TestTheUnitsCapabilitiesSuffice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has capabilities to give up")
	}
	agent := agentCommand(t, "run", "--source", "ebpf", "--interval", "200ms", "--listen", "")
	other := helper(t, "fds", func(cmd *exec.Cmd) { cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534} })
	cmd := exec.Command("setpriv", append(unitPrivileges(t), agent.Args...)...)
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
