package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/record"
)

// served is an agent that is asked over HTTP.
type served struct {
	*started
	dir  string
	tcp  string // http://ADDRESS
	unix http.Client
}

// serveAgent starts an agent with both doors, and waits for its first reading.
func serveAgent(t *testing.T, args ...string) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	cmd := agentCommand(t, append([]string{"run", "--listen", address}, args...)...)
	s := &served{dir: cmd.Dir, tcp: "http://" + address}
	s.unix.Transport = dialUnix(filepath.Join(cmd.Dir, "rmagent.sock"))
	s.started = start(t, cmd)
	t.Cleanup(s.unix.CloseIdleConnections)
	await(t, "the agent to be ready", func() bool {
		resp, err := http.Get(s.tcp + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusNoContent
	})
	return s
}

// What an agent read last that reads once an hour is the past: root reads, and others are
// told how old it is. Nobody waits for its next reading.
func TestBesideAnAgentThatReadsRarely(t *testing.T) {
	s := serveAgent(t, "--interval", "1h")
	pid := helper(t, "fds").Process.Pid // after its reading
	for _, args := range [][]string{{"snapshot"}, {"top", "--json"}, {"headroom", "--json", "--for", "0", "--top", "0"}} {
		cmd := s.command(t, args...)
		time.AfterFunc(patience, func() { cmd.Process.Kill() })
		r := runToEnd(t, cmd)
		there := regexp.MustCompile(fmt.Sprintf(`(?m)("pid": ?|^ *)%d\b`, pid)).MatchString(r.stdout)
		told := strings.HasPrefix(r.stderr, "rmagent: the running agent reads every 60 min and did so ")
		if root := os.Geteuid() == 0; r.status != 0 || there != root || told == root {
			t.Errorf("%s: exit status %d, the process that began since is there: %t, says %q", args[0], r.status, there, r.stderr)
		}
	}
}

// An agent that watches nobody has nothing that could be old.
func TestFDsOfAnAgentThatWatchesNobody(t *testing.T) {
	s := serveAgent(t, "--name", "nobody-has-this")
	r := runToEnd(t, s.command(t, "fds"))
	if r.status != 0 || !strings.HasPrefix(r.stdout, "0 processes hold 0 descriptors\n") {
		t.Errorf("exit status %d, %s%s", r.status, r.stdout, r.stderr)
	}
}

// What a process holds is read when it is asked for, and so is how many these are.
func TestFDsOfAnAgentThatReadsRarely(t *testing.T) {
	p := helper(t, "fds")
	s := serveAgent(t, "--interval", "1m")
	p.Say("")
	p.Hear("ready") // all are closed
	want := fmt.Sprintf(" (pid %d)  UNKNOWN\n%d of 200 open", p.Process.Pid, descriptors(t, p))
	r := runToEnd(t, s.command(t, "fds", "--name", "*", "--pid", fmt.Sprint(p.Process.Pid)))
	if r.status != 0 || !strings.Contains(r.stdout, want) {
		t.Errorf("exit status %d, %s%s; want %q", r.status, r.stdout, r.stderr, want)
	}
}

// Who names more processes than a question to the agent may has them read, all the same.
func TestMoreProcessesThanAQuestionMayName(t *testing.T) {
	s := serveAgent(t)
	p := helper(t, "still").Process.Pid
	args := []string{"--pid", fmt.Sprint(p)}
	for n := range 70 {
		args = append(args, "--name", fmt.Sprint("nobody-", n))
	}
	args = append(args, "--name", "*")
	for _, command := range [][]string{{"snapshot"}, {"top", "--json"}, {"fds", "--json", "--for", "0"}} {
		r := runToEnd(t, s.command(t, append(command, args...)...))
		if r.status != 0 || !strings.Contains(r.stdout, fmt.Sprintf(`"pid":%d,`, p)) {
			t.Errorf("%s: exit status %d, %.300s%s", command[0], r.status, r.stdout, r.stderr)
		}
	}
}

