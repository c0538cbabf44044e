package htmlreport

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"

	"rmagent/internal/human"
	"rmagent/record"
)

const (
	maxLine   = 4 << 20   // bytes of a line that may be a record
	batchSize = 256 << 10 // bytes of lines that are decoded together
)

// batch is a stretch of whole lines and what they turned out to be.
type batch struct {
	text []byte
	line uint64 // number of the first
	done chan struct{}

	records  []record.Record
	unknown  map[record.Kind]uint64
	lines    uint64
	bad      uint64
	troubles []string
}

// decode gives every record of an input to take, in order. Lines are decoded by as
// many goroutines as there are processors, a bounded stretch at a time.
func decode(in *input, src io.Reader, take func(record.Record)) error {
	plain, err := uncompressed(src)
	if err != nil {
		return err
	}
	workers := runtime.GOMAXPROCS(0)
	todo := make(chan *batch, workers)
	order := make(chan *batch, 2*workers)
	for range workers {
		go func() {
			for b := range todo {
				b.decode()
				close(b.done)
			}
		}()
	}
	failed := make(chan error, 1)
	go func() {
		failed <- split(in, plain, func(b *batch) {
			order <- b
			todo <- b
		})
		close(order)
		close(todo)
	}()
	for b := range order {
		<-b.done
		in.take(b)
		for _, r := range b.records {
			take(r)
		}
	}
	return <-failed
}

func uncompressed(src io.Reader) (*bufio.Reader, error) {
	in := bufio.NewReaderSize(src, 256<<10)
	if magic, _ := in.Peek(2); string(magic) != "\x1f\x8b" {
		return in, nil
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	return bufio.NewReaderSize(z, 256<<10), nil
}

// split cuts the input into batches of whole lines. A line that is too long to be a
// record is left out, and counted as bad.
func split(in *input, src *bufio.Reader, out func(*batch)) error {
	var b *batch
	number := uint64(1)
	flush := func() {
		if b != nil {
			out(b)
		}
		b = nil
	}
	for {
		if b == nil {
			b = &batch{text: make([]byte, 0, batchSize), line: number, done: make(chan struct{})}
		}
		begin := len(b.text)
		whole, err := readLine(src, b)
		in.bytes += uint64(len(b.text) - begin)
		switch {
		case err == io.EOF || err == nil && whole:
		case err == nil: // too long
			b.text = b.text[:begin]
			b.bad++
			b.trouble(number, fmt.Errorf("longer than %s", human.Bytes(maxLine)))
			number++
			flush() // the numbers of the lines that follow
			continue
		case errors.Is(err, io.ErrUnexpectedEOF): // the gzip stream was still being written
			in.torn = true
			b.text = b.text[:begin]
			flush()
			return nil
		default:
			return err
		}
		if err == io.EOF {
			in.torn = in.torn || len(b.text) > begin
			flush()
			return nil
		}
		number++
		if len(b.text) >= batchSize-4096 {
			flush()
		}
	}
}

// readLine appends a line, and tells whether it is whole, or too long: then its
// first bytes are there.
func readLine(src *bufio.Reader, b *batch) (whole bool, err error) {
	length := 0
	for {
		part, err := src.ReadSlice('\n')
		length += len(part)
		if length <= maxLine {
			b.text = append(b.text, part...)
		}
		if err != bufio.ErrBufferFull {
			return length <= maxLine, err
		}
	}
}

func (b *batch) decode() {
	number := b.line
	for rest := b.text; len(rest) > 0; number++ {
		line := rest
		for i, c := range rest {
			if c == '\n' {
				line = rest[:i+1]
				break
			}
		}
		rest = rest[len(line):]
		b.lines++
		b.decodeLine(line, number)
	}
	b.text = nil
}

func (b *batch) decodeLine(line []byte, number uint64) {
	if len(line) == 1 && line[0] == '\n' {
		return
	}
	r, err := record.Decode(line)
	if err == nil {
		b.records = append(b.records, r)
		return
	}
	if errors.Is(err, record.ErrKind) {
		kind := kindOf(line)
		if b.unknown == nil {
			b.unknown = map[record.Kind]uint64{}
		}
		if _, ok := b.unknown[kind]; ok || len(b.unknown) < maxKinds {
			b.unknown[kind]++
		}
		return
	}
	b.bad++
	b.trouble(number, err)
}

// kindOf names the kind of a record that this version does not know.
func kindOf(line []byte) record.Kind {
	var head struct {
		Kind record.Kind `json:"kind"`
	}
	if json.Unmarshal(line, &head) != nil || head.Kind == "" {
		return "none"
	}
	return record.Kind(clip(human.Text(string(head.Kind)), 40))
}

func (b *batch) trouble(number uint64, err error) {
	if len(b.troubles) < maxTroubles {
		b.troubles = append(b.troubles, fmt.Sprintf("line %d: %.200s", number, human.Text(err.Error())))
	}
}

// take adds what a batch came to.
func (in *input) take(b *batch) {
	in.lines += b.lines
	in.records += uint64(len(b.records))
	in.bad += b.bad
	for kind, n := range b.unknown {
		if _, ok := in.unknown[kind]; ok || len(in.unknown) < maxKinds {
			in.unknown[kind] += n
		}
	}
	for _, t := range b.troubles {
		if len(in.troubles) < maxTroubles {
			in.troubles = append(in.troubles, t)
		}
	}
}
