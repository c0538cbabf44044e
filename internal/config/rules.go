package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"rmagent/internal/pattern"
	"rmagent/internal/policy"
)

// ruleField is one key of a rule of the list "tracked".
type ruleField struct {
	key
	set func(r *policy.Rule, v any)
	get func(r *policy.Rule) any // nil where it is not set
}

// mebibyte is what settings call a MB.
const mebibyte = 1 << 20

// ruleFields is every key of a rule, in the order in which they are shown.
var ruleFields = []ruleField{
	text("label", func(r *policy.Rule) *string { return &r.Label }, nil),
	{
		count("pid", 0, 1, 1<<22-1),
		func(r *policy.Rule, v any) { r.PID = int32(v.(int)) },
		func(r *policy.Rule) any { return unlessZero(int(r.PID)) },
	},
	text("name", func(r *policy.Rule) *string { return &r.Name }, pattern.Check),
	text("unit", func(r *policy.Rule) *string { return &r.Unit }, pattern.Check),
	text("cgroup", func(r *policy.Rule) *string { return &r.Cgroup }, pattern.Check),
	limit(number("max_cpu_percent", 0, 0, 1e6), 1, func(l *policy.Limits) *float64 { return &l.CPUPercent }),
	limit(number("max_memory_mb", 0, 0, 1<<40), mebibyte, func(l *policy.Limits) *float64 { return &l.MemoryBytes }),
	limit(number("max_fd", 0, 0, 1<<31), 1, func(l *policy.Limits) *float64 { return &l.FDs }),
	limit(size("max_disk_bytes_per_second", 0, 0, 1e15), 1, func(l *policy.Limits) *float64 { return &l.DiskBytesPerSecond }),
	limit(size("max_network_bytes_per_second", 0, 0, 1e15), 1, func(l *policy.Limits) *float64 { return &l.NetworkBytesPerSecond }),
	limit(number("max_gpu_percent", 0, 0, 100), 1, func(l *policy.Limits) *float64 { return &l.GPUPercent }),
	limit(number("max_gpu_memory_mb", 0, 0, 1<<40), mebibyte, func(l *policy.Limits) *float64 { return &l.GPUMemoryBytes }),
	{
		key{"prune", formBool, false, parseBool, "true or false"},
		func(r *policy.Rule, v any) { r.Prune = v.(bool) },
		func(r *policy.Rule) any { return unlessZero(r.Prune) },
	},
	{
		key{"actions", formList, []string{}, parseAction, "names of actions"},
		func(r *policy.Rule, v any) { r.Actions = v.([]string) },
		func(r *policy.Rule) any {
			if len(r.Actions) == 0 {
				return nil
			}
			return r.Actions
		},
	},
}

func unlessZero[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

// text is a field with a text that check, where there is one, finds nothing wrong with.
func text(name string, at func(*policy.Rule) *string, check func(string) error) ruleField {
	allowed := "a text"
	if check != nil {
		allowed = "a pattern, as nginx*"
	}
	parse := func(s string) (any, error) {
		if s == "" {
			return nil, errors.New("it is empty")
		}
		if check != nil {
			if err := check(s); err != nil {
				return nil, fmt.Errorf("%q: %w", s, err)
			}
		}
		return s, nil
	}
	return ruleField{
		key{name, formText, "", parse, allowed},
		func(r *policy.Rule, v any) { *at(r) = v.(string) },
		func(r *policy.Rule) any { return unlessZero(*at(r)) },
	}
}

// limit is a field with a limit in units of the policy's own.
func limit(k key, unit float64, at func(*policy.Limits) *float64) ruleField {
	return ruleField{
		k,
		func(r *policy.Rule, v any) { *at(&r.Limits) = v.(float64) * unit },
		func(r *policy.Rule) any { return unlessZero(*at(&r.Limits) / unit) },
	}
}

func parseAction(s string) (any, error) {
	if s == "" {
		return nil, errors.New("it is empty")
	}
	return s, nil
}

// onlyInFile refuses what is no text: a list of rules fits into no variable.
func onlyInFile(string) (any, error) { return nil, errors.New("only the YAML file can set it") }

// rules takes a list of rules from the file.
func (w *walker) rules(k *key, line int, v *yaml.Node) {
	if v.Kind != yaml.SequenceNode {
		w.ld.problem(w.at(v.Line), k.name, "it is %s; allowed: %s", describe(v), k.allowed)
		return
	}
	list, problems := []policy.Rule{}, len(w.ld.problems)+w.ld.more
	for i, n := range v.Content {
		if rule, ok := w.rule(fmt.Sprintf("%s[%d]", k.name, i), n); ok {
			list = append(list, rule)
		}
	}
	if len(w.ld.problems)+w.ld.more > problems {
		return
	}
	w.ld.layers[len(w.ld.layers)-1][k.name] = list
	w.ld.origins[k.name] = w.at(line)
}

func (w *walker) rule(name string, n *yaml.Node) (r policy.Rule, ok bool) {
	if w.refused(n, name) {
		return r, false
	}
	if n.Kind != yaml.MappingNode {
		w.ld.problem(w.at(n.Line), name, "it is %s; allowed: keys with values", describe(n))
		return r, false
	}
	ok = true
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		full := name + "." + k.Value
		if first, twice := seen[k.Value]; twice {
			w.ld.problem(w.at(k.Line), full, "it was set in line %d already", first)
			ok = false
			continue
		}
		seen[k.Value] = k.Line
		ok = w.ruleEntry(&r, full, k, v) && ok
	}
	if ok && r.Selector == (policy.Selector{}) {
		w.ld.problem(w.at(n.Line), name, "it selects nobody; allowed: at least one of pid, name, unit and cgroup")
		return r, false
	}
	return r, ok
}

