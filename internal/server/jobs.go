package server

import (
	"net/http"

	"rmagent/record"
)

// RunningJobs is the answer of /v1/jobs.
type RunningJobs struct {
	Jobs []record.RunningJob `json:"jobs"`
}

// jobs answers with the jobs that are measured now. As with processes, how one was
// called is for its own user.
func (s *Server) jobs(w http.ResponseWriter, r *http.Request) error {
	if s.Jobs == nil {
		return missing(s, w, r)
	}
	list := s.Jobs()
	c := callerOf(r.Context())
	for i := range list {
		if !c.mayRead(list[i].UID, true) {
			list[i].Command = record.Opt[string]{}
		}
	}
	return writeJSON(w, RunningJobs{list})
}
