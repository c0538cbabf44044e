package config

import (
	"fmt"
	"net/textproto"
	"net/url"
	pathpkg "path"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"rmagent/record"
)

// The kinds of action.
const (
	ActionLog     = "log"
	ActionCommand = "command"
	ActionWebhook = "webhook"
	ActionSignal  = "signal"
)

// What actions react to.
const (
	OnState = "state" // a threshold was crossed
	OnPrune = "prune" // work should be taken off
	OnLeak  = "leak"  // a process leaks descriptors
	OnLimit = "limit" // a tracked process crossed a limit of its rule
	OnOOM   = "oom"   // the kernel killed a process for want of memory
)

// Action is what the agent does when something happens.
type Action struct {
	Name string `config:"name"`
	Kind string `config:"kind"`

	// Which of what happens is meant. Lists that are empty choose everything, but On:
	// an action without it acts only where it is named.
	On        []string `config:"on"`
	Resources []string `config:"resources"`
	MinState  string   `config:"min_state"` // of state and limit
	Targets   []string `config:"targets"`   // patterns of path.Match, where * stands for slashes too
	Names     []string `config:"names"`     // patterns of the process's name
	Recovery  bool     `config:"recovery"`  // also what ends

	DryRun      bool          `config:"dry_run"`
	MinInterval time.Duration `config:"min_interval"`
	MaxPerHour  int           `config:"max_per_hour"`
	TimeLimit   time.Duration `config:"time_limit"` // of a command, or of one request

	Argv []string `config:"argv"`

	URL               string   `config:"url"`
	Headers           []string `config:"headers"` // Name: value
	AuthorizationFile string   `config:"authorization_file"`
	Retries           int      `config:"retries"`

	Signal string `config:"signal"` // as TERM
}

// Number returns the number of the action's signal.
func (a *Action) Number() unix.Signal { return signals[a.Signal] }

var signals = map[string]unix.Signal{
	"HUP": unix.SIGHUP, "INT": unix.SIGINT, "QUIT": unix.SIGQUIT, "USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
	"TERM": unix.SIGTERM, "KILL": unix.SIGKILL, "STOP": unix.SIGSTOP, "CONT": unix.SIGCONT,
}

// forKind says for which kind of action a field is; the others are for all.
var forKind = map[string][]string{
	"time_limit": {ActionCommand, ActionWebhook},
	"argv":       {ActionCommand},
	"url":        {ActionWebhook}, "headers": {ActionWebhook}, "authorization_file": {ActionWebhook}, "retries": {ActionWebhook},
	"signal": {ActionSignal},
}

const actionsKey = "actions"

