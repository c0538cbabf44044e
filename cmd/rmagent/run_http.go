package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/prometheus/exporter-toolkit/web"
	"go.uber.org/zap"

	"rmagent/internal/agent"
	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/internal/history"
	"rmagent/internal/metrics"
	httpserver "rmagent/internal/server"
	"rmagent/record"
)

// front is where the agent is asked.
type front struct {
	views    *engine.Views
	bus      *httpserver.Bus
	server   *httpserver.Server // nil: it was not opened
	doors    sync.WaitGroup
	headroom *headroomDesk
	history  *history.Store
	threads  *threads
}

func newFront(t *threads) *front {
	return &front{views: engine.NewViews(), bus: httpserver.NewBus(), headroom: newHeadroomDesk(), threads: t}
}

// open opens the agent's doors.
func (f *front) open(ctx context.Context, a *agent.Agent, jobs *jobServer) error {
	l, log := a.Config, a.Log
	private, err := checkWebConfig(l)
	if err != nil {
		return err
	}
	unix, tcp, err := listen(l, log)
	if err != nil {
		return err
	}
	about := a.About()
	f.headroom.gpus, f.headroom.views = a.GPUs, f.views
	f.server = httpserver.New(httpserver.Options{
		Views:    f.views,
		Events:   f.bus,
		Host:     about.Facts.Host,
		BootID:   about.Facts.BootID,
		System:   systemOf(&about),
		Health:   func() []httpserver.Trouble { return troublesOf(a) },
		Headroom: f.headroom,
		Control:  &control{agent: a, history: f.history},
		Policy:   func() any { return a.InForce().Values() },
		Metrics:  metrics.New(metrics.Options{Views: f.views, Version: version, Source: about.Source}).Handler,
		Jobs:     jobs.running(),
		Asked:    func() { f.threads.asked(ctx) },
		Log:      log,
	})
	f.serve(func() error { return f.server.ServeUnix(unix) }, log)
	for _, door := range tcp {
		if !httpserver.IsLoopback(door) && !private {
			log.Warn("listening", zap.Stringer("address", door.Addr()), zap.String("note", "whoever reaches this address can read numbers of this host"))
		}
		f.serve(func() error { return f.server.ServeTCP(door, l.WebConfigFile) }, log)
	}
	go notifyWhileReading(ctx, f.views, log)
	return nil
}

// serve runs a door beside.
func (f *front) serve(door func() error, log *zap.Logger) {
	f.doors.Go(func() {
		if err := door(); err != nil {
			log.Error("door_closed", zap.Error(err))
		}
	})
}

// close closes the doors.
func (f *front) close(ctx context.Context) error {
	if f.server == nil {
		return nil
	}
	err := f.server.Close(ctx)
	f.doors.Wait()
	return errors.Join(err, f.headroom.close())
}

// checkWebConfig reads the web configuration once, so that a mistake ends the start.
// It tells whether the TCP door is private.
func checkWebConfig(l *config.Loaded) (private bool, err error) {
	if l.WebConfigFile == "" {
		return false, nil
	}
	if err := web.Validate(l.WebConfigFile); err != nil {
		return false, cmdline.Usagef("web_config_file %s: %v", l.WebConfigFile, err)
	}
	return httpserver.Private(l.WebConfigFile)
}

// listen opens the sockets: those that systemd passed, or those that are configured.
// Where the default TCP address is taken, there is no TCP door: a second agent for a
// test must not need to be told.
func listen(l *config.Loaded, log *zap.Logger) (unix net.Listener, tcp []net.Listener, err error) {
	unix, tcp, err = passedSockets()
	if err != nil {
		return nil, nil, fmt.Errorf("sockets passed by systemd: %w", err)
	}
	if unix == nil {
		if unix, err = httpserver.ListenUnix(cmdline.SocketPath(l), l.SocketGroup); err != nil {
			return nil, nil, err
		}
	}
	if len(tcp) > 0 || l.Listen == "" {
		return unix, tcp, nil
	}
	door, err := httpserver.ListenTCP(l.Listen)
	switch {
	case err == nil:
		return unix, []net.Listener{door}, nil
	case l.Origin("listen").Layer == config.LayerDefault:
		log.Warn("not_listening", zap.Error(err))
		return unix, nil, nil
	}
	return nil, nil, errors.Join(err, unix.Close())
}

// passedSockets are those that systemd opened (sd_listen_fds(3)): at most one unix socket,
// and any number of TCP's.
func passedSockets() (unix net.Listener, tcp []net.Listener, err error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, nil, err
	}
	for i, p := range passed {
		network := ""
		if p != nil {
			network = p.Addr().Network() // a datagram socket of the unix domain says unixgram
		}
		switch {
		case network != "tcp" && network != "unix":
			return nil, nil, fmt.Errorf("number %d of %d is none that one can connect to: rmagent serves stream sockets", i+1, len(passed))
		case network == "tcp":
			tcp = append(tcp, p)
		case unix != nil:
			return nil, nil, fmt.Errorf("%s and %s: rmagent serves one unix socket", unix.Addr(), p.Addr())
		default:
			unix = p
		}
	}
	return unix, tcp, nil
}

// systemOf is what does not change while the agent runs.
func systemOf(a *agent.About) httpserver.System {
	return httpserver.System{
		Hostname:     a.Facts.Host,
		BootID:       a.Facts.BootID,
		OS:           operatingSystem(),
		Kernel:       agent.KernelRelease(),
		Architecture: runtime.GOARCH,
		Cgroups:      a.Cgroups,
		Version:      version,
		Commit:       commit,
		PID:          os.Getpid(),
		Source:       a.Source,
		SourceDetail: a.SourceDetail,
		Hooks:        a.Hooks,
		InitialPID:   a.Facts.InitialPID,
	}
}

func troublesOf(a *agent.Agent) []httpserver.Trouble {
	var list []httpserver.Trouble
	for _, t := range a.Troubles() {
		list = append(list, httpserver.Trouble(t))
	}
	return list
}

// operatingSystem is the distribution's name, empty where it has none (os-release(5)).
func operatingSystem() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return record.Text([]byte(strings.Trim(strings.TrimSpace(name), `"'`)))
		}
	}
	return ""
}
