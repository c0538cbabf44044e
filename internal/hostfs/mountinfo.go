package hostfs

import (
	"bytes"

	"rmagent/internal/hostfs/kfile"
)

// mount is a line of /proc/PID/mountinfo (proc(5)).
type mount struct {
	device  [2]uint64 // major, minor
	root    string    // of the mount within its filesystem
	point   string
	kind    string // of the filesystem
	source  string
	options []byte // of the filesystem; aliases the line
}

// parseMount reads one line: id parent major:minor root point options
// [optional...] - kind source filesystem-options.
func parseMount(line []byte) (m mount, ok bool) {
	_, line = kfile.Word(line)
	_, line = kfile.Word(line)
	device, line := kfile.Word(line)
	major, minor, found := bytes.Cut(device, []byte{':'})
	var okMajor, okMinor bool
	m.device[0], okMajor = kfile.Uint(major)
	m.device[1], okMinor = kfile.Uint(minor)
	if !found || !okMajor || !okMinor {
		return mount{}, false
	}
	root, line := kfile.Word(line)
	point, line := kfile.Word(line)
	_, line = kfile.Word(line)
	for {
		var word []byte
		if word, line = kfile.Word(line); len(word) == 0 {
			return mount{}, false
		}
		if string(word) == "-" {
			break
		}
	}
	kind, line := kfile.Word(line)
	source, line := cutSource(line)
	m.options, _ = kfile.Word(line)
	m.root, m.point = unescape(root), unescape(point)
	m.kind, m.source = unescape(kind), unescape(source)
	return m, len(kind) > 0
}

// cutSource takes the source, which may be empty: two blanks then stand side by
// side.
func cutSource(b []byte) (source, rest []byte) {
	if len(b) > 0 {
		b = b[1:]
	}
	if i := bytes.IndexByte(b, ' '); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}

// unescape undoes the octal \040 that the kernel writes for blanks, newlines,
// backslashes and number signs (mangle in fs/seq_file.c).
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if c, ok := octal(b[i:]); ok {
			out = append(out, c)
			i += 3
			continue
		}
		out = append(out, b[i])
	}
	return string(out)
}

func octal(b []byte) (byte, bool) {
	if len(b) < 4 || b[0] != '\\' || b[1] > '3' {
		return 0, false
	}
	var v byte
	for _, c := range b[1:4] {
		if c < '0' || c > '7' {
			return 0, false
		}
		v = v<<3 | (c - '0')
	}
	return v, true
}

// eachMount calls f for every mount of a mountinfo text, in its order: a later
// one at the same point hides an earlier one.
func eachMount(b []byte, f func(mount)) {
	for len(b) > 0 {
		var line []byte
		line, b = kfile.Line(b)
		if m, ok := parseMount(line); ok {
			f(m)
		}
	}
}
