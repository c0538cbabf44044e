package cctools

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Action is what a command line asks resource_monitor to do.
type Action int

// The actions.
const (
	ActionRun Action = iota
	ActionHelp
	ActionVersion
)

// DefaultInterval is cctools' interval between observations.
const DefaultInterval = 5 * time.Second

// maxInterval keeps an interval in seconds inside time.Duration.
const maxInterval = math.MaxInt64 / int64(time.Second)

// option is one of resource_monitor's options.
type option struct {
	short byte // 0: none
	long  string
	value bool // it takes one
	set   func(p *argParser, value string) error
}

// options are those of cctools' resource_monitor.
var options = []option{
	{'d', "debug", true, func(*argParser, string) error { return nil }},
	{'o', "debug-file", true, func(p *argParser, v string) error { p.o.DebugFile = v; return nil }},
	{'h', "help", false, func(p *argParser, _ string) error { p.action = ActionHelp; return nil }},
	{'v', "version", false, func(p *argParser, _ string) error { p.action = ActionVersion; return nil }},
	{'i', "interval", true, (*argParser).interval},
	{'L', "limits", true, func(p *argParser, v string) error { return ParseLimits(v, &p.o.Limits) }},
	{'l', "limits-file", true, (*argParser).limitsFile},
	{'c', "sh", true, (*argParser).shell},
	{0, "pid", true, (*argParser).pid},
	{0, "measure-only", false, func(p *argParser, _ string) error { p.o.Only = true; return nil }},
	{'f', "child-in-foreground", false, func(p *argParser, _ string) error { p.o.Foreground = true; return nil }},
	{'V', "verbatim-to-summary", true, (*argParser).verbatim},
	{0, "follow-chdir", false, func(p *argParser, _ string) error { p.o.FollowChdir = true; return nil }},
	{0, "measure-dir", true, func(p *argParser, v string) error { p.o.MeasureDirs = append(p.o.MeasureDirs, v); return nil }},
	{0, "without-disk-footprint", false, func(p *argParser, _ string) error { p.o.NoDisk = true; return nil }},
	{0, "no-pprint", false, func(p *argParser, _ string) error { p.o.Compact = true; return nil }},
	{0, "accurate-short-processes", false, func(p *argParser, _ string) error { p.o.AccurateShort = true; return nil }},
	{'O', "with-output-files", true, (*argParser).template},
	{0, "with-time-series", false, func(p *argParser, _ string) error { p.o.Series = true; return nil }},
	{0, "with-inotify", false, func(p *argParser, _ string) error { p.o.Inotify = true; return nil }},
	{0, "snapshot-events", true, (*argParser).events},
	{0, "update-summary", false, func(p *argParser, _ string) error { p.o.UpdateSummary = true; return nil }},
	{0, "snapshot-file", true, notSupported("it has been replaced by --snapshot-events")},
	{0, "catalog-task-name", true, notSupported("nothing is reported to catalog servers")},
	{0, "catalog", true, notSupported("nothing is reported to catalog servers")},
	{0, "catalog-project", true, notSupported("nothing is reported to catalog servers")},
	{0, "catalog-interval", true, notSupported("nothing is reported to catalog servers")},
}

func notSupported(why string) func(*argParser, string) error {
	return func(*argParser, string) error { return fmt.Errorf("not supported: %s", why) }
}

// argParser goes through a command line as getopt_long(3) does.
type argParser struct {
	o        Options
	action   Action
	read     func(path string, most int) ([]byte, error)
	hasShell bool
}

// ParseArgs reads the command line of resource_monitor, without its own name. As in
// getopt_long, options may stand among the words of the command, until --, and long
// ones may be cut short. read reads a file of at most so many bytes. A mistake is one
// line that names the option.
func ParseArgs(args []string, read func(path string, most int) ([]byte, error)) (*Options, Action, error) {
	p := &argParser{read: read}
	p.o.Interval = DefaultInterval
	for len(args) > 0 && p.action == ActionRun {
		arg := args[0]
		args = args[1:]
		var err error
		switch {
		case arg == "--":
			p.o.Command = append(p.o.Command, args...)
			args = nil
		case strings.HasPrefix(arg, "--"):
			args, err = p.long(arg[2:], args)
		case len(arg) > 1 && arg[0] == '-':
			args, err = p.cluster(arg[1:], args)
		default:
			p.o.Command = append(p.o.Command, arg)
		}
		if err != nil {
			return nil, 0, err
		}
	}
	if p.action == ActionRun {
		if err := p.check(); err != nil {
			return nil, 0, err
		}
	}
	return &p.o, p.action, nil
}

// long takes --NAME, --NAME=VALUE or --NAME VALUE.
func (p *argParser) long(text string, rest []string) ([]string, error) {
	name, value, given := strings.Cut(text, "=")
	o, err := findLong(name)
	if err != nil {
		return nil, err
	}
	if given && !o.value {
		return nil, fmt.Errorf("option --%s takes no value", o.long)
	}
	if o.value && !given {
		if len(rest) == 0 {
			return nil, fmt.Errorf("option --%s needs a value", o.long)
		}
		value, rest = rest[0], rest[1:]
	}
	if err := o.set(p, value); err != nil {
		return nil, fmt.Errorf("--%s: %w", o.long, err)
	}
	return rest, nil
}

// findLong finds an option by its name, or by a beginning that only it has.
func findLong(name string) (*option, error) {
	var found []*option
	for i := range options {
		if options[i].long == name {
			return &options[i], nil
		}
		if name != "" && strings.HasPrefix(options[i].long, name) {
			found = append(found, &options[i])
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("unknown option %s (--help lists them)", quote("--"+name))
	case 1:
		return found[0], nil
	}
	var names []string
	for _, o := range found {
		names = append(names, "--"+o.long)
	}
	return nil, fmt.Errorf("option --%s may be %s", name, strings.Join(names, ", "))
}

// cluster takes one-letter options in one word; the first that takes a value has
// the rest of the word, or the next.
func (p *argParser) cluster(text string, rest []string) ([]string, error) {
	for i := 0; i < len(text); i++ {
		o := findShort(text[i])
		if o == nil {
			return nil, fmt.Errorf("unknown option %s (--help lists them)", quote("-"+text[i:i+1]))
		}
		var value string
		if o.value {
			switch {
			case i+1 < len(text):
				value = text[i+1:]
			case len(rest) == 0:
				return nil, fmt.Errorf("option -%c needs a value", o.short)
			default:
				value, rest = rest[0], rest[1:]
			}
			i = len(text)
		}
		if err := o.set(p, value); err != nil {
			return nil, fmt.Errorf("-%c: %w", o.short, err)
		}
	}
	return rest, nil
}

func findShort(c byte) *option {
	for i := range options {
		if options[i].short == c && c != 0 {
			return &options[i]
		}
	}
	return nil
}

func (p *argParser) interval(v string) error {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1 || n > maxInterval {
		return fmt.Errorf("%s: allowed are whole seconds, 1 and more", quote(v))
	}
	p.o.Interval = time.Duration(n) * time.Second
	return nil
}

func (p *argParser) limitsFile(path string) error {
	data, err := p.read(path, MaxLimitsFile)
	if err != nil {
		return err
	}
	return ParseLimitsFile(path, data, &p.o.Limits)
}

func (p *argParser) events(path string) error {
	data, err := p.read(path, MaxEventsFile)
	if err != nil {
		return err
	}
	p.o.EventsPath = path
	p.o.SnapshotFiles, err = ParseEvents(path, data)
	return err
}

func (p *argParser) shell(v string) error {
	p.o.Shell, p.hasShell = v, true
	return nil
}

func (p *argParser) pid(v string) error {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 1 {
		return fmt.Errorf("%s: allowed is the PID of a process", quote(v))
	}
	p.o.PID = int(n)
	return nil
}

func (p *argParser) template(v string) error {
	if v == "" || strings.ContainsRune(v, 0) {
		return fmt.Errorf("%s: that can't begin a file's name", quote(v))
	}
	p.o.Template = v
	return nil
}

func (p *argParser) verbatim(v string) error {
	f, err := ParseField(v)
	if err != nil {
		return err
	}
	switch f.Name {
	case "category":
		p.o.Category = f.Value
	case "taskid", "task_id":
		p.o.TaskID = f.Value
	default:
		p.o.Verbatim = append(p.o.Verbatim, f)
	}
	return nil
}

// ParseField reads "name: value", which goes into the summary as it is. The summary's
// own names are not allowed.
func ParseField(text string) (Field, error) {
	name, value, ok := strings.Cut(text, ":")
	name = strings.TrimSpace(name)
	if !ok || name == "" {
		return Field{}, fmt.Errorf("%s is not of the form name: value", quote(text))
	}
	if _, ours := MeasureOf(name); (ours || notLimits[name]) && !givenByOthers[name] {
		return Field{}, fmt.Errorf("%s: the summary has a value of that name itself", name)
	}
	return Field{name, strings.TrimSpace(value)}, nil
}

// givenByOthers are names of the summary that only a caller knows.
var givenByOthers = map[string]bool{"category": true, "taskid": true, "task_id": true}

// check refuses what does not go together, as cctools does.
func (p *argParser) check() error {
	o := &p.o
	switch {
	case o.PID != 0 && (len(o.Command) > 0 || p.hasShell):
		return fmt.Errorf("--pid: a command can't be given with it")
	case o.PID != 0 && (o.FollowChdir || len(o.MeasureDirs) > 0 || o.Foreground):
		return fmt.Errorf("--pid: --follow-chdir, --measure-dir and --child-in-foreground can't be used with it")
	case o.FollowChdir && len(o.MeasureDirs) > 0:
		return fmt.Errorf("--follow-chdir and --measure-dir can't be used together")
	case p.hasShell && len(o.Command) > 0:
		return fmt.Errorf("-c: another command is given beside it: %s", quote(o.Command[0]))
	case o.PID == 0 && !p.hasShell && len(o.Command) == 0:
		return fmt.Errorf("no command to run")
	}
	return nil
}
