package human

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		"kworker/0:1":                  "kworker/0:1",
		"naïve 漢字 😀":                   "naïve 漢字 😀",
		"\x1b[2J\x07\x00\x7f":          "?[2J???",
		"\u009b1m":                     "?1m",
		"a\nb\tc\rd":                   "a?b?c?d",
		"\u202egpj.exe\u202c":          "?gpj.exe?",
		"zero\u200bwidth\ufeff\u00ad":  "zero?width??",
		"e\u0301a\u0301\u0301\u0301":   "e\u0301a\u0301\u0301?",
		"\u0301x":                      "?x",
		"nbsp\u00a0and\u3000wide":      "nbsp and wide",
		"line\u2028sep\u2029":          "line?sep?",
		"\xff\xc3":                     "??",
		"\U000e0041\ue000\ufffe\u3164": "????",
	} {
		if got := Text(in); got != want {
			t.Errorf("%+q: got %+q, want %+q", in, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"x", "\x1b[31m", "\u202e", "e\u0301\u0301\u0301", "\xff", "\u009b", "👨‍👩‍👧"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Text(s)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) != utf8.RuneCountInString(s) {
			t.Fatalf("%+q: %+q", s, got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }); i >= 0 {
			t.Fatalf("%+q has %+q", got, got[i:])
		}
		if again := Text(got); again != got {
			t.Fatalf("%+q becomes %+q", got, again)
		}
	})
}
