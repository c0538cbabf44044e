package main

import (
	"errors"
	"path/filepath"

	"go.uber.org/zap"

	"rmagent/internal/config"
	"rmagent/internal/gpu"
	"rmagent/internal/job"
	"rmagent/internal/job/cards"
	"rmagent/internal/job/sock"
	"rmagent/internal/loader"
	"rmagent/internal/source"
)

// jobsSocket is where jobs are registered, beside the agent's own socket.
func jobsSocket(socket string) string { return filepath.Join(filepath.Dir(socket), "jobs.sock") }

// jobServer measures jobs for whoever asks.
type jobServer struct {
	jobs   *loader.Jobs
	server *sock.Server
}

// openJobs begins to serve jobs, where eBPF may be used. Nothing is attached before
// somebody has a job.
func openJobs(l *config.Loaded, client *gpu.Client, log *zap.Logger) (*jobServer, error) {
	if l.Source == string(source.Procfs) {
		return nil, nil
	}
	jobs, err := loader.OpenJobs(sock.MaxJobs)
	if err != nil {
		if l.Source == string(source.EBPF) {
			return nil, err
		}
		log.Warn("jobs_unavailable", zap.Error(err))
		return nil, nil
	}
	var gpus job.GPUs
	if client != nil {
		gpus = cards.Agents{Client: client}
	}
	server, err := sock.Serve(jobsSocket(socketPath(l)), jobs, gpus)
	if err != nil {
		return nil, errors.Join(err, jobs.Close())
	}
	return &jobServer{jobs, server}, nil
}

// close ends every job; nil has none.
func (s *jobServer) close() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.server.Close(), s.jobs.Close())
}
