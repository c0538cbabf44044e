package record

import "testing"

// TestSpace: as df of an ext4 of 100 blocks, 5 of them reserved, counts: it is full for
// ordinary users when 95 are used, and root goes on.
func TestSpace(t *testing.T) {
	some, unknown := Some[uint64], Opt[uint64]{}
	for _, c := range []struct {
		why                    string
		total, free, available Opt[uint64]
		used, limit            Opt[uint64]
	}{
		{"empty", some(100), some(100), some(95), some(0), some(95)},
		{"half", some(100), some(50), some(45), some(50), some(95)},
		{"full for users", some(100), some(5), some(0), some(95), some(95)},
		{"root went on", some(100), some(1), some(0), some(99), some(99)},
		{"more free than there is", some(100), some(101), some(90), some(0), some(90)},
		{"does not answer", unknown, unknown, unknown, unknown, unknown},
		{"free is not known", some(100), unknown, some(90), unknown, unknown},
	} {
		f := Filesystem{TotalBytes: c.total, FreeBytes: c.free, AvailableBytes: c.available}
		if used, limit := f.Space(); used != c.used || limit != c.limit {
			t.Errorf("%s: %v used of %v, want %v of %v", c.why, used, limit, c.used, c.limit)
		}
	}
}
