package config

import (
	"cmp"
	"fmt"
	"maps"
	pathpkg "path"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"

	"rmagent/internal/policy"
)

const envPrefix = "RMAGENT_"

// Inputs is everything that a configuration is made of.
type Inputs struct {
	Path    string            // of the YAML file, for messages; empty: there is none
	File    []byte            // its content
	DotEnv  []byte            // of the .env file; not read together with a YAML file
	Environ []string          // as os.Environ returns it
	Flags   map[string]string // those that were given, by name without dashes
	// Hooks are the names of hooks that exist; nil: any name will do.
	Hooks []string
	// Part says that this is a part of a configuration: the actions that its rules name
	// need not be in it.
	Part bool
	// Settings are by key, and win over all else: what a program sets that runs the
	// agent, or who may change it while it runs.
	Settings map[string]string
	// Tracked are rules beside those of the file.
	Tracked []Tracked
}

// Load makes the configuration. Its error is an [*Error] that lists all mistakes.
func Load(in Inputs) (*Loaded, error) {
	ld := loader{hooks: in.Hooks, mistaken: map[string]bool{}}
	ld.defaults()
	if in.Path != "" {
		ld.file(in.Path, in.File)
	} else {
		ld.dotEnv(in.DotEnv)
	}
	ld.environ(in.Environ)
	ld.flags(in.Flags)
	ld.settings(in.Settings)
	ld.track(in.Tracked)

	l, err := merge(ld.layers)
	if err != nil {
		return nil, err
	}
	l.origins, l.file, l.dotEnv = ld.origins, in.File, in.DotEnv
	for _, p := range ld.contradictions(l, in.Part) {
		ld.problem(p.Origin, p.Key, "%s", p.What)
	}
	if len(ld.problems) > 0 {
		slices.SortStableFunc(ld.problems, func(a, b Problem) int {
			return cmp.Or(cmp.Compare(a.Origin.Layer, b.Origin.Layer), cmp.Compare(a.Origin.Line, b.Origin.Line))
		})
		return nil, &Error{ld.problems, ld.more}
	}
	return l, nil
}

// loader collects layers and problems.
type loader struct {
	hooks    []string
	layers   []typedLayer
	origins  map[string]Origin
	problems []Problem
	more     int             // problems beyond maxProblems
	mistaken map[string]bool // the keys and groups of keys with problems
}

func (ld *loader) newLayer() { ld.layers = append(ld.layers, typedLayer{}) }

func (ld *loader) defaults() {
	ld.newLayer()
	ld.origins = map[string]Origin{}
	for i := range keys {
		ld.layers[0][keys[i].name] = keys[i].def
		ld.origins[keys[i].name] = Origin{Layer: LayerDefault}
	}
}

// contradictions are between values that are good by themselves. Where one of them is
// not, it was reported, and what would be compared is not what was meant.
func (ld *loader) contradictions(l *Loaded, part bool) (list []Problem) {
	for _, r := range policy.Resources {
		if !ld.mistaken[strings.TrimSuffix(thresholdPrefix(r), ".")] {
			list = append(list, l.checkThreshold(r)...)
		}
	}
	list = append(list, l.checkOutputs()...)
	if ld.mistaken[actionsKey] || ld.mistaken[trackedName] {
		return list // items that are refused are not in l
	}
	return slices.Concat(list, l.checkTracked(part), l.checkActions())
}

// checkOutputs finds a file that two outputs write to: lines of a log would be among the
// records, or each warning twice. Devices bear it.
func (l *Loaded) checkOutputs() (problems []Problem) {
	for _, pair := range [][2]string{{"jsonl", "log_file"}, {"jsonl", "warnings_file"}, {"log_file", "warnings_file"}} {
		a, b := l.values[pair[0]].(string), l.values[pair[1]].(string)
		if a == "" || b == "" || pathpkg.Clean(a) != pathpkg.Clean(b) || strings.HasPrefix(pathpkg.Clean(a), "/dev/") {
			continue
		}
		blamed, other := pair[1], pair[0]
		if l.origins[other].Layer > l.origins[blamed].Layer {
			blamed, other = other, blamed
		}
		problems = append(problems, Problem{l.origins[blamed], blamed, fmt.Sprintf("%q is the file of %s, too; allowed: a file of its own", b, other)})
	}
	return problems
}

