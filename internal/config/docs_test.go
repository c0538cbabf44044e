package config

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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

// TestDocumentation: the table has a row for every key, with its default.
func TestDocumentation(t *testing.T) {
	content, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
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
