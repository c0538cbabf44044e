package loader

import (
	"testing"

	"rmagent/internal/sample"
	"rmagent/internal/sampletest"
)

func TestMain(m *testing.M) { sampletest.Main(m) }

// openScan opens a reader that the suite closes.
func openScan(t testing.TB, opts Options) *Reader {
	t.Helper()
	r, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Every scan passes the suite; the syscall scan also in chunks so small that it has
// to find its place again all the time.
func TestScans(t *testing.T) {
	for name, opts := range map[string]Options{
		"Syscall": {Scan: ScanSyscall},
		"Chunks":  {Scan: ScanSyscall, ChunkProcesses: 3},
		"Iter":    {Scan: ScanIter},
	} {
		t.Run(name, func(t *testing.T) {
			open := func(t testing.TB) sample.Reader { return openScan(t, opts) }
			sampletest.TestReader(t, open, hiddenFrom(t, opts.Scan)...)
		})
	}
}

// hiddenFrom returns PID 1 where the kernel was built to hide it from BPF's look-ups
// (the walk of the syscall scan meets it all the same).
func hiddenFrom(t *testing.T, scan Scan) []int32 {
	if scan != ScanIter {
		return nil
	}
	r, err := Open(Options{Scan: ScanSyscall})
	if err != nil {
		return nil // older kernels hide nobody
	}
	defer r.Close()
	found := false
	if err := r.scanner.one(1, func(*scanProcessRecord) { found = true }); err != nil {
		t.Fatal(err)
	}
	if found {
		return nil
	}
	return []int32{1}
}
