package execcmd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
	"rmagent/internal/cmdline"
	"rmagent/internal/config"
	"rmagent/internal/job"
)

// Exit statuses of exec, after those of env(1) and timeout(1). All others are the
// command's own.
const (
	ExitLimit        = 124 // a limit was broken
	ExitFailed       = 125 // rmagent failed
	ExitCannotInvoke = 126 // the command is no program
	ExitNotFound     = 127
)

// plan is what exec was asked for.
type plan struct {
	cctools.Options
	grace    time.Duration
	mainOnly bool
	inGroup  bool // the limits are a cgroup's, too
	quiet    bool
	progress bool
	jsonl    string
	local    bool
	// asMonitor: this is resource_monitor, cctools' reader its reader.
	asMonitor bool
	makeDir   bool      // make the directory that files go to
	debug     io.Writer // what it says of itself; nil: nothing
	source    string
	noGPUs    bool // gpu: off
	sockets   []string
	version   string // of this program
}

// Command is the command exec, of a program of some version.
func Command(version string) *cli.Command {
	flags := []cli.Flag{
		&cli.StringSliceFlag{Name: "limit", Aliases: []string{"L"}, Usage: "end the job when it is above `LIMITS`, as 'memory: 200, wall_time: 60'; repeatable"},
		&cli.StringSliceFlag{Name: "limits-file", Aliases: []string{"l"}, Usage: "limits from `FILE`; repeatable"},
		&cli.BoolFlag{Name: "measure-only", Usage: "note broken limits, and enforce none"},
		&cli.StringFlag{Name: "grace", Value: "5s", Usage: "`TIME` between SIGTERM and SIGKILL for a job that must end"},
		&cli.BoolFlag{Name: "cgroup-limits", Usage: "run the job in a cgroup (version 2) of its own, whose memory.max, pids.max and cpu.max are the limits of memory, max_concurrent_processes and cores"},
		&cli.BoolFlag{Name: "main-only", Usage: "the job ends with the command, and what it left running is ended; else it ends with its last process"},
		&cli.StringFlag{Name: "output", Aliases: []string{"O"}, Usage: "write `TEMPLATE`.summary, and what else is asked for"},
		&cli.BoolFlag{Name: "with-time-series", Usage: "write TEMPLATE.series, a row each --interval"},
		&cli.BoolFlag{Name: "update-summary", Usage: "write TEMPLATE.summary at each --interval"},
		&cli.BoolFlag{Name: "no-pprint", Usage: "the summary in one line"},
		&cli.StringFlag{Name: "category", Usage: "the job is one of the category `NAME`"},
		&cli.StringSliceFlag{Name: "verbatim", Aliases: []string{"V"}, Usage: "put 'name: value' into the summary; repeatable"},
		&cli.StringFlag{Name: "sh", Aliases: []string{"c"}, Usage: "run `TEXT` by /bin/sh -c"},
		&cli.StringFlag{Name: "jsonl", Usage: "append the records of the job to `PATH`"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "say nothing at the end"},
		&cli.BoolFlag{Name: "local", Usage: "measure here, never ask a running agent"},
	}
	flags = append(flags, watchFlags()...)
	for _, id := range limitFlags() {
		flags = append(flags, &cli.StringFlag{
			Name:  limitFlag(id),
			Usage: fmt.Sprintf("limit %s to `N` %s", id, id.Unit()),
		})
	}
	return &cli.Command{
		Name:            "exec",
		Usage:           "run a command, measure its whole tree of processes, end it above its limits, sum it up",
		ArgsUsage:       "-- COMMAND ARG...",
		Flags:           cmdline.Flags(flags...),
		Action:          func(c *cli.Context) error { return action(c, version) },
		OnUsageError:    onUsage,
		HideHelpCommand: true,
	}
}

// limitFlags are the measures that --max-NAME limits.
func limitFlags() []cctools.Measure {
	var list []cctools.Measure
	ofMachine := []cctools.Measure{cctools.Start, cctools.End, cctools.MachineCPUs, cctools.MachineLoad, cctools.FSNodes, cctools.Workers}
	for id := range cctools.Measure(cctools.NumMeasures) {
		var l cctools.Limits
		if !slices.Contains(ofMachine, id) && cctools.ParseLimits(id.String()+": 1", &l) == nil {
			list = append(list, id)
		}
	}
	return list
}

func limitFlag(id cctools.Measure) string {
	return "max-" + strings.ReplaceAll(strings.TrimPrefix(id.String(), "max_"), "_", "-")
}

// onUsage makes wrong usage a failure of exec: 2 may be the command's own status.
func onUsage(c *cli.Context, err error, sub bool) error {
	return failure(ExitFailed, cmdline.OnUsageError(c, err, sub))
}

func failure(status int, err error) error { return &cmdline.FailedError{Status: status, Err: err} }

