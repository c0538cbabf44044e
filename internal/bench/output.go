package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync"
)

// output follows what a watcher writes: how many readings it holds and which of
// the watched processes it has shown. A watcher that shows nothing costs nothing,
// so its figures mean little without these.
type output struct {
	mark  []byte // in one line of each reading
	first chan struct{}

	mu       sync.Mutex
	wanted   map[int]bool // by PID: seen?
	seen     int
	readings int
	exits    int
	bytes    int64
}

func newOutput(mark string, pids []int) *output {
	o := &output{mark: []byte(mark), first: make(chan struct{}), wanted: make(map[int]bool, len(pids))}
	for _, pid := range pids {
		o.wanted[pid] = false
	}
	return o
}

// follow reads until r ends.
func (o *output) follow(r io.Reader) {
	lines := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := lines.ReadSlice('\n')
		o.line(line)
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (o *output) line(line []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes += int64(len(line))
	if len(o.mark) > 0 && bytes.Contains(line, o.mark) {
		o.reading()
	}
	if bytes.Contains(line, []byte(`"kind":"exit"`)) && bytes.Contains(line, []byte(`"comm":"noop"`)) {
		o.exits++
	}
	if o.seen < len(o.wanted) {
		o.markPIDs(line)
	}
}

// reading counts one; the caller holds mu.
func (o *output) reading() {
	if o.readings == 0 {
		close(o.first)
	}
	o.readings++
}

// scraped takes a whole reading at once.
func (o *output) scraped(body []byte) {
	for line := range bytes.Lines(body) {
		o.line(line)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reading()
}

// markPIDs marks every number of the line that is a watched PID.
func (o *output) markPIDs(line []byte) {
	number, digits := 0, 0
	for _, c := range line {
		if c >= '0' && c <= '9' {
			number, digits = number*10+int(c-'0'), digits+1
			continue
		}
		if digits > 0 && digits < 9 {
			o.sawPID(number)
		}
		number, digits = 0, 0
	}
}

func (o *output) sawPID(pid int) {
	if seen, ok := o.wanted[pid]; ok && !seen {
		o.wanted[pid] = true
		o.seen++
	}
}

// counts of what was written so far.
type counts struct {
	readings, exits, seen int
	bytes                 int64
}

func (o *output) counts() counts {
	o.mu.Lock()
	defer o.mu.Unlock()
	return counts{o.readings, o.exits, o.seen, o.bytes}
}
