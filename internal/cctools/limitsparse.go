package cctools

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"rmagent/record"
)

// MaxLimitsFile is how many bytes a file of limits may have.
const MaxLimitsFile = 1 << 20

// ParseLimits reads limits as -L takes them, "memory: 200, wall_time: 60 s", into l.
// A value without a unit is in the measure's own; -1 takes a limit away. l is
// changed only if all of it is right.
func ParseLimits(text string, l *Limits) error {
	parsed := *l
	for part := range strings.SplitSeq(text, ",") {
		if err := parseLimit(part, &parsed); err != nil {
			return fmt.Errorf("limits %s: %w", quote(text), err)
		}
	}
	*l = parsed
	return nil
}

// ParseLimitsFile reads a file of limits into l: a JSON object of name: [value,
// "unit"], as a summary has them, or lines of "name: value unit", where # begins a
// comment. An error begins with the file's name and the line. What a summary has
// beside its measures (category, command, peak_times...) may be there, and limits
// nothing. l is changed only if the whole file is right.
func ParseLimitsFile(name string, data []byte, l *Limits) error {
	if len(data) > MaxLimitsFile {
		return fmt.Errorf("%s: a file of limits has at most %d bytes", name, MaxLimitsFile)
	}
	parsed := *l
	var err error
	line := 1
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) == 0 {
		return fmt.Errorf("%s:1: no limits in it", name)
	} else if trimmed[0] == '{' {
		line, err = limitsJSON(data, &parsed)
	} else {
		line, err = limitsLines(string(data), &parsed)
	}
	if err != nil {
		return fmt.Errorf("%s:%d: %w", name, line, err)
	}
	*l = parsed
	return nil
}

func limitsLines(text string, l *Limits) (line int, err error) {
	for part := range strings.SplitSeq(text, "\n") {
		line++
		part, _, _ = strings.Cut(part, "#")
		if strings.TrimSpace(part) == "" {
			continue
		}
		if err := parseLimit(strings.TrimSuffix(strings.TrimSpace(part), ","), l); err != nil {
			return line, err
		}
	}
	return line, nil
}

// parseLimit reads one "name: value unit".
func parseLimit(text string, l *Limits) error {
	name, value, ok := strings.Cut(text, ":")
	if !ok {
		return fmt.Errorf("%s is not of the form name: value", quote(strings.TrimSpace(text)))
	}
	value = strings.TrimSpace(value)
	end := strings.IndexFunc(value, func(r rune) bool { return !strings.ContainsRune("+-.0123456789eE", r) })
	if end < 0 {
		end = len(value)
	}
	number, err := strconv.ParseFloat(value[:end], 64)
	if err != nil {
		return fmt.Errorf("%s: %s is no number", quote(strings.TrimSpace(name)), quote(value))
	}
	return l.set(strings.TrimSpace(name), number, strings.TrimSpace(value[end:]))
}

// set sets the limit called name to a number of units; an empty unit is the
// measure's own.
func (l *Limits) set(name string, number float64, unit string) error {
	id, ok := MeasureOf(name)
	if !ok {
		return unknownLimit(name)
	}
	if number == -1 {
		l.Clear(id)
		return nil
	}
	if !(number >= 0) || math.IsInf(number, 1) {
		return fmt.Errorf("%s: %v: allowed are 0 and more, and -1 for no limit", name, number)
	}
	factor, ok := unitFactor(id, unit)
	if !ok {
		return fmt.Errorf("%s: unit %s makes no sense: it is counted in %s", name, quote(unit), unitsAllowed(id))
	}
	l.Set(id, number*factor)
	return nil
}

// unknownLimit says which names there are; a near miss is named alone.
func unknownLimit(name string) error {
	old := map[string]string{ // what cctools called them before
		"resident_memory": "memory", "workdir_footprint": "disk", "workdir_num_files": "total_files",
		"workdir_number_files_dirs": "total_files", "footprint": "disk",
	}
	if now := old[name]; now != "" {
		return fmt.Errorf("there is no limit called %s: it is %s now", name, now)
	}
	var names []string
	for i := range measures {
		names = append(names, measures[i].name)
	}
	return fmt.Errorf("there is no limit called %s: there are %s", quote(name), strings.Join(names, ", "))
}