// mistake remembers that a key, as thresholds.fd.info or actions[0].url, and all that it
// is in are mistaken.
func (ld *loader) mistake(key string) {
	for ; key != ""; key = key[:max(strings.LastIndexAny(key, ".["), 0)] {
		ld.mistaken[key] = true
	}
}

func (ld *loader) problem(o Origin, key, format string, args ...any) {
	ld.mistake(key)
	if len(ld.problems) == maxProblems {
		ld.more++
		return
	}
	ld.problems = append(ld.problems, Problem{o, key, fmt.Sprintf(format, args...)})
}

// unknown reports a name that does not exist. Looking for what was meant takes
// time, so it is done only for what will be shown.
func (ld *loader) unknown(o Origin, key, what, name string, names []string) {
	hint := ""
	if len(ld.problems) < maxProblems {
		hint = DidYouMean(name, names)
	}
	ld.problem(o, key, "there is no such %s%s", what, hint)
}

// set puts a text, or the texts of a list, on the top layer.
func (ld *loader) set(k *key, o Origin, texts ...string) {
	value, err := k.value(texts)
	if err == nil && k.name == "hooks" {
		err = ld.checkHooks(value.([]string))
	}
	if err != nil {
		ld.problem(o, k.name, "%v; allowed: %s", err, k.allowed)
		return
	}
	ld.put(k, o, value)
}

// put puts a typed value on the top layer.
func (ld *loader) put(k *key, o Origin, value any) {
	ld.layers[len(ld.layers)-1][k.name] = value
	ld.origins[k.name] = o
}

// value parses one text, or the elements of a list.
func (k *key) value(texts []string) (any, error) {
	if k.form != formList {
		return k.parse(texts[0])
	}
	list := []string{}
	for _, text := range texts {
		v, err := k.parse(text)
		if err != nil {
			return nil, err
		}
		list = append(list, v.(string))
	}
	if len(list) == 0 && !k.empty {
		return nil, fmt.Errorf("it is empty")
	}
	return list, nil
}

// splitList splits what a variable or a flag gives for a list.
func splitList(k *key, text string) []string {
	if k.form != formList {
		return []string{text}
	}
	if text == "" && k.empty {
		return nil
	}
	parts := strings.Split(text, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

func (ld *loader) checkHooks(names []string) error {
	for _, name := range names {
		if name == HooksDefault || name == HooksNone {
			if len(names) > 1 {
				return fmt.Errorf("%q stands alone", name)
			}
			return nil
		}
		if ld.hooks != nil && !slices.Contains(ld.hooks, name) {
			return fmt.Errorf("%q is no hook%s; there are %s", name, DidYouMean(name, ld.hooks), strings.Join(ld.hooks, ", "))
		}
	}
	return nil
}

// environ takes the plain names first, so that a prefixed one wins over its plain
// twin whatever their order.
func (ld *loader) environ(environ []string) {
	ld.newLayer()
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if k := plainKey(name); k != nil {
			ld.set(k, Origin{Layer: LayerPlainEnv, Name: name}, value)
		}
	}
	ld.newLayer()
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || ofKubernetes(name, value) {
			continue
		}
		o := Origin{Layer: LayerEnv, Name: name}
		if k := envKey(name); k != nil && k.fileOnly() {
			ld.problem(o, k.name, "only the YAML file can set it; allowed: %s", k.allowed)
			continue
		} else if k != nil {
			ld.set(k, o, splitList(k, value)...)
			continue
		}
		ld.unknown(o, "", "setting", name, envNames())
	}
}

