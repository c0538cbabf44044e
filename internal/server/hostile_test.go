package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"rmagent/record"
)

// A GiB that nobody asked for is refused before it is read.
func TestAHugeBody(t *testing.T) {
	s := serve(t, newFake(machine(1)), nil)
	for _, c := range []struct {
		name    string
		length  int64
		headers string
	}{
		{"announced", 1 << 30, "Content-Length: 1073741824\r\n"},
		{"announced, asking first", 1 << 30, "Content-Length: 1073741824\r\nExpect: 100-continue\r\n"},
	} {
		conn, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sent := make(chan int64)
		go func() {
			fmt.Fprintf(conn, "GET /v1/system HTTP/1.1\r\nHost: x\r\n%s\r\n", c.headers)
			n, _ := io.Copy(conn, io.LimitReader(zeros{}, c.length))
			sent <- n
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: status %d", c.name, resp.StatusCode)
		}
		if n := <-sent; n > 8<<20 {
			t.Errorf("%s: %d bytes were taken", c.name, n)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestAHugeHeader(t *testing.T) {
	s := serve(t, newFake(machine(1)), nil)
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go fmt.Fprintf(conn, "GET /readyz HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n", strings.Repeat("a", 1<<20))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// Ten thousand connections that send a byte and wait keep nobody out, and cost little:
// the oldest give way.
func TestTenThousandConnections(t *testing.T) {
	const n = 10_000
	raiseFDs(t, 2*maxConns+4096)
	s := serve(t, newFake(machine(1)), nil)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	held := make([]net.Conn, 0, 2048)
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	addr := strings.TrimPrefix(s.tcp, "http://")
	for i := range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if _, err := c.Write([]byte("G")); err != nil {
			t.Logf("connection %d: %v", i, err)
		}
		if len(held) == cap(held) { // the test's own descriptors are not what is tested
			held[0].Close()
			held = held[1:]
			held = append(make([]net.Conn, 0, 2048), held...)
		}
		held = append(held, c)
		if i%1000 == 999 {
			if a := s.getTCP(t, "/resources/all"); a.status != 200 {
				t.Fatalf("with %d connections: status %d", i+1, a.status)
			}
			http.DefaultClient.CloseIdleConnections()
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse); grown > 32<<20 {
		t.Errorf("%d MiB of memory for %d connections", grown>>20, n)
	}
	if a := s.get(t, "/v1/system"); a.status != 200 {
		t.Errorf("on the other door: status %d", a.status)
	}
}

// raiseFDs lets the test hold its half of the connections too.
func raiseFDs(t *testing.T, n uint64) {
	t.Helper()
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	if lim.Cur >= n {
		return
	}
	old := lim
	lim.Cur, lim.Max = n, max(n, lim.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Skipf("this user may have %d descriptors, the test needs %d", old.Max, n)
	}
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) })
}

// Whoever sends a header byte by byte is cut off in time, and told why nothing.
func TestSlowLoris(t *testing.T) {
	s := serve(t, newFake(machine(1)), nil)
	c, err := net.Dial("tcp", strings.TrimPrefix(s.tcp, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin := time.Now()
	ended := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	}()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for _, b := range []byte("GET /resources/all HTTP/1.1\r\n" + strings.Repeat("X-A: b\r\n", 100)) {
		select {
		case <-ended:
			if took := time.Since(begin); took < headerTime/2 {
				t.Errorf("cut off after %s", took)
			}
			return
		case <-tick.C:
			_, _ = c.Write([]byte{b})
		}
		if time.Since(begin) > 4*headerTime {
			t.Fatal("nobody cut it off")
		}
	}
}

// Clients that don't read their answers give way to those who come.
func TestStuckReaders(t *testing.T) {
	v := machine(4000)
	s := serve(t, newFake(v), nil)
	l := &boundListener{most: 4, open: map[*boundConn]struct{}{}}
	stuck := func(age time.Duration, answers int32) *boundConn {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		c := l.admit(a)
		if c == nil {
			return nil
		}
		c.answers.Store(answers)
		c.since.Store(time.Now().Add(-age).UnixNano())
		return c
	}
	first := stuck(time.Hour, 1)
	stuck(2*time.Hour, 0)
	stuck(time.Second, 0)
	stuck(time.Second, 1)
	if stuck(time.Second, 1) == nil || len(l.open) != 4 {
		t.Error("the idle connection did not give way")
	}
	if stuck(time.Second, 1) == nil || l.open[first] != (struct{}{}) && len(l.open) != 4 {
		t.Error("the second idle connection did not give way")
	}
	if stuck(time.Second, 1) == nil {
		t.Error("the stuck answer did not give way")
	}
	if _, there := l.open[first]; there {
		t.Error("another one went than the one that is stuck")
	}
	if stuck(0, 1) != nil {
		t.Error("four are at work, and a fifth was let in")
	}

	// A real one: it asks for megabytes and reads nothing.
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /v1/processes HTTP/1.1\r\nHost: x\r\n\r\n")
	begin := time.Now()
	for range 20 {
		if a := s.get(t, "/v1/processes/7"); a.status != 200 {
			t.Fatalf("status %d", a.status)
		}
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("20 answers took %s beside a stuck reader", took)
	}
}

func TestRefusedIsAnAnswer(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	read := make(chan *http.Response)
	go func() {
		resp, err := http.ReadResponse(bufio.NewReader(b), nil)
		if err != nil {
			t.Error(err)
		}
		read <- resp
	}()
	_ = a.SetDeadline(time.Now().Add(time.Second))
	if _, err := a.Write([]byte(refused)); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if resp := <-read; resp == nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%+v", resp)
	}
}

// listen begins to listen and returns lines of the stream.
func listen(t *testing.T, s *testServer, query, lastID string) *bufio.Scanner {
	t.Helper()
	r, err := http.NewRequest("GET", "http://rmagent/v1/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := s.unix.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("status %d, %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() || lines.Text() != ": hello" {
		t.Fatalf("begins with %q", lines.Text())
	}
	lines.Scan()
	return lines
}

// event reads one event.
func event(t *testing.T, lines *bufio.Scanner) (id, kind, data string) {
	t.Helper()
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			id = value
		case "event":
			kind = value
		case "data":
			data = value
		case "":
			if kind != "" {
				return id, kind, data
			}
		}
	}
	t.Fatalf("the stream ended: %v", lines.Err())
	return "", "", ""
}

