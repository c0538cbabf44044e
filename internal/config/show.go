package config

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"rmagent/record"
)

// Write writes the configuration as a YAML file that Load would take, with the
// origin of each value in a comment.
func (l *Loaded) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	var group []string
	for i := range keys {
		k := &keys[i]
		parts := strings.Split(k.name, ".")
		for depth, name := range parts[:len(parts)-1] {
			if depth >= len(group) || group[depth] != name {
				fmt.Fprintf(b, "%s%s:\n", strings.Repeat("  ", depth), name)
				group = append(group[:min(depth, len(group))], name)
			}
		}
		name := strings.Repeat("  ", len(parts)-1) + parts[len(parts)-1] + ":"
		if list, ok := l.values[k.name].(Items); ok && len(list) > 0 {
			fmt.Fprintln(b, name)
			l.writeItems(b, k, list)
			continue
		}
		l.writeLine(b, name+" "+k.show(l.values[k.name]), k.name)
	}
	return b.Flush()
}

func (l *Loaded) writeLine(w io.Writer, line, key string) {
	fmt.Fprintf(w, "%-46s # %s\n", line, oneLine(l.origins[key].String()))
}

func (l *Loaded) writeItems(w io.Writer, k *key, list Items) {
	for i, item := range list {
		bullet := "  - "
		for j := range k.fields {
			f := &k.fields[j]
			if !f.shown(item[f.name]) {
				continue
			}
			l.writeLine(w, bullet+f.name+": "+f.show(item[f.name]), itemName(k.name, i)+"."+f.name)
			bullet = "    "
		}
	}
}

// show writes a typed value of the key as YAML, without secrets.
func (k *key) show(v any) string {
	if k.hide != nil {
		v = k.hide(v)
	}
	return show(v)
}

// show writes a typed value as YAML.
func show(v any) string {
	switch v := v.(type) {
	case time.Duration:
		return showDuration(v)
	case string:
		return quote(v)
	case Items:
		return "[]" // others are written line by line
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return fmt.Sprint(v)
	}
}

// plainWord is what YAML takes for a string without quotes.
var plainWord = lazily(`^[a-z][a-z_]+$`)

// quote writes a string. YAML's double quotes know every escape of Go's
// (https://yaml.org/spec/1.2.2/#57-escaped-characters).
func quote(s string) string {
	if plainWord().MatchString(s) && !slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off"}, s) {
		return s
	}
	return strconv.Quote(record.Text([]byte(s)))
}
