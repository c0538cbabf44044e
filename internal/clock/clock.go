// Package clock reads those clocks of the kernel that package time keeps to itself: what
// BPF programs and /proc stamp with. The calls never wait, so the runtime is not told of
// them (see docs/decisions/monitor-thread.md).
package clock

import (
	"fmt"
	"math"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// begun is one instant as package time and as the kernel tell it.
var begun = begin()

type instant struct {
	time      time.Time
	monotonic time.Duration
}

// begin reads both a few times, and takes the pair between which least time went by.
func begin() (best instant) {
	least := time.Duration(math.MaxInt64)
	for range 8 {
		pair := instant{time.Now(), read(unix.CLOCK_MONOTONIC)}
		if took := time.Since(pair.time); took < least {
			best, least = pair, took
		}
	}
	return best
}

// Monotonic is CLOCK_MONOTONIC: it stands still in suspend. Package time's monotonic
// clock is the same, read without a system call; it is only counted from elsewhere. The
// difference was found out once, to some hundred nanoseconds.
func Monotonic() time.Duration { return begun.monotonic + time.Since(begun.time) }

// Boottime is CLOCK_BOOTTIME: what start ticks count on.
func Boottime() time.Duration { return read(unix.CLOCK_BOOTTIME) }

// ProcessCPU is CLOCK_PROCESS_CPUTIME_ID: the CPU time of the calling process.
func ProcessCPU() time.Duration { return read(unix.CLOCK_PROCESS_CPUTIME_ID) }

// CPUOf is the CPU time of a process, until it is reaped; false where there is none with
// that PID.
func CPUOf(pid int) (time.Duration, bool) {
	const whole = 2 // CPUCLOCK_SCHED of all threads (clock_getcpuclockid(3))
	var ts unix.Timespec
	_, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, uintptr(int32(^pid<<3|whole)), uintptr(unsafe.Pointer(&ts)), 0)
	return time.Duration(ts.Nano()), errno == 0
}

func read(id uintptr) time.Duration {
	var ts unix.Timespec
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, id, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic(fmt.Sprintf("clock_gettime(%d): %v", id, errno)) // all three exist since 2.6.39
	}
	return time.Duration(ts.Nano())
}