func TestEvents(t *testing.T) {
	s := serve(t, newFake(machine(1)), nil)
	all, oom := listen(t, s, "", ""), listen(t, s, "?kind=oom&kind=exit", "")
	s.Events.Observe(&record.Process{}) // is measured, not happening
	change := record.StateChange{Header: record.Header{Time: someTime, Kind: record.KindState, Host: "web-1", Schema: 1}, Resource: "fd", Target: "host", State: record.StateWarning, Previous: record.StateNormal}
	s.Events.Observe(&change)
	s.Events.Observe(&record.OOM{Header: record.Header{Time: someTime}, PID: 7})
	exit := record.Exit{Header: record.Header{Time: someTime}}
	exit.PID = 8
	s.Events.Observe(&exit)

	id, kind, data := event(t, all)
	r, err := record.Decode([]byte(data))
	if err != nil || kind != "state" || id != "1" {
		t.Fatalf("%v: %s %s %s", err, id, kind, data)
	}
	if got := r.(*record.StateChange); got.Resource != "fd" || got.Host != "web-1" || got.State != record.StateWarning {
		t.Errorf("%+v", got)
	}
	if _, kind, _ := event(t, all); kind != "oom" {
		t.Errorf("then %s", kind)
	}
	if _, kind, _ := event(t, oom); kind != "oom" {
		t.Errorf("who wants oom got %s", kind)
	}
	if _, kind, data := event(t, oom); kind != "exit" || !strings.Contains(data, `"pid":8`) {
		t.Errorf("who wants exits got %s %s", kind, data)
	}
	// Who comes back goes on where they were.
	if id, kind, _ := event(t, listen(t, s, "", "1")); kind != "oom" || id != "2" {
		t.Errorf("after 1 came %s %s", id, kind)
	}
}

