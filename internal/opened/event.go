package opened

import (
	"bytes"
	"encoding/binary"
)

// event is one struct inotify_event.
type event struct {
	wd   int32
	mask uint32
	name string
}

// cutEvent takes one event off b (inotify(7)); false: there is no whole one.
func cutEvent(b []byte) (e event, rest []byte, ok bool) {
	const maskAt, lengthAt, nameAt = 4, 12, 16
	if len(b) < nameAt {
		return event{}, nil, false
	}
	length := uint64(binary.NativeEndian.Uint32(b[lengthAt:]))
	if length > uint64(len(b)-nameAt) {
		return event{}, nil, false
	}
	name, _, _ := bytes.Cut(b[nameAt:nameAt+int(length)], []byte{0})
	return event{
		wd:   int32(binary.NativeEndian.Uint32(b)),
		mask: binary.NativeEndian.Uint32(b[maskAt:]),
		name: string(name),
	}, b[nameAt+int(length):], true
}
