package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/childtest"
	"rmagent/record"
)

// healthy is a program that holds many descriptors, or ever more of them, or opens and
// closes many, and leaks none.
type healthy struct {
	name string
	long bool // only in make test-long
	// least is how many descriptors one of its processes comes to hold.
	least uint64
	// prepare sets it up, and returns what begins its work.
	prepare func(w *workload) (begin func())
}

var healthyPrograms = []healthy{
	{name: "pool", least: 230, prepare: connect("pool", 5, 0)},
	{name: "large pool", least: 450, prepare: connect("pool", 12, 0)},
	{name: "keep-alive clients", least: 200, prepare: connect("clients", 10, 20)},
	{name: "file cache", least: 450, prepare: cacheFiles},
	{name: "idle HTTP connections", least: 130, prepare: idle},
	{name: "tar", least: 4, prepare: archive},
	{name: "make", long: true, least: 4, prepare: build},
	{name: "nginx", long: true, least: 20, prepare: nginx},
	{name: "redis", long: true, least: 50, prepare: redis},
	{name: "postgresql", long: true, least: 20, prepare: postgresql},
	{name: "chromium", long: true, least: 80, prepare: chromium},
}

// workload is a healthy program at work.
type workload struct {
	*testing.T
	span  time.Duration // for which it fills or churns
	roots []int32       // who belongs to it, with their descendants
	loads []*load
	seen  map[int32]*counted
}

// load is a process that must end well, or outlast the work where it is endless.
type load struct {
	cmd     *exec.Cmd
	endless bool
	out     bytes.Buffer
	err     error // once ended is closed
	ended   chan struct{}
}

// counted is what /proc showed of a process's descriptors.
type counted struct{ samples, least, most int }

// No healthy program is said to leak, while one that does is; and the agent saw them
// all, with as many descriptors as /proc.
func TestHealthyProgramsDoNotLeak(t *testing.T) {
	needTracing(t)
	// A pool is there that is not full when leaks are named, and afterwards.
	span, tail, long := 46*time.Second, 5*time.Second, os.Getenv("RMAGENT_TEST_LONG") != ""
	if long {
		span, tail = time.Minute, 30*time.Second
	}
	leaks := leakers[0]
	control, _ := startProgram(t, leaks.compile(t))
	workloads := map[string]*workload{}
	var begins []func()
	for _, h := range healthyPrograms {
		if h.long && !long {
			continue
		}
		w := &workload{T: t, span: span, seen: map[int32]*counted{}}
		workloads[h.name] = w
		begins = append(begins, h.prepare(w))
	}
	cmd := builtAgent(t, "run", "--processes", "all", "--jsonl", "out.jsonl")
	s := start(t, cmd)
	out := filepath.Join(cmd.Dir, "out.jsonl")
	await(t, "the first records", func() bool { return size(out) > 0 })
	began := time.Now()
	control.Say("")
	for _, begin := range begins {
		begin()
	}
	mark := fmt.Appendf(nil, `"pid":%d,`, control.PID())
	named := func() bool {
		b, _ := os.ReadFile(out)
		for line := range bytes.Lines(b) {
			if bytes.Contains(line, mark) && bytes.Contains(line, []byte(`"verdict":"leaking"`)) {
				return true
			}
		}
		return false
	}
	for time.Since(began) < span+tail {
		for _, w := range workloads {
			w.count()
		}
		time.Sleep(200 * time.Millisecond)
	}
	awaitFor(t, patience, "a verdict on what leaks", named)
	s.stop()
	all := records(t, out)
	for _, r := range only[*record.Leak](all) {
		if r.PID == control.PID() && r.Verdict == record.VerdictLeaking {
			t.Logf("what leaks is said to after %v", r.Time.Sub(began))
		}
	}
	for _, h := range healthyPrograms {
		if w := workloads[h.name]; w != nil {
			t.Run(h.name, func(t *testing.T) {
				w.T = t
				w.judge(all, began, h.least)
			})
		}
	}
}

