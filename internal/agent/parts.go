package agent

import (
	"errors"
	"io"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"rmagent/internal/config"
	"rmagent/internal/gpu"
	"rmagent/internal/hostfs"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
	"rmagent/internal/source"
)

// Parts are what the machine is read with.
type Parts struct {
	Source  *source.Source
	Facts   hostfs.Facts
	Host    *hostfs.HostReader
	Cgroups *hostfs.CgroupReader
	Who     *hostfs.Identifier
	GPU     *gpu.Client // nil: not watched

	closers []io.Closer // in the order of opening
}

// OpenParts opens all parts, or none. It logs once what this machine can't tell. events
// may be nil, and stay the caller's.
func OpenParts(l *config.Loaded, events *loader.Events, log *zap.Logger) (_ *Parts, err error) {
	p := &Parts{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if p.Source, err = source.Open(source.Choice(l.Source), events); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.Source)
	if p.Facts, err = hostfs.ReadFacts(hostfs.Options{}); err != nil {
		return nil, err
	}
	p.Host = hostfs.OpenHost(hostfs.Options{})
	p.closers = append(p.closers, p.Host)
	if p.Cgroups, err = hostfs.OpenCgroups(hostfs.Options{}); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.Cgroups)
	if p.Who, err = hostfs.NewIdentifier(hostfs.Options{}, p.Cgroups, l.WithCmdline); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.Who)
	p.tell(log)
	return p, nil
}

// WatchGPUs begins to watch the GPUs too.
func (p *Parts) WatchGPUs(l *config.Loaded, log *zap.Logger) {
	if p.GPU = OpenGPU(l, p.Facts, log); p.GPU != nil {
		p.closers = append(p.closers, p.GPU)
	}
}

// OpenGPU begins to watch the GPUs, unless that is switched off. It finds out in
// the background whether there are any.
func OpenGPU(l *config.Loaded, facts hostfs.Facts, log *zap.Logger) *gpu.Client {
	if l.GPU == "off" {
		return nil
	}
	return gpu.Open(gpu.Options{Processes: facts.InitialPID, Log: slog.New(zapslog.NewHandler(log.Core()))})
}

// Close closes the parts in the reverse order of their opening.
func (p *Parts) Close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i].Close())
	}
	return errors.Join(errs...)
}

// tell logs what is lost here, and why.
func (p *Parts) tell(log *zap.Logger) {
	if p.Source.Lost != nil {
		log.Warn("source_fallback",
			zap.String("source", string(p.Source.Name)),
			zap.Strings("lost", absent(p.Source)),
			zap.NamedError("why", p.Source.Lost))
	}
	if !p.Facts.InitialPID {
		log.Warn("pid_namespace",
			zap.String("seen", "only the processes of this PID namespace"),
			zap.String("advice", "run the agent in the initial PID namespace (docker: --pid=host, Kubernetes: hostPID: true)"))
	}
}

// absent names the fields that a reader does not know.
func absent(r sample.Reader) []string {
	var names []string
	caps := r.Capabilities()
	for f := range sample.NumFields {
		if caps[f].Level == sample.Absent {
			names = append(names, f.String())
		}
	}
	return names
}
