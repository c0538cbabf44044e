package cctools

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrNoSummary is JSON that is no summary.
var ErrNoSummary = errors.New("no summary of a job")

// MaxSummary is how many bytes one summary, or record, may have.
const MaxSummary = 4 << 20

// ReadSummaries calls each for every JSON object that r has, one after the other, on
// a line or on many, with lines that begin with # between them: summary files, files
// of many summaries, records of rmagent. An error begins with name and the line, that
// where the object begins unless it is no JSON. raw is only valid in the call.
func ReadSummaries(name string, r io.Reader, each func(raw json.RawMessage) error) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	var o objects
	for line := 1; ; line++ {
		text, err := readLine(lines, MaxSummary-len(o.text))
		if err == nil || errors.Is(err, io.EOF) {
			if at, err := o.add(text, line, errors.Is(err, io.EOF), each); err != nil {
				return fmt.Errorf("%s:%d: %w", name, at, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", name, line, err)
		}
	}
}

// readLine returns a line with its newline, which must not have more than most bytes.
func readLine(r *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > most {
			return nil, fmt.Errorf("more than %d bytes in one summary", MaxSummary)
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// objects gathers lines until the objects that they have are whole.
type objects struct {
	text  []byte
	begin int  // the line where text begins
	depth int  // braces and brackets that are open
	inner bool // inside a string
	slash bool // after a backslash in it
}

// add takes a line, and the last one, and calls each for what is whole. It returns
// the line of what failed.
func (o *objects) add(line []byte, number int, last bool, each func(json.RawMessage) error) (int, error) {
	if len(o.text) == 0 {
		trimmed := bytes.TrimLeft(line, " \t\r\n")
		if len(trimmed) == 0 || trimmed[0] == '#' {
			return 0, nil
		}
		o.begin = number
	}
	o.take(line)
	if o.depth > 0 && !last {
		return 0, nil
	}
	text := o.text
	o.text, o.depth, o.inner, o.slash = o.text[:0], 0, false, false
	d := json.NewDecoder(bytes.NewReader(text))
	for {
		var raw json.RawMessage
		err := d.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return 0, nil
		}
		if err != nil {
			return o.begin - 1 + jsonLine(text, 1, err), jsonError(err)
		}
		if err := each(raw); err != nil {
			return o.begin, err
		}
	}
}

// take appends a line, and counts what opens and closes outside of strings. Older
// versions of cctools write \' for ' in strings, which is no JSON.
func (o *objects) take(line []byte) {
	for _, c := range line {
		o.text = append(o.text, c)
		switch {
		case o.slash:
			o.slash = false
			if c == '\'' {
				o.text = append(o.text[:len(o.text)-2], c)
			}
		case o.inner:
			o.slash, o.inner = c == '\\', c != '"'
		case c == '"':
			o.inner = true
		case c == '{' || c == '[':
			o.depth++
		case c == '}' || c == ']':
			o.depth--
		}
	}
}

// ParseSummary reads one summary. A value in a unit that is not the measure's own is
// converted; one in a unit that makes no sense, or that is no number, is an error.
func ParseSummary(raw json.RawMessage) (*Summary, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil || members == nil {
		return nil, ErrNoSummary
	}
	s := new(Summary)
	texts := map[string]*string{
		"category": &s.Category, "command": &s.Command, "taskid": &s.TaskID, "task_id": &s.TaskID,
		"exit_type": (*string)(&s.ExitType), "host": &s.Host, "monitor_version": &s.MonitorVersion,
		"executable_type": &s.ExecutableType, keyCause: &s.Cause, keyMeasuredBy: &s.MeasuredBy,
	}
	ints := map[string]*int{"exit_status": &s.ExitStatus, "signal": &s.Signal, "last_error": &s.LastError}
	for name, value := range members {
		var err error
		if text := texts[name]; text != nil {
			err = json.Unmarshal(value, text)
		} else if n := ints[name]; n != nil {
			err = json.Unmarshal(value, n)
		} else if name == "limits_exceeded" {
			err = s.readExceeded(value)
		} else if name == "peak_times" {
			err = readMeasures(value, &s.PeakTimes, func(Measure) string { return "s" })
		} else if id, ok := MeasureOf(name); ok {
			err = readMeasure(value, id, id.Unit(), &s.Measures)
		} else {
			s.readExactness(name, value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for i := range s.Exceeded {
		s.Exceeded[i].Value, _ = s.Measures.Get(s.Exceeded[i].Measure)
	}
	if s.Measures.Empty() && s.ExitType == "" {
		return nil, ErrNoSummary
	}
	return s, nil
}

// readExceeded reads the limits that were broken; what was measured is the
// summary's own value.
func (s *Summary) readExceeded(raw json.RawMessage) error {
	var limits Measures
	if err := readMeasures(raw, &limits, Measure.Unit); err != nil {
		return err
	}
	for id := range Measure(NumMeasures) {
		if v, ok := limits.Get(id); ok {
			s.Exceeded = append(s.Exceeded, Exceeded{Measure: id, Limit: v})
		}
	}
	return nil
}

func (s *Summary) readExactness(name string, raw json.RawMessage) {
	for _, kind := range []Exactness{Exact, Sampled, AtLeast} {
		var list string
		if name != kind.String() || json.Unmarshal(raw, &list) != nil {
			continue
		}
		for word := range strings.FieldsSeq(list) {
			if id, ok := MeasureOf(word); ok {
				s.Exactness[id] = kind
			}
		}
	}
}

func readMeasures(raw json.RawMessage, into *Measures, unit func(Measure) string) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return errors.New("it is no object")
	}
	for name, value := range members {
		id, ok := MeasureOf(name)
		if !ok {
			continue
		}
		if err := readMeasure(value, id, unit(id), into); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// readMeasure reads [value, "unit"] in the unit that own is, or one of its kind.
func readMeasure(raw json.RawMessage, id Measure, own string, into *Measures) error {
	if string(raw) == "null" {
		return nil
	}
	v, unit, err := valueAndUnit(raw)
	if err != nil {
		return err
	}
	factor := 1.0
	if unit != "" && unit != own {
		f, ok := units[own][unit]
		if !ok {
			return fmt.Errorf("unit %s makes no sense: it is counted in %s", quote(unit), own)
		}
		factor = f
	}
	into.Set(id, v*factor)
	return nil
}
