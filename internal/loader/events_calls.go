package loader

import "golang.org/x/sys/unix"

// What a system call does to its caller's descriptors: enum fd_class of
// bpf/events.h.
const (
	fdNone = iota
	fdOne
	fdPair
	fdFcntl
	fdClose
	fdSignalFD
	fdClone
	fdClone3
	fdMessage
	fdMessages
	fdMaybe
	fdUnsure

	fdCalls = 512
)

// fdClasses is the class of every system call, by its number here. Descriptors
// that ioctl(2) makes are not counted.
func fdClasses() (c [fdCalls]uint8) {
	for class, calls := range map[uint8][]int{
		fdOne: {
			unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_SOCKET, unix.SYS_ACCEPT,
			unix.SYS_ACCEPT4, unix.SYS_DUP, unix.SYS_EVENTFD2, unix.SYS_EPOLL_CREATE1, unix.SYS_TIMERFD_CREATE,
			unix.SYS_MEMFD_CREATE, unix.SYS_MEMFD_SECRET, unix.SYS_INOTIFY_INIT1, unix.SYS_FANOTIFY_INIT,
			unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_PERF_EVENT_OPEN, unix.SYS_IO_URING_SETUP,
			unix.SYS_USERFAULTFD, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_OPEN_TREE,
			unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_MQ_OPEN,
		},
		fdPair:     {unix.SYS_PIPE2, unix.SYS_SOCKETPAIR},
		fdFcntl:    {unix.SYS_FCNTL},
		fdClose:    {unix.SYS_CLOSE},
		fdSignalFD: {unix.SYS_SIGNALFD4},
		fdClone:    {unix.SYS_CLONE},
		fdClone3:   {unix.SYS_CLONE3},
		fdMessage:  {unix.SYS_RECVMSG},
		fdMessages: {unix.SYS_RECVMMSG},
		fdMaybe:    {unix.SYS_BPF, unix.SYS_SECCOMP},
		fdUnsure:   {unix.SYS_DUP3, unix.SYS_CLOSE_RANGE, unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_IO_URING_ENTER},
	} {
		for _, nr := range calls {
			c[nr] = class
		}
	}
	for nr, class := range oldFDCalls {
		c[nr] = class
	}
	return c
}
