package history

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"rmagent/record"
)

// Bounds of what Fill reads. A second of an agent on a busy machine takes some hundred
// KiB, most of it processes, which are skipped unread.
const (
	DefaultFillBytes = 128 << 20
	DefaultFillTime  = 2 * time.Second
	longestLine      = 1 << 20
	mostRecords      = 40_000
	fillBlock        = 256 << 10
)

// FillOptions say what to fill a Store from.
type FillOptions struct {
	// Paths are files of records, the newest first, as a log and what logrotate made of
	// the one before. Those that are not there, or no regular files, are left out.
	Paths []string
	Host  string        // whose records are meant
	Now   time.Time     // nothing from after it, nor from longer ago than is kept, is taken
	Bytes int64         // read at most; 0: DefaultFillBytes
	Time  time.Duration // at most; 0: DefaultFillTime
}

// Filled says what became of it.
type Filled struct {
	Taken   int   // records
	Skipped int   // lines that are no records, or are of another host or the future
	Bytes   int64 // read
	Whole   bool  // the kept time was reached, or the beginning of the files
}

// Fill learns from the newest records of files what a Store would have learnt while
// they were written. It must come before Observe. It reads backwards, within bounds.
func (s *Store) Fill(o FillOptions) (Filled, error) {
	f := filler{store: s, o: o, oldest: o.Now.Add(-s.keep), left: cmp.Or(o.Bytes, DefaultFillBytes), until: time.Now().Add(cmp.Or(o.Time, DefaultFillTime))}
	for _, path := range o.Paths {
		err := f.file(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return f.done, err
		}
		if f.over {
			break
		}
	}
	if !f.over {
		f.done.Whole = true
	}
	for _, r := range slices.Backward(f.found) {
		s.Observe(r)
	}
	return f.done, nil
}

// filler collects records, the newest first.
type filler struct {
	store  *Store
	o      FillOptions
	oldest time.Time
	left   int64
	until  time.Time
	found  []record.Record
	over   bool
	done   Filled
}

// wanted are the kinds that a Store learns most from, as Append writes them.
var wanted = [][]byte{[]byte(`"kind":"host"`), []byte(`"kind":"gpu"`), []byte(`"kind":"state"`)}

// kindWithin is where in a line its kind is: after the time.
const kindWithin = 80

func (f *filler) file(path string) error {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return nil
	}
	return backward(file, st.Size(), func(line []byte, read int64) bool {
		f.left -= read
		f.done.Bytes += read
		if f.left < 0 || len(f.found) == mostRecords || time.Now().After(f.until) {
			f.over = true
			return false
		}
		return f.line(line)
	})
}

// line takes one line; false ends the search.
func (f *filler) line(line []byte) bool {
	head := line[:min(len(line), kindWithin)]
	if !slices.ContainsFunc(wanted, func(kind []byte) bool { return bytes.Contains(head, kind) }) {
		return true
	}
	r, err := record.Decode(line)
	if err != nil {
		f.done.Skipped++
		return true
	}
	h := r.Head()
	switch {
	case h.Host != f.o.Host || h.Time.After(f.o.Now):
		f.done.Skipped++
		return true
	case h.Time.Before(f.oldest):
		f.over, f.done.Whole = true, true
		return false
	}
	f.found = append(f.found, r)
	f.done.Taken++
	return true
}

// backward calls take with each line of a file, the last first, without its newline,
// and with how many bytes were read for it; false ends it. What follows the last
// newline was never finished, and is left out, as is a line that is too long.
func backward(r io.ReaderAt, size int64, take func(line []byte, read int64) bool) error {
	var tail []byte // the beginning of the block after, up to its first newline
	unfinished, tooLong := true, false
	read := int64(0)
	buf := make([]byte, fillBlock)
	for end := size; end > 0; {
		n := min(end, fillBlock)
		end -= n
		if _, err := r.ReadAt(buf[:n], end); err != nil && err != io.EOF {
			return err
		}
		read += n
		block := buf[:n]
		for {
			i := bytes.LastIndexByte(block, '\n')
			if i < 0 {
				break
			}
			line := block[i+1:]
			if len(tail) > 0 {
				line = append(slices.Clone(line), tail...)
			}
			block, tail = block[:i], nil
			if !unfinished && !tooLong && len(line) > 0 {
				if !take(line, read) {
					return nil
				}
				read = 0
			}
			unfinished, tooLong = false, false
		}
		if len(tail)+len(block) > longestLine {
			tail, tooLong = nil, true
			continue
		}
		tail = append(slices.Clone(block), tail...)
	}
	if !unfinished && !tooLong && len(tail) > 0 {
		take(tail, read)
	}
	return nil
}
