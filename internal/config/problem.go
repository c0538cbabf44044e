package config

import (
	"fmt"
	"strings"
)

// Layer is where a value came from; the later ones win.
type Layer int

// The layers.
const (
	LayerDefault Layer = iota
	LayerFile
	LayerDotEnv
	LayerPlainEnv
	LayerEnv
	LayerFlag
	LayerSetting
)

// Origin is the place of a value.
type Origin struct {
	Layer Layer
	Name  string // of the file, the variable or the flag
	Line  int    // in a file, from 1; 0 where there is none
}

// String names the place as a person would look for it.
func (o Origin) String() string {
	switch o.Layer {
	case LayerFile, LayerDotEnv:
		if o.Line > 0 {
			return fmt.Sprintf("%s:%d", o.Name, o.Line)
		}
		return o.Name
	case LayerPlainEnv, LayerEnv:
		return "environment " + o.Name
	case LayerFlag:
		return "--" + o.Name
	case LayerSetting:
		return "setting " + o.Name
	}
	return "default"
}

// Problem is one mistake: where, in which key, and what is wrong.
type Problem struct {
	Origin Origin
	Key    string // empty where there is none
	What   string
}

// String is one line.
func (p Problem) String() string {
	line := p.Origin.String() + ": "
	if p.Key != "" {
		line += p.Key + ": "
	}
	return oneLine(line + p.What)
}

// maxProblems is how many mistakes are reported one by one.
const maxProblems = 20

// Error is all that is wrong with a configuration.
type Error struct {
	Problems []Problem
	More     int // mistakes beyond those
}

// Error has a line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	if e.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", e.More))
	}
	return strings.Join(lines, "\n")
}

// oneLine escapes what would act on a terminal: keys and names come from files.
func oneLine(s string) string {
	var out strings.Builder
	for _, r := range s {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			fmt.Fprintf(&out, `\u%04x`, r)
			continue
		}
		out.WriteRune(r)
	}
	return out.String()
}

// nearest returns the name that s is probably meant to be, or nothing.
func nearest(s string, names []string) string {
	const longest = 64 // nobody mistypes more; the distance takes a square of time
	best, least := "", 1+min(len(s), longest)/3
	if len(s) > longest {
		return ""
	}
	for _, name := range names {
		if d := distance(strings.ToLower(s), name); d < least || d == least && best == "" {
			best, least = name, d
		}
	}
	return best
}

// distance is Levenshtein's, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
