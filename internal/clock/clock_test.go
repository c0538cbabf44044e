package clock

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is counted on from the start is what the kernel says now.
func TestMonotonicIsTheKernels(t *testing.T) {
	const apart = 100 * time.Microsecond // for what came between the two readings at the start
	for range 1000 {
		before, now, after := read(unix.CLOCK_MONOTONIC), Monotonic(), read(unix.CLOCK_MONOTONIC)
		if now < before-apart || now > after+apart {
			t.Fatalf("%v, the kernel's %v to %v", now, before, after)
		}
	}
}
