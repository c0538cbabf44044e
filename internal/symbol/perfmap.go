package symbol

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
)

const (
	maxPerfMap     = 256 << 20 // bytes that are read of a map: its end, where new code is
	maxPerfMapLine = 4096
)

// PerfMapNames reads a map of generated code as a process writes it to
// /tmp/perf-PID.map and returns what it says of each address; "" where nothing. A line
// is "START SIZE NAME", in hex; what comes later holds, because code is moved and its
// place used again. The file is a regular one, which the caller makes sure of.
func PerfMapNames(ctx context.Context, f *os.File, addrs []uint64) ([]string, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	from := max(0, info.Size()-maxPerfMap)
	return perfMapNames(ctx, io.NewSectionReader(f, from, info.Size()-from), from > 0, addrs)
}

// perfMapNames reads lines, the first of which may be but the end of one.
func perfMapNames(ctx context.Context, r io.Reader, cut bool, addrs []uint64) ([]string, error) {
	names := make([]string, len(addrs))
	order := make([]int, len(addrs))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(addrs[a], addrs[b]) })
	lines := bufio.NewReaderSize(r, maxPerfMapLine)
	for n := 0; ; n++ {
		if n&0xfff == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		line, err := lines.ReadSlice('\n')
		whole := err == nil
		for errors.Is(err, bufio.ErrBufferFull) { // skip what is too long
			_, err = lines.ReadSlice('\n')
		}
		if whole && !(cut && n == 0) {
			start, size, name, ok := parsePerfMapLine(line[:len(line)-1])
			if ok {
				note(addrs, order, names, start, size, name)
			}
		}
		if errors.Is(err, io.EOF) { // a line without its end is still being written
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func note(addrs []uint64, order []int, names []string, start, size uint64, name []byte) {
	i, _ := slices.BinarySearchFunc(order, start, func(k int, start uint64) int { return cmp.Compare(addrs[k], start) })
	for ; i < len(order) && addrs[order[i]]-start < size; i++ {
		names[order[i]] = clean(string(name))
	}
}

func parsePerfMapLine(line []byte) (start, size uint64, name []byte, ok bool) {
	first, rest, ok1 := bytes.Cut(line, []byte{' '})
	second, name, ok2 := bytes.Cut(rest, []byte{' '})
	start, err1 := parseHex(first)
	size, err2 := parseHex(second)
	name = bytes.TrimSpace(name)
	return start, size, name, ok1 && ok2 && err1 == nil && err2 == nil && len(name) > 0
}

func parseHex(b []byte) (uint64, error) {
	return strconv.ParseUint(string(bytes.TrimPrefix(b, []byte("0x"))), 16, 64)
}
