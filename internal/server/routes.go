package server

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"rmagent/internal/engine"
	"rmagent/record"
)

// route is one question that can be asked. The table of routes drives the answers and
// the OpenAPI document alike.
type route struct {
	method, path string
	private      bool // not on the door for everybody
	changes      bool // only for who is trusted
	streams      bool // may take any time
	summary      string
	query        []param
	media        string // of the answer; empty: application/json
	body         any    // of the request: a value of its type; nil: none
	handle       handler
	numbers      func(*engine.View) any // in place of handle: what it makes of a view is the answer, and nothing is waited for
}

type handler = func(s *Server, w http.ResponseWriter, r *http.Request) error

// param is one parameter of a query.
type param struct {
	name, usage string
	check       func(string) error
	many        bool
}

// pattern is the path as net/http's ServeMux wants it.
func (r *route) pattern() string {
	if r.path == "/" {
		return "/{$}"
	}
	return r.path
}

// status is that of a good answer.
func (r *route) status() int {
	if r.path == "/readyz" || r.changes && r.method != http.MethodPost {
		return http.StatusNoContent
	}
	return http.StatusOK
}

// allow says why a caller may not use the route, nil if they may.
func (r *route) allow(c *caller) *Problem {
	switch {
	case r.private && !c.private:
		return problemf(http.StatusForbidden, "This is answered on the agent's unix socket only (curl --unix-socket PATH http://rmagent%s), "+
			"or where --web.config.file asks for TLS and for who you are.", r.path)
	case r.changes && !c.trusted:
		return problemf(http.StatusForbidden, "Only root may change what the agent does.")
	}
	return nil
}

var routes = slices.Concat(numberRoutes, controlRoutes, []route{
	{method: "GET", path: "/openapi.json", summary: "This document.", handle: (*Server).openAPI},

	{method: "GET", path: "/v1/processes", private: true, summary: "Every process, as records of kind process.",
		query: processQuery, handle: (*Server).processes},
	{method: "GET", path: "/v1/processes/{pid}", private: true, summary: "One process.", handle: (*Server).process},
	{method: "GET", path: "/v1/processes/{pid}/fds", private: true, handle: (*Server).descriptors,
		summary: "What a process holds open, by what opened it, as a record of kind leak. For root and the process's own user."},
	{method: "GET", path: "/v1/snapshot", private: true, media: ndjson, query: filterQuery, handle: (*Server).snapshot,
		summary: "The host, its cgroups, its GPUs and every process, as JSON lines."},
	{method: "GET", path: "/v1/leaks", private: true, handle: (*Server).leaks,
		summary: "The processes whose descriptors grow or leak, worst first. Sites only for root and the process's own user."},
	{method: "GET", path: "/v1/leaks/{pid}/pprof", private: true, media: "application/octet-stream", handle: (*Server).profile,
		summary: "What a process holds, by stack, as a profile for go tool pprof. For root and the process's own user."},
	{method: "GET", path: "/v1/headroom/{pid}", private: true, handle: (*Server).headroom,
		summary: "Every limit that applies to a process, and which is hit first.",
		query: []param{{name: "for", check: betweenOrLast, usage: "time between two readings, which rates come from, such as 1s; none: one reading, no rates; " +
			"last: rates since the last such question about the process, if that was within a minute"}}},
	{method: "GET", path: "/v1/headroom", private: true, handle: (*Server).nearest,
		summary: "The processes that are nearest to a limit of their own, their user's or their cgroups', and the machine's own limits.",
		query: append(slices.Clone(filterQuery),
			param{name: "for", check: between, usage: "time between two readings of the agent, which rates come from, such as 1s; none: the last reading, no rates"},
			param{name: "limit", usage: "at most so many", check: someNumber})},
	{method: "GET", path: "/v1/usage/{resource}", private: true, handle: (*Server).usage,
		summary: "Use, state and details of cpu, memory, disk, gpu, network or fd.",
		query:   []param{{name: "path", usage: "of disk: a path on a filesystem that the host's record lists; default /", check: anyText}}},
	{method: "GET", path: "/v1/system", private: true, summary: "The machine, the agent, and the latest records of both.", handle: (*Server).system},
	{method: "GET", path: "/v1/policy", private: true, summary: "The effective configuration, and what it says now.", handle: (*Server).policy},
	{method: "GET", path: "/v1/events", private: true, streams: true, media: "text/event-stream", handle: (*Server).events,
		summary: "Records as they come, as server-sent events.",
		query:   []param{{name: "kind", usage: "only records of this kind; repeatable", check: eventKind, many: true}}},
})

