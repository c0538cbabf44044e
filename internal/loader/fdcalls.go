package loader

import "golang.org/x/sys/unix"

// What a system call does to its caller's descriptors: enum fd_call of
// bpf/fdtrace.h.
const (
	callNone = iota
	callOne
	callPipe
	callSocketpair
	callDup2
	callFcntl
	callSignalFD
	callClone
	callClone3
	callMessage
	callMessages
	callBPF
	callSeccomp
	callLandlock
	callRing
	callSocketcall
	callClose
	callCloseRange
)

// Numbers that golang.org/x/sys has no names for on every architecture.
const (
	sysOpenTreeAttr = 467 // since 6.15
)

// tracedCalls is what each system call does, by its native number. Each makes
// descriptors by its own manual page (section 2), which is open(2) for openat,
// openat2 and creat, and so on. Not among them, because what they return or write
// does not tell: ioctl (KVM, DRM, namespaces, TIOCGPTPEER), getsockopt
// (SO_PEERPIDFD), read of fanotify and userfaultfd events, and what a seccomp
// supervisor adds by SECCOMP_IOCTL_NOTIF_ADDFD.
func tracedCalls() (c [fdCalls]uint8) {
	for class, calls := range map[uint8][]int{
		callOne: {
			unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_SOCKET, unix.SYS_ACCEPT,
			unix.SYS_ACCEPT4, unix.SYS_DUP, unix.SYS_EVENTFD2, unix.SYS_EPOLL_CREATE1, unix.SYS_TIMERFD_CREATE,
			unix.SYS_MEMFD_CREATE, unix.SYS_MEMFD_SECRET, unix.SYS_INOTIFY_INIT1, unix.SYS_FANOTIFY_INIT,
			unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
			unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_OPEN_TREE, unix.SYS_MQ_OPEN,
			sysOpenTreeAttr,
		},
		callPipe:       {unix.SYS_PIPE2},
		callSocketpair: {unix.SYS_SOCKETPAIR},
		callDup2:       {unix.SYS_DUP3},
		callFcntl:      {unix.SYS_FCNTL},
		callSignalFD:   {unix.SYS_SIGNALFD4},
		callClone:      {unix.SYS_CLONE},
		callClone3:     {unix.SYS_CLONE3},
		callMessage:    {unix.SYS_RECVMSG},
		callMessages:   {unix.SYS_RECVMMSG},
		callBPF:        {unix.SYS_BPF},
		callSeccomp:    {unix.SYS_SECCOMP},
		callLandlock:   {unix.SYS_LANDLOCK_CREATE_RULESET},
		callRing:       {unix.SYS_IO_URING_SETUP},
		callClose:      {unix.SYS_CLOSE},
		callCloseRange: {unix.SYS_CLOSE_RANGE},
	} {
		for _, nr := range calls {
			c[nr] = class
		}
	}
	for nr, class := range oldTracedCalls {
		c[nr] = class
	}
	return c
}

// concernedCalls has a bit for each number that either means something to descriptors.
func concernedCalls() (bits [fdCalls / 64]uint64) {
	native, compat := tracedCalls(), compatCalls()
	for nr := range fdCalls {
		if native[nr] != callNone || compat[nr] != callNone {
			bits[nr/64] |= 1 << (nr % 64)
		}
	}
	return bits
}
