package rmagent

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The README's table has a row for every kind of record.
func TestReadmeHasEveryKind(t *testing.T) {
	files, err := filepath.Glob("record/*.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, kinds := text(t, "README.md"), 0
	for _, file := range files {
		for _, m := range regexp.MustCompile(`(?m)Kind\w+ +Kind = "(\w+)"`).FindAllStringSubmatch(text(t, file), -1) {
			kinds++
			if !regexp.MustCompile("(?m)^\\| [^|]*`" + m[1] + "`[^|]* \\|").MatchString(readme) {
				t.Errorf("no row has the kind %s", m[1])
			}
		}
	}
	if kinds < 10 {
		t.Errorf("%d kinds were found", kinds)
	}
}

// The architecture says of every package what its one job is, but for the programs of tests
// and benchmarks, which are below those that they belong to.
func TestArchitectureHasEveryPackage(t *testing.T) {
	architecture := text(t, "docs/architecture.md")
	met := map[string]bool{}
	err := filepath.WalkDir("internal", func(path string, d fs.DirEntry, err error) error {
		switch dir := filepath.Dir(path); {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "testdata":
			return fs.SkipDir
		case strings.HasPrefix(dir, "internal/bench/") || strings.HasPrefix(dir, "internal/vmtest/"):
		case filepath.Ext(path) == ".go" && !met[dir]:
			met[dir] = true
			if !strings.Contains(architecture, "`"+dir+"`") {
				t.Errorf("nothing says what %s is for", dir)
			}
		}
		return nil
	})
	if err != nil || len(met) < 10 {
		t.Errorf("%d packages were found: %v", len(met), err)
	}
}