// judge compares what the agent said with what was.
func (w *workload) judge(all []record.Record, began time.Time, least uint64) {
	for _, l := range w.loads {
		l.finish(w.T)
	}
	parents := map[int32]int32{}
	counts := map[int32][]uint64{}
	for _, p := range only[*record.Process](all) {
		parents[p.PID] = p.PPID.Or(0)
		if n, ok := p.FDOpen.Get(); ok {
			counts[p.PID] = append(counts[p.PID], n)
		}
	}
	belongs := func(pid int32) bool {
		for pid > 1 && !slices.Contains(w.roots, pid) {
			pid = parents[pid]
		}
		return pid > 1
	}
	said := map[record.Verdict]int{}
	for _, r := range only[*record.Leak](all) {
		if !belongs(r.PID) {
			continue
		}
		said[r.Verdict]++
		if r.Verdict == record.VerdictLeaking {
			w.Errorf("%s (pid %d) is said to leak by rule %s after %v", r.Comm, r.PID, r.Rule.Or(""), r.Time.Sub(began))
			for i := range r.Sites {
				w.Log(brief(&r.Sites[i]))
			}
		}
	}
	most := uint64(0)
	for pid, c := range w.seen {
		n := counts[pid]
		if len(n) == 0 {
			if c.samples > 25 {
				w.Errorf("there is no record of pid %d", pid)
			}
			continue
		}
		slices.Sort(n)
		most = max(most, n[len(n)-1])
		if median := int(n[len(n)/2]); c.samples > 25 && (median < c.least || median > c.most) {
			w.Errorf("pid %d had %d to %d descriptors, and %d in its records", pid, c.least, c.most, median)
		}
	}
	if most < least {
		w.Errorf("no process held more than %d descriptors, want %d", most, least)
	}
	w.Logf("%d processes, up to %d descriptors, said: %v", len(w.seen), most, said)
}

// count looks at what /proc shows of the roots and their descendants.
func (w *workload) count() {
	pids := slices.Clone(w.roots)
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children(int(pids[i]))...)
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pids[i]))
		if err != nil || len(fds) == 0 { // it has ended
			continue
		}
		c := w.seen[pids[i]]
		if c == nil {
			c = &counted{least: len(fds)}
			w.seen[pids[i]] = c
		}
		c.samples++
		c.least, c.most = min(c.least, len(fds)), max(c.most, len(fds))
	}
}

