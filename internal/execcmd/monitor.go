package execcmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"rmagent/internal/cctools"
	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/human"
	"rmagent/internal/job"
)

// Exit statuses of resource_monitor, as cctools has them.
const (
	monitorDone     = 0 // the command ended with 0
	monitorTask     = 1 // with another status, or by a signal
	monitorOverflow = 2 // a limit ended it
	monitorFailed   = 4 // the monitor failed, or there is no such command
)

// The names of links to this program that make it cctools' resource_monitor. Work Queue,
// TaskVine and Makeflow send it to where jobs run by the second.
const (
	monitorName = "resource_monitor"
	sentName    = "cctools-monitor"
)

// IsMonitor reports whether this program was called as resource_monitor.
func IsMonitor(args []string) bool {
	if len(args) == 0 {
		return false
	}
	base := filepath.Base(args[0])
	return base == monitorName || base == sentName
}

const monitorHelp = `Use: resource_monitor [options] -- command [arguments]

Runs a command, measures its whole tree of processes, ends it above its limits, and
writes what it used. This is rmagent: the options and files are those of cctools'
resource_monitor.

 -O, --with-output-files=TEMPLATE  begin the names of files so (resource-pid-PID)
 -i, --interval=SECONDS            between rows of the series (5)
 -c, --sh=TEXT                     run TEXT by /bin/sh -c
     --pid=PID                     follow a process that runs, instead of a command
 -L, --limits=LIMITS               end the job above LIMITS, as 'memory: 200, disk: 5'
 -l, --limits-file=FILE            limits from FILE: JSON, or lines of 'memory: 200'
     --measure-only                note broken limits, and enforce none
 -f, --child-in-foreground         the command keeps the terminal (it always does)
 -V, --verbatim-to-summary='N: V'  put a field into the summary
     --with-time-series            write TEMPLATE.series
     --with-inotify                write TEMPLATE.files
     --update-summary              write TEMPLATE.summary at every interval
     --no-pprint                   write the summary in one line
     --measure-dir=DIR             measure what DIR holds (the working directory)
     --follow-chdir                measure the working directories of all processes
     --without-disk-footprint      measure no directory
     --snapshot-events=FILE        take snapshots at events of files: TEMPLATE.snapshot.NN
     --accurate-short-processes    nothing: short processes always are
 -d, --debug=WHAT                  nothing: see -o
 -o, --debug-file=FILE             say in FILE how the job was measured
 -h, --help                        this text
 -v, --version

Exit status: 0 the command ended with 0, 1 it did not, 2 a limit ended it, 4 the
monitor failed or could not run it.
`

// Monitor is the program under these names: it runs one command line and returns its exit
// status.
func Monitor(args []string, version string, stdout, stderr io.Writer) int {
	o, action, err := cctools.ParseArgs(args[1:], readFew)
	switch {
	case err != nil:
		return monitorError(stderr, err)
	case action == cctools.ActionHelp:
		io.WriteString(stdout, monitorHelp)
		return monitorDone
	case action == cctools.ActionVersion:
		fmt.Fprintf(stdout, "resource_monitor version %s (rmagent)\n", version)
		return monitorDone
	}
	l, err := config.Read(config.Sources{Environ: os.Environ(), Hooks: cmdline.HookNames()})
	if err != nil {
		return monitorError(stderr, err)
	}
	if o.Template == "" {
		o.Template = fmt.Sprintf("resource-pid-%d", os.Getpid())
	}
	p := &plan{
		Options: *o, grace: job.DefaultGrace, mainOnly: true, quiet: true, asMonitor: true, version: version,
		// Makeflow names a directory of its own, which is not there where the job runs.
		makeDir: filepath.Base(args[0]) == sentName,
		source:  l.Source, noGPUs: l.GPU == "off", sockets: cmdline.Sockets(l),
	}
	debug, err := openMonitorDebug(o.DebugFile, stdout, stderr)
	if err != nil {
		return monitorError(stderr, err)
	}
	defer debug.Close()
	p.debug = debug
	status, err := run(context.Background(), p, stderr)
	if err != nil {
		return monitorError(stderr, err)
	}
	return status
}

// monitorError says in lines why the monitor failed.
func monitorError(stderr io.Writer, err error) int {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(stderr, "resource_monitor: %s\n", strings.TrimPrefix(line, "exec: "))
	}
	return monitorFailed
}

// monitorStatus is resource_monitor's exit status for a job. A limit that is only
// noted is no failure.
func monitorStatus(s *cctools.Summary, only bool) int {
	switch {
	case len(s.Exceeded) > 0 && !only:
		return monitorOverflow
	case s.ExitStatus != 0:
		return monitorTask
	}
	return monitorDone
}

// openMonitorDebug opens what -o names, in cctools' way.
func openMonitorDebug(path string, stdout, stderr io.Writer) (io.WriteCloser, error) {
	switch path {
	case "":
		return kept{io.Discard}, nil
	case ":stderr":
		return kept{stderr}, nil
	case ":stdout":
		return kept{stdout}, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("--debug-file: %w", err)
	}
	return f, nil
}

// kept is a writer that belongs to another.
type kept struct{ io.Writer }

func (kept) Close() error { return nil }

// tellDebug says how a job was measured, and how it ended.
func (x *execution) tellDebug(s *cctools.Summary, r *job.Result) {
	if x.plan.debug == nil {
		return
	}
	fmt.Fprintf(x.plan.debug, "rmagent %s: %s\n", x.plan.version, human.Text(s.Command))
	fmt.Fprintf(x.plan.debug, "measured by %s\n", s.MeasuredBy)
	if lost := x.tracker.Lost(); lost != nil {
		fmt.Fprintf(x.plan.debug, "better could not be had: %s\n", strings.ReplaceAll(lost.Error(), "\n", "; "))
	}
	for id := range cctools.Measure(cctools.NumMeasures) {
		if why := s.Why[id]; why != "" {
			fmt.Fprintf(x.plan.debug, "%s is %s: %s\n", id, s.Exactness[id], why)
		}
	}
	for _, e := range s.Exceeded {
		fmt.Fprintf(x.plan.debug, "limit broken: %s\n", e)
	}
	if r.Left > 0 {
		fmt.Fprintf(x.plan.debug, "%d processes survived SIGKILL\n", r.Left)
	}
	fmt.Fprintf(x.plan.debug, "ended: %s, status %d\n", s.ExitType, s.ExitStatus)
}
