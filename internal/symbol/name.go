package symbol

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ianlancetaylor/demangle"
)

const (
	maxMangled      = 16 << 10 // bytes; longer names stay as they are
	demangledPower  = 12       // at most 2^12 bytes come out
	maxFunctionName = 1 << demangledPower
)

// demangled returns a function's name as its source has it, without the types of its
// parameters: C++'s and Rust's, or the name itself where it is neither.
func demangled(name string) string {
	if len(name) <= maxMangled {
		if plain, err := demangle.ToString(name, demangle.NoParams, demangle.MaxLength(demangledPower)); err == nil {
			return plain
		}
	}
	return name[:min(len(name), maxFunctionName)]
}

// isMangled says whether a symbol is one of C++ or Rust.
func isMangled(name []byte) bool {
	return bytes.HasPrefix(name, []byte("_Z")) || bytes.HasPrefix(name, []byte("_R"))
}

// clean returns a foreign name as it can be shown: without what acts on a terminal,
// and with \xNN for bytes that are not UTF-8.
func clean(name string) string {
	bad := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
	if strings.IndexFunc(name, bad) < 0 {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, name[0])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		name = name[n:]
	}
	return b.String()
}
