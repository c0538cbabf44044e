package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/internal/hostfs"
	"rmagent/internal/human"
	httpserver "rmagent/internal/server"
	"rmagent/record"
)

// client asks the agent that runs on a socket.
type client struct {
	http   http.Client
	socket string
}

// maxAnswer bounds what is taken of an answer in one piece, maxLine a line of one that
// is a stream.
const (
	maxAnswer = 64 << 20
	maxLine   = 8 << 20
)

// dialTime is how long a command waits for a busy agent before it reads for itself.
const dialTime = 2 * time.Second

// runningAgent returns a client of the agent on the configured socket, or of this user's
// own and else the system's. It is nil where there is none, where this user may not ask it,
// where it is in another PID namespace, so that its PIDs are others, or where the command
// line asks for a reading of its own (--local, or another --source or --gpu), or chooses by
// more than a question may.
func runningAgent(c *cli.Context, l *config.Loaded) *client {
	if c.Bool("local") || c.IsSet("source") || c.IsSet("gpu") || c.Bool("with-cmdline") {
		return nil
	}
	most := max(len(c.IntSlice("pid")), len(c.StringSlice("name")), len(c.StringSlice("cgroup")), len(c.StringSlice("unit")))
	if most > httpserver.MaxGiven {
		return nil
	}
	for _, path := range cmdline.Sockets(l) {
		if k := agentOn(c.Context, path); k != nil {
			return k
		}
	}
	return nil
}

// presentAgent is runningAgent for what the agent read last: nil, too, where that is the
// past, and root can read as well as the agent. Others take it, and are told.
func presentAgent(c *cli.Context, l *config.Loaded) *client {
	k := runningAgent(c, l)
	if k == nil {
		return nil
	}
	age, every, err := k.age(c.Context)
	switch {
	case err == nil && max(age, every) <= maxAge:
		return k
	case os.Geteuid() == 0:
		return nil
	case err != nil: // stalled, for one
		fmt.Fprintf(c.App.ErrWriter, "rmagent: the running agent is not well (%v); --local reads now\n", err)
	default:
		fmt.Fprintf(c.App.ErrWriter, "rmagent: the running agent reads every %s and did so %s ago; --local reads now\n",
			human.Seconds(every.Seconds()), human.Seconds(age.Seconds()))
	}
	return k
}

// maxAge is how rarely an agent may read for its last reading to be the present.
const maxAge = time.Minute

// age asks how long ago the agent read last, and how often it does.
func (k *client) age(ctx context.Context) (age, every time.Duration, err error) {
	var h struct {
		Age   float64 `json:"last_reading_seconds"`
		Every float64 `json:"interval_seconds"`
	}
	err = k.getJSON(ctx, "/healthz", nil, &h)
	return time.Duration(h.Age * float64(time.Second)), time.Duration(h.Every * float64(time.Second)), err
}

// agentOn returns a client of the agent on a socket, nil where none may be asked.
func agentOn(ctx context.Context, path string) *client {
	k := &client{socket: path, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "unix", path)
			if err == nil && !hostfs.PeerSharesPIDs(conn) {
				return nil, errors.Join(errors.New("the agent is in another PID namespace"), conn.Close())
			}
			return conn, err
		},
		ResponseHeaderTimeout: time.Minute,
	}}}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	resp, err := k.get(ctx, "/readyz", nil)
	if err != nil {
		return nil
	}
	resp.Close()
	return k
}

// answerError is what the agent said was wrong.
type answerError struct {
	status int
	detail string
}

func (e *answerError) Error() string { return "the agent says: " + e.detail }

// get asks, and returns the body of a good answer.
func (k *client) get(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	u := url.URL{Scheme: "http", Host: "rmagent", Path: path, RawQuery: query.Encode()}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := k.http.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	var p struct{ Detail string }
	if err := json.Unmarshal(b, &p); err != nil || p.Detail == "" {
		p.Detail = resp.Status
	}
	return nil, &answerError{resp.StatusCode, record.Text([]byte(p.Detail))}
}

// getJSON reads an answer into v.
func (k *client) getJSON(ctx context.Context, path string, query url.Values, v any) error {
	body, err := k.get(ctx, path, query)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(v); err != nil {
		return fmt.Errorf("the agent's answer: %w", err)
	}
	return nil
}

// eachLine reads an answer of records, one a line.
func (k *client) eachLine(ctx context.Context, path string, query url.Values, visit func(record.Record) error) error {
	body, err := k.get(ctx, path, query)
	if err != nil {
		return err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		r, err := record.Decode(lines.Bytes())
		if errors.Is(err, record.ErrKind) {
			continue // of a newer agent
		}
		if err != nil {
			return fmt.Errorf("the agent's answer: %w", err)
		}
		if err := visit(r); err != nil {
			return err
		}
	}
	return lines.Err()
}