// missing is what the contract names and this agent can't do.
func missing(*Server, http.ResponseWriter, *http.Request) error {
	return problemf(http.StatusNotImplemented, "This agent can't do that.")
}

// noRoute answers where no route is: 404, or 405 where the path has other methods.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	var methods []string
	for i := range routes {
		probe := &http.Request{Method: routes[i].method, URL: r.URL, Host: r.Host}
		if _, pattern := s.mux.Handler(probe); pattern == routes[i].method+" "+routes[i].pattern() {
			methods = append(methods, routes[i].method)
		}
	}
	if len(methods) == 0 {
		problemf(http.StatusNotFound, "There is nothing at this path; /openapi.json lists what there is.").write(w)
		return
	}
	slices.Sort(methods)
	methods = slices.Compact(methods)
	w.Header().Set("Allow", strings.Join(methods, ", "))
	problemf(http.StatusMethodNotAllowed, "Allowed here: %s.", strings.Join(methods, ", ")).write(w)
}

// checkQuery refuses parameters that a route does not have, and values that it can't
// take: a mistake in a name must not look like an answer.
func (s *Server) checkQuery(r *route, q *http.Request) error {
	values, err := url.ParseQuery(q.URL.RawQuery)
	if err != nil {
		return problemf(http.StatusBadRequest, "The query can't be read: %v.", err)
	}
	for name, given := range values {
		i := slices.IndexFunc(r.query, func(p param) bool { return p.name == name })
		if i < 0 {
			return problemf(http.StatusBadRequest, "There is no parameter %q here; %s.", record.Text([]byte(name)), r.parameters())
		}
		p := &r.query[i]
		if len(given) > 1 && !p.many {
			return problemf(http.StatusBadRequest, "The parameter %s is given %d times.", p.name, len(given))
		}
		if len(given) > MaxGiven {
			return problemf(http.StatusBadRequest, "The parameter %s is given %d times; allowed are %d.", p.name, len(given), MaxGiven)
		}
		for _, v := range given {
			if err := p.check(v); err != nil {
				return problemf(http.StatusBadRequest, "%s=%s: %v.", p.name, record.Text([]byte(v)), err)
			}
		}
	}
	return nil
}

// MaxGiven is how often a parameter may be repeated.
const MaxGiven = 64

func (r *route) parameters() string {
	if len(r.query) == 0 {
		return "none is taken"
	}
	names := make([]string, len(r.query))
	for i := range r.query {
		names[i] = r.query[i].name
	}
	return "allowed: " + strings.Join(names, ", ")
}

func anyText(string) error { return nil }

// maxPID is the highest PID that a kernel may give out (include/linux/threads.h).
const maxPID = 1<<22 - 1

func parsePID(s string) (int32, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 1 || n > maxPID || s[0] == '+' || s[0] == '0' {
		return 0, fmt.Errorf("a PID is a number from 1 to %d", maxPID)
	}
	return int32(n), nil
}

// pidOf reads the PID in the path.
func pidOf(r *http.Request) (int32, error) {
	pid, err := parsePID(r.PathValue("pid"))
	if err != nil {
		return 0, problemf(http.StatusBadRequest, "%q: %v.", record.Text([]byte(r.PathValue("pid"))), err)
	}
	return pid, nil
}
