package record

import (
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Decoder reads many lines, as [Decode] does, but some ten times faster where a line is
// as [Append] writes it. Whatever else it meets it leaves to encoding/json, so that it
// accepts the same and reads the same.
//
// What it returns is overwritten by the next call, but for strings. It is for one
// goroutine.
type Decoder struct {
	plans map[Kind]*plan
	texts map[string]string // so that a name that comes again costs nothing
}

// plan is a record that is filled in again and again.
type plan struct {
	record Record
	clear  func()
	fields []field
}

// field is a field of a plan's record: a pointer to its place.
type field struct {
	name string // with its quotes and colon
	at   any
}

// A Decoder keeps so many strings, none of them longer than that.
const (
	maxTexts = 1 << 15
	longText = 256
)

// NewDecoder returns a Decoder.
func NewDecoder() *Decoder {
	d := &Decoder{plans: map[Kind]*plan{}, texts: map[string]string{}}
	process, exit, host, cgroup, gpu := new(Process), new(Exit), new(Host), new(Cgroup), new(GPU)
	d.plan(KindProcess, process, func() { *process = Process{} })
	d.plan(KindExit, exit, func() { *exit = Exit{} })
	d.plan(KindHost, host, func() { *host = Host{} })
	d.plan(KindCgroup, cgroup, func() { *cgroup = Cgroup{} })
	d.plan(KindGPU, gpu, func() { *gpu = GPU{} })
	return d
}

func (d *Decoder) plan(k Kind, r Record, clear func()) {
	d.plans[k] = &plan{r, clear, fieldsOf(reflect.ValueOf(r).Elem(), nil)}
}

// fieldsOf lists the fields of a struct in the order in which Append writes them.
func fieldsOf(v reflect.Value, list []field) []field {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			list = fieldsOf(v.Field(i), list)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		list = append(list, field{`"` + name + `":`, v.Field(i).Addr().Interface()})
	}
	return list
}

// Decode reads one line, with or without its newline; its errors are those of
// [Decode].
func (d *Decoder) Decode(line []byte) (Record, error) {
	kind, ok := kindIn(line)
	p := d.plans[kind]
	if !ok || p == nil {
		return Decode(line)
	}
	p.clear()
	s := scanner{rest: line, texts: d.texts}
	if !s.object(p.fields) || !s.end() || p.record.Head().Kind != kind || p.record.Head().Schema != Schema {
		return Decode(line)
	}
	if len(d.texts) > maxTexts {
		clear(d.texts)
	}
	return p.record, nil
}

// kindIn looks for the kind where Append puts it.
func kindIn(line []byte) (Kind, bool) {
	const before, after = `{"time":"2006-01-02T15:04:05.000000000Z"`, `,"kind":"`
	if len(line) < len(before)+len(after)+20 || string(line[len(before):len(before)+len(after)]) != after {
		return "", false
	}
	name := line[len(before)+len(after):]
	for i, c := range name[:20] {
		if c == '"' {
			return known[string(name[:i])], true
		}
	}
	return "", false
}

// known are the kinds, so that no string is made of the name in a line.
var known = map[string]Kind{
	string(KindProcess): KindProcess, string(KindExit): KindExit, string(KindHost): KindHost, string(KindCgroup): KindCgroup, string(KindGPU): KindGPU,
}

// scanner reads what Append writes, from the front. Its methods return false for
// whatever they don't know.
type scanner struct {
	rest  []byte
	texts map[string]string
}

// end tells whether nothing is left but a newline.
func (s *scanner) end() bool { return len(s.rest) == 0 || len(s.rest) == 1 && s.rest[0] == '\n' }

func (s *scanner) take(c byte) bool {
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scanner) word(w string) bool {
	if len(s.rest) < len(w) || string(s.rest[:len(w)]) != w {
		return false
	}
	s.rest = s.rest[len(w):]
	return true
}

