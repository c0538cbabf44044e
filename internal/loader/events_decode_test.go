package loader

import (
	"testing"
	"unsafe"

	"rmagent/internal/sample"
)

// FuzzEventRecord decodes anything: a record is whole, or counted as malformed.
func FuzzEventRecord(f *testing.F) {
	for kind := range uint32(5) {
		r := eventsExitRecord{H: eventsEventHead{Kind: kind, ExeLen: 4, Pid: 7, Start: 1e9}}
		b := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))...)
		f.Add(append(b, "/bin"...))
		f.Add(b)
		f.Add(b[:20])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		aligned := make([]uint64, len(b)/8+1) // as the ring's reader has them
		raw := unsafe.Slice((*byte)(unsafe.Pointer(&aligned[0])), len(aligned)*8)[:len(b)]
		copy(raw, b)
		var ev sample.Events
		d := eventDecoder{dst: &ev, pageSize: 4096, net: true, fds: true}
		n := 0
		if d.decode(raw) {
			n = 1
		}
		if got := len(ev.Exits) + len(ev.OOMs); got != n {
			t.Errorf("%d events of a record of %d bytes that is whole: %t", got, len(b), n == 1)
		}
		for _, x := range ev.Exits {
			if len(x.Exe) > len(b) {
				t.Errorf("exe of %d bytes in a record of %d", len(x.Exe), len(b))
			}
		}
	})
}
