package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const sample64 = `55a2be5b0000-55a2be5b4000 r--p 00000000 fe:00 131                         /bin/with space
55a2be5b4000-55a2be5ca000 r-xp 00004000 fe:00 131                         /bin/with space
7fc9f7ea0000-7fc9f7eb0000 rwxp 00000000 00:00 0 
7fc9f7ec1000-7fc9f7ec3000 r-xs 00033000 103:02 325835                     /a\012b (deleted)
7fff87733000-7fff87754000 rw-p 00000000 00:00 0                          [stack]
7fff877e8000-7fff877ea000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
`

func TestParseMaps(t *testing.T) {
	got, err := ParseMaps(strings.NewReader(sample64))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mapping{
		{Start: 0x55a2be5b4000, End: 0x55a2be5ca000, Offset: 0x4000, Device: 0xfe << 32, Inode: 131, Path: "/bin/with space"},
		{Start: 0x7fc9f7ea0000, End: 0x7fc9f7eb0000},
		{Start: 0x7fc9f7ec1000, End: 0x7fc9f7ec3000, Offset: 0x33000, Device: 0x103<<32 | 2, Inode: 325835, Path: "/a\nb (deleted)"},
		{Start: 0x7fff877e8000, End: 0x7fff877ea000, Path: "[vdso]"},
		{Start: 0xffffffffff600000, End: 0xffffffffff601000, Path: "[vsyscall]"},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("mappings:\n%v\nwant:\n%v", got, want)
	}
}

// The kernel's own word of this process, with a mapped file of a hostile name in it.
func TestParseMapsOfThisProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a\nb  r-xp [vdso]")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	list, err := ParseMaps(maps)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if m.Inode == st.Ino && m.Path == path && m.Device == uint64(unix.Major(st.Dev))<<32|uint64(unix.Minor(st.Dev)) {
			return
		}
	}
	t.Errorf("no mapping of %q in %v", path, list)
}

func TestParseMapsRefuses(t *testing.T) {
	for _, text := range []string{
		"nonsense\n", "5-4 r-xp 0 0:0 0\n", "z-4 r-xp 0 0:0 0\n", "1-4 rx 0 0:0 0\n",
		"1-4 r-xp 0 0:0 0\n2-5 r-xp 0 0:0 0\n", "1-4 r-xp 0 0:0 0 " + strings.Repeat("a", maxLine) + "\n",
	} {
		if list, err := ParseMaps(strings.NewReader(text)); err == nil {
			t.Errorf("%.40q is read as %v", text, list)
		}
	}
	var many strings.Builder
	for i := range maxMappings + 1 {
		fmt.Fprintf(&many, "%x000-%x000 r-xp 0 0:0 0\n", 2*i+1, 2*i+2)
	}
	if _, err := ParseMaps(strings.NewReader(many.String())); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("error = %v", err)
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add([]byte(sample64))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParseMaps(strings.NewReader(string(b)))
		if err != nil {
			return
		}
		for i, m := range list {
			if m.End <= m.Start || i > 0 && m.Start < list[i-1].End {
				t.Errorf("mappings %v", list)
			}
		}
	})
}
