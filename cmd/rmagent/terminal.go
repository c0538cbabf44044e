package main

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// wantsColours tells whether a person reads it who did not say otherwise (no-color.org).
func wantsColours(w io.Writer) bool { return isTerminal(w) && os.Getenv("NO_COLOR") == "" }
