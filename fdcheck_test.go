package rmagent

import (
	"context"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"rmagent/record"
)

// TestCheckFDs holds the answer against the kernel's: as many as it calls the batch
// are opened under the limit.
func TestCheckFDs(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 300, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	c, err := CheckFDs(1000)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	// The library has the process's directory open while it looks, ReadDir has its own.
	if open := c.Open.Or(0); c.Safe.Or(true) || c.Limit.Or(0) != 300 || int(open) < len(entries)-2 || int(open) > len(entries)+8 {
		t.Errorf("%d are open: %+v", len(entries), c)
	}
	batch, ok := c.Batch.Get()
	if !ok || batch == 0 {
		t.Fatalf("%+v", c)
	}
	var held []*os.File
	for range batch {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatalf("of a batch of %d: %v", batch, err)
		}
		held = append(held, f)
	}
	for _, f := range held {
		f.Close()
	}
}

// TestCheckFDsBelowALoweredLimit: descriptors above a limit that was lowered take no
// place below it, and where no place is left, that is known too.
func TestCheckFDsBelowALoweredLimit(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	for range 150 {
		high, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 150)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(high)
	}
	check := func(limit uint64) record.FDCheck {
		t.Helper()
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		c, err := CheckFDs(1)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := check(1000); c.Open.Or(0) <= 150 || !c.Safe.Or(false) {
		t.Errorf("before: %+v", c)
	}
	if c := check(100); c.Open.Or(100) >= 50 || !c.Safe.Or(false) {
		t.Errorf("with a limit of 100: %+v", c)
	}
	if c := check(0); c.Safe.Or(true) || c.Batch.Or(1) != 0 {
		t.Errorf("with no place at all: %+v", c)
	}
}

func TestCheckFDsOfNobody(t *testing.T) {
	if _, err := (FDRequest{PID: 1<<22 - 1, Files: 1}).Check(context.Background()); !errors.Is(err, ErrNoProcess) {
		t.Error(err)
	}
	for _, q := range []FDRequest{{Files: -1}, {Sockets: -1}, {Margin: 1.5}, {Margin: -1}, {Files: 1 << 50}, {PID: -1}} {
		if _, err := q.Check(context.Background()); err == nil {
			t.Errorf("%+v is accepted", q)
		}
	}
}
