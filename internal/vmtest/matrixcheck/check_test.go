package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The events come from go test itself, run on this module.
var subject = map[string]string{
	"go.mod": "module subject\n\ngo 1.24\n",
	"good/good_test.go": `package good
import "testing"
func TestPass(t *testing.T) { t.Run("sub", func(t *testing.T) {}) }
func TestSkip(t *testing.T) { t.Skip("lacks something") }
func TestSkipSub(t *testing.T) { t.Run("sub", func(t *testing.T) { t.Skip() }) }
`,
	"bad/bad_test.go": `package bad
import "testing"
func TestFail(t *testing.T) { t.Error("failing loudly") }
func TestPass(t *testing.T) {}
`,
	"died/died_test.go": `package died
import ("fmt"; "os"; "testing")
func TestDies(t *testing.T) { fmt.Println("dying loudly"); os.Exit(0) }
`,
	"broken/broken_test.go": "package broken\nvar x = undefined\n",
}

func testEvents(t *testing.T, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command:", err)
	}
	dir := t.TempDir()
	for name, content := range subject {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", append([]string{"test", "-json", "-vet=off"}, args...)...)
	cmd.Dir = dir
	events, err := cmd.Output() // fails where the tests do
	if len(events) == 0 {
		t.Fatal(err)
	}
	return events
}

func judged(t *testing.T, matrix string, events []byte) (wrong []string, printed string) {
	t.Helper()
	rules, err := parseMatrix(strings.NewReader(matrix), "k")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c := newCheck("subject", rules, &out)
	if err := c.read(bytes.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	return c.end(), out.String()
}

func TestCheckRules(t *testing.T) {
	events := testEvents(t, "./good")
	for name, test := range map[string]struct {
		matrix string
		want   []string
	}{
		"kept": {"k good TestPass must\nk good TestSkip may reason\nk good TestSkipSub/* may reason", nil},
		"glob": {"k good TestP* must\nk good TestSkip may reason\nk good TestSkipSub/* may reason", nil},
		"star stops at a subtest": {"k good TestPass must\nk good TestSkip* may reason",
			[]string{"good TestSkipSub/sub was skipped and no line says it may"}},
		"skipped though it must": {"k good TestSkip must\nk good TestSkip* may reason\nk good TestSkipSub/* may reason",
			[]string{"line 1: good TestSkip must: no such test passed"}},
		"skipped without a word": {"k good TestPass must",
			[]string{"good TestSkip was skipped and no line says it may", "good TestSkipSub/sub was skipped and no line says it may"}},
		"did not run": {"k good TestSkip* may r\nk good TestSkip*/* may r\nk good TestGone must\nk good TestGone may r",
			[]string{"line 3: good TestGone must: no such test passed", "line 4: good TestGone may: no such test ran"}},
		"package did not run":      {"k gone Test* must", []string{"line 1: gone Test* must: no such test passed"}},
		"a line of another kernel": {"k good TestPass must\nother good TestGone must\nk good TestSkip* may r\nk good */sub may r", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, _ := judged(t, test.matrix, events)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckFailures(t *testing.T) {
	for _, test := range []struct{ pkg, rule, print string }{
		{"bad", "k bad TestPass must", "failing loudly"},
		{"bad", "k bad TestFail must", "failing loudly"},
		{"died", "k died TestDies must", "dying loudly"},
		{"broken", "k broken Test* must", "undefined: undefined"},
	} {
		wrong, printed := judged(t, test.rule, testEvents(t, "./"+test.pkg))
		if len(wrong) == 0 || wrong[len(wrong)-1] != "tests failed" {
			t.Errorf("%s: found %q, want tests failed", test.rule, wrong)
		}
		if !strings.Contains(printed, test.print) {
			t.Errorf("%s: printed no %q:\n%s", test.rule, test.print, printed)
		}
	}
}

// Whatever part of the events arrives, only the whole is good.
func TestCheckTruncatedEvents(t *testing.T) {
	events := testEvents(t, "-run", "Pass", "./good")
	lines := bytes.SplitAfter(bytes.TrimSpace(events), []byte("\n"))
	for n := range len(lines) + 1 {
		wrong, _ := judged(t, "k good TestPass must", bytes.Join(lines[:n], nil))
		if good := len(wrong) == 0; good != (n == len(lines)) {
			t.Errorf("%d of %d events: found %q", n, len(lines), wrong)
		}
	}
}

func TestParseMatrixRefuses(t *testing.T) {
	for _, matrix := range []string{
		"", "# comment", "other p TestX must",
		"k p TestX", "k p TestX should", "k p TestX not", "k p Test* not reason", "k p TestX may", "k p TestX must always", "k p Test[ must",
	} {
		if rules, err := parseMatrix(strings.NewReader(matrix), "k"); err == nil {
			t.Errorf("%q gave %v", matrix, rules)
		}
	}
}

func TestSkipPattern(t *testing.T) {
	const matrix = "k good TestSkipSub/sub not reason\nk good TestSkip not reason\nk bad TestFail not reason\nk good TestPass must"
	rules, err := parseMatrix(strings.NewReader(matrix), "k")
	if err != nil {
		t.Fatal(err)
	}
	// Nothing is skipped that is not allowed, because nothing is run.
	wrong, _ := judged(t, matrix, testEvents(t, "-skip", skipPattern(rules, "good"), "./good"))
	if len(wrong) > 0 {
		t.Errorf("found %q", wrong)
	}
}

// The project's own matrix has something to say for each kernel.
func TestOwnMatrix(t *testing.T) {
	content, err := os.ReadFile("../../../testdata/matrix.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, kernel := range []string{"6.1", "6.12"} {
		rules, err := parseMatrix(bytes.NewReader(content), kernel)
		if err != nil {
			t.Fatal(err)
		}
		for _, pkg := range packages(rules) {
			if files, _ := filepath.Glob(filepath.Join("../../..", pkg, "*_test.go")); len(files) == 0 {
				t.Errorf("package %s has no tests", pkg)
			}
		}
	}
}
