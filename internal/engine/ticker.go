package engine

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ticker is a time.Ticker whose ticks are the kernel's (timerfd_create(2)): the
// runtime's poller waits for them, so that the runtime's monitor, which would wake at
// each of its own timers, sleeps on (docs/decisions/monitor-thread.md).
type ticker struct {
	C    chan struct{} // a tick that nobody waits for is dropped, but for one
	file *os.File
	raw  syscall.RawConn
	done sync.WaitGroup
}

// newTicker returns a ticker that ticks every interval from now on; 0: never, until
// it is reset.
func newTicker(interval time.Duration) (*ticker, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	t := &ticker{C: make(chan struct{}, 1), file: os.NewFile(uintptr(fd), "timer")}
	if t.raw, err = t.file.SyscallConn(); err == nil {
		err = t.reset(interval)
	}
	if err != nil {
		t.file.Close()
		return nil, fmt.Errorf("set a timer: %w", err)
	}
	t.done.Go(func() {
		// Never done, so that the poller's next word is waited for: who asks again first
		// reads twice for each tick.
		_ = t.raw.Read(func(fd uintptr) (done bool) {
			if expired(fd) {
				select {
				case t.C <- struct{}{}:
				default:
				}
			}
			return false
		})
	})
	return t, nil
}

// expired takes the count of expirations; false: there was none yet.
func expired(fd uintptr) bool {
	var count uint64
	n, _, _ := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&count)), unsafe.Sizeof(count))
	return n == unsafe.Sizeof(count)
}

// reset makes it tick every interval from now on; 0: never.
func (t *ticker) reset(interval time.Duration) error {
	every := unix.NsecToTimespec(int64(interval))
	spec := unix.ItimerSpec{Interval: every, Value: every}
	var err error
	errControl := t.raw.Control(func(fd uintptr) { err = unix.TimerfdSettime(int(fd), 0, &spec, nil) })
	t.drop()
	return errors.Join(err, errControl)
}

// drop drops the tick that nobody has waited for yet.
func (t *ticker) drop() {
	select {
	case <-t.C:
	default:
	}
}

// stop ends it. No tick comes any more.
func (t *ticker) stop() {
	t.file.Close()
	t.done.Wait()
}
