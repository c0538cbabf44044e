package server

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"rmagent/internal/engine"
	"rmagent/internal/pprof"
	"rmagent/record"
)

const ndjson = "application/x-ndjson"

// filterQuery are the parameters that choose processes.
var filterQuery = []param{
	{name: "pid", usage: "only this process; repeatable, as the next three", many: true, check: func(s string) error { _, err := parsePID(s); return err }},
	{name: "name", usage: "only processes whose name matches a pattern, as nginx*", many: true, check: pattern},
	{name: "cgroup", usage: "only processes in a cgroup that matches, or below it", many: true, check: pattern},
	{name: "unit", usage: "only processes of a systemd unit", many: true, check: pattern},
}

var processQuery = append(slices.Clone(filterQuery),
	param{name: "sort", usage: "by this number of the record, greatest first: " + strings.Join(sortNames(), ", "), check: sortKey},
	param{name: "limit", usage: "at most so many", check: func(s string) error { _, err := parseLimit(s); return err }},
)

func pattern(s string) error {
	if len(s) > 1024 {
		return errors.New("allowed are 1024 bytes")
	}
	_, err := (&engine.Filter{Names: []string{s}}).Validate()
	return err
}

func parseLimit(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, errors.New("allowed is a number from 1")
	}
	return n, nil
}

// sortKeys are the numbers that processes can be sorted by.
var sortKeys = map[string]func(*record.Process) num{
	"cpu_cores":                     func(p *record.Process) num { return p.CPUCores },
	"cpu_seconds_total":             func(p *record.Process) num { return p.CPUSecondsTotal },
	"rss_bytes":                     func(p *record.Process) num { return float(p.RSSBytes) },
	"swap_bytes":                    func(p *record.Process) num { return float(p.SwapBytes) },
	"threads":                       func(p *record.Process) num { return float(p.Threads) },
	"fd_open":                       func(p *record.Process) num { return float(p.FDOpen) },
	"fd_ratio":                      func(p *record.Process) num { return p.FDRatio },
	"fd_growth_per_second":          func(p *record.Process) num { return p.FDGrowthPerSecond },
	"disk_read_bytes_per_second":    func(p *record.Process) num { return p.DiskReadBytesPerSecond },
	"disk_written_bytes_per_second": func(p *record.Process) num { return p.DiskWrittenBytesPerSecond },
	"net_received_bytes_per_second": func(p *record.Process) num { return p.NetReceivedBytesPerSecond },
	"net_sent_bytes_per_second":     func(p *record.Process) num { return p.NetSentBytesPerSecond },
	"gpu_memory_bytes":              func(p *record.Process) num { return float(p.GPUMemoryBytes) },
}

func float(o record.Opt[uint64]) num {
	v, ok := o.Get()
	return record.SomeIf(float64(v), ok)
}

