package config

import (
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"rmagent/record"
)

// form is what YAML may give for a key.
type form int

const (
	formText   form = iota // a string
	formNumber             // a number
	formSpan               // a number or a string with a unit
	formBool
	formList  // a sequence of strings, or (see commas) one string
	formItems // a sequence of mappings, whose keys are fields
)

// key is one setting.
type key struct {
	name    string
	form    form
	def     any                       // the default, typed; nil in an item: it must be set
	parse   func(string) (any, error) // of one text, or of each element of a list
	allowed string                    // in words, for messages

	about   string   // what it is, in one line, for editors
	words   []string // all that may be given, if that is few
	low     float64  // of a number, or of seconds or bytes
	high    float64
	empty   bool          // a list may be empty
	commas  bool          // a list may be one text with commas
	fields  []key         // of an item
	restart bool          // it takes effect at the next start
	hide    func(any) any // what is shown of a value that is secret; nil: all
}

// maxItems bounds a list of items.
const maxItems = 1000

// Items are the values of a key of that form: of each item, by field.
type Items []map[string]any

// says tells what the key is.
func (k key) says(about string) key {
	k.about = about
	return k
}

// atStart marks a key that a running agent can't change.
func (k key) atStart() key {
	k.restart = true
	return k
}

// hidden marks a key whose values are secret; hide makes of one what is shown.
func (k key) hidden(hide func(any) any) key {
	k.hide = hide
	return k
}

// orText lets a list be one text with commas, as variables and flags need it.
func (k key) orText() key {
	k.commas = true
	return k
}

// required marks a field without which an item is none.
func (k key) required() key {
	k.def = nil
	return k
}

func (k *key) fileOnly() bool { return k.form == formItems }

// shown tells whether a field of an item is worth showing.
func (k *key) shown(v any) bool { return k.def == nil || !reflect.DeepEqual(v, k.def) }

