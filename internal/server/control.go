package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"rmagent/internal/fdcheck"
	"rmagent/internal/headroom"
	"rmagent/internal/policy"
	"rmagent/record"
)

// Control is what can be changed while the agent runs, and what it remembers.
type Control interface {
	History(resource, target string, count int) (h record.History, ok bool)
	Stats() record.Stats
	ResetStats()
	// Set changes settings by their keys, all or none. An error says what is wrong.
	Set(settings map[string]string) error
	// Track sets limits of a process beside those that it has; Untrack takes all away
	// and tells whether there were any.
	Track(pid int32, change TrackedLimits) error
	Untrack(pid int32) (bool, error)
	// CheckFDs tells whether a process could open so many files more.
	CheckFDs(ctx context.Context, pid int32, q fdcheck.Request) (record.FDCheck, error)
}

var controlRoutes = []route{
	{method: "GET", path: "/v1/history/{resource}", private: true, handle: (*Server).history,
		summary: "The last readings of a resource: cpu, memory, fd, disk, network, pids, gpu, gpu_memory, pressure_*.",
		query: []param{
			{name: "count", usage: "at most so many; none: all, an hour at most", check: someNumber},
			{name: "target", usage: "of whom, as in state records; default: host", check: anyText},
		}},
	{method: "GET", path: "/v1/stats", private: true, summary: "Peaks, averages and events since the start or the last reset.", handle: (*Server).stats},
	{method: "DELETE", path: "/v1/stats", private: true, changes: true, summary: "Begin peaks, averages and events anew.", handle: (*Server).resetStats},
	{method: "PUT", path: "/v1/thresholds/{resource}", private: true, changes: true, body: ThresholdChange{}, handle: (*Server).putThreshold,
		summary: "Change the thresholds of a resource until the agent ends. What is left out stays."},
	{method: "PUT", path: "/v1/limits", private: true, changes: true, body: LimitsChange{}, handle: (*Server).putLimits,
		summary: "Change the maxima of the prune rule until the agent ends. What is left out stays."},
	{method: "PUT", path: "/v1/tracked/{pid}", private: true, changes: true, body: TrackedLimits{}, handle: (*Server).track,
		summary: "Set limits of a process. What is left out stays; 0 is no limit."},
	{method: "DELETE", path: "/v1/tracked/{pid}", private: true, changes: true, summary: "Take the limits of a process away.", handle: (*Server).untrack},
	{method: "POST", path: "/v1/fd/check", private: true, changes: true, body: FDRequest{}, handle: (*Server).checkFDs,
		summary: "Whether a process could safely open so many files more. Nothing is blocked or changed."},
	{method: "GET", path: "/v1/jobs", private: true, handle: (*Server).jobs,
		summary: "Jobs that the agent measures now, by the last reading of each. Commands are null but for root and the job's user."},
}

// readBody reads the one JSON object of a request. Fields that there are not are
// mistakes.
func readBody(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return err
		}
		return problemf(http.StatusBadRequest, "The body is not what is taken here: %s.", record.Text([]byte(strings.TrimPrefix(err.Error(), "json: "))))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return problemf(http.StatusBadRequest, "The body has more than one JSON object.")
	}
	return nil
}

// changed answers a change that was made.
func changed(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) history(w http.ResponseWriter, r *http.Request) error {
	if s.Control == nil {
		return missing(s, w, r)
	}
	count := 0
	if text := r.URL.Query().Get("count"); text != "" {
		count, _ = parseLimit(text) // it was checked
	}
	resource, target := r.PathValue("resource"), r.URL.Query().Get("target")
	h, ok := s.Control.History(resource, target, count)
	if !ok {
		of := ""
		if target != "" {
			of = fmt.Sprintf(" of target %q", record.Text([]byte(target)))
		}
		return problemf(http.StatusNotFound, "There is no history of %q%s; /v1/stats lists those that there are.", record.Text([]byte(resource)), of)
	}
	return writeJSON(w, h)
}

func (s *Server) stats(w http.ResponseWriter, r *http.Request) error {
	if s.Control == nil {
		return missing(s, w, r)
	}
	return writeJSON(w, s.Control.Stats())
}

func (s *Server) resetStats(w http.ResponseWriter, r *http.Request) error {
	if s.Control == nil {
		return missing(s, w, r)
	}
	s.Control.ResetStats()
	return changed(w)
}

// ThresholdChange is what PUT /v1/thresholds/{resource} takes.
type ThresholdChange struct {
	Info       record.Opt[float64] `json:"info,omitempty"` // shares of the limit
	Warning    record.Opt[float64] `json:"warning,omitempty"`
	Critical   record.Opt[float64] `json:"critical,omitempty"`
	Hysteresis record.Opt[float64] `json:"hysteresis,omitempty"`
	After      record.Opt[string]  `json:"after,omitempty"` // durations, such as 10s
	Hold       record.Opt[string]  `json:"hold,omitempty"`
}

func (s *Server) putThreshold(w http.ResponseWriter, r *http.Request) error {
	resource := r.PathValue("resource")
	if !slices.Contains(policy.Resources, policy.Resource(resource)) {
		return problemf(http.StatusNotFound, "Nothing judges %q; there are %v.", record.Text([]byte(resource)), policy.Resources)
	}
	var c ThresholdChange
	if err := readBody(r, &c); err != nil {
		return err
	}
	settings := map[string]string{}
	prefix := "thresholds." + resource + "."
	for name, o := range map[string]record.Opt[float64]{"info": c.Info, "warning": c.Warning, "critical": c.Critical, "hysteresis": c.Hysteresis} {
		setNumber(settings, prefix+name, o)
	}
	for name, o := range map[string]record.Opt[string]{"after": c.After, "hold": c.Hold} {
		if text, ok := o.Get(); ok {
			settings[prefix+name] = text
		}
	}
	return s.set(w, r, settings)
}