func sortNames() []string {
	names := make([]string, 0, len(sortKeys))
	for name := range sortKeys {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func sortKey(s string) error {
	if sortKeys[s] == nil {
		return errors.New("there is no such number")
	}
	return nil
}

// filterOf reads the filter of a request whose query was checked.
func filterOf(r *http.Request) (f engine.Filter) {
	q := r.URL.Query()
	f.Names, f.Cgroups, f.Units = q["name"], q["cgroup"], q["unit"]
	for _, s := range q["pid"] {
		if pid, err := parsePID(s); err == nil {
			f.PIDs = append(f.PIDs, pid)
		}
	}
	return f
}

// listing has the processes of one view encoded, once for all who ask.
type listing struct {
	view *engine.View
	once sync.Once
	err  error

	plain, full spans // without command lines, and with those that are known
}

// spans are texts in one buffer.
type spans struct {
	buf  []byte
	ends []int
}

func (s *spans) at(i int) []byte {
	from := 0
	if i > 0 {
		from = s.ends[i-1]
	}
	return s.buf[from:s.ends[i]]
}

// list returns the encoded processes of a view.
func (s *Server) list(v *engine.View) (*listing, error) {
	l := s.listing.Load()
	if l == nil || l.view != v {
		next := &listing{view: v}
		if s.listing.CompareAndSwap(l, next) {
			l = next
		} else if l = s.listing.Load(); l.view != v {
			l = next // two views are being asked for; each has its own
		}
	}
	l.once.Do(func() { l.err = l.encode(s) })
	return l, l.err
}

func (l *listing) encode(s *Server) (err error) {
	list := l.view.Details.Processes
	secret := false
	for i := range list {
		p := list[i]
		secret = secret || p.Cmdline != nil
		p.Cmdline = nil
		if err = l.plain.add(s, &p, len(list)); err != nil {
			return err
		}
	}
	if !secret {
		l.full = l.plain
		return nil
	}
	for i := range list {
		p := list[i]
		if err = l.full.add(s, &p, len(list)); err != nil {
			return err
		}
	}
	return nil
}

func (s *spans) add(server *Server, p *record.Process, n int) (err error) {
	if s.ends == nil {
		s.ends = make([]int, 0, n)
	}
	s.buf, err = server.line(s.buf, p)
	s.ends = append(s.ends, len(s.buf))
	if len(s.ends) == 16 { // they are all about as long
		s.buf = slices.Grow(s.buf, len(s.buf)/16*(n+n/8))
	}
	return err
}

// of returns a process as a caller may see it.
func (l *listing) of(c *caller, i int) []byte {
	if uid, known := l.view.Details.Processes[i].UID.Get(); c.mayRead(uid, known) {
		return l.full.at(i)
	}
	return l.plain.at(i)
}

// choose returns the indices of the processes that a request asks for, in its order.
func choose(r *http.Request, list []record.Process) []int {
	f := filterOf(r)
	q := r.URL.Query()
	which := make([]int, 0, len(list))
	for i := range list {
		if f.MatchRecord(&list[i].ProcessFacts) {
			which = append(which, i)
		}
	}
	if key := sortKeys[q.Get("sort")]; key != nil {
		slices.SortStableFunc(which, func(a, b int) int {
			return cmp.Compare(key(&list[b]).Or(-1), key(&list[a]).Or(-1))
		})
	}
	if n, err := parseLimit(q.Get("limit")); err == nil {
		which = which[:min(n, len(which))]
	}
	return which
}

// processes answers with all processes, or those that are asked for.
func (s *Server) processes(w http.ResponseWriter, r *http.Request) error {
	v, err := s.detailed(r.Context())
	if err != nil {
		return err
	}
	l, err := s.list(v)
	if err != nil {
		return err
	}
	c := callerOf(r.Context())
	var head object
	head.value("time", v.Time.UTC())
	head.value("interval_seconds", v.Interval.Seconds())
	head.key("processes")
	w.Header().Set("Content-Type", "application/json")
	send := &sender{w: w}
	send.bytes(head.b)
	send.text("[")
	for n, i := range choose(r, v.Details.Processes) {
		if n > 0 {
			send.text(",\n")
		}
		send.bytes(l.of(c, i))
	}
	send.text("]}\n")
	send.end()
	return nil
}

// sender gathers small pieces into large writes.
type sender struct {
	w   http.ResponseWriter
	buf []byte
	bad bool
}

const sendAtOnce = 256 << 10

func (s *sender) bytes(b []byte) {
	if s.buf == nil {
		s.buf = make([]byte, 0, sendAtOnce)
	}
	if len(s.buf)+len(b) > cap(s.buf) {
		s.end()
	}
	s.buf = append(s.buf, b...)
}

func (s *sender) text(t string) { s.bytes([]byte(t)) }

// end sends what is left. After a write that failed nothing is sent any more.
func (s *sender) end() {
	if !s.bad {
		_, err := s.w.Write(s.buf)
		s.bad = err != nil
	}
	s.buf = s.buf[:0]
}

// find returns the view and the process that the path names.
func (s *Server) find(r *http.Request) (*engine.View, *record.Process, error) {
	pid, err := pidOf(r)
	if err != nil {
		return nil, nil, err
	}
	v, err := s.detailed(r.Context())
	if err != nil {
		return nil, nil, err
	}
	p := v.Details.Process(pid)
	if p == nil {
		return nil, nil, noProcess(pid)
	}
	return v, p, nil
}

func noProcess(pid int32) error {
	return problemf(http.StatusNotFound, "No process has PID %d.", pid)
}

func (s *Server) process(w http.ResponseWriter, r *http.Request) error {
	_, found, err := s.find(r)
	if err != nil {
		return err
	}
	p := *found
	if uid, known := p.UID.Get(); !callerOf(r.Context()).mayRead(uid, known) {
		p.Cmdline = nil
	}
	b, err := s.line(nil, &p)
	if err != nil {
		return err
	}
	return writeBytes(w, "application/json", append(b, '\n'))
}

// held returns what the process in the path holds, if the caller may know.
func (s *Server) held(r *http.Request) (*record.Leak, error) {
	_, p, err := s.find(r)
	if err != nil {
		return nil, err
	}
	if uid, known := p.UID.Get(); !callerOf(r.Context()).mayRead(uid, known) {
		return nil, problemf(http.StatusForbidden, "What process %d holds is only for root and for its own user.", p.PID)
	}
	l, err := s.Views.Holds(r.Context(), p.PID)
	switch {
	case errors.Is(err, engine.ErrNoProcess):
		return nil, noProcess(p.PID)
	case err != nil && r.Context().Err() != nil:
		return nil, problemf(http.StatusServiceUnavailable, "The agent did not answer in time.")
	case err != nil:
		return nil, problemf(http.StatusBadGateway, "What process %d holds can't be listed: %v.", p.PID, err)
	}
	return &l, nil
}

func (s *Server) descriptors(w http.ResponseWriter, r *http.Request) error {
	l, err := s.held(r)
	if err != nil {
		return err
	}
	b, err := s.line(nil, l)
	if err != nil {
		return err
	}
	return writeBytes(w, "application/json", append(b, '\n'))
}

func (s *Server) profile(w http.ResponseWriter, r *http.Request) error {
	l, err := s.held(r)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := pprof.Profile(time.Now(), []record.Leak{*l}).Write(&b); err != nil {
		return err
	}
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="fds-%d.pb.gz"`, l.PID))
	return writeBytes(w, "application/octet-stream", b.Bytes())
}

// leaks answers with who grows or leaks; what they hold is left out where the caller
// may not know.
func (s *Server) leaks(w http.ResponseWriter, r *http.Request) error {
	v, err := s.detailed(r.Context())
	if err != nil {
		return err
	}
	c := callerOf(r.Context())
	var o object
	o.value("time", v.Time.UTC())
	o.list(s, "leaks", len(v.Details.Leaks), func(i int) record.Record {
		l := v.Details.Leaks[i]
		p := v.Details.Process(l.PID)
		if p == nil {
			hideSites(&l)
		} else if uid, known := p.UID.Get(); !c.mayRead(uid, known) {
			hideSites(&l)
		}
		return &l
	})
	return o.write(w)
}

// hideSites leaves the numbers of a leak, and takes stacks and targets out.
func hideSites(l *record.Leak) { l.Sites = nil }

// snapshot answers as `rmagent snapshot` prints.
func (s *Server) snapshot(w http.ResponseWriter, r *http.Request) error {
	v, err := s.detailed(r.Context())
	if err != nil {
		return err
	}
	l, err := s.list(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", ndjson)
	send := &sender{w: w}
	if filterOf(r).PIDs == nil {
		if err := s.sendMachine(send, v); err != nil {
			return err
		}
	}
	c := callerOf(r.Context())
	for _, i := range choose(r, v.Details.Processes) {
		send.bytes(l.of(c, i))
		send.text("\n")
	}
	send.end()
	return nil
}

func (s *Server) sendMachine(send *sender, v *engine.View) error {
	var list []record.Record
	host := v.Host
	list = append(list, &host)
	for _, c := range v.Details.Cgroups {
		list = append(list, &c)
	}
	for _, g := range v.GPUs {
		list = append(list, &g)
	}
	for _, r := range list {
		b, err := s.line(nil, r)
		if err != nil {
			return err
		}
		send.bytes(append(b, '\n'))
	}
	return nil
}