// ofKubernetes reports whether a variable is one of those that the kubelet sets
// in every container for each service in its namespace: a service named rmagent
// must not stop the agent.
func ofKubernetes(name, value string) bool {
	rest := strings.TrimPrefix(name, envPrefix)
	return strings.HasPrefix(rest, "SERVICE_HOST") || strings.HasPrefix(rest, "SERVICE_PORT") ||
		rest == "PORT" && strings.Contains(value, "://") || strings.HasPrefix(rest, "PORT_")
}

func plainKey(name string) *key {
	lower := strings.ToLower(name)
	if name != strings.ToUpper(name) || !slices.Contains(plainNames, lower) {
		return nil
	}
	return keyNamed(lower)
}

func envKey(name string) *key {
	i := slices.IndexFunc(keys, func(k key) bool { return k.env() == name })
	if i < 0 {
		return nil
	}
	return &keys[i]
}

func envNames() []string {
	names := make([]string, len(keys))
	for i := range keys {
		names[i] = keys[i].env()
	}
	return names
}

func (ld *loader) flags(flags map[string]string) {
	ld.newLayer()
	for i := range keys {
		k := &keys[i]
		if text, given := flags[k.flag()]; given && !k.fileOnly() {
			ld.set(k, Origin{Layer: LayerFlag, Name: k.flag()}, splitList(k, text)...)
		}
	}
}

// settings takes values by key.
func (ld *loader) settings(settings map[string]string) {
	ld.newLayer()
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		o := Origin{Layer: LayerSetting, Name: name}
		k := keyNamed(name)
		switch {
		case k == nil:
			ld.unknown(o, "", "setting", name, keyNames())
		case k.fileOnly():
			ld.problem(o, k.name, "only the YAML file can set it; allowed: %s", k.allowed)
		default:
			ld.set(k, o, splitList(k, settings[name])...)
		}
	}
}

// track adds rules to those of the file.
func (ld *loader) track(more []Tracked) {
	if len(more) == 0 {
		return
	}
	k, all := keyNamed(trackedName), Items{}
	for _, layer := range ld.layers {
		if list, ok := layer[trackedName].(Items); ok {
			all = list
		}
	}
	all = slices.Clone(all)
	for _, t := range more {
		item := map[string]any{}
		o := Origin{Layer: LayerSetting, Name: itemName(trackedName, len(all))}
		if err := mapstructureOf(t, &item); err != nil {
			ld.problem(o, trackedName, "%v", err)
			return
		}
		ld.origins[o.Name] = o
		for i := range k.fields {
			f := &k.fields[i]
			ld.origins[o.Name+"."+f.name] = o
			if v := item[f.name]; f.shown(v) {
				if _, err := f.value(textsOf(v)); err != nil {
					ld.mistake(trackedName)
					ld.problem(o, f.name, "%v; allowed: %s", err, f.allowed)
				}
			}
		}
		all = append(all, item)
	}
	ld.put(k, ld.origins[trackedName], all)
}

// textsOf writes a typed value as the file would have it.
func textsOf(v any) []string {
	if list, ok := v.([]string); ok {
		return list
	}
	return []string{fmt.Sprint(v)}
}

// mapstructureOf makes a map of a struct, by the names of its keys.
func mapstructureOf(from any, to *map[string]any) error {
	d, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{Result: to, TagName: "config"})
	if err != nil {
		return err
	}
	return d.Decode(from)
}

// DidYouMean returns a hint at the one of the names that is like a wrong one, or nothing.
func DidYouMean(name string, names []string) string {
	upper := make(map[string]string, len(names))
	lower := make([]string, len(names))
	for i, n := range names {
		lower[i] = strings.ToLower(n)
		upper[lower[i]] = n
	}
	if near := nearest(name, lower); near != "" {
		return "; did you mean " + upper[near] + "?"
	}
	return ""
}
