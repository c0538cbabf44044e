package filewatch

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"rmagent/internal/cctools"
)

// Bounds of what a file may cost in one turn.
const (
	maxRead = 1 << 20  // bytes read; the rest is read in the next turn
	maxLine = 64 << 10 // bytes of a line that a pattern sees
)

// file is what is known of a file that is watched.
type file struct {
	spec  cctools.WatchedFile
	path  string
	taken []int64 // snapshots so far, by event
	now   []int64 // what happened in this turn, by event

	exists   bool
	size     int64
	inode    uint64
	position int64  // up to which lines have been read
	line     []byte // the beginning of one that has no end yet
	patterns bool
	opens    int64 // by this package itself, to read it
}

func newFile(spec cctools.WatchedFile, path string) *file {
	f := &file{spec: spec, path: path, taken: make([]int64, len(spec.Events)), now: make([]int64, len(spec.Events))}
	for i := range spec.Events {
		f.patterns = f.patterns || spec.Events[i].OnPattern != nil
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil {
		f.exists, f.inode = true, st.Ino
		if !spec.FromStart {
			f.size, f.position = st.Size, st.Size
		}
	}
	return f
}

// look takes a turn and returns the labels of what happened, with their numbers.
func (f *file) look(last bool) []string {
	if !f.active() {
		return nil
	}
	clear(f.now)
	var st unix.Stat_t
	switch err := unix.Stat(f.path, &st); {
	case err == nil:
		f.there(&st, last)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		f.gone()
	default:
		return nil // nobody can say what became of it
	}
	return f.labels()
}

// active reports whether a snapshot may still be taken.
func (f *file) active() bool {
	for i := range f.spec.Events {
		if f.left(i) {
			return true
		}
	}
	return false
}

func (f *file) left(i int) bool {
	return f.spec.Events[i].Count < 0 || f.taken[i] < f.spec.Events[i].Count
}

// happened counts for every event that matches.
func (f *file) happened(matches func(e *cctools.WatchEvent) bool) {
	for i := range f.spec.Events {
		if matches(&f.spec.Events[i]) {
			f.now[i]++
		}
	}
}

func (f *file) there(st *unix.Stat_t, last bool) {
	switch {
	case !f.exists:
		f.happened(func(e *cctools.WatchEvent) bool { return e.OnCreate })
		f.restart(0)
	case st.Size < f.size || st.Ino != f.inode: // cut short, or another took its place
		f.happened(func(e *cctools.WatchEvent) bool { return e.OnTruncate })
		if f.spec.KeepTruncated {
			f.restart(st.Size)
		} else {
			f.restart(0)
		}
	}
	f.exists, f.size, f.inode = true, st.Size, st.Ino
	if f.patterns && st.Size > f.position && st.Mode&unix.S_IFMT == unix.S_IFREG {
		f.read()
	}
	if last && len(f.line) > 0 {
		f.match() // the job is over: it gets no end any more
	}
	if f.spec.Delete && os.Remove(f.path) == nil {
		f.exists = false
		f.restart(0)
	}
}

func (f *file) gone() {
	if f.exists {
		f.happened(func(e *cctools.WatchEvent) bool { return e.OnDelete })
	}
	f.exists = false
	f.restart(0)
}

func (f *file) restart(position int64) {
	f.position, f.line = position, f.line[:0]
}

// read reads the lines that are new.
func (f *file) read() {
	// NONBLOCK: it may have become a FIFO meanwhile, which is not read.
	in, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	defer in.Close()
	f.opens++
	if info, err := in.Stat(); err != nil || !info.Mode().IsRegular() {
		return
	}
	buf := make([]byte, 32<<10)
	for budget := maxRead; budget > 0; {
		n, err := in.ReadAt(buf, f.position)
		f.position += int64(n)
		budget -= n
		f.take(buf[:n])
		if err != nil || n == 0 {
			break
		}
	}
}

// take takes bytes, line by line.
func (f *file) take(b []byte) {
	for len(b) > 0 {
		part, rest, whole := bytes.Cut(b, []byte{'\n'})
		if room := maxLine - len(f.line); len(part) > room {
			part = part[:room]
		}
		f.line = append(f.line, part...)
		if whole {
			f.match()
		}
		b = rest
	}
}

// match tells the line that is whole.
func (f *file) match() {
	f.happened(func(e *cctools.WatchEvent) bool { return e.OnPattern != nil && e.OnPattern.Match(f.line) })
	f.line = f.line[:0]
}

// labels are those of this turn, which counts as one snapshot for each.
func (f *file) labels() []string {
	var labels []string
	for i, n := range f.now {
		if n > 0 && f.left(i) {
			f.taken[i]++
			labels = append(labels, fmt.Sprintf("%s(%d)", f.spec.Events[i].Label, n))
		}
	}
	return labels
}

// join makes a snapshot's name of labels.
func join(labels []string) string { return strings.Join(labels, ",") }
