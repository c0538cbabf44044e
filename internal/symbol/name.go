package symbol

import (
	"bytes"

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
