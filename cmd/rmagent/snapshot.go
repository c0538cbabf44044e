package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"rmagent/internal/agent"
	"rmagent/internal/aggregate"
	"rmagent/internal/cmdline"
	"rmagent/internal/engine"
	"rmagent/internal/gpu"
	"rmagent/internal/hostfs"
	"rmagent/internal/report"
	"rmagent/internal/sample"
	"rmagent/record"
)

func snapshotCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "snapshot",
		Usage: "print one reading of the host and every process as JSON lines",
		Flags: cmdline.Flags(append(filterFlags(),
			&cli.BoolFlag{Name: "with-cmdline", Usage: "with command lines, which may hold secrets"},
			&cli.BoolFlag{Name: "local", Usage: "read here, never ask a running agent"})...),
		Action: snapshot,
	})
}

func snapshot(c *cli.Context) error {
	f, err := filter(c)
	if err != nil {
		return err
	}
	loaded, err := cmdline.LoadConfig(c)
	if err != nil {
		return err
	}
	if k := presentAgent(c, loaded); k != nil {
		if done, err := snapshotOfAgent(c, k, f); done {
			return err
		}
	}
	l, err := openLocal(c, loaded)
	if err != nil {
		return err
	}
	defer l.close()
	p := l.parts
	// That there is no GPU is worth a line of an agent's log, not of a snapshot's.
	p.WatchGPUs(l.config, l.log.Logger().WithOptions(zap.IncreaseLevel(zap.WarnLevel)))
	out := bufio.NewWriterSize(c.App.Writer, 64<<10)
	if err := writeSnapshot(c, p, f, &lineWriter{out: out, facts: p.Facts}); err != nil {
		return err
	}
	return out.Flush()
}

func writeSnapshot(c *cli.Context, p *agent.Parts, f engine.Filter, w *lineWriter) error {
	var reading *sample.GPUs
	if p.GPU != nil {
		reading = readGPUs(c.Context, p.GPU) // before the processes, as the engine does
	}
	var s sample.Snapshot
	scope := sample.Scope{PIDs: f.PIDs}
	if err := p.Source.Read(c.Context, scope, &s); err != nil {
		return err
	}
	if err := missingPIDs(f.PIDs, &s); err != nil {
		return err
	}
	table := aggregate.NewTable()
	table.Update(&s)
	b := report.NewBuilder(p.Source.Name)
	b.SetClocks(s.Time, s.Boottime, s.Monotonic)
	for i := range table.Len() {
		q := table.At(i)
		q.Identity = p.Who.Identify(&q.Process)
	}
	var gpus aggregate.GPUs
	gpus.Update(reading, s.Monotonic, gpuTime)
	gpus.Meet(table)
	if f.PIDs == nil {
		if err := writeMachine(p, &s, table, &gpus, b, w); err != nil {
			return err
		}
	}
	var r record.Process
	for i := range table.Len() {
		q := table.At(i)
		if !f.Match(&q.Process, q.Identity) {
			continue
		}
		b.Process(&r, q, &gpus)
		if err := w.write(&r); err != nil {
			return err
		}
	}
	return nil
}

// gpuTime is how long a command waits for the GPUs: on some machines the driver
// wakes each card first, for a second or more.
const gpuTime = 10 * time.Second

// readGPUs reads them twice: what processes use is measured between two readings.
func readGPUs(ctx context.Context, c *gpu.Client) *sample.GPUs {
	ctx, cancel := context.WithTimeout(ctx, gpuTime)
	defer cancel()
	r, status := c.Read(ctx)
	if status.State != gpu.Reading || len(r.Devices) == 0 {
		return r
	}
	select {
	case <-time.After(time.Second): // the driver measures once in a second, or more often
	case <-ctx.Done():
	}
	r, _ = c.Read(ctx)
	return r
}

// writeMachine writes the host, its cgroups and its GPUs. The table's processes are
// identified.
func writeMachine(p *agent.Parts, s *sample.Snapshot, table *aggregate.Table, gpus *aggregate.GPUs, b *report.Builder, w *lineWriter) error {
	var host sample.Host
	p.Host.Read(&host)
	host.Processes = record.SomeIf(uint64(table.Len()), s.Whole())
	var machine aggregate.Host
	machine.Update(&host)
	var r record.Host
	report.Host(&r, &machine)
	if err := w.write(&r); err != nil {
		return err
	}
	fds := aggregate.NewFDSums()
	fds.Update(table)
	for _, g := range p.Cgroups.Read(nil, &host, nil) {
		var r record.Cgroup
		sum, known := fds.Of(g.Path)
		b.Cgroup(&r, &g, record.SomeIf(sum, known))
		if err := w.write(&r); err != nil {
			return err
		}
	}
	for i := range gpus.Devices {
		var r record.GPU
		b.GPU(&r, &gpus.Devices[i], gpus)
		if err := w.write(&r); err != nil {
			return err
		}
	}
	return nil
}

// missingPIDs names the processes that were asked for and are not there.
func missingPIDs(pids []int32, s *sample.Snapshot) error {
	var missing []int32
	for _, pid := range pids {
		if !slices.ContainsFunc(s.Processes, func(p sample.Process) bool { return p.ID.PID == pid }) {
			missing = append(missing, pid)
		}
	}
	return noProcesses(missing)
}

// noProcesses names those that were asked for and are not there; nil for none.
func noProcesses(pids []int32) error {
	if len(pids) == 0 {
		return nil
	}
	if _, err := os.Stat("/proc/1"); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no process has PID %s that this user may see (/proc is mounted with hidepid)", listed(pids))
	}
	return fmt.Errorf("no process has PID %s", listed(pids))
}

func listed(pids []int32) string {
	var list []string
	for _, pid := range pids {
		list = append(list, strconv.Itoa(int(pid)))
	}
	return strings.Join(list, ", ")
}

// lineWriter writes records one after another.
type lineWriter struct {
	out   *bufio.Writer
	facts hostfs.Facts
	seq   uint64
	line  []byte
}

func (w *lineWriter) write(r record.Record) error {
	*r.Head() = record.Header{Time: time.Now().UTC(), Host: w.facts.Host, BootID: w.facts.BootID, Schema: record.Schema}
	return w.writeAt(r)
}

// writeAt writes a record whose header says when and where it is from.
func (w *lineWriter) writeAt(r record.Record) error {
	r.Head().Seq = w.seq
	w.seq++
	var err error
	if w.line, err = record.Append(w.line[:0], r); err != nil {
		return err
	}
	_, err = w.out.Write(w.line)
	return err
}