// A name that nobody has is no proof that nobody leaks.
func TestFailOfNobody(t *testing.T) {
	s := serveAgent(t)
	for _, asks := range []string{"--for=0", "--local=false"} { // itself, and the agent
		for fail, status := range map[string]int{"--fail": 1, "--fail=false": 0} {
			r := runToEnd(t, s.command(t, "fds", asks, fail, "--name", "nobody-has-this"))
			if r.status != status || !strings.HasSuffix(r.stdout, "no process matches\n") || strings.Contains(r.stderr, "no process matches") != (status == 1) {
				t.Errorf("%s %s: exit status %d, %s%s", asks, fail, r.status, r.stdout, r.stderr)
			}
		}
	}
}

// Who looks does not wait as long as the configuration has an agent wait between records.
func TestTopReadsMoreOftenThanItsAgent(t *testing.T) {
	cmd := agentCommand(t, "top", "--local", "--config", "rmagent.yaml")
	if err := os.WriteFile(filepath.Join(cmd.Dir, "rmagent.yaml"), []byte("interval: 1h\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(patience, func() { cmd.Process.Kill() })
	if r := runToEnd(t, cmd); r.status != 0 || !strings.HasPrefix(r.stdout, "rmagent top") {
		t.Errorf("exit status %d: %s%s", r.status, r.stdout, r.stderr)
	}
}

// A process that began after the agent's last reading is there.
func TestSnapshotOfAYoungProcess(t *testing.T) {
	s := serveAgent(t, "--interval", "1m")
	young := helper(t, "fds")
	pid := young.Process.Pid
	r := runToEnd(t, s.command(t, "snapshot", "--pid", fmt.Sprint(pid), "--pid", fmt.Sprint(s.cmd.Process.Pid)))
	if r.status != 0 || strings.Count(r.stdout, "\n") != 2 || !strings.Contains(r.stdout, fmt.Sprintf(`"pid":%d,`, pid)) {
		t.Errorf("exit status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	resp, err := s.unix.Get(fmt.Sprintf("http://rmagent/v1/processes/%d", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 404 || !strings.Contains(string(b), "at the last reading") {
		t.Errorf("status %d: %s", resp.StatusCode, b)
	}
}

// dialUnix reaches a socket whatever the URL.
func dialUnix(path string) *http.Transport {
	return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}
}

// awaitReading waits until the agent of a socket has read the machine: before that, nobody
// asks it.
func awaitReading(t *testing.T, socket string) {
	t.Helper()
	c := http.Client{Transport: dialUnix(socket)}
	await(t, "the agent's first reading", func() bool {
		resp, err := c.Get("http://rmagent/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 204
	})
}

// command is a command line that finds the agent.
func (s *served) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := agentCommand(t, args...)
	cmd.Env = append(cmd.Env, "RMAGENT_SOCKET="+filepath.Join(s.dir, "rmagent.sock"))
	return cmd
}

// get reads a good answer from the socket into v.
func (s *served) get(t *testing.T, path string, v any) {
	t.Helper()
	getJSON(t, &s.unix, "http://rmagent"+path, v)
}

// process asks for a process, which the agent may not have read yet.
func (s *served) process(t *testing.T, pid string) (r record.Process, ok bool) {
	t.Helper()
	resp, err := s.unix.Get("http://rmagent/v1/processes/" + pid)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return r, false
	}
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil || resp.StatusCode != 200 {
		t.Fatalf("status %d, %v", resp.StatusCode, err)
	}
	return r, true
}

func getJSON(t *testing.T, c *http.Client, url string, v any) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		t.Fatalf("%s: status %d: %s", url, resp.StatusCode, b)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v: %.300s", url, err, b)
	}
}

// kernelNumber reads the number behind a name in a file of /proc.
func kernelNumber(t *testing.T, path, name string) float64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			v, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("%s has no %s", path, name)
	return 0
}

