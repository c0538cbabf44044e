package htmlreport

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"rmagent/internal/human"
	"rmagent/record"
)

// maxLine is how long a line may be that is a record, in bytes.
const maxLine = 4 << 20

// decode gives every record of an input to take, in order. Records of the frequent
// kinds are overwritten by the next one.
func decode(in *input, src io.Reader, take func(record.Record)) error {
	plain, err := uncompressed(src)
	if err != nil {
		return err
	}
	decoder := record.NewDecoder()
	var buf []byte
	for number := uint64(1); ; number++ {
		line, length, err := readLine(plain, &buf)
		in.bytes += uint64(length)
		ended := errors.Is(err, io.EOF)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF): // the gzip stream was still being written
			in.torn = true
			return nil
		case err != nil && !ended:
			return err
		case length > maxLine:
			in.refuse(number, fmt.Errorf("longer than %s", human.Bytes(maxLine)))
		case length > 0 && line[0] != '\n':
			in.decode(decoder, line, number, take)
		}
		if ended {
			in.torn = in.torn || length > 0
			return nil
		}
	}
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

// readLine returns a line with its end, valid until the next call, and how long it is:
// of one that is longer than maxLine only the beginning is there.
func readLine(src *bufio.Reader, buf *[]byte) (line []byte, length int, err error) {
	line, err = src.ReadSlice('\n')
	if err != bufio.ErrBufferFull {
		return line, len(line), err
	}
	*buf = append((*buf)[:0], line...)
	length = len(line)
	for err == bufio.ErrBufferFull {
		line, err = src.ReadSlice('\n')
		length += len(line)
		if length <= maxLine {
			*buf = append(*buf, line...)
		}
	}
	return *buf, length, err
}

func (in *input) decode(d *record.Decoder, line []byte, number uint64, take func(record.Record)) {
	r, err := d.Decode(line)
	switch {
	case err == nil:
		in.records++
		take(r)
	case errors.Is(err, record.ErrKind):
		kind := kindOf(line)
		if _, ok := in.unknown[kind]; ok || len(in.unknown) < maxKinds {
			in.unknown[kind]++
		}
	default:
		in.refuse(number, err)
	}
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

// refuse counts a line that is no record.
func (in *input) refuse(number uint64, err error) {
	in.bad++
	if len(in.troubles) < maxTroubles {
		in.troubles = append(in.troubles, fmt.Sprintf("line %d: %.200s", number, human.Text(err.Error())))
	}
}