// Exits cost nothing while nobody wants them, and who is too slow is told.
func TestEventsAreBounded(t *testing.T) {
	b := NewBus()
	b.Observe(&record.Exit{Header: record.Header{Time: someTime}})
	if b.last() != 1 {
		t.Error("an exit was kept for nobody")
	}
	big := record.StateChange{Header: record.Header{Time: someTime}, Message: strings.Repeat("x", 10_000)}
	for range 5000 {
		b.Observe(&big)
	}
	events, lost, _ := b.since(nil, 1)
	if uint64(len(events))+lost != 5000 || b.bytes > maxEventBytes {
		t.Errorf("%d kept, %d lost, %d bytes", len(events), lost, b.bytes)
	}
	if events[len(events)-1].Number != 5000 {
		t.Errorf("the last is %d", events[len(events)-1].Number)
	}
	small := record.StateChange{Header: record.Header{Time: someTime}}
	for range 10 * maxEvents {
		b.Observe(&small)
	}
	if len(b.ring) > 3*maxEvents {
		t.Errorf("%d events are kept", len(b.ring))
	}
	s := serve(t, newFake(machine(1)), func(o *Options) { o.Events = b })
	if _, kind, data := event(t, listen(t, s, "", "3")); kind != "lost" || !strings.Contains(data, "events") {
		t.Errorf("%s %s", kind, data)
	}
}

// A listener who does not read costs the others nothing.
func TestAStuckListener(t *testing.T) {
	s := serve(t, newFake(machine(1)), nil)
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	reader := listen(t, s, "", "")
	big := record.StateChange{Header: record.Header{Time: someTime}, Message: strings.Repeat("x", 100_000)}
	for i := range 200 {
		s.Events.Observe(&big)
		for {
			_, kind, _ := event(t, reader)
			if kind == "state" {
				break
			}
			t.Fatalf("event %d came as %s", i, kind)
		}
	}
}

// Closing the server ends streams.
func TestCloseEndsStreams(t *testing.T) {
	views := newFake(machine(1))
	s := New(Options{Views: views, Events: NewBus(), Log: zap.NewNop()})
	path := t.TempDir() + "/s"
	l, err := ListenUnix(path, "")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.ServeUnix(l) }()
	resp, err := unixClient(path).Get("http://x/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Error(err)
	}
	if err := s.ServeUnix(l); err != nil {
		t.Errorf("a door after the end: %v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}

// pipes is a listener of connections in memory.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.conns) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// FuzzRequest sends anything: there is an answer that HTTP allows, or none, and the
// server goes on.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET /resources/all HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /v1/processes?sort=rss_bytes&limit=1&name=%5B HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /v1/usage/disk?path=../../etc HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /v1/processes/%2e%2e/fds HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"PUT /v1/thresholds/fd HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
		"POST /v1/fd/check HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"GET http://evil/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n", "\x00\x01", "GET //v1//processes HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 99999999999999999999\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	s := New(Options{Views: newFake(machine(20)), Events: NewBus(), Log: zap.NewNop()})
	l := &pipes{conns: make(chan net.Conn)}
	served := make(chan error, 1)
	door := s.door(http.HandlerFunc(s.answer))
	door.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(withConn(ctx, c), callerKey{}, &caller{private: true, trusted: true})
	}
	go func() { served <- s.open(door, func() error { return door.Serve(bound(l)) }) }()
	f.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, request []byte) {
		if bytes.Contains(request, []byte("/v1/events")) && bytes.Contains(request, []byte("GET")) {
			request = append(request, "\r\n\r\n"...)
		}
		client, conn := net.Pipe()
		l.conns <- conn
		_ = client.SetDeadline(time.Now().Add(20 * time.Second))
		go func() {
			_, _ = client.Write(request)
			// Whatever it was, this ends it.
			_, _ = client.Write([]byte("\r\n\r\nGET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
		}()
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		client.Close()
		if err != nil {
			return // not a request that HTTP allows
		}
		if resp.StatusCode == 500 || resp.StatusCode < 200 {
			t.Errorf("status %d for %q", resp.StatusCode, request)
		}
	})
}
