package worker

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	nobody      = 65534     // the user and group without files, on all distributions
	memoryLimit = 256 << 20 // bytes, beyond which the garbage collector works harder
	dataLimit   = 1 << 30   // bytes of private memory, beyond which the process ends
	mapLimit    = 64 << 30  // bytes of address space: files are mapped whole
	filesLimit  = 256       // it has ten; with few more it would be the one that is nearest to its limit
)

// Confine takes from the calling process what it does not need for walking stacks:
// the user, where that is root and may become another, all capabilities, the means to get
// any back, most system calls, files, and memory beyond a limit. There is no way back.
func Confine() error {
	debug.SetMemoryLimit(memoryLimit)
	if err := limit(); err != nil {
		return err
	}
	// Root with few capabilities, as in a container, may not become another; without any, and
	// without a system call to open, run or signal anything, it may no more than nobody.
	var stays error
	if os.Geteuid() == 0 {
		if err := becomeNobody(); errors.Is(err, unix.EPERM) {
			stays = err
		} else if err != nil {
			return err
		}
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	// Others of the same user shall not read its memory (ptrace(2)).
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_DUMPABLE: %w", err)
	}
	if filtered, err := filterSystemCalls(); err != nil || filtered {
		return err
	}
	return stays
}

func limit() error {
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"RLIMIT_AS", unix.RLIMIT_AS, mapLimit},
		{"RLIMIT_DATA", unix.RLIMIT_DATA, dataLimit},
		{"RLIMIT_FSIZE", unix.RLIMIT_FSIZE, 0},
		{"RLIMIT_CORE", unix.RLIMIT_CORE, 0},
		{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, filesLimit},
	} {
		var now unix.Rlimit
		if err := unix.Getrlimit(l.resource, &now); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		value := min(l.value, now.Max)
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return nil
}

func becomeNobody() error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setresgid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("setresgid: %w", err)
	}
	if err := syscall.Setresuid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	return nil
}

// dropCapabilities empties all sets of all threads; the bounding set does not matter
// once nothing can be gained by execve.
func dropCapabilities() error {
	onAllThreads := func(what string, call, a1, a2, a3 uintptr) error {
		if _, _, errno := syscall.AllThreadsSyscall6(call, a1, a2, a3, 0, 0, 0); errno != 0 {
			return fmt.Errorf("%s: %w", what, errno)
		}
		return nil
	}
	if err := onAllThreads("PR_SET_NO_NEW_PRIVS", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return err
	}
	if err := onAllThreads("PR_CAP_AMBIENT", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil {
		return err
	}
	return setNoCapabilities(onAllThreads)
}
