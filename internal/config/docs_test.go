package config

import (
	"bytes"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// TestExample: the example file sets every key, to its default.
func TestExample(t *testing.T) {
	const path = "../../testdata/rmagent.example.yaml"
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load(Inputs{Path: path, File: content, Hooks: []string{"exits", "net", "oom"}})
	if err != nil {
		t.Fatal(err)
	}
	want, err := Load(Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Values(), got.Values()); diff != "" {
		t.Errorf("not the defaults (-want +got):\n%s", diff)
	}
	for _, k := range keys {
		if got.Origin(k.name).Layer != LayerFile {
			t.Errorf("%s is not in it", k.name)
		}
	}
}

// TestExampleActions: those that the example has as comments are valid, and of every
// kind.
func TestExampleActions(t *testing.T) {
	content, err := os.ReadFile("../../testdata/rmagent.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	before, commented, found := strings.Cut(string(content), "\nactions: []\n#actions:")
	if !found {
		t.Fatal("it has no commented actions")
	}
	text := before + "\nactions:" + strings.ReplaceAll(commented, "\n#  ", "\n  ")
	l, err := Load(Inputs{Path: "example", File: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, a := range l.Actions {
		kinds[a.Kind] = true
	}
	if len(kinds) != 4 {
		t.Errorf("kinds: %v", kinds)
	}
}

var update = flag.Bool("update", false, "write the files that are generated from the table of keys")

const schemaPath = "../../testdata/rmagent.schema.json"

// TestSchemaIsCommitted: the file in testdata is what the table of keys makes.
func TestSchemaIsCommitted(t *testing.T) {
	if *update {
		if err := os.WriteFile(schemaPath, Schema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	committed, err := os.ReadFile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(committed), string(Schema())); diff != "" {
		t.Errorf("write it with: go test ./internal/config -update (-committed +made)\n%s", diff)
	}
}

// TestSchemaAgrees: a validator of JSON schemas takes and refuses by the schema what
// Load does.
func TestSchemaAgrees(t *testing.T) {
	made, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("rmagent.schema.json", made); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("rmagent.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../testdata/rmagent.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range append(schemaCases, string(example), full) {
		_, loadErr := Load(Inputs{Path: "f", File: []byte(text)})
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		schemaErr := schema.Validate(value)
		if (loadErr == nil) != (schemaErr == nil) {
			t.Errorf("%s\nLoad: %v\nschema: %v", text, loadErr, schemaErr)
		}
	}
}

var schemaCases = []string{
	"interval: 2", "interval: 1m", "interval: true", "interval: 0", "intervall: 1s", "cpu_budget: 0.5", "cpu_budget: 5", "cpu_budget: a",
	"source: ebpf", "source: magic", "with_cmdline: true", "with_cmdline: 1", "hooks: [exits]", "hooks: exits,net", "hooks: []", "hooks: [1]",
	"thresholds: {fd: {warning: 0.85}}", "thresholds: {fd: {warming: 0.85}}", "thresholds: {fd: 1}", "rolling_window_size: 20", "rolling_window_size: 2.5",
	"actions: []", "actions: [{name: a, kind: log}]", "actions: [{name: a}]", "actions: [{kind: log}]", "actions: [{name: a, kind: dance}]",
	"actions: [{name: a, kind: log, on: [state, leak]}]", "actions: [{name: a, kind: log, on: [stat]}]", "actions: [{name: a, kind: log, colour: red}]",
	"actions: {name: a}", "actions: [{name: a, kind: log, max_per_hour: 0}]",
}

// TestDocumentation: the table has a row for every key, with its default.
func TestDocumentation(t *testing.T) {
	content, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	actions, err := os.ReadFile("../../docs/actions.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		for _, f := range k.fields {
			row := regexp.MustCompile("(?m)^\\| [^|]*`" + f.name + "`[^|]* \\|")
			if !row.Match(actions) && !row.Match(content) {
				t.Errorf("no row has %s of %s", f.name, k.name)
			}
		}
		row := "| `" + k.name + "` | "
		switch def := show(k.def); {
		case strings.HasPrefix(k.name, thresholdGroup+"."):
			row = "`…." + k.name[strings.LastIndex(k.name, ".")+1:] + "`"
		case def == `""`:
			row += "empty |"
		default:
			row += "`" + strings.Trim(def, `"`) + "` |"
		}
		if !strings.Contains(string(content), row) {
			t.Errorf("no row %s", row)
		}
	}
}
