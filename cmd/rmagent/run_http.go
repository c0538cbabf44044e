package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/prometheus/exporter-toolkit/web"
	"go.uber.org/zap"

	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/internal/headroom"
	"rmagent/internal/loader"
	"rmagent/internal/metrics"
	"rmagent/internal/sample"
	httpserver "rmagent/internal/server"
	"rmagent/internal/sink"
	"rmagent/record"
)

// front is where the agent is asked.
type front struct {
	server   *httpserver.Server // nil: it was not opened
	doors    sync.WaitGroup
	headroom *headroomDesk
}

// openFront opens the agent's doors, and has the engine publish what is asked for
// there.
func (a *agent) openFront(ctx context.Context, o *engine.Options) error {
	l, log := a.loaded, a.log.Logger()
	private, err := checkWebConfig(l)
	if err != nil {
		return err
	}
	unix, tcp, err := listen(l, log)
	if err != nil {
		return err
	}
	bus := httpserver.NewBus(a.parts.facts.Host, a.parts.facts.BootID)
	o.Views = engine.NewViews()
	o.Sink = &announcer{sink: o.Sink, bus: bus}
	f := &a.front
	f.headroom = &headroomDesk{turn: make(chan struct{}, 1), gpus: o.GPU}
	f.server = httpserver.New(httpserver.Options{
		Views:    o.Views,
		Events:   bus,
		Host:     a.parts.facts.Host,
		BootID:   a.parts.facts.BootID,
		System:   a.system(),
		Health:   a.trouble,
		Headroom: f.headroom.ask,
		Policy:   func() any { return l.Values() },
		Metrics:  metrics.New(metrics.Options{Views: o.Views, Version: version, Source: string(o.Source)}).Handler,
		Log:      log,
	})
	f.serve(func() error { return f.server.ServeUnix(unix) }, log)
	for _, door := range tcp {
		if !httpserver.IsLoopback(door) && !private {
			log.Warn("listening", zap.Stringer("address", door.Addr()), zap.String("note", "whoever reaches this address can read numbers of this host"))
		}
		f.serve(func() error { return f.server.ServeTCP(door, l.WebConfigFile) }, log)
	}
	go notifyWhileReading(ctx, o.Views, log)
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
		return false, usagef("web_config_file %s: %v", l.WebConfigFile, err)
	}
	return httpserver.Private(l.WebConfigFile)
}

// listen opens the sockets: those that systemd passed, or those that are configured.
// Where the default TCP address is taken, there is no TCP door: a second agent for a
// test must not need to be told.
func listen(l *config.Loaded, log *zap.Logger) (unix net.Listener, tcp []net.Listener, err error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, nil, fmt.Errorf("sockets passed by systemd: %w", err)
	}
	for _, p := range passed {
		if _, ok := p.(*net.UnixListener); ok && unix == nil {
			unix = p
		} else if p != nil {
			tcp = append(tcp, p)
		}
	}
	if unix == nil {
		if unix, err = httpserver.ListenUnix(socketPath(l), l.SocketGroup); err != nil {
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

// system is what does not change while the agent runs.
func (a *agent) system() httpserver.System {
	s := httpserver.System{
		Hostname:     a.parts.facts.Host,
		BootID:       a.parts.facts.BootID,
		OS:           operatingSystem(),
		Kernel:       kernelRelease(),
		Architecture: runtime.GOARCH,
		Cgroups:      a.parts.cgroups.Mode(),
		Version:      version,
		Commit:       commit,
		PID:          os.Getpid(),
		Source:       string(a.parts.source.Name),
		SourceDetail: a.parts.source.Detail,
		Hooks:        []string{},
		InitialPID:   a.parts.facts.InitialPID,
	}
	for _, h := range loader.Hooks {
		if a.events != nil && a.events.Attached(h.Name) {
			s.Hooks = append(s.Hooks, h.Name)
		}
	}
	return s
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

// trouble is what this agent can't do, and why.
func (a *agent) trouble() []httpserver.Trouble {
	var list []httpserver.Trouble
	if lost := a.parts.source.Lost; lost != nil {
		list = append(list, httpserver.Trouble{What: "source ebpf", Why: lost.Error()})
		caps := a.parts.source.Capabilities()
		for f := range sample.NumFields {
			if caps[f].Level == sample.Absent {
				list = append(list, httpserver.Trouble{What: f.String(), Why: caps[f].Why})
			}
		}
	}
	if a.eventsErr != nil {
		list = append(list, httpserver.Trouble{What: "events", Why: a.eventsErr.Error()})
	}
	if a.events != nil {
		refused := a.events.Refused()
		for _, hook := range slices.Sorted(maps.Keys(refused)) {
			list = append(list, httpserver.Trouble{What: "hook " + hook, Why: refused[hook].Error()})
		}
	}
	if !a.parts.facts.InitialPID {
		list = append(list, httpserver.Trouble{What: "other PID namespaces", Why: "the agent runs in one of its own and sees only its processes"})
	}
	return list
}

// announcer is a sink that also tells those who listen.
type announcer struct {
	sink engine.Sink // nil: nothing is written
	bus  *httpserver.Bus
	seq  uint64 // where nothing is written
}

func (a *announcer) Write(r record.Record) error {
	var err error
	if a.sink != nil {
		err = a.sink.Write(r)
	} else {
		a.seq++
		r.Head().Seq = a.seq
	}
	a.bus.Publish(r)
	return err
}

func (a *announcer) Flush() error {
	if a.sink == nil {
		return nil
	}
	return a.sink.Flush()
}

func (a *announcer) Counters() sink.Counters {
	if a.sink == nil {
		return sink.Counters{}
	}
	return a.sink.Counters()
}

// headroomDesk answers questions for headroom, one at a time: each looks at one
// process, and at the names of all others of its user.
type headroomDesk struct {
	turn   chan struct{}
	reader *headroom.Reader // opened by the first who asks
	gpus   engine.GPUReader // nil: none
}

func (d *headroomDesk) ask(ctx context.Context, pid int32, between time.Duration) (h record.Headroom, err error) {
	before, err := d.read(ctx, pid)
	if err != nil || between == 0 {
		return headroom.Evaluate(nil, before), err
	}
	if err := pause(ctx, between); err != nil {
		return h, err
	}
	now, err := d.read(ctx, pid)
	if err != nil {
		return h, err
	}
	return headroom.Evaluate(before, now), nil
}

func (d *headroomDesk) read(ctx context.Context, pid int32) (*headroom.Facts, error) {
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d.reader == nil {
		r, err := headroom.Open()
		if err != nil {
			return nil, err
		}
		d.reader = r
	}
	f, err := d.reader.Read(ctx, pid, headroom.Full)
	if err == nil && d.gpus != nil {
		f.GPUs = headroom.GPUsOf(d.gpus.Poll(), f.ID)
	}
	return f, err
}

func (d *headroomDesk) close() error {
	d.turn <- struct{}{}
	if d.reader == nil {
		return nil
	}
	return d.reader.Close()
}