// run starts a process that belongs to the workload and ends with the test.
func (w *workload) run(cmd *exec.Cmd) *load {
	w.Helper()
	l := &load{cmd: cmd, ended: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGINT                                                         // servers end their children then
	libraries := slices.Concat(unpacked("lib/*-linux-gnu"), unpacked("lib/*-linux-gnu/pulseaudio")) // Chromium's private one
	cmd.Env = append(cmd.Environ(), "LD_LIBRARY_PATH="+strings.Join(libraries, ":"))
	cmd.WaitDelay = time.Second // its children may hold its output
	if cmd.Stdout == nil {
		cmd.Stdout = &l.out
	}
	cmd.Stderr = &l.out
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	go func() { l.err = cmd.Wait(); close(l.ended) }()
	w.Cleanup(l.stop)
	w.roots = append(w.roots, int32(cmd.Process.Pid))
	return l
}

// load runs a process that must end well.
func (w *workload) load(name string, args ...string) {
	w.Helper()
	w.loads = append(w.loads, w.run(exec.Command(name, args...)))
}

// loadOn runs one that has no end.
func (w *workload) loadOn(name string, args ...string) {
	w.Helper()
	w.load(name, args...)
	w.loads[len(w.loads)-1].endless = true
}

// stop ends it, and a server's children with it.
func (l *load) stop() {
	l.cmd.Process.Signal(unix.SIGINT)
	select {
	case <-l.ended:
	case <-time.After(5 * time.Second):
		l.cmd.Process.Kill()
		<-l.ended
	}
}

// finish wants a load to end well.
func (l *load) finish(t *testing.T) {
	t.Helper()
	if l.endless {
		select {
		case <-l.ended:
			t.Errorf("%v ended: %v: %s", l.cmd, l.err, &l.out)
		default:
		}
		return
	}
	select {
	case <-l.ended:
		if l.err != nil {
			t.Errorf("%v: %v: %s", l.cmd, l.err, &l.out)
		}
	case <-time.After(patience):
		t.Errorf("%v does not end", l.cmd)
	}
}

// help starts a helper that belongs to the workload.
func (w *workload) help(does string) *childtest.Child {
	w.Helper()
	cmd := helper(w.T, does)
	w.roots = append(w.roots, int32(cmd.Process.Pid))
	return cmd
}

// helpHealthy is what the helpers do that are healthy programs. What they say first is
// that they are ready; they begin with a line and end with their input.
func helpHealthy(words []string, ready func()) {
	rate := func(n int) <-chan time.Time {
		perSecond, err := strconv.Atoi(words[n])
		check(err)
		return time.Tick(time.Second / time.Duration(perSecond))
	}
	limit := func(n int) int {
		most, err := strconv.Atoi(words[n])
		check(err)
		return most
	}
	switch words[0] {
	case "serve": // ADDRESS
		listener, err := net.Listen("tcp", words[1])
		check(err)
		ready()
		go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(20 * time.Millisecond)
			http.ServeFile(w, r, "/etc/hostname")
		}))
	case "connect": // ADDRESS MOST PER_SECOND [PER_SECOND that don't stay]
		begin(ready)
		if len(words) > 4 {
			go func() {
				for range rate(4) {
					c, err := net.Dial("tcp", words[1])
					check(err)
					get(c)
					c.Close()
				}
			}()
		}
		tick := rate(3)
		for n := limit(2); n > 0; n-- {
			c, err := net.Dial("tcp", words[1])
			check(err)
			go func() {
				for {
					get(c)
					time.Sleep(time.Second)
				}
			}()
			<-tick
		}
	case "cache": // DIRECTORY MOST PER_SECOND
		begin(ready)
		var files []*os.File
		tick := rate(3)
		for range limit(2) {
			f, err := os.Open(filepath.Join(words[1], strconv.Itoa(len(files))))
			check(err)
			files = append(files, f)
			var b [1]byte
			_, err = files[len(files)*7919%len(files)].ReadAt(b[:], 0)
			check(err)
			_, err = os.ReadFile("/etc/hostname")
			check(err)
			<-tick
		}
	case "idle": // ADDRESS MOST PER_SECOND
		begin(ready)
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: limit(2)}}
		tick := rate(3)
		for n := range limit(2) {
			var all sync.WaitGroup
			for range n + 1 { // so many at a time
				all.Go(func() {
					r, err := client.Get("http://" + words[1])
					check(err)
					io.Copy(io.Discard, r.Body)
					r.Body.Close()
				})
			}
			all.Wait()
			<-tick
		}
	}
	io.Copy(io.Discard, os.Stdin)
}

// begin says that a helper is ready and waits for a line.
func begin(ready func()) {
	ready()
	os.Stdin.Read(make([]byte, 1))
}

// get asks for a page on a connection that stays.
func get(c net.Conn) {
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: server\r\n\r\n")
	check(err)
	_, err = c.Read(make([]byte, 4096))
	check(err)
}

// freeAddress is one on the loopback interface that nobody listens at.
func freeAddress(t *testing.T) (address, port string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return l.Addr().String(), port
}

// connect is so many connections a second that come and stay, to a server; and so many
// beside them that don't stay.
func connect(name string, perSecond, short int) func(w *workload) func() {
	return func(w *workload) func() {
		address, _ := freeAddress(w.T)
		w.help("serve " + address)
		most := 200
		if name == "pool" {
			most = int(w.span.Seconds()) * perSecond
		}
		does := fmt.Sprintf("connect %s %d %d", address, most, perSecond)
		if short > 0 {
			does += fmt.Sprintf(" %d", short)
		}
		cmd := w.help(does)
		return func() { cmd.Say("") }
	}
}

