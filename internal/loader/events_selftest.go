package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// testDescriptors opens and closes descriptors in the ways that go by different
// functions of the kernel, and looks whether each was counted: where the compiler
// inlined one of them, its hook does not see all.
func (e *Events) testDescriptors() (err error) {
	// Other threads of this process may open and close meanwhile.
	const tries = 5
	for range tries {
		if err = e.tryDescriptors(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("test the hook fds: %w", err)
}

// errUncounted is wrapped by what a self-test found.
var errUncounted = errors.New("not seen by the hook")

func (e *Events) tryDescriptors() (err error) {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("open the own process: %w", err)
	}
	defer unix.Close(pidfd)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	// No other thread is given this number: the lowest that is free is.
	high := fd + 100
	drop := func() error { return unix.CloseRange(uint(high), uint(high), 0) }
	defer drop()
	for _, step := range []struct {
		name           string
		opened, closed uint64
		do             func() error
	}{
		{"open and close", 1, 1, func() error {
			fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
			return errors.Join(err, unix.Close(fd))
		}},
		{"dup3", 1, 0, func() error { return unix.Dup3(fd, high, unix.O_CLOEXEC) }},
		{"dup3 onto another", 1, 1, func() error { return unix.Dup3(fd, high, unix.O_CLOEXEC) }},
		{"close_range", 0, 1, drop},
		{"F_DUPFD", 1, 0, func() error { _, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, high); return err }},
		{"close", 0, 1, func() error { return unix.Close(high) }},
		{"SCM_RIGHTS", 1, 1, func() error {
			came, err := pass(pair, fd)
			return errors.Join(err, unix.Close(came))
		}},
	} {
		before, err := e.countersOf(pidfd)
		if err != nil {
			return err
		}
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		after, err := e.countersOf(pidfd)
		if err != nil {
			return err
		}
		if after.FdOpened-before.FdOpened != step.opened || after.FdClosed-before.FdClosed != step.closed {
			return fmt.Errorf("%s: %w: %d opened and %d closed of %d and %d", step.name, errUncounted,
				after.FdOpened-before.FdOpened, after.FdClosed-before.FdClosed, step.opened, step.closed)
		}
	}
	return nil
}

// countersOf reads what a living process has counted; zero where nothing was.
func (e *Events) countersOf(pidfd int) (n eventsTaskCounters, err error) {
	var st eventsTaskState
	err = e.base.Maps[eventsMapTaskStates].Lookup(uint32(pidfd), &st)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return n, fmt.Errorf("read %s: %w", eventsMapTaskStates, err)
	}
	return st.N, nil
}
