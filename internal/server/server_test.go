package server

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/pprof/profile"

	"rmagent/record"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv("ASK_SOCKET"); socket != "" {
		askAsHelper(socket)
		return
	}
	os.Exit(m.Run())
}

// askAsHelper asks for each path of ASK_PATHS and prints statuses and bodies.
func askAsHelper(socket string) {
	c := unixClient(socket)
	for _, request := range strings.Fields(os.Getenv("ASK_PATHS")) {
		method, path, _ := strings.Cut(request, ":")
		r, err := http.NewRequest(method, "http://rmagent"+path, nil)
		if err != nil {
			fmt.Println("error", err)
			continue
		}
		resp, err := c.Do(r)
		if err != nil {
			fmt.Println("refused")
			continue
		}
		body := bufio.NewReader(resp.Body)
		text, _ := body.ReadString(0)
		fmt.Println(resp.StatusCode, strconv.Quote(text))
		resp.Body.Close()
	}
}

// askAs asks as another user, in a process of its own.
func askAs(t *testing.T, socket string, uid, gid uint32, requests ...string) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	exe, err := os.CreateTemp("", "asker") // the test's own directory may be closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(exe.Name())
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exe.Write(self); err != nil {
		t.Fatal(err)
	}
	if err := exe.Chmod(0o755); err != nil {
		t.Fatal(err)
	}
	if err := exe.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe.Name())
	cmd.Env = []string{"ASK_SOCKET=" + socket, "ASK_PATHS=" + strings.Join(requests, " ")}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func TestNumbersHaveExactlyTheirNames(t *testing.T) {
	s := serve(t, newFake(machine(3)), nil)
	stamp := 1795608000.5
	for path, want := range map[string]map[string]any{
		"/resources/cpu":     {"cpu_percent": 25.0, "timestamp": stamp},
		"/resources/memory":  {"memory_usage_mb": 4096.0, "timestamp": stamp},
		"/resources/gpu":     {"gpu_percent": 90.0, "gpu_memory_percent": 95.0, "timestamp": stamp},
		"/resources/network": {"network_usage_bytes_per_second": 1234.0, "timestamp": stamp},
		"/resources/all": {"cpu_percent": 25.0, "memory_usage_mb": 4096.0, "gpu_percent": 90.0, "gpu_memory_percent": 95.0,
			"network_usage_bytes_per_second": 1234.0, "timestamp": stamp},
		"/resources/disk": {"disk_read_bytes_per_second": 10.0, "disk_written_bytes_per_second": 20.0, "disk_used_percent": 95.0, "timestamp": stamp},
		"/resources/fd":   {"files_open": 5000.0, "files_limit": 100000.0, "fd_percent": 5.0, "timestamp": stamp},
	} {
		a := s.getTCP(t, path)
		var got map[string]any
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 || a.header.Get("Content-Type") != "application/json" {
			t.Fatalf("%s: status %d, %v: %s", path, a.status, err, a.body)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestUnknownIsNull(t *testing.T) {
	v := machine(0)
	v.Host, v.GPUs = record.Host{}, nil
	s := serve(t, newFake(v), nil)
	const want = `{"cpu_percent":null,"memory_usage_mb":null,"gpu_percent":null,"gpu_memory_percent":null,"network_usage_bytes_per_second":null,"timestamp":1795608000.5}` + "\n"
	if a := s.getTCP(t, "/resources/all"); a.body != want {
		t.Errorf("got %s", a.body)
	}
}

func TestPruneNumbers(t *testing.T) {
	v := machine(1)
	views := newFake(v)
	s := serve(t, views, nil)
	if a := s.getTCP(t, "/resources/prune"); a.status != http.StatusNotImplemented {
		t.Errorf("nothing is decided, and the status is %d", a.status)
	}
	decided := *v
	decided.Prune = &record.Prune{ShouldPrune: true}
	views.tick(&decided)
	if a := s.getTCP(t, "/resources/prune"); a.body != `{"should_prune":true,"timestamp":1795608000.5}`+"\n" {
		t.Errorf("got %s", a.body)
	}
}

// What is not a number is refused on the door for everybody, whatever it is.
func TestTheTCPDoorHasNumbersOnly(t *testing.T) {
	s := serve(t, newFake(machine(3)), nil)
	for i := range routes {
		r := &routes[i]
		path := strings.NewReplacer("{pid}", "1", "{resource}", "cpu").Replace(r.path)
		a := ask(t, http.DefaultClient, r.method, s.tcp+path)
		if open := slices.ContainsFunc(numberRoutes, func(n route) bool { return n.path == r.path }) || r.path == "/openapi.json"; !open {
			if a.status != http.StatusForbidden || !strings.Contains(a.body, "unix socket") {
				t.Errorf("%s %s: status %d: %s", r.method, path, a.status, a.body)
			}
			continue
		}
		for _, secret := range []string{"secret", "prog0", "system.slice"} {
			if strings.Contains(a.body, secret) && r.path != "/openapi.json" {
				t.Errorf("%s tells everybody of %q", path, secret)
			}
		}
	}
}

// A name of another machine that points here is what a hostile web page has.
func TestHostHeader(t *testing.T) {
	s := serve(t, newFake(machine(1)), nil)
	for host, status := range map[string]int{
		"localhost": 200, "LOCALHOST:9475": 200, "127.0.0.1:9475": 200, "[::1]:9475": 200, "127.9.9.9": 200, "localhost.": 200,
		"attacker.example": 421, "attacker.example:9475": 421, "127.0.0.1.attacker.example": 421, "10.0.0.1": 421, "localhost.attacker.example": 421, "[fe80::1]": 421,
	} {
		r, err := http.NewRequest("GET", s.tcp+"/resources/all", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		r.Header.Set("Origin", "http://"+host)
		a := do(t, http.DefaultClient, r)
		if a.status != status {
			t.Errorf("Host %s: status %d, want %d", host, a.status, status)
		}
		if allowed := a.header.Get("Access-Control-Allow-Origin"); allowed != "" {
			t.Errorf("pages of %q may read the answer", allowed)
		}
	}
}

func TestProblems(t *testing.T) {
	s := serve(t, newFake(machine(3)), nil)
	for _, c := range []struct {
		method, path string
		status       int
		detail       string
	}{
		{"GET", "/nothing", 404, "openapi.json"},
		{"GET", "/v1/processes/", 404, ""},
		{"POST", "/resources/all", 405, "GET"},
		{"DELETE", "/v1/processes", 405, "GET"},
		{"GET", "/v1/processes/0", 400, "from 1 to"},
		{"GET", "/v1/processes/-1", 400, ""},
		{"GET", "/v1/processes/01", 400, ""},
		{"GET", "/v1/processes/99999999999999999999", 400, ""},
		{"GET", "/v1/processes/12%0a", 400, ""},
		{"GET", "/v1/processes/77", 404, "No process had PID 77 at the last reading, "},
		{"GET", "/v1/processes/77/fds", 404, "77"},
		{"GET", "/v1/processes?sort=nothing", 400, "sort"},
		{"GET", "/v1/processes?limit=-1", 400, "limit"},
		{"GET", "/v1/processes?nmae=x", 400, "allowed: pid, name"},
		{"GET", "/v1/processes?name=%5Ba", 400, "name"},
		{"GET", "/v1/processes?limit=1&limit=2", 400, "2 times"},
		{"GET", "/v1/processes?a;b", 400, "query"},
		{"GET", "/resources/all?x=1", 400, "none is taken"},
		{"GET", "/v1/usage/coffee", 404, "cpu, disk, fd, gpu, memory, network"},
		{"GET", "/v1/usage/disk?path=/home", 404, "/full"},
		{"GET", "/v1/usage/cpu?path=/", 400, "disk"},
		{"GET", "/v1/headroom/1", 501, ""},
		{"GET", "/v1/events?kind=process", 400, "state"},
	} {
		a := ask(t, s.unix, c.method, "http://rmagent"+c.path)
		var p Problem
		if err := json.Unmarshal([]byte(a.body), &p); err != nil {
			t.Errorf("%s %s: %v: %s", c.method, c.path, err, a.body)
			continue
		}
		if a.status != c.status || p.Status != c.status || p.Title == "" || !strings.Contains(p.Detail, c.detail) || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: status %d (want %d), %+v", c.method, c.path, a.status, c.status, p)
		}
		if c.status == 405 && a.header.Get("Allow") != "GET" {
			t.Errorf("%s %s: Allow %q", c.method, c.path, a.header.Get("Allow"))
		}
	}
}

func TestBeforeTheFirstReading(t *testing.T) {
	views := newFake(nil)
	s := serve(t, views, nil)
	for path, status := range map[string]int{"/resources/all": 503, "/v1/processes": 503, "/readyz": 503, "/healthz": 503, "/": 200} {
		a := s.get(t, path)
		if a.status != status || status == 503 && path != "/healthz" && a.header.Get("Retry-After") != "1" {
			t.Errorf("%s: status %d, Retry-After %q", path, a.status, a.header.Get("Retry-After"))
		}
	}
	fresh := *machine(1)
	fresh.Time = time.Now()
	views.tick(&fresh)
	for path, status := range map[string]int{"/readyz": 204, "/healthz": 200} {
		if a := s.get(t, path); a.status != status {
			t.Errorf("%s: status %d", path, a.status)
		}
	}
	if a := s.get(t, "/healthz"); !strings.Contains(a.body, `"status":"ok"`) {
		t.Errorf("health: %s", a.body)
	}
	stale := *machine(1)
	stale.Time = time.Now().Add(-time.Minute)
	views.tick(&stale)
	if a := s.get(t, "/healthz"); a.status != 503 || !strings.Contains(a.body, "stalled") {
		t.Errorf("a minute without a reading: %d %s", a.status, a.body)
	}
}

// decode reads an answer of records.
func decode(t *testing.T, body, key string) []record.Process {
	t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatalf("%v: %.300s", err, body)
	}
	var list []record.Process
	if err := json.Unmarshal(all[key], &list); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestProcesses(t *testing.T) {
	v := machine(60)
	s := serve(t, newFake(v), nil)
	all := decode(t, s.get(t, "/v1/processes").body, "processes")
	if len(all) != 60 {
		t.Fatalf("%d processes", len(all))
	}
	for i := range all {
		want := v.Details.Processes[i]
		want.Header = record.Header{Time: someTime, Kind: record.KindProcess, Host: "web-1", BootID: "boot", Schema: record.Schema}
		if diff := cmp.Diff(want, all[i], cmp.AllowUnexported(record.Opt[uint64]{}, record.Opt[float64]{}, record.Opt[string]{}, record.Opt[uint32]{}, record.Opt[int32]{}, record.Opt[time.Time]{})); diff != "" {
			t.Fatalf("process %d (-want +got):\n%s", i, diff)
		}
	}
	pids := func(query string) (list []int32) {
		for _, p := range decode(t, s.get(t, "/v1/processes?"+query).body, "processes") {
			list = append(list, p.PID)
		}
		return list
	}
	for query, want := range map[string][]int32{
		"sort=rss_bytes&limit=2":             {60, 59},
		"name=prog7":                         {8, 58},
		"name=prog7&pid=8":                   {8},
		"pid=3&pid=2":                        {2, 3},
		"unit=unit4.*":                       {5},
		"cgroup=/system.slice/unit4.service": {5},
		"name=nobody":                        nil,
	} {
		if got := pids(query); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	var lines int
	for line := range strings.Lines(s.get(t, "/v1/snapshot").body) {
		if _, err := record.Decode([]byte(line)); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		lines++
	}
	if lines != 60+1+2 {
		t.Errorf("%d lines, want a host, 2 GPUs and 60 processes", lines)
	}
}

// What a process holds and how it was called is for root and for its own user.
func TestWhoMayReadWhat(t *testing.T) {
	v := machine(6)
	views := newFake(v)
	leaky(v, views, 2) // of user 1001
	s := serve(t, views, nil)
	if err := os.Chmod(s.socket, 0o666); err != nil { // so that the kernel lets them in
		t.Fatal(err)
	}
	paths := []string{
		"GET:/v1/processes/2", "GET:/v1/processes/2/fds", "GET:/v1/leaks", "GET:/v1/leaks/2/pprof", "GET:/v1/processes",
	}
	own := askAs(t, s.socket, 1001, 1001, paths...)
	other := askAs(t, s.socket, 1000, 1000, paths...)
	root := askAs(t, s.socket, 0, 0, paths...)
	for i, secrets := range []struct{ own, other []string }{
		{[]string{"secret1"}, []string{"secret1"}},
		{[]string{"open_secret", "/srv/secret"}, []string{"open_secret", "/srv/secret"}},
		{[]string{"open_secret", "/srv/secret"}, []string{"open_secret", "/srv/secret"}},
		{nil, nil},
		{[]string{"secret1", "secret4"}, []string{"secret1", "secret4", "secret2", "secret5"}},
	} {
		for _, x := range secrets.own {
			if !strings.Contains(own[i], x) || !strings.Contains(root[i], x) {
				t.Errorf("%s: root or the owner does not get %q: %.300s", paths[i], x, own[i])
			}
		}
		for _, x := range secrets.other {
			if strings.Contains(other[i], x) {
				t.Errorf("%s: another user gets %q: %.300s", paths[i], x, other[i])
			}
		}
	}
	if strings.Contains(own[4], "secret0") || !strings.Contains(root[4], "secret0") || !strings.Contains(other[4], "secret0") {
		t.Errorf("command lines of user 1000: own %.200s, root %.200s", own[4], root[4])
	}
	for i, status := range []string{"200", "403", "200", "403", "200"} {
		if got, _, _ := strings.Cut(other[i], " "); got != status {
			t.Errorf("%s as another user: status %s, want %s", paths[i], got, status)
		}
	}
	if !strings.Contains(other[2], `\"held\"`) && !strings.Contains(other[2], `\"sites\":null`) {
		t.Errorf("the leak without its sites: %s", other[2])
	}
}

func TestTheSocketIsItsOwners(t *testing.T) {
	s := serve(t, newFake(machine(1)), nil)
	info, err := os.Stat(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("mode %o", mode)
	}
	if got := askAs(t, s.socket, 1000, 1000, "GET:/v1/system"); got[0] != "refused" {
		t.Errorf("another user got in: %.200s", got[0])
	}
}

func TestSocketGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to a group")
	}
	dir := t.TempDir()
	l, err := ListenUnix(dir+"/s", "65533")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(dir + "/s")
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Gid != 65533 || info.Mode().Perm() != 0o660 {
		t.Errorf("group %d, mode %o", st.Gid, info.Mode().Perm())
	}
	if _, err := ListenUnix(dir+"/t", "no-such-group"); err == nil || !strings.Contains(err.Error(), "no-such-group") {
		t.Errorf("a group that there isn't: %v", err)
	}
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(dir+"/file", ""); err == nil {
		t.Error("a file was overwritten")
	}
}

// A socket that an agent left behind, which ended without a word, is no obstacle.
func TestListenUnixReplacesWhatIsLeft(t *testing.T) {
	path := t.TempDir() + "/s"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	again, err := ListenUnix(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestProfile(t *testing.T) {
	v := machine(3)
	views := newFake(v)
	leaky(v, views, 2)
	s := serve(t, views, nil)
	a := s.get(t, "/v1/leaks/2/pprof")
	p, err := profile.ParseData([]byte(a.body))
	if err != nil {
		t.Fatalf("status %d, %v", a.status, err)
	}
	if n := p.Sample[0].Value[0]; n != 400 || p.Sample[0].Location[0].Line[0].Function.Name != "open_secret" {
		t.Errorf("%v", p)
	}
}

func TestUsage(t *testing.T) {
	v := machine(1)
	v.Details.States = []record.StateChange{{Resource: "memory", Target: "host", State: record.StateWarning}}
	s := serve(t, newFake(v), nil)
	for path, want := range map[string]map[string]any{
		"/v1/usage/memory":          {"utilization": 0.25, "total": float64(16 << 30), "available": float64(12 << 30), "state": "warning"},
		"/v1/usage/disk":            {"utilization": 0.4, "total": 1000.0, "available": 600.0, "path": "/"},
		"/v1/usage/disk?path=/full": {"utilization": 0.95, "total": 1000.0, "available": 50.0, "path": "/full"},
		"/v1/usage/disk?path=/hung": {"utilization": nil, "total": nil, "available": nil},
		"/v1/usage/gpu":             {"utilization": 0.9, "total": 100.0, "available": 90.0},
		"/v1/usage/cpu":             {"utilization": 0.25, "total": 8.0, "available": 6.0},
		"/v1/usage/fd":              {"utilization": 0.05, "total": 100000.0, "available": 95000.0, "state": "normal"},
	} {
		var got map[string]any
		if err := json.Unmarshal([]byte(s.get(t, path).body), &got); err != nil {
			t.Fatal(err)
		}
		for key, x := range want {
			if !cmp.Equal(got[key], x) {
				t.Errorf("%s: %s is %v, want %v", path, key, got[key], x)
			}
		}
		if keys := slices.Sorted(maps.Keys(got)); !slices.Contains(keys, "details") || got["timestamp"] != 1795608000.5 {
			t.Errorf("%s: %v", path, got)
		}
	}
}

// The numbers of /v1/usage/memory and disk that no view has are those of the kernel.
func TestUsageAgainstProc(t *testing.T) {
	s := serve(t, newFake(machine(1)), nil)
	var got struct{ Details MemoryDetails }
	if err := json.Unmarshal([]byte(s.get(t, "/v1/usage/memory").body), &got); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var name string
		var kib uint64
		if n, _ := fmt.Sscanf(line, "%s %d kB", &name, &kib); n != 2 {
			continue
		}
		far := func(o record.Opt[uint64]) bool { // other programs work meanwhile
			v, ok := o.Get()
			return !ok || v > (kib<<10)+256<<20 || v+256<<20 < kib<<10
		}
		if name == "Cached:" && far(got.Details.CachedBytes) || name == "Buffers:" && far(got.Details.BuffersBytes) {
			t.Errorf("%s %d kB, the answer says %+v", name, kib, got.Details)
		}
	}
}

func TestThePageIsSelfContained(t *testing.T) {
	s := serve(t, newFake(machine(1)), nil)
	a := s.getTCP(t, "/")
	for _, want := range []string{"rmagent dashboard", "25%", "4.0 GiB of 16.0 GiB", "GPU 1", "95"} {
		if !strings.Contains(a.body, want) {
			t.Errorf("%q is not on the page: %s", want, a.body)
		}
	}
	for _, foreign := range []string{"http://", "https://", "<script"} {
		if strings.Contains(a.body, foreign) {
			t.Errorf("the page has %s", foreign)
		}
	}
	if policy := a.header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") {
		t.Errorf("policy %s", policy)
	}
}

// What is asked about headroom comes to who looks.
func TestHeadroomQuestions(t *testing.T) {
	h := &fakeHeadroom{}
	v := machine(3)
	s := serve(t, newFake(v), func(o *Options) { o.Headroom = h })
	for path, want := range map[string]string{
		"/v1/headroom/2":                             "process 2 for 0s",
		"/v1/headroom/2?for=1s":                      "process 2 for 1s",
		"/v1/headroom/2?for=last":                    "follow 2",
		"/v1/headroom":                               "nearest 0 of [] for 0s",
		"/v1/headroom?for=2s&limit=5&name=a&name=b*": "nearest 5 of [a b*] for 2s",
	} {
		if a := s.get(t, path); a.status != 200 || h.asked != want {
			t.Errorf("%s: %d %s, asked %q, want %q", path, a.status, a.body, h.asked, want)
		}
	}
	for _, path := range []string{"/v1/headroom/2?for=lately", "/v1/headroom?for=last", "/v1/headroom?limit=0", "/v1/headroom?name=[", "/v1/headroom?sort=pid"} {
		if a := s.get(t, path); a.status != 400 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := s.getTCP(t, "/v1/headroom"); a.status != 403 {
		t.Errorf("on the door for everybody: %d", a.status)
	}
	slow := *v
	slow.Interval = time.Minute
	s.views.tick(&slow)
	if a := s.get(t, "/v1/headroom?for=1s"); a.status != 503 || !strings.Contains(a.body, "1m0s") {
		t.Errorf("of an agent that reads once a minute: %d %s", a.status, a.body)
	}
}
