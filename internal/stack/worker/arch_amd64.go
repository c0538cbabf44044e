package worker

import (
	"golang.org/x/sys/unix"

	"rmagent/internal/stack/cfi"
)

const auditArch = unix.AUDIT_ARCH_X86_64

var nativeArch = cfi.AMD64

var allowedHere = []uint32{unix.SYS_EPOLL_WAIT, unix.SYS_ARCH_PRCTL}
