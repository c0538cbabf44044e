package main

import (
	"errors"
	"sync/atomic"

	"go.uber.org/zap"

	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/gpu"
	"rmagent/internal/job"
	"rmagent/internal/job/cards"
	"rmagent/internal/job/sock"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
	"rmagent/internal/source"
	"rmagent/record"
)

// jobServer measures jobs for whoever asks.
type jobServer struct {
	jobs   *loader.Jobs
	lock   *instanceLock
	server atomic.Pointer[sock.Server] // nil: none are served
}

// open begins to serve jobs, where eBPF may be used. Nothing is attached before somebody
// has a job.
func (s *jobServer) open(l *config.Loaded, client *gpu.Client, log *zap.Logger) error {
	if l.Source == string(source.Procfs) {
		return nil
	}
	path := cmdline.JobsSocket(cmdline.SocketPath(l))
	lock, err := lockInstance(path)
	if held := (*heldError)(nil); errors.As(err, &held) { // an agent on another socket beside it
		log.Warn("jobs_unavailable", zap.Error(err), zap.String("advice", "choose a --socket in another directory"))
		return nil
	}
	if err != nil {
		return err
	}
	jobs, err := loader.OpenJobs(sock.MaxJobs)
	if err != nil {
		err = errors.Join(err, lock.release())
		if l.Source == string(source.EBPF) {
			return err
		}
		log.Warn("jobs_unavailable", zap.Error(err))
		return nil
	}
	var gpus job.GPUs
	if client != nil {
		gpus = cards.Agents{Client: client}
	}
	server, err := sock.Serve(path, jobs, gpus)
	if err != nil {
		return errors.Join(err, jobs.Close(), lock.release())
	}
	s.jobs, s.lock = jobs, lock
	s.server.Store(server)
	return nil
}

// running tells of the jobs that are measured now; nil where none can be.
func (s *jobServer) running() func() []record.RunningJob {
	server := s.server.Load()
	if server == nil {
		return nil
	}
	return server.Running
}

// Jobs tells the engine of the jobs that run.
func (s *jobServer) Jobs(dst []sample.Job) ([]sample.Job, error) {
	server := s.server.Load()
	if server == nil {
		return dst, nil
	}
	return server.Jobs(dst)
}

// close ends every job.
func (s *jobServer) close() error {
	server := s.server.Load()
	if server == nil {
		return nil
	}
	return errors.Join(server.Close(), s.jobs.Close(), s.lock.release())
}
