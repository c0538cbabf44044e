package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// event is what go test -json prints, one a line ("go doc test2json"), in so far
// as it is looked at here.
type event struct {
	Action     string
	Package    string
	ImportPath string // instead of Package where a build is concerned
	Test       string
	Output     string
}

// check judges events one by one and passes on what a person wants to read.
type check struct {
	module   string
	rules    []*rule
	listed   map[string]bool // packages with a rule
	running  map[string]bool // packages begun and not ended
	output   map[string]*strings.Builder
	breaches []string
	failed   bool // a test or a package has failed
	out      io.Writer
}

func newCheck(module string, rules []*rule, out io.Writer) *check {
	c := &check{
		module: module, rules: rules, out: out,
		listed:  map[string]bool{},
		running: map[string]bool{},
		output:  map[string]*strings.Builder{},
	}
	for _, name := range packages(rules) {
		c.listed[name] = true
	}
	return c
}

// read judges all events of in.
func (c *check) read(in io.Reader) error {
	d := json.NewDecoder(in)
	for {
		var e event
		switch err := d.Decode(&e); {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read test events: %w", err)
		}
		c.see(e)
	}
}

func (c *check) see(e event) {
	key := e.Package + e.ImportPath + " " + e.Test
	switch e.Action {
	case "start":
		c.running[e.Package] = true
	case "output", "build-output":
		if c.output[key] == nil {
			c.output[key] = &strings.Builder{}
		}
		c.output[key].WriteString(e.Output)
	case "build-fail":
		c.failed = true
		c.show(key)
	case "pass", "skip", "fail":
		if e.Action == "fail" {
			c.failed = true
		}
		if e.Test == "" {
			c.endPackage(e, key)
		} else {
			c.endTest(e, key)
		}
	}
}

func (c *check) endTest(e event, key string) {
	if e.Action == "fail" {
		c.show(key)
	}
	delete(c.output, key)
	pkg := c.below(e.Package)
	allowed := !c.listed[pkg]
	for _, r := range c.rules {
		if !r.covers(pkg, e.Test) {
			continue
		}
		switch r.verdict {
		case must:
			r.matched = r.matched || e.Action == "pass"
		case may:
			r.matched, allowed = true, true
		}
	}
	if e.Action == "skip" && !allowed {
		c.breaches = append(c.breaches, fmt.Sprintf("%s %s was skipped and no line says it may", pkg, e.Test))
	}
}

func (c *check) endPackage(e event, key string) {
	delete(c.running, e.Package)
	if e.Action == "fail" {
		c.show(key)
	} else if text := c.output[key]; text != nil {
		lines := strings.Split(strings.TrimRight(text.String(), "\n"), "\n")
		fmt.Fprintln(c.out, lines[len(lines)-1]) // ok, or no test files
	}
	// Output of tests that have no end: the program died in them.
	for k := range c.output {
		if strings.HasPrefix(k, e.Package+" ") {
			if k != key && e.Action == "fail" {
				c.show(k)
			}
			delete(c.output, k)
		}
	}
}

func (c *check) show(key string) {
	if text := c.output[key]; text != nil {
		io.WriteString(c.out, text.String())
	}
}

func (c *check) below(pkg string) string {
	return strings.TrimPrefix(strings.TrimPrefix(pkg, c.module), "/")
}

// end returns what is wrong after the last event.
func (c *check) end() []string {
	wrong := c.breaches
	for pkg := range c.running {
		wrong = append(wrong, pkg+" began and did not end")
	}
	for _, r := range c.rules {
		switch {
		case r.matched:
		case r.verdict == must:
			wrong = append(wrong, r.String()+": no such test passed")
		case r.verdict == may:
			wrong = append(wrong, r.String()+": no such test ran")
		}
	}
	if c.failed {
		wrong = append(wrong, "tests failed")
	}
	return wrong
}