func (w *walker) ruleEntry(r *policy.Rule, full string, k, v *yaml.Node) bool {
	at := slices.IndexFunc(ruleFields, func(f ruleField) bool { return f.name == k.Value })
	if at < 0 {
		names := make([]string, len(ruleFields))
		for i := range ruleFields {
			names[i] = ruleFields[i].name
		}
		w.ld.unknown(w.at(k.Line), full, "key", k.Value, names)
		return false
	}
	f := &ruleFields[at]
	texts, ok := w.texts(&f.key, full, v)
	if !ok {
		return false
	}
	value, err := f.value(texts)
	if err != nil {
		w.ld.problem(w.at(k.Line), full, "%v; allowed: %s", err, f.allowed)
		return false
	}
	f.set(r, value)
	return true
}

// plainRules returns rules in JSON's terms, as the file would have them.
func plainRules(list []policy.Rule) []any {
	out := make([]any, len(list))
	for i := range list {
		m := map[string]any{}
		for j := range ruleFields {
			if v := ruleFields[j].get(&list[i]); v != nil {
				m[ruleFields[j].name] = ruleFields[j].plain(v)
			}
		}
		out[i] = m
	}
	return out
}

// showRules writes rules as YAML on one line.
func showRules(list []policy.Rule) string {
	rules := make([]string, len(list))
	for i := range list {
		var fields []string
		for j := range ruleFields {
			if v := ruleFields[j].get(&list[i]); v != nil {
				fields = append(fields, ruleFields[j].name+": "+show(v))
			}
		}
		rules[i] = "{" + strings.Join(fields, ", ") + "}"
	}
	return "[" + strings.Join(rules, ", ") + "]"
}

// parseSelector reads what chooses processes: name:PATTERN, unit:PATTERN or
// cgroup:PATTERN.
func parseSelector(s string) (policy.Selector, error) {
	kind, p, _ := strings.Cut(s, ":")
	sel := policy.Selector{}
	switch kind {
	case "name":
		sel.Name = p
	case "unit":
		sel.Unit = p
	case "cgroup":
		sel.Cgroup = p
	default:
		return sel, fmt.Errorf("%q has no kind", s)
	}
	if p == "" {
		return sel, fmt.Errorf("%q has no pattern", s)
	}
	if err := sel.Validate(); err != nil {
		return sel, err
	}
	return sel, nil
}

func parseProtected(s string) (any, error) {
	_, err := parseSelector(s)
	return s, err
}

// parsePriority reads a selector, =, and a whole number.
func parsePriority(s string) (policy.Priority, error) {
	at := strings.LastIndexByte(s, '=')
	if at < 0 {
		return policy.Priority{}, fmt.Errorf("%q has no priority", s)
	}
	n, err := strconv.Atoi(strings.TrimSpace(s[at+1:]))
	if err != nil || n < -1000 || n > 1000 {
		return policy.Priority{}, fmt.Errorf("%q is no priority from -1000 to 1000", s[at+1:])
	}
	sel, err := parseSelector(strings.TrimSpace(s[:at]))
	return policy.Priority{Selector: sel, Priority: n}, err
}

func parsePriorityText(s string) (any, error) {
	_, err := parsePriority(s)
	return s, err
}
