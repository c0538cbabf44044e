package symbol

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"rmagent/internal/elffile"
)

// FuzzFrames changes bytes of real programs anywhere: headers, symbols, debug
// information, compressed or not.
func FuzzFrames(f *testing.F) {
	var programs [][]byte
	var pcs [][]uint64
	add := func(path string) {
		programs = append(programs, mustRead(f, path))
		pcs = append(pcs, textOf(f, open(f, path), 40))
	}
	add(compile(f, "gcc", "-O2", "-g", sources+"program.c"))
	add(compile(f, "gcc", "-O2", "-g", "-gz", sources+"program.c"))
	plain := compile(f, "gcc", "-O2", sources+"program.c")
	add(plain)
	mini, stripped := filepath.Join(f.TempDir(), "mini"), filepath.Join(f.TempDir(), "stripped")
	run(f, "objcopy", "--only-keep-debug", plain, mini)
	run(f, "strip", "-o", stripped, plain)
	run(f, "xz", mini)
	run(f, "objcopy", "--add-section", ".gnu_debugdata="+mini+".xz", stripped)
	add(stripped)
	f.Add(uint8(0), uint32(0), uint32(1), byte(0))
	f.Add(uint8(1), uint32(64), uint32(4099), byte(0x40))
	f.Add(uint8(2), uint32(9000), uint32(64), byte(0xff))
	f.Add(uint8(3), uint32(12300), uint32(1), byte(1))
	f.Fuzz(func(t *testing.T, which uint8, at, stride uint32, change byte) {
		i := int(which) % len(programs)
		data := append([]byte(nil), programs[i]...)
		for k := range uint32(16) {
			data[(at+k*stride)%uint32(len(data))] ^= change
		}
		file, err := elffile.New(data)
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s := Open(file, file, file)
		s.Frames(ctx, pcs[i])
		DebugPaths(file, "/usr/bin/program")
		AltPath(file, "/usr/lib/debug/x")
		if s.Memory() > 3*maxUncompressed {
			t.Errorf("%d bytes held", s.Memory())
		}
	})
}

// benchmark asks for 20 addresses at once, as a stack has them, of what is large on
// this machine, each time others.
func BenchmarkFrames(b *testing.B) {
	node, err := os.Readlink("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	files := map[string]string{"go": node, "c++": compile(b, "g++", "-O2", "-g", sources+"program.cc")}
	for name, path := range map[string]string{"node": "/usr/bin/node", "cc1plus": "/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus", "chromium": "/usr/lib/chromium/chromium"} {
		if _, err := os.Stat(path); err == nil {
			files[name] = path
		}
	}
	for name, path := range files {
		b.Run(name, func(b *testing.B) {
			f := open(b, path)
			pcs := textOf(b, f, 20000)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			s := Open(f, nil, nil)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				clear(s.cache)
				ask := make([]uint64, 20)
				for k := range ask {
					ask[k] = pcs[(i*37+k*977)%len(pcs)]
				}
				s.Frames(context.Background(), ask)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(f.Size())/(1<<20), "file-MiB")
			b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/1024, "kept-KiB")
			runtime.KeepAlive(s)
		})
	}
}
