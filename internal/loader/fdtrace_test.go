package loader

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/internal/sample"
)

func openTracer(t testing.TB, o FDTraceOptions) *FDTracer {
	t.Helper()
	tr, err := OpenFDTracer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// selfID is who the test is.
func idOf(t testing.TB, tr *FDTracer, pid int) sample.ID {
	t.Helper()
	if err := tr.listing.run(int32(pid), 0, 0); err != nil {
		t.Fatal(err)
	}
	var args fdtraceFdListArgs
	if err := tr.listing.args.Get(&args); err != nil {
		t.Fatal(err)
	}
	if args.Found == 0 {
		t.Fatalf("process %d is not there", pid)
	}
	return sample.ID{PID: int32(pid), StartTicks: startTicks(args.Start, tr.env.bootOffset)}
}

func TestFDTracerSmoke(t *testing.T) {
	tr := openTracer(t, FDTraceOptions{})
	id := idOf(t, tr, os.Getpid())
	defer func() { p, err := tr.Path(); t.Log(p, err) }()
	if err := tr.Start([]sample.ID{id}); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var list sample.FDList
	if err := tr.List(id, &list); err != nil {
		t.Fatal(err)
	}
	var births sample.FDBirths
	if err := tr.Drain(&births); err != nil {
		t.Fatal(err)
	}
	for _, f := range list.FDs {
		t.Logf("%+v", f)
	}
	for _, b := range births.Births {
		t.Logf("%d fd %d call %d ip %x window %d chain %d", b.Seq, b.FD, b.Syscall, b.Stack.IP, len(b.Stack.Window), len(b.Stack.Chain))
	}
	b, _ := tr.Balance()
	t.Logf("%+v %v", b, tr.Cost())
	n, _ := tr.MapBytes()
	t.Log(n)
}
