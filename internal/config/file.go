package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"rmagent/internal/policy"
)

// lazily compiles a pattern when it is first asked for: every command has a
// configuration, and nearly none needs a pattern.
func lazily(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}

// maxFile bounds the YAML file: all keys with their comments take a few KiB.
const maxFile = 256 << 10

// file puts the YAML file on a layer of its own.
func (ld *loader) file(path string, content []byte) {
	ld.newLayer()
	at := func(line int) Origin { return Origin{LayerFile, path, line} }
	if len(content) > maxFile {
		ld.problem(at(0), "", "it has more than the %d bytes that are allowed", maxFile) // no more were read
		return
	}
	doc, err := document(content)
	if err != nil {
		line, what := yamlError(err)
		ld.problem(at(line), "", "%s", what)
		return
	}
	if doc == nil {
		return
	}
	w := walker{ld: ld, at: at, seen: map[string]int{}}
	w.mapping(doc, "")
}

// document returns the root of the only document, or nil where the file says
// nothing.
func document(content []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(content))
	var first, second yaml.Node
	err := d.Decode(&first)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("yaml: line %d: a second document; allowed: one", second.Line)
	}
	root := first.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	return root, nil
}

var yamlLine = lazily(`^(?:yaml: )?line ([0-9]+): `)

// yamlError takes the line out of the parser's text, which has no other place
// for it.
func yamlError(err error) (line int, what string) {
	what = err.Error()
	if m := yamlLine().FindStringSubmatch(what); m != nil {
		line, _ = strconv.Atoi(m[1])
		what = what[len(m[0]):]
	}
	return line, "it is not YAML: " + strings.TrimPrefix(what, "yaml: ")
}

// walker goes through the nodes and sets what it finds.
type walker struct {
	ld   *loader
	at   func(line int) Origin
	seen map[string]int // the line of each key
}

func (w *walker) mapping(n *yaml.Node, prefix string) {
	name := strings.TrimSuffix(prefix, ".")
	if w.refused(n, name) {
		return
	}
	if n.Kind != yaml.MappingNode {
		w.ld.problem(w.at(n.Line), name, "it is %s; allowed: keys with values", describe(n))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			w.ld.problem(w.at(k.Line), name, "a key is %s; allowed: a name", describe(k))
			continue
		}
		w.entry(prefix+k.Value, k.Line, v)
	}
}

func (w *walker) entry(name string, line int, v *yaml.Node) {
	if first, twice := w.seen[name]; twice {
		w.ld.problem(w.at(line), name, "it was set in line %d already", first)
		return
	}
	w.seen[name] = line
	k := keyNamed(name)
	switch {
	case k != nil:
		w.value(k, line, v)
	case isGroup(name):
		w.mapping(v, name+".")
	default:
		w.ld.unknown(w.at(line), name, "key", name, keyNames())
	}
}

func (w *walker) value(k *key, line int, v *yaml.Node) {
	if k.form == formItems {
		w.items(k, line, v)
		return
	}
	if texts, ok := w.texts(k, k.name, v); ok {
		w.ld.set(k, w.at(line), texts...)
	}
}

// texts takes what was given for a key, or reports why not; name is the key's in
// full.
func (w *walker) texts(k *key, name string, v *yaml.Node) ([]string, bool) {
	if w.refused(v, name) {
		return nil, false
	}
	if k.form == formList && v.Kind == yaml.SequenceNode {
		texts := make([]string, 0, len(v.Content))
		for _, e := range v.Content {
			if w.refused(e, name) {
				return nil, false
			}
			if e.Kind != yaml.ScalarNode || e.Tag != "!!str" {
				w.ld.problem(w.at(e.Line), name, "an element is %s; allowed: %s", describe(e), k.allowed)
				return nil, false
			}
			texts = append(texts, e.Value)
		}
		return texts, true
	}
	if v.Kind != yaml.ScalarNode || !k.takes(v.Tag) || k.form == formList && !k.commas {
		w.ld.problem(w.at(v.Line), name, "it is %s; allowed: %s", describe(v), k.allowed)
		return nil, false
	}
	return splitList(k, v.Value), true
}