// filterQuery says in a query what a filter chooses.
func filterQuery(f engine.Filter) url.Values {
	q := url.Values{"name": f.Names, "cgroup": f.Cgroups, "unit": f.Units}
	for _, pid := range f.PIDs {
		q.Add("pid", strconv.Itoa(int(pid)))
	}
	return q
}

// snapshot prints what the agent read last, as the command of that name prints.
func (k *client) snapshot(ctx context.Context, f engine.Filter, w *lineWriter) (missing []int32, err error) {
	missing = slices.Clone(f.PIDs)
	err = k.eachLine(ctx, "/v1/snapshot", filterQuery(f), func(r record.Record) error {
		if p, ok := r.(*record.Process); ok {
			missing = slices.DeleteFunc(missing, func(pid int32) bool { return pid == p.PID })
		}
		return w.writeAt(r)
	})
	return missing, err
}

// headroom asks for the headroom of one process.
func (k *client) headroom(ctx context.Context, pid int32, between time.Duration) (h record.Headroom, err error) {
	var q url.Values
	if between > 0 {
		q = url.Values{"for": {between.String()}}
	}
	err = k.getJSON(ctx, fmt.Sprintf("/v1/headroom/%d", pid), q, &h)
	return h, err
}

// follow asks for the headroom of one process, with the rates since the last time.
func (k *client) follow(ctx context.Context, pid int32) (h record.Headroom, err error) {
	err = k.getJSON(ctx, fmt.Sprintf("/v1/headroom/%d", pid), url.Values{"for": {"last"}}, &h)
	return h, err
}

// nearest asks who is nearest to a limit; 0 for most is all.
func (k *client) nearest(ctx context.Context, f engine.Filter, between time.Duration, most int) (l record.HeadroomList, err error) {
	q := filterQuery(f)
	if between > 0 {
		q.Set("for", between.String())
	}
	if most > 0 {
		q.Set("limit", strconv.Itoa(most))
	}
	err = k.getJSON(ctx, "/v1/headroom", q, &l)
	return l, err
}

// isGone tells whether the agent knows no such process.
func isGone(err error) bool {
	var a *answerError
	return errors.As(err, &a) && a.status == http.StatusNotFound
}

// fdSurvey is what the agent knows of everybody's descriptors.
type fdSurvey struct {
	rows  []record.Leak // without sites
	leaks []record.Leak // who grows or leaks
	age   time.Duration // of the reading that the rows are of
}

// fds asks who holds descriptors, and who gathers them.
func (k *client) fds(ctx context.Context) (*fdSurvey, error) {
	var leaks struct{ Leaks []record.Leak }
	if err := k.getJSON(ctx, "/v1/leaks", nil, &leaks); err != nil {
		return nil, err
	}
	all, err := k.chosen(ctx, engine.Filter{})
	if err != nil {
		return nil, err
	}
	s := &fdSurvey{leaks: leaks.Leaks}
	known := map[int32]*record.Leak{}
	for i := range s.leaks {
		known[s.leaks[i].PID] = &s.leaks[i]
	}
	for i := range all {
		p := &all[i]
		s.age = time.Since(p.Time)
		if p.FDOpen.Or(0) == 0 {
			continue
		}
		if l := known[p.PID]; l != nil && l.StartTicks == p.StartTicks {
			s.rows = append(s.rows, *l)
			continue
		}
		row := record.Leak{
			PID: p.PID, StartTicks: p.StartTicks, Comm: p.Comm, Verdict: record.VerdictUnknown,
			FDOpen: p.FDOpen, FDLimit: p.FDLimit, GrowthPerSecond: p.FDGrowthPerSecond, SecondsToLimit: p.FDSecondsToLimit,
		}
		if p.FDGrowthPerSecond.Known() {
			row.Verdict = record.VerdictSteady
		}
		s.rows = append(s.rows, row)
	}
	return s, nil
}

// chosen asks which processes a filter chooses.
func (k *client) chosen(ctx context.Context, f engine.Filter) ([]record.Process, error) {
	var all struct{ Processes []record.Process }
	err := k.getJSON(ctx, "/v1/processes", filterQuery(f), &all)
	return all.Processes, err
}

// held asks what a process holds.
func (k *client) held(ctx context.Context, pid int32) (l record.Leak, err error) {
	err = k.getJSON(ctx, fmt.Sprintf("/v1/processes/%d/fds", pid), nil, &l)
	return l, err
}
