package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"rmagent/internal/agent"
	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/gpu"
	"rmagent/internal/hostfs"
	"rmagent/internal/loader"
	"rmagent/internal/sample"
	"rmagent/internal/source"
)

// diagnosis is what doctor finds; its JSON is doctor's --json.
type diagnosis struct {
	Kernel     string         `json:"kernel"`
	Source     string         `json:"source"` // ebpf, procfs; empty: none opens
	Detail     string         `json:"detail"`
	Why        string         `json:"why"` // why it is not eBPF
	PIDSpace   string         `json:"pid_namespace"`
	Cgroups    string         `json:"cgroups"`
	GPU        gpuFinding     `json:"gpu"`
	Privileges []finding      `json:"features"`
	Hooks      []hookFinding  `json:"hooks"`
	Fields     []fieldFinding `json:"fields"`
}

type finding struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Why  string `json:"why"`
}

// gpuFinding is what there is to know of the GPUs.
type gpuFinding struct {
	State   string    `json:"state"` // off, absent, failing, reading; looking: it did not answer
	Why     string    `json:"why"`
	Driver  string    `json:"driver"`
	Library string    `json:"library"`
	Helper  string    `json:"helper"` // the child's program
	Cards   []finding `json:"cards"`
}

type hookFinding struct {
	Name    string `json:"name"`
	Default bool   `json:"default"`
	OK      bool   `json:"ok"`
	Why     string `json:"why"`
	For     string `json:"for"`
	Kernel  string `json:"kernel"`
	Cost    string `json:"cost"`
}

type fieldFinding struct {
	Name  string `json:"name"`
	Level string `json:"level"`
	Why   string `json:"why"`
}

func doctorCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "doctor",
		Usage: "say what this kernel and these privileges allow, and what each hook costs",
		Flags: cmdline.Flags(&cli.BoolFlag{Name: "json", Usage: "one JSON object"}),
		Action: func(c *cli.Context) error {
			l, err := cmdline.LoadConfig(c)
			if err != nil {
				return err
			}
			d, err := diagnose(source.Choice(l.Source))
			if err != nil {
				return err
			}
			if d.GPU, err = examineGPUs(c.Context, l); err != nil {
				return err
			}
			if c.Bool("json") {
				e := json.NewEncoder(c.App.Writer)
				e.SetEscapeHTML(false)
				e.SetIndent("", "  ")
				return e.Encode(d)
			}
			return d.write(c.App.Writer)
		},
	})
}

func diagnose(choice source.Choice) (*diagnosis, error) {
	d := &diagnosis{Kernel: agent.KernelRelease(), PIDSpace: "initial: every process is seen"}
	facts, err := hostfs.ReadFacts(hostfs.Options{})
	if err != nil {
		return nil, err
	}
	if !facts.InitialPID {
		d.PIDSpace = "another than the initial one: only its own processes are seen"
	}
	cgroups, err := hostfs.OpenCgroups(hostfs.Options{})
	if err != nil {
		return nil, err
	}
	d.Cgroups = cgroups.Mode()
	if err := cgroups.Close(); err != nil {
		return nil, err
	}
	for _, f := range append(loader.Probe(), mapTypes()...) {
		d.Privileges = append(d.Privileges, finding(f))
	}
	if err := d.examineSource(choice); err != nil {
		return nil, err
	}
	d.examineHooks()
	return d, nil
}

// mapTypes tries those kinds of map out that are younger than what a scan needs.
func mapTypes() []loader.Feature {
	list := []loader.Feature{
		{Name: "task storage", Why: "no counts by process (needs 5.11)"},
		{Name: "ring buffer", Why: "no events (needs 5.8)"},
	}
	for i, kind := range []ebpf.MapType{ebpf.TaskStorage, ebpf.RingBuf} {
		f := &list[i]
		if err := features.HaveMapType(kind); err != nil {
			f.Why += ": " + err.Error()
		} else {
			f.OK, f.Why = true, ""
		}
	}
	return list
}

func (d *diagnosis) examineSource(choice source.Choice) error {
	s, err := source.Open(choice, nil)
	if err != nil {
		d.Why = why(err)
		return nil
	}
	d.Source, d.Detail, d.Why = string(s.Name), s.Detail, why(s.Lost)
	caps := s.Capabilities()
	for f := range sample.NumFields {
		d.Fields = append(d.Fields, fieldFinding{f.String(), caps[f].Level.String(), caps[f].Why})
	}
	if c := caps[sample.Threads]; c.Level != sample.Exact { // which everybody may read of whoever is seen
		d.PIDSpace = strings.Replace(d.PIDSpace, "every process is seen", c.Why, 1)
	}
	return s.Close()
}

