package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"rmagent/internal/agent"
	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/engine"
	"rmagent/internal/gpu"
	"rmagent/internal/headroom"
	"rmagent/internal/hostfs"
	"rmagent/internal/sample"
	"rmagent/record"
)

func headroomCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "headroom",
		Usage: "say which limit a process hits first, and what happens then",
		Description: "With --pid: every limit that applies to the process, what is left, and how to raise it.\n" +
			"Without: the processes that are nearest to a limit of their own, their user's or their\n" +
			"cgroups'. Filesystems, mappings, inotify and GPUs are looked at with --pid only.",
		Flags: cmdline.Flags(append(filterFlags(),
			&cli.DurationFlag{Name: "for", Value: time.Second, Usage: "`TIME` between the two readings that rates come from; 0: one reading, no rates"},
			&cli.IntFlag{Name: "top", Value: 15, Usage: "list so many processes; 0: all"},
			&cli.BoolFlag{Name: "all", Usage: "show limits that are unlimited or hard, too"},
			&cli.BoolFlag{Name: "json", Usage: "JSON: one object, or with several --pid one a line"},
			&cli.BoolFlag{Name: "local", Usage: "read here, never ask a running agent"})...),
		Action: showHeadroom,
	})
}

func showHeadroom(c *cli.Context) error {
	f, err := filter(c)
	if err != nil {
		return err
	}
	if d := c.Duration("for"); d < 0 || d > time.Hour {
		return cmdline.Usagef("--for %s: allowed are 0 to 1h", d)
	}
	if n := c.Int("top"); n < 0 {
		return cmdline.Usagef("--top %d: allowed are 0 (all) and more", n)
	}
	l, err := cmdline.LoadConfig(c)
	if err != nil {
		return err
	}
	if k := presentAgent(c, l); k != nil {
		if done, err := headroomOfAgent(c, k, f); done || err != nil {
			return err
		}
	}
	r, err := headroom.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if f.PIDs != nil {
		return headroomOfPIDs(c, l, r, f)
	}
	return headroomOfHost(c, l, r, f)
}

// pause waits between two readings.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// headroomOfPIDs shows each process that was asked for. One that is gone is named,
// and the others are shown.
func headroomOfPIDs(c *cli.Context, l *config.Loaded, r *headroom.Reader, f engine.Filter) error {
	if f.HasPatterns() {
		return cmdline.Usagef("headroom: --pid says which processes; --name, --cgroup and --unit choose from the list without it")
	}
	gpus, err := openHeadroomGPUs(l)
	if err != nil {
		return err
	}
	defer gpus.close()
	before := map[int32]*headroom.Facts{}
	if d := c.Duration("for"); d > 0 {
		gpus.read(c.Context)
		for _, pid := range f.PIDs {
			facts, err := r.Read(c.Context, pid, headroom.Full)
			if err == nil {
				facts.GPUs = gpus.of(facts.ID)
				before[pid] = facts
			} else if !errors.Is(err, headroom.ErrNoProcess) {
				return err
			}
		}
		if len(before) > 0 {
			if err := pause(c.Context, d); err != nil {
				return err
			}
		}
	}
	gpus.read(c.Context)
	var gone []int32
	shown := 0
	for _, pid := range f.PIDs {
		facts, err := r.Read(c.Context, pid, headroom.Full)
		switch {
		case errors.Is(err, headroom.ErrNoProcess):
			gone = append(gone, pid)
			continue
		case err != nil:
			return err
		}
		facts.GPUs = gpus.of(facts.ID)
		h := headroom.Evaluate(before[pid], facts)
		if err := printHeadroom(c, &h, shown, len(f.PIDs)); err != nil {
			return err
		}
		shown++
	}
	return noProcesses(gone)
}

// headroomGPUs reads the cards before each reading of processes.
type headroomGPUs struct {
	client  *gpu.Client // nil: switched off
	reading *sample.GPUs
}

func openHeadroomGPUs(l *config.Loaded) (*headroomGPUs, error) {
	facts, err := hostfs.ReadFacts(hostfs.Options{})
	if err != nil {
		return nil, err
	}
	return &headroomGPUs{client: agent.OpenGPU(l, facts, zap.NewNop())}, nil
}

func (g *headroomGPUs) close() {
	if g.client != nil {
		g.client.Close()
	}
}

func (g *headroomGPUs) read(ctx context.Context) {
	if g.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, gpuTime)
	defer cancel()
	g.reading, _ = g.client.Read(ctx)
}

func (g *headroomGPUs) of(id sample.ID) []headroom.GPU { return headroom.GPUsOf(g.reading, id) }

func printJSON(w io.Writer, v any, pretty bool) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if pretty {
		e.SetIndent("", "  ")
	}
	return e.Encode(v)
}

// headroomOfHost lists the processes nearest to a limit.
func headroomOfHost(c *cli.Context, loaded *config.Loaded, r *headroom.Reader, f engine.Filter) error {
	l, err := openLocal(c, loaded)
	if err != nil {
		return err
	}
	defer l.close()
	gpus := &headroomGPUs{client: agent.OpenGPU(l.config, l.parts.Facts, zap.NewNop())}
	defer gpus.close()
	s := surveyor{parts: l.parts, reader: r, gpus: gpus, filter: f, identities: map[sample.ID]*sample.Identity{}}
	var before *headroom.Survey
	if d := c.Duration("for"); d > 0 {
		if before, err = s.survey(c.Context); err != nil {
			return err
		}
		if err := pause(c.Context, d); err != nil {
			return err
		}
	}
	now, err := s.survey(c.Context)
	if err != nil {
		return err
	}
	list := headroom.Nearest(before, now, c.Int("top"))
	return printNearest(c, &list)
}

// surveyor takes surveys of the processes that a filter chooses.
type surveyor struct {
	parts      *agent.Parts
	reader     *headroom.Reader
	gpus       *headroomGPUs
	filter     engine.Filter
	identities map[sample.ID]*sample.Identity
	snapshot   sample.Snapshot
}

const surveyFields = sample.FieldSet(1<<sample.UID | 1<<sample.State | 1<<sample.CgroupID | 1<<sample.Threads |
	1<<sample.FDOpen | 1<<sample.FDLimit | 1<<sample.FDHardLimit | 1<<sample.Virtual | 1<<sample.CPU)

func (s *surveyor) survey(ctx context.Context) (*headroom.Survey, error) {
	s.gpus.read(ctx) // before the processes: whose PIDs it has are those that live
	if err := s.parts.Source.Read(ctx, sample.Scope{Fields: surveyFields}, &s.snapshot); err != nil {
		return nil, err
	}
	return s.reader.Survey(ctx, &s.snapshot, s.gpus.reading,
		func(p *sample.Process) bool { return s.filter.Match(p, s.who(p)) },
		func(p *sample.Process) string { return record.Text([]byte(s.who(p).Cgroup)) })
}

// who identifies a process, once.
func (s *surveyor) who(p *sample.Process) *sample.Identity {
	id := s.identities[p.ID]
	if id == nil {
		id = s.parts.Who.Identify(p)
		s.identities[p.ID] = id
	}
	return id
}
