package symbol

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPerfMapNames(t *testing.T) {
	long := strings.Repeat("x", maxPerfMapLine)
	text := "1000 20 first\n" +
		"1020 20 LazyCompile:*with spaces /a/b.js:12:3\n" +
		"0x2000 0x10 prefixed\n" +
		"1008 8 inside, later\n" +
		"3000 10 " + long + "\n" +
		"4000 10 moved away\n4000 10 moved here\n" +
		"garbage\n\n 10 x\n5000 zz bad size\n5000 10 \n-1 10 negative\n" +
		"fffffffffffffff0 ffff wraps\n" +
		"6000 0 empty\n7000 10 not whole yet"
	for addr, want := range map[uint64]string{
		0xfff: "", 0x1000: "first", 0x1007: "first", 0x1008: "inside, later", 0x100f: "inside, later", 0x1010: "first",
		0x101f: "first", 0x1020: "LazyCompile:*with spaces /a/b.js:12:3", 0x1040: "", 0x2000: "prefixed", 0x200f: "prefixed", 0x2010: "",
		0x3000: "", 0x4000: "moved here", 0x5000: "", 0x6000: "", 0x7000: "", ^uint64(0): "wraps", 0: "",
	} {
		got, err := perfMapNames(context.Background(), strings.NewReader(text), false, []uint64{addr})
		if err != nil || got[0] != want {
			t.Errorf("%#x = %q, %v; want %q", addr, got[0], err, want)
		}
	}
	got, err := perfMapNames(context.Background(), strings.NewReader(text), true, []uint64{0x2008, 0x1000, 0x1030, 0x2008})
	if want := []string{"prefixed", "", "LazyCompile:*with spaces /a/b.js:12:3", "prefixed"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestClean(t *testing.T) {
	for name, want := range map[string]string{
		"main": "main", "größe": "größe", "a\x1b[31mb": `a\u001b[31mb`, "a\xffb": `a\xffb`, "a\nb": `a\u000ab`, "\u202e": `\u202e`, "\ufffd": "\ufffd",
	} {
		if got := clean(name); got != want {
			t.Errorf("%q = %q, want %q", name, got, want)
		}
	}
}

func TestPerfMapFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "perf.map")
	if err := os.WriteFile(path, []byte("10 10 f\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := PerfMapNames(context.Background(), f, []uint64{0x18}); err != nil || got[0] != "f" {
		t.Errorf("got %q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := PerfMapNames(ctx, f, []uint64{0x18}); err == nil {
		t.Error("no error from an ended context")
	}
	fifo := path + ".fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if _, err := PerfMapNames(context.Background(), pipe, []uint64{1}); err == nil {
		t.Error("a FIFO is read")
	}
}

func FuzzPerfMapNames(f *testing.F) {
	f.Add("1000 20 a b\n0x10 0x8 c\nffffffffffffffff 1 d\n", uint64(0x1010))
	f.Fuzz(func(t *testing.T, text string, addr uint64) {
		got, err := perfMapNames(context.Background(), strings.NewReader(text), false, []uint64{addr, 0x1000, addr + 1})
		if err != nil {
			t.Fatal(err)
		}
		if got[0] != "" && !strings.Contains(text, got[0]) && !strings.Contains(got[0], `\`) {
			t.Errorf("%q is not in the map", got[0])
		}
	})
}

func BenchmarkPerfMap(b *testing.B) {
	var text strings.Builder
	for i := range 100000 {
		fmt.Fprintf(&text, "%x 40 LazyCompile:~function%d /srv/app/file%d.js:%d:3\n", 0x7f0000000000+i*64, i, i%100, i%1000)
	}
	addrs := []uint64{0x7f0000000100, 0x7f0000010000, 0x7f0000100000, 0x7f0000200000}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := perfMapNames(context.Background(), strings.NewReader(text.String()), false, addrs); err != nil {
			b.Fatal(err)
		}
	}
}
