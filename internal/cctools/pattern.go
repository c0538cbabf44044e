package cctools

import (
	"fmt"
	"regexp"
)

// Pattern is a regular expression that a line may match. It is Go's, which takes
// what POSIX extended ones are made of, but no back references, and needs time in
// proportion to the line.
type Pattern struct{ re *regexp.Regexp }

// maxPattern is how long a pattern may be.
const maxPattern = 4096

// NewPattern compiles a pattern.
func NewPattern(text string) (*Pattern, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("a pattern has at most %d bytes", maxPattern)
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("pattern %s: %w", quote(text), err)
	}
	return &Pattern{re}, nil
}

// Match reports whether the pattern matches somewhere in the line, which has no
// newline.
func (p *Pattern) Match(line []byte) bool { return p.re.Match(line) }

// String returns the pattern's text.
func (p *Pattern) String() string { return p.re.String() }