func (k *key) field(name string) *key {
	i := slices.IndexFunc(k.fields, func(f key) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return &k.fields[i]
}

// env returns the name of the environment variable.
func (k *key) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

// flag returns the name of the flag, without its dashes.
func (k *key) flag() string {
	if k.name == "web_config_file" {
		return "web.config.file" // as Prometheus's programs call it
	}
	return strings.ReplaceAll(k.name, "_", "-")
}

// plain returns a typed value in JSON's terms, without secrets. Of an item's fields it
// has those that are not at their defaults.
func (k *key) plain(v any) any {
	if k.hide != nil {
		v = k.hide(v)
	}
	switch v := v.(type) {
	case Items:
		out := make([]any, len(v))
		for i, item := range v {
			fields := map[string]any{}
			for j := range k.fields {
				if f := &k.fields[j]; f.shown(item[f.name]) {
					fields[f.name] = f.plain(item[f.name])
				}
			}
			out[i] = fields
		}
		return out
	case time.Duration:
		return v.String()
	case string:
		return record.Text([]byte(v))
	case []string:
		out := make([]string, len(v))
		for i, s := range v {
			out[i] = record.Text([]byte(s))
		}
		return out
	}
	return v
}

// keys is every setting, in the order in which they are shown.
var keys = slices.Concat([]key{
	word("source", "auto", "auto", "ebpf", "procfs").says("where process values come from").atStart(),
	duration("interval", time.Second, 100*time.Millisecond, time.Hour).says("time between readings"),
	word("log_level", "info", "debug", "info", "warn", "error").says("what is logged"),
	word("log_format", "auto", "auto", "json", "console").says("auto: console on a terminal, else JSON").atStart(),
	path("log_file", "", true).says("where the log goes; empty: stderr").atStart(),
	path("warnings_file", "", true).says("a file of their own for warnings and errors").atStart(),
	path("jsonl", "", true).says("where records go as JSON lines; -: stdout, empty: nowhere").atStart(),
	word("processes", "active", "active", "all", "none").says("which processes get a record at each reading"),
	yesNo("with_cmdline", false).says("command lines in process records; they may hold secrets").atStart(),
	word("gpu", "auto", "auto", "off").says("whether NVIDIA GPUs are watched").atStart(),
	list("hooks", []string{HooksDefault}, parseHook, "default, none, or a list of hook names (rmagent doctor shows them)").orText().says("kernel hooks").atStart(),
	word("fd_tracing", "auto", "auto", "always", "off").says("whose opens of descriptors are traced").atStart(),
	duration("duration", 0, 0, 10*365*24*time.Hour).says("stop after this time; 0: run until a signal").atStart(),
	number("cpu_budget", 0, 0, 1).says("share of one core that the agent may use; 0: no budget"),
	path("socket", "/run/rmagent/rmagent.sock", false).says("the agent's socket").atStart(),
	text("socket_group", "", "a group's name or number", isUserGroup).says("who beside the owner may connect to the socket, to read").atStart(),
	text("listen", "127.0.0.1:9475", "ADDRESS:PORT, or empty for none", isListen).says("TCP address for numbers; empty: none").atStart(),
	path("web_config_file", "", true).says("TLS and authentication for listen").atStart(),
}, thresholdKeys(), []key{
	size("network_limit_bytes_per_second", 0, 0, 1e15).says("what thresholds of network are shares of; 0: network has no state"),
	duration("prediction_horizon", time.Hour, 0, 365*24*time.Hour).says("how far ahead it is said when a limit is reached; 0: never"),
	duration("observation_period", 10*time.Second, time.Second, 24*time.Hour).says("over which use is averaged for a prune decision"),
	duration("check_interval", time.Second, 100*time.Millisecond, time.Hour).says("how often a prune decision is taken"),
	count("rolling_window_size", 20, 1, 100_000).says("of how many pieces an average is made"),
	number("target_utilization", 0.9, 0.01, 1).says("share of a maximum that may be used on average"),
	number("max_memory_usage_mb", 8192, 0, 1<<40).says("of the host, in MB of 2^20 bytes; 0: no maximum"),
	number("max_cpu_usage_percent", 90, 0, 100).says("of all CPUs of the host; 0: no maximum"),
	number("max_gpu_usage_percent", 90, 0, 100).says("of each card; 0: no maximum"),
	size("max_network_usage_bytes_per_second", 10485760, 0, 1e15).says("of the host, received and sent; 0: no maximum"),
	number("max_cgroup_memory_usage_percent", 0, 0, 100).says("of each cgroup's limit; 0: no maximum"),
	number("max_fd_usage_percent", 0, 0, 100).says("of each process's limit, and of the host's; 0: no maximum"),
	number("max_disk_usage_percent", 0, 0, 100).says("of each mounted filesystem's bytes; 0: no maximum"),
	number("max_gpu_memory_usage_percent", 0, 0, 100).says("of each card, and of each MIG instance; 0: no maximum"),
	number("max_pids_usage_percent", 0, 0, 100).says("of the host's limit, and of each cgroup's; 0: no maximum"),
	number("max_cpu_pressure_percent", 0, 0, 100).says("of the time, PSI some; 0: no maximum"),
	number("max_memory_pressure_percent", 0, 0, 100).says("of the time, PSI some; 0: no maximum"),
	number("max_io_pressure_percent", 0, 0, 100).says("of the time, PSI some; 0: no maximum"),
	count("prune_candidates", 10, 1, 1000).says("how many processes are named that could go"),
	list("priorities", []string{}, parsePriorityText, "a list of name:PATTERN=N, unit:PATTERN=N or cgroup:PATTERN=N").orText().says("who goes first: the lowest"),
	list("protected", []string{}, parseProtected, "a list of name:PATTERN, unit:PATTERN or cgroup:PATTERN").orText().says("who never goes, and is sent no signal"),
	trackedKey(),
}, actionKeys())

// plainNames are the settings that work in the environment and in a .env file
// without the prefix too.
var plainNames = []string{
	"observation_period", "check_interval", "rolling_window_size", "target_utilization",
	"max_memory_usage_mb", "max_cpu_usage_percent", "max_gpu_usage_percent", "max_network_usage_bytes_per_second",
}

func keyNamed(name string) *key {
	i := slices.IndexFunc(keys, func(k key) bool { return k.name == name })
	if i < 0 {
		return nil
	}
	return &keys[i]
}

func word(name, def string, allowed ...string) key {
	return key{name: name, form: formText, def: def, words: allowed, parse: func(s string) (any, error) {
		if slices.Contains(allowed, s) {
			return s, nil
		}
		if near := nearest(s, allowed); near != "" {
			return nil, fmt.Errorf("%q is none of these; did you mean %s?", s, near)
		}
		return nil, fmt.Errorf("%q is none of these", s)
	}, allowed: strings.Join(allowed[:len(allowed)-1], ", ") + " or " + allowed[len(allowed)-1]}
}

func path(name, def string, empty bool) key {
	allowed := "a path"
	if name == "jsonl" {
		allowed = "a path, or - for stdout"
	}
	return key{name: name, form: formText, def: def, parse: func(s string) (any, error) {
		if s == "" && !empty {
			return nil, fmt.Errorf("it is empty")
		}
		if strings.ContainsRune(s, 0) {
			return nil, fmt.Errorf("%q has a NUL byte", s)
		}
		return s, nil
	}, allowed: allowed}
}

// text is a string that check accepts.
func text(name, def, allowed string, check func(string) error) key {
	return key{name: name, form: formText, def: def, allowed: allowed, parse: func(s string) (any, error) {
		return s, check(s)
	}}
}

func yesNo(name string, def bool) key {
	return key{name: name, form: formBool, def: def, parse: parseBool, allowed: "true or false"}
}

// list is a list of texts; parse returns each as a string.
func list(name string, def []string, parse func(string) (any, error), allowed string) key {
	return key{name: name, form: formList, def: def, parse: parse, allowed: allowed, empty: len(def) == 0}
}

// wordList is a list of some of the words.
func wordList(name string, allowed ...string) key {
	one := word(name, "", allowed...)
	k := list(name, []string{}, one.parse, "a list of "+one.allowed)
	k.words = allowed
	return k
}

// items is a list of mappings with fields of their own.
func items(name, allowed string, fields ...key) key {
	return key{name: name, form: formItems, def: Items{}, allowed: allowed, fields: fields}
}

func duration(name string, def, low, high time.Duration) key {
	return key{name: name, form: formSpan, def: def, low: low.Seconds(), high: high.Seconds(), parse: func(s string) (any, error) {
		d, err := ParseDuration(s)
		if err != nil {
			return nil, err
		}
		return within(d, low, high)
	}, allowed: fmt.Sprintf("a duration from %s to %s", showDuration(low), showDuration(high))}
}

func number(name string, def, low, high float64) key {
	return key{name: name, form: formNumber, def: def, low: low, high: high, parse: func(s string) (any, error) {
		f, err := parseNumber(s)
		if err != nil {
			return nil, err
		}
		return within(f, low, high)
	}, allowed: fmt.Sprintf("a number from %v to %v", low, high)}
}

func count(name string, def, low, high int) key {
	return key{name: name, form: formNumber, def: def, low: float64(low), high: float64(high), parse: func(s string) (any, error) {
		f, err := parseNumber(s)
		if err != nil {
			return nil, err
		}
		if f != float64(int64(f)) {
			return nil, fmt.Errorf("%v is not whole", s)
		}
		return within(int(f), low, high)
	}, allowed: fmt.Sprintf("a whole number from %d to %d", low, high)}
}

func size(name string, def, low, high float64) key {
	return key{name: name, form: formSpan, def: def, low: low, high: high, parse: func(s string) (any, error) {
		f, err := ParseSize(s)
		if err != nil {
			return nil, err
		}
		return within(f, low, high)
	}, allowed: fmt.Sprintf("bytes from %v to %v, units kB, MB, GB or KiB, MiB, GiB", low, high)}
}

func within[T int | float64 | time.Duration](v, low, high T) (any, error) {
	if v < low || v > high {
		return nil, fmt.Errorf("%v is out of range", v)
	}
	return v, nil
}

func isUserGroup(s string) error {
	if strings.ContainsAny(s, "\x00/:") {
		return fmt.Errorf("%q can't be a group", s)
	}
	return nil
}

// isListen checks an address to listen on.
func isListen(s string) error {
	if s == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q has no port or no host", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q is no number from 0 to 65535", port)
	}
	return nil
}

func parseHook(s string) (any, error) {
	if s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		return nil, fmt.Errorf("%q can't be a hook", s)
	}
	return s, nil
}

// putNested puts v where the dots of name say.
func putNested(m map[string]any, name string, v any) {
	for {
		head, rest, nested := strings.Cut(name, ".")
		if !nested {
			m[head] = v
			return
		}
		inner, ok := m[head].(map[string]any)
		if !ok {
			inner = map[string]any{}
			m[head] = inner
		}
		m, name = inner, rest
	}
}
