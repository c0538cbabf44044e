package human

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text makes text from elsewhere (names, paths, messages) safe to show in a line of a
// terminal or a page: whatever is not a graphic character or a blank becomes '?',
// so that it can't move the cursor, change colours, turn the direction of writing or
// hide. Blanks of all kinds become a space; more than two combining marks in a row,
// or one that has nothing to stand on, become '?'. Bytes that are not UTF-8 become
// '?' too.
func Text(s string) string {
	if plain(s) {
		return s
	}
	var out strings.Builder
	out.Grow(len(s))
	marks := 2
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case r == utf8.RuneError && n == 1:
			r = '?'
		case unicode.Is(unicode.Zs, r):
			r = ' '
		case unicode.Is(unicode.M, r) && marks < 2:
			marks++
			out.WriteRune(r)
			continue
		case unicode.Is(unicode.M, r) || !unicode.IsPrint(r) || hangulFiller(r):
			r = '?'
		}
		marks = 0
		if r == ' ' || r == '?' {
			marks = 2
		}
		out.WriteRune(r)
	}
	return out.String()
}

// plain tells of text that is as it should be, which nearly all is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// hangulFiller tells of letters that show nothing.
func hangulFiller(r rune) bool {
	return r == '\u115f' || r == '\u1160' || r == '\u3164' || r == '\uffa0'
}