// units has the size of each unit of a kind in the kind's own: s, MB, Mbps.
var units = map[string]map[string]float64{
	"s": {"s": 1, "sec": 1, "seconds": 1, "ms": 1e-3, "us": 1e-6, "min": 60, "h": 3600},
	"MB": {"B": 1.0 / BytesPerMB, "bytes": 1.0 / BytesPerMB, "kB": 1.0 / 1024, "KB": 1.0 / 1024, "KiB": 1.0 / 1024,
		"MB": 1, "MiB": 1, "GB": 1024, "GiB": 1024, "TB": 1 << 20, "TiB": 1 << 20},
	"Mbps": {"bps": 1e-6, "kbps": 1e-3, "Mbps": 1, "Gbps": 1e3},
}

func unitFactor(id Measure, unit string) (float64, bool) {
	if unit == "" || unit == id.Unit() {
		return 1, true
	}
	f, ok := units[id.Unit()][unit]
	return f, ok
}

func unitsAllowed(id Measure) string {
	switch id.Unit() {
	case "s":
		return "s, ms, us, min or h"
	case "MB":
		return "B, kB, MB, GB or TB (of 1024)"
	case "Mbps":
		return "bps, kbps, Mbps or Gbps"
	}
	return id.Unit()
}

// notLimits are the names in a summary that are no measures.
var notLimits = map[string]bool{
	"category": true, "command": true, "taskid": true, "task_id": true, "exit_type": true, "exit_status": true,
	"signal": true, "last_error": true, "limits_exceeded": true, "peak_times": true, "snapshots": true,
	"snapshot_name": true, "snapshots_count": true, "host": true, "monitor_version": true, "executable_type": true,
	"input_files": true, "output_files": true,
	keyCause: true, keyMeasuredBy: true, keyOOMKills: true, keyLimitsBroken: true, keyUnknown: true, keyFilesMissed: true,
	Exact.String(): true, Sampled.String(): true, AtLeast.String(): true,
}

// limitsJSON reads an object of limits, and tells the line where it failed.
func limitsJSON(data []byte, l *Limits) (line int, err error) {
	return eachMember(data, func(name string, raw json.RawMessage) error {
		if notLimits[name] {
			return nil
		}
		if _, ok := MeasureOf(name); !ok {
			return unknownLimit(name)
		}
		number, unit, err := valueAndUnit(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return l.set(name, number, unit)
	})
}

// valueAndUnit reads [200, "MB"], [200] or 200.
func valueAndUnit(raw json.RawMessage) (float64, string, error) {
	const want = `a value is [number, "unit"] or a number`
	var number float64
	if err := json.Unmarshal(raw, &number); err == nil && raw[0] != 'n' {
		return number, "", nil
	}
	var pair []json.RawMessage
	if err := json.Unmarshal(raw, &pair); err != nil || len(pair) < 1 || len(pair) > 2 {
		return 0, "", errors.New(want)
	}
	if err := json.Unmarshal(pair[0], &number); err != nil || string(pair[0]) == "null" {
		return 0, "", errors.New(want)
	}
	var unit string
	if len(pair) == 2 {
		if err := json.Unmarshal(pair[1], &unit); err != nil {
			return 0, "", errors.New(want)
		}
	}
	return number, unit, nil
}

// jsonLine is the line of a syntax error, which knows where it is.
func jsonLine(data []byte, otherwise int, err error) int {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) && syntax.Offset >= 1 && int(syntax.Offset) <= len(data) {
		return 1 + bytes.Count(data[:syntax.Offset-1], []byte("\n"))
	}
	return otherwise
}

func jsonError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON object does not end")
	}
	return fmt.Errorf("not JSON: %w", err)
}

// quote writes foreign text in quotes, safe for a terminal, and not all of it if it
// is long.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.QuoteToGraphic(record.Text([]byte(s)))
}
