package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"rmagent/internal/policy"
)

// maxFile bounds the YAML file: all keys with their comments take a few KiB.
const maxFile = 256 << 10

// file puts the YAML file on a layer of its own.
func (ld *loader) file(path string, content []byte) {
	ld.newLayer()
	at := func(line int) Origin { return Origin{LayerFile, path, line} }
	if len(content) > maxFile {
		ld.problem(at(0), "", "it has %d bytes; allowed: at most %d", len(content), maxFile)
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

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line ([0-9]+): `)

// yamlError takes the line out of the parser's text, which has no other place
// for it.
func yamlError(err error) (line int, what string) {
	what = err.Error()
	if m := yamlLine.FindStringSubmatch(what); m != nil {
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
	if k.form == formRules {
		if !w.refused(v, k.name) {
			w.rules(k, line, v)
		}
		return
	}
	if texts, ok := w.texts(k, k.name, v); ok {
		w.ld.set(k, w.at(line), texts...)
	}
}

// texts takes the text of a scalar, or those of a list, for a key that is called name.
func (w *walker) texts(k *key, name string, v *yaml.Node) (texts []string, ok bool) {
	if w.refused(v, name) {
		return nil, false
	}
	if k.isList() && v.Kind == yaml.SequenceNode {
		texts = make([]string, 0, len(v.Content))
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
	if v.Kind != yaml.ScalarNode || !k.takes(v.Tag) {
		w.ld.problem(w.at(v.Line), name, "it is %s; allowed: %s", describe(v), k.allowed)
		return nil, false
	}
	return splitList(k, v.Value), true
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
