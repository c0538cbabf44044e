package main

import (
	"errors"
	"io"
	"time"

	"go.uber.org/zap"

	"rmagent/internal/config"
	"rmagent/internal/gpu"
	"rmagent/internal/hostfs"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
	"rmagent/internal/source"
)

// parts are what a command reads the machine with.
type parts struct {
	source  *source.Source
	facts   hostfs.Facts
	host    *hostfs.HostReader
	cgroups *hostfs.CgroupReader
	who     *hostfs.Identifier
	gpu     *gpu.Client // nil: not watched

	closers []io.Closer // in the order of opening
}

// open opens all parts, or none. It logs once what this machine can't tell. events
// may be nil, and stay the caller's.
func open(l *config.Loaded, events *loader.Events, log *zap.Logger) (_ *parts, err error) {
	p := &parts{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.source, err = source.Open(source.Choice(l.Source), events); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.source)
	if p.facts, err = hostfs.ReadFacts(hostfs.Options{}); err != nil {
		return nil, err
	}
	p.host = hostfs.OpenHost(hostfs.Options{})
	p.closers = append(p.closers, p.host)
	if p.cgroups, err = hostfs.OpenCgroups(hostfs.Options{}); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.cgroups)
	if p.who, err = hostfs.NewIdentifier(hostfs.Options{}, p.cgroups, l.WithCmdline); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.who)
	p.tell(log)
	return p, nil
}

// watchGPUs begins to watch the GPUs too.
func (p *parts) watchGPUs(l *config.Loaded, log *zap.Logger) {
	if p.gpu = openGPU(l, p.facts, log); p.gpu != nil {
		p.closers = append(p.closers, p.gpu)
	}
}

// openGPU begins to watch the GPUs, unless that is switched off. It finds out in
// the background whether there are any.
func openGPU(l *config.Loaded, facts hostfs.Facts, log *zap.Logger) *gpu.Client {
	if l.GPU == "off" {
		return nil
	}
	return gpu.Open(gpu.Options{Processes: facts.InitialPID, Log: log})
}

// close closes the parts in the reverse order of their opening.
func (p *parts) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i].Close())
	}
	return errors.Join(errs...)
}

// tell logs what is lost here, and why.
func (p *parts) tell(log *zap.Logger) {
	if p.source.Lost != nil {
		log.Warn("source_fallback",
			zap.String("source", string(p.source.Name)),
			zap.Strings("lost", absent(p.source)),
			zap.NamedError("why", p.source.Lost))
	}
	if !p.facts.InitialPID {
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

// now is the time of records.
func now() time.Time { return time.Now().UTC() }
