package loader

import "golang.org/x/sys/unix"

// oldFDCalls are those that newer architectures do without.
var oldFDCalls = map[int]uint8{
	unix.SYS_OPEN:         fdOne,
	unix.SYS_CREAT:        fdOne,
	unix.SYS_EVENTFD:      fdOne,
	unix.SYS_EPOLL_CREATE: fdOne,
	unix.SYS_INOTIFY_INIT: fdOne,
	unix.SYS_SIGNALFD:     fdSignalFD,
	unix.SYS_PIPE:         fdPair,
	unix.SYS_DUP2:         fdUnsure,
}
