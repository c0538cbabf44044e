package replay

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Result is what was played, and all that a reader of the decisions must know about
// the recording.
type Result struct {
	Lines, Records      uint64
	Readings, Processes uint64 // records of the host, and of processes
	First, Last         time.Time
	Runs                uint64 // of an agent

	States, Prunes, Leaks uint64 // decisions that were written
	// Same are decisions that the recording has, too. Where the policy is the recorded
	// one, Different should be 0.
	Same, Different uint64

	Refused      map[string]uint64 // lines that are no record to be judged, by reason
	Truncated    uint64            // last lines that were cut off
	Gaps, Lost   uint64            // in seq, and how many records they are
	Stray        uint64            // records that belong to no reading, or came twice
	Backwards    uint64            // times that a clock went back
	Pauses       uint64            // times that nothing was read for long
	LongestPause time.Duration
	Vanished     uint64 // processes without an end
	Incomplete   uint64 // readings that missed processes
	Unrecorded   uint64 // readings of which most processes are not in the recording

	Notes []string // the first of each, with its place
	more  int
}

// maxNotes bounds the notes.
const maxNotes = 40

func (r *Result) tell(format string, args ...any) {
	if len(r.Notes) == maxNotes {
		r.more++
		return
	}
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *Result) readingAt(t time.Time) {
	if r.Readings == 0 {
		r.First = t
	}
	r.Readings++
	r.Last = t
}

// few tells that the recording lacks processes.
func (r *Result) few(recorded, all uint64) {
	if r.Unrecorded == 0 {
		r.tell("%s: of %d processes %d are in the recording: what was decided of the others can't be decided again", r.Last.UTC().Format(time.RFC3339), all, recorded)
	}
	r.Unrecorded++
}

func (r *Result) differs(format string, args ...any) {
	if r.Different < 5 {
		r.tell(format, args...)
	}
	r.Different++
}

// Empty is an error where there was no record in any input: then nothing was played, and
// whoever asked has named another file than they meant.
func (r *Result) Empty() error {
	switch {
	case r.Records > 0:
		return nil
	case r.Lines == 0 && r.Truncated == 0:
		return errors.New("replay: no record in it: it is empty")
	case len(r.Notes) == 0:
		return errors.New("replay: no record in it: its only line is cut off")
	}
	return fmt.Errorf("replay: no record in it: %s", r.Notes[0])
}

// Summary is the result for people, a line each.
func (r *Result) Summary() []string {
	lines := slices.Clone(r.Notes)
	if r.more > 0 {
		lines = append(lines, fmt.Sprintf("and %d notes more", r.more))
	}
	played := fmt.Sprintf("%d readings", r.Readings)
	if r.Readings > 0 {
		played += fmt.Sprintf(" from %s to %s", r.First.UTC().Format(time.RFC3339), r.Last.UTC().Format(time.RFC3339))
	}
	lines = append(lines, fmt.Sprintf("%s, %d records of processes; decided: %d states, %d prunes; %d of these are in the recording, too",
		played, r.Processes, r.States, r.Prunes, r.Same))
	for _, reason := range slices.Sorted(maps.Keys(r.Refused)) {
		lines = append(lines, fmt.Sprintf("skipped: %d lines: %s", r.Refused[reason], reason))
	}
	for _, c := range []struct {
		n    uint64
		what string
	}{
		{r.Different, "decisions differ from the recording's"},
		{r.Truncated, "last lines are cut off; a reading that one of them belongs to was not judged"},
		{r.Lost, fmt.Sprintf("records are missing, in %d gaps of seq", r.Gaps)},
		{r.Stray, "records belong to no reading, or came twice, and were not judged"},
		{r.Backwards, "times a clock went back"},
		{r.Pauses, fmt.Sprintf("times nothing was read for long, %v at most", r.LongestPause.Round(time.Second))},
		{r.Vanished, "processes have no end in the recording"},
		{r.Incomplete, "readings missed processes: who was not in them is taken to be as before"},
		{r.Unrecorded, "readings have less than nine tenths of the processes"},
	} {
		if c.n > 0 {
			lines = append(lines, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	return lines
}
