package stack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	maxLine     = 3 * 4096 // a path of PATH_MAX bytes, some of them written as octal numbers
	maxMappings = 16384    // executable ones; vm.max_map_count allows 65,530 of all kinds
)

// Mapping is one executable line of /proc/PID/maps.
type Mapping struct {
	Start, End uint64
	Offset     uint64 // of Start in the file
	Device     uint64 // as in st_dev's two halves: major<<32 | minor
	Inode      uint64 // 0 where there is no file
	// Path is as the kernel gives it: "" for anonymous memory, "[vdso]", with
	// " (deleted)" at its end where the name is gone. The owner of the process chose it.
	Path string
}

// ParseMaps reads what is executable in a file like /proc/PID/maps.
func ParseMaps(r io.Reader) ([]Mapping, error) {
	var list []Mapping
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		m, executable, ok := parseMapping(lines.Bytes())
		if !ok {
			return nil, fmt.Errorf("not a line of /proc/PID/maps: %.100q", lines.Text())
		}
		if !executable {
			continue
		}
		if n := len(list); n > 0 && m.Start < list[n-1].End {
			return nil, errors.New("mappings overlap")
		}
		if len(list) == maxMappings {
			return nil, fmt.Errorf("more than %d executable mappings", maxMappings)
		}
		list = append(list, m)
	}
	return list, lines.Err()
}

// parseMapping reads "start-end perms offset major:minor inode   path" (proc(5)).
func parseMapping(line []byte) (m Mapping, executable, ok bool) {
	var fields [5][]byte
	rest := line
	for i := range fields {
		var found bool
		if fields[i], rest, found = bytes.Cut(rest, []byte(" ")); !found && i < len(fields)-1 {
			return m, false, false
		}
	}
	start, end, _ := strings.Cut(string(fields[0]), "-")
	major, minor, _ := strings.Cut(string(fields[3]), ":")
	ok = true
	number := func(s string, base int) uint64 {
		v, err := strconv.ParseUint(s, base, 64)
		ok = ok && err == nil
		return v
	}
	m.Start, m.End = number(start, 16), number(end, 16)
	m.Offset = number(string(fields[2]), 16)
	m.Device = number(major, 16)<<32 | number(minor, 16)
	m.Inode = number(string(fields[4]), 10)
	if !ok || m.End <= m.Start || len(fields[1]) != 4 {
		return m, false, false
	}
	if fields[1][2] != 'x' {
		return m, false, true
	}
	m.Path = unescape(string(bytes.TrimLeft(rest, " ")))
	return m, true, true
}

// unescape undoes what the kernel does to a newline in a path; nothing else is written
// as a number, a backslash neither.
func unescape(path string) string { return strings.ReplaceAll(path, `\012`, "\n") }
