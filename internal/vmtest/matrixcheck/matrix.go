package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// A rule is one line of the matrix for one kernel.
type rule struct {
	line    int
	pkg     string // below the module
	test    string // pattern
	must    bool   // else a skip is allowed
	matched bool   // by a test that ran: passed for must, any for may
}

func (r *rule) String() string {
	word := "may"
	if r.must {
		word = "must"
	}
	return fmt.Sprintf("line %d: %s %s %s", r.line, r.pkg, r.test, word)
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
		return nil, nil, errors.New("want KERNELS PACKAGE TEST must, or KERNELS PACKAGE TEST may REASON")
	}
	r = &rule{pkg: fields[1], test: fields[2], must: fields[3] == "must"}
	switch {
	case fields[3] != "must" && fields[3] != "may":
		return nil, nil, fmt.Errorf("%q is neither must nor may", fields[3])
	case r.must && len(fields) > 4:
		return nil, nil, errors.New("must takes no reason")
	case !r.must && len(fields) == 4:
		return nil, nil, errors.New("may needs a reason")
	}
	if _, err := path.Match(r.test, ""); err != nil {
		return nil, nil, fmt.Errorf("test %q: %w", r.test, err)
	}
	return strings.Split(fields[0], ","), r, nil
}

func packages(rules []*rule) []string {
	var names []string
	for _, r := range rules {
		names = append(names, r.pkg)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
