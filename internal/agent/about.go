package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"rmagent/internal/gpu"

	"rmagent/internal/hostfs"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
)

// About is what does not change while an agent runs.
type About struct {
	Facts        hostfs.Facts
	Cgroups      string // v2, v1, hybrid or none
	Source       string // ebpf or procfs
	SourceDetail string
	Hooks        []string // that are attached
}

// About tells what the agent reads, and how.
func (a *Agent) About() About {
	b := About{
		Facts:        a.parts.Facts,
		Cgroups:      a.parts.Cgroups.Mode(),
		Source:       string(a.parts.Source.Name),
		SourceDetail: a.parts.Source.Detail,
		Hooks:        []string{},
	}
	for _, h := range loader.Hooks {
		if a.events != nil && a.events.Attached(h.Name) {
			b.Hooks = append(b.Hooks, h.Name)
		}
	}
	return b
}

// GPUs returns the latest reading of the graphics cards, nil where there is none. It
// never waits.
func (a *Agent) GPUs() *sample.GPUs {
	if a.parts.GPU == nil {
		return nil
	}
	return a.parts.GPU.Poll()
}

// GPUClient is who reads the graphics cards; nil where that is switched off. It stays the
// agent's.
func (a *Agent) GPUClient() *gpu.Client { return a.parts.GPU }

// Trouble is something that the agent can't do here, or that went wrong, and why.
type Trouble struct{ What, Why string }

// Troubles tells what is lost now.
func (a *Agent) Troubles() []Trouble {
	var list []Trouble
	if lost := a.parts.Source.Lost; lost != nil {
		list = append(list, Trouble{"source ebpf", lost.Error()})
		caps := a.parts.Source.Capabilities()
		for f := range sample.NumFields {
			if caps[f].Level == sample.Absent {
				list = append(list, Trouble{f.String(), caps[f].Why})
			}
		}
	}
	if a.eventsErr != nil {
		list = append(list, Trouble{"events", a.eventsErr.Error()})
	}
	if a.events != nil {
		refused := a.events.Refused()
		for _, hook := range slices.Sorted(maps.Keys(refused)) {
			list = append(list, Trouble{"hook " + hook, refused[hook].Error()})
		}
	}
	if !a.parts.Facts.InitialPID {
		list = append(list, Trouble{"other PID namespaces", "the agent runs in one of its own and sees only its processes"})
	}
	if o := a.engine.Outage(); o != nil {
		list = append(list, Trouble{"records", fmt.Sprintf("%d lost since %s: %s", o.Lost, o.Since.UTC().Format(time.RFC3339), o.Cause)})
	}
	status := a.ConfigStatus()
	if status.Refused != "" {
		list = append(list, Trouble{"configuration", "the new one is refused, the one from before is in force: " + status.Refused})
	}
	if len(status.Waiting) > 0 {
		list = append(list, Trouble{"configuration", "takes effect at the next start: " + strings.Join(status.Waiting, ", ")})
	}
	return list
}
