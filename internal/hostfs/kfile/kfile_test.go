package kfile

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUint(t *testing.T) {
	for in, want := range map[string]uint64{"0": 0, "7": 7, "18446744073709551615": math.MaxUint64, "0042": 42} {
		if got, ok := Uint([]byte(in)); got != want || !ok {
			t.Errorf("%q: %d %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "-1", "+1", " 1", "1 ", "1x", "18446744073709551616", "99999999999999999999", "100000000000000000000", "0x1"} {
		if got, ok := Uint([]byte(in)); ok {
			t.Errorf("%q: %d", in, got)
		}
	}
}

func FuzzUint(f *testing.F) {
	f.Add([]byte("18446744073709551615"))
	f.Add([]byte("00000000000000000001"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := Uint(b)
		want, err := strconv.ParseUint(string(b), 10, 64)
		if ok && (err != nil || got != want) || !ok && err == nil && len(b) <= 20 {
			t.Errorf("%q: %d %v, strconv says %d %v", b, got, ok, want, err)
		}
	})
}

func TestPID(t *testing.T) {
	for in, want := range map[string]bool{"1": true, "4194304": true, "2147483647": true, "2147483648": false, "0": false, "self": false, "-1": false} {
		if _, ok := PID([]byte(in)); ok != want {
			t.Errorf("%q: %v", in, ok)
		}
	}
}

func TestDecimal(t *testing.T) {
	for in, want := range map[string]uint64{"0.00": 0, "12.34": 1234, "100.00": 10000} {
		if got, ok := Decimal([]byte(in)); got != want || !ok {
			t.Errorf("%q: %d %v", in, got, ok)
		}
	}
	for _, in := range []string{"", ".", "1", "1.", "1.2", "1.234", "-1.00", "1.-1", "x.00", "99999999999999999999.00"} {
		if got, ok := Decimal([]byte(in)); ok {
			t.Errorf("%q: %d", in, got)
		}
	}
}

func TestWordsAndLines(t *testing.T) {
	line, rest := Line([]byte("a  b\t c\n\nlast"))
	var words []string
	for {
		var w []byte
		if w, line = Word(line); len(w) == 0 {
			break
		}
		words = append(words, string(w))
	}
	if !slices.Equal(words, []string{"a", "b", "c"}) || string(rest) != "\nlast" {
		t.Errorf("%q, then %q", words, rest)
	}
	if line, rest = Line([]byte("last")); string(line) != "last" || len(rest) != 0 {
		t.Errorf("%q %q", line, rest)
	}
}

func TestAppendPID(t *testing.T) {
	for _, pid := range []int32{1, 9, 10, 4194304, math.MaxInt32} {
		if got := AppendPID(nil, pid).String(); got != strconv.Itoa(int(pid)) {
			t.Errorf("%d: %q", pid, got)
		}
	}
}

// TestRead reads files of all lengths around the buffer's, of both kinds.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	name := MakeName(filepath.Join(dir, "x"))
	for _, size := range []int{0, 1, 15, 16, 17, 4095, 4096, 4097, 100000} {
		want := bytes.Repeat([]byte{'a'}, size)
		if err := os.WriteFile(name.String(), want, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, e := range []Extent{Whole, Records, ShortRecords} {
			buf := make([]byte, 16)
			got, errno := Read(unix.AT_FDCWD, name, e, &buf)
			if errno != 0 || !bytes.Equal(got, want) {
				t.Errorf("%d bytes: %d, %v", size, len(got), errno)
			}
		}
	}
	var buf []byte
	if _, errno := Read(unix.AT_FDCWD, MakeName(dir+"/none"), Whole, &buf); errno != unix.ENOENT {
		t.Error(errno)
	}
	if _, errno := Read(unix.AT_FDCWD, MakeName(dir), Whole, &buf); errno != unix.EISDIR {
		t.Error(errno)
	}
	if _, errno := Read(unix.AT_FDCWD, MakeName("/dev/zero"), Records, &buf); errno != unix.EFBIG {
		t.Errorf("a file without end: %v", errno)
	}
}

// TestReadProc reads files that the kernel makes up, in pieces and whole.
func TestReadProc(t *testing.T) {
	for name, e := range map[string]Extent{
		"/proc/cpuinfo": Records, "/proc/self/maps": Records, "/proc/filesystems": Whole, "/proc/self/limits": Whole, "/proc/self/mountinfo": Records,
		"/proc/diskstats": ShortRecords, "/proc/net/dev": ShortRecords, "/proc/self/smaps": ShortRecords,
	} {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		got, errno := Read(unix.AT_FDCWD, MakeName(name), e, &buf)
		if errno != 0 || bytes.Count(got, []byte{'\n'}) < bytes.Count(want, []byte{'\n'})-5 || !bytes.HasPrefix(got, want[:20]) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), errno)
		}
	}
}

func TestDir(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 500 { // more than one buffer holds
		name := "a name " + strconv.Itoa(i)
		want = append(want, name)
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(want)
	fd, errno := OpenDir(unix.AT_FDCWD, MakeName(dir))
	if errno != 0 {
		t.Fatal(errno)
	}
	defer Close(fd)
	d := Dir{Buf: make([]byte, 4096)}
	for range 2 {
		if errno := d.Start(fd); errno != 0 {
			t.Fatal(errno)
		}
		var got []string
		for {
			name, typ, errno := d.Next()
			if errno != 0 {
				t.Fatal(errno)
			}
			if name == nil {
				break
			}
			if typ != unix.DT_DIR {
				t.Errorf("%s is of type %d", name, typ)
			}
			got = append(got, string(name))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("listed %d of %d", len(got), len(want))
		}
	}
}

func FuzzDirent(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x18\x00\x04name\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			name, _, rest := cutDirent(b)
			if name == nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			b = rest
		}
	})
}
