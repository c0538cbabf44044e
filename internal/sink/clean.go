package sink

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// appendLine appends what zap encoded as one line that can't act on a terminal.
// zap leaves DEL, the C1 controls, the line separators and what turns the direction of
// writing in JSON strings, and everything in the message of a console line.
func appendLine(dst, p []byte, console bool) []byte {
	for len(p) > 0 && p[len(p)-1] == '\n' {
		p = p[:len(p)-1]
	}
	for i := 0; i < len(p); {
		r, n := utf8.DecodeRune(p[i:])
		switch {
		case r == utf8.RuneError && n == 1 && console:
			dst = fmt.Appendf(dst, `\x%02x`, p[i])
		case r == utf8.RuneError && n == 1:
			dst = append(dst, `\ufffd`...)
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\t' && console: // between the columns
			dst = append(dst, '\t')
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r):
			dst = fmt.Appendf(dst, `\u%04x`, r)
		default:
			dst = append(dst, p[i:i+n]...)
		}
		i += n
	}
	return append(dst, '\n')
}