// One agent, asked in every way: what it answers is what /proc says and what programs
// counted themselves, and the commands that ask it print what they would read.
func TestTheAgentAnswers(t *testing.T) {
	s := serveAgent(t, "--interval", "200ms")
	t.Run("numbers", func(t *testing.T) {
		var got map[string]*float64
		getJSON(t, http.DefaultClient, s.tcp+"/resources/all", &got)
		total, available := kernelNumber(t, "/proc/meminfo", "MemTotal:"), kernelNumber(t, "/proc/meminfo", "MemAvailable:")
		used := (total - available) / 1024
		if v := got["memory_usage_mb"]; v == nil || *v < used-512 || *v > used+512 { // others work meanwhile
			t.Errorf("memory_usage_mb %v, /proc/meminfo says %v", v, used)
		}
		if v := got["timestamp"]; v == nil || time.Since(time.UnixMicro(int64(*v*1e6))) > 10*time.Second {
			t.Errorf("timestamp %v", v)
		}
		if v, ok := got["gpu_percent"]; !ok || len(got) != 6 {
			t.Errorf("gpu_percent %v in %d keys", v, len(got))
		}
		var fds map[string]float64
		getJSON(t, http.DefaultClient, s.tcp+"/resources/fd", &fds)
		b, err := os.ReadFile("/proc/sys/fs/file-nr")
		if err != nil {
			t.Fatal(err)
		}
		var open, unused, limit float64
		if _, err := fmt.Sscan(string(b), &open, &unused, &limit); err != nil {
			t.Fatal(err)
		}
		if fds["files_open"] < open/2 || fds["files_open"] > 2*open || limit < 1e15 && fds["files_limit"] != limit {
			t.Errorf("%v, the kernel says %v", fds, string(b))
		}
	})
	t.Run("a process", func(t *testing.T) { answersOfAProcess(t, s) })
	t.Run("a counted transfer", func(t *testing.T) { answersOfATransfer(t, s) })
	t.Run("doors", func(t *testing.T) {
		resp, err := http.Get(s.tcp + "/v1/processes")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("everybody gets processes: status %d", resp.StatusCode)
		}
		var health struct{ Status string }
		getJSON(t, http.DefaultClient, s.tcp+"/healthz", &health)
		var system struct {
			System map[string]any
			Agent  record.Agent
			Host   record.Host
		}
		s.get(t, "/v1/system", &system)
		if system.System["agent_pid"] != float64(s.cmd.Process.Pid) || system.Host.CPUCount.Or(0) == 0 || !system.Agent.CPUSecondsTotal.Known() {
			t.Errorf("%+v", system)
		}
		if d := system.System["source"]; d == "ebpf" && health.Status != "ok" {
			t.Errorf("health %+v", health)
		}
	})
	t.Run("commands", func(t *testing.T) { commandsAsk(t, s) })
	t.Run("events", func(t *testing.T) { eventsCome(t, s) })
	t.Run("hostile clients", func(t *testing.T) { ticksGoOn(t, s) })
	s.stop()
	if _, err := os.Stat(filepath.Join(s.dir, "rmagent.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func answersOfAProcess(t *testing.T, s *served) {
	p := helper(t, "fds") // 190 of 200 are open, at least
	var r record.Process
	path := fmt.Sprintf("/v1/processes/%d", p.Process.Pid)
	await(t, "the process", func() bool {
		var ok bool
		r, ok = s.process(t, strconv.Itoa(p.Process.Pid))
		return ok && r.FDLimit.Or(0) == 200 && r.State.Or("") == "S" // it has done what it does
	})
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if r.FDOpen.Or(0) != uint64(len(entries)) || r.FDLimit.Or(0) != 200 {
		t.Errorf("%d of %d are open, /proc lists %d", r.FDOpen.Or(0), r.FDLimit.Or(0), len(entries))
	}
	var held record.Leak
	s.get(t, path+"/fds", &held)
	var n uint64
	for _, site := range held.Sites {
		n += site.Held
	}
	if n != uint64(len(entries)) {
		t.Errorf("sites hold %d, /proc lists %d", n, len(entries))
	}
	var h record.Headroom
	s.get(t, fmt.Sprintf("/v1/headroom/%d?for=50ms", p.Process.Pid), &h)
	if h.FirstInSpace == nil || h.FirstInSpace.Name != "RLIMIT_NOFILE" || h.FirstInSpace.Used.Or(0) != float64(len(entries)) {
		t.Errorf("first in space %+v", h.FirstInSpace)
	}
}

// answersOfATransfer compares what the agent says of a process's sockets and calls
// with what it counted itself.
func answersOfATransfer(t *testing.T, s *served) {
	const bytes = 3<<20 + 17
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := helper(t, fmt.Sprintf("send %s %d", l.Addr(), bytes))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := io.Copy(io.Discard, c); err != nil || n != bytes {
		t.Fatalf("%d bytes came, %v", n, err)
	}
	var r record.Process
	await(t, "the bytes to be counted", func() bool {
		var ok bool
		r, ok = s.process(t, strconv.Itoa(p.Process.Pid))
		return ok && (!r.NetSentBytesTotal.Known() || r.NetSentBytesTotal.Or(0) >= bytes)
	})
	if sent, known := r.NetSentBytesTotal.Get(); known && sent != bytes {
		t.Errorf("%d bytes were sent, the program sent %d", sent, bytes)
	}
	if written := r.IOWrittenBytesTotal.Or(0); written < bytes {
		t.Errorf("%d bytes were written by calls, the program wrote %d", written, bytes)
	}
}

func commandsAsk(t *testing.T, s *served) {
	p := helper(t, "fds")
	pid := strconv.Itoa(p.Process.Pid)
	await(t, "the agent to have read the process twice", func() bool {
		p, ok := s.process(t, pid)
		return ok && p.FDLimit.Or(0) == 200 && p.CPUCores.Known()
	})
	loads := func(cmd *exec.Cmd) result {
		t.Helper()
		cmd.Env = append(cmd.Env, "GODEBUG=") // nothing but what is asked
		return runToEnd(t, cmd)
	}
	asked := loads(s.command(t, "snapshot", "--pid", pid))
	local := loads(s.command(t, "snapshot", "--pid", pid, "--local"))
	of := func(r result) *record.Process {
		t.Helper()
		if r.status != 0 {
			t.Fatalf("exit status %d: %s", r.status, r.stderr)
		}
		rec, err := record.Decode([]byte(r.stdout))
		if err != nil {
			t.Fatalf("%v: %s", err, r.stdout)
		}
		return rec.(*record.Process)
	}
	a, b := of(asked), of(local)
	if a.PID != b.PID || a.StartTicks != b.StartTicks || a.FDOpen != b.FDOpen || a.Exe != b.Exe || a.BootID != b.BootID || a.Host != b.Host || a.StartTime != b.StartTime {
		t.Errorf("the agent says\n%sit is\n%s", asked.stdout, local.stdout)
	}
	if a.CPUCores.Known() == b.CPUCores.Known() {
		t.Error("a rate needs two readings: only the agent has them")
	}
	if r := loads(s.command(t, "snapshot", "--pid", "4194303")); r.status != 1 || !strings.Contains(r.stderr, "no process has PID 4194303") {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
	var h record.Headroom
	decode(t, loads(s.command(t, "headroom", "--pid", pid, "--json", "--for", "50ms")), &h)
	if h.FirstInSpace == nil || h.FirstInSpace.Name != "RLIMIT_NOFILE" {
		t.Errorf("%+v", h.FirstInSpace)
	}
	for _, between := range []string{"0s", "100ms"} {
		var list record.HeadroomList
		decode(t, loads(s.command(t, "headroom", "--json", "--for", between, "--top", "0")), &list)
		i := slices.IndexFunc(list.Processes, func(h record.Headroom) bool { return strconv.Itoa(int(h.PID)) == pid })
		if i < 0 || list.Processes[i].FirstInSpace.Name != "RLIMIT_NOFILE" || list.Processes[i].FirstInSpace.Limit.Or(0) != 200 ||
			list.Processes[i].FirstInSpace.RatePerSecond.Known() != (between != "0s") || list.Evaluated < 2 || len(list.Machine) == 0 {
			t.Errorf("--for %s: at %d of %d: %+v", between, i, len(list.Processes), list)
		}
	}
	var one record.HeadroomList
	s.get(t, "/v1/headroom?limit=1&pid="+pid, &one)
	if len(one.Processes) != 1 || strconv.Itoa(int(one.Processes[0].PID)) != pid {
		t.Errorf("%+v", one.Processes)
	}
	follow := func() (h record.Headroom) { s.get(t, "/v1/headroom/"+pid+"?for=last", &h); return h }
	if follow().FirstInSpace.RatePerSecond.Known() {
		t.Error("a rate after one look")
	}
	await(t, "a rate", func() bool { return follow().FirstInSpace.RatePerSecond.Known() })

	var held record.Leak
	decode(t, loads(s.command(t, "fds", "--name", h.Comm, "--pid", pid, "--json")), &held)
	if held.FDOpen.Or(0) < 190 || strconv.Itoa(int(held.PID)) != pid || len(held.Sites) == 0 {
		t.Errorf("%+v", held)
	}
	r := loads(s.command(t, "fds"))
	if r.status != 0 || !strings.Contains(r.stdout, "descriptors\n") || !strings.Contains(r.stdout, pid) {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
}

// eventsCome crosses a threshold and listens.
func eventsCome(t *testing.T, s *served) {
	resp, err := s.unix.Get("http://rmagent/v1/events?kind=state&kind=exit")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	p := helper(t, "fds")
	end := time.AfterFunc(patience, func() { resp.Body.Close() })
	defer end.Stop()
	target := fmt.Sprintf(`"target":"pid:%d@`, p.Process.Pid)
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && strings.Contains(data, target) {
			r, err := record.Decode([]byte(data))
			if err != nil {
				t.Fatal(err)
			}
			if c := r.(*record.StateChange); c.State != record.StateCritical || c.Seq == 0 || c.Host == "" {
				t.Errorf("%+v", c)
			}
			return
		}
	}
	t.Fatalf("the state never came: %v", lines.Err())
}

// ticksGoOn has hostile clients come, and looks whether the agent still reads, within
// its memory.
func ticksGoOn(t *testing.T, s *served) {
	agent := func() (a record.Agent) {
		var system struct{ Agent record.Agent }
		s.get(t, "/v1/system", &system)
		return system.Agent
	}
	before := agent()
	address := strings.TrimPrefix(s.tcp, "http://")
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range 2000 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		fmt.Fprint(c, "GET /resources/all HTTP/1.1\r\nHost: 127.0.0.1\r\n") // and no more
	}
	big, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	fmt.Fprint(big, "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1073741824\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(big), nil)
	if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a GiB: %v, %v", resp, err)
	}
	var stamps [2]map[string]float64
	for i := range stamps {
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		getJSON(t, &c, s.tcp+"/resources/cpu", &stamps[i])
		if i == 0 {
			await(t, "the next tick", func() bool {
				var now map[string]float64
				getJSON(t, &c, s.tcp+"/resources/cpu", &now)
				return now["timestamp"] > stamps[0]["timestamp"]
			})
		}
	}
	after := agent()
	if grown := int64(after.RSSBytes.Or(0)) - int64(before.RSSBytes.Or(0)); grown > 48<<20 {
		t.Errorf("the agent took %d MiB more", grown>>20)
	}
}

// TestPrometheusScrapes has Debian's Prometheus scrape the agent, and asks it.
func TestPrometheusScrapes(t *testing.T) {
	prometheus := serverProgram(t, "bin/prometheus")
	s := serveAgent(t, "--interval", "200ms", "--source", "procfs")
	dir := t.TempDir()
	config := fmt.Sprintf("global: {scrape_interval: 200ms, scrape_timeout: 200ms}\nscrape_configs:\n- job_name: rmagent\n  static_configs:\n  - targets: [%q]\n",
		strings.TrimPrefix(s.tcp, "http://"))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	cmd := exec.Command(prometheus, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=error")
	cmd.Dir = dir
	p := start(t, cmd)
	query := func(q string) (values []string) {
		resp, err := http.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(q))
		if err != nil {
			return nil
		}
		defer resp.Body.Close()
		var answer struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			return nil
		}
		for _, r := range answer.Data.Result {
			values = append(values, fmt.Sprint(r.Value[1]))
		}
		return values
	}
	await(t, "Prometheus to have scraped twice", func() bool {
		v := query("count_over_time(rmagent_host_memory_size_bytes[1m])")
		return len(v) == 1 && v[0] != "1"
	})
	total := strconv.FormatFloat(kernelNumber(t, "/proc/meminfo", "MemTotal:")*1024, 'f', -1, 64)
	if v := query("rmagent_host_memory_size_bytes"); len(v) != 1 || v[0] != total {
		t.Errorf("Prometheus has %v, /proc/meminfo says %s", v, total)
	}
	if v := query(`up{job="rmagent"}`); len(v) != 1 || v[0] != "1" {
		t.Errorf("up is %v", v)
	}
	if v := query(`count({job="rmagent",__name__=~"rmagent_.*"})`); len(v) != 1 || len(v[0]) > 4 {
		t.Errorf("%v series", v)
	}
	if v := query(`count({__name__=~"rmagent_process_.*"})`); len(v) != 0 {
		t.Errorf("%v series of processes on the door for everybody", v)
	}
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	p.wait()
	s.stop()
}

// serverProgram finds a program of a package that scripts/setup installs or unpacks.
func serverProgram(t *testing.T, path string) string {
	t.Helper()
	unpacked, err := filepath.Abs("../../.cache/servers/usr/" + path)
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

// What is changed over HTTP takes effect, and what is refused changes nothing.
func TestChangesOverHTTP(t *testing.T) {
	s := serveAgent(t, "--interval", "200ms", "--source", "procfs")
	do := func(method, path, body string) (int, string) {
		r, err := http.NewRequest(method, "http://rmagent"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.unix.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	state := func(target string) (found record.State) {
		var system struct{ States []record.StateChange }
		s.get(t, "/v1/system", &system)
		for _, c := range system.States {
			if c.Target == target || strings.HasPrefix(c.Target, target+"@") {
				found = c.State
			}
		}
		return found
	}
	p := helper(t, "still")
	target := fmt.Sprintf("pid:%d", p.Process.Pid)
	if status, body := do("PUT", fmt.Sprintf("/v1/tracked/%d", p.Process.Pid), `{"max_fd":1}`); status != 204 {
		t.Fatalf("status %d: %s", status, body)
	}
	await(t, "the limit to be broken", func() bool { return state(target) != "" })
	if status, body := do("DELETE", fmt.Sprintf("/v1/tracked/%d", p.Process.Pid), ""); status != 204 {
		t.Errorf("status %d: %s", status, body)
	}
	if status, body := do("PUT", "/v1/thresholds/memory", `{"warning":0.99,"critical":0.5}`); status != 422 || !strings.Contains(body, "thresholds.memory") {
		t.Errorf("status %d: %s", status, body)
	}
	if status, body := do("PUT", "/v1/thresholds/memory", `{"info":0.01,"warning":0.01,"critical":0.99,"hysteresis":0}`); status != 204 {
		t.Errorf("status %d: %s", status, body)
	}
	await(t, "memory to be above its new threshold", func() bool { return state("host") != "" })
	var h record.History
	await(t, "a history of memory", func() bool {
		if status, _ := do("GET", "/v1/history/memory?count=2", ""); status != 200 {
			return false
		}
		s.get(t, "/v1/history/memory?count=2", &h)
		return len(h.Points) == 2
	})
	var stats record.Stats
	s.get(t, "/v1/stats", &stats)
	if len(stats.Resources) == 0 {
		t.Errorf("%+v", stats)
	}
	var c record.FDCheck
	status, body := do("POST", "/v1/fd/check", fmt.Sprintf(`{"pid":%d,"files":100000000}`, p.Process.Pid))
	if err := json.Unmarshal([]byte(body), &c); err != nil || status != 200 || c.Safe.Or(true) {
		t.Errorf("status %d, %v: %s", status, err, body)
	}
	var prune map[string]any
	getJSON(t, http.DefaultClient, s.tcp+"/resources/prune", &prune)
	if _, ok := prune["should_prune"].(bool); !ok || len(prune) != 2 {
		t.Errorf("%v", prune)
	}
	s.stop()
}
