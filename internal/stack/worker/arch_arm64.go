package worker

import (
	"golang.org/x/sys/unix"

	"rmagent/internal/stack/cfi"
)

const auditArch = unix.AUDIT_ARCH_AARCH64

var nativeArch = cfi.ARM64

var allowedHere []uint32