// examineHooks attaches each hook for a moment: only that shows that it works.
func (d *diagnosis) examineHooks() {
	for _, h := range loader.Hooks {
		f := hookFinding{Name: h.Name, Default: h.Default, For: h.For, Kernel: h.Kernel, Cost: h.Cost}
		e, err := loader.OpenEvents(loader.EventOptions{Hooks: []string{h.Name}})
		if err == nil {
			err = e.Close()
		}
		f.OK, f.Why = err == nil, why(err)
		d.Hooks = append(d.Hooks, f)
	}
}

// examineGPUs reads the cards once, which tells whether they can be read.
func examineGPUs(ctx context.Context, l *config.Loaded) (gpuFinding, error) {
	facts, err := hostfs.ReadFacts(hostfs.Options{})
	if err != nil {
		return gpuFinding{}, err
	}
	client := agent.OpenGPU(l, facts, zap.NewNop())
	if client == nil {
		return gpuFinding{State: "off", Why: "gpu: off"}, nil
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, gpuTime)
	defer cancel()
	r, s := client.Read(ctx)
	f := gpuFinding{State: string(s.State), Why: s.Why, Driver: s.Driver, Library: s.Library, Helper: s.Helper}
	if r == nil {
		return f, nil
	}
	for i := range r.Devices {
		d := &r.Devices[i]
		c := finding{Name: fmt.Sprintf("GPU %d %s %s", d.Index, d.Name, d.UUID), OK: s.Failures[d.Index] == "", Why: s.Failures[d.Index]}
		if d.Instances != nil {
			c.Name += fmt.Sprintf(", MIG, %d instances", len(d.Instances))
		}
		if c.OK && !d.Complete {
			c.Why = "what its processes hold is unknown"
		}
		f.Cards = append(f.Cards, c)
	}
	return f, nil
}

// rows say what there is to know of the GPUs.
func (f *gpuFinding) rows() [][]string {
	text := f.State
	if f.State == string(gpu.Reading) {
		text += fmt.Sprintf(": driver %s, NVML %s, by %s", f.Driver, f.Library, f.Helper)
	} else if f.Why != "" {
		text += ": " + f.Why
	}
	rows := [][]string{{"GPUs", text}}
	for _, c := range f.Cards {
		if c.Why != "" {
			c.Name += ": " + c.Why
		}
		rows = append(rows, []string{"", c.Name})
	}
	return rows
}

func (d *diagnosis) write(to io.Writer) error {
	w := bufio.NewWriter(to)
	source := cmp.Or(d.Source, "none")
	if d.Detail != "" && d.Detail != d.Source {
		source += " (" + d.Detail + ")"
	}
	rows := [][]string{{"kernel", d.Kernel}, {"source", source}}
	if d.Why != "" {
		rows = append(rows, []string{"", d.Why})
	}
	rows = append(rows, []string{"PID namespace", d.PIDSpace}, []string{"cgroups", d.Cgroups})
	cmdline.WriteTable(w, append(rows, d.GPU.rows()...))

	fmt.Fprintf(w, "\nWHAT THE KERNEL ALLOWS\n")
	rows = nil
	for _, f := range d.Privileges {
		rows = append(rows, []string{f.Name, yesNo(f.OK), f.Why})
	}
	cmdline.WriteTable(w, rows)

	fmt.Fprintln(w)
	rows = [][]string{{"HOOK", "HERE", "DEFAULT", "FOR, AND WHAT IT COSTS"}}
	for _, h := range d.Hooks {
		rows = append(rows, h.rows()...)
	}
	cmdline.WriteTable(w, rows)

	fmt.Fprintln(w)
	rows = [][]string{{"FIELD", "KNOWN", "WHY NOT EXACT"}}
	for _, f := range d.Fields {
		rows = append(rows, []string{f.Name, f.Level, f.Why})
	}
	cmdline.WriteTable(w, rows)
	return w.Flush()
}

// rows say what there is to know of a hook.
func (h *hookFinding) rows() [][]string {
	def := "off"
	if h.Default {
		def = "on"
	}
	rows := [][]string{{h.Name, yesNo(h.OK), def, h.For}, {"", "", "", "costs: " + cmp.Or(h.Cost, "in the noise")}}
	if !h.OK {
		rows = append(rows, []string{"", "", "", "needs: " + h.Kernel}, []string{"", "", "", "not here: " + h.Why})
	}
	return rows
}

func yesNo(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}

// why is an error in one line.
func why(err error) string {
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
