package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"rmagent/internal/category"
	"rmagent/internal/cctools"
	"rmagent/internal/cmdline"
	"rmagent/internal/human"
	"rmagent/record"
)

func categoryCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "category",
		Usage:     "learn from jobs that ended how much the next one should be given at first",
		ArgsUsage: "FILE...",
		Description: "FILEs are summaries (of exec, or of cctools' resource_monitor), many in one file or each in its\n" +
			"own, or JSON lines with records of jobs; - is stdin. A job that needs more than its first\n" +
			"allocation is taken to run again, with the most that was seen. Modes: fixed (the most that was\n" +
			"seen), max (that, rounded up), throughput (most jobs done), waste (least left unused).",
		Flags: cmdline.Flags(
			&cli.StringFlag{Name: "mode", Usage: "only the first allocation by `MODE`: fixed, max, throughput or waste"},
			&cli.BoolFlag{Name: "json", Usage: "one JSON object"},
		),
		Action: showCategories,
	})
}

func showCategories(c *cli.Context) error {
	modes := category.Modes
	if mode := category.Mode(c.String("mode")); mode != "" {
		if !slices.Contains(modes, mode) {
			return cmdline.Usagef("--mode %q: allowed are fixed, max, throughput and waste", mode)
		}
		modes = []category.Mode{mode}
	}
	if !c.Args().Present() {
		return cmdline.Usagef("category: no file of summaries is named")
	}
	set := category.NewSet()
	for _, path := range c.Args().Slice() {
		if err := readJobs(set, path); err != nil {
			return err
		}
	}
	report := reportCategories(set, modes)
	if c.Bool("json") {
		return printJSON(c.App.Writer, report, true)
	}
	return printCategories(c.App.Writer, report)
}

// readJobs adds the jobs of one file; one without any is a mistake.
func readJobs(set *category.Set, path string) error {
	in, name := io.Reader(os.Stdin), "stdin"
	if path != "-" {
		f, err := openInput("category", path)
		if err != nil {
			return err
		}
		defer f.Close()
		in, name = f, path
	}
	n, err := set.Read(name, in)
	if err == nil && n == 0 {
		err = fmt.Errorf("%s: no job is in it", name)
	}
	var errno *os.PathError
	if errors.As(err, &errno) {
		return errno // it names the file itself
	}
	return err
}

// categoriesJSON is what category --json prints.
type categoriesJSON struct {
	Categories []categoryJSON `json:"categories"` // that of all jobs last
}

type categoryJSON struct {
	Category  string         `json:"category"`
	Jobs      int            `json:"jobs"`
	Exhausted int            `json:"exhausted"` // that a limit ended
	Signalled int            `json:"signalled"` // that a signal ended
	Unclear   int            `json:"unclear"`   // whose wall time is unknown
	Resources []resourceJSON `json:"resources"`
}

type resourceJSON struct {
	Resource    string               `json:"resource"`
	Unit        string               `json:"unit"` // of the values below; MB is 2^20 bytes
	Measured    int                  `json:"measured"`
	MaximumSeen record.Opt[float64]  `json:"maximum_seen"`
	Allocations []allocationCostJSON `json:"allocations"`
}

type allocationCostJSON struct {
	Mode            category.Mode       `json:"mode"`
	FirstAllocation record.Opt[float64] `json:"first_allocation"`
	Retries         record.Opt[uint64]  `json:"retries"`     // of the measured
	UnitSeconds     record.Opt[float64] `json:"waste"`       // unit times seconds
	WasteRatio      record.Opt[float64] `json:"waste_ratio"` // of what would be allocated
	JobsPerSecond   record.Opt[float64] `json:"jobs_per_second"`
}

func reportCategories(set *category.Set, modes []category.Mode) categoriesJSON {
	var r categoriesJSON
	for _, name := range set.Names() {
		c := set.Get(name)
		n := c.Counts()
		j := categoryJSON{Category: record.Text([]byte(name)), Jobs: n.Jobs, Exhausted: n.Exhausted, Signalled: n.Signalled, Unclear: n.Unclear}
		for _, id := range category.Resources {
			res := resourceJSON{Resource: id.String(), Unit: id.Unit(), Measured: c.Measured(id), MaximumSeen: record.SomeIf(c.MaximumSeen(id))}
			for _, mode := range modes {
				res.Allocations = append(res.Allocations, costOf(c, id, mode))
			}
			j.Resources = append(j.Resources, res)
		}
		r.Categories = append(r.Categories, j)
	}
	return r
}

func costOf(c *category.Category, id cctools.Measure, mode category.Mode) allocationCostJSON {
	a := allocationCostJSON{Mode: mode}
	v, ok := c.FirstAllocation(id, mode)
	if !ok {
		return a
	}
	a.FirstAllocation = record.Some(v)
	if c.Measured(id) == 0 {
		return a
	}
	a.Retries = record.Some(uint64(c.Retries(id, v)))
	a.UnitSeconds = record.Some(c.Waste(id, v))
	percent, known := c.WastePercent(id, v)
	a.WasteRatio = record.SomeIf(percent/100, known)
	a.JobsPerSecond = record.SomeIf(c.Throughput(id, v))
	return a
}

// printCategories writes the report for people.
func printCategories(w io.Writer, r categoriesJSON) error {
	var b strings.Builder
	for i := range r.Categories {
		c := &r.Categories[i]
		if len(r.Categories) == 2 && i == 1 {
			break // all jobs are of one category
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(categoryTitle(c))
		fmt.Fprintf(&b, "  %-9s %12s  %-10s %14s %9s %7s %9s\n", "", "MOST SEEN", "MODE", "GIVE AT FIRST", "RUN AGAIN", "UNUSED", "JOBS/HOUR")
		for k := range c.Resources {
			printResource(&b, &c.Resources[k])
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func categoryTitle(c *categoryJSON) string {
	title := fmt.Sprintf("%s: %d jobs", human.Text(c.Category), c.Jobs)
	if c.Jobs == 1 {
		title = fmt.Sprintf("%s: 1 job", human.Text(c.Category))
	}
	for _, part := range []struct {
		n    int
		what string
	}{{c.Exhausted, "ended by a limit"}, {c.Signalled, "ended by a signal"}, {c.Unclear, "without a wall time"}} {
		if part.n > 0 {
			title += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return title + "\n"
}

func printResource(b *strings.Builder, r *resourceJSON) {
	id, _ := cctools.MeasureOf(r.Resource)
	most, ok := r.MaximumSeen.Get()
	if !ok {
		fmt.Fprintf(b, "  %-9s %12s\n", r.Resource, "unknown")
		return
	}
	name, seen := r.Resource, id.TextWithUnit(most)
	for i := range r.Allocations {
		a := &r.Allocations[i]
		first := "unknown"
		if v, ok := a.FirstAllocation.Get(); ok {
			first = id.TextWithUnit(v)
		}
		again, unused, speed := "-", "-", "-"
		if n, ok := a.Retries.Get(); ok {
			again = fmt.Sprintf("%d of %d", n, r.Measured)
		}
		if v, ok := a.WasteRatio.Get(); ok {
			unused = fmt.Sprintf("%.0f %%", 100*v)
		}
		if v, ok := a.JobsPerSecond.Get(); ok {
			speed = fmt.Sprintf("%.1f", 3600*v)
		}
		fmt.Fprintf(b, "  %-9s %12s  %-10s %14s %9s %7s %9s\n", name, seen, a.Mode, first, again, unused, speed)
		name, seen = "", ""
	}
}
