package kerneltypes

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Path is where the kernel tells its types.
const Path = "/sys/kernel/btf/vmlinux"

// Kernel calls f with the running kernel's BTF, which is gone when f has returned.
func Kernel(f func(b []byte) error) (err error) {
	file, err := os.Open(Path)
	if err != nil {
		return fmt.Errorf("the kernel's types: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("the kernel's types: %w", err)
	}
	b, err := mapped(file, int(info.Size()))
	if err != nil {
		return fmt.Errorf("the kernel's types: %w", err)
	}
	defer unix.Munmap(b)
	return f(b)
}

// mapped maps a file of /sys, which never changes. Older kernels can't map this one
// (a539e2a6d51d, btf: allow mmap of vmlinux btf): it is read, then, into pages that are
// all made at once, which is faster than a fault for each.
func mapped(file *os.File, size int) ([]byte, error) {
	b, err := unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ, unix.MAP_PRIVATE)
	if err == nil {
		return b, nil
	}
	b, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(file, b); err != nil {
		unix.Munmap(b)
		return nil, err
	}
	return b, nil
}
