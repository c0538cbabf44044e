package cctools

import "regexp"

// Pattern is a POSIX extended regular expression, as regcomp(3) takes it.
type Pattern struct{ re *regexp.Regexp }


// NewPattern compiles a pattern.
func NewPattern(text string) (*Pattern, error) {
	re, err := regexp.CompilePOSIX(text)
	if err != nil {
		return nil, err
	}
	return &Pattern{re}, nil
}

// Match reports whether the pattern matches somewhere in the line.
func (p *Pattern) Match(line []byte) bool { return p.re.Match(line) }

// String returns the pattern's text.
func (p *Pattern) String() string { return p.re.String() }
