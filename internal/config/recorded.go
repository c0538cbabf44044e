package config

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"rmagent/record"
)

// Recorded reads what a config record says of what a policy needs: what it judges by,
// how often and of which processes there are records. Its names, which is all that the
// error has of places, begin with where. Keys that this version does not know are
// named, and left out.
func Recorded(where string, r *record.Config) (l *Loaded, unknown []string, err error) {
	values := map[string]any{}
	for name, v := range r.Values {
		switch {
		case !slices.ContainsFunc(keyNames(), func(k string) bool { return k == name || strings.HasPrefix(k, name+".") }):
			unknown = append(unknown, name)
		case judges(name):
			values[name] = v
		}
	}
	slices.Sort(unknown)
	text, err := json.Marshal(values) // which YAML reads, too
	if err != nil {
		return nil, unknown, fmt.Errorf("%s: %w", where, err)
	}
	l, err = Load(Inputs{Path: where, File: text, Part: true})
	return l, unknown, err
}

// judges tells the keys that matter to who judges records.
func judges(name string) bool {
	first := slices.IndexFunc(keys, func(k key) bool { return strings.HasPrefix(k.name, thresholdGroup) })
	last := slices.IndexFunc(keys, func(k key) bool { return k.name == "tracked" })
	at := slices.IndexFunc(keys, func(k key) bool { return k.name == name || strings.HasPrefix(k.name, name+".") })
	return name == "interval" || name == "processes" || first <= at && at <= last
}