// items takes a list of mappings.
func (w *walker) items(k *key, line int, v *yaml.Node) {
	if w.refused(v, k.name) {
		return
	}
	if v.Kind != yaml.SequenceNode {
		w.ld.problem(w.at(v.Line), k.name, "it is %s; allowed: %s", describe(v), k.allowed)
		return
	}
	if len(v.Content) > maxItems {
		w.ld.problem(w.at(v.Line), k.name, "it has %d items; allowed: at most %d", len(v.Content), maxItems)
		return
	}
	all := Items{}
	for i, e := range v.Content {
		if item := w.item(k, itemName(k.name, i), e); item != nil {
			all = append(all, item)
		}
	}
	w.ld.put(k, w.at(line), all)
}

// itemName is how messages and origins call an item: its position counts from 0.
func itemName(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

// item takes one mapping; what is left out has its default.
func (w *walker) item(k *key, name string, n *yaml.Node) map[string]any {
	if w.refused(n, name) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		w.ld.problem(w.at(n.Line), name, "it is %s; allowed: keys with values", describe(n))
		return nil
	}
	w.ld.origins[name] = w.at(n.Line)
	item := map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		w.field(k, item, name, n.Content[i], n.Content[i+1])
	}
	whole := true
	for i := range k.fields {
		f := &k.fields[i]
		if _, set := item[f.name]; set {
			continue
		}
		if w.seen[name+"."+f.name] > 0 {
			whole = false // and what is wrong with it was reported
			continue
		}
		if f.def == nil {
			w.ld.problem(w.at(n.Line), name+"."+f.name, "it is missing; allowed: %s", f.allowed)
			whole = false
			continue
		}
		item[f.name] = f.def
		w.ld.origins[name+"."+f.name] = Origin{Layer: LayerDefault}
	}
	if !whole {
		return nil
	}
	return item
}

func (w *walker) field(k *key, item map[string]any, of string, name, v *yaml.Node) {
	if name.Kind != yaml.ScalarNode || name.Tag == "!!merge" {
		w.ld.problem(w.at(name.Line), of, "a key is %s; allowed: a name", describe(name))
		return
	}
	full := of + "." + name.Value
	if first, twice := w.seen[full]; twice {
		w.ld.problem(w.at(name.Line), full, "it was set in line %d already", first)
		return
	}
	w.seen[full] = name.Line
	f := k.field(name.Value)
	if f == nil {
		w.ld.unknown(w.at(name.Line), full, "key", name.Value, k.fieldNames())
		return
	}
	texts, ok := w.texts(f, full, v)
	if !ok {
		return
	}
	value, err := f.value(texts)
	if err != nil {
		w.ld.problem(w.at(name.Line), full, "%v; allowed: %s", err, f.allowed)
		return
	}
	item[f.name] = value
	w.ld.origins[full] = w.at(name.Line)
}

func (k *key) fieldNames() []string {
	names := make([]string, len(k.fields))
	for i := range k.fields {
		names[i] = k.fields[i].name
	}
	return names
}

// takes reports whether a scalar of YAML's tag suits the key.
func (k *key) takes(tag string) bool {
	number := tag == "!!int" || tag == "!!float"
	switch k.form {
	case formNumber:
		return number
	case formSpan:
		return number || tag == "!!str"
	case formBool:
		return tag == "!!bool"
	default:
		return tag == "!!str"
	}
}

// refused reports a problem for an anchor or an alias.
func (w *walker) refused(n *yaml.Node, name string) bool {
	if n.Kind != yaml.AliasNode && n.Anchor == "" {
		return false
	}
	w.ld.problem(w.at(n.Line), name, "anchors and aliases are not allowed")
	return true
}

func isGroup(name string) bool {
	for i := range keys {
		if strings.HasPrefix(keys[i].name, name+".") {
			return true
		}
	}
	return false
}

// keyNames returns the names of all keys and of their groups.
func keyNames() []string {
	var names []string
	for i := range keys {
		names = append(names, keys[i].name)
	}
	names = append(names, thresholdGroup)
	for _, r := range policy.Resources {
		names = append(names, strings.TrimSuffix(thresholdPrefix(r), "."))
	}
	return names
}

// describe names what a node is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.Tag {
	case "!!null":
		return "empty"
	case "!!merge":
		return "a merge"
	case "!!str":
		return fmt.Sprintf("the text %.40q", n.Value)
	case "!!int", "!!float":
		return fmt.Sprintf("the number %.40s", n.Value)
	case "!!bool":
		return n.Value
	}
	return fmt.Sprintf("a %.40s", n.Tag)
}