// LimitsChange is what PUT /v1/limits takes: the maxima of the prune rule, 0 for none.
type LimitsChange struct {
	MaxMemoryUsageMB   record.Opt[float64] `json:"max_memory_usage_mb,omitempty"`
	MaxCPUUsagePercent record.Opt[float64] `json:"max_cpu_usage_percent,omitempty"`
	MaxGPUUsagePercent record.Opt[float64] `json:"max_gpu_usage_percent,omitempty"`
	MaxNetworkUsage    record.Opt[float64] `json:"max_network_usage_bytes_per_second,omitempty"`
	TargetUtilization  record.Opt[float64] `json:"target_utilization,omitempty"`
}

func (s *Server) putLimits(w http.ResponseWriter, r *http.Request) error {
	var c LimitsChange
	if err := readBody(r, &c); err != nil {
		return err
	}
	settings := map[string]string{}
	for name, o := range map[string]record.Opt[float64]{
		"max_memory_usage_mb": c.MaxMemoryUsageMB, "max_cpu_usage_percent": c.MaxCPUUsagePercent, "max_gpu_usage_percent": c.MaxGPUUsagePercent,
		"max_network_usage_bytes_per_second": c.MaxNetworkUsage, "target_utilization": c.TargetUtilization,
	} {
		setNumber(settings, name, o)
	}
	return s.set(w, r, settings)
}

func setNumber(settings map[string]string, name string, o record.Opt[float64]) {
	if v, ok := o.Get(); ok {
		settings[name] = strconv.FormatFloat(v, 'f', -1, 64)
	}
}

// set changes settings. What the configuration refuses is the caller's mistake.
func (s *Server) set(w http.ResponseWriter, r *http.Request, settings map[string]string) error {
	if s.Control == nil {
		return missing(s, w, r)
	}
	if len(settings) == 0 {
		return problemf(http.StatusBadRequest, "The body changes nothing.")
	}
	if err := s.Control.Set(settings); err != nil {
		return problemf(http.StatusUnprocessableEntity, "Nothing was changed: %v.", err)
	}
	return changed(w)
}

// TrackedLimits is what PUT /v1/tracked/{pid} takes. Actions are names of actions of
// the configuration: HTTP can name one, never define one.
type TrackedLimits struct {
	MaxCPUPercent            record.Opt[float64] `json:"max_cpu_percent,omitempty"` // of one CPU
	MaxMemoryMB              record.Opt[float64] `json:"max_memory_mb,omitempty"`
	MaxFD                    record.Opt[float64] `json:"max_fd,omitempty"`
	MaxDiskBytesPerSecond    record.Opt[float64] `json:"max_disk_bytes_per_second,omitempty"`
	MaxNetworkBytesPerSecond record.Opt[float64] `json:"max_network_bytes_per_second,omitempty"`
	MaxGPUPercent            record.Opt[float64] `json:"max_gpu_percent,omitempty"`
	MaxGPUMemoryMB           record.Opt[float64] `json:"max_gpu_memory_mb,omitempty"`
	Actions                  []string            `json:"actions,omitempty"`
}

// ErrNotThere is a process that there is not.
var ErrNotThere = errors.New("no such process")

func (s *Server) track(w http.ResponseWriter, r *http.Request) error {
	if s.Control == nil {
		return missing(s, w, r)
	}
	pid, err := pidOf(r)
	if err != nil {
		return err
	}
	var l TrackedLimits
	if err := readBody(r, &l); err != nil {
		return err
	}
	switch err := s.Control.Track(pid, l); {
	case errors.Is(err, ErrNotThere):
		return noProcess(pid)
	case err != nil:
		return problemf(http.StatusUnprocessableEntity, "Nothing was changed: %v.", err)
	}
	return changed(w)
}

func (s *Server) untrack(w http.ResponseWriter, r *http.Request) error {
	if s.Control == nil {
		return missing(s, w, r)
	}
	pid, err := pidOf(r)
	if err != nil {
		return err
	}
	there, err := s.Control.Untrack(pid)
	if err != nil {
		return err
	}
	if !there {
		return problemf(http.StatusNotFound, "Process %d has no limits that were set here.", pid)
	}
	return changed(w)
}

// FDRequest is what POST /v1/fd/check takes.
type FDRequest struct {
	PID      int32               `json:"pid"`
	Files    uint64              `json:"files"`
	Sockets  uint64              `json:"sockets,omitempty"`
	Overhead record.Opt[uint64]  `json:"overhead,omitempty"` // default 10
	Margin   record.Opt[float64] `json:"margin,omitempty"`   // default 0.2
}

func (s *Server) checkFDs(w http.ResponseWriter, r *http.Request) error {
	if s.Control == nil {
		return missing(s, w, r)
	}
	var body FDRequest
	if err := readBody(r, &body); err != nil {
		return err
	}
	if body.PID < 1 || body.PID > maxPID {
		return problemf(http.StatusBadRequest, "pid: a PID is a number from 1 to %d.", maxPID)
	}
	q := fdcheck.NewRequest(body.Files)
	q.Sockets, q.Overhead, q.Margin = body.Sockets, body.Overhead.Or(q.Overhead), body.Margin.Or(q.Margin)
	if err := q.Validate(); err != nil {
		return problemf(http.StatusUnprocessableEntity, "%v.", err)
	}
	c, err := s.Control.CheckFDs(r.Context(), body.PID, q)
	switch {
	case errors.Is(err, headroom.ErrNoProcess):
		return noProcess(body.PID)
	case err != nil:
		return fmt.Errorf("check descriptors: %w", err)
	}
	return writeJSON(w, c)
}
