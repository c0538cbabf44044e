package loader

import "golang.org/x/sys/unix"

// oldTracedCalls are those that newer architectures do without.
var oldTracedCalls = map[int]uint8{
	unix.SYS_OPEN:         callOne,
	unix.SYS_CREAT:        callOne,
	unix.SYS_EVENTFD:      callOne,
	unix.SYS_EPOLL_CREATE: callOne,
	unix.SYS_INOTIFY_INIT: callOne,
	unix.SYS_SIGNALFD:     callSignalFD,
	unix.SYS_PIPE:         callPipe,
	unix.SYS_DUP2:         callDup2,
}

// compatCalls is what the calls of i386 do, by their numbers
// (arch/x86/entry/syscalls/syscall_32.tbl). Those from 403 on are numbered as the
// native ones are.
func compatCalls() (c [fdCalls]uint8) {
	for class, calls := range map[uint8][]int{
		callOne: {
			5,   // open
			8,   // creat
			41,  // dup
			254, // epoll_create
			277, // mq_open
			291, // inotify_init
			295, // openat
			322, // timerfd_create
			323, // eventfd
			328, // eventfd2
			329, // epoll_create1
			332, // inotify_init1
			336, // perf_event_open
			338, // fanotify_init
			342, // open_by_handle_at
			356, // memfd_create
			359, // socket
			364, // accept4
			374, // userfaultfd
			434, // pidfd_open
			437, // openat2
			438, // pidfd_getfd
		},
		callPipe:       {42, 331}, // pipe, pipe2
		callSocketpair: {360},
		callDup2:       {63, 330}, // dup2, dup3
		callFcntl:      {55, 221}, // fcntl, fcntl64
		callSignalFD:   {321, 327},
		callSocketcall: {102},
		callClose:      {6},
	} {
		for _, nr := range calls {
			c[nr] = class
		}
	}
	return c
}
