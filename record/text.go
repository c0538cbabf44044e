package record

import (
	"strings"
	"unicode/utf8"
)

// Text makes valid UTF-8 of bytes from elsewhere (names, paths, arguments): a
// byte that is not UTF-8 becomes the four characters \xNN. What is valid stays as
// it is, so a name that itself has these four characters looks the same. Control
// characters stay too; [Append] escapes them.
func Text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	out.Grow(len(b) + 3)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			c := b[0]
			out.Write([]byte{'\\', 'x', hex[c>>4], hex[c&15]})
		} else {
			out.Write(b[:n])
		}
		b = b[n:]
	}
	return out.String()
}