func actionKeys() []key {
	return []key{
		items(actionsKey, "a list of actions, each with name and kind",
			text("name", "", "a name of a-z, 0-9, _ and -, at most 64 long", isActionName).required().says("what it is called; each has a name of its own"),
			word("kind", "", ActionLog, ActionCommand, ActionWebhook, ActionSignal).required().says("what it does"),
			wordList("on", OnState, OnPrune, OnLeak, OnLimit, OnOOM).says("what it reacts to; empty: only to rules that name it"),
			list("resources", []string{}, parseName, "names of resources, such as memory").says("only these resources; empty: all"),
			word("min_state", "critical", string(record.StateInfo), string(record.StateWarning), string(record.StateCritical)).says("states and limits from this one on"),
			list("targets", []string{}, parsePattern, "patterns such as host, pid:* or cgroup:/system.slice/*").says("only these targets; empty: all"),
			list("names", []string{}, parsePattern, "patterns such as nginx*").says("only processes of these names; empty: all"),
			yesNo("recovery", false).says("act when it is over, too"),
			yesNo("dry_run", false).says("only say what would be done"),
			duration("min_interval", 0, 0, 24*time.Hour).says("between one time and the next"),
			count("max_per_hour", 60, 1, 100_000).says("how often at most"),
			duration("time_limit", 10*time.Second, 100*time.Millisecond, time.Hour).says("for the command, or for one request"),
			list("argv", []string{}, parseArgument, "the program's path and its arguments").says("of a command, run without a shell"),
			text("url", "", "an address that begins with http:// or https://", isURL).hidden(hideURL).says("where a webhook posts to"),
			list("headers", []string{}, parseHeader, "headers, as \"Name: value\"").hidden(hideHeaders).says("that a webhook sends"),
			path("authorization_file", "", true).says("a file with the value of the webhook's Authorization header"),
			count("retries", 5, 0, 20).says("how often a webhook tries again"),
			word("signal", "TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "KILL", "STOP", "CONT").says("what a signal sends"),
		).says("what to do when something happens; empty: nothing"),
		yesNo("actions_dry_run", false).says("no action acts, all only say what they would do"),
	}
}

var actionName = lazily(`^[a-z0-9_-]{1,64}$`)

func isActionName(s string) error {
	if !actionName().MatchString(s) {
		return fmt.Errorf("%.80q is no name", s)
	}
	return nil
}

func parseName(s string) (any, error) {
	if !actionName().MatchString(s) {
		return nil, fmt.Errorf("%.80q is no name", s)
	}
	return s, nil
}

func parsePattern(s string) (any, error) {
	if _, err := pathpkg.Match(s, ""); err != nil || s == "" {
		return nil, fmt.Errorf("%.80q is no pattern", s)
	}
	return s, nil
}

func parseArgument(s string) (any, error) {
	if strings.ContainsRune(s, 0) {
		return nil, fmt.Errorf("%.80q has a NUL byte", s)
	}
	return s, nil
}

// hideURL leaves of an address what is no secret. A token may be anywhere else.
func hideURL(v any) any {
	u, err := url.Parse(v.(string))
	if err != nil || v == "" {
		return v
	}
	return u.Scheme + "://" + u.Host + "/(hidden)"
}

func hideHeaders(v any) any {
	var names []string
	for _, header := range v.([]string) {
		name, _, _ := strings.Cut(header, ":")
		names = append(names, name+": (hidden)")
	}
	return names
}

func isURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("it is no such address") // it may hold a secret: it is not repeated
	}
	return nil
}

// headerName is a token of RFC 9110.
var headerName = lazily("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

func parseHeader(s string) (any, error) {
	name, value, found := strings.Cut(s, ":")
	if !found || !headerName().MatchString(name) || strings.ContainsFunc(value, unicode.IsControl) {
		return nil, fmt.Errorf("an element is no header")
	}
	if slices.Contains([]string{"Host", "Content-Length", "Transfer-Encoding"}, textproto.CanonicalMIMEHeaderKey(name)) {
		return nil, fmt.Errorf("%s is set by the agent", textproto.CanonicalMIMEHeaderKey(name))
	}
	return s, nil
}

// checkActions reports fields that an action's kind lacks or does not take, and names
// that two have.
func (l *Loaded) checkActions() []Problem {
	var problems []Problem
	report := func(at, what string, args ...any) {
		problems = append(problems, Problem{l.origins[at], at, fmt.Sprintf(what, args...)})
	}
	seen := map[string]int{}
	for i := range l.Actions {
		a, name := &l.Actions[i], itemName(actionsKey, i)
		if first, twice := seen[a.Name]; twice {
			report(name+".name", "%s is the name of %s already; allowed: a name of its own", a.Name, itemName(actionsKey, first))
		}
		seen[a.Name] = i
		for field, kinds := range forKind {
			if at := name + "." + field; l.origins[at].Layer != LayerDefault && !slices.Contains(kinds, a.Kind) {
				report(at, "it means nothing for the kind %s; it is for %s", a.Kind, strings.Join(kinds, " and "))
			}
		}
		switch {
		case a.Kind == ActionCommand && (len(a.Argv) == 0 || !pathpkg.IsAbs(a.Argv[0])):
			problems = append(problems, Problem{l.placeOf(name, "argv"), name + ".argv", "the program's path is missing; allowed: a path from / on, and arguments"})
		case a.Kind == ActionWebhook && a.URL == "":
			problems = append(problems, Problem{l.placeOf(name, "url"), name + ".url", "it is missing; allowed: an address that begins with http:// or https://"})
		}
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return a.Origin.Line - b.Origin.Line })
	return problems
}

// placeOf is where a field of an item was set, or where the item is.
func (l *Loaded) placeOf(item, field string) Origin {
	if o := l.origins[item+"."+field]; o.Layer != LayerDefault {
		return o
	}
	return l.origins[item]
}
