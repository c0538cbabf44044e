package server

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
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
	param{name: "limit", usage: "at most so many", check: someNumber},
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

func someNumber(s string) error {
	_, err := parseLimit(s)
	return err
}

// sortKeys are the numbers that processes can be sorted by.
var sortKeys = map[string]func(*record.Process) num{
	"cpu_cores":                     func(p *record.Process) num { return p.CPUCores },
	"cpu_seconds_total":             func(p *record.Process) num { return p.CPUSecondsTotal },
	"rss_bytes":                     func(p *record.Process) num { return record.Float(p.RSSBytes) },
	"swap_bytes":                    func(p *record.Process) num { return record.Float(p.SwapBytes) },
	"threads":                       func(p *record.Process) num { return record.Float(p.Threads) },
	"fd_open":                       func(p *record.Process) num { return record.Float(p.FDOpen) },
	"fd_ratio":                      func(p *record.Process) num { return p.FDRatio },
	"fd_growth_per_second":          func(p *record.Process) num { return p.FDGrowthPerSecond },
	"disk_read_bytes_per_second":    func(p *record.Process) num { return p.DiskReadBytesPerSecond },
	"disk_written_bytes_per_second": func(p *record.Process) num { return p.DiskWrittenBytesPerSecond },
	"net_received_bytes_per_second": func(p *record.Process) num { return p.NetReceivedBytesPerSecond },
	"net_sent_bytes_per_second":     func(p *record.Process) num { return p.NetSentBytesPerSecond },
	"gpu_memory_bytes":              func(p *record.Process) num { return record.Float(p.GPUMemoryBytes) },
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
		return errors.New("there is no such number; allowed: " + strings.Join(sortNames(), ", "))
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

// processes answers with all processes, or those that are asked for.
func (s *Server) processes(w http.ResponseWriter, r *http.Request) error {
	l, err := s.listed(r.Context())
	if err != nil {
		return err
	}
	defer s.listings.release(l)
	v := l.view
	c := callerOf(r.Context())
	var head object
	head.value("time", v.Time.UTC())
	head.value("interval_seconds", v.Interval.Seconds())
	head.key("processes")
	head.b = append(head.b, '[')
	const tail = "]}\n"
	w.Header().Set("Content-Type", "application/json")
	if all := l.whole(c); r.URL.RawQuery == "" && all != nil {
		w.Header().Set("Content-Length", strconv.Itoa(len(head.b)+len(all)+len(tail)))
		for _, b := range [][]byte{head.b, all, []byte(tail)} {
			if _, err := w.Write(b); err != nil {
				return nil // a client that is gone is no failure
			}
		}
		return nil
	}
	send := &sender{w: w}
	send.bytes(head.b)
	for n, i := range l.choose(r) {
		if n > 0 {
			send.text(separator)
		}
		send.bytes(l.of(c, i))
	}
	send.text(tail)
	send.end()
	return nil
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
		return nil, nil, problemf(http.StatusNotFound, "No process had PID %d at the last reading, %.1f s ago.", pid, time.Since(v.Time).Seconds())
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
	l, err := s.listed(r.Context())
	if err != nil {
		return err
	}
	defer s.listings.release(l)
	v := l.view
	w.Header().Set("Content-Type", ndjson)
	send := &sender{w: w}
	if filterOf(r).PIDs == nil {
		if err := s.sendMachine(send, v); err != nil {
			return err
		}
	}
	c := callerOf(r.Context())
	for _, i := range l.choose(r) {
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
