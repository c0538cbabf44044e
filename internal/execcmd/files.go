package execcmd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/cmdline"
	"rmagent/internal/hostfs"
	"rmagent/internal/job"
	"rmagent/record"
)

// jobFiles are the files that a job is written to. They are made before it starts: a
// place where nothing can be written is told of before anything has run. What stands there
// of another job is replaced when this one has started.
type jobFiles struct {
	plan    *plan
	summary string   // path; empty: none
	series  *os.File // nil: none
	records *os.File // nil: none
	made    []string // files and directories that were not there before
	line    []byte
	start   time.Time
}

func openJobFiles(p *plan) (_ *jobFiles, err error) {
	f := &jobFiles{plan: p, start: time.Now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.discard())
		}
	}()
	if p.makeDir {
		if err := f.makeDir(filepath.Dir(p.Template)); err != nil {
			return nil, err
		}
	}
	if p.Template != "" {
		f.summary = p.Template + ".summary"
		probe, err := f.create(f.summary, 0)
		if err != nil {
			return nil, err
		}
		probe.Close()
	}
	if p.Series {
		if f.series, err = f.create(p.Template+".series", 0); err != nil {
			return nil, err
		}
	}
	if p.jsonl != "" {
		if f.records, err = f.create(p.jsonl, os.O_APPEND); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *jobFiles) create(path string, flag int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|flag, 0o666)
	if err == nil {
		f.made = append(f.made, path)
		return file, nil
	}
	if !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|flag, 0)
}

// any tells whether there are any that say what the job was.
func (f *jobFiles) any() bool { return f.summary != "" || f.records != nil }

// begin begins those that are written while the job runs.
func (f *jobFiles) begin() error {
	if f.series == nil {
		return nil
	}
	if err := empty(f.series); err != nil {
		return err
	}
	_, err := f.series.Write(cctools.AppendSeriesHead(nil, !f.plan.NoDisk))
	return err
}

// empty takes away what a file had before; what is no file, as a pipe, had nothing.
func empty(f *os.File) error {
	if err := f.Truncate(0); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// makeDir makes a directory, and those above it.
func (f *jobFiles) makeDir(dir string) error {
	err := os.Mkdir(dir, 0o777)
	if errors.Is(err, os.ErrNotExist) {
		if err = f.makeDir(filepath.Dir(dir)); err == nil {
			err = os.Mkdir(dir, 0o777)
		}
	}
	if errors.Is(err, os.ErrExist) {
		return nil // a file is told of when one is made in it
	}
	if err == nil {
		f.made = append(f.made, dir)
	}
	return err
}

// discard removes what was made for a job that never was.
func (f *jobFiles) discard() error {
	errs := []error{f.close()}
	for _, path := range slices.Backward(f.made) {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

func (f *jobFiles) close() error {
	var errs []error
	for _, file := range []*os.File{f.series, f.records} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}

// step writes what is written while the job runs.
func (f *jobFiles) step(s *job.Step) error {
	if f.series == nil {
		return nil
	}
	now := s.Now
	now.Set(cctools.End, float64(f.start.UnixMicro())/1e6+s.Seconds)
	f.line = cctools.AppendSeriesRow(f.line[:0], &now, !f.plan.NoDisk)
	_, err := f.series.Write(f.line)
	return err
}

// update replaces the summary by that of a job that still runs.
func (f *jobFiles) update(s *cctools.Summary) error {
	if f.summary == "" {
		return nil
	}
	b := cctools.AppendSummary(nil, s, f.plan.fileOptions())
	write := func(w io.Writer) error { _, err := w.Write(b); return err }
	if err := cmdline.WriteFile(f.summary, 0o644, write); err != nil {
		return fmt.Errorf("write the summary: %w", err)
	}
	return nil
}

// fileOptions say how summaries are written.
func (p *plan) fileOptions() cctools.FileOptions {
	return cctools.FileOptions{Compact: p.Compact, CCToolsOnly: p.asMonitor}
}

// finish writes the summary and the records.
func (f *jobFiles) finish(s *cctools.Summary, r *job.Result) error {
	errs := []error{f.update(s)}
	if f.records != nil {
		errs = append(errs, f.record(s, r))
	}
	return errors.Join(append(errs, f.close())...)
}

// record appends the job's records: which limits it broke, and what it was.
func (f *jobFiles) record(s *cctools.Summary, r *job.Result) error {
	facts, err := hostfs.ReadFacts(hostfs.Options{})
	if err != nil {
		return err
	}
	rec := s.Record()
	rec.PID, rec.StartTicks = r.First.PID, r.First.StartTicks
	rec.Job = r.First.String()
	var out []byte
	write := func(r record.Record, seq uint64) {
		*r.Head() = record.Header{Time: time.Now().UTC(), Host: facts.Host, BootID: facts.BootID, Seq: seq, Schema: record.Schema}
		var e error
		out, e = record.Append(out, r)
		err = errors.Join(err, e)
	}
	for i, broken := range rec.Limits {
		write(&record.Limit{
			Job: rec.Job, PID: rec.PID, StartTicks: rec.StartTicks, Category: rec.Category, JobLimit: broken,
			Enforced: !f.plan.Only, Message: s.Exceeded[i].String(),
		}, uint64(i))
	}
	write(rec, uint64(len(rec.Limits)))
	if err == nil {
		_, err = f.records.Write(out)
	}
	return err
}