// object reads fields in their order; some may be missing, others are unknown.
func (s *scanner) object(fields []field) bool {
	if !s.take('{') {
		return false
	}
	for i := 0; ; {
		for i < len(fields) && !s.word(fields[i].name) {
			i++
		}
		if i == len(fields) || !s.value(fields[i].at) {
			return false
		}
		i++
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// value reads one value to its place.
func (s *scanner) value(at any) bool {
	switch at := at.(type) {
	case *Opt[uint64]:
		if s.word("null") {
			return true
		}
		at.known = s.uint(&at.value)
		return at.known
	case *Opt[float64]:
		if s.word("null") {
			return true
		}
		at.known = s.float(&at.value)
		return at.known
	case *Opt[string]:
		if s.word("null") {
			return true
		}
		at.known = s.text(&at.value)
		return at.known
	case *Opt[time.Time]:
		if s.word("null") {
			return true
		}
		at.known = s.time(&at.value)
		return at.known
	case *Opt[int32]:
		if s.word("null") {
			return true
		}
		at.known = s.int32(&at.value)
		return at.known
	case *Opt[uint32]:
		var v uint64
		if s.word("null") {
			return true
		}
		at.known = s.uint(&v) && v <= math.MaxUint32
		at.value = uint32(v)
		return at.known
	case *Opt[bool]:
		if s.word("null") {
			return true
		}
		at.known = s.bool(&at.value)
		return at.known
	case *[]Filesystem:
		return s.filesystems(at)
	case *[]string:
		return s.strings(at)
	}
	return s.plain(at)
}

// plain reads a value that is never unknown.
func (s *scanner) plain(at any) bool {
	switch at := at.(type) {
	case *string:
		return s.text(at)
	case *Kind:
		return s.text((*string)(at))
	case *Source:
		return s.text((*string)(at))
	case *uint64:
		return s.uint(at)
	case *int32:
		return s.int32(at)
	case *int:
		var v int32
		ok := s.int32(&v)
		*at = int(v)
		return ok
	case *bool:
		return s.bool(at)
	case *time.Time:
		return s.time(at)
	}
	return s.word("null") // a list that is not there; with something in it, it is encoding/json's
}

func (s *scanner) uint(at *uint64) bool {
	var v uint64
	i := 0
	for ; i < len(s.rest) && i < 20; i++ {
		c := s.rest[i] - '0'
		if c > 9 {
			break
		}
		v = v*10 + uint64(c)
	}
	if i == 0 || i > 19 || i > 1 && s.rest[0] == '0' || i == len(s.rest) || !ends(s.rest[i]) {
		return false // 20 digits, which may be too many; a fraction
	}
	*at, s.rest = v, s.rest[i:]
	return true
}

// ends tells what may come after a number.
func ends(c byte) bool { return c == ',' || c == '}' }

func (s *scanner) int32(at *int32) bool {
	negative := s.take('-')
	var v uint64
	if !s.uint(&v) || v > math.MaxInt32 {
		return false
	}
	*at = int32(v)
	if negative {
		*at = -*at
	}
	return true
}

// float reads a number of up to fifteen digits, which floating point holds exactly, and
// leaves longer ones to strconv.
func (s *scanner) float(at *float64) bool {
	i, digits, fraction := 0, 0, -1
	negative := len(s.rest) > 0 && s.rest[0] == '-'
	if negative {
		i++
	}
	first := i
	var v uint64
	for ; i < len(s.rest); i++ {
		c := s.rest[i]
		switch {
		case c-'0' <= 9:
			digits++
			if digits < 19 {
				v = v*10 + uint64(c-'0')
			}
			continue
		case c == '.' && fraction < 0 && digits > 0:
			fraction = digits
			continue
		}
		break
	}
	switch {
	case digits == 0 || i == len(s.rest) || !ends(s.rest[i]), fraction == digits:
		return false
	case s.rest[first] == '0' && digits > 1 && fraction != 1: // a leading zero
		return false
	case digits > 15:
		f, err := strconv.ParseFloat(string(s.rest[:i]), 64)
		if err != nil {
			return false
		}
		*at = f
	default:
		*at = float64(v)
		if fraction >= 0 {
			*at /= tens[digits-fraction]
		}
		if negative {
			*at = -*at
		}
	}
	s.rest = s.rest[i:]
	return true
}

// tens are powers of ten that floating point holds exactly.
var tens = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

func (s *scanner) bool(at *bool) bool {
	if s.word("true") {
		*at = true
		return true
	}
	return s.word("false")
}

// raw reads a string without escapes, of ASCII only.
func (s *scanner) raw() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	for i, c := range s.rest {
		if !plain[c] {
			if c != '"' {
				return nil, false
			}
			text := s.rest[:i]
			s.rest = s.rest[i+1:]
			return text, true
		}
	}
	return nil, false
}

func (s *scanner) text(at *string) bool {
	raw, ok := s.raw()
	if !ok {
		return false
	}
	t, met := s.texts[string(raw)]
	if !met {
		t = string(raw)
		if len(t) <= longText {
			s.texts[t] = t
		}
	}
	*at = t
	return true
}

// time reads what appendTime writes.
func (s *scanner) time(at *time.Time) bool {
	raw, ok := s.raw()
	const form = "2006-01-02T15:04:05.000000000Z"
	if !ok || len(raw) != len(form) {
		return false
	}
	var n [7]int // year to nanosecond
	part := 0
	for i, c := range raw {
		if f := form[i]; f == '-' || f == 'T' || f == ':' || f == '.' || f == 'Z' {
			if c != f {
				return false
			}
			part++
			continue
		}
		if c-'0' > 9 {
			return false
		}
		n[part] = n[part]*10 + int(c-'0')
	}
	if n[1] < 1 || n[1] > 12 || n[2] < 1 || n[2] > 28 && n[2] > daysIn(n[0], n[1]) || n[3] > 23 || n[4] > 59 || n[5] > 59 {
		return false
	}
	*at = time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], n[6], time.UTC)
	return true
}

// daysIn is the number of days of a month.
func daysIn(year, month int) int {
	return time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// strings reads a list of texts.
func (s *scanner) strings(at *[]string) bool {
	if s.word("null") {
		return true
	}
	if !s.take('[') {
		return false
	}
	for *at = []string{}; !s.take(']'); {
		var text string
		if len(*at) > 0 && !s.take(',') || !s.text(&text) {
			return false
		}
		*at = append(*at, text)
	}
	return true
}

// filesystems reads a list of filesystems. Its memory is not used again: who reads a
// host record may keep them.
func (s *scanner) filesystems(at *[]Filesystem) bool {
	if s.word("null") {
		return true
	}
	if !s.take('[') {
		return false
	}
	list := []Filesystem{}
	if s.take(']') {
		*at = list
		return true
	}
	for {
		var f Filesystem
		if !s.object([]field{
			{`"path":`, &f.Path}, {`"total_bytes":`, &f.TotalBytes}, {`"free_bytes":`, &f.FreeBytes},
			{`"available_bytes":`, &f.AvailableBytes},
			{`"inodes_total":`, &f.InodesTotal}, {`"inodes_available":`, &f.InodesAvailable},
		}) {
			return false
		}
		list = append(list, f)
		if s.take(']') {
			*at = list
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}