// cacheFiles is a cache of open files that fills as they are asked for.
func cacheFiles(w *workload) func() {
	const perSecond = 10
	most := int(w.span.Seconds()) * perSecond
	cmd := w.help(fmt.Sprintf("cache %s %d %d", manyFiles(w.T, most), most, perSecond))
	return func() { cmd.Say("") }
}

// manyFiles makes a directory of files.
func manyFiles(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), []byte("content\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// idle is Go's HTTP client, whose idle connections are as many as were ever busy.
func idle(w *workload) func() {
	address, _ := freeAddress(w.T)
	w.help("serve " + address)
	const perSecond = 3 // so that it still fills when leaks are named
	cmd := w.help(fmt.Sprintf("idle %s %d %d", address, int(w.span.Seconds())*perSecond, perSecond))
	return func() { cmd.Say("") }
}

// archive is tar, which writes 10,000 files over a line that is slow.
func archive(w *workload) func() {
	const files, each = 10_000, 1024 // bytes with the header
	dir := manyFiles(w.T, files)
	return func() {
		r, pipe, err := os.Pipe()
		if err != nil {
			w.Fatal(err)
		}
		cmd := exec.Command("tar", "cf", "-", "-C", dir, ".")
		cmd.Stdout = pipe
		w.loads = append(w.loads, w.run(cmd))
		pipe.Close()
		go func() {
			defer r.Close()
			const pause = 50 * time.Millisecond
			some := int64(files * each * pause / w.span)
			for range time.Tick(pause) {
				if _, err := io.CopyN(io.Discard, r, some); err != nil {
					return
				}
			}
		}()
	}
}

// build is make, which compiles eight files at a time.
func build(w *workload) func() {
	dir := w.TempDir()
	for name, text := range map[string]string{
		"unit.c":   "#include <stdio.h>\n#include <stdlib.h>\nint main(void) { return puts(\"built\"); }\n",
		"Makefile": "all: $(shell seq -f %g.o 400)\n\t@true\n%.o: unit.c\n\tgcc -O2 -g -c -o $@ $<\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			w.Fatal(err)
		}
	}
	return func() { w.load("make", "-s", "-j8", "-C", dir) }
}

// unpacked are the paths that match a pattern below /usr, of this machine and of where
// scripts/setup unpacks servers.
func unpacked(pattern string) (paths []string) {
	servers, err := filepath.Abs("../../.cache/servers/usr")
	if err != nil {
		return nil
	}
	for _, usr := range []string{"/usr", servers} {
		found, _ := filepath.Glob(filepath.Join(usr, pattern))
		paths = append(paths, found...)
	}
	return paths
}

// server is the path of a program that scripts/setup unpacks.
func server(t *testing.T, pattern string) string {
	t.Helper()
	paths := unpacked(pattern)
	if len(paths) == 0 {
		t.Fatalf("there is no %s: scripts/setup long", pattern)
	}
	return paths[0]
}

