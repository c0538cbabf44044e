package server

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"rmagent/internal/config"
	"rmagent/internal/headroom"
	"rmagent/record"
)

// System is what does not change while the agent runs.
type System struct {
	Hostname     string   `json:"hostname"`
	BootID       string   `json:"boot_id"`
	OS           string   `json:"os"`
	Kernel       string   `json:"kernel"`
	Architecture string   `json:"architecture"`
	Cgroups      string   `json:"cgroups"` // v2, v1, hybrid or none
	Version      string   `json:"agent_version"`
	Commit       string   `json:"agent_commit"`
	PID          int      `json:"agent_pid"`
	Source       string   `json:"source"` // ebpf or procfs
	SourceDetail string   `json:"source_detail"`
	Hooks        []string `json:"hooks"` // that are attached
	InitialPID   bool     `json:"initial_pid_namespace"`
}

// system answers with the machine and the agent.
func (s *Server) system(w http.ResponseWriter, r *http.Request) error {
	v, err := s.detailed(r.Context())
	if err != nil {
		return err
	}
	d := v.Details
	var o object
	o.value("time", v.Time.UTC())
	o.value("interval_seconds", v.Interval.Seconds())
	o.value("system", s.System)
	host, agent := v.Host, d.Agent
	o.record(s, "host", &host)
	o.list(s, "gpus", len(v.GPUs), func(i int) record.Record { g := v.GPUs[i]; return &g })
	o.list(s, "cgroups", len(d.Cgroups), func(i int) record.Record { c := d.Cgroups[i]; return &c })
	o.list(s, "states", len(d.States), func(i int) record.Record { c := d.States[i]; return &c })
	o.record(s, "agent", &agent)
	return o.write(w)
}

// policy answers with what is configured, and what it says.
func (s *Server) policy(w http.ResponseWriter, r *http.Request) error {
	if s.Policy == nil {
		return missing(s, w, r)
	}
	v, err := s.detailed(r.Context())
	if err != nil {
		return err
	}
	var o object
	o.value("time", v.Time.UTC())
	o.value("configuration", s.Policy())
	o.list(s, "states", len(v.Details.States), func(i int) record.Record { c := v.Details.States[i]; return &c })
	if v.Prune == nil {
		o.value("prune", nil)
	} else {
		p := *v.Prune
		o.record(s, "prune", &p)
	}
	return o.write(w)
}

// maxBetween bounds the time between two readings of one question.
const maxBetween = 10 * time.Second

func between(s string) error {
	d, err := config.ParseDuration(s)
	if err != nil || d < 0 || d > maxBetween {
		return fmt.Errorf("allowed is a duration from 0 to %s", maxBetween)
	}
	return nil
}

// lately is what takes the place of a duration for rates since the last question.
const lately = "last"

func betweenOrLast(s string) error {
	if s == lately || between(s) == nil {
		return nil
	}
	return fmt.Errorf("%w, or %s", between(s), lately)
}

func (s *Server) headroom(w http.ResponseWriter, r *http.Request) error {
	if s.Headroom == nil {
		return missing(s, w, r)
	}
	pid, err := pidOf(r)
	if err != nil {
		return err
	}
	var h record.Headroom
	if text := r.URL.Query().Get("for"); text == lately {
		h, err = s.Headroom.Follow(r.Context(), pid)
	} else {
		h, err = s.Headroom.Process(r.Context(), pid, betweenOf(text))
	}
	switch {
	case errors.Is(err, headroom.ErrNoProcess):
		return noProcess(pid)
	case err != nil && r.Context().Err() != nil:
		return tooMany()
	case err != nil:
		return err
	}
	return writeJSON(w, h)
}

// betweenOf reads what between has checked.
func betweenOf(text string) time.Duration {
	d, _ := config.ParseDuration(text) // none: 0
	return d
}

func tooMany() error {
	return problemf(http.StatusServiceUnavailable, "Too many questions of this kind are waiting.")
}

// nearest answers with who is nearest to a limit.
func (s *Server) nearest(w http.ResponseWriter, r *http.Request) error {
	if s.Headroom == nil {
		return missing(s, w, r)
	}
	v, err := s.view()
	if err != nil {
		return err
	}
	q := r.URL.Query()
	d := betweenOf(q.Get("for"))
	if d > 0 && d+2*v.Interval > answerTime {
		return problemf(http.StatusServiceUnavailable, "The agent reads every %s: two of its readings can't be had within %s.", v.Interval, answerTime)
	}
	most, _ := parseLimit(q.Get("limit")) // none: 0, all
	list, err := s.Headroom.Nearest(r.Context(), filterOf(r), d, most)
	if err != nil && r.Context().Err() != nil {
		return tooMany()
	}
	if err != nil {
		return err
	}
	return writeJSON(w, list)
}

// Trouble is something that the agent can't do, and why.
type Trouble struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Health is what /healthz answers.
type Health struct {
	Status             string    `json:"status"` // ok, degraded: something is lost, or stalled: there are no readings
	Source             string    `json:"source"`
	LastReadingSeconds num       `json:"last_reading_seconds"` // how long ago
	IntervalSeconds    num       `json:"interval_seconds"`
	Trouble            []Trouble `json:"trouble"`
}

// stallTime is how long readings may stay out at least before that is trouble.
const stallTime = 10 * time.Second

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error {
	h := Health{Status: "ok", Source: s.System.Source, Trouble: []Trouble{}}
	if s.Health != nil {
		h.Trouble = append(h.Trouble, s.Health()...)
	}
	if len(h.Trouble) > 0 {
		h.Status = "degraded"
	}
	status := http.StatusOK
	v := s.Views.Latest()
	if v == nil {
		h.Status, status = "stalled", http.StatusServiceUnavailable
		h.Trouble = append(h.Trouble, Trouble{"readings", "the machine was not read yet"})
	} else {
		age := time.Since(v.Time)
		h.LastReadingSeconds, h.IntervalSeconds = record.Some(age.Seconds()), record.Some(v.Interval.Seconds())
		if age > max(stallTime, 5*v.Interval) {
			h.Status, status = "stalled", http.StatusServiceUnavailable
			h.Trouble = append(h.Trouble, Trouble{"readings", "the last one is older than five intervals"})
		}
	}
	return writeStatus(w, status, h)
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) error {
	if _, err := s.view(); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	if s.Metrics == nil {
		return missing(s, w, r)
	}
	s.Metrics(callerOf(r.Context()).private).ServeHTTP(w, r)
	return nil
}