func action(c *cli.Context, version string) error {
	p, err := readPlan(c)
	if err != nil {
		return failure(ExitFailed, err)
	}
	p.version = version
	status, err := run(c.Context, p, c.App.ErrWriter)
	if err != nil {
		return failure(status, err)
	}
	if status != 0 {
		return cmdline.StatusError(status)
	}
	return nil
}

func readPlan(c *cli.Context) (*plan, error) {
	l, err := cmdline.LoadConfig(c)
	if err != nil {
		return nil, err
	}
	p := &plan{
		mainOnly: c.Bool("main-only"), inGroup: c.Bool("cgroup-limits"), quiet: c.Bool("quiet"), jsonl: c.String("jsonl"),
		local: c.Bool("local"), source: l.Source, noGPUs: l.GPU == "off", sockets: cmdline.Sockets(l),
	}
	p.progress = !p.quiet && cmdline.IsTerminal(os.Stderr)
	o := &p.Options
	o.Interval = l.Interval
	o.Template, o.Category, o.Only = c.String("output"), c.String("category"), c.Bool("measure-only")
	o.Series, o.UpdateSummary, o.Compact = c.Bool("with-time-series"), c.Bool("update-summary"), c.Bool("no-pprint")
	o.Shell = c.String("sh")
	if (o.Series || o.UpdateSummary) && o.Template == "" {
		return nil, cmdline.Usagef("exec: --with-time-series and --update-summary write files: --output says where")
	}
	if err := readWatchFlags(c, o); err != nil {
		return nil, err
	}
	if p.grace, err = config.ParseDuration(c.String("grace")); err != nil || p.grace < 0 || p.grace > time.Hour {
		return nil, cmdline.Usagef("--grace %q: allowed is a duration from 0 to 1h", c.String("grace"))
	}
	for _, text := range c.StringSlice("verbatim") {
		f, err := cctools.ParseField(text)
		if err != nil {
			return nil, cmdline.Usagef("--verbatim: %v", err)
		}
		o.Verbatim = append(o.Verbatim, f)
	}
	if err := readLimits(c, &o.Limits); err != nil {
		return nil, err
	}
	o.Command = c.Args().Slice()
	switch {
	case o.Shell != "" && len(o.Command) > 0:
		return nil, cmdline.Usagef("--sh: another command is given beside it: %q", o.Command[0])
	case o.Shell == "" && len(o.Command) == 0:
		return nil, cmdline.Usagef("exec: no command to run: rmagent exec [flags] -- COMMAND ARG...")
	}
	return p, nil
}

// readLimits takes files first: what stands on the command line wins.
func readLimits(c *cli.Context, l *cctools.Limits) error {
	for _, path := range c.StringSlice("limits-file") {
		data, err := readFew(path, cctools.MaxLimitsFile)
		if err == nil {
			err = cctools.ParseLimitsFile(path, data, l)
		}
		if err != nil {
			return cmdline.Usagef("--limits-file: %v", err)
		}
	}
	for _, text := range c.StringSlice("limit") {
		if err := cctools.ParseLimits(text, l); err != nil {
			return cmdline.Usagef("--limit: %v", err)
		}
	}
	given := c.LocalFlagNames() // asking of each whether it is set takes a tenth of the start
	for _, id := range limitFlags() {
		name := limitFlag(id)
		if !slices.Contains(given, name) {
			continue
		}
		if err := cctools.ParseLimits(id.String()+": "+c.String(name), l); err != nil {
			return cmdline.Usagef("--%s: %v", name, err)
		}
	}
	return nil
}

// readFew reads a file that has few bytes.
func readFew(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(b) > most {
		err = fmt.Errorf("%s: more than the %d bytes that are allowed", path, most)
	}
	return b, err
}

// command is what is to be run.
func (p *plan) command() *exec.Cmd {
	words := p.Command
	if p.Shell != "" {
		words = []string{shell, "-c", p.Shell}
	} else if path, ok := plainScript(words[0]); ok {
		words = append([]string{shell, path}, words[1:]...)
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

const shell = "/bin/sh"

// plainScript finds a command that is text without a first line that says who runs it: the
// shell does, as for execvp(3).
func plainScript(name string) (path string, ok bool) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", false
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // of a pipe nobody waits for
	if err != nil {
		return "", false
	}
	defer f.Close()
	head := make([]byte, 128)
	n, err := f.ReadAt(head, 0)
	head = head[:n]
	return path, (err == nil || err == io.EOF) && !bytes.HasPrefix(head, []byte("#!")) && !bytes.ContainsRune(head, 0)
}

// text is the command in one line, as the summary has it.
func (p *plan) text() string {
	if p.PID != 0 {
		return followText
	}
	if p.Shell != "" {
		return p.Shell
	}
	return strings.Join(p.Command, " ")
}

// startStatus is what a command that could not be started makes of exec.
func startStatus(err error) int {
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return ExitNotFound
	case errors.Is(err, job.ErrStart):
		return ExitCannotInvoke
	}
	return ExitFailed
}
