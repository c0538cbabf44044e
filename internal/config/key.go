package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"rmagent/internal/policy"
	"rmagent/record"
)

// form is what YAML may give for a key.
type form int

const (
	formText   form = iota // a string
	formNumber             // a number
	formSpan               // a number or a string with a unit
	formBool
	formList         // a sequence of strings, or one string with commas
	formOptionalList // likewise, and it may be empty
	formRules        // a sequence of mappings, see ruleFields
)

// key is one setting.
type key struct {
	name    string
	form    form
	def     any                       // the default, typed
	parse   func(string) (any, error) // of one text, or of each element of a list
	allowed string                    // in words, for messages
}

// env returns the name of the environment variable.
func (k *key) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

// isList tells whether the key takes a list of texts.
func (k *key) isList() bool { return k.form == formList || k.form == formOptionalList }

// flag returns the name of the flag, without its dashes.
func (k *key) flag() string {
	if k.name == "web_config_file" {
		return "web.config.file" // as Prometheus's programs call it
	}
	return strings.ReplaceAll(k.name, "_", "-")
}

// plain returns a typed value in JSON's terms.
func (k *key) plain(v any) any {
	switch v := v.(type) {
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
	case []policy.Rule:
		return plainRules(v)
	}
	return v
}

// keys is every setting, in the order in which they are shown.
var keys = slices.Concat([]key{
	word("source", "auto", "auto", "ebpf", "procfs"),
	duration("interval", time.Second, 100*time.Millisecond, time.Hour),
	word("log_level", "info", "debug", "info", "warn", "error"),
	word("log_format", "auto", "auto", "json", "console"),
	path("log_file", "", true),
	path("warnings_file", "", true),
	path("jsonl", "", true),
	word("processes", "active", "active", "all", "none"),
	{"with_cmdline", formBool, false, parseBool, "true or false"},
	word("gpu", "auto", "auto", "off"),
	{"hooks", formList, []string{HooksDefault}, parseHook, "default, none, or a list of hook names (rmagent doctor shows them)"},
	word("fd_tracing", "auto", "auto", "always", "off"),
	duration("duration", 0, 0, 10*365*24*time.Hour),
	number("cpu_budget", 0, 0, 1),
	path("socket", "/run/rmagent/rmagent.sock", false),
	{"socket_group", formText, "", parseGroup, "a group's name or number"},
	{"listen", formText, "127.0.0.1:9475", parseListen, "ADDRESS:PORT, or empty for none"},
	path("web_config_file", "", true),
}, thresholdKeys(), []key{
	size("network_limit_bytes_per_second", 0, 0, 1e15),
	duration("prediction_horizon", time.Hour, 0, 365*24*time.Hour),
	duration("observation_period", 10*time.Second, time.Second, 24*time.Hour),
	duration("check_interval", time.Second, 100*time.Millisecond, time.Hour),
	count("rolling_window_size", 20, 1, 100_000),
	number("target_utilization", 0.9, 0.01, 1),
	number("max_memory_usage_mb", 8192, 0, 1<<40),
	number("max_cpu_usage_percent", 90, 0, 100),
	number("max_gpu_usage_percent", 90, 0, 100),
	size("max_network_usage_bytes_per_second", 10485760, 0, 1e15),
	number("max_cgroup_memory_usage_percent", 0, 0, 100),
	number("max_fd_usage_percent", 0, 0, 100),
	number("max_disk_usage_percent", 0, 0, 100),
	number("max_gpu_memory_usage_percent", 0, 0, 100),
	number("max_pids_usage_percent", 0, 0, 100),
	number("max_cpu_pressure_percent", 0, 0, 100),
	number("max_memory_pressure_percent", 0, 0, 100),
	number("max_io_pressure_percent", 0, 0, 100),
	count("prune_candidates", 10, 1, 1000),
	{"priorities", formOptionalList, []string{}, parsePriorityText, "a list of name:PATTERN=N, unit:PATTERN=N or cgroup:PATTERN=N"},
	{"protected", formOptionalList, []string{}, parseProtected, "a list of name:PATTERN, unit:PATTERN or cgroup:PATTERN"},
	{"tracked", formRules, []policy.Rule{}, onlyInFile, "a list of rules"},
})

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
	return key{name, formText, def, func(s string) (any, error) {
		if slices.Contains(allowed, s) {
			return s, nil
		}
		if near := nearest(s, allowed); near != "" {
			return nil, fmt.Errorf("%q is none of these; did you mean %s?", s, near)
		}
		return nil, fmt.Errorf("%q is none of these", s)
	}, strings.Join(allowed[:len(allowed)-1], ", ") + " or " + allowed[len(allowed)-1]}
}

func path(name, def string, empty bool) key {
	allowed := "a path"
	if name == "jsonl" {
		allowed = "a path, or - for stdout"
	}
	return key{name, formText, def, func(s string) (any, error) {
		if s == "" && !empty {
			return nil, fmt.Errorf("it is empty")
		}
		if strings.ContainsRune(s, 0) {
			return nil, fmt.Errorf("%q has a NUL byte", s)
		}
		return s, nil
	}, allowed}
}

func duration(name string, def, low, high time.Duration) key {
	return key{name, formSpan, def, func(s string) (any, error) {
		d, err := ParseDuration(s)
		if err != nil {
			return nil, err
		}
		return within(d, low, high)
	}, fmt.Sprintf("a duration from %s to %s", showDuration(low), showDuration(high))}
}

func number(name string, def, low, high float64) key {
	return key{name, formNumber, def, func(s string) (any, error) {
		f, err := parseNumber(s)
		if err != nil {
			return nil, err
		}
		return within(f, low, high)
	}, fmt.Sprintf("a number from %v to %v", low, high)}
}

func count(name string, def, low, high int) key {
	return key{name, formNumber, def, func(s string) (any, error) {
		f, err := parseNumber(s)
		if err != nil {
			return nil, err
		}
		if f != float64(int64(f)) {
			return nil, fmt.Errorf("%v is not whole", s)
		}
		return within(int(f), low, high)
	}, fmt.Sprintf("a whole number from %d to %d", low, high)}
}

func size(name string, def, low, high float64) key {
	return key{name, formSpan, def, func(s string) (any, error) {
		f, err := ParseSize(s)
		if err != nil {
			return nil, err
		}
		return within(f, low, high)
	}, fmt.Sprintf("bytes from %v to %v, units kB, MB, GB or KiB, MiB, GiB", low, high)}
}

func within[T int | float64 | time.Duration](v, low, high T) (any, error) {
	if v < low || v > high {
		return nil, fmt.Errorf("%v is out of range", v)
	}
	return v, nil
}

func parseGroup(s string) (any, error) {
	if strings.ContainsAny(s, "\x00/:") {
		return nil, fmt.Errorf("%q can't be a group", s)
	}
	return s, nil
}

// parseListen reads an address to listen on.
func parseListen(s string) (any, error) {
	if s == "" {
		return s, nil
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return nil, fmt.Errorf("%q has no port or no host", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, fmt.Errorf("port %q is no number from 0 to 65535", port)
	}
	return s, nil
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
