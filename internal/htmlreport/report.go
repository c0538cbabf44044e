package htmlreport

import (
	"errors"
	"fmt"
	"io"
	"time"

	"rmagent/record"
)

const (
	maxMachines = 32
	maxKinds    = 64
	maxTroubles = 20
)

// Report is a summary of records. Its memory is bounded, whatever it reads.
type Report struct {
	machines *keyed[*machine]
	inputs   []*input
	read     bool // a record came
}

// New returns a report of nothing.
func New() *Report { return &Report{machines: newKeyed[*machine](maxMachines)} }

// input is what became of one input.
type input struct {
	name     string
	bytes    uint64 // of JSON lines
	records  uint64
	unknown  map[record.Kind]uint64 // of kinds that this version does not know
	bad      uint64
	troubles []string // the first bad lines
	torn     bool     // the last line has no end
}

// Read takes the JSON lines of one input, plain or compressed by gzip. name is for
// messages. Lines that are no records are counted and said on the page; an error is
// only what the input could not be read for, or that there is no record in it at all.
func (r *Report) Read(name string, src io.Reader) error {
	in := &input{name: name, unknown: map[record.Kind]uint64{}}
	r.inputs = append(r.inputs, in)
	if err := decode(in, src, r.add); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if in.records == 0 && len(in.unknown) == 0 {
		switch {
		case in.bytes == 0:
			return fmt.Errorf("%s: %w", name, errEmpty)
		case len(in.troubles) > 0:
			return fmt.Errorf("%s: no record in it: %s", name, in.troubles[0])
		}
	}
	return nil
}

var errEmpty = errors.New("no record in it: it is empty")

// add takes one record. It may keep it.
func (r *Report) add(x record.Record) {
	host := x.Head().Host
	if m := r.machines.get(host, func() *machine { return newMachine(host) }); m != nil {
		r.read = true
		m.add(x)
	}
}

// whyEmpty says of what was read why there is no page of it.
func (r *Report) whyEmpty() error {
	for _, in := range r.inputs {
		if len(in.unknown) > 0 {
			return fmt.Errorf("%s: no record in it that this version knows", in.name)
		}
	}
	return errEmpty
}

// Write writes the page. It is the last use of the report.
func (r *Report) Write(w io.Writer, now time.Time) error {
	if !r.read {
		return r.whyEmpty()
	}
	return render(w, r.page(now))
}