// serves waits until somebody listens.
func serves(t *testing.T, address string) {
	t.Helper()
	await(t, "a server at "+address, func() bool {
		c, err := net.Dial("tcp4", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// seconds is a span as programs want it.
func seconds(span time.Duration) string { return strconv.Itoa(int(span.Seconds())) }

// nginx serves files to wrk, on connections that stay and on others.
func nginx(w *workload) func() {
	dir := manyFiles(w.T, 100)
	address, _ := freeAddress(w.T)
	config := fmt.Sprintf(`
daemon off;
user root;
pid %[1]s/pid;
error_log %[1]s/error.log;
worker_processes 2;
events { worker_connections 400; }
http {
	access_log %[1]s/access.log;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	open_file_cache max=1000 inactive=10s;
	server { listen %[2]s; location / { root %[1]s; } }
}
`, dir, address)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		w.Fatal(err)
	}
	w.run(exec.Command(server(w.T, "sbin/nginx"), "-e", filepath.Join(dir, "error.log"), "-c", path))
	serves(w.T, address)
	wrk := server(w.T, "bin/wrk")
	return func() {
		w.load(wrk, "-t1", "-c50", "-d"+seconds(w.span), "http://"+address+"/1")
		w.load(wrk, "-t1", "-c20", "-d"+seconds(w.span), "-H", "Connection: close", "http://"+address+"/2")
	}
}

// redis serves redis-benchmark, and saves what it has.
func redis(w *workload) func() {
	address, port := freeAddress(w.T)
	w.run(exec.Command(server(w.T, "bin/redis-server"), "--bind", "127.0.0.1", "--port", port,
		"--dir", w.TempDir(), "--save", "10 1", "--appendonly", "yes"))
	serves(w.T, address)
	benchmark := server(w.T, "bin/redis-benchmark")
	return func() {
		w.loadOn(benchmark, "-p", port, "-q", "-l", "-c", "50", "-t", "set,get,incr,lpush")
		w.loadOn(benchmark, "-p", port, "-q", "-l", "-c", "10", "-k", "0", "-t", "get")
	}
}

// postgresql serves pgbench, in sessions that stay and in one for each transaction.
func postgresql(w *workload) func() {
	bin := filepath.Dir(server(w.T, "lib/postgresql/*/bin/pgbench"))
	_, port := freeAddress(w.T)
	dir, err := os.MkdirTemp("", "rmagent-postgresql")
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { os.RemoveAll(dir) })
	user := unprivileged(w.T)
	if err := os.Chown(dir, int(user.Uid), int(user.Gid)); err != nil {
		w.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	as := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
		return cmd
	}
	w.finish(as("initdb", "-A", "trust", "-U", "tester", "-N", "--locale=C", "-D", data))
	w.run(as("postgres", "-D", data, "-h", "127.0.0.1", "-p", port, "-k", dir))
	await(w.T, "PostgreSQL", func() bool { return as("pg_isready", "-q", "-h", "127.0.0.1", "-p", port).Run() == nil })
	with := func(args ...string) *exec.Cmd {
		return as("pgbench", append([]string{"-h", "127.0.0.1", "-p", port, "-U", "tester"}, append(args, "postgres")...)...)
	}
	w.finish(with("-i", "-q", "-s", "5"))
	return func() {
		for _, args := range [][]string{{"-n", "-c", "20", "-j", "2"}, {"-n", "-C", "-S", "-c", "4"}} {
			w.loads = append(w.loads, w.run(with(append(args, "-T", seconds(w.span))...)))
		}
	}
}

// chromium loads a page with 20 images every second, from a server that has them all
// asked for again.
func chromium(w *workload) func() {
	var pages atomic.Int64
	images := strings.Repeat(`<img src="/image">`, 20)
	site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Cache-Control", "no-store")
		if r.URL.Path != "/" {
			http.ServeFile(rw, r, "/etc/hostname")
			return
		}
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(rw, `<meta http-equiv="refresh" content="1"><p>%d</p>%s`, pages.Add(1), images)
	}))
	w.Cleanup(site.Close)
	w.Cleanup(func() {
		if n := pages.Load(); n < int64(w.span.Seconds())/3 {
			w.Errorf("it loaded %d pages", n)
		}
	})
	browser := server(w.T, "lib/chromium/chromium")
	return func() {
		w.loadOn(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
			"--user-data-dir="+w.TempDir(), site.URL)
	}
}

// finish runs a program to its end.
func (w *workload) finish(cmd *exec.Cmd) {
	w.Helper()
	w.run(cmd).finish(w.T)
	w.roots = w.roots[:len(w.roots)-1]
}

// unprivileged is who owns this file, or nobody: PostgreSQL refuses to run as root.
func unprivileged(t *testing.T) *syscall.Credential {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(".", &st); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if st.Uid == 0 {
		return &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return &syscall.Credential{Uid: st.Uid, Gid: st.Gid}
}
