package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// A verdict is what a line says of its tests.
type verdict string

const (
	must verdict = "must" // run, and pass
	may  verdict = "may"  // be skipped
	not  verdict = "not"  // run there at all
)

// A rule is one line of the matrix for one kernel.
type rule struct {
	line    int
	pkg     string // below the module
	test    string // pattern
	verdict verdict
	matched bool // by a test that ran; one that passed for must
}

func (r *rule) String() string {
	return fmt.Sprintf("line %d: %s %s %s", r.line, r.pkg, r.test, r.verdict)
}

func (r *rule) covers(pkg, test string) bool {
	matches, _ := path.Match(r.test, test) // the pattern has been checked
	return r.pkg == pkg && matches
}

// parseMatrix returns the rules for one kernel.
func parseMatrix(in io.Reader, kernel string) ([]*rule, error) {
	var rules []*rule
	scanner := bufio.NewScanner(in)
	for number := 1; scanner.Scan(); number++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		kernels, r, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if slices.Contains(kernels, kernel) {
			r.line = number
			rules = append(rules, r)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, err
	}
	if len(rules) == 0 {
		return nil, fmt.Errorf("no line for kernel %q", kernel)
	}
	return rules, nil
}

func parseLine(line string) (kernels []string, r *rule, err error) {
	fields := strings.Fields(line)
	if len(fields) < 4 {
		return nil, nil, errors.New("want KERNELS PACKAGE TEST must, may REASON or not REASON")
	}
	r = &rule{pkg: fields[1], test: fields[2], verdict: verdict(fields[3])}
	reason := fields[4:]
	switch r.verdict {
	case must:
		if len(reason) > 0 {
			return nil, nil, errors.New("must takes no reason")
		}
	case may, not:
		if len(reason) == 0 {
			return nil, nil, fmt.Errorf("%s needs a reason", r.verdict)
		}
	default:
		return nil, nil, fmt.Errorf("%q is neither must, may nor not", r.verdict)
	}
	if _, err := path.Match(r.test, ""); err != nil {
		return nil, nil, fmt.Errorf("test %q: %w", r.test, err)
	}
	if r.verdict == not && strings.ContainsAny(r.test, `*?[\`) {
		return nil, nil, fmt.Errorf("test %q: not takes one name, no pattern", r.test)
	}
	return strings.Split(fields[0], ","), r, nil
}

// skipPattern is what go test -skip has to be given for a package.
func skipPattern(rules []*rule, pkg string) string {
	var patterns []string
	for _, r := range rules {
		if r.verdict != not || r.pkg != pkg {
			continue
		}
		elements := strings.Split(r.test, "/") // each a regular expression
		for i, e := range elements {
			elements[i] = "^" + regexp.QuoteMeta(e) + "$"
		}
		patterns = append(patterns, strings.Join(elements, "/"))
	}
	return strings.Join(patterns, "|")
}

func packages(rules []*rule) []string {
	var names []string
	for _, r := range rules {
		names = append(names, r.pkg)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
