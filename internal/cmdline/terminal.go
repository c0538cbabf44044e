package cmdline

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/human"
)

// IsTerminal tells whether what is written goes to a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// WantsColours tells whether a person reads it who did not say otherwise (no-color.org).
func WantsColours(w io.Writer) bool { return IsTerminal(w) && os.Getenv("NO_COLOR") == "" }

// Painter writes for people, with colours on a terminal.
type Painter struct {
	*bufio.Writer
	colours bool
}

// NewPainter writes through w, which writes to to.
func NewPainter(w *bufio.Writer, to io.Writer) *Painter {
	return &Painter{w, WantsColours(to)}
}

// Escape sequences of ECMA-48 (console_codes(4)).
const (
	Bold   = "\x1b[1m"
	Dim    = "\x1b[2m"
	Red    = "\x1b[1;31m"
	Yellow = "\x1b[33m"
	plain  = "\x1b[0m"
)

// Paint gives text a colour, where there are any; no code gives none.
func (p *Painter) Paint(code, text string) string {
	if !p.colours || code == "" {
		return text
	}
	return code + text + plain
}

// columns are those of a line that every terminal has room for.
const columns = 80

// Wrap writes text behind head, in lines of 80 columns where it has blanks to break at;
// those that follow begin below the text.
func Wrap(head, text string) string {
	var b strings.Builder
	line, empty := head, true
	for word := range strings.SplitSeq(human.Text(text), " ") {
		if !empty && len(line)+1+len(word) > columns {
			fmt.Fprintln(&b, line)
			line, empty = strings.Repeat(" ", len(head)), true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	fmt.Fprintln(&b, strings.TrimRight(line, " "))
	return b.String()
}

// WriteTable writes rows whose columns align, the last of them wrapped.
func WriteTable(w io.Writer, rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row[:len(row)-1] {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len(cell))
		}
	}
	for _, row := range rows {
		head := ""
		for i, cell := range row[:len(row)-1] {
			head += fmt.Sprintf("%-*s  ", widths[i], cell)
		}
		io.WriteString(w, Wrap(head, row[len(row)-1]))
	}
}

// Line writes a line.
func (p *Painter) Line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }
