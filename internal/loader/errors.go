package loader

import (
	"errors"
	"fmt"
)

// ErrUnsupported is what every UnsupportedError is.
var ErrUnsupported = errors.New("eBPF is not usable here")

// UnsupportedError says what is missing for eBPF on this kernel or with these
// privileges, in words for people.
type UnsupportedError struct {
	Missing string
	Err     error // what the kernel said; may be nil
}

func (e *UnsupportedError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%v: %s", ErrUnsupported, e.Missing)
	}
	return fmt.Sprintf("%v: %s (%v)", ErrUnsupported, e.Missing, e.Err)
}

// Is makes every UnsupportedError an ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == ErrUnsupported }

func (e *UnsupportedError) Unwrap() error { return e.Err }
