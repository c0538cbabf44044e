package server

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"

	"rmagent/record"
)

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, v any) error { return writeStatus(w, http.StatusOK, v) }

// writeStatus answers with v and a status of its own.
func writeStatus(w http.ResponseWriter, status int, v any) error {
	b, err := encodeJSON(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that is gone is no failure
	return nil
}

// encodeJSON is v as a line.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// writeBytes answers with what is there in whole. Its error is nil: a client that is
// gone is no failure.
func writeBytes(w http.ResponseWriter, media string, b []byte) error {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b)
	return nil
}

// line appends a record of this agent as one JSON object, without a newline. The
// record's own header is left alone: others read it.
func (s *Server) line(dst []byte, r record.Record) ([]byte, error) {
	h := r.Head()
	h.Host, h.BootID, h.Schema = s.Host, s.BootID, record.Schema
	kind, err := record.KindOf(r)
	if err != nil {
		return dst, err
	}
	h.Kind = kind
	dst, err = record.Append(dst, r)
	return bytes.TrimSuffix(dst, []byte("\n")), err
}

// object is a JSON object that is put together from encoded values.
type object struct {
	b   []byte
	err error
}

func (o *object) key(name string) {
	if len(o.b) == 0 {
		o.b = append(o.b, '{')
	} else {
		o.b = append(o.b, ',')
	}
	o.b = strconv.AppendQuote(o.b, name)
	o.b = append(o.b, ':')
}

// value adds what encoding/json makes of v.
func (o *object) value(name string, v any) {
	o.key(name)
	b, err := json.Marshal(v)
	if err != nil && o.err == nil {
		o.err = err
	}
	o.b = append(o.b, b...)
}

// record adds a record, null for a nil one. The caller gives it away.
func (o *object) record(s *Server, name string, r record.Record) {
	o.key(name)
	var err error
	if o.b, err = s.line(o.b, r); err != nil && o.err == nil {
		o.err = err
	}
}

// list adds n records, each of which at copies.
func (o *object) list(s *Server, name string, n int, at func(i int) record.Record) {
	o.key(name)
	o.b = append(o.b, '[')
	for i := range n {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		var err error
		if o.b, err = s.line(o.b, at(i)); err != nil && o.err == nil {
			o.err = err
		}
	}
	o.b = append(o.b, ']')
}

func (o *object) write(w http.ResponseWriter) error {
	if o.err != nil {
		return o.err
	}
	return writeBytes(w, "application/json", append(o.b, '}', '\n'))
}

// sender gathers small pieces into large writes.
type sender struct {
	w   http.ResponseWriter
	buf []byte
	bad bool
}

const sendAtOnce = 256 << 10

func (s *sender) bytes(b []byte) {
	if s.buf == nil {
		s.buf = make([]byte, 0, sendAtOnce)
	}
	if len(s.buf)+len(b) > cap(s.buf) {
		s.end()
	}
	s.buf = append(s.buf, b...)
}

func (s *sender) text(t string) { s.bytes([]byte(t)) }

// end sends what is left. After a write that failed nothing is sent any more.
func (s *sender) end() {
	if !s.bad {
		_, err := s.w.Write(s.buf)
		s.bad = err != nil
	}
	s.buf = s.buf[:0]
}
