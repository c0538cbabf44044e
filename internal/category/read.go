package category

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"rmagent/internal/cctools"
	"rmagent/record"
)

// Read adds every job that r tells of: summary files, one or many in a file, of
// rmagent or of cctools, and records of kind job among rmagent's JSON lines; records
// of other kinds are passed over. It returns how many jobs there were. An error begins
// with name and the line, and what stands before it has been added.
func (s *Set) Read(name string, r io.Reader) (int, error) {
	jobs := 0
	err := cctools.ReadSummaries(name, r, func(raw json.RawMessage) error {
		summary, err := parse(raw)
		if summary == nil || err != nil {
			return err
		}
		if err := s.Add(summary); err != nil {
			return err
		}
		jobs++
		return nil
	})
	return jobs, err
}

// parse reads a summary or a record; nil: it is a record of something else.
func parse(raw json.RawMessage) (*cctools.Summary, error) {
	var head struct {
		Kind   *string `json:"kind"`
		Schema *int    `json:"schema"`
	}
	if err := json.Unmarshal(raw, &head); err != nil || head.Kind == nil || head.Schema == nil {
		return cctools.ParseSummary(raw)
	}
	if *head.Kind != string(record.KindJob) {
		return nil, nil
	}
	r, err := record.Decode(raw)
	if err != nil {
		return nil, err
	}
	job, ok := r.(*record.Job)
	if !ok {
		return nil, errors.New("no record of a job")
	}
	return cctools.SummaryOf(job), nil
}

// Lookup returns the category of that name, or an error that says which there are.
func (s *Set) Lookup(name string) (*Category, error) {
	if c := s.Get(name); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("no job is of category %q: there are %q", name, s.Names())
}
