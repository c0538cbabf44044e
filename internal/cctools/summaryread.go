package cctools

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrNoSummary is JSON that is no summary.
var ErrNoSummary = errors.New("no summary of a job")

// ReadSummaries calls each for every summary in data, which may have many, one after
// the other, with lines that begin with # between them. Of a summary it reads what
// describes the job and its use; snapshots are left out, names that it does not
// know ignored. An error begins with the file's name and the line where the summary
// begins. raw, the summary's own bytes, is only valid in the call: a caller that
// wants no summary of it (a record of another kind) reads on by returning nil.
func ReadSummaries(name string, data []byte, each func(raw json.RawMessage) error) error {
	if len(data) > MaxSummaryFile {
		return fmt.Errorf("%s: a file of summaries has at most %d bytes", name, MaxSummaryFile)
	}
	line := 1
	for at := 0; ; {
		skipped := skipComments(data[at:])
		line += bytes.Count(data[at:at+skipped], []byte("\n"))
		at += skipped
		if at == len(data) {
			return nil
		}
		d := json.NewDecoder(bytes.NewReader(data[at:]))
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return fmt.Errorf("%s:%d: %w", name, jsonLine(data[at:], 1, err)+line-1, jsonError(err))
		}
		if err := each(raw); err != nil {
			return fmt.Errorf("%s:%d: %w", name, line, err)
		}
		end := at + int(d.InputOffset())
		line += bytes.Count(data[at:end], []byte("\n"))
		at = end
	}
}

// skipComments returns how much of data is white space and lines of comment.
func skipComments(data []byte) int {
	at := 0
	for at < len(data) {
		switch data[at] {
		case ' ', '\t', '\r', '\n':
			at++
		case '#':
			end := bytes.IndexByte(data[at:], '\n')
			if end < 0 {
				return len(data)
			}
			at += end + 1
		default:
			return at
		}
	}
	return at
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
