package replay

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"rmagent/record"
)

// Input is one recording, or a part of one.
type Input struct {
	Name string
	io.Reader
}

// maxLine bounds a line: the longest records, those of leaks with their stacks, have
// some 100 KiB.
const maxLine = 16 << 20

// input is an Input that is being read.
type input struct {
	name  string
	lines *bufio.Reader
	first time.Time // of its first record; zero where there is none near its beginning
}

// Play plays the inputs, the older before the younger, whatever their order: log
// rotation and shells have orders of their own. Inputs may be compressed by gzip.
func (p *Player) Play(inputs ...Input) (*Result, error) {
	list := make([]input, len(inputs))
	for i, in := range inputs {
		var err error
		if list[i], err = open(in); err != nil {
			return &p.result, err
		}
	}
	slices.SortStableFunc(list, func(a, b input) int { return a.first.Compare(b.first) })
	for i := range list {
		if err := p.read(&list[i], i == len(list)-1); err != nil {
			return &p.result, err
		}
	}
	return &p.result, p.finish()
}

func open(in Input) (input, error) {
	const window = 1 << 16
	b := bufio.NewReaderSize(in, window)
	if magic, _ := b.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(b)
		if err != nil {
			return input{}, fmt.Errorf("%s: %w", in.Name, err)
		}
		b = bufio.NewReaderSize(z, window)
	}
	i := input{name: in.Name, lines: b}
	start, _ := b.Peek(window) // what it fails with, reading fails with, too
	for line := range bytes.Lines(start) {
		if r, err := record.Decode(line); err == nil {
			i.first = r.Head().Time
			break
		}
	}
	return i, nil
}

// read plays one input.
func (p *Player) read(in *input, last bool) error {
	var long []byte // what came so far of a line that is longer than the buffer
	for n := uint64(1); ; n++ {
		line, err := in.lines.ReadSlice('\n')
		for errors.Is(err, bufio.ErrBufferFull) && len(long) <= maxLine {
			long = append(long, line...)
			line, err = in.lines.ReadSlice('\n')
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			err = in.skip()
		}
		if len(long) > 0 {
			long = append(long, line...)
			line = long
		}
		at := place{in.name, n}
		whole := len(line) > 0 && line[len(line)-1] == '\n'
		switch {
		case whole && len(line) <= maxLine:
			if err := p.line(at, line[:len(line)-1]); err != nil {
				return err
			}
		case len(line) > maxLine:
			p.place = at
			p.refuse("longer than 16 MiB")
		case len(line) > 0:
			p.truncated(at, last)
		}
		long = long[:0]
		if cap(long) > 1<<20 {
			long = nil
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
}

// skip reads to the end of a line.
func (in *input) skip() error {
	for {
		_, err := in.lines.ReadSlice('\n')
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// truncated counts a line without an end. If nothing follows it, the reading that it
// belongs to may lack anything.
func (p *Player) truncated(at place, last bool) {
	p.result.Truncated++
	p.result.tell("%s: the last line is cut off", at)
	if last && p.begun {
		p.begun = false
	}
}
