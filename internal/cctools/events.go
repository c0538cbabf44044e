package cctools

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// What a file of --snapshot-events may have.
const (
	MaxEventsFile = 1 << 20
	maxWatched    = 256
	maxEvents     = 256 // of one file
	maxLabel      = 128
)

// ParseEvents reads a file of --snapshot-events: {"FILE": {"events": [...]}, ...}.
// Names that it does not know are errors. An error begins with the name of the file
// of events and the line.
func ParseEvents(name string, data []byte) ([]WatchedFile, error) {
	if len(data) > MaxEventsFile {
		return nil, fmt.Errorf("%s: a file of snapshot events has at most %d bytes", name, MaxEventsFile)
	}
	var files []WatchedFile
	line, err := eachMember(data, func(path string, raw json.RawMessage) error {
		if len(files) == maxWatched {
			return fmt.Errorf("more than %d files to watch", maxWatched)
		}
		for i := range files {
			if files[i].Path == path {
				return fmt.Errorf("%s is there twice", quote(path))
			}
		}
		f, err := parseWatched(path, raw)
		if err != nil {
			return fmt.Errorf("%s: %w", quote(path), err)
		}
		files = append(files, *f)
		return nil
	})
	if err == nil && len(files) == 0 {
		line, err = 1, errors.New("no file to watch")
	}
	if err != nil {
		return nil, fmt.Errorf("%s:%d: %w", name, line, err)
	}
	return files, nil
}

type eventJSON struct {
	Label      *string `json:"label"`
	OnCreate   bool    `json:"on-create"`
	OnDelete   bool    `json:"on-delete"`
	OnTruncate bool    `json:"on-truncate"`
	OnPattern  *string `json:"on-pattern"`
	Count      *int64  `json:"count"`
}

func parseWatched(path string, raw json.RawMessage) (*WatchedFile, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return nil, errors.New("that is no file's name")
	}
	var j struct {
		FromStart            bool        `json:"from-start"`
		FromStartIfTruncated *bool       `json:"from-start-if-truncated"`
		DeleteIfFound        bool        `json:"delete-if-found"`
		Events               []eventJSON `json:"events"`
	}
	if err := strict(raw, &j); err != nil {
		return nil, err
	}
	if len(j.Events) == 0 || len(j.Events) > maxEvents {
		return nil, fmt.Errorf("events: %d of them: allowed are 1 to %d", len(j.Events), maxEvents)
	}
	f := &WatchedFile{Path: path, FromStart: j.FromStart, Delete: j.DeleteIfFound,
		KeepTruncated: j.FromStartIfTruncated != nil && !*j.FromStartIfTruncated}
	for i := range j.Events {
		e, err := j.Events[i].event()
		if err != nil {
			return nil, fmt.Errorf("events[%d]: %w", i, err)
		}
		f.Events = append(f.Events, *e)
	}
	return f, nil
}

func (j *eventJSON) event() (*WatchEvent, error) {
	if j.Label == nil {
		return nil, errors.New("it has no label")
	}
	if !validLabel(*j.Label) {
		return nil, fmt.Errorf("label %s: allowed are 1 to %d of A-Z, a-z, 0-9, _ and -", quote(*j.Label), maxLabel)
	}
	e := &WatchEvent{Label: *j.Label, OnCreate: j.OnCreate, OnDelete: j.OnDelete, OnTruncate: j.OnTruncate, Count: -1}
	causes := 0
	for _, on := range []bool{j.OnCreate, j.OnDelete, j.OnTruncate, j.OnPattern != nil} {
		if on {
			causes++
		}
	}
	if causes != 1 {
		return nil, fmt.Errorf("label %s: it needs exactly one of on-create, on-delete, on-truncate and on-pattern, and has %d", *j.Label, causes)
	}
	if j.OnPattern != nil {
		pattern, err := NewPattern(*j.OnPattern)
		if err != nil {
			return nil, fmt.Errorf("label %s: on-pattern: %w", *j.Label, err)
		}
		e.OnPattern = pattern
	}
	if j.Count != nil {
		if *j.Count != -1 && *j.Count < 1 {
			return nil, fmt.Errorf("label %s: count %d: allowed are 1 and more, and -1 for no limit", *j.Label, *j.Count)
		}
		e.Count = *j.Count
	}
	return e, nil
}

func validLabel(s string) bool {
	if len(s) == 0 || len(s) > maxLabel {
		return false
	}
	for _, c := range []byte(s) {
		if !('A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// strict decodes an object that has no names but into's.
func strict(raw json.RawMessage, into any) error {
	if len(raw) == 0 || raw[0] != '{' {
		return errors.New(`it is not of the form {"events": [{"label": ...}]}`)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Errorf("%s: a %s, not a %s", wrong.Field, wrong.Value, jsonType(wrong.Type.Kind().String()))
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func jsonType(kind string) string {
	switch kind {
	case "bool":
		return "boolean"
	case "int64":
		return "whole number"
	case "slice":
		return "list"
	case "struct":
		return "object"
	}
	return kind
}

// eachMember calls each for every member of the JSON object that data is, and
// returns the line of what failed.
func eachMember(data []byte, each func(name string, value json.RawMessage) error) (line int, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	here := func() int { return 1 + bytes.Count(data[:min(int(d.InputOffset()), len(data))], []byte("\n")) }
	fail := func(err error) (int, error) { return jsonLine(data, here(), err), jsonError(err) }
	if token, err := d.Token(); err != nil {
		return fail(err)
	} else if token != json.Delim('{') {
		return here(), errors.New("it is no JSON object")
	}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return fail(err)
		}
		line := here()
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return fail(err)
		}
		if err := each(token.(string), raw); err != nil {
			return line, err
		}
	}
	if _, err := d.Token(); err != nil {
		return fail(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return here(), errors.New("something follows the JSON object")
	}
	return 0, nil
}
