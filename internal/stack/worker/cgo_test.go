//go:build cgo

package worker

// Go has no system call on all threads where C may have threads too
// (syscall.AllThreadsSyscall), so Confine fails in programs with cgo, such as those
// that the race detector watches. rmagent has none.
const canConfine = false
